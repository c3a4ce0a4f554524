"""A directory as early versions of diffusers wrote it, for models/checkpoint's tests.

    python scripts/golden/models/checkpoint/folders.py      writes models/checkpoint/testdata/old

Like google/ddpm-cifar10-32, it has the network at its root: config.json, the weights as a file of torch.save with the names that attention had
then, scheduler_config.json and model_index.json. output.safetensors has the prediction of diffusers' UNet2DModel.from_pretrained.
"""
import json
import math
import os
import shutil

import diffusers
import torch
from diffusers import UNet2DModel
from safetensors.torch import save_file

SEED = 20261129
OUT = os.path.join(os.path.abspath(__file__).partition("/scripts/golden/")[0], "models", "checkpoint", "testdata", "old")
CONFIG = {
    "_class_name": "UNet2DModel", "_diffusers_version": "0.0.4", "act_fn": "silu", "attention_head_dim": None, "block_out_channels": [8, 8],
    "center_input_sample": False, "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "downsample_padding": 0, "flip_sin_to_cos": False,
    "freq_shift": 1, "in_channels": 3, "layers_per_block": 1, "mid_block_scale_factor": 1, "norm_eps": 1e-06, "norm_num_groups": 4,
    "out_channels": 3, "sample_size": 8, "time_embedding_type": "positional", "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}
SCHEDULER = {
    "_class_name": "DDPMScheduler", "_diffusers_version": "0.1.1", "beta_end": 0.02, "beta_schedule": "linear", "beta_start": 0.0001,
    "clip_sample": True, "num_train_timesteps": 1000, "trained_betas": None, "variance_type": "fixed_large",
}
INDEX = {"_class_name": "DDPMPipeline", "_diffusers_version": "0.1.1", "scheduler": ["diffusers", "DDPMScheduler"], "unet": ["diffusers", "UNet2DModel"]}
OLD = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}


def old(name):
    for today, then in OLD.items():
        name = name.replace(today, then)
    return name


if __name__ == "__main__":
    shutil.rmtree(OUT, ignore_errors=True)
    os.makedirs(OUT)
    for name, data in (("config.json", CONFIG), ("scheduler_config.json", SCHEDULER), ("model_index.json", INDEX)):
        with open(os.path.join(OUT, name), "w") as f:
            json.dump(data, f, indent=2)
            f.write("\n")
    g = torch.Generator().manual_seed(SEED)
    net = UNet2DModel.from_config(CONFIG).eval()
    weights = {}
    for k, v in net.state_dict().items():
        v = torch.randn(v.shape, generator=g)
        weights[old(k)] = (v / math.sqrt(math.prod(v.shape[1:])) if v.dim() > 1 else v * 0.1 + (1 if k.endswith("weight") else 0)).half()
    torch.save(weights, os.path.join(OUT, "diffusion_pytorch_model.bin"))
    net = UNet2DModel.from_pretrained(OUT, torch_dtype=torch.float32, use_safetensors=False).eval()
    x, t = torch.randn(2, 3, 8, 8, generator=g), torch.tensor([3.0, 250.0])
    with torch.no_grad():
        save_file({"x": x, "t": t, "y": net(x, t).sample}, os.path.join(OUT, "output.safetensors"),
                  metadata={"torch": torch.__version__, "diffusers": diffusers.__version__, "seed": str(SEED)})
    for name in sorted(os.listdir(OUT)):
        print(name, os.path.getsize(os.path.join(OUT, name)))
