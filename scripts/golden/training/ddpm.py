"""Min-SNR weighted losses and noise of several resolutions, for training's tests.

    python scripts/golden/training/ddpm.py      writes training/testdata/ddpm.safetensors

The weights of Hang et al. 2023 over diffusers' compute_snr, and multi-resolution noise (Whitaker 2023) as published, of one sample, both
in float64. Inputs follow from names: normal numbers with the seed crc32(name).
"""
import os
import zlib

import diffusers
import torch
from diffusers.training_utils import compute_snr
from safetensors.torch import save_file

OUT = os.path.join(os.path.abspath(__file__).partition("/scripts/golden/")[0], "training", "testdata")
GAMMA = 5.0
STEPS = [0, 60, 300, 999]
SIDES, RATIOS, DISCOUNT = (12, 9), [2.5, 3.1, 2.2, 3.9], 0.4


def draw(name, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode()))).double()


def weights(prediction, snr):
    least = snr.clamp(max=GAMMA)
    return {"epsilon": least / snr, "v_prediction": least / (snr + 1), "sample": least}[prediction]


out = {}
betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
for prediction in ("epsilon", "v_prediction", "sample"):
    chain = diffusers.DDPMScheduler(trained_betas=betas.numpy(), prediction_type=prediction)
    chain.alphas_cumprod = torch.cumprod(1 - betas, 0)
    n = torch.tensor(STEPS)
    w = weights(prediction, compute_snr(chain, n).double())
    x, z = draw("x", 4, 2, 3), draw("z", 4, 2, 3)
    y = chain.add_noise(x, z, n)
    target = {"epsilon": z, "v_prediction": chain.get_velocity(x, z, n), "sample": x}[prediction]
    out[f"{prediction}/weights"] = w
    out[f"{prediction}/loss"] = (w * (y * 0.5 - target).square().mean((1, 2))).mean()  # of a network that halves

noise = draw("fine", 1, 3, *SIDES)
for i, r in enumerate(RATIOS):
    h, w = (max(1, int(side / r**i)) for side in SIDES)
    noise = noise + torch.nn.Upsample(size=SIDES, mode="bilinear")(draw(f"coarse.{i}", 1, 3, h, w)) * DISCOUNT**i
    if h == 1 or w == 1:
        break
assert i == 2, "the last ratio is not reached"
out["pyramid"] = noise / noise.std()
out["ratios"] = torch.tensor(RATIOS, dtype=torch.float64)
save_file({k: v.contiguous() for k, v in out.items()}, os.path.join(OUT, "ddpm.safetensors"),
          metadata={"torch": torch.__version__, "diffusers": diffusers.__version__})
