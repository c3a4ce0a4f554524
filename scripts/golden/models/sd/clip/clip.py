"""Hidden states and pooled outputs of CLIP text encoders in transformers, for models/sd/clip's tests.

    python scripts/golden/models/sd/clip/clip.py      writes models/sd/clip/testdata/

Weights are not stored: sdfill gives both sides the same. The small cases have every hidden state, with and without the final
norm, in float64, and what the network computes in the other types besides; the large one has heads, widths and the vocabulary
of CLIP ViT-L/14, and only a part of the output. configs.json has config.json files and what transformers reads in them,
sizes.json the sizes of the published encoders.
"""
import json
import os
import sys
import tempfile

import torch
import transformers
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

sys.path.append(os.path.join(os.path.abspath(__file__).partition("/scripts/golden/")[0], "scripts", "golden", "shared"))
from sdfill import fill  # noqa: E402

transformers.logging.set_verbosity_error()  # which would warn of bos_token_id, which nothing reads

SEED = 20261123
ROOT = os.path.abspath(__file__).partition("/scripts/golden/")[0]
OUT = os.path.join(ROOT, "models", "sd", "clip", "testdata")

L = dict(vocab_size=50, hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4,
         max_position_embeddings=11, hidden_act="quick_gelu", projection_dim=24, eos_token_id=2)
H = dict(vocab_size=40, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
         max_position_embeddings=9, hidden_act="gelu", projection_dim=16, eos_token_id=37, layer_norm_eps=1e-3)
G = dict(vocab_size=50, hidden_size=20, intermediate_size=80, num_hidden_layers=4, num_attention_heads=5,
         max_position_embeddings=10, hidden_act="gelu", projection_dim=12, eos_token_id=2)
NEW = dict(H, hidden_act="gelu_new", num_hidden_layers=1, eos_token_id=39)

# Rows end where the rule is to find it: legacy, at the first of the largest number, which pads the first text and is not the
# last token of the second; otherwise at the first token of that number, in the middle, at the start, or nowhere.
LEGACY = [[48, 3, 17, 4, 49, 49, 49, 49, 49, 49], [48, 5, 31, 30, 22, 6, 49, 0, 0, 0]]
CASES = {
    "l": (CLIPTextModel, L, LEGACY),
    "h": (CLIPTextModel, H, [[36, 1, 39, 37, 37, 0, 39, 0, 0], [37, 8, 37, 2, 2, 2, 2, 2, 2], [36, 5, 8, 1, 3, 3, 9, 39, 39]]),
    "bigg": (CLIPTextModelWithProjection, G, LEGACY),
    "gelu_new": (CLIPTextModel, NEW, [[36, 1, 38, 39, 37, 0]]),
}
LARGE = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=2, num_attention_heads=12, hidden_act="quick_gelu",
             projection_dim=768, eos_token_id=2)


def model(kind, config, dtype):
    net = kind(CLIPTextConfig(**config))
    inner = getattr(net, "text_model", None)
    fill(net, rename=lambda name: name if inner or name.startswith("text_") else "text_model." + name)
    return net.to(dtype), inner or net


def metadata(kind, config):
    return {"torch": torch.__version__, "transformers": transformers.__version__,
            "config": json.dumps(dict(config, architectures=[kind.__name__]))}


def write(name, tensors, kind, config):
    path = os.path.join(OUT, name + ".safetensors")
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata=metadata(kind, config))
    print(os.path.relpath(path, ROOT), os.path.getsize(path))


def run(net, ids):
    """The hidden states, last first, and the pooled output."""
    o = net(ids, output_hidden_states=True)
    return o.hidden_states[::-1], o.text_embeds if hasattr(o, "text_embeds") else o.pooler_output, o.last_hidden_state


@torch.no_grad()
def small(name, kind, config, ids):
    ids = torch.tensor(ids)
    out = {"ids": ids}
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        net, inner = model(kind, config, dtype)
        states, pooled, last = run(net, ids)
        at = str(dtype).removeprefix("torch.") + "."
        out[at + "pooled"] = pooled
        for k, h in enumerate(states):  # as diffusers for clip_skip=k, and for SDXL without the norm
            if dtype == torch.float64 or k == 1:
                out[f"{at}norm.{k}"] = inner.final_layer_norm(h)
                out[f"{at}raw.{k}"] = h.clone()
        if dtype == torch.float64:
            assert torch.equal(out["float64.norm.0"], last)
        else:
            out[at + "norm.0"] = last
    write(name, out, kind, config)


