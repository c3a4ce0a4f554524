"""Outputs, intermediate values and gradients of diffusers' U-Nets and ControlNets, for models/sd/unet's tests.

    python scripts/golden/models/sd/unet/unet.py      writes models/sd/unet/testdata/

Weights follow from their names (shared/sdfill.py), so that a file has only the configuration, as diffusers writes it, inputs and
results. Every case is computed in float32 and, as "double:…", with the same weights in float64; embeddings of timesteps and
guidance are of float32 in either. sizes.json has the configurations of the published networks with the number and a digest of
their tensors.
"""
import contextlib
import hashlib
import io
import json
import os
import sys

import diffusers
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.pipelines.latent_consistency_models.pipeline_latent_consistency_text2img import LatentConsistencyModelPipeline
from safetensors.torch import save_file

sys.path.append(os.path.join(os.path.abspath(__file__).partition("/scripts/golden/")[0], "scripts", "golden", "shared"))
from sdfill import fill  # noqa: E402


SEED = 20261123
ROOT = os.path.abspath(__file__).partition("/scripts/golden/")[0]
OUT = os.path.join(ROOT, "models", "sd", "unet", "testdata")

DOWN, CROSS_DOWN, UP, CROSS_UP = "DownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"
XL = dict(down_block_types=(DOWN, CROSS_DOWN, CROSS_DOWN), up_block_types=(CROSS_UP, CROSS_UP, UP), use_linear_projection=True,
          addition_embed_type="text_time")
TINY_XL = XL | dict(block_out_channels=(16, 32, 64), norm_num_groups=8, attention_head_dim=(2, 4, 8), cross_attention_dim=24,
                    transformer_layers_per_block=(1, 2, 3), addition_time_embed_dim=8,
                    projection_class_embeddings_input_dim=68)
SHAPE_TRUE = dict(block_out_channels=(32, 64, 128, 128), norm_num_groups=8, cross_attention_dim=48, sample_size=16)
TWO = dict(block_out_channels=(16, 32), norm_num_groups=4, layers_per_block=1, cross_attention_dim=24, attention_head_dim=4,
           down_block_types=(DOWN, CROSS_DOWN), up_block_types=(CROSS_UP, UP))
XL_CONTROL = {k: v for k, v in TINY_XL.items() if k != "up_block_types"}

# name: configuration, size of the latents, timesteps
CASES = {
    "lcm": (dict(block_out_channels=(4, 8), layers_per_block=1, sample_size=32, norm_num_groups=2, cross_attention_dim=32,
                 down_block_types=(DOWN, CROSS_DOWN), up_block_types=(CROSS_UP, UP), attention_head_dim=2,
                 time_cond_proj_dim=32), (16, 16), [999, 499]),
    "sd15": (SHAPE_TRUE, (16, 8), [3, 998]),
    "odd": (SHAPE_TRUE | dict(layers_per_block=1), (13, 10), [500]),
    "inpaint": (TWO | dict(in_channels=9, time_embedding_dim=40), (8, 8), [10, 600]),
    "sd2": (dict(block_out_channels=(16, 32, 64, 64), norm_num_groups=8, layers_per_block=(1, 2, 1, 1),
                 attention_head_dim=(2, 4, 8, 8), cross_attention_dim=32, use_linear_projection=True, upcast_attention=True,
                 sample_size=(8, 12)), (8, 12), [20.5, 750.25]),
    "sdxl": (TINY_XL, (8, 8), [999, 0]),
    "ssd1b": (TINY_XL | dict(mid_block_type="UNetMidBlock2D", transformer_layers_per_block=(0, (2, 1), (1, 3)),
                             reverse_transformer_layers_per_block=((3, 1, 2), (2, 1, 1), 0)), (6, 7), [601, 77]),
    "nomid": (TWO | dict(mid_block_type=None, flip_sin_to_cos=False, freq_shift=1), (5, 5), [123.75]),
}
# name: configurations of the ControlNet and of the U-Net, size of the latents
CONTROL = {
    "controlnet": (dict(block_out_channels=(16, 32), norm_num_groups=4, layers_per_block=1, cross_attention_dim=24,
                        attention_head_dim=4, down_block_types=(DOWN, CROSS_DOWN),
                        conditioning_embedding_out_channels=(4, 8, 8, 16)), TWO, (5, 4)),
    "controlnet_bgr": (XL_CONTROL | dict(controlnet_conditioning_channel_order="bgr",
                                         conditioning_embedding_out_channels=(4, 8)), TINY_XL, (3, 5)),
}


