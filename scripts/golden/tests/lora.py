"""Adapters in every layout, what peft makes of them, and what diffusers draws with them, for tests/lora_test.go:

    python scripts/golden/tests/lora.py [files] [cases]    writes tests/testdata/lora/: adapters and their effects, pictures; both by default

Adapters are for the models of scripts/golden/tests/sd_models.py. Their weights follow from names (scripts/golden/shared/sdfill.py), rounded to the type of
the file. An effect is what an adapter does to a model: for each module the difference of its weight. Files that hold the same effect have
the very same numbers, so a reader must find the very same differences in all of them.

files.jsonl has a line for each adapter:

    file, model      in tests/testdata/lora and tests/testdata/sd; a file without an ending is a folder as peft saves them
    layout           old: attn1.processor.to_q_lora.down; diffusers: to_q.lora.down, lora_linear_layer; peft: lora_A; kohya: lora_unet_…;
                     sgm: kohya's with the names of CompVis and Stability; mixed: several
    effect           its line in effects.jsonl; null: see error
    error            why the file must be refused: nan, inf, rank (of up and down differ), shape (does not fit the module), base (made for
                     another one), half (down without up), unmatched (names that the model has none of; effect is what the others do)
    unmatched        the keys that no module takes
    diffusers        what diffusers makes of it: same; refuses: EXCEPTION; "drops N" modules or "differs at N" of them, and both, without
                     more than a line in its log; other, where the difference is more than the modules'

effects.jsonl has a line for each effect:

    name, model, kind    lora, dora, loha, lokr, diff, mid (a convolution in three parts)
    tensors              the file with the differences: those of few elements, and at least one of each kind of module
    modules              by path: rank, alpha (the rank where the file has none), scale, and of the difference in float64 the sum, the
                         sum of absolute values, and the sum with the weights 1…97, 1…97, … in order. Paths are those of diffusers
                         and transformers with the part before them, of text encoders always with text_model.; PATH.bias is a bias's

The differences are those of an adapter of weight 1, which peft 0.21.2 computes in float32 (get_delta_weight; with DoRA the merged weight
less the base's). They are to be met within 2e-6 of the largest element, DoRA's within 1e-5, and the sums within as much of the sum of
absolute values (times 97 for the last). Differences of kind diff and mid, and of DoRA by columns, are those of the formulas below: peft has
none of these.

cases.jsonl has the pictures, with the keys of tests/testdata/sd/cases.jsonl and more: eta (of TCD) and

    adapters    in the order in which they are loaded: file, and weight as diffusers' set_adapters takes it, a number or a number by block
    fuse        fuse_lora instead of adapters at run time

Adapters are in the type of the model: pipe.to(dtype) after loading. Files of cases are ones that diffusers reads in full, which is checked.

Where the libraries are wrong, and what is here instead:

  - diffusers gives attention's alpha of kohya files names that match no module, and those of text encoders the prefix text_model. that
    transformers 5 has dropped: where alpha varies, these modules get the alpha of most others. Here each has its own.
  - diffusers takes a file's layout from its first key or from any key: of mixed files, and text encoders in kohya's names without any
    out_proj, it drops what is in another one, with a warning at most. Here all keys count.
  - diffusers drops kohya's add_embedding_linear_N, and everything in Stable Diffusion 1 that has sgm names; it wants PEFT's keys with
    the part before them, and without base_model.model. and an adapter's name, or leaves the modules without weights.
  - diffusers drops dora_scale and refuses lora_mid, .diff, hada_ and lokr_ in kohya's names, and .alpha in diffusers' own names.
  - convert_state_dict_to_diffusers renames attention only and leaves the rest in peft's layout, so it writes mixed files;
    convert_state_dict_to_kohya writes alpha as int64, equal to the rank whatever it was, and lora_te1_ for Stable Diffusion 1.
  - set_adapters by block gives resnets.N and samplers.N of a block the weight of attentions.N, where it has that, and forgets weights
    that are not below the name of a part.
  - peft's scale of LoKr with both factors whole is alpha / rank; LyCORIS, which made the layout, applies none, and writes alpha = rank.
"""
import copy
import json
import logging as log
import os
import re
import shutil
import sys
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"
import diffusers  # noqa: E402
import peft  # noqa: E402
import sd_pipelines as pipelines  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from diffusers.utils import logging  # noqa: E402
from diffusers.utils.state_dict_utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya  # noqa: E402
from peft.tuners.tuners_utils import BaseTunerLayer  # noqa: E402
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from sd_pipelines import CONTROL, DEFAULTS, IMG, INPAINT, LCM, NEGATIVE, PROMPT, SD, XL, control  # noqa: E402

sys.path.append(os.path.join(os.path.abspath(__file__).partition("/scripts/golden/")[0], "scripts", "golden", "shared"))
from sdfill import value  # noqa: E402

OUT = os.path.join(os.path.abspath(__file__).partition("/scripts/golden/")[0], "tests", "testdata", "lora")
PARTS = ("unet", "text_encoder", "text_encoder_2")
CLASSES = {"lcm": LCM, "sd15": SD, "sd15-inpaint": INPAINT, "sd2": SD, "sdxl": XL, "ssd1b": XL}
FEW = 1024  # elements of a difference that is kept whole
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2", "conv_shortcut",
           "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj")
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")

bases = {}


def base(model):
    if model not in bases:
        bases[model] = getattr(diffusers, CLASSES[model]).from_pretrained(os.path.join(pipelines.FOLDER, model), torch_dtype=torch.float32)
        bases[model].set_progress_bar_config(disable=True)
    return bases[model]


def copied(model):
    """The model for changing."""
    pipe = base(model)
    return type(pipe)(**{k: copy.deepcopy(v) if k in PARTS else v for k, v in pipe.components.items()})


# Names

def inner(pipe, path):
    """The part, and the name that the module has in it."""
    part, name = path.split(".", 1)
    if part != "unet" and not hasattr(getattr(pipe, part), "text_model"):
        name = name.removeprefix("text_model.")
    return part, name


def outer(pipe, part, name):
    if part != "unet" and not name.startswith("text_model."):
        name = "text_model." + name
    return part + "." + name


def module(pipe, path):
    part, name = inner(pipe, path)
    return getattr(pipe, part).get_submodule(name)


