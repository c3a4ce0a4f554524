"""The two hashes of an adapter's metadata, for lora/about_test.go:

    python scripts/golden/lora/hashes.py      writes lora/testdata/hashes.json

The file is one that the safetensors package writes with those metadata entries alone that start with ss_: sshs_model_hash is the SHA-256 of
what follows its header, sshs_legacy_hash the first 8 digits of that of 64 KiB from 1 MiB on. Element i of the n-th tensor (from 0) of the
list below has the 16 bits of (i * 31 + n * 7919) mod 65521.
"""
import hashlib
import json
import os

import numpy as np
import safetensors
import torch
from safetensors.torch import save

OUT = os.path.join(os.path.abspath(__file__).partition("/scripts/golden/")[0], "lora", "testdata")
SHAPES = [("lora_unet_a.lora_up.weight", (700, 500)), ("lora_unet_a.lora_down.weight", (500, 700)), ("lora_unet_a.alpha", ()), ("lora_unet_b.lora_up.weight", (3, 5, 1, 1))]
CASES = {
    "all": {"ss_output_name": "style", "ss_network_dim": "500", "ss_network_args": "{\"conv_dim\":\"4\"}", "modelspec.title": "not counted", "format": "pt"},
    "longer": {"ss_output_name": "style with an ü, a \" and a\nline", "ss_network_dim": "500"},
}


def main():
    tensors = {}
    for n, (name, shape) in enumerate(SHAPES):
        size = int(np.prod(shape, dtype=np.int64))
        bits = ((np.arange(size, dtype=np.int64) * 31 + n * 7919) % 65521).astype(np.uint16)
        tensors[name] = torch.from_numpy(bits.view(np.float16).reshape(shape).copy())
    out = {"versions": {"safetensors": safetensors.__version__, "torch": torch.__version__}, "shapes": SHAPES, "cases": []}
    for case, metadata in CASES.items():
        data = save(tensors, {k: v for k, v in metadata.items() if k.startswith("ss_")})
        header = 8 + int.from_bytes(data[:8], "little")
        out["cases"].append({"name": case, "metadata": metadata, "sshs_model_hash": hashlib.sha256(data[header:]).hexdigest(),
                             "sshs_legacy_hash": hashlib.sha256(data[0x100000:0x110000]).hexdigest()[:8]})
    with open(os.path.join(OUT, "hashes.json"), "w") as f:
        json.dump(out, f, indent=1)
        f.write("\n")


main()
