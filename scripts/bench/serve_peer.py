"""The peer of onestep serve: PyTorch or diffusers behind FastAPI and uvicorn, as a Python programmer would write it.

    serve_peer.py pixels --peers DIR     the network of DIR/edm_unet.py, a consistency model of one step
    serve_peer.py sd --model DIR         StableDiffusionPipeline, 4 steps without guidance

It prints its address and answers POST /v1/images/generations with a PNG in base64. Requests are generated one after the other, on one thread: neither
PyTorch's thread pool nor a pipeline gains by two at once, and PyTorch keeps a team of workers for each thread that calls it.
"""
import argparse
import asyncio
import base64
import io
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

import torch
import uvicorn
from fastapi import FastAPI
from PIL import Image
from pydantic import BaseModel

parser = argparse.ArgumentParser()
parser.add_argument("work", choices=["pixels", "sd"])
parser.add_argument("--peers")
parser.add_argument("--model")
parser.add_argument("--threads", type=int, default=2)
args = parser.parse_args()


def opened():
    """Opens the model and returns its function from a request to an image."""
    torch.set_num_threads(args.threads)
    if args.work == "pixels":
        sys.path.insert(0, args.peers)
        from edm_unet import build

        net, denoise, _, side, channels = build("cifar", "eager")

        def draw(r, generator):
            x = torch.randn(1, channels, side, side, generator=generator) * 80
            x = denoise(x, torch.full((1,), 80.0))
            levels = ((x[0] + 1) * 127.5).clamp(0, 255).round().byte().permute(1, 2, 0).numpy()
            return Image.fromarray(levels)
    else:
        from diffusers import StableDiffusionPipeline

        pipe = StableDiffusionPipeline.from_pretrained(args.model, safety_checker=None)
        pipe.set_progress_bar_config(disable=True)

        def draw(r, generator):
            return pipe(r.prompt, num_inference_steps=r.steps, guidance_scale=1.0, generator=generator).images[0]
    return draw


class Request(BaseModel):
    prompt: str
    seed: int = 0
    steps: int = 1


app, one = FastAPI(), ThreadPoolExecutor(1)
draw = one.submit(opened).result()


def png_of(r):
    with torch.inference_mode():
        image = draw(r, torch.Generator().manual_seed(r.seed))
    png = io.BytesIO()
    image.save(png, "PNG")
    return png.getvalue()


@app.post("/v1/images/generations")
async def generations(r: Request):
    png = await asyncio.get_running_loop().run_in_executor(one, png_of, r)
    return {"data": [{"b64_json": base64.b64encode(png).decode()}]}


listener = socket.create_server(("127.0.0.1", 0))
print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