def matching(model, *patterns):
    """Paths of modules, in the model's order."""
    pipe, out = base(model), []
    for part in PARTS:
        if hasattr(pipe, part):
            for name, m in getattr(pipe, part).named_modules():
                path = outer(pipe, part, name)
                if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d)) and any(re.fullmatch(p, path) for p in patterns):
                    out.append(path)
    assert out, patterns
    return out


def sgm(pipe, path):
    """The name that CompVis and Stability give a module of the network."""
    name, config = path.removeprefix("unet."), pipe.unet.config
    per = config.layers_per_block + 1
    for theirs, ours in (("conv_in", "input_blocks.0.0"), ("conv_out", "out.2"), ("time_embedding.linear_1", "time_embed.0"),
                         ("time_embedding.linear_2", "time_embed.2"), ("add_embedding.linear_1", "label_emb.0.0"),
                         ("add_embedding.linear_2", "label_emb.0.2")):
        if name == theirs:
            return ours
    for theirs, ours in (("conv1", "in_layers.2"), ("conv2", "out_layers.3"), ("time_emb_proj", "emb_layers.1"),
                         ("conv_shortcut", "skip_connection")):
        if ".resnets." in name and name.endswith("." + theirs):
            name = name.removesuffix(theirs) + ours
    m = re.fullmatch(r"(down|up|mid)_blocks?\.(?:(\d+)\.)?(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", name)
    side, block, kind, i, rest = m[1], int(m[2] or 0), m[3], int(m[4]), m[5]
    at = {"resnets": 0, "attentions": 1}.get(kind)
    if side == "mid":
        return f"middle_block.{2 * i if kind == 'resnets' else 1}.{rest}"
    if kind == "downsamplers":
        return f"input_blocks.{per * (block + 1)}.0.op"
    if kind == "upsamplers":
        return f"output_blocks.{per * block + per - 1}.{2 if hasattr(pipe.unet.up_blocks[block], 'attentions') else 1}.conv"
    return f"input_blocks.{per * block + i + 1}.{at}.{rest}" if side == "down" else f"output_blocks.{per * block + i}.{at}.{rest}"


# Effects

def effect(name, model, paths, rank, alpha=None, gain=0.5, dtype=torch.float16, dora=False, rslora=False):
    """rank and alpha are a number or a function of the module's place and path."""
    pipe, modules = base(model), {}
    for i, path in enumerate(paths):
        w = module(pipe, path).weight
        r = rank(i, path) if callable(rank) else rank
        tail = (1, 1) if w.dim() == 4 else ()
        key = name + "." + path
        m = dict(rank=r, alpha=alpha(i, path) if callable(alpha) else alpha,
                 down=value(key + ".down", (r, *w.shape[1:])).to(dtype), up=(value(key + ".up", (w.shape[0], r, *tail)) * gain).to(dtype))
        if dora:
            norm = w.flatten(1).norm(dim=1) * (1 + 0.2 * value(key + ".magnitude", (w.shape[0], 1)).flatten())
            m["magnitude"] = norm.to(dtype).view((-1,) if w.dim() == 2 else (1, -1, 1, 1))  # peft's shapes
        modules[path] = m
    return dict(name=name, model=model, kind="dora" if dora else "lora", modules=modules, rslora=rslora, dtype=dtype)


def scale(e, m):
    alpha = m["rank"] if m["alpha"] is None else m["alpha"]
    return alpha / (m["rank"] ** 0.5 if e["rslora"] else m["rank"])


def attach(pipe, e, config=None, to=lambda t: t, adapter="default"):
    """Puts the adapter into the parts by peft alone. config gives a part's configuration in place of one that names every module."""
    for part in PARTS:
        mine = {inner(pipe, path)[1]: m for path, m in e["modules"].items() if path.startswith(part + ".")}
        if not mine:
            continue
        first = next(iter(mine.values()))
        c = config and config(part, mine) or peft.LoraConfig(
            r=first["rank"], lora_alpha=1, target_modules=list(mine), use_rslora=e["rslora"], use_dora=e["kind"] == "dora",
            rank_pattern={f"^{n}$": m["rank"] for n, m in mine.items()},
            alpha_pattern={f"^{n}$": m["rank"] if m["alpha"] is None else m["alpha"] for n, m in mine.items()})
        state = {}
        for n, m in mine.items():
            state |= {n + ".lora_A.weight": to(m["down"]), n + ".lora_B.weight": to(m["up"])}
            if "magnitude" in m:
                state[n + ".lora_magnitude_vector"] = to(m["magnitude"])
        model = getattr(pipe, part)
        peft.inject_adapter_in_model(c, model, adapter)
        got = set_peft_model_state_dict(model, state, adapter)
        assert not got.unexpected_keys, got.unexpected_keys
        assert {n for n, m in model.named_modules() if isinstance(m, BaseTunerLayer)} == set(mine)
    return pipe


def differences(pipe, adapter="default"):
    """What the adapter in the parts does, by path."""
    out = {}
    for part in PARTS:
        if hasattr(pipe, part):
            for name, m in getattr(pipe, part).named_modules():
                if isinstance(m, BaseTunerLayer) and any(adapter in getattr(m, n) for n in m.adapter_layer_names):
                    m.float()
                    if any(getattr(m, "use_dora", {}).values()):
                        before = m.get_base_layer().weight.clone()
                        m.merge(adapter_names=[adapter])
                        d = m.get_base_layer().weight - before
                    else:
                        d = m.get_delta_weight(adapter)
                    out[outer(pipe, part, name)] = d.detach().float().contiguous().clone()
    return out


def near(a, b, tolerance=2e-6):
    return a.shape == b.shape and (a - b).abs().max() <= tolerance * b.abs().max()


def formula(e):
    """The differences by the formulas that readers follow."""
    out, pipe = {}, base(e["model"])
    for path, m in e["modules"].items():
        up, down = m["up"].float().flatten(1), m["down"].float().flatten(1)
        w = module(pipe, path).weight.detach()
        d = (scale(e, m) * up @ down).view(w.shape)
        if e["kind"] == "dora":
            v = w + d
            d = m["magnitude"].float().view(-1, *[1] * (w.dim() - 1)) * v / v.flatten(1).norm(dim=1).view(-1, *[1] * (w.dim() - 1)) - w
        out[path] = d
    return out


effects, rows = {}, []


