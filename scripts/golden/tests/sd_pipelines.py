"""What diffusers' pipelines draw with the models of scripts/golden/tests/sd_models.py, for tests/sd_test.go:

    python scripts/golden/tests/sd_pipelines.py     writes tests/testdata/sd/{cases.jsonl,cases.safetensors,*.png}

Every case loads its model from tests/testdata/sd, in float32 unless it says otherwise, on the CPU with one thread. Its scheduler is
CLASS.from_config(the model's own, **overrides). A line of cases.jsonl is one case; keys that are null or 0 stand for the pipeline's
default:

    name, model, variant, vae    what is drawn, folders of the model and of a tiny autoencoder in place of its own, variant of its files
    pipeline, dtype              class in diffusers; float32, float16 or bfloat16
    sampler, overrides           lcm, tcd (with eta 0.3), ddim, euler, euler_a, dpmpp_2m, dpmpp_2m_karras, unipc, heun; null: the model's
    steps, timesteps, original   original_inference_steps
    guidance, rescale            guidance_scale, guidance_rescale
    prompt, negative, clip_skip  negative may be "", which is not the same as null to SDXL
    seeds, shared, n             one generator for each picture, or one that all n share
    apart                        pictures are drawn one after the other, each with its seed, and not together
    width, height                in pixels
    strength, init, mask         pictures in the folder, of any size: the pipelines resize them
    controls                     ControlNets: net, image, scale, start, end, guess
    size, crop                   of SDXL: original_size as width and height, crops_coords_top_left as x and y
    latents, image               tensors of cases.safetensors: before the autoencoder [n, 4, h, w], and [n, height, width, 3] of 8 bits,
    every                        of whose rows and columns each that many-th is there: 1 for one case of each autoencoder, and for the
                                 others 5, which has no factor in common with the autoencoder's 8, so that every place in a block occurs

Noise is drawn in float32 and rounded to the latents' type: PyTorch 2.11 draws other numbers in half precision.
"""
import inspect
import json
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
import diffusers  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from diffusers.utils import logging, torch_utils  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

FOLDER = os.path.join(os.path.abspath(__file__).partition("/scripts/golden/")[0], "tests", "testdata", "sd")
CLASSES = {"lcm": "LCMScheduler", "tcd": "TCDScheduler", "ddim": "DDIMScheduler", "euler": "EulerDiscreteScheduler",
           "euler_a": "EulerAncestralDiscreteScheduler", "heun": "HeunDiscreteScheduler", "dpmpp_2m": "DPMSolverMultistepScheduler",
           "unipc": "UniPCMultistepScheduler"}
LCM, LCM_IMG = "LatentConsistencyModelPipeline", "LatentConsistencyModelImg2ImgPipeline"
SD, IMG, INPAINT = "StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"
CONTROL, XL, XL_IMG = "StableDiffusionControlNetPipeline", "StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline"
XL_INPAINT = "StableDiffusionXLInpaintPipeline"
DEFAULTS = dict(variant=None, vae=None, dtype="float32", sampler=None, overrides={}, timesteps=None, original=0, rescale=0.0,
                negative=None, clip_skip=0, shared=False, apart=False, n=1, width=64, height=64, strength=0.0, init=None, mask=None, controls=[],
                size=None, crop=None)
PROMPT, NEGATIVE = "a photo of a red cat", "blurry, the old house"

ROUNDED = torch_utils.randn_tensor


def randn(shape, generator=None, device=None, dtype=None, layout=None):
    return ROUNDED(shape, generator=generator, device=device, dtype=torch.float32, layout=layout).to(dtype)


