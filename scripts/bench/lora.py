"""The peer's side of adapters at the size of Stable Diffusion 1.5: diffusers with peft, all 278 modules of LCM-LoRA, rank 64.

    python lora.py MODEL --write FILE                     writes an adapter like lcm-lora-sdv1-5, with random weights
    python lora.py MODEL FILE f32|bf16 SIZE --runs N      figures as JSON

MODEL is a directory that the benchmarks' sd_model.py wrote: the real shapes with random weights. The file has the names, types, alphas and
metadata of the published adapter, and so exactly its header; --write checks that. Figures are the seconds that load_lora_weights takes with
the file in the page cache ("load"), those of one U-Net call without the adapter ("bare"), with it ("runtime") and with it fused ("merged"),
and those of fuse_lora ("fuse").
"""
import argparse
import hashlib
import json
import statistics
import time

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import logging
from safetensors.torch import save_file

TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2", "conv_shortcut",
           "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj")
HEADER = "3ca15dde66470e73c8d68dbb9ab64d6e7ad014f525b58193a9a3b161eb6cc263"  # SHA-256 of the published file's header

p = argparse.ArgumentParser()
p.add_argument("model")
p.add_argument("file", nargs="?")
p.add_argument("dtype", nargs="?", default="f32")
p.add_argument("size", nargs="?", type=int, default=512)
p.add_argument("--runs", type=int, default=1)
p.add_argument("--write")
args = p.parse_args()
torch.set_num_threads(2)
logging.set_verbosity_error()  # no warning that the file has nothing for the text encoder
dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype]


def write(path, rank=64, alpha=8.0):
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(args.model, subfolder="unet"))
    g, out = torch.Generator().manual_seed(0), {}
    for name, m in unet.named_modules():
        if name.endswith(tuple("." + t for t in TARGETS)):
            key, (outs, *ins) = "lora_unet_" + name.replace(".", "_"), m.weight.shape
            down = torch.randn((rank, *ins), generator=g) / m.weight[0].numel() ** 0.5
            up = torch.randn((outs, rank, *[1] * (len(ins) - 1)), generator=g) * (0.2 / rank ** 0.5)
            out |= {key + ".alpha": torch.tensor(alpha).half(), key + ".lora_down.weight": down.half(), key + ".lora_up.weight": up.half()}
    save_file(out, path, metadata={"format": "pt"})
    with open(path, "rb") as f:
        header = f.read(int.from_bytes(f.read(8), "little"))
    got = hashlib.sha256(header).hexdigest()
    print(f"{path}: {len(out)} tensors, header of {len(header)} bytes, sha256 {got}")
    assert got == HEADER, "the published file has another header"


def timed(f, before=lambda: None):
    took = []
    for _ in range(args.runs + 1):
        before()
        t0 = time.perf_counter()
        f()
        took.append(time.perf_counter() - t0)
    return statistics.median(took[1:])


def peak():
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) / 1024 for line in f if line.startswith("VmHWM"))


def figures():
    pipe = StableDiffusionPipeline.from_pretrained(args.model, torch_dtype=dtype, variant=None if args.dtype == "f32" else "fp16",
                                                   safety_checker=None)
    x = torch.randn(1, 4, args.size // 8, args.size // 8, dtype=dtype)
    text, t = torch.randn(1, 77, 768, dtype=dtype), torch.tensor([499])

    def step():
        return pipe.unet(x, t, encoder_hidden_states=text).sample.float()

    got, bare = {"bare": timed(step)}, step()
    got["load"] = timed(lambda: pipe.load_lora_weights(args.file), pipe.unload_lora_weights)
    beside = step()
    got["runtime"] = timed(step)
    t0 = time.perf_counter()
    pipe.fuse_lora()
    got["fuse"] = time.perf_counter() - t0
    pipe.unload_lora_weights()
    got["merged"] = timed(step)
    fused = step()
    off = ((fused - beside).norm() / (beside - bare).norm()).item()
    assert off < (1e-3 if args.dtype == "f32" else 0.3) and not beside.equal(bare), off  # the adapter has its effect in both
    return got | {"runtime : bare": got["runtime"] / got["bare"], "merged : bare": got["merged"] / got["bare"], "peak_rss_mib": peak()}


with torch.inference_mode():
    if args.write:
        write(args.write)
    else:
        print(json.dumps(figures()))
