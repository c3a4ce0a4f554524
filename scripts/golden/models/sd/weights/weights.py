"""Where diffusers' converters take each tensor of single files from, for models/sd/weights' tests.

    python scripts/golden/models/sd/weights/weights.py      writes models/sd/weights/testdata/

Small networks are put together here with the modules of CompVis' and Stability's repositories, as far as names and shapes go. Their
elements are numbered throughout a file, so that the first, second and last element of what diffusers makes of it tell where they
come from, and how they are turned. A case of single.json.gz has the file's names and shapes in the order of the numbers, diffusers'
configurations, and the result by part.
"""
import gzip
import json
import os

import diffusers
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.loaders import single_file_utils as single
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

OUT = os.path.join(os.path.abspath(__file__).partition("/scripts/golden/")[0], "models", "sd", "weights", "testdata")


def seq(**layers):
    """A module with children of those names; digits stand for themselves when they follow _."""
    m = nn.Module()
    for name, layer in layers.items():
        m.add_module(name.lstrip("_"), layer)
    return m


def at(*layers):
    """Children at those places; None leaves one free."""
    return seq(**{f"_{i}": layer for i, layer in enumerate(layers) if layer is not None})


def conv(i, o, k=3):
    return nn.Conv2d(i, o, k)


def resnet(i, o, time):
    m = seq(in_layers=at(nn.GroupNorm(4, i), None, conv(i, o)), emb_layers=at(None, nn.Linear(time, o)),
            out_layers=at(nn.GroupNorm(4, o), None, None, conv(o, o)))
    if i != o:
        m.add_module("skip_connection", conv(i, o, 1))
    return m


def transformer(c, depth, cross, linear):
    def attention(width):
        return seq(to_q=nn.Linear(c, c, bias=False), to_k=nn.Linear(width, c, bias=False), to_v=nn.Linear(width, c, bias=False),
                   to_out=at(nn.Linear(c, c)))

    def block():
        return seq(attn1=attention(c), ff=seq(net=at(seq(proj=nn.Linear(c, 8 * c)), None, nn.Linear(4 * c, c))), attn2=attention(cross),
                   norm1=nn.LayerNorm(c), norm2=nn.LayerNorm(c), norm3=nn.LayerNorm(c))

    proj = (lambda: nn.Linear(c, c)) if linear else (lambda: conv(c, c, 1))
    return seq(norm=nn.GroupNorm(4, c), proj_in=proj(), transformer_blocks=at(*(block() for _ in range(depth))), proj_out=proj())


def network(widths, layers, depths, cross, linear=False, channels=4, mid=None, up=None, added=0, cond=0, hint=None):
    """depths has, for each level, the transformer blocks after each residual block; 0: none."""
    time = 4 * widths[0]
    m = seq(time_embed=at(nn.Linear(widths[0], time), None, nn.Linear(time, time)))
    if cond:
        m.time_embed.add_module("cond_proj", nn.Linear(cond, widths[0], bias=False))
    if added:
        m.add_module("label_emb", at(at(nn.Linear(added, time), None, nn.Linear(time, time))))
    inputs, skips, c = [at(conv(channels, widths[0]))], [widths[0]], widths[0]
    for i, width in enumerate(widths):
        for j in range(layers):
            depth = depths[i][j]
            inputs.append(at(resnet(c, width, time), transformer(width, depth, cross, linear) if depth else None))
            c = width
            skips.append(c)
        if i < len(widths) - 1:
            inputs.append(at(seq(op=conv(c, c))))
            skips.append(c)
    m.add_module("input_blocks", at(*inputs))
    middle = [resnet(c, c, time)]
    if mid:
        middle += [transformer(c, mid, cross, linear), resnet(c, c, time)]
    m.add_module("middle_block", at(*middle))
    if hint:
        m.add_module("zero_convs", at(*(at(conv(width, width, 1)) for width in skips)))
        m.add_module("middle_block_out", at(conv(c, c, 1)))
        image = [conv(3, hint[0])]
        for a, b in zip(hint, hint[1:]):
            image += [None, conv(a, a), None, conv(a, b)]
        m.add_module("input_hint_block", at(*image, None, conv(hint[-1], widths[0])))
        return m
    outputs = []
    for i, width in reversed(list(enumerate(widths))):
        for j in range(layers + 1):
            depth = (up or [[d[0]] * (layers + 1) for d in reversed(depths)])[len(widths) - 1 - i][j]
            block = [resnet(c + skips.pop(), width, time)] + ([transformer(width, depth, cross, linear)] if depth else [])
            c = width
            if j == layers and i > 0:
                block.append(seq(conv=conv(c, c)))
            outputs.append(at(*block))
    m.add_module("output_blocks", at(*outputs))
    m.add_module("out", at(nn.GroupNorm(4, c), None, conv(c, channels if channels < 9 else 4)))
    return m