def pictures():
    """A picture to start from, a mask with a slanted edge in greys, and something like edges; each square, and of a size that
    no autoencoder takes."""
    for n, (w, h) in {"64": (64, 64), "32": (32, 32), "odd": (75, 45)}.items():
        y, x = np.mgrid[0:h, 0:w] / [[[h]], [[w]]]
        init = np.stack([x, y, 0.5 + 0.5 * np.sin(9 * (x + y))], -1)
        init[(x - 0.4) ** 2 + (y - 0.5) ** 2 < 0.05] = (0.9, 0.2, 0.1)
        mask = np.clip(0.5 + 6 * (x + 0.3 * y - 0.6), 0, 1)
        edges = (np.abs(np.sin(11 * x) - y) < 0.1).astype(float)
        for name, v in (("init", init), ("mask", mask), ("control", np.stack([edges, edges, x * edges], -1))):
            Image.fromarray((v * 255).round().astype(np.uint8)).save(os.path.join(FOLDER, f"{name}{n}.png"), optimize=False)


def control(scale=1.0, start=0.0, end=1.0, guess=False):
    return [dict(net="controlnet", image="control64.png", scale=scale, start=start, end=end, guess=guess)]


def table():
    out = []

    def case(name, model, pipeline, steps, guidance, **more):
        assert set(more) <= set(DEFAULTS) | {"seeds", "prompt"}, more
        out.append(dict(dict(DEFAULTS, name=name, model=model, pipeline=pipeline, steps=steps, guidance=guidance, prompt=PROMPT,
                             seeds=[7]), **more))

    # Texts alone, with each model and what it was made for.
    for n in (1, 2, 4):
        case(f"lcm {n}", "lcm", LCM, n, 8.5, width=32, height=32)
    case("lcm oblong", "lcm", LCM, 3, 4.0, width=48, height=32, prompt="Café №3: the 2nd house, isn't it? 猫 🐈")
    case("lcm finer grid", "lcm", LCM, 4, 8.5, original=100, width=32, height=32)
    case("sd15 alone", "sd15", SD, 6, 7.5, sampler="dpmpp_2m")
    case("sd2 alone", "sd2", SD, 5, 6.0)
    case("sdxl alone", "sdxl", XL, 5, 5.0)
    case("ssd1b alone", "ssd1b", XL, 5, 5.0, negative=NEGATIVE)
    case("sd15 oblong", "sd15", SD, 3, 3.0, sampler="euler", width=64, height=32, negative=NEGATIVE)
    case("too long", "sd15", SD, 2, 4.0, sampler="ddim", prompt="the red cat on a house, " * 30, negative="an old one of those, " * 30)
    case("no text", "sd15", SD, 2, 1.0, sampler="lcm", prompt="")

    # Samplers with an ordinary model.
    for n in (1, 2, 4, 8):
        case(f"lcm sampler {n}", "sd15", SD, n, 1.0, sampler="lcm")
    for sampler in ("ddim", "euler", "euler_a", "dpmpp_2m", "dpmpp_2m_karras", "unipc", "heun", "tcd"):
        case(f"{sampler} guided", "sd15", SD, 6, 7.5, sampler=sampler, negative=NEGATIVE)
    case("tcd alone", "sd15", SD, 4, 1.0, sampler="tcd")
    case("timesteps", "sd15", SD, 4, 1.0, sampler="lcm", timesteps=[999, 749, 499, 249])
    case("lcm guided a little", "sd15", SD, 4, 1.5, sampler="lcm")
    case("lcm guided away", "sd15", SD, 4, 2.0, sampler="lcm", negative=NEGATIVE)

    # v-prediction
    zero = dict(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    case("zero snr", "sd2", SD, 5, 7.5, sampler="ddim", overrides=zero, rescale=0.7, negative=NEGATIVE)
    case("zero snr lcm", "sd2", SD, 4, 1.0, sampler="lcm", overrides=zero)
    for sampler in ("lcm", "euler", "dpmpp_2m", "unipc", "tcd"):
        case(f"v {sampler}", "sd2", SD, 4, 3.0, sampler=sampler)

    # Layers left out
    case("skip", "sd15", SD, 3, 1.0, sampler="lcm", clip_skip=1)
    case("skip guided", "sd15", SD, 4, 6.0, sampler="ddim", clip_skip=1, negative=NEGATIVE)
    case("skip sdxl", "sdxl", XL, 3, 4.0, clip_skip=1, negative=NEGATIVE)

    # From a picture
    case("img lcm model", "lcm", LCM_IMG, 4, 8.5, strength=0.5, init="init32.png", width=32, height=32)
    case("img lcm model 2", "lcm", LCM_IMG, 2, 3.0, strength=0.8, init="init32.png", width=32, height=32)
    case("img lcm model all steps", "lcm", IMG, 4, 8.5, strength=0.5, init="init32.png", width=32, height=32)
    case("inpaint lcm model", "lcm", INPAINT, 4, 8.5, strength=0.8, init="init32.png", mask="mask32.png", width=32, height=32)
    case("img lcm", "sd15", IMG, 4, 1.0, sampler="lcm", strength=0.5, init="init64.png")
    case("img lcm all", "sd15", IMG, 3, 1.0, sampler="lcm", strength=1.0, init="init64.png")
    case("img ddim", "sd15", IMG, 6, 7.5, sampler="ddim", strength=0.5, init="init64.png", negative=NEGATIVE)
    for sampler in ("euler", "euler_a", "dpmpp_2m_karras", "unipc", "heun", "tcd"):
        case(f"img {sampler}", "sd15", IMG, 6, 5.0, sampler=sampler, strength=0.6, init="init64.png")
    case("img sd2", "sd2", IMG, 5, 5.0, strength=0.7, init="init64.png")

    # Parts of a picture
    painted = dict(init="init64.png", mask="mask64.png")
    for strength in (1.0, 0.7):
        case(f"nine channels {strength}", "sd15-inpaint", INPAINT, 5, 7.5, strength=strength, **painted)
        case(f"nine channels lcm {strength}", "sd15-inpaint", INPAINT, 4, 1.0, sampler="lcm", strength=strength, **painted)
    for strength in (1.0, 0.6):
        case(f"inpaint lcm {strength}", "sd15", INPAINT, 5, 1.0, sampler="lcm", strength=strength, **painted)
        case(f"inpaint ddim {strength}", "sd15", INPAINT, 5, 7.5, sampler="ddim", strength=strength, negative=NEGATIVE, **painted)
    case("inpaint euler", "sd15", INPAINT, 5, 4.0, sampler="euler", strength=0.6, **painted)
    case("inpaint euler all", "sd15", INPAINT, 4, 4.0, sampler="euler", strength=1.0, **painted)
    case("inpaint dpmpp_2m", "sd15", INPAINT, 5, 4.0, sampler="dpmpp_2m", strength=0.8, **painted)
    case("inpaint heun", "sd15", INPAINT, 4, 4.0, sampler="heun", strength=0.75, **painted)

    # ControlNet
    for scale in (1.0, 0.5):
        case(f"control {scale}", "sd15", CONTROL, 4, 1.0, sampler="lcm", controls=control(scale))
    case("control guided", "sd15", CONTROL, 5, 6.0, sampler="euler", negative=NEGATIVE, controls=control())
    case("control guess", "sd15", CONTROL, 5, 6.0, sampler="ddim", negative=NEGATIVE, controls=control(guess=True))
    case("control guess unguided", "sd15", CONTROL, 3, 1.0, sampler="lcm", controls=control(0.8, guess=True))
    case("control part", "sd15", CONTROL, 5, 6.0, sampler="ddim", controls=control(start=0.2, end=0.7))
    case("control part heun", "sd15", CONTROL, 4, 6.0, sampler="heun", controls=control(0.7, start=0.3, end=0.8))

    case("control two", "sd15", CONTROL, 4, 4.0, sampler="euler",
         controls=[dict(control(0.9, end=0.7)[0], image="init64.png"), *control(0.4, start=0.2)])
    case("control two guess", "sd15", CONTROL, 3, 4.0, sampler="lcm",
         controls=[dict(control(0.9, guess=True)[0], image="init64.png"), *control(0.4, guess=True)])

    # XL
    case("sdxl lcm", "sdxl", XL, 4, 1.0, sampler="lcm")
    case("sdxl away", "sdxl", XL, 5, 5.0, sampler="euler", negative=NEGATIVE)
    case("sdxl empty negative", "sdxl", XL, 5, 5.0, sampler="euler", negative="")
    case("sdxl oblong", "sdxl", XL, 3, 5.0, width=32, height=64, prompt="Wow! A cat!!")
    case("sdxl img", "sdxl", XL_IMG, 5, 5.0, strength=0.6, init="init64.png")
    case("sdxl img lcm", "sdxl", XL_IMG, 4, 1.0, sampler="lcm", strength=0.5, init="init64.png")
    case("sdxl sizes", "sdxl", XL, 3, 5.0, size=[150, 90], crop=[30, 11])
    case("sdxl inpaint", "sdxl", XL_INPAINT, 4, 1.0, sampler="lcm", strength=1.0, **painted)
    case("sdxl inpaint part", "sdxl", XL_INPAINT, 5, 5.0, strength=0.6, negative=NEGATIVE, **painted)
    case("sdxl rescaled", "sdxl", XL, 4, 8.0, sampler="dpmpp_2m_karras", rescale=0.5)
    case("ssd1b lcm", "ssd1b", XL, 4, 1.0, sampler="lcm")
    case("ssd1b unguided", "ssd1b", XL, 3, 1.0)

    # Several
    case("two", "sd15", SD, 3, 1.0, sampler="lcm", n=2, seeds=[100, 101])
    case("two sharing", "sd15", SD, 3, 1.0, sampler="lcm", n=2, seeds=[100], shared=True)
    case("two guided", "sd15", SD, 3, 5.0, sampler="euler_a", n=2, seeds=[200, 201], negative=NEGATIVE)
    case("two sharing guided", "sd15", SD, 3, 5.0, sampler="euler_a", n=2, seeds=[200], shared=True, negative=NEGATIVE)
    case("two img", "sd15", IMG, 4, 1.0, sampler="lcm", n=2, seeds=[300, 301], strength=0.6, init="init64.png")
    case("two img sharing", "sd15", IMG, 4, 1.0, sampler="lcm", n=2, seeds=[300], shared=True, strength=0.6, init="init64.png")
    case("two inpaint sharing", "sd15", INPAINT, 4, 3.0, sampler="lcm", n=2, seeds=[400], shared=True, strength=0.6, **painted)
    case("two inpaint", "sd15", INPAINT, 4, 3.0, sampler="lcm", n=2, seeds=[410, 411], apart=True, strength=0.6, **painted)
    case("two inpaint all", "sd15", INPAINT, 4, 3.0, sampler="lcm", n=2, seeds=[410, 411], apart=True, strength=1.0, **painted)
    case("two nine channels", "sd15-inpaint", INPAINT, 3, 3.0, sampler="lcm", n=2, seeds=[510, 511], apart=True, strength=1.0, **painted)
    case("two nine channels sharing", "sd15-inpaint", INPAINT, 3, 3.0, sampler="lcm", n=2, seeds=[500], shared=True, strength=1.0,
         **painted)
    case("two lcm model", "lcm", LCM, 2, 8.5, n=2, seeds=[600, 601], width=32, height=32)
    case("two sdxl", "sdxl", XL, 3, 4.0, n=2, seeds=[700, 701])
    case("two control sharing", "sd15", CONTROL, 3, 4.0, sampler="lcm", n=2, seeds=[800], shared=True, controls=control(guess=True))

    # Pictures of other sizes, latents that cannot be halved thrice
    odd = dict(init="initodd.png", mask="maskodd.png")
    case("odd img", "sd15", IMG, 4, 1.0, sampler="lcm", strength=0.6, init="initodd.png", width=72, height=40)
    case("odd text", "sd15", SD, 3, 4.0, sampler="ddim", width=40, height=56)
    case("odd inpaint", "sd15", INPAINT, 4, 1.0, sampler="lcm", strength=0.8, **odd)
    case("odd inpaint oblong", "sd15", INPAINT, 4, 5.0, sampler="ddim", strength=0.7, width=104, height=56, **odd)
    case("odd nine channels", "sd15-inpaint", INPAINT, 4, 1.0, sampler="lcm", strength=1.0, width=40, height=64, **odd)
    case("odd control", "sd15", CONTROL, 3, 4.0, sampler="lcm", controls=[dict(control()[0], image="controlodd.png")], width=48,
         height=88)
    case("odd sdxl img", "sdxl", XL_IMG, 4, 3.0, strength=0.6, init="initodd.png", width=72, height=40)
    case("odd sdxl inpaint", "sdxl", XL_INPAINT, 4, 3.0, strength=0.7, width=56, height=72, **odd)

    # Other files and types
    case("tiny vae", "sd15", SD, 3, 1.0, sampler="lcm", vae="taesd")
    case("tiny vae img", "sd15", IMG, 4, 1.0, sampler="lcm", vae="taesd", strength=0.5, init="init64.png")
    case("variant", "lcm", LCM, 3, 8.5, variant="fp16", width=32, height=32)
    case("bfloat16", "sd15", SD, 3, 1.0, sampler="lcm", dtype="bfloat16")
    case("bfloat16 guided", "sd2", SD, 3, 1.5, dtype="bfloat16")
    case("float16", "sd15", SD, 3, 1.0, sampler="lcm", dtype="float16", seeds=[8])
    case("float16 lcm model", "lcm", LCM, 3, 8.5, variant="fp16", dtype="float16", width=32, height=32, seeds=[8])
    case("float16 sdxl", "sdxl", XL, 3, 1.0, sampler="lcm", dtype="float16")
    return out


def load(c):
    kind = getattr(torch, c["dtype"])
    at = os.path.join(FOLDER, c["model"])
    more = {} if not c["variant"] else dict(variant=c["variant"])
    if c["controls"]:
        nets = [diffusers.ControlNetModel.from_pretrained(os.path.join(FOLDER, k["net"]), torch_dtype=kind) for k in c["controls"]]
        more["controlnet"] = nets if len(nets) > 1 else nets[0]
    if c["vae"]:
        more["vae"] = diffusers.AutoencoderTiny.from_pretrained(os.path.join(FOLDER, c["vae"]), torch_dtype=kind)
    pipe = getattr(diffusers, c["pipeline"]).from_pretrained(at, torch_dtype=kind, **more)
    pipe.set_progress_bar_config(disable=True)
    pipe.text_encoder.__dict__.setdefault("text_model", pipe.text_encoder)  # where diffusers 0.42 looks and transformers 5 has none
    name = c["sampler"]
    cls = type(pipe.scheduler) if name is None else getattr(diffusers, CLASSES[name.removesuffix("_karras")])
    overrides = dict(c["overrides"], **(dict(use_karras_sigmas=True) if name and name.endswith("_karras") else {}))
    pipe.scheduler = cls.from_config(pipe.scheduler.config, **overrides)
    for m in (sys.modules[type(pipe).__module__], sys.modules[cls.__module__], diffusers.models.autoencoders.vae):
        if hasattr(m, "randn_tensor"):
            m.randn_tensor = randn
    return pipe


def draw(c, pipe=None):
    if c.get("apart"):
        each = [draw(dict(c, n=1, seeds=[seed], apart=False)) for seed in c["seeds"]]
        return tuple(torch.cat(v) for v in zip(*each))
    pipe = pipe or load(c)
    last = {}

    def step(pipe, i, t, kept):
        last["latents"] = kept["latents"]
        return {}

    generators = [torch.Generator().manual_seed(s) for s in c["seeds"]]
    args = dict(prompt=c["prompt"], guidance_scale=c["guidance"], num_images_per_prompt=c["n"], callback_on_step_end=step,
                generator=generators if len(generators) > 1 else generators[0])
    if c["timesteps"]:
        args["timesteps"] = c["timesteps"]
    else:
        args["num_inference_steps"] = c["steps"]
    if c["sampler"] == "tcd":
        args["eta"] = c.get("eta", 0.3)
    for key, name in (("original", "original_inference_steps"), ("rescale", "guidance_rescale"), ("strength", "strength"),
                      ("clip_skip", "clip_skip"), ("negative", "negative_prompt")):
        if c[key] or c[key] == "":
            args[name] = c[key]

    def picture(name, mode):
        return Image.open(os.path.join(FOLDER, name)).convert(mode)

    if c["init"]:
        args["image"] = picture(c["init"], "RGB")
    if c["mask"]:
        args["mask_image"] = picture(c["mask"], "L")
    if c["controls"]:
        all_of = {key: [k[key] for k in c["controls"]] for key in c["controls"][0]}
        images = [picture(name, "RGB") for name in all_of["image"]]
        one = (lambda v: v) if len(images) > 1 else (lambda v: v[0])
        args |= dict(image=one(images), controlnet_conditioning_scale=one(all_of["scale"]), control_guidance_start=one(all_of["start"]),
                     control_guidance_end=one(all_of["end"]), guess_mode=all_of["guess"][0])
    if c["size"]:
        args |= dict(original_size=tuple(c["size"][::-1]), crops_coords_top_left=tuple(c["crop"][::-1]))
    if "width" in inspect.signature(pipe.__call__).parameters:
        args |= dict(width=c["width"], height=c["height"])
    with torch.no_grad():
        images = pipe(**args).images
    return last["latents"].float().contiguous(), torch.from_numpy(np.stack([np.asarray(p) for p in images]))


def draw_all(rows, folder, draw, whole=True):
    """Writes the cases with their tensors; the first image of each autoencoder is kept whole if that is asked for."""
    tensors, seen = {}, set()
    assert len({c["name"] for c in rows}) == len(rows)
    for c in rows:
        latents, image = draw(c)
        c["latents"], c["image"] = c["name"] + "/latents", c["name"] + "/image"
        tensors[c["latents"]], tensors[c["image"]] = latents, image
        v, ends = image.float() / 255, ((image == 0) | (image == 255)).float().mean()
        print(f"{c['name']}: latents {latents.std():.3g}, picture {v.std():.3f}, at the ends {ends:.2f}")
        assert image.shape == (c["n"], c["height"], c["width"], 3) and v.std() > 0.05 and ends < 0.6 and latents.isfinite().all()
    for i, a in enumerate(rows):  # everything that is asked for has an effect
        for b in rows[:i]:
            x, y = tensors[a["image"]], tensors[b["image"]]
            alike = x.shape == y.shape and (x.float() - y.float()).abs().max() <= 2
            assert not alike or a.get("fuse") != b.get("fuse"), (a["name"], b["name"])
    for c in rows:
        coder = c["vae"] or c["model"]
        c["every"] = 1 if whole and coder not in seen else 5
        seen.add(coder)
        tensors[c["image"]] = tensors[c["image"]][:, ::c["every"], ::c["every"]].contiguous()
    with open(os.path.join(folder, "cases.jsonl"), "w", encoding="utf-8") as f:
        f.writelines(json.dumps(c, ensure_ascii=False) + "\n" for c in rows)
    save_file(tensors, os.path.join(folder, "cases.safetensors"))
    os.chmod(os.path.join(folder, "cases.safetensors"), 0o644)


if __name__ == "__main__":
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    pictures()
    draw_all(table(), FOLDER, draw)
