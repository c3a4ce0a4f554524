"""Outputs of the U-Nets of openai/consistency_models, openai/guided-diffusion and NVlabs/edm by their own code, and the names and shapes of the
published networks, for models/unet/original's tests.

    PEERS=FOLDER python scripts/golden/models/unet/original/original.py     writes models/unet/original/testdata/

FOLDER has clones of the three repositories; shared/originals.py says which commits. Weights are not stored: a file's metadata lists names and
shapes, and both sides draw them in that order from one stream (see draw). The resampling filters keep their values.

keys.json.gz has the names and shapes of the published networks, made on PyTorch's meta device.
"""
import gzip
import json
import math
import os
import sys

import torch
from safetensors.torch import save_file

ROOT = os.path.abspath(__file__).partition("/scripts/golden/")[0]
sys.path.append(os.path.join(ROOT, "scripts", "golden", "shared"))
import originals  # noqa: E402

OUT = os.path.join(ROOT, "models", "unet", "original", "testdata")
SEED = 20261129
code = originals.load()


def draw(name, shape, g):
    """Values of the size that training leaves behind. draw in golden_test.go does the same."""
    v = torch.randn(shape, generator=g)
    if name.endswith("freqs"):
        return v * 2
    if len(shape) > 1:
        return v / math.sqrt(math.prod(shape[1:]))
    return v * 0.1 + 1 if name.endswith("weight") else v * 0.1


def openai(module, **changes):
    return module.UNetModel(**(dict(image_size=8, in_channels=3, model_channels=32, out_channels=3, num_res_blocks=1, attention_resolutions=(2,),
                                    channel_mult=(1, 2), num_head_channels=16, use_scale_shift_norm=True, resblock_updown=True) | changes))


def edm(model, **changes):
    return code.edm.EDMPrecond(**(dict(img_resolution=8, img_channels=3, model_type=model, num_blocks=1) | changes))


NCSN = dict(embedding_type="fourier", encoder_type="residual", decoder_type="standard", channel_mult_noise=2, resample_filter=[1, 3, 3, 1])
CASES = {
    "consistency": lambda: openai(code.consistency, num_classes=5),
    "consistency_lsun": lambda: openai(code.consistency, channel_mult=(1, 1, 2), use_scale_shift_norm=False, attention_resolutions=(4, 2)),
    "guided": lambda: openai(code.guided, num_classes=5, out_channels=6, use_new_attention_order=False),
    "guided_new": lambda: openai(code.guided, num_classes=5, out_channels=6, use_new_attention_order=True),
    "guided_heads": lambda: openai(code.guided, num_head_channels=-1, num_heads=4, resblock_updown=False, use_scale_shift_norm=False, num_res_blocks=2),
    "guided_half": lambda: openai(code.guided, model_channels=64, channel_mult=(0.5, 1), out_channels=6),
    "ddpmpp": lambda: edm("SongUNet", model_channels=16, channel_mult=[1, 2], attn_resolutions=[4], augment_dim=9, label_dim=3, label_dropout=0.1),
    "ddpmpp_uncond": lambda: edm("SongUNet", model_channels=16, channel_mult=[2, 2], attn_resolutions=[8], num_blocks=2),
    "ncsnpp": lambda: edm("SongUNet", model_channels=16, channel_mult=[1, 2, 2], attn_resolutions=[4], augment_dim=9, **NCSN),
    "adm": lambda: edm("DhariwalUNet", model_channels=64, channel_mult=[1, 2], attn_resolutions=[8, 4], label_dim=4),
    "adm_wide": lambda: edm("DhariwalUNet", model_channels=32, channel_mult=[2, 2], attn_resolutions=[4], augment_dim=9),
}


def write(name, tensors, **extra):
    os.makedirs(OUT, exist_ok=True)
    path = os.path.join(OUT, name + ".safetensors")
    save_file({k: v.detach().contiguous() for k, v in tensors.items()}, path, metadata={"torch": torch.__version__, "seed": str(SEED)} | extra)
    print(os.path.relpath(path, ROOT), os.path.getsize(path))


