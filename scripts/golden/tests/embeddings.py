"""Prompts with textual inversion embeddings as diffusers encodes them, for tests/embeddings_test.go:

    python scripts/golden/tests/embeddings.py      writes tests/testdata/embeddings/

Embeddings in each layout, with random values, and golden.safetensors: what StableDiffusionPipeline.encode_prompt makes of PROMPT with
the models of tests/testdata/sd after load_textual_inversion; of SDXL with its pooled output.
"""
import json
import os
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")
import diffusers  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from diffusers.utils import logging  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

logging.set_verbosity_error()
transformers.logging.set_verbosity_error()
torch.set_num_threads(1)
SEED = 20261129
ROOT = os.path.join(os.path.abspath(__file__).partition("/scripts/golden/")[0], "tests", "testdata")
OUT = os.path.join(ROOT, "embeddings")
PROMPT = "a photo of {0}, in the style of {0} BY a {0}"


def main():
    os.makedirs(OUT, exist_ok=True)
    at = lambda name: os.path.join(OUT, name)  # noqa: E731
    g = torch.Generator().manual_seed(SEED)
    sd, xl = os.path.join(ROOT, "sd", "sd15"), os.path.join(ROOT, "sd", "sdxl")
    base = diffusers.StableDiffusionPipeline.from_pretrained(sd, safety_checker=None, torch_dtype=torch.float32)
    d = base.text_encoder.config.hidden_size
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(xl, torch_dtype=torch.float32)
    d1, d2 = pipe.text_encoder.config.hidden_size, pipe.text_encoder_2.config.hidden_size
    z = lambda *shape: torch.randn(shape, generator=g) * 0.5  # noqa: E731

    torch.save({"<cat-toy>": z(d)}, at("learned_embeds.bin"))
    save_file({"<dog-toy>": z(2, d).half()}, at("diffusers.safetensors"))
    save_file({"emb_params": z(3, d)}, at("kohya.safetensors"))
    torch.save({"string_to_token": {"*": torch.tensor(265)}, "string_to_param": {"*": torch.nn.Parameter(z(4, d))}, "name": "inner",
                "step": 100, "sd_checkpoint": None, "sd_checkpoint_name": None}, at("a1111.pt"))
    torch.save({"string_to_token": {"*": 265}, "string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(z(2, d))})}, at("old.pt"))
    save_file({"clip_l": z(2, d1), "clip_g": z(2, d2)}, at("xl.safetensors"))

    out = {}
    for name, word in (("learned_embeds.bin", "<cat-toy>"), ("diffusers.safetensors", "<dog-toy>"), ("kohya.safetensors", "kohya"),
                       ("a1111.pt", "a1111")):
        one = diffusers.StableDiffusionPipeline.from_pretrained(sd, safety_checker=None, torch_dtype=torch.float32)
        one.load_textual_inversion(at(name), token=word)
        with torch.no_grad():
            out[name] = one.encode_prompt(PROMPT.format(word), "cpu", 1, False)[0].contiguous()
    pair = load_file(at("xl.safetensors"))
    pipe.load_textual_inversion(pair["clip_l"], token="xl", text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer)
    pipe.load_textual_inversion(pair["clip_g"], token="xl", text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2)
    with torch.no_grad():
        text, _, pooled, _ = pipe.encode_prompt(PROMPT.format("xl"), device="cpu", do_classifier_free_guidance=False)
    out["xl.safetensors"], out["xl.pooled"] = text.contiguous(), pooled.contiguous()
    meta = {"seed": str(SEED), "prompt": PROMPT, "torch": torch.__version__, "diffusers": diffusers.__version__,
            "transformers": transformers.__version__, "eos": json.dumps([base.text_encoder.config.eos_token_id,
                                                                         pipe.text_encoder_2.config.eos_token_id])}
    save_file(out, at("golden.safetensors"), meta)
    print(meta, d, d1, d2)


main()
