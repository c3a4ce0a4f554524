"""What diffusers' autoencoders compute, for models/sd/vae/golden_test.go:

    python scripts/golden/models/sd/vae/vae.py             writes models/sd/vae/testdata/*.safetensors and models/sd/testdata/taesd*
    python scripts/golden/models/sd/vae/vae.py DATA        and taef2.safetensors, of DATA/weights/taef2_{encoder,decoder}.safetensors
                                                and a picture of DATA/emoji/noto-64.tar.gz

Weights follow from the tensors' names (shared/sdfill.py), but for TAEF2's, which are the published ones. Everything is computed in float64,
draws from posteriors in float32 and bfloat16, too. Tiny autoencoders with pools are written down here, after the names and shapes of the
published tensors: diffusers has no class for them.
"""
import io
import json
import os
import sys
import tarfile

import diffusers
import numpy as np
import torch
import torch.nn as nn
from diffusers import AutoencoderKL, AutoencoderTiny
from PIL import Image
from safetensors.torch import load_file, save_file

sys.path.append(os.path.join(os.path.abspath(__file__).partition("/scripts/golden/")[0], "scripts", "golden", "shared"))
from sdfill import fill  # noqa: E402

FOLDER = os.path.join(os.path.abspath(__file__).partition("/scripts/golden/")[0], "models", "sd", "vae", "testdata")
torch.set_num_threads(1)
torch.set_grad_enabled(False)
D = torch.float64


def write(name, tensors, config, **more):
    os.makedirs(FOLDER, exist_ok=True)
    path = os.path.join(FOLDER, name + ".safetensors")
    save_file({k: v.contiguous() for k, v in tensors.items()}, path,
              metadata={"torch": torch.__version__, "diffusers": diffusers.__version__, "config": json.dumps(config), **more})
    os.chmod(path, 0o644)
    print(name, os.path.getsize(path))


def config_of(model):
    return {k: v for k, v in dict(model.config).items() if not k.startswith("_") or k == "_class_name"}