def doubled(v):
    return v.double() if torch.is_tensor(v) and v.is_floating_point() else v


def inputs(config, size, times):
    """What a network of that configuration is given for two latents: one timestep for both, or one for each."""
    g = torch.Generator().manual_seed(SEED)
    d = {"x": torch.randn(2, config.in_channels, *size, generator=g), "t": torch.tensor(times),
         "text": torch.randn(2, 7, config.cross_attention_dim, generator=g)}
    if config.get("time_cond_proj_dim"):
        d["w"] = torch.tensor([7.5, 0.3])
    if config.addition_embed_type:
        sizes = torch.tensor([[1024, 768, 0, 16, 512, 513], [64, 64, 3, 0, 64, 64]])
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        d |= {"sizes": sizes, "pooled": torch.randn(2, pooled, generator=g)}
    return d


def told(net, d):
    """Arguments of a forward pass of diffusers, in the type of the network."""
    as_net = (lambda v: v.double()) if net.dtype == torch.float64 else (lambda v: v)
    kw = {"sample": as_net(d["x"]), "timestep": d["t"], "encoder_hidden_states": as_net(d["text"])}
    if "w" in d:
        kw["timestep_cond"] = as_net(guidance(d["w"], net.config.time_cond_proj_dim))
    if "sizes" in d:
        kw["added_cond_kwargs"] = {"text_embeds": as_net(d["pooled"]), "time_ids": d["sizes"]}
    return kw


def guidance(w, dim):
    return LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, w, dim)


def watched(net, out, prefix):
    """Notes the embedding and what leaves the levels and the middle."""
    handles = []

    def note(name):
        def hook(module, args, result):
            out[prefix + name] = (result[0] if isinstance(result, tuple) else result).detach()
        return hook

    handles.append(net.down_blocks[-1].register_forward_hook(note("down")))
    if net.mid_block is not None:
        handles.append(net.mid_block.register_forward_hook(note("mid")))
    return handles


def write(name, tensors, **extra):
    os.makedirs(OUT, exist_ok=True)
    path = os.path.join(OUT, name + ".safetensors")
    meta = {"torch": torch.__version__, "diffusers": diffusers.__version__} | extra
    save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, path, metadata=meta)
    print(os.path.relpath(path, ROOT), os.path.getsize(path))


def unet_case(name, kwargs, size, times):
    net = fill(UNet2DConditionModel(**kwargs))
    d = inputs(net.config, size, times)
    out = dict(d)
    for prefix, net in (("", net), ("double:", fill(UNet2DConditionModel(**kwargs)).double())):
        handles = watched(net, out, prefix)
        with torch.no_grad():
            out[prefix + "y"] = net(**told(net, d)).sample
        for h in handles:
            h.remove()
    config = net.to_json_string()
    if name in ("lcm", "sdxl"):
        gradients(net, d, out)
    write(name, out, config=config)


GRADIENTS = ["conv_in.weight", "time_embedding.linear_1.bias", "time_embedding.cond_proj.weight",
             "add_embedding.linear_2.bias",
             "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight",
             "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0.bias",
             "down_blocks.1.attentions.0.transformer_blocks.0.ff.net.0.proj.bias",
             "mid_block.attentions.0.proj_in.bias", "mid_block.resnets.1.time_emb_proj.bias",
             "up_blocks.0.resnets.0.norm1.weight", "up_blocks.0.upsamplers.0.conv.bias",
             "up_blocks.1.resnets.0.conv_shortcut.bias", "conv_out.bias"]


def gradients(net, d, out):
    """Of Σ weight·y, in float64, with respect to latents, text and weights of every kind."""
    kw = told(net, d)
    kw["sample"].requires_grad_()
    kw["encoder_hidden_states"].requires_grad_()
    y = net(**kw).sample
    out["weight"] = torch.randn(y.shape, generator=torch.Generator().manual_seed(SEED))
    (y * out["weight"].double()).sum().backward()
    out |= {"grad:x": kw["sample"].grad, "grad:text": kw["encoder_hidden_states"].grad}
    params = dict(net.named_parameters())
    out |= {"grad:" + k: params[k].grad for k in GRADIENTS if k in params}


