"""Outputs and gradients of NCSN++, and of U-Nets that are told more than a noise label, in PyTorch, for models/unet's tests.

    python scripts/golden/models/unet/ncsnpp.py     writes models/unet/testdata/{ncsnpp,fir6,told,told_ncsnpp}.safetensors

diffusers has NCSN++'s blocks but not the network (its "Skip" blocks are the variant with a pyramid of images). It is put
together here from those blocks by the description in Song et al. 2021 and Karras et al. 2022, appendix: residual blocks that
resample with a FIR filter, self-attention with a residual sum, and at every halving a sum with what came in, convolved and
halved. Until and guidance are embeddings of this project's own: two linear layers each, added to the noise label's.

Weights are not stored; see unet.py.
"""
import json
import math
import os

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import FirDownsample2D, downsample_2d
from diffusers.models.embeddings import GaussianFourierProjection, TimestepEmbedding, get_timestep_embedding
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import upsample_2d

from unet import OUT, SEED, draw, images, write

# The keys are models/unet's Config in JSON.
SONG = dict(last_decoder_attention=True, resample_skip=True, skip_scale=math.sqrt(0.5), norm_eps=1e-6)
NCSNPP = SONG | dict(embedding="fourier", filter=[1, 3, 3, 1], residual_input=True)
CASES = {
    "ncsnpp": NCSNPP | dict(resolution=12, in_channels=3, channels=16, mult=[1, 2, 2], blocks=1, attention=[6]),
    "fir6": NCSNPP | dict(resolution=8, in_channels=1, channels=8, mult=[1, 1], blocks=1, filter=[1, 5, 10, 10, 5, 1]),
    "told": SONG | dict(resolution=8, in_channels=2, channels=16, mult=[1, 2], blocks=1, attention=[8], endpoint_freqs=True,
                        classes=3, null_label=True, until=True, guidance=True),
    "told_ncsnpp": NCSNPP | dict(resolution=8, in_channels=1, channels=8, mult=[1, 2], blocks=1, until=True, guidance=True),
}
TIMES = [-1.55, -0.2, 1.1]  # of ln(t)/4 for t from 0.002 to 80
GRADIENTS = ("ncsnpp", "told")


