"""Tiny models of Stable Diffusion as diffusers and transformers write them, for tests/sd_test.go:

    python scripts/golden/tests/sd_models.py     writes tests/testdata/sd/, all but what scripts/golden/tests/sd_pipelines.py does

Weights follow from names (scripts/golden/shared/sdfill.py), so that pictures are noise, but one that depends on texts and all options. What is in the
folders, and which of the forms that published models come in they have:

    lcm            the model of diffusers' own tests of latent consistency: two levels, told its guidance; also as variant fp16
    sd15           the form of Stable Diffusion 1.5, four levels; a network in shards, an autoencoder with the old names of
                   attention, a text encoder with the prefix text_model., a scheduler that is not built (PNDM)
    sd15-inpaint   nine channels; files of torch.save alone, with the positions that older text encoders carry
    sd2            v-prediction, linear projections, heads by level, a text encoder with gelu; a tokenizer.json alone
    sdxl           two text encoders, times and pooled text, depths by block
    ssd1b          its network as SSD-1B's: depths that differ upwards, no attention in the middle
    controlnet     for sd15
    taesd          a tiny autoencoder, eight pixels to a latent

Types on disk are float16, lcm's float32. The tokenizer has the first 486 merges of CLIP's, so 1000 tokens.
"""
import gzip
import json
import os
import sys
import shutil

os.environ["HF_HUB_OFFLINE"] = "1"
import torch  # noqa: E402
from diffusers import (AutoencoderKL, AutoencoderTiny, ControlNetModel, DDIMScheduler, EulerDiscreteScheduler,  # noqa: E402
                       LatentConsistencyModelPipeline, LCMScheduler, PNDMScheduler, StableDiffusionInpaintPipeline,
                       StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel)
from diffusers.utils import logging  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer  # noqa: E402

sys.path.append(os.path.join(os.path.abspath(__file__).partition("/scripts/golden/")[0], "scripts", "golden", "shared"))
from sdfill import fill  # noqa: E402

ROOT = os.path.abspath(__file__).partition("/scripts/golden/")[0]
OUT = os.path.join(ROOT, "tests", "testdata", "sd")
MERGES = os.path.join(ROOT, "models", "sd", "prompt", "merges.txt.gz")
TOKENS = 1000
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


def vocabulary():
    """Tokens in their order, and the merges that make the longer ones."""
    order = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b <= 255]
    letters = [chr(b) for b in order] + [chr(256 + i) for i in range(256 - len(order))]
    with gzip.open(MERGES, "rt", encoding="utf-8") as f:
        merges = [line.strip() for line in f][:TOKENS - 2 * 256 - 2]
    return letters + [c + "</w>" for c in letters] + [m.replace(" ", "") for m in merges] + [BOS, EOS], merges


def tokenizer(pad=EOS):
    tokens, merges = vocabulary()
    assert len(set(tokens)) == TOKENS
    return CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=[tuple(m.split()) for m in merges], pad_token=pad,
                         model_max_length=77)


def classic_tokenizer(folder, pad=EOS):
    """The files of published models, in place of the tokenizer.json that transformers 5 writes."""
    shutil.rmtree(folder)
    os.makedirs(folder)
    tokens, merges = vocabulary()
    special = dict(bos_token=BOS, eos_token=EOS, pad_token=pad, unk_token=EOS)
    files = {"vocab.json": {t: i for i, t in enumerate(tokens)}, "special_tokens_map.json": special,
             "tokenizer_config.json": dict(special, add_prefix_space=False, do_lower_case=True, model_max_length=77,
                                           tokenizer_class="CLIPTokenizer")}
    for name, value in files.items():
        with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
            json.dump(value, f, ensure_ascii=False)
    with open(os.path.join(folder, "merges.txt"), "w", encoding="utf-8") as f:
        f.write("#version: 0.2\n" + "".join(m + "\n" for m in merges))


def text_encoder(name, layers=3, width=16, act="quick_gelu", projection=0):
    c = CLIPTextConfig(vocab_size=TOKENS, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
                       num_attention_heads=2, hidden_act=act, max_position_embeddings=77, bos_token_id=TOKENS - 2,
                       eos_token_id=TOKENS - 1, pad_token_id=1, projection_dim=projection or width)
    return fill((CLIPTextModelWithProjection if projection else CLIPTextModel)(c), name)


