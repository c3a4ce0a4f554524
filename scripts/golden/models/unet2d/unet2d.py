"""Outputs of diffusers' UNet2DModel, for models/unet2d's tests.

    python scripts/golden/models/unet2d/unet2d.py      writes models/unet2d/testdata/cases.safetensors

Weights are not stored: both sides draw them from one stream in the order of their names, so that whole networks fit into a small file. The
metadata of each case has the hash of their names and shapes.
"""
import hashlib
import json
import math
import os

import diffusers
import torch
from diffusers import UNet2DModel
from safetensors.torch import save_file

SEED = 20261129
ROOT = os.path.abspath(__file__).partition("/scripts/golden/")[0]
OUT = os.path.join(ROOT, "models", "unet2d", "testdata", "cases.safetensors")

small = dict(block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, sample_size=8)
CASES = {
    # DDPM's: google/ddpm-*
    "ddpm": small | dict(down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"), downsample_padding=0,
                         attention_head_dim=None, flip_sin_to_cos=False, freq_shift=1, norm_eps=1e-6),
    # ADM's: openai/diffusers-cd_*, class-conditional with scale and shift, and unconditional
    "adm": small | dict(down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"), block_out_channels=(16, 32, 48),
                        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"), downsample_type="resnet", upsample_type="resnet",
                        attention_head_dim=16, resnet_time_scale_shift="scale_shift", attn_norm_num_groups=4, num_class_embeds=5),
    "lsun": small | dict(down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
                         downsample_type="resnet", upsample_type="resnet", attention_head_dim=8),
    # NCSN++'s: google/ncsnpp-*
    "ncsnpp": dict(sample_size=8, block_out_channels=(32, 32, 64), layers_per_block=1, norm_num_groups=None, norm_eps=1e-6, attention_head_dim=None,
                   mid_block_scale_factor=math.sqrt(2), time_embedding_type="fourier",
                   down_block_types=("SkipDownBlock2D", "AttnSkipDownBlock2D", "SkipDownBlock2D"),
                   up_block_types=("SkipUpBlock2D", "AttnSkipUpBlock2D", "SkipUpBlock2D")),
    # Everything at once that package unet does not have
    "mixed": small | dict(sample_size=(8, 12), in_channels=1, out_channels=2, block_out_channels=(16, 24, 40), layers_per_block=2,
                          down_block_types=("DownBlock2D", "ResnetDownsampleBlock2D", "AttnDownBlock2D"),
                          up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"), upsample_type="resnet", attention_head_dim=8,
                          center_input_sample=True, time_embedding_dim=40, freq_shift=2, dropout=0.1, norm_eps=1e-4),
    "nonorm": small | dict(down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
                           resnet_time_scale_shift="scale_shift", mid_block_scale_factor=2.0),
    "timestep": small | dict(down_block_types=("AttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"), class_embed_type="timestep",
                             num_class_embeds=7, add_attention=False),
    "nomid": small | dict(down_block_types=("UNetResDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UNetResAttnUpBlock2D"), mid_block_type=None),
    "lateskip": small | dict(block_out_channels=(32, 32, 32), down_block_types=("SkipDownBlock2D", "DownBlock2D", "SkipDownBlock2D"),
                             up_block_types=("UpBlock2D", "SkipUpBlock2D", "SkipUpBlock2D")),
    "one": small | dict(block_out_channels=(64,), layers_per_block=2, down_block_types=("AttnSkipDownBlock2D",), up_block_types=("AttnSkipUpBlock2D",)),
}
TIMES = [0.25, 37.0, 999.0]


def draw(name, shape, g):
    """Values of the size that training leaves behind. drawn in golden_test.go does the same."""
    v = torch.randn(shape, generator=g)
    if name == "time_proj.weight":
        return v * 2
    if len(shape) > 1:
        return v / math.sqrt(math.prod(shape[1:]))
    return v * 0.1 + 1 if name.endswith("weight") else v * 0.1


def case(name, kwargs, out, meta):
    net = UNet2DModel(**kwargs).eval()
    g = torch.Generator().manual_seed(SEED)
    weights = {k: draw(k, tuple(v.shape), g) for k, v in sorted(net.state_dict().items())}
    net.load_state_dict(weights)
    size = net.config.sample_size
    h, w = (size, size) if isinstance(size, int) else size
    x = torch.randn(len(TIMES), net.config.in_channels, h, w, generator=g)
    t = torch.tensor(TIMES)
    labels = torch.tensor([4, 0, 2]) if net.config.num_class_embeds else None
    with torch.no_grad():
        out[f"{name}/x"], out[f"{name}/y"] = x, net(x, t, labels).sample
    config = {k: v for k, v in net.config.items() if not k.startswith("_")} | {"_class_name": "UNet2DModel"}
    meta[f"{name}/config"] = json.dumps(config)
    lines = "".join(f"{k} {json.dumps(list(v.shape))}\n" for k, v in weights.items())
    meta[f"{name}/layout"] = hashlib.sha256(lines.encode()).hexdigest()


if __name__ == "__main__":
    out = {"t": torch.tensor(TIMES), "class": torch.tensor([4, 0, 2])}
    meta = {"torch": torch.__version__, "diffusers": diffusers.__version__, "seed": str(SEED), "cases": json.dumps(list(CASES))}
    for name, kwargs in CASES.items():
        case(name, kwargs, out, meta)
    os.makedirs(os.path.dirname(OUT), exist_ok=True)
    save_file({k: v.contiguous() for k, v in out.items()}, OUT, metadata=meta)
    print(OUT, os.path.getsize(OUT))