def autoencoder(widths, layers):
    def res(i, o):
        m = seq(norm1=nn.GroupNorm(4, i), conv1=conv(i, o), norm2=nn.GroupNorm(4, o), conv2=conv(o, o))
        if i != o:
            m.add_module("nin_shortcut", conv(i, o, 1))
        return m

    def middle(c):
        return seq(block_1=res(c, c), attn_1=seq(norm=nn.GroupNorm(4, c), **{k: conv(c, c, 1) for k in ("q", "k", "v", "proj_out")}),
                   block_2=res(c, c))

    def chain(i, o, n):
        return at(*(res(i if j == 0 else o, o) for j in range(n)))

    levels, c = len(widths), widths[0]
    down, up = [], [None] * levels
    for i, width in enumerate(widths):
        down.append(seq(block=chain(c, width, layers)))
        if i < levels - 1:
            down[i].add_module("downsample", seq(conv=conv(width, width)))
        c = width
    encoder = seq(conv_in=conv(3, widths[0]), down=at(*down), mid=middle(c), norm_out=nn.GroupNorm(4, c), conv_out=conv(c, 8))
    decoder = seq(conv_in=conv(4, c), mid=middle(c))
    for i in reversed(range(levels)):
        up[i] = seq(block=chain(c, widths[i], layers + 1))
        if i > 0:
            up[i].add_module("upsample", seq(conv=conv(widths[i], widths[i])))
        c = widths[i]
    decoder.add_module("up", at(*up))
    decoder.add_module("norm_out", nn.GroupNorm(4, c))
    decoder.add_module("conv_out", conv(c, 3))
    return seq(encoder=encoder, decoder=decoder, quant_conv=conv(8, 8, 1), post_quant_conv=conv(4, 4, 1))


def open_clip(width, layers, vocab, projection):
    def block():
        m = seq(ln_1=nn.LayerNorm(width), attn=seq(out_proj=nn.Linear(width, width)), ln_2=nn.LayerNorm(width),
                mlp=seq(c_fc=nn.Linear(width, 4 * width), c_proj=nn.Linear(4 * width, width)))
        m.attn.in_proj_weight = nn.Parameter(torch.zeros(3 * width, width))
        m.attn.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        return m

    m = seq(transformer=seq(resblocks=at(*(block() for _ in range(layers)))), token_embedding=nn.Embedding(vocab, width), ln_final=nn.LayerNorm(width))
    m.positional_embedding = nn.Parameter(torch.zeros(77, width))
    m.text_projection = nn.Parameter(torch.zeros(width, projection))
    m.logit_scale = nn.Parameter(torch.zeros(()))
    return m


def text_config(width, layers, projection=8):
    return dict(vocab_size=20, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=2,
                projection_dim=projection, bos_token_id=18, eos_token_id=19, pad_token_id=19)


def transformers_names(width, layers):
    state = CLIPTextModel(CLIPTextConfig(**text_config(width, layers))).state_dict()
    named = {"text_model." + k.removeprefix("text_model."): v for k, v in state.items()}
    return named | {"text_model.embeddings.position_ids": torch.arange(77).unsqueeze(0)}


def state(module, prefix):
    tensors = module if isinstance(module, dict) else module.state_dict()
    return {prefix + k: v for k, v in tensors.items()}