def network(name, widths, attention, depth=1, **more):
    """attention tells for each level whether it has any."""
    down = tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attention)
    up = tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention))
    c = dict(block_out_channels=widths, down_block_types=down, up_block_types=up, norm_num_groups=4, cross_attention_dim=16,
             attention_head_dim=8, layers_per_block=1, sample_size=8, transformer_layers_per_block=depth) | more
    return fill(UNet2DConditionModel(**c), name)


def autoencoder(name, widths=(8, 8, 16, 16), layers=2, groups=4, **more):
    n = len(widths)
    return fill(AutoencoderKL(block_out_channels=widths, down_block_types=("DownEncoderBlock2D",) * n,
                              up_block_types=("UpDecoderBlock2D",) * n, layers_per_block=layers, norm_num_groups=groups,
                              latent_channels=4, sample_size=64, **more), name)


def pndm(kind, **more):
    return kind(**(dict(BETAS, steps_offset=1, num_train_timesteps=1000) | more))


made = {}  # the state of each model's networks


def save(name, pipe, **how):
    pipe.save_pretrained(os.path.join(OUT, name), **how)
    if "variant" not in how:
        made[name] = {part: {k: v.float() for k, v in m.state_dict().items()} for part, m in pipe.components.items()
                      if isinstance(m, torch.nn.Module)}


def parts(name, cls, unet, scheduler, **more):
    p = dict(unet=unet, scheduler=scheduler, vae=autoencoder(name + ".vae"), text_encoder=text_encoder(name + ".text"),
             tokenizer=tokenizer())
    if cls is StableDiffusionXLPipeline:
        p |= dict(text_encoder_2=text_encoder(name + ".text2", 4, 16, "gelu", 24), tokenizer_2=tokenizer("!"),
                  force_zeros_for_empty_prompt=True, add_watermarker=False)
    else:
        p |= dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipe = cls(**(p | more))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def rewrite(path, rename):
    t = load_file(path)
    save_file({rename(k): v for k, v in t.items()}, path, metadata={"format": "pt"})


def old_attention(name):
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
    return name


WIDE = dict(widths=(16, 32, 32, 32), attention=(True, True, True, False), layers_per_block=2, norm_num_groups=8)
XL = dict(widths=(8, 16, 16), attention=(False, True, True), attention_head_dim=(2, 4, 4), cross_attention_dim=32, layers_per_block=2,
          use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
          projection_class_embeddings_input_dim=6 * 8 + 24)


def lcm():
    for how in (dict(variant="fp16"), {}):
        unet = network("lcm", (4, 8), (False, True), norm_num_groups=2, cross_attention_dim=32, time_cond_proj_dim=32, sample_size=32)
        pipe = parts("lcm", LatentConsistencyModelPipeline, unet, LCMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False),
                     vae=autoencoder("lcm.vae", (4, 8), 1, 2), text_encoder=text_encoder("lcm.text", 3, 32))
        save("lcm", pipe.to(torch.float16 if how else torch.float32), **how)


def sd15():
    unet = network("sd15", **WIDE)
    control = ControlNetModel(block_out_channels=WIDE["widths"], down_block_types=unet.config.down_block_types, norm_num_groups=8,
                              cross_attention_dim=16, attention_head_dim=8, layers_per_block=2,
                              conditioning_embedding_out_channels=(4, 4, 8, 8))
    fill(control, "control").half().save_pretrained(os.path.join(OUT, "controlnet"))
    pipe = parts("sd15", StableDiffusionPipeline, unet, pndm(PNDMScheduler, skip_prk_steps=True, set_alpha_to_one=False))
    save("sd15", pipe.to(torch.float16), max_shard_size="800KB")
    with open(os.path.join(OUT, "sd15", "scheduler", "scheduler_config.json"), "w") as f:  # the keys of the published one
        json.dump(dict(BETAS, _class_name="PNDMScheduler", _diffusers_version="0.6.0", clip_sample=False, num_train_timesteps=1000,
                       set_alpha_to_one=False, skip_prk_steps=True, steps_offset=1, trained_betas=None), f, indent=2)
        f.write("\n")
    rewrite(os.path.join(OUT, "sd15", "vae", "diffusion_pytorch_model.safetensors"), old_attention)
    rewrite(os.path.join(OUT, "sd15", "text_encoder", "model.safetensors"), lambda k: "text_model." + k)


