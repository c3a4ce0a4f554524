"""The peer's side of the benchmarks on a GPU: figures as JSON.

    gpu.py roof                                              the fastest matrix product in bfloat16, in TFLOP/s
    gpu.py train --peers DIR [--batch N] [--variant V]       a step of improved consistency training, bfloat16 autocast
    gpu.py sd --model DIR [--batch N] [--size N] [--variant V | --compile]
                                                             images of Stable Diffusion 1.5 in 4 steps, by diffusers
"""
import argparse
import json
import statistics
import sys
import time

import torch

parser = argparse.ArgumentParser()
parser.add_argument("work", choices=["roof", "train", "sd"])
parser.add_argument("--device", default="cuda")
parser.add_argument("--peers")
parser.add_argument("--batch", type=int, default=1)
parser.add_argument("--variant", default="eager", choices=["eager", "channels-last"])
parser.add_argument("--runs", type=int, default=10)
parser.add_argument("--model")
parser.add_argument("--dtype", default="bf16", choices=["f32", "bf16"])
parser.add_argument("--size", type=int, default=512)
parser.add_argument("--compile", action="store_true")
args = parser.parse_args()
device = torch.device(args.device)
gpu = device.type == "cuda"


def wait():
    if gpu:
        torch.cuda.synchronize(device)


def timed(f, runs, warmup=2):
    took = []
    for i in range(warmup + runs):
        wait()
        start = time.perf_counter()
        f()
        wait()
        if i >= warmup:
            took.append(time.perf_counter() - start)
    return took


def memory(figures):
    if gpu:
        figures["peak_gpu_mib"] = torch.cuda.max_memory_allocated(device) / 2**20
    print(json.dumps(figures))


def roof():
    n = 8192 if gpu else 512
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    memory({"tflops": 2 * n**3 / min(timed(lambda: a @ b, 20, 5)) / 1e12})


def train():
    """unet_train.py's step, on the device."""
    sys.path.insert(0, args.peers)
    torch.set_default_device(device)
    import edm_unet
    import unet_train

    def build(case, variant):
        net = edm_unet.UNet(side=32, channels=64, attention=(16,))
        if "channels_last" in variant:
            net.to(memory_format=torch.channels_last)
        return net, edm_unet.Denoiser(net), args.batch, 32, 3

    class Step(unet_train.Step):
        def denoise(self, x, sigma):
            with torch.autocast(device.type, dtype=torch.bfloat16):
                return self.model(x, sigma)

    unet_train.build = build
    step = Step("gpu", args.variant.replace("-", "_"), gpu)
    memory({"ms_per_step": statistics.median(timed(step, args.runs)) * 1e3})


def sd():
    from diffusers import LCMScheduler, StableDiffusionPipeline

    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    pipe = StableDiffusionPipeline.from_pretrained(args.model, torch_dtype=dtype, safety_checker=None).to(device)
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    if args.compile or args.variant == "channels-last":
        pipe.unet.to(memory_format=torch.channels_last)
        pipe.vae.to(memory_format=torch.channels_last)
    if args.compile:
        pipe.unet = torch.compile(pipe.unet, mode="max-autotune-no-cudagraphs" if not gpu else "reduce-overhead")
        pipe.vae.decode = torch.compile(pipe.vae.decode)

    def draw():
        with torch.inference_mode():
            pipe("a photo of a cat", num_images_per_prompt=args.batch, num_inference_steps=4, guidance_scale=1.0, height=args.size, width=args.size,
                 generator=torch.Generator().manual_seed(1))

    memory({"image": statistics.median(timed(draw, args.runs, 3))})


{"roof": roof, "train": train, "sd": sd}[args.work]()
