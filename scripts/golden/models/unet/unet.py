"""Outputs and gradients of U-Nets in PyTorch, for models/unet's tests.

    python scripts/golden/models/unet/unet.py [PEERS]      writes models/unet/testdata/

Most cases are diffusers' UNet2DModel. The last two are the benchmarks' network, edm_unet.py in the folder PEERS (default:
../shared/bench/peers beside the repository); without that folder they are left as they are.

Weights are not stored: a file's metadata lists their names and shapes, and both sides draw them in that order from one
stream (see draw), so that real sizes fit into small files. The folder testdata/pretrained is what save_pretrained writes,
weights included, in float16.
"""
import json
import math
import os
import sys

import diffusers
import torch
from diffusers import UNet2DModel
from safetensors.torch import save_file

SEED = 20261123
ROOT = os.path.abspath(__file__).partition("/scripts/golden/")[0]
OUT = os.path.join(ROOT, "models", "unet", "testdata")

CASES = {
    "ddpm": dict(sample_size=16, block_out_channels=(16, 32), layers_per_block=2, norm_num_groups=8, attention_head_dim=8,
                 down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D")),
    "adm": dict(sample_size=12, out_channels=6, block_out_channels=(16, 32, 48), layers_per_block=1, norm_num_groups=8,
                attn_norm_num_groups=8, attention_head_dim=16, resnet_time_scale_shift="scale_shift", num_class_embeds=5,
                downsample_type="resnet", upsample_type="resnet",
                down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
                up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D")),
    "lsun": dict(sample_size=12, block_out_channels=(16, 16, 32), layers_per_block=1, norm_num_groups=8, attention_head_dim=8,
                 downsample_type="resnet", upsample_type="resnet",
                 down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
                 up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D")),
    "song": dict(sample_size=8, block_out_channels=(32, 32), layers_per_block=1, norm_num_groups=16, norm_eps=1e-6,
                 attention_head_dim=None, flip_sin_to_cos=False, freq_shift=1, mid_block_scale_factor=math.sqrt(2),
                 dropout=0.1, down_block_types=("AttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "AttnUpBlock2D")),
    "fourier": dict(sample_size=8, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
                    time_embedding_type="fourier",
                    down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D")),
    "gray28": dict(sample_size=28, in_channels=1, out_channels=1, block_out_channels=(8, 16, 24), layers_per_block=1,
                   norm_num_groups=4, add_attention=False, num_class_embeds=10,
                   down_block_types=("DownBlock2D",) * 3, up_block_types=("UpBlock2D",) * 3),
    "level1": dict(sample_size=5, block_out_channels=(64,), layers_per_block=3, norm_num_groups=32,
                   down_block_types=("AttnDownBlock2D",), up_block_types=("AttnUpBlock2D",)),
}
TIMES = [0.25, 37.0, 999.0]
GRADIENTS = ("ddpm", "adm")  # cases with gradients
PRETRAINED = dict(sample_size=8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, attention_head_dim=4, downsample_padding=0,
                  down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"))


def draw(name, shape, g):
    """Values of the size that training leaves behind. weights() in golden_test.go does the same."""
    v = torch.randn(shape, generator=g)
    if name == "time_proj.weight":
        return v * 2
    if len(shape) > 1:
        return v / math.sqrt(math.prod(shape[1:]))
    return v * 0.1 + 1 if name.endswith("weight") else v * 0.1


def metadata(**extra):
    return {"torch": torch.__version__, "diffusers": diffusers.__version__, "seed": str(SEED)} | extra


def write(path, tensors, **extra):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    save_file({k: v.detach().contiguous() for k, v in tensors.items()}, path, metadata=metadata(**extra))
    print(os.path.relpath(path, ROOT), os.path.getsize(path))


def images(batch, channels, side, g):
    return torch.randn(batch, channels, side, side, generator=g)


def diffusers_case(name, kwargs):
    net = UNet2DModel(**kwargs).eval()
    g = torch.Generator().manual_seed(SEED)
    weights = {k: draw(k, tuple(v.shape), g) for k, v in net.state_dict().items()}
    net.load_state_dict(weights)
    side, channels = net.config.sample_size, net.config.in_channels
    out = {"x": images(len(TIMES), channels, side, g), "t": torch.tensor(TIMES)}
    if net.config.num_class_embeds:
        out["class"] = torch.randint(0, net.config.num_class_embeds, (len(TIMES),), generator=g)
    x = out["x"].clone().requires_grad_()
    out["y"] = net(x, out["t"], out.get("class")).sample
    if name in GRADIENTS:
        out["weight"] = torch.randn(out["y"].shape, generator=g)
        (out["y"] * out["weight"]).sum().backward()
        out["grad:x"] = x.grad
        out |= {"grad:" + k: p.grad for k, p in net.named_parameters() if p.numel() <= 64}
    config = {k: v for k, v in net.config.items() if not k.startswith("_")}
    write(os.path.join(OUT, name + ".safetensors"), out, config=json.dumps(config),
          weights=json.dumps([[k, list(v.shape)] for k, v in weights.items()]))


def pretrained():
    """A folder as diffusers writes it, and the output of what it reads back."""
    folder = os.path.join(OUT, "pretrained")
    g = torch.Generator().manual_seed(SEED)
    net = UNet2DModel(**PRETRAINED).eval()
    net.load_state_dict({k: draw(k, tuple(v.shape), g) for k, v in net.state_dict().items()})
    net.half().save_pretrained(folder)
    net = UNet2DModel.from_pretrained(folder, torch_dtype=torch.float32).eval()
    x, t = images(2, 3, 8, g), torch.tensor([3.0, 250.5])
    with torch.no_grad():
        write(os.path.join(folder, "output.safetensors"), {"x": x, "t": t, "y": net(x, t).sample})


def renamed(net):
    """The weights of edm_unet.UNet under diffusers' names. Attention there is a 1x1 convolution over [q, k, v]."""
    state, out = net.state_dict(), {}

    def layer(new, old):
        for part in ("weight", "bias"):
            out[f"{new}.{part}"] = state[f"{old}.{part}"]

    def block(new, old, attention=None):
        for a, b in {"norm1": "norm0", "conv1": "conv0", "time_emb_proj": "affine", "norm2": "norm1", "conv2": "conv1"}.items():
            layer(f"{new}.{a}", f"{old}.{b}")
        if f"{old}.skip.weight" in state:
            layer(f"{new}.conv_shortcut", f"{old}.skip")
        if f"{old}.qkv.weight" not in state:
            return
        layer(f"{attention}.group_norm", f"{old}.norm2")
        for part in ("weight", "bias"):
            qkv = state[f"{old}.qkv.{part}"].flatten(1) if part == "weight" else state[f"{old}.qkv.{part}"]
            for a, v in zip(("to_q", "to_k", "to_v"), qkv.chunk(3)):
                out[f"{attention}.{a}.{part}"] = v
        out[f"{attention}.to_out.0.weight"] = state[f"{old}.proj.weight"].flatten(1)
        out[f"{attention}.to_out.0.bias"] = state[f"{old}.proj.bias"]

    layer("time_embedding.linear_1", "map0")
    layer("time_embedding.linear_2", "map1")
    layer("conv_in", "enter")
    level = at = 0
    for i, b in enumerate(net.enc):
        if b.resample:
            block(f"down_blocks.{level}.downsamplers.0", f"enc.{i}")
            level, at = level + 1, 0
        else:
            block(f"down_blocks.{level}.resnets.{at}", f"enc.{i}", f"down_blocks.{level}.attentions.{at}")
            at += 1
    block("mid_block.resnets.0", "mid.0", "mid_block.attentions.0")
    block("mid_block.resnets.1", "mid.1")
    level = at = 0
    for i, b in enumerate(net.dec):
        if b.resample:
            block(f"up_blocks.{level}.upsamplers.0", f"dec.{i}")
            level, at = level + 1, 0
        else:
            block(f"up_blocks.{level}.resnets.{at}", f"dec.{i}", f"up_blocks.{level}.attentions.0")
            at += 1
    layer("conv_norm_out", "out_norm")
    layer("conv_out", "leave")
    return out


def benchmark_case(edm_unet, case):
    """The benchmarks' network at its real size, inside its preconditioning too."""
    net, denoiser, _, side, channels = edm_unet.build(case, "eager")
    g = torch.Generator().manual_seed(SEED)
    weights = renamed(net)
    count = sum(p.numel() for p in net.parameters())
    assert count == sum(v.numel() for v in weights.values())
    with torch.no_grad():
        for k, v in weights.items():  # views of the network's own tensors
            v.copy_(draw(k, tuple(v.shape), g))
        x, noise, sigma = images(2, channels, side, g), torch.tensor([-1.5, 1.1]), torch.tensor([0.002, 6.5])
        out = {"x": x, "noise": noise, "y": net(x, noise), "sigma": sigma, "f": denoiser(x, sigma)}
    write(os.path.join(OUT, f"benchmark_{case}.safetensors"), out, parameters=str(count),
          weights=json.dumps([[k, list(v.shape)] for k, v in weights.items()]))


if __name__ == "__main__":
    for name, kwargs in CASES.items():
        diffusers_case(name, kwargs)
    pretrained()
    peers = sys.argv[1] if len(sys.argv) > 1 else os.path.join(ROOT, "..", "shared", "bench", "peers")
    if os.path.exists(os.path.join(peers, "edm_unet.py")):
        sys.path.insert(0, peers)
        import edm_unet

        for case in edm_unet.CASES:
            benchmark_case(edm_unet, case)
    else:
        print(f"no edm_unet.py in {peers}: the benchmark's goldens were not made")
