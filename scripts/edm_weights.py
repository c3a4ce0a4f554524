#!/usr/bin/env python3
"""Takes the weights out of a network pickle of NVlabs/edm, into a safetensors file that onestep reads.

    PYTHONPATH=edm python edm_weights.py edm-cifar10-32x32-uncond-vp.pkl edm-cifar10.safetensors

edm is a clone of https://github.com/NVlabs/edm. The pickle has the network's code in it, and loading it runs that code: use pickles from
sources that you trust only. Pickles of ECT (locuslab/ect) are read in the same way, with its repository on the path.

The result has the tensors of the network's state dict under their own names, and in the metadata the arguments that the network was made
with, which onestep needs: the preconditioning, sigma_data, dropout. Needs PyTorch and the network's repository only.
"""
import argparse
import json
import os
import pickle
import struct
import sys


def save(tensors, path, metadata):
    """Writes the file format of safetensors: the length of a JSON header, the header, the elements."""
    import torch

    dtypes = {torch.float32: "F32", torch.float64: "F64", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}
    header, at, parts = {"__metadata__": metadata}, 0, []
    for name, t in tensors.items():
        t = t.detach().cpu().contiguous()
        data = t.flatten().view(torch.uint8).numpy().tobytes() if t.numel() else b""
        header[name] = {"dtype": dtypes[t.dtype], "shape": list(t.shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
        parts.append(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    part = path + ".part"
    with open(part, "wb") as f:
        f.write(struct.pack("<Q", len(text)))
        f.write(text)
        for data in parts:
            f.write(data)
    os.replace(part, path)


def argument(net, name):
    """An argument that a network or its preconditioning was made with; None if there is none."""
    for module in (net, getattr(net, "model", None)):
        for source in (getattr(module, "_init_kwargs", None) or {}, getattr(module, "__dict__", {})):
            value = source.get(name)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                return value
    return None


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("pickle", help="a network of EDM, such as edm-cifar10-32x32-uncond-vp.pkl")
    p.add_argument("out", help="the safetensors file to write")
    p.add_argument("--key", default="ema", help="the network in the pickle (default: ema)")
    p.add_argument("--overwrite", action="store_true", help="replace an existing file")
    o = p.parse_args()
    if os.path.exists(o.out) and not o.overwrite:
        sys.exit(f"{o.out} exists: choose another name or pass --overwrite")
    import torch  # after what needs no seconds

    try:
        with open(o.pickle, "rb") as f:
            data = pickle.load(f)
    except ModuleNotFoundError as e:
        sys.exit(f"{o.pickle}: the pickle needs the module {e.name}: put the network's repository on the path, as PYTHONPATH=edm")
    net = data[o.key] if isinstance(data, dict) and o.key in data else data
    if not isinstance(net, torch.nn.Module):
        known = ", ".join(data) if isinstance(data, dict) else type(data).__name__
        sys.exit(f"{o.pickle}: it has no network named {o.key}, but {known}")
    about = {"class": type(net).__name__, "source": os.path.basename(o.pickle)}
    for name in ("sigma_data", "beta_d", "beta_min", "M", "dropout", "label_dropout"):
        value = argument(net, name)
        if value is not None and value == value and abs(value) != float("inf"):
            about[name] = float(value)
    state = net.state_dict()
    save(state, o.out, {"format": "pt", "edm": json.dumps(about)})
    print(f"{o.out}: {len(state)} tensors of {about['class']}")


if __name__ == "__main__":
    main()
