"""Draws with diffusers' pipelines what tests/diffusers_test.go draws: diffusers_cases.py CASES.json

A case has name, pipeline, model and controls (folders), scheduler (a class), config (over the model's), eta, args (of the call; images are
files), seeds, shared (one generator of the first seed for all) and dtype. Without a scheduler it has the model's own. It may have single, a
single file whose configurations are those of the folder model, with parts that are read from the folder all the same, and adapters and fuse,
read by lora_reads.py. It writes NAME.I.png beside CASES.json, and NAME.latents.safetensors with latents, those before the autoencoder, where
latents is true.
"""
import json
import os
import sys
import types

os.environ["HF_HUB_OFFLINE"] = "1"
import diffusers  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from diffusers.utils import logging  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

logging.set_verbosity_error()
logging.disable_progress_bar()
torch.set_num_threads(1)


def in_float32(shape, generator=None, device=None, dtype=None, layout=None):
    """PyTorch 2.11 draws other numbers in half precision than in float32; 2.15 and onestep round float32's."""
    if isinstance(generator, list):
        return torch.cat([torch.randn((1, *shape[1:]), generator=g) for g in generator]).to(dtype)
    return torch.randn(shape, generator=generator).to(dtype)


for name in list(sys.modules):
    if name.startswith("diffusers.") and hasattr(sys.modules[name], "randn_tensor"):
        sys.modules[name].randn_tensor = in_float32

folder = os.path.dirname(os.path.abspath(sys.argv[1]))
with open(sys.argv[1]) as f:
    cases = json.load(f)
for c in cases:
    dtype = getattr(torch, c.get("dtype") or "float32")
    more = {}
    if c.get("controls"):
        nets = [diffusers.ControlNetModel.from_pretrained(p, torch_dtype=dtype) for p in c["controls"]]
        more["controlnet"] = nets[0] if len(nets) == 1 else nets
    cls = getattr(diffusers, c["pipeline"])
    if "XL" not in c["pipeline"]:
        more["safety_checker"] = None
    if c.get("single"):
        with open(os.path.join(c["model"], "model_index.json")) as f:
            index = json.load(f)
        for part in c.get("parts") or []:
            library, name = index[part]
            more[part] = getattr(sys.modules[library], name).from_pretrained(os.path.join(c["model"], part))
        pipe = cls.from_single_file(c["single"], config=c["model"], local_files_only=True, torch_dtype=dtype, **more)
    else:
        pipe = cls.from_pretrained(c["model"], torch_dtype=dtype, **more)
    for module in sys.modules.values():  # classes that were imported only now
        if getattr(module, "__name__", "").startswith("diffusers.") and hasattr(module, "randn_tensor"):
            module.randn_tensor = in_float32
    if c["scheduler"]:
        pipe.scheduler = getattr(diffusers, c["scheduler"]).from_config(pipe.scheduler.config, **(c.get("config") or {}))
    pipe.set_progress_bar_config(disable=True)
    if c.get("adapters"):
        sys.dont_write_bytecode = True
        import lora_reads  # needs peft, as the others do not

        try:
            lora_reads.attach(pipe, c["adapters"], c.get("fuse", False))
        except lora_reads.Refused as refused:
            sys.exit(str(refused))
    if not hasattr(pipe.text_encoder, "text_model"):  # diffusers 0.42's clip_skip looks for what transformers 5 has renamed
        pipe.text_encoder.text_model = types.SimpleNamespace(final_layer_norm=pipe.text_encoder.final_layer_norm)
    args = dict(c["args"])
    for key in ("image", "mask_image", "control_image"):
        if key in args:
            args[key] = Image.open(args[key]).convert("RGB")
    if c.get("eta") is not None:
        args["eta"] = c["eta"]
    g = [torch.Generator().manual_seed(s) for s in c["seeds"]]
    if c.get("latents"):
        last = {}

        def step(pipe, i, t, kept, last=last):
            last["latents"] = kept["latents"].float().contiguous()
            return {}

        args["callback_on_step_end"] = step
    images = pipe(generator=g[0] if c.get("shared") or len(g) == 1 else g, num_images_per_prompt=len(g), **args).images
    if c.get("latents"):
        save_file(last, os.path.join(folder, c["name"] + ".latents.safetensors"))
    for i, m in enumerate(images):
        m.save(os.path.join(folder, f"{c['name']}.{i}.png"))
