"""Names and shapes of the tensors of published UNet2DModels, for models/unet2d's tests.

    python scripts/golden/models/unet2d/published.py      writes models/unet2d/testdata/published.json

The configurations are those of the config.json files on huggingface.co; the networks are built without memory.
"""
import hashlib
import json
import math
import os

import diffusers
import torch
from diffusers import UNet2DModel

ROOT = os.path.abspath(__file__).partition("/scripts/golden/")[0]
OUT = os.path.join(ROOT, "models", "unet2d", "testdata", "published.json")

ADM = dict(downsample_type="resnet", upsample_type="resnet", attention_head_dim=64, attn_norm_num_groups=32, norm_num_groups=32, norm_eps=1e-5)
DDPM = dict(act_fn="silu", attention_head_dim=None, center_input_sample=False, downsample_padding=0, flip_sin_to_cos=False, freq_shift=1,
            layers_per_block=2, mid_block_scale_factor=1, norm_eps=1e-6, norm_num_groups=32, time_embedding_type="positional")
MODELS = {
    "openai/diffusers-cd_imagenet64_l2": ADM | dict(
        sample_size=64, layers_per_block=3, num_class_embeds=1000, block_out_channels=[192, 384, 576, 768], resnet_time_scale_shift="scale_shift",
        down_block_types=["ResnetDownsampleBlock2D"] + ["AttnDownBlock2D"] * 3, up_block_types=["AttnUpBlock2D"] * 3 + ["ResnetUpsampleBlock2D"]),
    "openai/diffusers-cd_bedroom256_l2": ADM | dict(
        sample_size=256, layers_per_block=2, num_class_embeds=None, block_out_channels=[256, 256, 512, 512, 1024, 1024],
        down_block_types=["ResnetDownsampleBlock2D"] * 3 + ["AttnDownBlock2D"] * 3,
        up_block_types=["AttnUpBlock2D"] * 3 + ["ResnetUpsampleBlock2D"] * 3),
    "google/ddpm-cifar10-32": DDPM | dict(
        sample_size=32, block_out_channels=[128, 256, 256, 256], down_block_types=["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"]),
    "google/ddpm-cat-256": DDPM | dict(
        sample_size=256, block_out_channels=[128, 128, 256, 256, 512, 512], down_block_types=["DownBlock2D"] * 4 + ["AttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "AttnUpBlock2D"] + ["UpBlock2D"] * 4),
    "google/ncsnpp-celebahq-256": dict(
        act_fn="silu", attention_head_dim=None, center_input_sample=False, downsample_padding=1, flip_sin_to_cos=True, freq_shift=0,
        layers_per_block=2, mid_block_scale_factor=math.sqrt(2), norm_eps=1e-6, norm_num_groups=None, time_embedding_type="fourier",
        sample_size=256, block_out_channels=[128, 128, 256, 256, 256, 256, 256],
        down_block_types=["SkipDownBlock2D"] * 4 + ["AttnSkipDownBlock2D"] + ["SkipDownBlock2D"] * 2,
        up_block_types=["SkipUpBlock2D"] * 2 + ["AttnSkipUpBlock2D"] + ["SkipUpBlock2D"] * 4),
}

if __name__ == "__main__":
    out = {"torch": torch.__version__, "diffusers": diffusers.__version__, "models": {}}
    for name, config in MODELS.items():
        with torch.device("meta"):
            net = UNet2DModel(**config)
        shapes = sorted((k, list(v.shape)) for k, v in net.state_dict().items())
        text = "".join(f"{k} {json.dumps(v)}\n" for k, v in shapes)
        out["models"][name] = dict(config={"_class_name": "UNet2DModel", "in_channels": 3, "out_channels": 3} | config, tensors=len(shapes),
                                   weights=sum(math.prod(v) for _, v in shapes), sha256=hashlib.sha256(text.encode()).hexdigest())
    os.makedirs(os.path.dirname(OUT), exist_ok=True)
    with open(OUT, "w") as f:
        json.dump(out, f, indent=1)
        f.write("\n")
    print(OUT, os.path.getsize(OUT))
