"""Weights of networks of convolutions and batch norms, for generators of golden files; DrawnNorms in torch/torchtest does the same."""
import torch


def draw(state, gen, norm):
    """Values for a state dict in its order, and the names and shapes of what was drawn; the rest, step counts, stays. norm is in the names of norms."""
    layout, out = [], {}
    for name, t in state.items():
        if t.dtype != torch.float32:
            out[name] = t
            continue
        layout.append([name, list(t.shape)])
        v = torch.randn(t.shape, generator=gen)
        if name.endswith("running_var"):
            v = v.abs() * 0.5 + 0.5
        elif t.ndim == 4:
            v = v * (2 / (t.shape[1] * t.shape[2] * t.shape[3])) ** 0.5
        elif norm in name and name.endswith(".weight"):
            v = v * 0.1 + 1
        else:
            v = v * 0.1
        out[name] = v
    return layout, out
