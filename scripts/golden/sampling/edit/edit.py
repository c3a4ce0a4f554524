"""Results of zero-shot editing for a fixed consistency function, for sampling/edit/golden_test.go.

    python scripts/golden/sampling/edit/edit.py      writes sampling/edit/testdata/edit.safetensors

Algorithm 4 of Song et al. 2023 with the matrices that the authors' code has (numpy's QR of the vector and the unit vectors, of which the
first column's sign is made positive), in float64. Where paper and code differ:

  - the code starts from an x that its caller gives; the notebook for CIFAR-10 adds noise times the first *index*, which is 0. Here it is
    the paper's: known part plus noise of the first level.
  - the code clamps each result to [-1, 1] before the known part is put in. So here; the paper does not say it. Each task is here without
    it, too.
  - the code's inpainting fills what is not known with black, which only its returned image shows; the paper's known part is 0 there.
  - a mask of 1 is known in the code and generated in the paper. Here it is the paper's.
  - for strokes, where everything is generated, the known part by the paper's first line is 0; its text starts from the painting.

Each image has its own stream of noise. After the last step nothing is drawn.
"""
import math
import os

import numpy as np
import torch
from safetensors.torch import save_file

SHAPE, SEEDS, START = (2, 3, 8, 8), (11, 12), 20261129
LEVELS, EPS = [80.0, 12.0, 3.0, 0.9, 0.2], 0.002
PATCH = 4
DOUBLE = torch.float64


def f(x, t):
    """The consistency function: the identity at EPS, and coupled between neighbours and channels."""
    u = x / math.sqrt(t**2 + 0.25)
    mixed = torch.tanh(0.9 * u + 0.6 * u.roll(1, 3) - 0.4 * u.roll(1, 2) + 0.5 * u.mean(1, keepdim=True))
    skip = 0.25 / ((t - EPS) ** 2 + 0.25)
    return skip * x + 1.3 * (t - EPS) / math.sqrt(t**2 + 0.25) * mixed


def orthogonal(vector):
    vector = np.asarray(vector) / np.linalg.norm(vector)
    matrix = np.eye(len(vector))
    matrix[:, 0] = vector
    q = np.linalg.qr(matrix)[0]
    return torch.from_numpy(-q if q[:, 0].sum() < 0 else q)


def colour():
    q = orthogonal([0.2989, 0.5870, 0.1140])
    mask = torch.ones(3, 1, 1, dtype=DOUBLE)
    mask[0] = 0
    return (lambda x: torch.einsum("bchw,cd->bdhw", x, q)), (lambda x: torch.einsum("bdhw,cd->bchw", x, q)), mask


def patches():
    q = orthogonal([1.0] * PATCH**2)
    b, c, h, w = SHAPE
    cut = (h // PATCH, PATCH, w // PATCH, PATCH)
    mask = torch.ones(PATCH**2, dtype=DOUBLE)
    mask[0] = 0

    def forward(x):
        return x.reshape(-1, c, *cut).permute(0, 1, 2, 4, 3, 5).reshape(-1, c, cut[0] * cut[2], PATCH**2) @ q

    def inverse(x):
        return (x @ q.T).reshape(-1, c, cut[0], cut[2], PATCH, PATCH).permute(0, 1, 2, 4, 3, 5).reshape(-1, c, h, w)

    return forward, inverse, mask


def plain(mask):
    return (lambda x: x), (lambda x: x), mask


def streams():
    return [torch.Generator().manual_seed(seed) for seed in SEEDS]


def randn(gens):
    return torch.stack([torch.randn(SHAPE[1:], generator=g, dtype=DOUBLE) for g in gens])


def edit(y, operator, levels=LEVELS, clamp=True, start=None):
    """Algorithm 4. start: the point at the first level, in place of the known part with noise."""
    forward, inverse, mask = operator
    gens = streams()
    known = inverse(forward(y) * (1 - mask))
    if start is None:
        start = (y if bool((mask == 1).all()) else known) + levels[0] * randn(gens)
    x = start
    for i, t in enumerate(levels):
        x = f(x, t)
        if clamp:
            x = x.clamp(-1, 1)
        x = inverse(forward(known) * (1 - mask) + forward(x) * mask)
        if i + 1 < len(levels):
            x = x + math.sqrt(levels[i + 1] ** 2 - EPS**2) * randn(gens)
    return x


def slerp(a, b, t):
    cos = (a * b).sum() / (a.norm() * b.norm())
    psi = torch.arccos(cos)
    return torch.sin((1 - t) * psi) / torch.sin(psi) * a + torch.sin(t * psi) / torch.sin(psi) * b


def main():
    gen = torch.Generator().manual_seed(START)
    y = torch.rand(SHAPE, generator=gen, dtype=DOUBLE) * 2 - 1
    hole = (torch.rand((1, 1) + SHAPE[2:], generator=gen, dtype=DOUBLE) < 0.5).to(DOUBLE)
    all_of_it = plain(torch.ones((), dtype=DOUBLE))
    out = {"image": y, "mask": hole, "levels": torch.tensor(LEVELS + [0.0], dtype=DOUBLE)}
    for name, operator in {"inpaint": plain(hole), "colorize": colour(), "superres": patches()}.items():
        out[name] = edit(y, operator)
        out[name + ".free"] = edit(y, operator, clamp=False)
        forward, inverse, mask = operator
        out[name + ".known"] = inverse(forward(y) * (1 - mask))
    out["stroke"] = edit(y, all_of_it, levels=[5.38, 2.24])
    out["denoise"] = edit(y, all_of_it, levels=[0.3], start=y)
    out["denoise.two"] = edit(y, all_of_it, levels=[0.3, 0.1], start=y)
    z = randn(streams())
    out["slerp"] = torch.stack([slerp(z[0], z[1], t) for t in (0.25, 0.5, 0.9)])
    out["interpolate"] = f(80.0 * out["slerp"], 80.0).clamp(-1, 1)
    path = os.path.join(os.path.dirname(__file__), "../../../../sampling/edit/testdata/edit.safetensors")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    meta = {"script": "scripts/golden/sampling/edit/edit.py", "seeds": str(SEEDS), "start": str(START),
            "versions": f"torch {torch.__version__}, numpy {np.__version__}"}
    save_file({k: v.contiguous() for k, v in out.items()}, path, metadata=meta)
    print(os.path.getsize(path), "bytes")


main()
