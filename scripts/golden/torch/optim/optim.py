"""Steps of PyTorch's optimizers, for torch/optim/golden_test.go.

    python scripts/golden/torch/optim/optim.py [folder]        writes torch/optim/testdata/optim.safetensors

Four parameters get given gradients for 12 steps, past the step at which RAdam begins to normalise (the 6th); parameter
"c" has gradients of the size of epsilon, so that its place in the formula shows, and "d" has none at some steps, so that
its step count lags behind. Each run's parameters after the steps in AFTER are one row, joined in the order of SHAPES. PyTorch
runs its plainest code: neither fused nor foreach.
"""

import pathlib
import sys

import torch
from safetensors.torch import save_file

SEED, STEPS, AFTER = 20231108, 12, (1, 2, 5, 6, 8, 12)
SHAPES = {"a": (3, 4), "b": (7,), "c": (2, 1, 3), "d": ()}
SCALES = {"a": 1, "b": 100, "c": 1e-8, "d": 1}
ABSENT = {"d": (2, 3, 7)}  # steps, from 0, at which a parameter has no gradient

O = torch.optim
SECOND = [{"names": "cd", "lr": 0.03, "weight_decay": 0.2}]  # the settings of a second group
RUNS = {
    "sgd": (O.SGD, {}, []),
    "sgd_decay": (O.SGD, dict(lr=0.1, weight_decay=0.1), []),
    "sgd_momentum": (O.SGD, dict(lr=0.1, momentum=0.9), []),
    "sgd_dampening": (O.SGD, dict(lr=0.1, momentum=0.9, dampening=0.5, weight_decay=0.1), []),
    "sgd_nesterov": (O.SGD, dict(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1), SECOND),
    "adam": (O.Adam, {}, []),
    "adam_decay": (O.Adam, dict(lr=0.01, betas=(0.5, 0.9), eps=1e-4, weight_decay=0.1), SECOND),
    "adam_beta1_0": (O.Adam, dict(lr=0.01, betas=(0.0, 0.99)), []),
    "adamw": (O.AdamW, {}, []),
    "adamw_groups": (O.AdamW, dict(lr=0.05, weight_decay=0.3), SECOND),
    "radam": (O.RAdam, {}, []),
    "radam_decay": (O.RAdam, dict(lr=0.02, weight_decay=0.1), SECOND),
    "radam_decoupled": (O.RAdam, dict(lr=0.02, weight_decay=0.1, decoupled_weight_decay=True), SECOND),
    "radam_betas": (O.RAdam, dict(lr=0.02, betas=(0.9, 0.99), eps=1e-3), []),
    "radam_never": (O.RAdam, dict(lr=0.02, betas=(0.9, 0.5)), []),  # rho is 3 at most: never normalised
}


def factor(k):
    """What the learning rate of step k is multiplied by."""
    return 1 / (1 + 0.1 * k)


torch.set_num_threads(1)
g = torch.Generator().manual_seed(SEED)
start = {n: torch.randn(s, generator=g, dtype=torch.float64) for n, s in SHAPES.items()}
grads = {n: torch.randn((STEPS, *s), generator=g, dtype=torch.float64) * SCALES[n] for n, s in SHAPES.items()}
grads["a"][:, 0, 0] = 0

tensors = {"start." + n: t for n, t in start.items()} | {"grads." + n: t for n, t in grads.items()}
for dtype, suffix in ((torch.float64, "f64"), (torch.float32, "f32")):
    for name, (make, kwargs, more) in RUNS.items():
        params = {n: t.to(dtype, copy=True).requires_grad_() for n, t in start.items()}
        groups = [{"params": [params[n] for n in x["names"]], **{k: v for k, v in x.items() if k != "names"}} for x in more]
        first = [p for n, p in params.items() if not any(n in x["names"] for x in more)]
        plain = {} if make is O.RAdam else {"fused": False}
        opt = make([{"params": first}, *groups], foreach=False, **plain, **kwargs)
        rates = [x["lr"] for x in opt.param_groups]
        rows = []
        for k in range(STEPS):
            for n, p in params.items():
                p.grad = None if k in ABSENT.get(n, ()) else grads[n][k].to(dtype)
            for x, lr in zip(opt.param_groups, rates):
                x["lr"] = lr * factor(k)
            opt.step()
            if k + 1 in AFTER:
                rows.append(torch.cat([p.detach().flatten() for p in params.values()]))
        tensors[f"{name}.{suffix}"] = torch.stack(rows)

root = pathlib.Path(str(pathlib.Path(__file__).resolve()).partition("/scripts/golden/")[0])
out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else root / "torch" / "optim" / "testdata"
made_by = f"scripts/golden/torch/optim/optim.py, torch {torch.__version__}, seed {SEED}"
save_file(tensors, out / "optim.safetensors", metadata={"made by": made_by})
