"""What diffusers' autoencoders compute, for models/sd/vae/golden_test.go:

    python scripts/golden_sd_vae.py     writes models/sd/vae/testdata/*.safetensors

Weights follow from the tensors' names (sdfill.py). Everything is computed in float64 and in float32. The tiny autoencoder with pools
is written down here, after the description that its author gives with the weights: diffusers has no class for it.
"""
import json
import os

import diffusers
import torch
import torch.nn as nn
from diffusers import AutoencoderKL, AutoencoderTiny
from safetensors.torch import save_file
from sdfill import fill

FOLDER = os.path.join(os.path.dirname(__file__), "..", "models", "sd", "vae", "testdata")
torch.manual_seed(1)
torch.set_num_threads(1)
torch.set_grad_enabled(False)


def write(name, tensors, config):
    os.makedirs(FOLDER, exist_ok=True)
    path = os.path.join(FOLDER, name + ".safetensors")
    save_file({k: v.contiguous() for k, v in tensors.items()}, path,
              metadata={"torch": torch.__version__, "diffusers": diffusers.__version__, "config": json.dumps(config)})
    print(name, os.path.getsize(path))


def config_of(model):
    return {k: v for k, v in dict(model.config).items() if not k.startswith("_") or k == "_class_name"}


def kl(name, size, tile=0, **more):
    n = len(more["block_out_channels"])
    model = AutoencoderKL(down_block_types=("DownEncoderBlock2D",) * n, up_block_types=("UpDecoderBlock2D",) * n, **more)
    fill(model)
    if tile:
        model.enable_tiling()
    x = torch.rand(2, 3, *size) * 2 - 1
    factor = 2 ** (n - 1)
    z = torch.randn(2, model.config.latent_channels, size[0] // factor, size[1] // factor)
    out = {"x": x, "z": z}
    for kind, d in (("32", torch.float32), ("64", torch.float64)):
        model.to(d)
        post = model.encode(x.to(d)).latent_dist
        out["mean" + kind], out["logvar" + kind] = post.mean, post.logvar
        out["decoded" + kind] = model.decode(z.to(d) / model.config.scaling_factor + (model.config.shift_factor or 0)).sample
        if d == torch.float32:  # as pipelines draw with one generator for each picture
            g = [torch.Generator().manual_seed(i) for i in (7, 8)]
            drawn = torch.cat([model.encode(x[i:i + 1]).latent_dist.sample(generator=g[i]) for i in range(2)])
            out["drawn"] = (drawn - (model.config.shift_factor or 0)) * model.config.scaling_factor
            shared = post.sample(generator=torch.Generator().manual_seed(9))
            out["shared"] = (shared - (model.config.shift_factor or 0)) * model.config.scaling_factor
    write(name, out, dict(config_of(model), tile=tile))


kl("kl", (24, 16), block_out_channels=(8, 16, 16), layers_per_block=1, norm_num_groups=4, sample_size=24)
kl("kl_plain", (16, 16), block_out_channels=(8, 8), layers_per_block=2, norm_num_groups=2, use_quant_conv=False, use_post_quant_conv=False,
   mid_block_add_attention=False, latent_channels=8, shift_factor=0.25, scaling_factor=0.5)
kl("kl_tiled", (40, 56), tile=32, block_out_channels=(4, 4, 8), layers_per_block=1, norm_num_groups=2, sample_size=32)


class Block(nn.Module):
    def __init__(self, width, pool):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
                                  nn.Conv2d(width, width, 3, padding=1))
        if pool:
            self.pool = nn.Sequential(nn.Conv2d(width, 4 * width, 1, bias=False), nn.GroupNorm(4, 4 * width), nn.ReLU(),
                                      nn.Conv2d(4 * width, width, 1, bias=False))

    def forward(self, x):
        if hasattr(self, "pool"):
            x = x + self.pool(x)
        return torch.relu(self.conv(x) + x)


def pooled(width, latents, encoder_blocks, decoder_blocks):
    last = len(encoder_blocks) - 1
    e, d = [], [nn.Conv2d(latents, width, 3, padding=1), nn.ReLU()]
    for i, n in enumerate(encoder_blocks):
        e.append(nn.Conv2d(3, width, 3, padding=1) if i == 0 else nn.Conv2d(width, width, 3, 2, 1, bias=False))
        e += [Block(width, i == last) for _ in range(n)]
    e.append(nn.Conv2d(width, latents, 3, padding=1))
    for i, n in enumerate(decoder_blocks):
        d += [Block(width, i == 0) for _ in range(n)]
        if i < last:
            d += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1, bias=False)]
    d.append(nn.Conv2d(width, 3, 3, padding=1))
    both = nn.Module()
    both.encoder, both.decoder = nn.Module(), nn.Module()
    both.encoder.layers, both.decoder.layers = nn.Sequential(*e), nn.Sequential(*d)
    return both


def tiny(name, model, encode, decode, latents, config, size=(16, 24)):
    fill(model)
    factor = 2 ** (len(config["num_encoder_blocks"]) - 1)
    x = torch.rand(2, 3, *size) * 2 - 1
    z = torch.randn(2, latents, size[0] // factor, size[1] // factor) * 3
    out = {"x": x, "z": z}
    for kind, d in (("32", torch.float32), ("64", torch.float64)):
        model.to(d)
        out["encoded" + kind], out["decoded" + kind] = encode(x.to(d)), decode(z.to(d))
    write(name, out, config)


small = dict(encoder_block_out_channels=(8, 8, 8), decoder_block_out_channels=(8, 8, 8), num_encoder_blocks=(1, 2, 1),
             num_decoder_blocks=(2, 1, 1))
m = AutoencoderTiny(**small)
tiny("taesd", m, lambda x: m.encode(x).latents, lambda z: m.decode(z).sample, 4, config_of(m))
p = pooled(8, 6, small["num_encoder_blocks"], small["num_decoder_blocks"])
tiny("taef2", p, lambda x: p.encoder.layers((x + 1) / 2), lambda z: p.decoder.layers(torch.tanh(z / 3) * 3) * 2 - 1, 6,
     dict(small, latent_channels=6, pool=True))
