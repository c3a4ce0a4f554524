"""Losses and gradients of three methods in PyTorch, for training's tests.

    python scripts/golden/training/ctm.py      writes training/testdata/{ctm,meanflow,pd}.safetensors

Consistency trajectory models (Kim et al. 2024, eq. 10 and 11), mean flows (Geng et al. 2025, algorithm 1) and progressive
distillation (Salimans & Ho 2022, algorithm 2, in the coordinates of Karras et al. 2022), written out from their formulas: in
float64, so that differences are differences of formulas and not of rounding.
"""
import math
import os

import torch
from safetensors.torch import save_file
from torch import nn

SEED = 20261123
OUT = os.path.join(os.path.abspath(__file__).partition("/scripts/golden/")[0], "training", "testdata")
MEAN, STD = 0.3, 0.4  # of the Gaussian data whose exact denoiser is the teacher
SD, EPS = 0.5, 0.002
torch.set_default_dtype(torch.float64)


def features(v, freqs):
    return torch.cat([v] + [f(v * 2**i) for i in range(freqs) for f in (torch.sin, torch.cos)], 1)


class MLP(nn.Module):
    """models/mlp's network for points, of width 8 and depth 2."""

    def __init__(self, until):
        super().__init__()
        inputs = 2 * 7 + (1 + until) * 5
        self.layers = nn.ModuleList([nn.Linear(inputs, 8), nn.Linear(8, 8)])
        self.out = nn.Linear(8, 2)

    def forward(self, x, *labels):
        h = torch.cat([features(x, 3)] + [features(v[:, None], 2) for v in labels], 1)
        for layer in self.layers:
            h = nn.functional.silu(layer(h))
        return self.out(h)


def frozen(net):
    """The same function with weights that collect no gradients."""
    copy = MLP(net.layers[0].in_features > 2 * 7 + 5)
    copy.load_state_dict(net.state_dict())
    return copy.requires_grad_(False)


def col(v):
    return v[:, None]


def denoise(net, x, t, *until):
    """EDM's preconditioning of a network that may be told the end of a jump too."""
    root = (t**2 + SD**2).sqrt()
    F = net(x / col(root), t.log() / 4, *(u.log() / 4 for u in until))
    return col(SD**2 / root**2) * x + col(t * SD / root) * F


def exact(x, t):
    return MEAN + col(STD**2 / (STD**2 + t**2)) * (x - MEAN)


def jump(net, x, t, u):
    return col(u / t) * x + col(1 - u / t) * denoise(net, x, t, u)


def heun(x, t, u):
    d1 = (x - exact(x, t)) / col(t)
    y = x + col(u - t) * d1
    d2 = (y - exact(y, u)) / col(u)
    return x + col(u - t) * (d1 + d2) / 2


def huber(a, b):
    c = 0.00054 * math.sqrt(a.shape[1])
    return ((a - b).square().sum(1) + c * c).sqrt() - c


def gradients(out, name, loss, net):
    out[name] = loss.detach().reshape(1)
    names, params = zip(*net.named_parameters())
    for key, g in zip(names, torch.autograd.grad(loss, params, retain_graph=True)):
        out[f"{name}:{key}"] = g.contiguous()


def weights(out, prefix, net):
    out.update({f"{prefix}.{k}": v.detach().clone() for k, v in net.state_dict().items()})


def batch(out):
    out |= {"x": MEAN + STD * torch.randn(4, 2), "z": torch.randn(4, 2)}
    return out["x"], out["z"]


def write(name, out):
    path = os.path.join(OUT, name + ".safetensors")
    save_file(out, path, metadata={"torch": torch.__version__, "seed": str(SEED)})
    print(os.path.relpath(path), os.path.getsize(path))


def ctm():
    torch.manual_seed(SEED)
    net, target, out = MLP(True), MLP(True), {}
    weights(out, "model", net)
    weights(out, "target", target)
    x, z = batch(out)
    path = torch.tensor([[80, 5.3, 1.1, 0.03], [40.8, 3.2, 0.6, 0.02], [20, 1.9, 0.25, 0.0075]])
    end = torch.tensor([12.9, 1.9, 0.14, EPS])
    levels, noise = torch.tensor([0.1, 0.5, 2, 40]), torch.randn(4, 2)
    out |= {"path": path, "end": end, "levels": levels, "noise": noise}
    eps = torch.full((4,), EPS)
    start = x + col(path[0]) * z
    for case, g in (("own", frozen(net)), ("other", frozen(target))):
        with torch.no_grad():
            y = heun(heun(start, path[0], path[1]), path[1], path[2])
            want = jump(g, jump(g, y, path[2], end), end, eps)
        got = jump(g, jump(net, start, path[0], end), end, eps)
        jumps = huber(got, want).mean()
        weight = (levels**2 + SD**2) / (levels * SD) ** 2
        denoised = denoise(net, x + col(levels) * noise, levels, levels)
        denoising = (weight * (denoised - x).square().mean(1)).mean()
        last = [torch.autograd.grad(v, net.out.weight, retain_graph=True)[0].norm() for v in (jumps, denoising)]
        gradients(out, f"{case}.jumps", jumps, net)
        gradients(out, f"{case}.denoising", denoising, net)
        gradients(out, f"{case}.adaptive", jumps + (last[0] / (last[1] + 1e-4)).detach() * 3 * denoising, net)
    write("ctm", out)


def meanflow():
    torch.manual_seed(SEED + 1)
    net, out = MLP(True), {}
    weights(out, "model", net)
    x, z = batch(out)
    r, tau = torch.tensor([0, 0.2, 0.5, 0.7]), torch.tensor([0.9, 0.2, 0.8, 0.75])
    out |= {"r": r, "tau": tau}
    y, v = (1 - col(tau)) * x + col(tau) * z, z - x
    for case, scale, interval, p, c in (("plain", 1, False, 1, 1e-3), ("interval", 3, True, 0.75, 0.01)):
        def u(y, r, tau):
            return net(y, scale * tau, scale * (tau - r if interval else r))

        got, du = torch.func.jvp(u, (y, r, tau), (v, torch.zeros(4), torch.ones(4)))
        square = (got - (v - col(tau - r) * du).detach()).square().sum(1)
        gradients(out, case, (square / (square.detach() + c) ** p).mean(), net)
    write("meanflow", out)


def pd():
    torch.manual_seed(SEED + 2)
    net, copy, out = MLP(False), MLP(False).requires_grad_(False), {}
    weights(out, "model", net)
    weights(out, "copy", copy)
    x, z = batch(out)
    for case, n, steps, teacher in (("first", 8, [0, 2, 5, 7], exact), ("second", 4, [0, 1, 2, 3], lambda x, t: denoise(copy, x, t))):
        a, b = 80 ** (1 / 7), EPS ** (1 / 7)
        i = torch.tensor(steps, dtype=torch.float64)
        t, mid, end = ((a + (i + h) / n * (b - a)) ** 7 for h in (0, 0.5, 1))
        end = torch.where(i == n - 1, 0.0, end)
        start = x + col(t) * z

        def euler(x, t, u):
            return x + col(u - t) * (x - teacher(x, t)) / col(t)

        reached = euler(euler(start, t, mid), mid, end)
        want = start - col(t) * (reached - start) / col(end - t)
        weight = torch.clamp(t**-2, min=1)
        gradients(out, case, (weight * (denoise(net, start, t) - want).square().mean(1)).mean(), net)
    write("pd", out)


if __name__ == "__main__":
    os.makedirs(OUT, exist_ok=True)
    ctm()
    meanflow()
    pd()
