"""Golden distances between sets of features, for package evaluation: python distances.py OUT.safetensors

Fréchet distance by scipy's square root of a matrix and by torch-fidelity, KID by torch-fidelity, precision, recall, density and coverage by
prdc, sliced 2-Wasserstein distance by POT. numpy 2, scipy 1.17, torch 2.11.0, torch-fidelity 0.4.0, prdc 0.2, POT 0.9.7; seed 3.
"""
import json
import sys

import numpy as np
import ot
import prdc
import torch
from safetensors.torch import save_file
from scipy import linalg
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric


def frechet(a, b):
    root = linalg.sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False))
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.cov(a, rowvar=False).trace() + np.cov(b, rowvar=False).trace()
                 - 2 * np.real(root).trace())


def main():
    rng = np.random.default_rng(3)
    mix = rng.normal(size=(8, 8))
    a = rng.normal(size=(150, 8)) @ mix + 1
    b = rng.normal(size=(120, 8)) @ (mix + 0.3 * rng.normal(size=(8, 8))) + 1.4
    ta, tb = torch.from_numpy(a), torch.from_numpy(b)
    fid = fid_statistics_to_metric(fid_features_to_statistics(ta), fid_features_to_statistics(tb), False)
    n = 120
    kid = kid_features_to_metric(ta[:n], tb, kid_subsets=1, kid_subset_size=n, kid_degree=3, kid_gamma=None, kid_coef0=1,
                                 kid_kernel="poly", rng_seed=0, verbose=False)
    directions = rng.normal(size=(8, 16))
    directions /= np.linalg.norm(directions, axis=0)
    sliced = ot.sliced_wasserstein_distance(a, b, projections=directions, p=2)
    save_file({"a": ta.contiguous(), "b": tb.contiguous(), "directions": torch.from_numpy(directions).contiguous()}, sys.argv[1], {
        "sliced": repr(float(sliced)),
        "frechet": repr(frechet(a, b)), "fidelity": repr(float(fid["frechet_inception_distance"])),
        "kid": repr(float(kid["kernel_inception_distance_mean"])),
        "prdc": json.dumps({k: float(v) for k, v in prdc.compute_prdc(a, b, 5).items()}),
    })


if __name__ == "__main__":
    main()
