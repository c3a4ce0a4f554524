"""Power-function averages of weights in NumPy, for models/ema_test.go.

    python scripts/golden/models/averages.py      writes models/testdata/averages.json

Nothing is taken from closed forms but the profile itself, p(τ) = (γ+1)·τ^γ / t^(γ+1) for τ up to t (Karras et al. 2024,
section 3.1). Exponents are roots of the cubic of equation 123, found as eigenvalues. A decay is the ratio of what the integral of p
gives to the first step in two runs, the one a step longer. Factors are the least-squares fit of profiles to a profile at the nodes
of Gauss's quadrature between snapshots, without inner products. There are no random numbers.
"""
import json
import os

import numpy as np

PATH = os.path.join(os.path.abspath(__file__).partition("/scripts/golden/")[0], "models", "testdata", "averages.json")
WIDTHS = [0.01, 0.05, 0.07, 0.1, 0.2, 0.28]
STEPS = [1, 2, 10, 1000]
CASES = [  # tracked widths, snapshots, wanted width and step
    ([0.05, 0.1], [100, 200, 300, 400], 0.07, 400),
    ([0.05, 0.1], [100, 200, 300, 400], 0.03, 400),
    ([0.05, 0.1], [100, 200, 300, 400], 0.2, 400),
    ([0.05, 0.1], [250, 500, 750, 1000, 1250, 1500, 1750, 2000], 0.12, 1750),
    ([0.1], [1000, 1500, 4000], 0.15, 4000),
    ([0.02, 0.25], [7, 64], 0.09, 64),
]


def exponent(width):
    roots = np.roots([1, 7, 16 - width**-2, 12 - width**-2])
    return float(roots[np.abs(roots.imag) < 1e-9].real.max())


def profile(gamma, end, tau):
    return np.where(tau <= end, (gamma + 1) * tau**gamma / end ** (gamma + 1), 0.0)


def nodes(ends):
    """Returns points and weights of a quadrature from 0 to the last end that is exact for profiles between the ends."""
    x, w = np.polynomial.legendre.leggauss(80)
    points, weights = [], []
    cuts = [0, *[ends[0] * 2.0**-i for i in range(12, 0, -1)], *ends]
    for a, b in zip(cuts, cuts[1:]):
        points.append(a + (b - a) * (x + 1) / 2)
        weights.append((b - a) * w / 2)
    return np.concatenate(points), np.concatenate(weights)


def combine(widths, ends, width, end):
    tau, weight = nodes(ends)
    have = [(w, t) for t in ends for w in widths if t <= end]
    root = np.sqrt(weight)
    a = np.stack([profile(exponent(w), t, tau) * root for w, t in have], 1)
    b = profile(exponent(width), end, tau) * root
    factors = np.linalg.lstsq(a, b, rcond=None)[0]
    return {
        "widths": [w for w, _ in have], "steps": [t for _, t in have], "width": width, "step": end,
        "factors": factors.tolist(), "distance": float(np.linalg.norm(a @ factors - b) / np.linalg.norm(b)),
    }


def decay(gamma, k):
    """The average after step k, from 0, keeps that part of the one before."""
    tau, weight = nodes([0.5, 1])  # what the first step weighs, while that can be told from 0
    if k == 0:
        return 0.0
    first = [np.sum(profile(gamma, end, tau) * weight) for end in (k, k + 1)]
    return float(first[1] / first[0])


golden = {
    "numpy": np.__version__,
    "exponents": {str(w): exponent(w) for w in WIDTHS},
    "decays": [{"width": w, "k": k, "decay": decay(exponent(w), k)} for w in (0.05, 0.1, 0.2) for k in (0, *STEPS)],
    "combinations": [combine(*c) for c in CASES],
}
os.makedirs(os.path.dirname(PATH), exist_ok=True)
with open(PATH, "w") as f:
    json.dump(golden, f, indent=1)
    f.write("\n")