def numbered(tensors):
    out, n = {}, 0
    for k, v in tensors.items():
        out[k] = torch.arange(n, n + v.numel(), dtype=torch.float64).reshape(v.shape)
        n += v.numel()
    assert n < 1 << 24, n
    return out


def trace(converted, model=None):
    if model is not None:  # what the converter leaves is what the model takes, and it takes all of it
        own = {k.removeprefix("text_model."): v for k, v in model.state_dict().items() if not k.endswith("position_ids")}
        converted = {k: v for k, v in converted.items() if not k.endswith("position_ids")}
        bare = {k.removeprefix("text_model."): v for k, v in converted.items()}
        assert set(own) == set(bare), set(own) ^ set(bare)
        for k, v in own.items():
            assert v.shape == bare[k].shape, k
    rows = {}
    for k, v in converted.items():
        flat = v.reshape(-1)
        rows[k] = [list(v.shape), int(flat[0]), int(flat[min(1, len(flat) - 1)]), int(flat[-1])]
    return rows


def plain(config):
    return {k: v for k, v in config.items() if not k.startswith("_") or k == "_class_name"}


def case(tensors, unet=None, vae=None, texts=(), controlnet=None):
    """Every part is converted by diffusers and checked against its class."""
    file, parts, configs = numbered(tensors), {}, {}
    if unet:
        model = UNet2DConditionModel(**unet)
        parts["unet"] = trace(single.convert_ldm_unet_checkpoint(dict(file), model.config) | cond_proj(file), model)
        configs["unet"] = plain(json.loads(model.to_json_string()))
    if vae:
        model = AutoencoderKL(**vae)
        parts["vae"] = trace(single.convert_ldm_vae_checkpoint(dict(file), model.config), model)
        configs["vae"] = plain(json.loads(model.to_json_string()))
    if controlnet:
        model = ControlNetModel(**controlnet)
        got = single.convert_controlnet_checkpoint(dict(file), model.config)
        last = max(int(k.split(".")[-2]) for k in tensors if "input_hint_block" in k)
        for end in ("weight", "bias"):  # diffusers' converter knows this one only at place 14
            got["controlnet_cond_embedding.conv_out." + end] = file[f"control_model.input_hint_block.{last}.{end}"]
            got = {k: v for k, v in got.items() if v is not None and not k.startswith(f"controlnet_cond_embedding.blocks.{last // 2 - 1}.")}
        parts["controlnet"] = trace(got, model)
        configs["controlnet"] = plain(json.loads(model.to_json_string()))
    for name, config, prefix, projected in texts:
        model = (CLIPTextModelWithProjection if projected else CLIPTextModel)(CLIPTextConfig(**config))
        if prefix.endswith("transformer."):
            got = single.convert_ldm_clip_checkpoint(dict(file), prefix)
            got = {k: v for k, v in got.items() if k.startswith("text_model.")}
        else:
            kept = {k: v for k, v in file.items()
                    if projected or f"resblocks.{config['num_hidden_layers']}." not in k and not k.endswith("text_projection")}
            got = single.convert_open_clip_checkpoint(model, kept, prefix=prefix)
        parts[name] = trace(got, model)
        configs[name] = json.loads(model.config.to_json_string(use_diff=False))
        configs[name] = {k: configs[name][k] for k in list(config) + ["hidden_act", "layer_norm_eps"]}
        configs[name]["architectures"] = [type(model).__name__]
    return {"file": [[k, list(v.shape)] for k, v in tensors.items()], "configs": configs, "parts": parts}


def cond_proj(file):
    """diffusers' converter leaves this tensor of full latent consistency models out."""
    theirs = "model.diffusion_model.time_embed.cond_proj.weight"
    return {"time_embedding.cond_proj.weight": file[theirs]} if theirs in file else {}


DOWN, CROSS_DOWN, UP, CROSS_UP = "DownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"
UNET, VAE1 = "model.diffusion_model.", "first_stage_model."
COMMON = dict(norm_num_groups=4, cross_attention_dim=8)
SD1 = COMMON | dict(block_out_channels=(8, 16), layers_per_block=2, attention_head_dim=2, down_block_types=(CROSS_DOWN, DOWN),
                    up_block_types=(UP, CROSS_UP))
