"""Gives a PyTorch module the weights that models/sd/sdtest gives ours: values follow from the tensors' names alone."""
import math
import zlib

import torch


def value(name, shape):
    z = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    if len(shape) > 1:
        return z / math.sqrt(z.numel() // shape[0])
    return z * 0.1 + 1 if name.endswith("weight") else z * 0.1


def fill(module, prefix="", rename=lambda name: name):
    """Fills every floating-point tensor of module's state dict. rename gives our name for PyTorch's."""
    state = module.state_dict()
    for name, t in state.items():
        if t.is_floating_point():
            t.copy_(value(prefix + rename(name), tuple(t.shape)))
    module.load_state_dict(state)
    return module.eval()
