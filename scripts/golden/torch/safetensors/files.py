"""Writes the golden files of torch/safetensors with Python's safetensors.

Usage: python scripts/golden/torch/safetensors/files.py [folder]

The files are small and depend on nothing random; torch/safetensors/write_test.go makes the same ones and compares bytes.
The reference writes metadata in a random order, so no golden has more than one entry.
"""

import json
import pathlib
import sys

import safetensors
import safetensors.torch
import torch

root = pathlib.Path(str(pathlib.Path(__file__).resolve()).partition("/scripts/golden/")[0])
out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else root / "torch" / "safetensors" / "testdata"

made_by = f"safetensors {safetensors.__version__}, torch {torch.__version__}"

# Every element type of package torch, in two layouts: names sort against the order of types.
everything = {
    "z.f64": torch.tensor([[1.5, -2.25, 3e300], [0.0, -0.0, float("inf")]], dtype=torch.float64),
    "y.f32": torch.tensor([1.0, -0.5, float("nan")], dtype=torch.float32),
    "b.f32": torch.tensor([[0.25]], dtype=torch.float32),
    "x.f16": torch.tensor([1.0, 65504.0, -6e-8], dtype=torch.float16),
    "w.bf16": torch.tensor([1.0, -3.0e38, 1e-3], dtype=torch.bfloat16),
    "d.i64": torch.tensor([-(2**63), 2**63 - 1], dtype=torch.int64),
    "c.i32": torch.tensor([[-(2**31)], [2**31 - 1]], dtype=torch.int32),
    "a.u8": torch.tensor([0, 1, 255], dtype=torch.uint8),
    "a.bool": torch.tensor([True, False, True, True, False]),
    "scalar.f32": torch.tensor(42.0),
    "scalar.bool": torch.tensor(True),
    "empty.f32": torch.zeros(0, 3),
    "empty.i64": torch.zeros(2, 0, 4, dtype=torch.int64),
    'quote " slash / back \\ tab \t é \u2028 \x7f 😀 <&>': torch.tensor([7], dtype=torch.uint8),
    "": torch.tensor([8], dtype=torch.uint8),
}
safetensors.torch.save_file(everything, out / "types.safetensors", metadata={"made by": made_by})

# Types that files may hold and package torch has no counterpart for.
others = {
    "i8": torch.int8, "i16": torch.int16, "u16": torch.uint16, "u32": torch.uint32, "u64": torch.uint64,
    "c64": torch.complex64, "f8_e4m3": torch.float8_e4m3fn, "f8_e5m2": torch.float8_e5m2,
    "f8_e4m3fnuz": torch.float8_e4m3fnuz, "f8_e5m2fnuz": torch.float8_e5m2fnuz, "f8_e8m0": torch.float8_e8m0fnu,
}
tensors = {name: torch.arange(1, 5, dtype=torch.float32).to(dtype) for name, dtype in others.items()}
tensors["f4"] = torch.tensor([0x21, 0x43], dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
tensors["bool"] = torch.tensor([True, False])
safetensors.torch.save_file(tensors, out / "others.safetensors")

safetensors.torch.save_file({}, out / "none.safetensors")

# A set of two shards with its index, laid out as the ecosystem's libraries do.
shards = {
    "model-00001-of-00002.safetensors": {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3], dtype=torch.int64)},
    "model-00002-of-00002.safetensors": {"c": torch.tensor([[4.0]], dtype=torch.float64)},
}
(out / "sharded").mkdir(parents=True, exist_ok=True)
for name, part in shards.items():
    safetensors.torch.save_file(part, out / "sharded" / name, metadata={"format": "pt"})
index = {
    "metadata": {"total_size": sum(t.numel() * t.element_size() for part in shards.values() for t in part.values())},
    "weight_map": {key: name for name, part in shards.items() for key in part},
}
text = json.dumps(index, indent=2, sort_keys=True) + "\n"
(out / "sharded" / "model.safetensors.index.json").write_text(text)