def known(e, deltas=None):
    """Keeps an effect. deltas are given where peft has none."""
    if deltas is None:
        deltas = differences(attach(copied(e["model"]), e, to=lambda t: t.float()))
        own = formula(e)
        assert set(own) == set(deltas) and all(near(own[p], d, 1e-5 if e["kind"] == "dora" else 2e-6) for p, d in deltas.items()), e["name"]
    pipe, kept, kinds, modules = base(e["model"]), {}, set(), {}
    for path, d in deltas.items():
        m = e["modules"][path]
        kind = (path.split(".")[0], d.shape[2:])
        if d.numel() <= FEW and len(kept) < 10 or kind not in kinds:
            kinds.add(kind)
            kept[path] = d
        flat = d.double().flatten()
        marks = torch.arange(len(flat)).remainder(97) + 1
        modules[path] = [m["rank"], m["rank"] if m["alpha"] is None else m["alpha"], m.get("scale", scale(e, m) if m["rank"] else 1.0),
                         *(float(f"{float(v):.9g}") for v in (flat.sum(), flat.abs().sum(), (flat * marks).sum()))]
        w = module(pipe, path.removesuffix(".bias"))
        w = w.bias if path.endswith(".bias") else w.weight
        assert 0.01 < d.norm() / w.norm() < 2, (e["name"], path, d.norm() / w.norm())
    e |= dict(deltas=deltas, row=dict(name=e["name"], model=e["model"], kind=e["kind"], tensors=f"deltas-{e['name']}.safetensors",
                                      modules=modules))
    save(kept, e["row"]["tensors"])
    effects[e["name"]] = e
    return e


# Files

def settle(path):
    """Sorts a file's metadata, which safetensors writes in an order of its own."""
    with open(path, "rb") as f:
        raw = f.read()
    n = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:8 + n])
    if "__metadata__" in header:
        header = {"__metadata__": dict(sorted(header.pop("__metadata__").items()))} | header
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text + raw[8 + n:])
    os.chmod(path, 0o644)


def save(tensors, name, metadata=None):
    path = os.path.join(OUT, name)
    save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, path, metadata=metadata)
    settle(path)


def plain(v):
    """A configuration of peft's for JSON, sets in order."""
    if isinstance(v, dict):
        return {k: plain(x) for k, x in v.items()}
    return sorted(v) if isinstance(v, set) else v


def named(e, flat=False):
    """The modules with the names that files have; flat: as transformers 5 names them."""
    for path, m in e["modules"].items():
        yield (".".join(inner(base(e["model"]), path)) if flat else path), m


def old(e):
    out = {}
    for path, m in named(e):
        at, _, leaf = path.rpartition(".")
        if path.endswith(".to_out.0"):
            at, leaf = path.removesuffix(".to_out.0"), "to_out"
        if path.startswith("unet."):
            at += ".processor"
        leaf = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}.get(leaf, leaf)
        name = f"{at}.{leaf}_lora" if leaf.startswith("to_") else path + ".lora_linear_layer"
        out |= {name + ".down.weight": m["down"], name + ".up.weight": m["up"]}
    return out


def new(e, alpha=False):
    out = {}
    for path, m in named(e):
        name = path + (".lora" if path.startswith("unet.") else ".lora_linear_layer")
        out |= {name + ".down.weight": m["down"], name + ".up.weight": m["up"]}
        if alpha:
            out[path + ".alpha"] = torch.tensor(float(m["alpha"]), dtype=e["dtype"])
    return out


def peft_names(e, prefix="", infix="", parts=True, flat=False):
    out = {}
    for path, m in named(e, flat):
        part, _, name = path.partition(".")
        at = (part + "." if parts else "") + prefix + name
        out |= {f"{at}.lora_A{infix}.weight": m["down"], f"{at}.lora_B{infix}.weight": m["up"]}
        if "magnitude" in m:
            out[f"{at}.lora_magnitude_vector{infix}"] = m["magnitude"]
    return out


def flat_name(e, path, spelling=None):
    part, _, name = path.partition(".")
    two = hasattr(base(e["model"]), "text_encoder_2")
    prefix = {"unet": "lora_unet_", "text_encoder": "lora_te1_" if two else "lora_te_", "text_encoder_2": "lora_te2_"}[part]
    if part == "unet" and spelling:
        name = spelling(base(e["model"]), path)
    return prefix + name.replace(".", "_")


def kohya(e, spelling=None, alpha=True):
    out = {}
    for path, m in named(e):
        name = flat_name(e, path, spelling)
        out |= {name + ".lora_down.weight": m["down"], name + ".lora_up.weight": m["up"]}
        if alpha:
            out[name + ".alpha"] = torch.tensor(float(m["rank"] if m["alpha"] is None else m["alpha"]), dtype=e["dtype"])
        if "magnitude" in m:
            out[name + ".dora_scale"] = m["magnitude"].view(-1, *[1] * (m["up"].dim() - 1))
    return out


def mixed(e):
    """Every layout in turn, module by module; attention alone in the old one."""
    ways, out = [old, new, peft_names, kohya], {}
    for i, (path, m) in enumerate(e["modules"].items()):
        one = dict(e, modules={path: m})
        way = ways[i % 4]
        out |= way(one) if way is not old or ".attn" in path or path.startswith("text") else new(one)
    return out


def understood(model, path, expected):
    """What diffusers makes of a file, in the words of the docstring."""
    pipe, lines = copied(model), []
    handler = log.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    loggers = [log.getLogger(n) for n in ("diffusers", "transformers", "peft")]
    for each in loggers:
        each.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pipe.load_lora_weights(path, adapter_name="a")
    except Exception as err:
        return "refuses: " + type(err).__name__
    finally:
        for each in loggers:
            each.removeHandler(handler)
    got = differences(pipe, "a")
    if expected is None:
        return "reads"
    dropped = [p for p in expected if p not in got or got[p].is_meta]
    off = [p for p in expected if p not in dropped and not near(got[p], expected[p], 1e-5)]
    assert set(got) <= set(expected), (path, set(got) - set(expected))
    said = ([f"drops {len(dropped)}"] if dropped else []) + ([f"differs at {len(off)}"] if off else [])
    return ", ".join(said) or "same"


def row(file, e, layout, **more):
    r = dict(file=file, model=e["model"], layout=layout, effect=e["name"] if e.get("row") else None, error=None, unmatched=[]) | more
    path = os.path.join(OUT, file)
    if "diffusers" not in r:
        if os.path.isdir(path):
            r["diffusers"] = folder_understood(e, path)
        else:
            r["diffusers"] = understood(r["model"], path, None if r["error"] else e["deltas"])
    print(f"{file}: {os.path.getsize(path)} bytes; diffusers: {r['diffusers']}")
    rows.append(r)


