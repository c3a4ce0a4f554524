"""Adapters as diffusers and peft read them, strictly: lora_reads.py JOBS.json

A job has name, pipeline (a class of diffusers'), model (a folder) and adapters: file and weight (as set_adapters takes it; 1 where there is
none). A file that is a folder is one of peft's, for the part (unet where there is none) it names, and read by peft's own loader. It fails,
and says why, where a library drops or misses a key, which by themselves they tell in a line of the log at most: nothing may be
warned of, as many modules must be adapted as the file has, and all with the file's numbers. It writes NAME.safetensors beside JOBS.json
with I/PATH, what adapter I does to the weight of the module at PATH in float32 at a weight of 1, and I/PATH/scale; paths start with the
part, and those of text encoders go on with text_model. And it saves the last adapter as the libraries do, in the files that export has:

    kohya       convert_state_dict_to_kohya, whose alpha is always the rank
    diffusers   convert_state_dict_to_diffusers, which renames attention alone
    peft        save_lora_weights with metadata
    folder      save_pretrained of the network

diffusers_cases.py draws with adapters that are read here.
"""
import json
import logging
import os
import sys
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"
import diffusers  # noqa: E402
import peft  # noqa: E402
import torch  # noqa: E402
from diffusers.utils.state_dict_utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya  # noqa: E402
from peft.tuners.tuners_utils import BaseTunerLayer  # noqa: E402
from peft.utils import get_peft_model_state_dict  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

PARTS = ("unet", "text_encoder", "text_encoder_2")
FIRSTS = ("lora_down.weight", ".lora.down.weight", "_lora.down.weight", "lora_linear_layer.down.weight")
# A file need not have all parts, for modules are counted; nor be the only one.
FINE = ("No LoRA keys associated to", "Already found a `peft_config`")


class Refused(Exception):
    """What a library drops or misses."""


class Listener(logging.Handler):
    """Collects what is worth failing for when that adapter is read."""

    def __init__(self, adapter):
        super().__init__(logging.WARNING)
        self.adapter, self.heard = f".{adapter}.", []

    def emit(self, record):
        text = record.getMessage()
        if "LOAD REPORT" in text:  # transformers lists the base's weights, too, which are there already
            self.heard += [line for line in text.splitlines() if "| UNEXPECTED" in line or "MISMATCH" in line or self.adapter in line]
        elif not text.startswith(FINE):
            self.heard.append(text)

    def __enter__(self):
        self.loggers = [logging.getLogger(name) for name in ("diffusers", "transformers", "peft")]
        for each in self.loggers:
            each.addHandler(self)
        self.caught = warnings.catch_warnings(record=True)
        self.warned = self.caught.__enter__()
        warnings.simplefilter("always")
        return self

    def __exit__(self, *error):
        self.caught.__exit__(*error)
        for each in self.loggers:
            each.removeHandler(self)
        said = [str(w.message) for w in self.warned if issubclass(w.category, (UserWarning, RuntimeWarning))]
        self.heard += [text for text in said if not text.startswith(FINE)]


def layers(pipe, adapter):
    """The modules that an adapter has changed, by path."""
    for part in PARTS:
        model = getattr(pipe, part, None)
        for name, m in model.named_modules() if model is not None else ():
            if isinstance(m, BaseTunerLayer) and any(adapter in getattr(m, key) for key in m.adapter_layer_names):
                if part != "unet" and not name.startswith("text_model."):
                    name = "text_model." + name
                yield f"{part}.{name}", m


def numbers(tensors):
    """All tensors' elements in an order of their own."""
    return sorted(tuple(t.detach().float().flatten().tolist()) for t in tensors)


def check(pipe, adapter, file, tensors):
    """Fails unless the modules hold all of the file's factors and nothing else."""
    firsts = [k for k in tensors if k.endswith(FIRSTS) or ".lora_A." in k]
    adapted = dict(layers(pipe, adapter))
    if len(adapted) != len(firsts):
        raise Refused(f"{file}: {len(adapted)} modules are adapted; the file has {len(firsts)}")
    held = []
    for path, m in adapted.items():
        for at in (getattr(m, key) for key in dict.fromkeys(m.adapter_layer_names)):  # DoRA names one twice
            if adapter in at:
                held.append(at[adapter].weight if isinstance(at[adapter], torch.nn.Module) else at[adapter])
        if any(p.is_meta for p in held):
            raise Refused(f"{file}: {path} has no weights")
    has = [t for k, t in tensors.items() if not k.endswith(".alpha")]
    if numbers(held) != numbers(has):
        raise Refused(f"{file}: {len(has)} factors in the file, {len(held)} in the model, and they are not the same")


