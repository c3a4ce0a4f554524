"""Encodes prompts and draws with embeddings as diffusers does, for tests/embeddings_python_test.go: embeddings_reads.py JOBS.json

A job has a pipeline and a model, files with the word of each, a prompt, a negative prompt, one in segments with weights, and OUT: what
encode_prompt makes of them after load_textual_inversion goes to OUT.safetensors, the image to OUT.png. diffusers has no weights: those of the
segments multiply its hidden states, whose mean is brought back, as in A1111.
"""
import json
import os
import sys
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")
import diffusers  # noqa: E402
import torch  # noqa: E402
from diffusers.utils import logging  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

logging.set_verbosity_error()
torch.set_num_threads(1)


def load(pipe, file, word):
    if isinstance(pipe, diffusers.StableDiffusionPipeline):
        pipe.load_textual_inversion(file, token=word)
        return
    pair = load_file(file)
    pipe.load_textual_inversion(pair["clip_l"], token=word, text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer)
    pipe.load_textual_inversion(pair["clip_g"], token=word, text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2)


def encode(pipe, prompt, negative=None):
    """[1, 77, d] of both, and the pooled one of SDXL."""
    out = pipe.encode_prompt(prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=negative is not None, negative_prompt=negative)
    return out[0], out[1], out[2] if len(out) > 2 else None


def weigh(pipe, hidden, segments):
    tokens = [1.0]
    for text, weight in segments:
        ids = pipe.tokenizer(pipe.maybe_convert_prompt(text, pipe.tokenizer), add_special_tokens=False).input_ids
        tokens += [weight] * len(ids)
    tokens += [1.0] * (hidden.shape[1] - len(tokens))
    w = torch.tensor(tokens).view(1, -1, 1)
    parts = []
    widths = [pipe.text_encoder.config.hidden_size]
    if hidden.shape[2] > widths[0]:
        widths.append(pipe.text_encoder_2.config.hidden_size)
    for x in hidden.split(widths, 2):
        z = x * w
        parts.append(z * (x.mean() / z.mean()))
    return torch.cat(parts, 2)


for job in json.load(open(sys.argv[1])):
    pipe = getattr(diffusers, job["pipeline"]).from_pretrained(job["model"], torch_dtype=torch.float32)
    for file, word in job["files"].items():
        load(pipe, file, word)
    with torch.no_grad():
        text, negative, pooled = encode(pipe, job["prompt"], job["negative"])
        whole = "".join(text for text, _ in job["segments"])
        out = {"text": text, "negative": negative, "weighed": weigh(pipe, encode(pipe, whole)[0], job["segments"])}
        if pooled is not None:
            out["pooled"] = pooled
        save_file({k: v.contiguous() for k, v in out.items()}, job["out"] + ".safetensors")
        pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
        pipe.set_progress_bar_config(disable=True)
        pipe(job["prompt"], negative_prompt=job["negative"], num_inference_steps=3, guidance_scale=3.0, width=64, height=64,
             generator=torch.Generator().manual_seed(5)).images[0].save(job["out"] + ".png")