def folder_understood(e, path):
    """Folders of peft are for one part, and read by peft itself."""
    pipe = copied(e["model"])
    model = peft.PeftModel.from_pretrained(pipe.unet, path, adapter_name="a")
    pipe.unet = model.base_model.model
    got = differences(pipe, "a")
    assert set(got) == set(e["deltas"]) and all(near(got[p], d, 1e-5) for p, d in e["deltas"].items()), path
    return "same"


def write(file, e, layout, tensors, metadata=None, **more):
    save(tensors, file, metadata)
    row(file, e, layout, **more)


def by_diffusers(file, e, metadata=True, config=None):
    """diffusers' save_lora_weights from parts that peft has adapted."""
    pipe = attach(copied(e["model"]), e, config)
    more = {}
    for part in PARTS:
        if any(p.startswith(part + ".") for p in e["modules"]):
            model = getattr(pipe, part)
            for m in model.modules():
                if isinstance(m, BaseTunerLayer):
                    for name in ("lora_A", "lora_B", "lora_magnitude_vector"):
                        getattr(m, name).to(e["dtype"])
            more[part + "_lora_layers"] = get_peft_model_state_dict(model, adapter_name="default")
            if metadata:
                more[part + "_lora_adapter_metadata"] = plain(model.peft_config["default"].to_dict())
    type(pipe).save_lora_weights(OUT, weight_name=file, **more)
    settle(os.path.join(OUT, file))
    row(file, e, "peft")


def by_peft(folder, e, config):
    """peft's save_pretrained of the network."""
    pipe, path = copied(e["model"]), os.path.join(OUT, folder)
    mine = {p.removeprefix("unet."): m for p, m in e["modules"].items()}
    model = peft.get_peft_model(pipe.unet, config("unet", mine))
    state = {}
    for n, m in mine.items():
        own = {"lora_A.weight": "down", "lora_B.weight": "up", "lora_magnitude_vector": "magnitude"}
        for key, t in (m["state"] if "state" in m else {k: m[v] for k, v in own.items() if v in m}).items():
            state[f"base_model.model.{n}.{key}"] = t
    got = set_peft_model_state_dict(model, state)
    assert not got.unexpected_keys, got.unexpected_keys
    for m in model.modules():
        if isinstance(m, BaseTunerLayer):
            for name in m.adapter_layer_names:
                getattr(m, name).to(e["dtype"])
    model.save_pretrained(path)
    os.remove(os.path.join(path, "README.md"))
    settle(os.path.join(path, "adapter_model.safetensors"))
    at = os.path.join(path, "adapter_config.json")
    with open(at) as f:
        c = json.load(f)
    for key in ("target_modules",):
        c[key] = sorted(c[key]) if isinstance(c[key], list) else c[key]
    with open(at, "w") as f:
        json.dump(c, f, indent=2, sort_keys=True)
    row(folder, e, "peft")


def lycoris(name, kind, configs, gain, model="sd15", dtype=torch.float16, folder=False):
    """An effect of LoHa or LoKr, its weights in the shapes that peft takes with those configurations by module. But for peft's folders,
    LoKr of whole factors has LyCORIS' scale, 1, and as there an alpha that is the rank."""
    cls, deltas, modules = {"loha": peft.LoHaConfig, "lokr": peft.LoKrConfig}[kind], {}, {}
    for path, c in configs.items():
        pipe = copied(model)
        part, n = inner(pipe, path)
        peft.inject_adapter_in_model(cls(target_modules=[n], **c), getattr(pipe, part), "default")
        layer, state = getattr(pipe, part).get_submodule(n), {}
        for key in layer.adapter_layer_names:
            at = getattr(layer, key)
            if "default" in at:
                t = value(f"{name}.{path}.{key}", tuple(at["default"].shape))
                g = gain if key in ("hada_w2_a", "lokr_w1", "lokr_w1_a") else 1.0
                if key.startswith(("hada_w", "lokr_w2")) and "hada_t1" in layer.adapter_layer_names and "default" in layer.hada_t1:
                    g *= 1.5
                if key == "hada_w2_a":
                    g *= layer.get_base_layer().weight[0].numel() ** 0.5
                state[key] = (t * g).to(dtype)
                at["default"].data = state[key].float()
        alpha = c["alpha"]
        if kind == "lokr" and not folder and {"lokr_w1", "lokr_w2"} <= set(state):
            alpha = layer.scaling["default"] = 1.0
            alpha *= c["r"]
        modules[path] = dict(rank=c["r"], alpha=alpha, state=state)
        deltas |= differences(pipe)
    return dict(name=name, model=model, kind=kind, modules=modules, rslora=False, dtype=dtype), deltas


def lycoris_file(e):
    out = {}
    for path, m in named(e):
        name = flat_name(e, path)
        out |= {f"{name}.{key}": t for key, t in m["state"].items()}
        out[name + ".alpha"] = torch.tensor(float(m["alpha"]), dtype=e["dtype"])
    return out


def suffixes(part, mine):
    """A configuration of patterns that are ends of names, as people write them."""
    return peft.LoraConfig(r=2, lora_alpha=3, target_modules=r"(down_blocks\.0|mid_block|up_blocks\.3)\..*\.(to_q|to_k|proj_in|proj_out)",
                           rank_pattern={"attn2.to_k": 3, "proj_in": 1},
                           alpha_pattern={"to_q": 5, "attn2.to_k": 1.5, "mid_block.*proj_out": 4})