def case(name, net):
    g = torch.Generator().manual_seed(SEED)
    state = net.state_dict()
    drawn = {k: draw(k, tuple(v.shape), g) for k, v in state.items() if not k.endswith("resample_filter")}
    net.load_state_dict(state | drawn)
    net.eval()
    n, classes = 3, None
    t = torch.tensor([-1553.7, 3.25, 999.0])
    x = torch.randn(n, 3, 8, 8, generator=g)
    out = {"x": x}
    kwargs = {}
    if name.startswith(("consistency", "guided")):
        if net.num_classes:
            classes = torch.tensor([0, 4, 2])
            kwargs["y"] = classes
        y = net(x, t, **kwargs)
    else:
        t = torch.tensor([-1.55, -0.2, 1.1])
        label = None
        if net.label_dim:
            classes = torch.tensor([0, net.label_dim - 1, net.label_dim])  # the last is none: zeros
            label = torch.nn.functional.one_hot(classes, net.label_dim + 1)[:, :-1].float()
        y = net.model(x, t, label)
        sigma = torch.tensor([0.002, 0.7, 80.0])
        out |= {"sigma": sigma, "d": net(x, sigma, label)}
        if name == "ddpmpp_uncond":  # the same network in the other preconditionings
            for key, other in (("vp", code.edm.VPPrecond), ("ve", code.edm.VEPrecond)):
                other = other(8, 3, model_type="SongUNet", model_channels=16, channel_mult=[1], num_blocks=1)
                other.model = net.model
                out[key] = other(x, sigma, label)
    out |= {"t": t, "y": y}
    if classes is not None:
        out["class"] = classes
    write(name, out, weights=json.dumps([[k, list(v.shape)] for k, v in drawn.items()]),
          shapes=json.dumps([[k, list(v.shape)] for k, v in state.items()]))


def keys():
    cm = dict(attention_resolutions=(2, 4, 8), num_head_channels=64, resblock_updown=True)
    full = {
        "consistency_imagenet64": lambda: openai(code.consistency, **cm, image_size=64, model_channels=192, channel_mult=(1, 2, 3, 4), num_res_blocks=3,
                                                 num_classes=1000),
        "consistency_lsun256": lambda: openai(code.consistency, **cm | dict(attention_resolutions=(8, 16, 32)), image_size=256, model_channels=256,
                                              channel_mult=(1, 1, 2, 2, 4, 4), num_res_blocks=2, use_scale_shift_norm=False),
        "guided_64": lambda: openai(code.guided, **cm, image_size=64, model_channels=192, channel_mult=(1, 2, 3, 4), num_res_blocks=3, num_classes=1000,
                                    out_channels=6, use_new_attention_order=True),
        "guided_128": lambda: openai(code.guided, image_size=128, model_channels=256, channel_mult=(1, 1, 2, 3, 4), num_res_blocks=2, num_classes=1000,
                                     out_channels=6, num_heads=4, num_head_channels=-1, attention_resolutions=(4, 8, 16)),
        "guided_256": lambda: openai(code.guided, **cm | dict(attention_resolutions=(8, 16, 32)), image_size=256, model_channels=256,
                                     channel_mult=(1, 1, 2, 2, 4, 4), num_res_blocks=2, num_classes=1000, out_channels=6),
        "guided_512": lambda: openai(code.guided, **cm | dict(attention_resolutions=(16, 32, 64)), image_size=512, model_channels=256,
                                     channel_mult=(0.5, 1, 1, 2, 2, 4, 4), num_res_blocks=2, num_classes=1000, out_channels=6),
        "edm_cifar10_vp": lambda: edm("SongUNet", img_resolution=32, model_channels=128, channel_mult=[2, 2, 2], attn_resolutions=[16], num_blocks=4,
                                      augment_dim=9),
        "edm_cifar10_ve": lambda: edm("SongUNet", img_resolution=32, model_channels=128, channel_mult=[2, 2, 2], attn_resolutions=[16], num_blocks=4,
                                      augment_dim=9, **NCSN),
        "edm_imagenet64": lambda: edm("DhariwalUNet", img_resolution=64, model_channels=192, channel_mult=[1, 2, 3, 4], attn_resolutions=[32, 16, 8],
                                      num_blocks=3, label_dim=1000),
    }
    lists = {}
    for name, make in full.items():
        with torch.device("meta"):
            net = make()
        lists[name] = [[k, list(v.shape)] for k, v in net.state_dict().items()]
        params, total = len(list(net.parameters())), sum(p.numel() for p in net.parameters())
        print(name, len(lists[name]), "tensors,", params, "of them parameters of", total, "elements")
    with open(os.path.join(OUT, "keys.json.gz"), "wb") as f:
        f.write(gzip.compress(json.dumps(lists, separators=(",", ":")).encode(), mtime=0))
    print("keys.json.gz", os.path.getsize(os.path.join(OUT, "keys.json.gz")))


if __name__ == "__main__":
    with torch.no_grad():
        for name, make in CASES.items():
            case(name, make())
    keys()