def inpaint():
    unet = network("inpaint", (8, 16), (True, False), in_channels=9)
    pipe = parts("inpaint", StableDiffusionInpaintPipeline, unet, pndm(DDIMScheduler, clip_sample=False, set_alpha_to_one=False))
    save("sd15-inpaint", pipe.to(torch.float16), safe_serialization=False)
    at = os.path.join(OUT, "sd15-inpaint", "text_encoder")  # transformers 5 writes safetensors only
    state = load_file(os.path.join(at, "model.safetensors"))
    state = {"text_model." + k: v for k, v in state.items()} | {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    torch.save(state, os.path.join(at, "pytorch_model.bin"))
    os.remove(os.path.join(at, "model.safetensors"))


def sd2():
    unet = network("sd2", (8, 16), (True, False), attention_head_dim=(2, 4), use_linear_projection=True)
    pipe = parts("sd2", StableDiffusionPipeline, unet,
                 pndm(DDIMScheduler, clip_sample=False, set_alpha_to_one=False, prediction_type="v_prediction"),
                 text_encoder=text_encoder("sd2.text", act="gelu"))
    save("sd2", pipe.to(torch.float16))


def xl():
    for name, more in (
            ("sdxl", dict(depth=(1, 2, 3))),
            ("ssd1b", dict(depth=(0, (2, 1), (1, 3)), reverse_transformer_layers_per_block=((3, 1, 2), (2, 1, 1), 0),
                           mid_block_type="UNetMidBlock2D"))):
        pipe = parts(name, StableDiffusionXLPipeline, network(name, **(XL | more)),
                     pndm(EulerDiscreteScheduler, timestep_spacing="leading"),
                     vae=autoencoder(name + ".vae", scaling_factor=0.13025))
        save(name, pipe.to(torch.float16))


def taesd():
    tiny = AutoencoderTiny(encoder_block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8))
    fill(tiny, "taesd").half().save_pretrained(os.path.join(OUT, "taesd"))


def check(name, loaded=StableDiffusionPipeline):
    """Loads a model as tests do, and tells whether it is one that can tell anything."""
    pipe = loaded.from_pretrained(os.path.join(OUT, name), torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    for part, state in made[name].items():
        read = getattr(pipe, part).state_dict()
        assert all(torch.equal(v, read[k]) for k, v in state.items()), (name, part)
    for t, pad in (("tokenizer", TOKENS - 1), ("tokenizer_2", 0)):
        ids = getattr(pipe, t)("The art of it", padding="max_length").input_ids if hasattr(pipe, t) else [TOKENS - 2] + [pad] * 76
        assert len(ids) == 77 and ids[0] == TOKENS - 2 and ids[-1] == pad, (name, t)

    def draw(text):
        more = {}
        if loaded is StableDiffusionInpaintPipeline:
            v = torch.linspace(0, 1, 64)
            more = dict(image=v.expand(1, 3, 64, 64), mask_image=(v > 0.5).float().expand(1, 1, 64, 64))
        return pipe(text, num_inference_steps=2, width=64, height=64, output_type="np", generator=torch.Generator().manual_seed(0),
                    **more).images

    a, b = draw("a photo of a red cat"), draw("the old house")
    print(f"{name}: deviation {a.std():.3f}, at the ends {((a == 0) | (a == 1)).mean():.2f}, texts differ by {abs(a - b).mean():.4f}")
    assert a.std() > 0.05 and ((a == 0) | (a == 1)).mean() < 0.5 and abs(a - b).mean() > 1 / 255, name


if __name__ == "__main__":
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    os.makedirs(OUT, exist_ok=True)
    for name in ("lcm", "sd15", "sd15-inpaint", "sd2", "sdxl", "ssd1b", "controlnet", "taesd"):
        shutil.rmtree(os.path.join(OUT, name), ignore_errors=True)
    for f in (lcm, sd15, inpaint, sd2, xl, taesd):
        f()
    for name in ("lcm", "sd15", "sd15-inpaint", "sdxl", "ssd1b"):
        classic_tokenizer(os.path.join(OUT, name, "tokenizer"))
    for name in ("sdxl", "ssd1b"):
        classic_tokenizer(os.path.join(OUT, name, "tokenizer_2"), "!")
    check("lcm", LatentConsistencyModelPipeline)
    check("sd15")
    check("sd15-inpaint", StableDiffusionInpaintPipeline)
    check("sd2")
    check("sdxl", StableDiffusionXLPipeline)
    check("ssd1b", StableDiffusionXLPipeline)