def files():
    some = r"unet\.(down_blocks\.0\.attentions\.0|up_blocks\.3\.attentions\.1)\..*"

    # The same weights in all layouts: attention alone, which is what the old one had,
    e = known(effect("attn", "sd15", matching("sd15", some + r"\.to_(q|k|v|out\.0)"), 2))
    write("attn-old.safetensors", e, "old", old(e))
    write("attn-diffusers.safetensors", e, "diffusers", new(e))
    by_diffusers("attn-peft.safetensors", e, metadata=False)
    write("attn-peft-bare.safetensors", e, "peft", peft_names(e, parts=False))
    write("attn-peft-basemodel.safetensors", e, "peft", peft_names(e, "base_model.model.", parts=False))
    write("attn-peft-unet-basemodel.safetensors", e, "peft", peft_names(e, "base_model.model."))
    write("attn-peft-named.safetensors", e, "peft", peft_names(e, infix=".default"))
    write("attn-peft-basemodel-named.safetensors", e, "peft", peft_names(e, "base_model.model.", infix=".style", parts=False))
    write("attn-kohya.safetensors", e, "kohya", kohya(e))
    write("attn-kohya-noalpha.safetensors", e, "kohya", kohya(e, alpha=False))
    write("attn-mixed.safetensors", e, "mixed", mixed(e))

    # every kind of module,
    cover = matching("sd15", r"unet\.down_blocks\.0\.attentions\.1\..*", r"unet\.down_blocks\.1\.resnets\.0\..*",
                     r"unet\.(down_blocks\.0\.down|up_blocks\.0\.up|up_blocks\.2\.up)samplers\.0\.conv",
                     r"unet\.(down_blocks\.0|mid_block|up_blocks\.2)\.resnets\.1\.(conv2|time_emb_proj)",
                     r"unet\.mid_block\.attentions\.0\.proj.*", r"unet\.up_blocks\.1\.attentions\.2\..*\.(to_v|to_out\.0|2)")
    cover = [p for p in cover if p.endswith(tuple("." + t for t in TARGETS))]
    assert all(any(p.endswith("." + t) for p in cover) for t in TARGETS)
    e = known(effect("cover", "sd15", cover, 3, gain=0.6))
    library = attach(copied("sd15"), e)
    state = {"unet." + k: v.half() for k, v in get_peft_model_state_dict(library.unet, adapter_name="default").items()}
    write("cover-kohya.safetensors", e, "kohya", kohya(e))
    write("cover-kohya-library.safetensors", e, "kohya", convert_state_dict_to_kohya(dict(state)), {"format": "pt"})
    write("cover-sgm.safetensors", e, "sgm", kohya(e, sgm))
    write("cover-diffusers.safetensors", e, "diffusers", new(e))
    write("cover-diffusers-library.safetensors", e, "mixed", convert_state_dict_to_diffusers(dict(state)), {"format": "pt"})
    write("cover-peft.safetensors", e, "peft", peft_names(e))
    write("cover-mixed.safetensors", e, "mixed", mixed(e))
    squeezed = {k: v.squeeze(3).squeeze(2) if v.dim() == 4 and v.shape[2:] == (1, 1) else v for k, v in kohya(e).items()}
    write("cover-squeezed.safetensors", e, "kohya", squeezed)

    # text encoders,
    words = matching("sd15", r"text_encoder\..*layers\.[02]\..*")
    e = known(effect("text", "sd15", words, 2, gain=0.7, dtype=torch.float32))
    write("text-kohya.safetensors", e, "kohya", kohya(e))
    write("text-old.safetensors", e, "old", old(e))
    write("text-diffusers.safetensors", e, "diffusers", new(e))
    write("text-peft.safetensors", e, "peft", peft_names(e))
    by_diffusers("text-peft-flat.safetensors", e)
    e = known(effect("text-some", "sd15", matching("sd15", r"text_encoder\..*layers\.1\..*(q_proj|fc1)"), 2, gain=0.7))
    write("text-some-kohya.safetensors", e, "kohya", kohya(e))

    # and ranks and alphas that vary.
    ranks, alphas = (lambda i, p: 1 + i % 4), (lambda i, p: (0.5, 1, 1.5, 2, 4)[i % 5])
    e = known(effect("alphas", "sd15", matching("sd15", some, r"text_encoder\..*layers\.1\..*"), ranks, alphas, gain=0.3))
    write("alphas-kohya.safetensors", e, "kohya", kohya(e))
    write("alphas-diffusers.safetensors", e, "diffusers", new(e, alpha=True))
    by_diffusers("alphas-peft.safetensors", e)
    e = known(effect("alphas-unet", "sd15", matching("sd15", some), ranks, alphas, gain=0.3))
    by_peft("alphas-folder", e, lambda part, mine: peft.LoraConfig(
        r=2, lora_alpha=4, target_modules=list(mine), rank_pattern={n: m["rank"] for n, m in mine.items()},
        alpha_pattern={n: m["alpha"] for n, m in mine.items()}))

    # Patterns, and scales by the root of the rank
    def rank(i, p):
        return 3 if p.endswith("attn2.to_k") else 1 if p.endswith("proj_in") else 2

    def alpha(i, p):
        return 5 if p.endswith("to_q") else 1.5 if p.endswith("attn2.to_k") else 4 if re.search(r"mid_block.*proj_out$", p) else 3

    wanted = matching("sd15", r"unet\.(down_blocks\.0|mid_block|up_blocks\.3)\..*\.(to_q|to_k|proj_in|proj_out)")
    e = known(effect("patterns", "sd15", wanted, rank, alpha, gain=0.25))
    by_diffusers("patterns-peft.safetensors", e, config=suffixes)
    by_peft("patterns-folder", e, suffixes)
    e = known(effect("rslora", "sd15", cover, lambda i, p: 2 + i % 3, 3, gain=0.3, dtype=torch.bfloat16, rslora=True))
    by_diffusers("rslora-peft.safetensors", e)
    by_peft("rslora-folder", e, lambda part, mine: peft.LoraConfig(
        r=3, lora_alpha=3, use_rslora=True, target_modules=list(mine), rank_pattern={n: m["rank"] for n, m in mine.items()}))

    # DoRA: columns are the direction in which older files of LyCORIS take norms
    few = [p for p in cover if p.endswith(("to_q", "proj_in", "conv1", "conv_shortcut", "net.2"))]
    e = known(effect("dora", "sd15", few, 2, 1, gain=0.5, dora=True))
    by_diffusers("dora-peft.safetensors", e)
    by_peft("dora-folder", e, lambda part, mine: peft.LoraConfig(r=2, lora_alpha=1, use_dora=True, target_modules=list(mine)))
    write("dora-kohya.safetensors", e, "kohya", kohya(e))
    e, deltas, marks = effect("dora-columns", "sd15", few, 2, 1, gain=0.5), {}, {}
    e["kind"] = "dora"
    for path, m in e["modules"].items():
        w = module(base("sd15"), path).weight.detach()
        norm = w.transpose(0, 1).flatten(1).norm(dim=1)
        mark = (norm * (1 + 0.2 * value(f"columns.{path}", (len(norm), 1)).flatten())).half().view(1, -1, *[1] * (w.dim() - 2))
        v = w + (m["up"].float().flatten(1) @ m["down"].float().flatten(1)).view(w.shape) * 0.5
        deltas[path] = mark.float() * v / v.transpose(0, 1).flatten(1).norm(dim=1).view(mark.shape) - w
        marks[flat_name(e, path) + ".dora_scale"] = mark
    write("dora-columns-kohya.safetensors", known(e, deltas), "kohya", kohya(e) | marks)

    # Products of others
    linear, pointwise = [p for p in few if p.endswith(("to_q", "net.2"))], [p for p in few if p.endswith(("proj_in", "conv_shortcut"))]
    convs = [p for p in cover if p.endswith(("conv1", "samplers.0.conv", "conv2"))]
    configs = {p: dict(r=2, alpha=1.0) for p in linear + pointwise}
    configs |= {p: dict(r=2, alpha=2.0, use_effective_conv2d=i % 2 == 0) for i, p in enumerate(convs)}
    e, deltas = lycoris("loha", "loha", configs, 0.6)
    write("loha-kohya.safetensors", known(e, deltas), "kohya", lycoris_file(e))
    configs = {p: dict(r=(1, 2)[i % 2], alpha=1.0, decompose_both=i % 2 == 0, decompose_factor=(-1, 4, 2)[i % 3])
               for i, p in enumerate(linear + pointwise)}
    configs |= {p: dict(r=1, alpha=1.0, use_effective_conv2d=i % 2 == 0, decompose_factor=(4, 8)[i % 2]) for i, p in enumerate(convs)}
    for p in linear[:1] + convs[:1]:  # both factors whole
        configs[p] = dict(r=64, alpha=64.0, decompose_factor=4)
    e, deltas = lycoris("lokr", "lokr", configs, 0.4)
    assert {"lokr_w1", "lokr_w1_a", "lokr_w2", "lokr_w2_a", "lokr_t2"} <= {k for m in e["modules"].values() for k in m["state"]}
    write("lokr-kohya.safetensors", known(e, deltas), "kohya", lycoris_file(e))
    for kind, cls, gain in (("loha", peft.LoHaConfig, 0.6), ("lokr", peft.LoKrConfig, 0.4)):
        one = dict(r=2, alpha=1.0, use_effective_conv2d=True)
        e, deltas = lycoris(kind + "-peft", kind, {p: one for p in few}, gain, folder=True)
        known(e, deltas)
        by_peft(kind + "-folder", e, lambda part, mine: cls(target_modules=list(mine), **one))

    e, deltas, tensors = effect("mid", "sd15", convs, 2, 1, gain=2.0), {}, {}
    e["kind"] = "mid"
    for path, m in e["modules"].items():
        shape, name = module(base("sd15"), path).weight.shape, flat_name(e, path)
        down = value(f"mid.{path}.point", (2, shape[1], 1, 1)).half()
        mid = value(f"mid.{path}.mid", (2, 2, *shape[2:])).half()
        one = torch.eye(shape[1]).view(shape[1], shape[1], 1, 1)  # what the three make of a unit in each channel
        x = torch.nn.functional.pad(one, (2, 2, 2, 2))
        for t in (down, mid, m["up"]):
            x = torch.nn.functional.conv2d(x, t.float())
        deltas[path] = x.transpose(0, 1).flip(2, 3) * 0.5
        tensors |= {name + ".lora_down.weight": down, name + ".lora_mid.weight": mid, name + ".lora_up.weight": m["up"],
                    name + ".alpha": torch.tensor(1.0).half()}
    write("mid-kohya.safetensors", known(e, deltas), "kohya", tensors)

    e, deltas, tensors = dict(name="diff", model="sd15", kind="diff", modules={}, rslora=False, dtype=torch.float16), {}, {}
    norms = ["unet.down_blocks.0.attentions.1.norm", "text_encoder.text_model.final_layer_norm"]
    for path in few + norms + matching("sd15", r"text_encoder\..*layers\.1\.mlp.*"):
        m, name = module(base("sd15"), path), flat_name(e, path)
        d = (0.4 * value("diff." + path, tuple(m.weight.shape))).half()
        deltas[path], tensors[name + ".diff"], e["modules"][path] = d.float(), d, dict(rank=0, alpha=None)
        if m.bias is not None:
            b = (0.2 * value(f"diff.{path}.b", tuple(m.bias.shape))).half()
            deltas[path + ".bias"], tensors[name + ".diff_b"], e["modules"][path + ".bias"] = b.float(), b, dict(rank=0, alpha=None)
    write("diff-kohya.safetensors", known(e, deltas), "kohya", tensors)

    # As kohya's and others' programs write them
    whole = [p for p in matching("sd15", r"unet\..*") if p.endswith(tuple("." + t for t in TARGETS))]
    assert len(whole) == 277  # of 278: the third level is no wider than the second
    e = known(effect("full", "sd15", whole, 1, 0.25, gain=1.0))
    write("full-kohya.safetensors", e, "kohya", kohya(e), {"format": "pt"})
    ends = matching("sd15", r"unet\.(conv_in|conv_out|time_embedding\.linear_.)")
    e = known(effect("locon", "sd15", cover + ends + words[:8], 2, 1, gain=0.6))
    write("locon-kohya.safetensors", e, "kohya", kohya(e), dict(
        ss_network_module="networks.lora", ss_network_dim="2", ss_network_alpha="1",
        ss_network_args=json.dumps(dict(conv_dim="2", conv_alpha="1")),
        ss_base_model_version="sd_v1", ss_sd_model_name="v1-5-pruned-emaonly.safetensors", ss_output_name="tiny", ss_v2="False",
        sshs_model_hash="0" * 64, sshs_legacy_hash="0" * 8,
        **{"modelspec.architecture": "stable-diffusion-v1/lora", "modelspec.title": "tiny"}))

    # Other models
    e = known(effect("both", "sd15", matching("sd15", some + r"(attn2\.to_.*|proj_out)") + words, 2, 1, gain=0.8))
    by_diffusers("both-peft.safetensors", e)
    write("both-kohya.safetensors", e, "kohya", kohya(e))
    picked = (r"unet\.down_blocks\.1\.attentions\.0\..*", r"unet\.(down_blocks\.2|up_blocks\.0)\.attentions\.1\..*\.1\.attn2\..*",
              r"unet\.up_blocks\.1\.attentions\.2\.proj.*", r"unet\.mid_block\.attentions\.0\..*\.attn1\..*")
    said = (r"text_encoder\..*layers\.1\..*", r"text_encoder_2\..*layers\.[02]\..*")
    e = known(effect("xl", "sdxl", matching("sdxl", *picked, *said), 2, 1, gain=0.8))
    write("xl-kohya.safetensors", e, "kohya", kohya(e), dict(ss_base_model_version="sdxl_base_v1-0", ss_network_module="networks.lora"))
    write("xl-sgm.safetensors", e, "sgm", kohya(e, sgm), dict(ss_base_model_version="sdxl_base_v1-0", ss_network_module="networks.lora"))
    by_diffusers("xl-peft.safetensors", e)
    write("xl-diffusers.safetensors", e, "diffusers", new(e, alpha=True))
    parts = (r"unet\.(conv_in|conv_out|(time|add)_embedding\.linear_.)", r"unet\.(down_blocks\.1|up_blocks\.0)\.resnets\.0\..*",
             r"unet\.mid_block\.resnets\.1\..*", r"unet\..*samplers\.0\.conv", r"unet\.(down_blocks\.0|up_blocks\.2)\.resnets\.1\..*")
    e = known(effect("xl-locon", "sdxl", matching("sdxl", *parts), 2, 1, gain=0.6))
    write("xl-locon-sgm.safetensors", e, "sgm", kohya(e, sgm))
    write("xl-locon-kohya.safetensors", e, "kohya", kohya(e))
    picked = (*picked[:3], *said, r"unet\.(mid_block|up_blocks\.1)\.resnets\.0\..*")
    e = known(effect("ssd1b", "ssd1b", matching("ssd1b", *picked), 2, 1, gain=0.8))
    write("ssd1b-kohya.safetensors", e, "kohya", kohya(e))
    write("ssd1b-sgm.safetensors", e, "sgm", kohya(e, sgm))
    e = known(effect("lcm", "lcm", [p for p in matching("lcm", r"unet\..*") if p.endswith(tuple("." + t for t in TARGETS))], 1, gain=0.4))
    write("lcm-peft.safetensors", e, "peft", peft_names(e, "base_model.model."))
    e = known(effect("nine", "sd15-inpaint", matching("sd15-inpaint", r"unet\..*(attn2\..*|proj_in|conv1|conv_in)"), 2, 1, gain=0.6))
    write("nine-kohya.safetensors", e, "kohya", kohya(e))
    e = known(effect("two", "sd2", matching("sd2", r"unet\..*(attn2\..*|proj_in|conv1)", r"text_encoder\..*layers\.1\..*"), 2, 1, gain=0.6))
    write("two-kohya.safetensors", e, "kohya", kohya(e))

    # What must be refused
    good = effects["attn"]
    tensors = kohya(good)
    a, b = (flat_name(good, p) for p in list(good["modules"])[:2])

    def bad(name, error, change, **more):
        t = {k: v.clone() for k, v in tensors.items()}
        change(t)
        write(f"bad-{name}.safetensors", good, "kohya", t, **dict(dict(error=error, effect=None), **more))

    def entry(tensors, key, at, v):
        tensors[key].view(-1)[at] = v

    shapes = {".alpha": (), ".lora_down.weight": (2, 16), ".lora_up.weight": (16, 2)}
    more = {n + end: torch.ones(shape).half() for end, shape in shapes.items() for n in (
        "lora_unet_down_blocks_0_attentions_7_proj_in", "lora_te_text_model_encoder_layers_11_mlp_fc1",
        "lora_unet_single_blocks_3_linear1")}
    bad("unmatched", "unmatched", lambda t: t.update(more), unmatched=sorted(more), effect="attn")
    bad("nan", "nan", lambda t: entry(t, a + ".lora_up.weight", 3, float("nan")))
    bad("inf", "inf", lambda t: entry(t, b + ".lora_down.weight", 5, float("inf")))
    bad("alpha", "inf", lambda t: entry(t, b + ".alpha", 0, float("inf")))
    bad("rank", "rank", lambda t: t.update({a + ".lora_up.weight": torch.ones(16, 3).half()}))
    bad("shape", "shape", lambda t: t.update({a + ".lora_up.weight": torch.ones(24, 2).half()}))
    bad("half", "half", lambda t: t.pop(a + ".lora_up.weight"))
    wide = {k: torch.ones(2, 24).half() if ("attn2_to_k" in k or "attn2_to_v" in k) and "down" in k else v for k, v in tensors.items()}
    write("bad-base.safetensors", good, "kohya", wide, error="base", effect=None)
    for name in ("xl-kohya", "xl-sgm"):
        row(name + ".safetensors", good, "kohya" if name == "xl-kohya" else "sgm", error="base", effect=None)
    row("both-kohya.safetensors", dict(good, model="sdxl"), "kohya", error="base", effect=None)

    for name, lines in (("effects", [e["row"] for e in effects.values()]), ("files", rows)):
        with open(os.path.join(OUT, name + ".jsonl"), "w", encoding="utf-8") as f:
            f.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in lines)


