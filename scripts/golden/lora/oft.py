"""Adapters of OFT and BOFT and what LyCORIS makes of them, for lora/rotate_test.go:

    python scripts/golden/lora/oft.py      writes lora/testdata/oft.safetensors and oft-deltas.safetensors

The layers are two of models/sd/sdtest/tiny's U-Net, a linear one and a convolution, whose weights follow from their names (scripts/golden/shared/sdfill.py).
Each case CASE has one module; its tensors are under CASE/ and the names of LyCORIS' files, the differences of the weight under
CASE/WEIGHT of the adapter's weight, as get_merged_weight less the weight gives them in float32
(get_diff_weight fails with a rescale and another weight than 1).
"""
import os
import sys

import lycoris
import torch
from lycoris.modules.boft import ButterflyOFTModule
from lycoris.modules.diag_oft import DiagOFTModule
from safetensors.torch import save_file
from torch import nn

sys.path.append(os.path.join(os.path.abspath(__file__).partition("/scripts/golden/")[0], "scripts", "golden", "shared"))
import sdfill  # noqa: E402

SEED = 20261129
OUT = os.path.join(os.path.abspath(__file__).partition("/scripts/golden/")[0], "lora", "testdata")
LINEAR, CONV = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", "down_blocks.0.resnets.0.conv1"


def layer(name):
    m = nn.Linear(16, 16, bias=False) if name == LINEAR else nn.Conv2d(16, 16, 3, bias=False)
    m.weight.data = sdfill.value(name + ".weight", tuple(m.weight.shape))
    return m


def main():
    g = torch.Generator().manual_seed(SEED)
    files, deltas = {}, {}
    for case, name, cls, dim, constraint, rescaled in (
            ("oft", LINEAR, DiagOFTModule, 4, 0, False), ("oft-rescaled", LINEAR, DiagOFTModule, 2, 0, True), ("oft-bound", CONV, DiagOFTModule, 4, 0.01, False),
            ("oft-loose", LINEAR, DiagOFTModule, 4, 10.0, False), ("oft-conv", CONV, DiagOFTModule, 8, 0, True),
            ("boft", LINEAR, ButterflyOFTModule, 4, 0, False), ("boft-rescaled", LINEAR, ButterflyOFTModule, 2, 0, True),
            ("boft-bound", CONV, ButterflyOFTModule, 2, 0.01, True)):
        stem = "lora_unet_" + name.replace(".", "_")
        m = cls(stem, layer(name), 1.0, lora_dim=dim, constraint=constraint, rescaled=rescaled)
        with torch.no_grad():
            m.oft_blocks.copy_(torch.randn(m.oft_blocks.shape, generator=g) * 0.3)
            if rescaled:
                m.rescale.copy_(1 + 0.2 * torch.randn(m.rescale.shape, generator=g))
            for key in ("oft_blocks", "alpha", "rescale"):
                t = m.state_dict().get(key)
                if t is not None:
                    files[f"{case}/{stem}.{key}"] = t.float().clone().contiguous()
            for weight in (1.0, 0.6):
                deltas[f"{case}/{weight}"] = (m.get_merged_weight(weight)[0] - m.org_weight).clone().contiguous()
    meta = {"seed": str(SEED), "torch": torch.__version__, "lycoris": lycoris.__dict__.get("__version__", "") or __import__("importlib.metadata").metadata.version("lycoris-lora")}
    os.makedirs(OUT, exist_ok=True)
    save_file(files, os.path.join(OUT, "oft.safetensors"), meta)
    save_file(deltas, os.path.join(OUT, "oft-deltas.safetensors"), meta)
    print({k: tuple(v.shape) for k, v in files.items()}, meta)


main()
