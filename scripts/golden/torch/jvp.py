"""A small network's derivative in one direction by torch.func.jvp, for torch/forward_test.go: python scripts/golden/torch/jvp.py
writes torch/testdata/jvp.safetensors.

Inputs, tangents and weights are stored under their names, the results as "y" and "dy". All is float64.
"""
import os

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch.nn.attention import SDPBackend, sdpa_kernel

SEED = 20261124
torch.manual_seed(SEED)
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
PATH = os.path.join(os.path.abspath(__file__).partition("/scripts/golden/")[0], "torch", "testdata", "jvp.safetensors")

C, HEADS, GROUPS = 8, 2, 4
x, t, vx, vt = torch.randn(2, 3, 8, 8), torch.rand(2) + 0.5, torch.randn(2, 3, 8, 8), torch.randn(2)
labels = torch.tensor([2, 0])
weights = dict(
    conv_in=torch.randn(C, 3, 3, 3) / 5, conv_in_b=torch.randn(C) / 10, norm=torch.rand(C) + 0.5, norm_b=torch.randn(C) / 10,
    table=torch.randn(3, 16), emb=torch.randn(C, 16) / 4, emb_b=torch.randn(C) / 10,
    down=torch.randn(C, C, 3, 3) / 8, down_b=torch.randn(C) / 10, qkv=torch.randn(3 * C, C) / 3, qkv_b=torch.randn(3 * C) / 10,
    out=torch.randn(C, C) / 3, out_b=torch.randn(C) / 10, conv_out=torch.randn(3, C, 3, 3) / 8,
)


def net(x, t):
    w = weights
    angles = t[:, None] * torch.arange(1, 9)
    e = F.silu(torch.cat([angles.cos(), angles.sin()], 1) + F.embedding(labels, w["table"]))
    h = F.conv2d(x, w["conv_in"], w["conv_in_b"], padding=1)
    h = F.silu(F.group_norm(h + F.linear(e, w["emb"], w["emb_b"])[:, :, None, None], GROUPS, w["norm"], w["norm_b"], 1e-5))
    h = F.conv2d(h, w["down"], w["down_b"], padding=1, stride=2)
    p = h.flatten(2).transpose(1, 2)
    q, k, v = (z.unflatten(2, (HEADS, -1)).transpose(1, 2) for z in F.linear(p, w["qkv"], w["qkv_b"]).chunk(3, 2))
    with sdpa_kernel(SDPBackend.MATH):  # PyTorch's fused kernels have no forward-mode derivatives
        a = F.scaled_dot_product_attention(q, k, v)
    p = p + F.linear(a.transpose(1, 2).flatten(2), w["out"], w["out_b"])
    h = F.interpolate(p.transpose(1, 2).reshape(h.shape), scale_factor=2, mode="nearest")
    return x / (1 + t[:, None, None, None] ** 2).sqrt() + F.conv2d(h, w["conv_out"], padding=1)


y, dy = torch.func.jvp(net, (x, t), (vx, vt))
save_file({k: v.contiguous() for k, v in dict(weights, x=x, t=t, vx=vx, vt=vt, labels=labels, y=y, dy=dy).items()}, PATH,
          metadata={"torch": torch.__version__, "seed": str(SEED)})
print(PATH, os.path.getsize(PATH), "bytes, |y|", y.norm().item(), "|dy|", dy.norm().item())