def groups(channels):
    return max(1, min(32, channels // 4))


class UNet(torch.nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c, width, fir = c, 4 * c["channels"], c.get("filter")
        scale = 1 / c["skip_scale"]

        def resnet(i, o, **resample):
            block = ResnetBlock2D(in_channels=i, out_channels=o, temb_channels=width, groups=groups(i), groups_out=groups(o),
                                  eps=c["norm_eps"], skip_time_act=True, output_scale_factor=scale, kernel="fir" if fir else "sde_vp",
                                  use_in_shortcut=True if resample or i != o else None, **resample)
            if fir:  # the block knows 1, 3, 3, 1 only
                block.upsample = block.upsample and (lambda x: upsample_2d(x, kernel=fir))
                block.downsample = block.downsample and (lambda x: downsample_2d(x, kernel=fir))
            return block

        def attention(ch):
            return Attention(ch, heads=1, dim_head=ch, norm_num_groups=groups(ch), eps=c["norm_eps"], bias=True,
                             residual_connection=True, rescale_output_factor=scale, _from_deprecated_attn_block=True)

        def module(**parts):
            m = torch.nn.Module()
            for k, v in parts.items():
                setattr(m, k, v if isinstance(v, torch.nn.Module) else torch.nn.ModuleList(v))
            return m

        labels = c["channels"]
        if c.get("embedding") == "fourier":
            self.time_proj = GaussianFourierProjection(labels, log=False)
            labels *= 2
        self.time_embedding = TimestepEmbedding(labels, width)
        if c.get("classes"):
            self.class_embedding = torch.nn.Embedding(c["classes"] + 1, width)
        if c.get("until"):
            self.until_embedding = TimestepEmbedding(labels, width)
        if c.get("guidance"):
            self.guidance_embedding = TimestepEmbedding(c["channels"], width)
        ch, side, aux = c["channels"], c["resolution"], c["in_channels"]
        self.conv_in = torch.nn.Conv2d(aux, ch, 3, padding=1)
        skips, last = [ch], len(c["mult"]) - 1
        self.down_blocks, self.up_blocks = torch.nn.ModuleList(), torch.nn.ModuleList()
        for level, mult in enumerate(c["mult"]):
            parts, out = dict(resnets=[], attentions=[]), mult * c["channels"]
            for _ in range(c["blocks"]):
                parts["resnets"].append(resnet(ch, out))
                if side in c.get("attention", []):
                    parts["attentions"].append(attention(out))
                skips.append(ch := out)
            if level < last:
                parts["downsamplers"] = [resnet(ch, ch, down=True)]
                skips.append(ch)
                side //= 2
                if c.get("residual_input"):
                    parts["aux_residual"] = FirDownsample2D(aux, ch, use_conv=True, fir_kernel=tuple(fir))
                    aux = ch
            self.down_blocks.append(module(**parts))
        self.mid_block = module(resnets=[resnet(ch, ch), resnet(ch, ch)], attentions=[attention(ch)])
        for level, mult in enumerate(reversed(c["mult"])):
            parts, out = dict(resnets=[], attentions=[]), mult * c["channels"]
            for _ in range(c["blocks"] + 1):
                parts["resnets"].append(resnet(ch + skips.pop(), out))
                ch = out
            if side in c.get("attention", []):
                parts["attentions"] = [attention(out)]  # after the last block
            if level < last:
                parts["upsamplers"] = [resnet(ch, ch, up=True)]
                side *= 2
            self.up_blocks.append(module(**parts))
        self.conv_norm_out = torch.nn.GroupNorm(groups(ch), ch, eps=c["norm_eps"])
        self.conv_out = torch.nn.Conv2d(ch, c["in_channels"], 3, padding=1)

    def embed(self, t, label, until, guidance):
        def positional(v):  # cosines first
            return get_timestep_embedding(v, self.c["channels"], flip_sin_to_cos=True,
                                          downscale_freq_shift=1 if self.c.get("endpoint_freqs") else 0)

        def waves(v):  # for Fourier frequencies sines first
            return self.time_proj(v) if self.c.get("embedding") == "fourier" else positional(v)

        e = self.time_embedding(waves(t))
        if label is not None:
            e = e + self.class_embedding(label)
        if until is not None:
            e = e + self.until_embedding(waves(until))
        if guidance is not None:
            e = e + self.guidance_embedding(positional(guidance))
        return F.silu(e)

    def forward(self, x, t, label=None, until=None, guidance=None):
        e, aux, h = self.embed(t, label, until, guidance), x, self.conv_in(x)
        skips = [h]
        for level in self.down_blocks:
            for i, resnet in enumerate(level.resnets):
                h = resnet(h, e)
                if len(level.attentions):
                    h = level.attentions[i](h)
                skips.append(h)
            if hasattr(level, "downsamplers"):
                h = level.downsamplers[0](h, e)
                if hasattr(level, "aux_residual"):
                    h = aux = (h + level.aux_residual(aux)) * math.sqrt(0.5)
                skips.append(h)
        h = self.mid_block.resnets[1](self.mid_block.attentions[0](self.mid_block.resnets[0](h, e)), e)
        for level in self.up_blocks:
            for resnet in level.resnets:
                h = resnet(torch.cat([h, skips.pop()], 1), e)
            if len(level.attentions):
                h = level.attentions[0](h)
            if hasattr(level, "upsamplers"):
                h = level.upsamplers[0](h, e)
        return self.conv_out(F.silu(self.conv_norm_out(h)))


def case(name, c):
    net, g = UNet(c).eval(), torch.Generator().manual_seed(SEED)
    weights = {k: draw(k, tuple(v.shape), g) for k, v in net.state_dict().items()}
    net.load_state_dict(weights)
    out = {"x": images(len(TIMES), c["in_channels"], c["resolution"], g), "t": torch.tensor(TIMES)}
    if c.get("classes"):
        out["class"] = torch.tensor([0, c["classes"], 1])  # the one in the middle is none
    if c.get("until"):
        out["until"] = torch.tensor([-1.55, -0.7, 0.3])
    if c.get("guidance"):
        out["guidance"] = torch.tensor([1.0, 2.5, 7.5])
    x = out["x"].clone().requires_grad_()
    out["y"] = net(x, out["t"], out.get("class"), out.get("until"), out.get("guidance"))

    def renamed(k):
        return k.replace("aux_residual.Conv2d_0", "aux_residual")

    if name in GRADIENTS:
        out["weight"] = torch.randn(out["y"].shape, generator=g)
        (out["y"] * out["weight"]).sum().backward()
        out["grad:x"] = x.grad
        out |= {"grad:" + renamed(k): p.grad for k, p in net.named_parameters() if p.numel() <= 64 and p.requires_grad}
    write(os.path.join(OUT, name + ".safetensors"), out, config=json.dumps(c),
          weights=json.dumps([[renamed(k), list(v.shape)] for k, v in weights.items()]))


if __name__ == "__main__":
    for name, c in CASES.items():
        case(name, c)