def controlnet_case(name, kwargs, unet_kwargs, size):
    """Residuals of a ControlNet, and the output of a U-Net that is given them."""
    net = fill(ControlNetModel(**kwargs))
    d = inputs(net.config, size, [801, 42])
    reduction = 2 ** (len(net.config.conditioning_embedding_out_channels) - 1)
    d["image"] = torch.rand(2, 3, *(reduction * v for v in size), generator=torch.Generator().manual_seed(SEED))
    out = dict(d)
    for prefix, cast in (("", lambda v: v), ("double:", doubled)):
        dtype = cast(torch.zeros(1)).dtype
        net, unet = fill(ControlNetModel(**kwargs)).to(dtype), fill(UNet2DConditionModel(**unet_kwargs)).to(dtype)
        for mode, scale, guess in (("", 0.8, False), ("guess:", 1.0, True)):
            with torch.no_grad():
                down, mid = net(**told(net, d), controlnet_cond=cast(d["image"]), conditioning_scale=scale, guess_mode=guess,
                                return_dict=False)
                if not guess:
                    out[prefix + "y"] = unet(**told(unet, d), down_block_additional_residuals=down,
                                             mid_block_additional_residual=mid).sample
            out |= {f"{prefix}{mode}residual.{i}": v for i, v in enumerate(down)} | {f"{prefix}{mode}residual.mid": mid}
    write(name, out, config=net.to_json_string(), unet=unet.to_json_string())


PUBLISHED = {
    "SD15": (UNet2DConditionModel, dict(sample_size=64, cross_attention_dim=768)),
    "LCM15": (UNet2DConditionModel, dict(sample_size=64, cross_attention_dim=768, time_cond_proj_dim=256)),
    "Inpaint15": (UNet2DConditionModel, dict(sample_size=64, cross_attention_dim=768, in_channels=9)),
    "SD21": (UNet2DConditionModel, dict(sample_size=96, cross_attention_dim=1024, attention_head_dim=[5, 10, 20, 20],
                                        use_linear_projection=True, upcast_attention=True)),
}
FULL_XL = XL | dict(block_out_channels=[320, 640, 1280], attention_head_dim=[5, 10, 20], cross_attention_dim=2048,
                    transformer_layers_per_block=[1, 2, 10], addition_time_embed_dim=256,
                    projection_class_embeddings_input_dim=2816)
PUBLISHED |= {
    "SDXL": (UNet2DConditionModel, FULL_XL | dict(sample_size=128)),
    "SSD1B": (UNet2DConditionModel, FULL_XL | dict(
        sample_size=128, mid_block_type="UNetMidBlock2D", transformer_layers_per_block=[0, [2, 2], [4, 4]],
        reverse_transformer_layers_per_block=[[4, 4, 10], [2, 1, 1], 0])),
    "ControlNet15": (ControlNetModel, dict(cross_attention_dim=768)),
    "ControlNet21": (ControlNetModel, dict(cross_attention_dim=1024, attention_head_dim=[5, 10, 20, 20],
                                           use_linear_projection=True, upcast_attention=True)),
    "ControlNetXL": (ControlNetModel, {k: v for k, v in FULL_XL.items() if k != "up_block_types"}),
}


def sizes():
    """digest: of lines "name [dims]" of all tensors, sorted."""
    out = {"torch": torch.__version__, "diffusers": diffusers.__version__}
    for name, (kind, kwargs) in PUBLISHED.items():
        with torch.device("meta"), contextlib.redirect_stdout(io.StringIO()):
            net = kind(**kwargs)
        state = net.state_dict()
        lines = sorted(f"{k} [{' '.join(map(str, v.shape))}]\n" for k, v in state.items())
        out[name] = {"weights": sum(v.numel() for v in state.values()), "tensors": len(state),
                     "digest": hashlib.sha256("".join(lines).encode()).hexdigest(), "config": json.loads(net.to_json_string())}
        print(name, out[name]["weights"], out[name]["tensors"])
    with open(os.path.join(OUT, "sizes.json"), "w") as f:
        json.dump(out, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    w = torch.tensor([0.0, 0.5, 1.0, 7.5, 12.999])
    write("guidance", {"w": w} | {str(dim): guidance(w, dim) for dim in (32, 33, 256)})
    for name, (kwargs, size, times) in CASES.items():
        unet_case(name, kwargs, size, times)
    for name, (kwargs, unet_kwargs, size) in CONTROL.items():
        controlnet_case(name, kwargs, unet_kwargs, size)
    sizes()
