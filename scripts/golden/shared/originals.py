"""The code that published pixel-space models were trained with, for generators of golden files.

PEERS (an environment variable; default: ../shared/bench/peers beside the repository) is a folder with clones of

    https://github.com/openai/consistency_models   e32b69ee436d518377db86fb2127a3972d0d8716
    https://github.com/openai/guided-diffusion     22e0df8183507e13a7813f8d38d51b072ca1e67c
    https://github.com/NVlabs/edm                  008a4e5316c8e3bfe61a62f874bddba254295afb

Nothing of their code is in this repository. Modules that they import but that are not needed on one CPU (MPI, blobfile, FlashAttention,
einops, distutils) are replaced by the few functions that run here; FlashAttention's stand-in is its definition, softmax(q·kᵀ/√d)·v.
"""
import os
import sys
import types

import torch

ROOT = os.path.abspath(__file__).partition("/scripts/golden/")[0]
PEERS = os.environ.get("PEERS", os.path.join(ROOT, "..", "shared", "bench", "peers"))


class FlashAttention(torch.nn.Module):
    def __init__(self, **kwargs):
        super().__init__()

    def forward(self, qkv, **kwargs):  # [b, s, 3, h, d]
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        out = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1) @ v
        return out.transpose(1, 2), None


def rearrange(x, pattern, three=None, h=None):
    if pattern == "b (three h d) s -> b s three h d":
        b, c, s = x.shape
        return x.reshape(b, three, h, c // (three * h), s).permute(0, 4, 1, 2, 3)
    assert pattern == "b s h d -> b (h d) s"
    b, s, h, d = x.shape
    return x.permute(0, 2, 3, 1).reshape(b, h * d, s)


def stand_in(name, **content):
    parts = name.split(".")
    for i in range(len(parts)):
        path = ".".join(parts[: i + 1])
        if path not in sys.modules:
            sys.modules[path] = types.ModuleType(path)
    for key, value in content.items():
        setattr(sys.modules[name], key, value)


def load():
    """The modules: consistency_models' unet and karras_diffusion, guided-diffusion's unet and gaussian_diffusion, EDM's networks."""
    stand_in("flash_attn.flash_attention", FlashAttention=FlashAttention)
    stand_in("einops", rearrange=rearrange)
    stand_in("mpi4py", MPI=None)
    stand_in("blobfile")
    stand_in("piq", LPIPS=None)
    stand_in("torchvision.transforms", RandomCrop=None)
    stand_in("distutils.util", strtobool=lambda text: text.lower() in ("y", "yes", "true", "1"))
    for repo in ("consistency_models", "guided-diffusion", "edm"):
        if not os.path.isdir(os.path.join(PEERS, repo)):
            sys.exit(f"clone {repo} into {os.path.abspath(PEERS)}, or set PEERS: see {__file__}")
        sys.path.insert(0, os.path.join(PEERS, repo))
    from cm import karras_diffusion
    from cm import unet as consistency
    from guided_diffusion import gaussian_diffusion
    from guided_diffusion import unet as guided
    from training import networks as edm

    return types.SimpleNamespace(consistency=consistency, karras=karras_diffusion, guided=guided, gaussian=gaussian_diffusion, edm=edm)
