"""Golden features of the InceptionV3 of FID, for models/inception: python fid.py OUT.safetensors

Features and logits of torch-fidelity, features of pytorch-fid, and features of torch-fidelity's network after clean-fid's resizing, which is
Pillow's. Weights are drawn in the state dict's order from torch's generator (seed 1), and images after them, so that the file holds results
only; the Go test draws the same. torch 2.11.0, torch-fidelity 0.4.0, pytorch-fid 0.3.0, Pillow 13.0.0.

    python fid.py --weights FILE.pth [--legacy]     writes the drawn weights as torch.save does, before PyTorch 1.6 with --legacy
"""
import json
import os
import sys
import tempfile

import numpy as np
import torch
from PIL import Image
from pytorch_fid import inception
from safetensors.torch import save_file
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

sys.path.append(os.path.join(os.path.abspath(__file__).partition("/scripts/golden/")[0], "scripts", "golden", "shared"))
from norms import draw  # noqa: E402

SEED = 1


def pixels(gen, *shape):
    return (torch.rand(*shape, generator=gen) * 256).floor()


def clean(images):
    """clean-fid's resize: each channel as a Pillow image of floats."""
    def channel(x):
        return np.asarray(Image.fromarray(x.numpy().astype(np.float32), mode="F").resize((299, 299), resample=Image.BICUBIC))
    return torch.stack([torch.stack([torch.from_numpy(channel(c)) for c in image]) for image in images])


def main():
    torch.set_num_threads(2)
    gen = torch.Generator().manual_seed(SEED)
    empty = inception._inception_v3(num_classes=1008, aux_logits=False, weights=None)
    layout, state = draw(empty.state_dict(), gen, ".bn.")
    if sys.argv[1] == "--weights":
        torch.save(state, sys.argv[2], _use_new_zipfile_serialization="--legacy" not in sys.argv)
        return
    inception.load_state_dict_from_url = lambda *a, **k: state
    fid = inception.InceptionV3([3]).eval()
    with tempfile.TemporaryDirectory() as dir:
        path = os.path.join(dir, "weights.pth")
        torch.save(state, path)
        names = ["2048", "logits_unbiased", "logits"]
        fidelity = FeatureExtractorInceptionV3("inception-v3-compat", names, feature_extractor_weights_path=path)
    small, large = pixels(gen, 1, 3, 32, 48), pixels(gen, 1, 3, 310, 300)
    out = {}
    with torch.no_grad():
        for name, images in [("small", small), ("large", large)]:
            features, unbiased, logits = fidelity(images.byte())
            out[f"fidelity.{name}"] = features
            out[f"pytorch.{name}"] = fid(images / 255)[0].flatten(1)
            out[f"clean.{name}"] = network(fidelity, (clean(images) - 128) / 128)
            print(name, "largest feature", features.abs().max().item(), "between resizings", (features - out[f"pytorch.{name}"]).abs().max().item(),
                  (features - out[f"clean.{name}"]).abs().max().item())
        out["logits"], out["unbiased"] = logits, unbiased
    save_file({k: v.contiguous() for k, v in out.items()}, sys.argv[1], {"seed": str(SEED), "layout": json.dumps(layout, separators=(",", ":"))})


def network(f, x):
    """The layers of torch-fidelity's extractor on an input of 299×299 pixels."""
    for name in ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "MaxPool_2", "Mixed_5b", "Mixed_5c", "Mixed_5d",
                 "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c", "AvgPool"]:
        x = getattr(f, name)(x)
    return x.flatten(1)


if __name__ == "__main__":
    main()