# Pictures

def table():
    out = []

    def case(name, model, pipeline, steps, guidance, adapters, weights=1.0, fuse=False, **more):
        assert set(more) <= set(DEFAULTS) | {"eta", "seeds"}, more
        weights = weights if isinstance(weights, list) else [weights] * len(adapters)
        adapters = [dict(file=f + ".safetensors", weight=w) for f, w in zip(adapters, weights)]
        out.append(dict(dict(DEFAULTS, name=name, model=model, pipeline=pipeline, steps=steps, guidance=guidance, prompt=PROMPT, seeds=[7],
                             eta=0.3, adapters=adapters, fuse=fuse), **more))

    lcm = dict(sampler="lcm")
    # As LCM-LoRA
    for guidance in (1.0, 1.5):
        case(f"lcm {guidance}", "sd15", SD, 4, guidance, ["full-kohya"], **lcm)
    case("lcm fused", "sd15", SD, 4, 1.0, ["full-kohya"], fuse=True, **lcm)
    case("lcm one step", "sd15", SD, 1, 1.0, ["full-kohya"], **lcm)
    case("half weight", "sd15", SD, 4, 1.0, ["full-kohya"], 0.5, **lcm)
    case("negative", "sd15", SD, 4, 1.0, ["full-kohya"], -0.7, **lcm)
    # Several
    case("two", "sd15", SD, 4, 1.0, ["full-kohya", "cover-peft"], [1.0, 0.8], **lcm)
    case("two fused", "sd15", SD, 4, 1.0, ["full-kohya", "cover-peft"], [1.0, 0.8], fuse=True, **lcm)
    case("three away", "sd15", SD, 3, 2.0, ["full-kohya", "both-peft", "rslora-peft"], [0.9, -0.6, 0.4], negative=NEGATIVE, **lcm)
    # By block
    blocks = {"unet": {"down": 0.3, "mid": 1.5, "up": {"block_1": [0.2, 1.0, -0.5], "block_3": 0.8}}}
    case("blocks", "sd15", SD, 3, 1.0, ["full-kohya"], [blocks], **lcm)
    parts = {"unet": {"down": 1.2, "up": 0.1}, "text_encoder": 0.5}
    case("blocks and text", "sd15", SD, 3, 1.0, ["both-peft", "full-kohya"], [parts, 0.9], **lcm)
    # Parts, kinds of modules, scales
    case("text alone", "sd15", SD, 3, 4.0, ["text-kohya"], sampler="ddim")
    case("both", "sd15", SD, 3, 4.0, ["both-peft"], sampler="ddim", negative=NEGATIVE)
    case("both fused", "sd15", SD, 3, 4.0, ["both-kohya"], fuse=True, sampler="ddim", negative=NEGATIVE)
    case("skip", "sd15", SD, 3, 1.0, ["both-peft"], clip_skip=1, **lcm)
    case("all kinds", "sd15", SD, 3, 1.0, ["cover-diffusers"], **lcm)
    case("locon", "sd15", SD, 3, 1.0, ["locon-kohya"], **lcm)
    case("rslora", "sd15", SD, 3, 1.0, ["rslora-peft"], **lcm)
    case("patterns", "sd15", SD, 3, 1.0, ["patterns-peft"], **lcm)
    case("dora", "sd15", SD, 3, 1.0, ["dora-peft"], **lcm)
    case("dora fused", "sd15", SD, 3, 1.0, ["dora-peft"], fuse=True, **lcm)
    # Other models
    case("xl", "sdxl", XL, 4, 1.0, ["xl-kohya"], **lcm)
    case("xl sgm", "sdxl", XL, 3, 5.0, ["xl-sgm", "xl-locon-sgm"], [0.8, 1.0])
    case("xl fused", "sdxl", XL, 3, 1.0, ["xl-peft"], 0.7, fuse=True, **lcm)
    case("ssd1b", "ssd1b", XL, 4, 1.0, ["ssd1b-kohya"], **lcm)
    case("ssd1b sgm", "ssd1b", XL, 2, 4.0, ["ssd1b-sgm"], 0.6)
    case("v", "sd2", SD, 3, 1.0, ["two-kohya"], **lcm)
    # What others distil
    case("tcd", "sd15", SD, 4, 1.0, ["full-kohya"], sampler="tcd")
    case("tcd one step", "sd15", SD, 1, 1.0, ["full-kohya"], sampler="tcd", timesteps=[800], eta=1.0)
    case("tcd all noise", "sd15", SD, 4, 1.0, ["full-kohya"], sampler="tcd", eta=1.0, seeds=[8])  # LCM's, but for 1e-4
    case("pcm guided", "sd15", SD, 4, 7.5, ["full-kohya"], sampler="tcd", negative=NEGATIVE)
    case("dmd2", "sd15", SD, 4, 1.0, ["full-kohya"], timesteps=[999, 749, 499, 249], **lcm)
    case("hyper", "sd15", SD, 2, 1.0, ["full-kohya"], sampler="ddim", overrides=dict(timestep_spacing="trailing"))
    # Other ways to draw
    case("img", "sd15", IMG, 4, 1.0, ["full-kohya"], strength=0.6, init="init64.png", **lcm)
    case("nine channels", "sd15-inpaint", INPAINT, 3, 1.0, ["nine-kohya"], strength=1.0, init="init64.png", mask="mask64.png", **lcm)
    case("control", "sd15", CONTROL, 4, 1.5, ["full-kohya"], controls=control(0.8), **lcm)
    case("several pictures", "sd15", SD, 2, 1.0, ["both-peft"], n=2, seeds=[100, 101], **lcm)
    # Half precision
    for kind in ("bfloat16", "float16"):
        case(kind, "sd15", SD, 3, 1.0, ["full-kohya", "both-peft"], [1.0, 0.5], dtype=kind, **lcm)
        case(kind + " fused", "sd15", SD, 3, 1.0, ["full-kohya", "both-peft"], [1.0, 0.5], fuse=True, dtype=kind, **lcm)
    return out