def inputs(n, size, latents, factor, seed=1):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 3, *size, generator=g, dtype=torch.float32) * 2 - 1
    return x, torch.randn(n, latents, size[0] // factor, size[1] // factor, generator=g, dtype=torch.float32)


def kl(name, size, n=2, tiling=False, slicing=False, **more):
    levels = len(more["block_out_channels"])
    model = AutoencoderKL(down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels, **more)
    fill(model)
    if tiling:
        model.enable_tiling()
    if slicing:
        model.enable_slicing()
    c = model.config
    x, z = inputs(n, size, c.latent_channels, 2 ** (levels - 1))
    shift = c.shift_factor or 0
    out = {"x": x, "z": z}
    for kind, d in (("float64", D), ("float32", torch.float32), ("bfloat16", torch.bfloat16)):  # in this order nothing is lost
        model.to(d)
        post = model.encode(x.to(d)).latent_dist
        # As pipelines draw: with one generator for all pictures, and with one for each.
        out["shared." + kind] = (post.sample(generator=torch.Generator().manual_seed(9)) - shift) * c.scaling_factor
        each = [diffusers.models.autoencoders.vae.DiagonalGaussianDistribution(post.parameters[i:i + 1])
                .sample(generator=torch.Generator().manual_seed(7 + i)) for i in range(n)]
        out["each." + kind] = (torch.cat(each) - shift) * c.scaling_factor
        if d == D:
            out["mean"], out["logvar"] = post.mean, post.logvar
            out["decoded"] = model.decode(z.to(d) / c.scaling_factor + shift).sample
    write(name, out, config_of(model), tile=str(c.sample_size if tiling else 0), slice=str(int(slicing)))


kl("kl", (24, 16), block_out_channels=(8, 16, 16), layers_per_block=1, norm_num_groups=4, sample_size=24)
kl("kl_plain", (16, 16), block_out_channels=(8, 8), layers_per_block=2, norm_num_groups=2, use_quant_conv=False, use_post_quant_conv=False,
   mid_block_add_attention=False, latent_channels=8, shift_factor=0.25, scaling_factor=0.5)
# Three tiles by two, of which the last are cut off; blends of 6 pixels and 3 latents.
kl("kl_tiled", (40, 28), n=1, tiling=True, block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=2, sample_size=24)
kl("kl_sliced", (20, 12), n=3, tiling=True, slicing=True, block_out_channels=(4, 4, 4), layers_per_block=1, norm_num_groups=2, sample_size=16)


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
    both.encode = lambda x: both.encoder.layers((x + 1) / 2)
    both.decode = lambda z: both.decoder.layers(torch.tanh(z / 3) * 3) * 2 - 1
    return both


def tiny(name, model, encode, decode, config, size=(16, 24)):
    fill(model).to(D)
    factor = 2 ** (len(config["num_encoder_blocks"]) - 1)
    x, z = inputs(2, size, config["latent_channels"], factor)
    z *= 3  # where tanh bends
    write(name, {"x": x, "z": z, "encoded": encode(x.to(D)), "decoded": decode(z.to(D))}, config)


small = dict(encoder_block_out_channels=(8, 8, 8), decoder_block_out_channels=(8, 8, 8), num_encoder_blocks=(1, 2, 1),
             num_decoder_blocks=(2, 1, 1))
m = AutoencoderTiny(latent_channels=5, **small)
tiny("taesd", m, lambda x: m.encode(x).latents, lambda z: m.decode(z).sample, config_of(m))


def tiny_tiled():
    """A picture of two tiles by three, of which the last are cut off, with blends of 8 pixels and 2 latents. diffusers takes the factor
    from the number of channels, which is TAESD's. Inputs are those of inputs(1, (72, 120), 4, 4); of the decoded picture the file has the
    first channel."""
    model = AutoencoderTiny(latent_channels=4, **small)
    fill(model).to(D)
    model.spatial_scale_factor, model.tile_sample_min_size, model.tile_latent_min_size = 4, 64, 16
    model.use_tiling = True
    torch.set_default_dtype(D)  # of what diffusers blends in
    x, z = inputs(1, (72, 120), 4, 4)
    write("taesd_tiled", {"encoded": model.encode(x.to(D)).latents, "decoded": model.decode(z.to(D)).sample[:, :1]}, config_of(model),
          tile="64")
    torch.set_default_dtype(torch.float32)


tiny_tiled()


def author():
    """TAESD in the files of its author, taesd_encoder.pth and taesd_decoder.pth, whose layers have numbers; for models/sd/model_test.go.
    For the sake of size all tensors of a file are views of one, of half precision; a picture and latents are in the third file, with what
    becomes of them."""
    folder = os.path.join(FOLDER, "..", "..", "testdata")
    os.makedirs(folder, exist_ok=True)
    model = AutoencoderTiny()
    base = (torch.randn(64 * 64 * 9 + 600, generator=torch.Generator().manual_seed(1)) / 20).half()
    halves = {"encoder": {}, "decoder": {}}
    for i, (name, v) in enumerate(model.state_dict().items()):
        view = base[10 * i % 600:][:v.numel()].view(v.shape)
        v.copy_(view)
        half, _, number, rest = name.split(".", 3)
        halves[half][f"{int(number) + (half == 'decoder')}.{rest}"] = view
    for half, state in halves.items():
        torch.save(state, os.path.join(folder, f"taesd_{half}.pth"))
        os.chmod(os.path.join(folder, f"taesd_{half}.pth"), 0o644)
    x, z = inputs(1, (16, 24), 4, 8)
    out = {"x": x, "z": z, "encoded": model.encode(x).latents, "decoded": model.decode(z).sample}
    save_file({k: v.contiguous() for k, v in out.items()}, os.path.join(folder, "taesd.safetensors"))
    os.chmod(os.path.join(folder, "taesd.safetensors"), 0o644)
    print({k: v.std().item() for k, v in out.items()})


author()
p = pooled(8, 6, small["num_encoder_blocks"], small["num_decoder_blocks"])
tiny("pooled", p, p.encode, p.decode, dict(small, latent_channels=6, pool=True))


def taef2(data):
    model = pooled(64, 32, (1, 3, 3, 3), (3, 3, 3, 1))
    model.encoder.layers.load_state_dict(load_file(os.path.join(data, "weights", "taef2_encoder.safetensors")))
    state = load_file(os.path.join(data, "weights", "taef2_decoder.safetensors"))
    model.decoder.layers.load_state_dict({f"{int(k.split('.')[0]) - 1}.{k.split('.', 1)[1]}": v for k, v in state.items()})
    model.to(D)
    with tarfile.open(os.path.join(data, "emoji", "noto-64.tar.gz")) as files:
        entry = next(f for f in files if f.name.endswith(".png"))
        picture = Image.open(io.BytesIO(files.extractfile(entry).read())).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    pixels = torch.from_numpy(np.asarray(Image.alpha_composite(white, picture).convert("RGB"))[8:56, 8:56].copy())
    x = pixels.permute(2, 0, 1)[None].to(D) / 127.5 - 1
    z = model.encode(x)
    write("taef2", {"pixels": pixels, "encoded": z, "decoded": model.decode(z)}, dict(latent_channels=32, pool=True),
          picture=entry.name)


if len(sys.argv) > 1:
    taef2(sys.argv[1])
