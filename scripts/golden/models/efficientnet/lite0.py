"""Golden features of EfficientNet-Lite0, for models/efficientnet: python lite0.py OUT.safetensors

Weights are drawn in the state dict's order from torch's generator (seed 1), so that the file holds results only; the Go test draws the same.
torch 2.11.0, efficientnet_lite_pytorch 0.1.0.
"""
import json
import os
import sys

import torch
from efficientnet_lite_pytorch import EfficientNet
from safetensors.torch import save_file

sys.path.append(os.path.join(os.path.abspath(__file__).partition("/scripts/golden/")[0], "scripts", "golden", "shared"))
from norms import draw  # noqa: E402

SEED = 1


def main():
    torch.set_num_threads(1)
    net = EfficientNet.from_name("efficientnet-lite0").eval()
    gen = torch.Generator().manual_seed(SEED)
    layout, state = draw(net.state_dict(), gen, "_bn")
    net.load_state_dict(state)
    bytes_ = (torch.rand(2, 3, 224, 224, generator=gen) * 256).floor()
    with torch.no_grad():
        x = (bytes_ - 127) / 128
        features = net.extract_features(x).mean((2, 3))
        logits = net(x)
        small = (torch.rand(1, 3, 32, 48, generator=gen) * 256).floor() / 127.5 - 1
        resized = torch.nn.functional.interpolate(small, (224, 224), mode="bicubic", antialias=True)
        resized = net.extract_features(resized * 127.5 / 128 + 0.5 / 128).mean((2, 3))
        double = net.double().extract_features(x.double()).mean((2, 3))
        print("rounding of float32, of the largest feature:", ((features - double).abs().max() / double.abs().max()).item())
    save_file({"features": features, "logits": logits, "resized": resized}, sys.argv[1],
              {"seed": str(SEED), "layout": json.dumps(layout)})


if __name__ == "__main__":
    main()