VAE = dict(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 2,
           up_block_types=("UpDecoderBlock2D",) * 2)
XL = COMMON | dict(block_out_channels=(8, 16, 16), layers_per_block=2, attention_head_dim=(2, 4, 4), use_linear_projection=True,
                   down_block_types=(DOWN, CROSS_DOWN, CROSS_DOWN), up_block_types=(CROSS_UP, CROSS_UP, UP),
                   addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=32)
EXTRA = {"betas": torch.zeros(10), "model_ema.decay": torch.zeros(()), "model_ema.diffusion_modelinput_blocks00weight": torch.zeros(2)}


def cases():
    sd1 = dict(widths=(8, 16), layers=2, depths=((1, 1), (0, 0)), cross=8, mid=1)
    vae = state(autoencoder((8, 16), 1), VAE1)
    clip = state(transformers_names(8, 2), "cond_stage_model.transformer.")
    text = ("text_encoder", text_config(8, 2), "cond_stage_model.transformer.", False)
    yield "sd15", case(EXTRA | state(network(**sd1), UNET) | vae | clip, SD1, VAE, [text])
    yield "sd15-inpaint", case(state(network(**sd1, channels=9), UNET), SD1 | dict(in_channels=9))
    yield "lcm15", case(state(network(**sd1, cond=6), UNET), SD1 | dict(time_cond_proj_dim=6))
    yield "vae", case(vae, vae=VAE)
    yield "controlnet", case(state(network(**sd1, hint=(4, 8, 8, 12)), "control_model."), controlnet={
        k: v for k, v in SD1.items() if k != "up_block_types"} | dict(conditioning_embedding_out_channels=(4, 8, 8, 12)))
    yield "sd2", case(
        state(network(widths=(8, 16), layers=1, depths=((1,), (0,)), cross=8, mid=1, linear=True), UNET)
        | state(open_clip(8, 3, 20, 8), "cond_stage_model.model."),
        SD1 | dict(layers_per_block=1, use_linear_projection=True, attention_head_dim=(2, 4)), texts=[
            ("text_encoder", text_config(8, 2), "cond_stage_model.model.", False)])
    xl = state(transformers_names(8, 1), "conditioner.embedders.0.transformer.") | state(open_clip(12, 2, 20, 6), "conditioner.embedders.1.model.")
    texts = [("text_encoder", text_config(8, 1), "conditioner.embedders.0.transformer.", False),
             ("text_encoder_2", text_config(12, 2, 6), "conditioner.embedders.1.model.", True)]
    yield "sdxl", case(
        state(network(widths=(8, 16, 16), layers=2, depths=((0, 0), (1, 1), (2, 2)), cross=8, mid=2, linear=True, added=32), UNET) | xl,
        XL | dict(transformer_layers_per_block=(1, 1, 2)), texts=texts)
    yield "ssd1b", case(
        state(network(widths=(8, 16, 16), layers=2, depths=((0, 0), (1, 2), (2, 2)), up=((2, 2, 3), (2, 1, 1), (0, 0, 0)), cross=8,
                      linear=True, added=32), UNET),
        XL | dict(mid_block_type="UNetMidBlock2D", transformer_layers_per_block=(0, (1, 2), (2, 2)),
                  reverse_transformer_layers_per_block=((2, 2, 3), (2, 1, 1), 0)))


def main():
    torch.manual_seed(0)
    os.makedirs(OUT, exist_ok=True)
    out = {"versions": {"diffusers": diffusers.__version__, "torch": torch.__version__.split("+")[0]}} | dict(cases())
    with open(os.path.join(OUT, "single.json.gz"), "wb") as f:
        f.write(gzip.compress(json.dumps(out, separators=(",", ":")).encode(), mtime=0))
    print(sum(os.path.getsize(os.path.join(OUT, name)) for name in os.listdir(OUT)), "bytes")


if __name__ == "__main__":
    main()
