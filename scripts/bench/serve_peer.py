"""The peer of onestep serve: PyTorch or diffusers behind FastAPI and uvicorn, as a Python programmer would write it.

    serve_peer.py pixels --peers DIR     the network of DIR/edm_unet.py, a consistency model of one step
    serve_peer.py sd --model DIR         StableDiffusionPipeline, 4 steps without guidance

It prints its address and answers POST /v1/images/generations with a PNG in base64. Requests are generated one after the other, since neither PyTorch's
thread pool nor a pipeline gains by two at once.
"""
import argparse
import base64
import io
import socket
import sys
import threading

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
torch.set_num_threads(args.threads)

if args.work == "pixels":
    sys.path.insert(0, args.peers)
    from edm_unet import build

    net, denoise, _, side, channels = build("cifar", "eager")

    def draw(prompt, steps, generator):
        x = torch.randn(1, channels, side, side, generator=generator) * 80
        x = denoise(x, torch.full((1,), 80.0))
        levels = ((x[0] + 1) * 127.5).clamp(0, 255).round().byte().permute(1, 2, 0).numpy()
        return Image.fromarray(levels)
else:
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(args.model, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)

    def draw(prompt, steps, generator):
        return pipe(prompt, num_inference_steps=steps, guidance_scale=1.0, generator=generator).images[0]


class Request(BaseModel):
    prompt: str
    seed: int = 0
    steps: int = 1


app, turn = FastAPI(), threading.Lock()


@app.post("/v1/images/generations")
def generations(r: Request):
    with turn, torch.inference_mode():
        image = draw(r.prompt, r.steps, torch.Generator().manual_seed(r.seed))
    png = io.BytesIO()
    image.save(png, "PNG")
    return {"data": [{"b64_json": base64.b64encode(png.getvalue()).decode()}]}


listener = socket.create_server(("127.0.0.1", 0))
print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
