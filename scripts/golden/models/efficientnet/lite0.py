"""Golden features of EfficientNet-Lite0, for models/efficientnet: python lite0.py OUT.safetensors

Weights are drawn in the state dict's order from torch's generator (seed 1), so that the file holds results only; the Go test draws the same.
torch 2.11.0, efficientnet_lite_pytorch 0.1.0.
"""
import json
import sys

import torch
from efficientnet_lite_pytorch import EfficientNet
from safetensors.torch import save_file

SEED = 1


def main():
    torch.set_num_threads(1)
    net = EfficientNet.from_name("efficientnet-lite0").eval()
    gen, layout, state = torch.Generator().manual_seed(SEED), [], {}
    for name, t in net.state_dict().items():
        if t.dtype != torch.float32:
            state[name] = t
            continue
        layout.append([name, list(t.shape)])
        v = torch.randn(t.shape, generator=gen)
        if name.endswith("running_var"):
            v = v.abs() * 0.5 + 0.5
        elif t.ndim == 4:
            v = v * (2 / (t.shape[1] * t.shape[2] * t.shape[3])) ** 0.5
        elif "_bn" in name and name.endswith(".weight"):
            v = v * 0.1 + 1
        else:
            v = v * 0.1
        state[name] = v
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
