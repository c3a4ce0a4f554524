"""Distances and gradients of the Python packages lpips and piq, for models/lpips's tests.

    pip install lpips==0.1.4 piq==0.8.0 torchvision==0.26.0      beside scripts/requirements-dev.txt
    python scripts/golden/models/lpips/distances.py                               writes models/lpips/testdata/golden.safetensors

Networks are whole, and their weights random, which needs no download. Neither weights nor images are stored: both sides draw
them from streams (see draw and images). Of gradients the file holds every STEP-th row and column, divided by the largest.
"""
import json
import math
import os
import warnings

import lpips
import piq
import torch
import torchvision
from safetensors.torch import save_file
from torch.nn.functional import interpolate

SEED, STEP = 20261123, 13
ROOT = os.path.abspath(__file__).partition("/scripts/golden/")[0]
OUT = os.path.join(ROOT, "models", "lpips", "testdata", "golden.safetensors")

CASES = {  # as models/lpips's Config, in JSON, and the images' shape
    "alex": (dict(net="alex"), [2, 3, 64, 64]),
    "alex-least": (dict(net="alex"), [1, 3, 31, 34]),
    "alex-grey": (dict(net="alex"), [2, 1, 40, 57]),
    "alex-small": (dict(net="alex", resize="small"), [2, 3, 32, 32]),
    "alex-small-shrunk": (dict(net="alex", resize="small"), [1, 3, 255, 300]),
    "alex-small-kept": (dict(net="alex", resize="small"), [1, 3, 256, 260]),
    "alex-all": (dict(net="alex", resize="all"), [2, 1, 28, 28]),
    "alex-all-shrunk": (dict(net="alex", resize="all"), [1, 3, 300, 256]),
    "vgg": (dict(net="vgg"), [2, 3, 64, 64]),
    "vgg-least": (dict(net="vgg"), [1, 3, 16, 21]),
    "vgg-average": (dict(net="vgg", average_pool=True), [2, 3, 64, 64]),
    "vgg-openai": (dict(net="vgg", average_pool=True, resize="small"), [1, 3, 32, 32]),
}


def draw(name, shape, g):
    """Trunks keep signals at their size; the last weights count differences. draw() in golden_test.go does the same."""
    v = torch.randn(shape, generator=g)
    if name.startswith("lin"):
        return v.abs() * 0.1
    return v * math.sqrt(2 / math.prod(shape[1:])) if name.endswith("weight") else v * 0.1


def weights(net):
    """A network of the package lpips with drawn weights, and what was drawn."""
    model = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
    g = torch.Generator().manual_seed(SEED)
    drawn = {k: draw(k, v.shape, g) for k, v in model.state_dict().items() if not k.startswith(("scaling_layer.", "lins."))}
    missing, unexpected = model.load_state_dict(drawn, strict=False)
    assert not unexpected and all(k.startswith(("scaling_layer.", "lins.")) for k in missing)
    return model, drawn


def averaging(drawn):
    """piq's distance, which has its own order of operations: means and deviations of images in [0, 1], averaging pools."""
    trunk = torchvision.models.vgg16(weights=None)
    trunk.features.load_state_dict({k.split(".", 2)[2]: v for k, v in drawn.items() if k.startswith("net.")})
    lins = [drawn[f"lin{i}.model.1.weight"] for i in range(5)]
    piq.perceptual.vgg16 = lambda **_: trunk
    torch.hub.load_state_dict_from_url = lambda *_, **__: lins
    model = piq.LPIPS(replace_pooling=True, reduction="none")
    assert any(isinstance(m, torch.nn.AvgPool2d) for m in model.modules())
    return lambda a, b: model(a / 2 + 0.5, b / 2 + 0.5)


def images(shape, seed):
    """Two batches that are near each other, in [-1, 1]. images() in golden_test.go does the same."""
    g = torch.Generator().manual_seed(seed)
    a = (torch.randn(shape, generator=g) * 0.5).clamp(-1, 1)
    return a, (a + torch.randn(shape, generator=g) * 0.2).clamp(-1, 1)


def resize(x, rule):
    if rule == "small" and min(x.shape[2:]) < 256:
        return interpolate(x, size=(224, 224), mode="bilinear")
    if rule == "all":
        # As jax.image.resize does by default.
        return interpolate(x, size=(224, 224), mode="bilinear", antialias=max(x.shape[2:]) > 224)
    return x


def case(config, shape, seed, model, drawn, dtype):
    a, b = (v.to(dtype) for v in images(shape, seed))
    a.requires_grad_()
    model.to(dtype)
    distance = averaging({k: v.to(dtype) for k, v in drawn.items()}) if config.get("average_pool") else model
    d = distance(*(resize(v, config.get("resize")).expand(-1, 3, -1, -1) for v in (a, b))).flatten()
    d.sum().backward()
    largest = a.grad.abs().max()
    return d.detach(), largest, (a.grad[:, :, ::STEP, ::STEP] / largest)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=UserWarning)  # torchvision's, of the arguments that lpips gives it
    models = {net: weights(net) for net in ("alex", "vgg")}
    out = {}
    for i, (name, (config, shape)) in enumerate(CASES.items()):
        for dtype, kind in ((torch.float32, "float32"), (torch.float64, "float64")):
            d, largest, grad = case(config, shape, SEED + 1 + i, *models[config["net"]], dtype)
            key = f"{name}.{kind}."
            out |= {key + "distance": d, key + "largest": largest, key + "grad": grad.contiguous()}
            print(key, d.tolist())
        a, b = (out[name + kind + "distance"] for kind in (".float32.", ".float64."))
        print(name, "float32 is off by", ((a - b) / b).abs().max().item())
    os.makedirs(os.path.dirname(OUT), exist_ok=True)
    save_file(out, OUT, metadata={
        "torch": torch.__version__, "torchvision": torchvision.__version__, "lpips": "0.1.4", "piq": piq.__version__,
        "seed": str(SEED), "step": str(STEP),
        "cases": json.dumps([{"name": k, "config": c, "shape": s} for k, (c, s) in CASES.items()]),
        **{net: json.dumps([[k, list(v.shape)] for k, v in drawn.items()]) for net, (_, drawn) in models.items()}})
    print(os.path.relpath(OUT, ROOT), os.path.getsize(OUT))
