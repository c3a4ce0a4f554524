"""How PyTorch prints tensors, for torch/print_test.go: python scripts/golden/torch/print.py writes torch/testdata/print.json.

Each case is a name that the Go test makes the same tensor for, and the elements' text behind "tensor(" (torch._tensor_str).
"""
import json
import os

import torch
from torch._tensor_str import _tensor_str

torch.set_printoptions(profile="default")
inf, nan = float("inf"), float("nan")


def ramp(*shape):
    """Numbers from -1 on in steps of 1/8, exact in every type."""
    n = 1
    for v in shape:
        n *= v
    return (torch.arange(n, dtype=torch.float32) % 97 / 8 - 1).reshape(shape)


CASES = {
    "scalar": torch.tensor(3.25),
    "scalar whole": torch.tensor(3.0),
    "scalar int": torch.tensor(-7),
    "scalar bool": torch.tensor(True),
    "scalar nan": torch.tensor(nan),
    "empty": torch.zeros(0, 3),
    "empty inside": torch.zeros(2, 0),
    "one": torch.tensor([1.5]),
    "fractions": torch.tensor([[0.1, -2.5, 3.0], [10.0, 0.0, 999.125]]),
    "whole floats": torch.tensor([[1.0, -20.0], [300.0, 0.0]]),
    "zeros": torch.zeros(2, 2),
    "negative zero": torch.tensor([-0.0, 1.0]),
    "wide range": torch.tensor([1e-3, 1.0, 12345.678]),
    "small": torch.tensor([1e-5, 2e-5]),
    "large": torch.tensor([1e9, 2e9]),
    "large whole": torch.tensor([100000000.0, 200000.0]),
    "not finite": torch.tensor([nan, inf, -inf, 1.5]),
    "not finite whole": torch.tensor([nan, -inf, 2.0]),
    "not finite only": torch.tensor([nan, inf, -inf, 0.0]),
    "not finite sci": torch.tensor([nan, -inf, 1e-7]),
    "float64": torch.tensor([0.123456789, 1e3], dtype=torch.float64),
    "float64 tiny": torch.tensor([1e-300, 1.0], dtype=torch.float64),
    "float16": torch.tensor([0.1, 1000.0, -65504.0], dtype=torch.float16),
    "bfloat16": torch.tensor([0.1, 3.0], dtype=torch.bfloat16),
    "float8_e4m3fn": torch.tensor([0.5, -448.0, 0.0625]).to(torch.float8_e4m3fn),
    "float8_e5m2": torch.tensor([0.5, -57344.0]).to(torch.float8_e5m2),
    "int64": torch.tensor([[1, -200], [30, 9007199254740993]]),
    "int32": torch.tensor([-5, 12], dtype=torch.int32),
    "uint8": torch.tensor([0, 255, 7], dtype=torch.uint8),
    "bool": torch.tensor([[True, False], [True, True]]),
    "bool all true": torch.tensor([True, True]),
    "complex64": torch.complex(torch.tensor([1.5, -2.0]), torch.tensor([-0.25, 1000.0])),
    "complex128 scalar": torch.complex(torch.tensor(1.0, dtype=torch.float64), torch.tensor(-2.0, dtype=torch.float64)),
    "three dimensions": ramp(2, 2, 3),
    "four dimensions": ramp(2, 1, 2, 2),
    "long line": ramp(30),
    "long rows": ramp(2, 25),
    "all of a thousand": ramp(1000),
    "a thousand and one": ramp(1001),
    "summarised ints": torch.arange(5000) - 17,
    "summarised rows": ramp(2000, 2),
    "summarised columns": ramp(2, 2000),
    "summarised both": ramp(100, 100),
    "summarised at the edge": ramp(7, 200),
    "not summarised inside": ramp(6, 200),
    "summarised image": ramp(2, 3, 64, 64),
    "five dimensions": ramp(8, 7, 1, 9, 8),
    "summarised half": ramp(3, 500).to(torch.bfloat16),
    "summarised float8": ramp(40, 50).to(torch.float8_e4m3fn),
    "summarised bool": ramp(50, 50) > 3,
    "summarised complex": torch.complex(ramp(30, 40), -ramp(30, 40)),
    "transposed": ramp(3, 4).T,
    "expanded": ramp(3).expand(2, 3),
}

with open(os.path.join(os.path.abspath(__file__).partition("/scripts/golden/")[0], "torch", "testdata", "print.json"), "w") as f:
    json.dump({"torch": torch.__version__, "cases": {k: _tensor_str(v, len("tensor(")) for k, v in CASES.items()}}, f, indent=1)
    f.write("\n")
