"""Losses and gradients of continuous-time consistency training in PyTorch, for training/scm_test.go.

    python scripts/golden/training/scm.py      writes training/testdata/scm.safetensors

The networks are models/mlp/mlp.py's, in float64; weights are drawn in float32 (see draw there), in the order that the metadata
lists. The tangent is computed from the derivative of F along the trajectory as Lu & Song 2024 (algorithm 1) write it, without
the factor that a float32 program has to move into the derivative's direction. Where the warm-up is over it is checked against
cos(a) times the derivative of the consistency function itself or, of the discrete form, times its difference.
"""
import json
import math
import os
import sys

import torch
from safetensors.torch import save_file

sys.path.append(os.path.join(os.path.abspath(__file__).partition("/scripts/golden/")[0], "scripts", "golden", "models", "mlp"))
from mlp import MLP, draw  # noqa: E402

SEED = 20261126
ROOT = os.path.abspath(__file__).partition("/scripts/golden/")[0]
PATH = os.path.join(ROOT, "training", "testdata", "scm.safetensors")
CONFIG = dict(shape=[3], width=12, depth=2)
LEVELS = [0.002, 0.05, 0.37, 1.1, 9.0, 80.0]
FEATURES = 6  # of the learned weight
WARMUP = 10

CASES = {  # r is k/WARMUP, at most 1
    "sct": dict(),
    "sct-r0": dict(k=0),
    "sct-r3": dict(k=3),
    "sct-wide": dict(sd=0.8, c=0.5),
    "scd": dict(teacher=True),
    "scd-r3": dict(teacher=True, k=3),
    "sct-step": dict(step=0.1),
    "scd-step": dict(teacher=True, step=0.02),
    "scd-step-r3": dict(teacher=True, step=0.02, k=3),
    "sct-weight": dict(weight=True),
}

torch.set_default_dtype(torch.float64)


def network(g, layout):
    net = MLP(**CONFIG)
    for name, p in net.named_parameters():
        p.data = draw32(tuple(p.shape), g)
        layout.append([name, list(p.shape)])
    return net


def draw32(shape, g):
    torch.set_default_dtype(torch.float32)
    v = draw(shape, g)
    torch.set_default_dtype(torch.float64)
    return v.double()


def col(v):
    return v[:, None]


def loss(student, teacher, weight, x, z, sigma, *, k, sd, c, step):
    a = torch.atan(sigma / sd)
    cos, sin = col(a.cos()), col(a.sin())
    y = cos * x + sin * sd * z
    r = min(1.0, k / WARMUP)

    if teacher is None:
        dy = cos * sd * z - sin * x
    else:  # an EDM denoiser, asked at x_t = y/cos(a)
        noisy = y / cos
        v = sigma**2 + sd**2
        D = col(sd**2 / v) * noisy + col(sigma * sd / v.sqrt()) * teacher(noisy / col(v.sqrt()), sigma.log() / 4)
        # dx/dσ = (x - D)/σ, of y = cos(a)·x with σ = σ_d·tan(a)
        dy = -sin * noisy + cos * (noisy - D) / col(sigma) * sd / cos**2

    def F(y, a):
        return student(y / sd, a)

    def f(y, a):
        return col(a.cos()) * y - col(a.sin()) * sd * F(y, a)

    with torch.no_grad():
        if step == 0:
            minus, dF = torch.func.jvp(F, (y, a), (dy, torch.ones_like(a)))
            g = -(cos**2) * (sd * minus - dy) - r * cos * sin * (y + sd * dF)
            whole = cos * torch.func.jvp(f, (y, a), (dy, torch.ones_like(a)))[1]
        else:
            delta = torch.minimum(a, torch.tensor(step))
            low = a - delta
            below = col(delta.cos()) * y - col(delta.sin()) * dy
            minus = F(y, a)
            dF = (col(delta.cos()) * minus - F(below, low)) / col(delta.sin())
            g = -cos * col(low.cos()) * (sd * minus - dy) - r * cos * col(low.sin()) * (y + sd * dF)
            whole = cos * (f(y, a) - f(below, low)) / col(delta.sin())
        if r == 1:
            assert (g - whole).abs().max() < 1e-10 * max(1, whole.abs().max()), "the tangent is not that of f"
        g = g / (g.norm(dim=1, keepdim=True) + c)
    each = (F(y, a) - minus - g).square().mean(1)
    if weight is None:
        return each.mean()
    label = (sigma / sd).log() / 4
    turns = col(label) * weight["freqs"] + weight["phases"]
    w = math.sqrt(2) * (2 * math.pi * turns).cos() @ weight["out.weight"][0] + weight["out.bias"]
    return (w.exp() * each - w).mean()


def main():
    g = torch.Generator().manual_seed(SEED)
    layout = []
    student = network(g, layout)
    teacher = network(g, [])
    weight = {name: draw32(shape, g).requires_grad_() for name, shape in
              [("freqs", (FEATURES,)), ("phases", (FEATURES,)), ("out.weight", (1, FEATURES)), ("out.bias", (1,))]}
    x, z = draw32((len(LEVELS) * 3,), g).reshape(-1, 3) * 5, draw32((len(LEVELS) * 3,), g).reshape(-1, 3) * 10
    out = {"x": x, "z": z, "sigma": torch.tensor(LEVELS)}
    cases = {}
    for name, options in CASES.items():
        o = dict(teacher=False, weight=False, k=WARMUP, sd=0.5, c=0.1, step=0.0) | options
        cases[name] = o
        student.zero_grad()
        for v in weight.values():
            v.grad = None
        value = loss(student, teacher if o["teacher"] else None, weight if o["weight"] else None, x, z, out["sigma"],
                     k=o["k"], sd=o["sd"], c=o["c"], step=o["step"])
        value.backward()
        out[name + ":loss"] = value
        for k, p in student.named_parameters():
            out[name + ":" + k] = p.grad.clone()
        if o["weight"]:
            for k in ("out.weight", "out.bias"):
                out[name + ":weight." + k] = weight[k].grad.clone()
        print(f"{name}: {value.item():.6f}")
    os.makedirs(os.path.dirname(PATH), exist_ok=True)
    save_file({k: v.detach().contiguous() for k, v in out.items()}, PATH, metadata={
        "torch": torch.__version__, "seed": str(SEED), "config": json.dumps(CONFIG), "weights": json.dumps(layout),
        "features": str(FEATURES), "warmup": str(WARMUP), "cases": json.dumps(cases)})
    print(os.path.relpath(PATH, ROOT), os.path.getsize(PATH))


if __name__ == "__main__":
    main()
