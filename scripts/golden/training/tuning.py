"""Losses and gradients of stable consistency tuning, consistency mid-training and multistep consistency in PyTorch, for training's tests.

    python scripts/golden/training/tuning.py      writes training/testdata/{stablect,cmt,multistep}.safetensors

Wang et al. 2024 (arXiv 2410.18958), Hu et al. 2025 (arXiv 2509.24526) and Heek, Hoogeboom & Salimans 2024 (arXiv 2403.06807, algorithms 1 and
3, in its own variance-preserving coordinates: z_t = α_t·x + σ_t·ε), written out from their formulas in float64, so that differences are
differences of formulas and not of rounding.
"""
import math
import os
import sys

import torch

ROOT = os.path.abspath(__file__).partition("/scripts/golden/")[0]
sys.path += [os.path.join(ROOT, "scripts", "golden", "training")]
import ctm  # noqa: E402
from ctm import MLP, batch, col, denoise, exact, gradients, huber, weights, write  # noqa: E402

torch.set_default_dtype(torch.float64)
ctm.SEED = 20261130


def stablect():
    torch.manual_seed(ctm.SEED)
    net, out = MLP(False), {}
    weights(out, "model", net)
    x, z = batch(out)
    low, high = torch.tensor([0, 0.3, 1.0, 5]), torch.tensor([0.4, 0.5, 1.5, 12])
    label = torch.tensor([0, 1, 0, 1])
    out |= {"low": low, "high": high, "label": label}
    at = x + col(high) * z
    for case, same in (("all", torch.ones(4, 4, dtype=torch.bool)), ("classes", label[:, None] == label[None])):
        square = (at[:, None] - x[None]).square().sum(2)
        w = torch.exp(-square / (2 * col(high) ** 2)) * same
        mean = (w[..., None] * x[None]).sum(1) / w.sum(1, keepdim=True)
        with torch.no_grad():
            below = mean + col(low / high) * (at - mean)
            target = torch.where(col(low > 0), denoise(net, below, low.clamp(min=1e-9)), below)
        gradients(out, case, (huber(denoise(net, at, high), target) / (high - low)).mean(), net)
    write("stablect", out)


def trajectory(x, levels):
    """DPM-Solver++(2M) in its authors' coordinates: λ = -ln t, h = λ_next - λ."""
    path, lam, before = [x], [-math.log(t) if t > 0 else math.inf for t in levels], None
    for i in range(len(levels) - 1):
        t, u = levels[i], levels[i + 1]
        D = exact(x, torch.full((len(x),), t))
        h = lam[i + 1] - lam[i]
        if before is None or u == 0:
            x = u / t * x - math.expm1(-h) * D
        else:
            r = (lam[i] - lam[i - 1]) / h
            x = u / t * x - math.expm1(-h) * ((1 + 1 / (2 * r)) * D - 1 / (2 * r) * before)
        before = D
        path.append(x)
    return path


def cmt():
    torch.manual_seed(ctm.SEED + 1)
    net, jumps, out = MLP(False), MLP(True), {}
    weights(out, "model", net)
    weights(out, "jumps", jumps)
    x, z = batch(out)
    steps = 5
    levels = [80 * (0.002 / 80) ** (i / steps) for i in range(steps)] + [0.0]
    start = torch.tensor([[0, 3], [4, 1], [2, 0], [1, 2]])
    end = torch.tensor([[5, 4], [5, 2], [3, 5], [5, 5]])
    out |= {"start": start, "end": end}
    path = torch.stack(trajectory(x + levels[0] * z, levels))
    out["path"] = path.clone()
    rows = torch.arange(4)[:, None].expand(4, 2)
    t, u = torch.tensor(levels)[start], torch.tensor(levels)[end]
    a, b, last = path[start, rows].reshape(-1, 2), path[end, rows].reshape(-1, 2), path[-1][rows].reshape(-1, 2)
    t, u = t.reshape(-1), u.reshape(-1)
    gradients(out, "consistency", huber(denoise(net, a, t), last).mean(), net)
    tau, r = t / (1 + t), u / (1 + u)
    y, below = a / col(1 + t), b / col(1 + u)
    velocity = (y - below) / col(tau - r)
    gradients(out, "jumps", (jumps(y, tau, r) - velocity).square().mean(1).mean(), jumps)
    write("cmt", out)


def multistep():
    torch.manual_seed(ctm.SEED + 2)
    net, out = MLP(False), {}
    weights(out, "model", net)
    x, z = batch(out)
    t, s, step = torch.tensor([80, 5.0, 1.2, 0.01]), torch.tensor([60, 4.0, 0.9, 0.0]), torch.tensor([2.5, 2.5, 0.9, 0.0])
    out |= {"t": t, "next": s, "end": step}

    def coefficients(v):
        alpha = 1 / (1 + v**2).sqrt()
        return col(alpha), col(v * alpha)

    def f(net, zt, v):
        return denoise(net, zt / coefficients(v)[0], v.clamp(min=0.002))

    def ddim(x, zt, a, b):
        (alpha_a, sigma_a), (alpha_b, sigma_b) = coefficients(a), coefficients(b)
        return alpha_b * x + sigma_b / sigma_a.clamp(min=1e-300) * (zt - alpha_a * x)

    def inverse(zs, zt, a, b):
        (alpha_a, sigma_a), (alpha_b, sigma_b) = coefficients(a), coefficients(b)
        return (zs - sigma_b / sigma_a * zt) / (alpha_b - alpha_a * sigma_b / sigma_a)

    alpha_t, sigma_t = coefficients(t)
    alpha_s, sigma_s = coefficients(s)
    zt = alpha_t * x + sigma_t * z
    for case, teacher, adjusted in (("train", None, False), ("distil", exact, True), ("ddim", exact, False)):
        with torch.no_grad():
            x_teacher = x if teacher is None else teacher(zt / alpha_t, t)
            x_var = (x_teacher - x).square().sum(1, keepdim=True) / 2 if adjusted else torch.zeros(4, 1)
            eps = (zt - alpha_t * x_teacher) / sigma_t
            zs_var = (alpha_s - alpha_t * sigma_s / sigma_t) ** 2 * x_var
            zs = alpha_s * x_teacher + (sigma_s**2 + 2 / eps.square().sum(1, keepdim=True) * zs_var).sqrt() * eps
            ref = f(net, zs, s)
            z_step = torch.where(col(s == step), zs, ddim(ref, zs, s, step))
            want = inverse(z_step, zt, t, step)
        off = f(net, zt, t) - want
        snr = (alpha_t / sigma_t).square().squeeze(1)
        c2 = 1e-12 * 2  # the norm is smoothed as training.Norm does
        norm = (off.square().sum(1) + c2).sqrt() - math.sqrt(c2)
        gradients(out, case, ((snr + 1).sqrt() * norm).mean(), net)
        # v-prediction's own loss: its norm is √(SNR + 1) times that of x.
        v = (alpha_t * zt - f(net, zt, t)) / sigma_t - (alpha_t * zt - want) / sigma_t
        assert (v.square().sum(1).sqrt() / off.square().sum(1).sqrt() - 1 / sigma_t.squeeze(1)).abs().max() < 1e-8
        assert (1 / sigma_t.squeeze(1) - (snr + 1).sqrt()).abs().max() < 1e-8
    write("multistep", out)


if __name__ == "__main__":
    stablect()
    cmt()
    multistep()
