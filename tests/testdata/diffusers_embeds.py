"""Encodes a prompt and generates from its embeddings and given latents with diffusers, for tests/embeds_python_test.go:
diffusers_embeds.py MODEL PIPELINE IN.safetensors OUT.safetensors, where IN has latents.
"""
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
import diffusers  # noqa: E402
import torch  # noqa: E402
from diffusers.utils import logging  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

logging.set_verbosity_error()
logging.disable_progress_bar()
torch.set_num_threads(1)
model, pipeline, given, out = sys.argv[1:]
xl = "XL" in pipeline
pipe = getattr(diffusers, pipeline).from_pretrained(model, torch_dtype=torch.float32, **({} if xl else {"safety_checker": None}))
pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
pipe.set_progress_bar_config(disable=True)
with torch.no_grad():
    if xl:
        names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
        embeds = pipe.encode_prompt("a red cat", device="cpu", do_classifier_free_guidance=True, negative_prompt="a dog")
    else:
        names = ("prompt_embeds", "negative_prompt_embeds")
        embeds = pipe.encode_prompt("a red cat", "cpu", 1, True, negative_prompt="a dog")
    embeds = {n: v.contiguous() for n, v in zip(names, embeds)}
    latents = pipe(**embeds, latents=load_file(given)["latents"], num_inference_steps=3, guidance_scale=5.0, width=64, height=64,
                   output_type="latent").images
save_file({**embeds, "latents": latents.contiguous()}, out)
