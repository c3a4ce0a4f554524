"""Outputs and gradients of multilayer perceptrons in PyTorch, for models/mlp's tests.

    python scripts/golden/models/mlp/mlp.py      writes models/mlp/testdata/

Weights are not stored: a file's metadata lists their names and shapes, and both sides draw them in that order from one
stream (see draw).
"""
import json
import math
import os

import torch
from safetensors.torch import save_file
from torch import nn

SEED = 20261125
ROOT = os.path.abspath(__file__).partition("/scripts/golden/")[0]
OUT = os.path.join(ROOT, "models", "mlp", "testdata")

CASES = {  # as models/mlp's Config, in JSON
    "points": dict(shape=[2], width=32, depth=3),
    "images": dict(shape=[3, 2, 4], width=24, depth=1, freqs=2, noise_freqs=3, noise_scale=0.25, classes=3, until=True,
                   guidance=True),
}
LABELS = [-1.5, 0.1, 1.1]


def draw(shape, g):
    """Values of the size that training leaves behind. weights() in golden_test.go does the same."""
    v = torch.randn(shape, generator=g)
    return v / math.sqrt(shape[1]) if len(shape) > 1 else v * 0.1


def features(v, freqs):
    return torch.cat([v] + [f(v * 2**i) for i in range(freqs) for f in (torch.sin, torch.cos)], 1)


class MLP(nn.Module):
    def __init__(self, shape, width, depth, freqs=3, noise_freqs=2, noise_scale=1.0, classes=0, until=False, guidance=False):
        super().__init__()
        self.freqs, self.noise_freqs, self.noise_scale = freqs, noise_freqs, noise_scale
        n = math.prod(shape)
        inputs = n * (1 + 2 * freqs) + (1 + until + guidance) * (1 + 2 * noise_freqs)
        self.layers = nn.ModuleList(nn.Linear(width if i else inputs, width) for i in range(depth))
        self.class_embedding = nn.Embedding(classes + 1, width) if classes else None
        self.out = nn.Linear(width, n)

    def forward(self, x, noise, until=None, guidance=None, label=None):
        labels = [noise * self.noise_scale]
        if until is not None:
            labels.append(until * self.noise_scale)
        if guidance is not None:
            labels.append(guidance)
        h = torch.cat([features(x.flatten(1), self.freqs)] + [features(v[:, None], self.noise_freqs) for v in labels], 1)
        for i, layer in enumerate(self.layers):
            h = layer(h)
            if i == 0 and label is not None:
                h = h + self.class_embedding(label)
            h = nn.functional.silu(h)
        return self.out(h).reshape(x.shape)


def case(name, config):
    net = MLP(**config)
    g = torch.Generator().manual_seed(SEED)
    weights = {k: draw(tuple(p.shape), g) for k, p in net.named_parameters()}
    net.load_state_dict(weights)
    x = torch.randn([len(LABELS)] + config["shape"], generator=g).requires_grad_()
    out = {"x": x.detach().clone(), "noise": torch.tensor(LABELS)}
    cond = {}
    if config.get("until"):
        cond = {"until": torch.tensor([-1.6, -0.5, 1.0]), "guidance": torch.tensor([0.0, 1.0, 7.5]),
                "label": torch.tensor([2, 0, 3])}
    y = net(x, out["noise"], **cond)
    weight = torch.randn(y.shape, generator=g)
    (y * weight).sum().backward()
    out |= cond | {"y": y, "weight": weight, "grad:x": x.grad} | {"grad:" + k: p.grad for k, p in net.named_parameters()}
    path = os.path.join(OUT, name + ".safetensors")
    os.makedirs(OUT, exist_ok=True)
    save_file({k: v.detach().contiguous() for k, v in out.items()}, path, metadata={
        "torch": torch.__version__, "seed": str(SEED), "config": json.dumps(config),
        "weights": json.dumps([[k, list(v.shape)] for k, v in weights.items()])})
    print(os.path.relpath(path, ROOT), os.path.getsize(path))


if __name__ == "__main__":
    for name, config in CASES.items():
        case(name, config)
