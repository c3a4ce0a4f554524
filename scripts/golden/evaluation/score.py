"""Golden Inception Score, for package evaluation: python score.py OUT.safetensors

torch-fidelity's score of random logits. Its 10 parts are contiguous, and ours take the images in turn: it gets them in that order. seed 5,
torch 2.11.0, torch-fidelity 0.4.0.
"""
import sys

import torch
from safetensors.torch import save_file
from torch_fidelity.metric_isc import isc_features_to_metric

SEED = 5


def main():
    logits = (torch.randn(200, 12, generator=torch.Generator().manual_seed(SEED)) * 3).float()
    inturn = torch.cat([logits[part::10] for part in range(10)])
    got = isc_features_to_metric(inturn, splits=10, shuffle=False)
    save_file({"logits": logits.double()}, sys.argv[1], {"mean": repr(got["inception_score_mean"]), "std": repr(got["inception_score_std"]), "seed": str(SEED)})


if __name__ == "__main__":
    main()
