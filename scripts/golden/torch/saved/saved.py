"""A checkpoint of torch.save with everything that occurs in published ones, for torch/saved's tests.

    python scripts/golden/torch/saved/saved.py      writes torch/saved/testdata/tiny.{ckpt,safetensors} and legacy.ckpt

tiny.safetensors has the tensors that are to be found in tiny.ckpt, and in legacy.ckpt, which is the same in the format from before PyTorch 1.6.
"""
import os
import sys
import types
from collections import OrderedDict

import torch
from safetensors.torch import save_file
from torch import nn

OUT = os.path.join(os.path.abspath(__file__).partition("/scripts/golden/")[0], "torch", "saved", "testdata")


def checkpoint():
    """Tensors in every type and order of elements, between objects of training."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    for i in range(name.count(".") + 1):
        path = name.rsplit(".", i)[0]
        module = sys.modules.setdefault(path, types.ModuleType(path))
    module = sys.modules[name]
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": module.__name__})
    callback = module.ModelCheckpoint()
    callback.best = torch.ones(3)
    base = torch.arange(24, dtype=torch.float32) / 8
    state = OrderedDict(
        f32=base.view(2, 3, 4), f64=base.double(), f16=base.half(), bf16=base.bfloat16(), i64=torch.arange(-2, 2), i32=torch.arange(3, dtype=torch.int32),
        u8=torch.tensor([0, 255], dtype=torch.uint8), bool=torch.tensor([True, False, True]), scalar=torch.tensor(2.5), empty=torch.zeros(2, 0, 3),
        turned=base.view(4, 6).T, part=base[5:17].view(3, 4), steps=base.view(4, 6)[::2, 1::2], parameter=nn.Parameter(base[:4].clone()),
        channels=torch.arange(60.0).view(1, 3, 4, 5).to(memory_format=torch.channels_last),
        f8=base.to(torch.float8_e4m3fn).view(4, 6), f8part=base.to(torch.float8_e5m2)[5:17].view(3, 4).T)
    whole = {"epoch": 4, "global_step": 875000, "callbacks": {type(callback): callback}, "lr": 1e-4, "big": 1 << 80, "none": None, "set": {1, 2},
             "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}}], "state_dict": state}
    torch.save(whole, os.path.join(OUT, "tiny.ckpt"))
    torch.save(whole, os.path.join(OUT, "legacy.ckpt"), _use_new_zipfile_serialization=False)
    save_file({k: v.detach().contiguous().clone() for k, v in state.items()}, os.path.join(OUT, "tiny.safetensors"), metadata={"format": "pt"})


if __name__ == "__main__":
    torch.manual_seed(0)
    os.makedirs(OUT, exist_ok=True)
    checkpoint()
