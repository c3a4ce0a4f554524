"""Three steps of consistency training in PyTorch, for tests/parity_test.go.

    python scripts/golden/tests/ct.py            writes tests/testdata/ct_weights.safetensors and ct_{l1,l2,huber}.safetensors

The network is diffusers' UNet2DModel, tiny; everything else is written out here from the formulas of Song et al. 2023
(algorithm 3, appendix C): boundary conditions at sigma_min, L1, L2 and pseudo-Huber distances, RAdam, the target's average.
In float64, so that differences are differences of formulas and not of rounding. Weights are drawn in float32 and widened.
"""
import json
import math
import os

import diffusers
import torch
from diffusers import UNet2DModel
from safetensors.torch import save_file

SEED, STEPS, LR, MU = 20261123, 3, 1e-3, 0.9
SD, EPS = 0.5, 0.002
CONFIG = dict(sample_size=8, in_channels=2, out_channels=2, layers_per_block=1, block_out_channels=(8, 8),
              down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
              norm_num_groups=4, norm_eps=1e-5, attention_head_dim=8)


class Sinusoid(torch.nn.Module):
    """diffusers' positional embedding (flip_sin_to_cos, freq_shift 0) in the dtype of its input, not in float32."""

    def __init__(self, channels):
        super().__init__()
        self.half = channels // 2

    def forward(self, t):
        f = torch.exp(-math.log(10000) * torch.arange(self.half, dtype=t.dtype) / self.half)
        a = t[:, None] * f[None]
        return torch.cat([a.cos(), a.sin()], dim=1)


def origin(net, x, t):
    s = (-1, 1, 1, 1)
    skip = (SD**2 / ((t - EPS) ** 2 + SD**2)).reshape(s)
    out = (SD * (t - EPS) / (t**2 + SD**2).sqrt()).reshape(s)
    c_in = (1 / (t**2 + SD**2).sqrt()).reshape(s)
    return skip * x + out * net(c_in * x, t.log() / 4).sample


def distance(kind, a, b):
    d = (a - b).flatten(1)
    if kind == "l1":
        return d.abs().mean(1)
    if kind == "l2":
        return d.square().mean(1)
    c = 0.00054 * math.sqrt(d.shape[1])
    return (d.square().sum(1) + c * c).sqrt() - c


def make():
    torch.manual_seed(SEED)
    net = UNet2DModel(**CONFIG)
    for p in net.parameters():  # no layer may start at zero: its gradient would test nothing
        with torch.no_grad():
            p.add_(0.02 * torch.randn_like(p))
    weights = {k: v.detach().clone() for k, v in net.state_dict().items()}
    net = net.double()
    net.time_proj = Sinusoid(CONFIG["block_out_channels"][0])
    return net, weights


def checked(name, p):
    """Which parameters' gradients and results are stored: small ones of every kind of layer."""
    return p.numel() <= 16 or name in ("conv_in.weight", "mid_block.attentions.0.to_k.weight")


FOLDER = os.path.join(os.path.abspath(__file__).partition("/scripts/golden/")[0], "tests", "testdata")
META = {"torch": torch.__version__, "diffusers": diffusers.__version__, "seed": str(SEED)}


def write(name, tensors, **meta):
    path = os.path.join(FOLDER, name + ".safetensors")
    save_file(tensors, path, metadata=META | meta)
    print(os.path.relpath(path), os.path.getsize(path))


def run(kind):
    net, _ = make()
    target, _ = make()
    target.load_state_dict(net.state_dict())
    optimizer = torch.optim.RAdam(net.parameters(), lr=LR)
    g = torch.Generator().manual_seed(SEED)
    out = {}
    losses = []
    for k in range(STEPS):
        x = torch.rand(3, 2, 8, 8, generator=g).mul(2).sub(1)
        z = torch.randn(3, 2, 8, 8, generator=g)
        low = torch.tensor([0.002, 0.7, 12.9], dtype=torch.float64) * (1 + 0.1 * k)
        high = low * 1.4
        out |= {f"x.{k}": x, f"z.{k}": z, f"low.{k}": low, f"high.{k}": high}
        x, z = x.double(), z.double()
        with torch.no_grad():
            want = origin(target, x + low.reshape(-1, 1, 1, 1) * z, low)
        got = origin(net, x + high.reshape(-1, 1, 1, 1) * z, high)
        loss = distance(kind, got, want).mean()
        optimizer.zero_grad()
        loss.backward()
        if k == 0:
            for name, p in net.named_parameters():
                if checked(name, p):
                    out["grad." + name] = p.grad.clone()
        optimizer.step()
        with torch.no_grad():
            for a, b in zip(target.parameters(), net.parameters()):
                a.mul_(MU).add_(b, alpha=1 - MU)
        losses.append(loss.item())
    out["losses"] = torch.tensor(losses, dtype=torch.float64)
    for name, p in net.named_parameters():
        if checked(name, p):
            out["after." + name] = p.detach().clone()
            out["target." + name] = dict(target.named_parameters())[name].detach().clone()
    write("ct_" + kind, out, distance=kind, lr=str(LR), mu=str(MU))


if __name__ == "__main__":
    write("ct_weights", make()[1], config=json.dumps({k: v for k, v in CONFIG.items()}))
    for kind in ("l1", "l2", "huber"):
        run(kind)