def draw(c):
    pipe = pipelines.load(c)
    del pipe.text_encoder.__dict__["text_model"]  # the loader takes it for an encoder of transformers 4
    names = []
    effect = {r["file"]: r for r in rows if r["model"] == c["model"]}
    for i, a in enumerate(c["adapters"]):
        assert effect[a["file"]]["diffusers"] == "same", a
        names.append(f"adapter{i}")
        pipe.load_lora_weights(os.path.join(OUT, a["file"]), adapter_name=names[i])
    pipe.to(getattr(torch, c["dtype"]))
    pipe.set_adapters(names, [a["weight"] for a in c["adapters"]])
    if c["fuse"]:
        pipe.fuse_lora(adapter_names=names)
        pipe.unload_lora_weights()
    pipe.text_encoder.__dict__["text_model"] = pipe.text_encoder
    latents, image = pipelines.draw(c, pipe)
    bare = pipelines.draw(c)[1]
    away = (image.float() - bare.float()).abs().mean()
    print(f"{c['name']}: {away:.1f} levels from the picture without")
    assert 4 < away < 90, c["name"]
    return latents, image


if __name__ == "__main__":
    logging.set_verbosity_warning()
    logging.disable_default_handler()
    logging.disable_progress_bar()
    transformers.utils.logging.disable_default_handler()
    for name in ("diffusers", "transformers", "peft"):
        log.getLogger(name).addHandler(log.NullHandler())
    transformers.utils.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    todo = sys.argv[1:] or ["files", "cases"]
    if "files" in todo:
        shutil.rmtree(OUT, ignore_errors=True)
        os.makedirs(OUT)
        files()
    if "cases" in todo:
        with open(os.path.join(OUT, "files.jsonl"), encoding="utf-8") as f:
            rows[:] = map(json.loads, f)
        pipelines.draw_all(table(), OUT, draw, whole=False)