@torch.no_grad()
def large():
    """Every seventh token and every twelfth feature."""
    g = torch.Generator().manual_seed(SEED)
    ids = torch.randint(1000, 40000, (2, 77), generator=g)
    ids[:, 0] = 49406
    ids[0, 9:], ids[1, 76] = 49407, 49407
    out = {"ids": ids}
    for dtype in (torch.float32, torch.float64):
        net, inner = model(CLIPTextModel, LARGE, dtype)
        states, pooled, last = run(net, ids)
        at = str(dtype).removeprefix("torch.") + "."
        out |= {at + "pooled": pooled, at + "norm.0": last[:, ::7, ::12], at + "raw.1": states[1][:, ::7, ::12]}
    write("large", out, CLIPTextModel, LARGE)


def configs():
    """config.json files of several ages, and what transformers reads in them."""
    def saved(config):
        with tempfile.TemporaryDirectory() as folder:
            config.save_pretrained(folder)
            with open(os.path.join(folder, "config.json")) as f:
                return json.load(f)

    nested = saved(CLIPConfig(text_config=dict(G), projection_dim=28))
    assert "text_config" in nested
    # As transformers 4 wrote them: all of a configuration's attributes, many of which have gone since.
    four = dict(L, architectures=["CLIPTextModel"], _name_or_path="openai/clip-vit-large-patch14", attention_dropout=0.0,
                bos_token_id=0, dropout=0.0, initializer_factor=1.0, initializer_range=0.02, layer_norm_eps=1e-5,
                model_type="clip_text_model", pad_token_id=1, torch_dtype="float32", transformers_version="4.22.0.dev0")
    nested_four = dict(architectures=["CLIPModel"], logit_scale_init_value=2.6592, model_type="clip", projection_dim=768,
                       text_config=dict(four, architectures=None, _name_or_path="", add_cross_attention=False, eos_token_id=2,
                                        is_decoder=False, num_beams=1, task_specific_params=None, use_bfloat16=False),
                       text_config_dict=dict(hidden_size=768), torch_dtype="float32",
                       vision_config=dict(hidden_size=1024, num_attention_heads=16))
    files = {
        "transformers 5": dict(saved(CLIPTextConfig(**H)), architectures=["CLIPTextModel"]),
        "transformers 5 with a projection": dict(saved(CLIPTextConfig(**G)), architectures=["CLIPTextModelWithProjection"]),
        "transformers 5 with images": dict(nested, architectures=["CLIPModel"]),
        "transformers 4": four,
        "transformers 4 with images": nested_four,
        "defaults": {"architectures": ["CLIPTextModel"]},
    }
    keys = list(L) + ["layer_norm_eps"]
    out = []
    for name, file in files.items():
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "config.json"), "w") as f:
                json.dump(file, f)
            read = CLIPTextConfig.from_pretrained(folder)
            want = {k: getattr(read, k) for k in keys}
            if "CLIPModel" in file["architectures"]:
                want["projection_dim"] = CLIPConfig.from_pretrained(folder).projection_dim
        out.append(dict(name=name, file=file, want=want))
    dump("configs.json", dict(transformers=transformers.__version__, files=out))


def sizes():
    """Numbers of weights and tensors of the published encoders."""
    out = dict(transformers=transformers.__version__)
    for name, kind, width, depth, heads in (("L", CLIPTextModel, 768, 12, 12), ("H", CLIPTextModel, 1024, 23, 16),
                                            ("BigG", CLIPTextModelWithProjection, 1280, 32, 20)):
        with torch.device("meta"):
            net = kind(CLIPTextConfig(hidden_size=width, intermediate_size=4 * width, num_hidden_layers=depth,
                                      num_attention_heads=heads, projection_dim=width))
        out[name] = dict(weights=sum(p.numel() for p in net.parameters()), tensors=len(list(net.parameters())))
    dump("sizes.json", out)


def dump(name, value):
    path = os.path.join(OUT, name)
    with open(path, "w") as f:
        json.dump(value, f, indent=1)
        f.write("\n")
    print(os.path.relpath(path, ROOT), os.path.getsize(path))


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.makedirs(OUT, exist_ok=True)
    for name, (kind, config, ids) in CASES.items():
        small(name, kind, config, ids)
    large()
    configs()
    sizes()
