"""The peer's side of image generation with Stable Diffusion 1.5: diffusers, LCM scheduler, no guidance, one image.

    python sd.py MODEL f32|bf16 SIZE STEPS --runs N     figures as JSON
    python sd.py MODEL f32|bf16 SIZE STEPS --out FILE   generates one image; timed from outside, as a whole process

MODEL is a directory that the benchmarks' sd_model.py wrote: the real shapes with random weights.
"""
import argparse
import json
import statistics
import time

import torch
from diffusers import StableDiffusionPipeline

p = argparse.ArgumentParser()
p.add_argument("model")
p.add_argument("dtype")
p.add_argument("size", type=int)
p.add_argument("steps", type=int)
p.add_argument("--runs", type=int, default=1)
p.add_argument("--out")
args = p.parse_args()
torch.set_num_threads(2)
dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
PROMPT = "a photo of a cat"


def timed(f, runs=args.runs):
    f()
    took = []
    for _ in range(runs):
        t0 = time.perf_counter()
        f()
        took.append(time.perf_counter() - t0)
    return statistics.median(took)


def load():
    pipe = StableDiffusionPipeline.from_pretrained(args.model, torch_dtype=dtype, variant=None if args.dtype == "f32" else "fp16",
                                                   safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe):
    return pipe(PROMPT, num_inference_steps=args.steps, guidance_scale=1.0, height=args.size, width=args.size,
                generator=torch.Generator().manual_seed(1)).images[0]


def peak():
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) / 1024 for line in f if line.startswith("VmHWM"))


with torch.inference_mode():
    if args.out:
        draw(load()).save(args.out)
    else:
        got = {"load": timed(load)}
        pipe = load()
        ids = pipe.tokenizer(PROMPT, padding="max_length", max_length=77, return_tensors="pt").input_ids
        x = torch.randn(1, 4, args.size // 8, args.size // 8, dtype=dtype)
        text = torch.randn(1, 77, 768, dtype=dtype)
        t = torch.tensor([499])
        got["text encoder"] = timed(lambda: pipe.text_encoder(ids))
        got["unet step"] = timed(lambda: pipe.unet(x, t, encoder_hidden_states=text))
        got["vae decode"] = timed(lambda: pipe.vae.decode(x))
        got["image"] = timed(lambda: draw(pipe))
        got["peak_rss_mib"] = peak()
        print(json.dumps(got))
