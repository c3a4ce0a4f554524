"""One training step of a method as a PyTorch programmer would write it, in eager mode: ms per step, peak RSS.

    train_methods.py ct|cd|ect|scd --peers DIR [--variant eager|channels_last|bf16|bf16_channels_last] [--runs N] [--threads N]

The network is that of DIR/edm_unet.py with float32 weights, the same as in work.go; bf16 is autocast of the denoiser. It is trained with Adam; EMA weights and target networks are updated
with foreach operators.
"""
import argparse
import json
import math
import sys

import torch

parser = argparse.ArgumentParser()
parser.add_argument("method", choices=["ct", "cd", "ect", "scd"])
parser.add_argument("--peers", required=True)
parser.add_argument("--case", default="cifar")
parser.add_argument("--variant", default="eager", choices=["eager", "channels_last", "bf16", "bf16_channels_last"])
parser.add_argument("--runs", type=int, default=5)
parser.add_argument("--threads", type=int, default=2)
args = parser.parse_args()
sys.path.insert(0, args.peers)

from common import measure, reset_peak_rss, rss_mib, setup  # noqa: E402
from edm_unet import Denoiser, build  # noqa: E402

setup(args.threads, 0)
SD, LEVELS, DECAY = 0.5, 18, 0.95
net, denoise, batch, side, channels = build(args.case, args.variant)
params = list(net.parameters())
average = [p.detach().clone() for p in params]
adam = torch.optim.Adam(params, lr=1e-4)
x = torch.rand(batch, channels, side, side).mul_(2).sub_(1)
if "channels_last" in args.variant:
    x = x.to(memory_format=torch.channels_last)
ramp = torch.linspace(0, 1, LEVELS)
levels = (0.002 ** (1 / 7) + ramp * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7


def autocast(f):
    """The denoiser f in bfloat16, if that is the variant."""
    def call(*inputs):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled="bf16" in args.variant):
            return f(*inputs)
    return call


model = autocast(denoise)


def image(v):
    return v.reshape(-1, 1, 1, 1)


def frozen():
    other, d, *_ = build(args.case, args.variant)
    other.load_state_dict(net.state_dict())
    other.requires_grad_(False)
    return other, autocast(d)


if args.method in ("ct", "cd"):
    target_net, target = frozen()
    target_params = list(target_net.parameters())
if args.method in ("cd", "scd"):
    teacher_net, _ = frozen()
    teacher = autocast(Denoiser(teacher_net, sigma_min=0.0))


def pair_loss(lower):
    i = torch.randint(LEVELS - 1, (batch,))
    low, high = levels[i], levels[i + 1]
    noise = torch.randn_like(x)
    xt = x + image(high) * noise
    with torch.no_grad():
        goal = target(lower(xt, noise, low, high), low)
    return (model(xt, high) - goal).square().mean()


def ct():
    return pair_loss(lambda xt, noise, low, high: x + image(low) * noise)


def heun(xt, noise, low, high):
    d = (xt - teacher(xt, high)) / image(high)
    y = xt + image(low - high) * d
    d2 = (y - teacher(y, low)) / image(low)
    return xt + image(low - high) * (d + d2) / 2


def cd():
    return pair_loss(heun)


if args.method == "scd":
    # Group norm has no forward-mode derivative for the channels-last layout that a convolution after attention returns.
    norm = torch.nn.GroupNorm.forward
    torch.nn.GroupNorm.forward = lambda self, x: norm(self, x.contiguous())

easy = autocast(Denoiser(net, sigma_min=0.0))


def ect():
    t = (torch.randn(batch) * 2.0 - 1.1).exp()
    r = (t * (1 - (1 + 8 * torch.sigmoid(-t)) / 2.0**4)).clamp_min(0)
    noise = torch.randn_like(x)
    with torch.no_grad():
        goal = torch.where(image(r) > 0, easy(x + image(r) * noise, r.clamp_min(1e-9)), x)
    d = (easy(x + image(t) * noise, t) - goal).flatten(1).square().sum(1).add(1e-12).sqrt()
    return (d / (t - r)).mean()


def scd():
    sigma = (torch.randn(batch) * 1.4 - 1.0).exp()
    a = torch.atan(sigma / SD)
    cos, sin = image(a.cos()), image(a.sin())
    y = cos * x + sin * SD * torch.randn_like(x)
    f = net(y / SD, a)
    with torch.no_grad():
        dy = (cos * y - teacher(y / cos, sigma)) / sin
        da = a.cos() * a.sin()
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            _, df = torch.func.jvp(lambda u, a: net(u, a), (y / SD, a), (image(da) * dy / SD, da))
        still = f.detach()
        g = -(cos**2) * (SD * still - dy) - (cos * sin * y + SD * df)
        g = g / (g.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1) + 0.1)
    return (f - still - g).square().mean()


def step():
    loss = {"ct": ct, "cd": cd, "ect": ect, "scd": scd}[args.method]()
    adam.zero_grad(set_to_none=True)
    loss.backward()
    adam.step()
    with torch.no_grad():
        torch._foreach_lerp_(average, params, 1e-4)
        if args.method in ("ct", "cd"):
            torch._foreach_lerp_(target_params, params, 1 - DECAY)
    value = loss.item()
    assert math.isfinite(value), value


step()
reset_peak_rss()
m = measure(step, args.runs, 1, args.threads)
print(json.dumps({"ms_per_step": m["median_s"] * 1e3, **rss_mib()}))