def read(pipe, i, a):
    """Attaches adapter I under the name adapterI."""
    file, name = a["file"], f"adapter{i}"
    with Listener(name) as listener:
        if os.path.isdir(file):
            tensors, part = load_file(os.path.join(file, "adapter_model.safetensors")), a.get("part") or "unet"
            setattr(pipe, part, peft.PeftModel.from_pretrained(getattr(pipe, part), file, adapter_name=name).base_model.model)
        else:
            tensors = load_file(file)
            pipe.load_lora_weights(file, adapter_name=name)
    if listener.heard:
        raise Refused(f"{file}: " + "; ".join(listener.heard))
    check(pipe, name, file, tensors)
    return name


def attach(pipe, adapters, fuse=False):
    """Attaches all adapters with their weights."""
    names = [read(pipe, i, a) for i, a in enumerate(adapters)]
    pipe.to(pipe.dtype)
    pipe.set_adapters(names, [1.0 if a.get("weight") is None else a["weight"] for a in adapters])
    if fuse:
        pipe.fuse_lora(adapter_names=names)
        pipe.unload_lora_weights()


def effects(pipe, i, name):
    out = {}
    for path, m in layers(pipe, name):
        m.float()
        if getattr(m, "use_dora", {}).get(name):
            base = m.get_base_layer().weight.detach().clone()
            m.merge(adapter_names=[name])
            d = m.get_base_layer().weight.detach() - base
            m.get_base_layer().weight.data = base
            m.merged_adapters.clear()
        else:
            d = m.get_delta_weight(name).detach()
        out[f"{i}/{path}"], out[f"{i}/{path}/scale"] = d.contiguous().clone(), torch.tensor(float(m.scaling[name]))
    return out


def export(pipe, name, files):
    state, more = {}, {}
    for part in PARTS:
        model = getattr(pipe, part, None)
        if name in getattr(model, "peft_config", {}):
            mine = get_peft_model_state_dict(model, adapter_name=name)
            state |= {f"{part}.{k}": v for k, v in mine.items()}
            more |= {f"{part}_lora_layers": mine, f"{part}_lora_adapter_metadata": model.peft_config[name].to_dict()}
    if "kohya" in files:
        save_file(convert_state_dict_to_kohya(dict(state)), files["kohya"], metadata={"format": "pt"})
    if "diffusers" in files:
        save_file(convert_state_dict_to_diffusers(dict(state)), files["diffusers"], metadata={"format": "pt"})
    if "peft" in files:
        type(pipe).save_lora_weights(os.path.dirname(files["peft"]), weight_name=os.path.basename(files["peft"]), **more)
    if "folder" in files:
        os.makedirs(files["folder"], exist_ok=True)
        config = pipe.unet.peft_config[name]
        config.save_pretrained(files["folder"])
        mine = get_peft_model_state_dict(pipe.unet, adapter_name=name)
        save_file({"base_model.model." + k: v for k, v in mine.items()}, os.path.join(files["folder"], "adapter_model.safetensors"))


def main():
    folder = os.path.dirname(os.path.abspath(sys.argv[1]))
    with open(sys.argv[1]) as f:
        jobs = json.load(f)
    for j in jobs:
        more = {} if "XL" in j["pipeline"] else {"safety_checker": None}
        pipe = getattr(diffusers, j["pipeline"]).from_pretrained(j["model"], torch_dtype=torch.float32, **more)
        out = {}
        for i, a in enumerate(j["adapters"]):
            name = read(pipe, i, a)
            out |= effects(pipe, i, name)
        save_file(out, os.path.join(folder, j["name"] + ".safetensors"))
        if j.get("export"):
            export(pipe, name, j["export"])


if __name__ == "__main__":
    diffusers.utils.logging.disable_progress_bar()
    for library in (diffusers.utils.logging, __import__("transformers").utils.logging):
        library.disable_default_handler()
    torch.set_num_threads(1)
    try:
        main()
    except Refused as refused:
        sys.exit(str(refused))
