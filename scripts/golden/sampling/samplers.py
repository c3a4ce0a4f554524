"""Trajectories of samplers for a fixed denoiser, for sampling/golden_test.go.

    python scripts/golden/sampling/samplers.py      writes sampling/testdata/samplers.safetensors

Two independent sources, both in float64: diffusers' schedulers, and the papers' formulas written out below in the papers' own
coordinates, which are not always the ones that the package computes in. Where both exist for a sampler, this script compares
them, and the file holds what diffusers computed. Each tensor [steps, 2, ...] has the points after each step.

diffusers' schedulers are given the noise levels directly, by setting what set_timesteps would have computed. They cast to
float32 in the middle of a step; while they step, that name is bound to float64.
"""
import contextlib
import math
import os

import diffusers
import torch
from diffusers import (DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, DPMSolverSinglestepScheduler,
                       EulerAncestralDiscreteScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler,
                       FlowMatchHeunDiscreteScheduler, HeunDiscreteScheduler, KDPM2AncestralDiscreteScheduler,
                       KDPM2DiscreteScheduler)
from safetensors.torch import save_file

SHAPE, SEEDS, START = (2, 1, 2, 3), (11, 12), 20261127
LEVELS = [14.6, 6.0, 2.5, 1.0, 0.4, 0.1, 0.0]
EDM = dict(churn=3.0, low=0.3, high=7.0, noise=1.05)
ETA, GAMMA, EPS = 0.7, 0.6, 0.3
DOUBLE = torch.float64


def D(x, sigma):
    """The denoiser: nothing but smooth, and curved in both arguments."""
    sigma = torch.as_tensor(sigma, dtype=DOUBLE)
    return 0.8 * torch.tanh(x / (sigma**2 + 0.5).sqrt()) + 0.1 * x / (1 + sigma**2)


def eps(x, sigma):
    return (x - D(x, sigma)) / sigma


def start():
    return LEVELS[0] * torch.randn(SHAPE, generator=torch.Generator().manual_seed(START), dtype=DOUBLE)


def streams():
    return [torch.Generator().manual_seed(seed) for seed in SEEDS]


def randn(gens):
    return torch.stack([torch.randn(SHAPE[1:], generator=g, dtype=DOUBLE) for g in gens])


def steps():
    return list(zip(LEVELS, LEVELS[1:]))


# The papers' formulas.


def euler(_):
    x = start()
    for t, u in steps():
        x = x + (u - t) * eps(x, t)
        yield x


def heun(_):
    yield from edm(None, churn=0)


def edm(gens, churn=EDM["churn"], low=EDM["low"], high=EDM["high"], noise=EDM["noise"]):
    """Karras et al. 2022, algorithm 2."""
    x, n = start(), len(LEVELS) - 1
    for t, u in steps():
        gamma = min(churn / n, math.sqrt(2) - 1) if low <= t <= high else 0
        hat = t + gamma * t
        if gamma > 0:
            x = x + math.sqrt(hat**2 - t**2) * noise * randn(gens)
        d = (x - D(x, hat)) / hat
        y = x + (u - hat) * d
        if u != 0:
            y = x + (u - hat) * (d / 2 + (y - D(y, u)) / u / 2)
        x = y
        yield x


def down_up(t, u, eta):
    """How far to go down from t, and what to add, to be at u: k-diffusion's get_ancestral_step."""
    up = min(u, eta * math.sqrt(u**2 * (t**2 - u**2) / t**2))
    return math.sqrt(u**2 - up**2), up


def ancestral(gens, step, eta):
    x = start()
    for t, u in steps():
        down, up = down_up(t, u, eta)
        x = D(x, t) if down == 0 else step(x, t, down)
        if up > 0:
            x = x + up * randn(gens)
        yield x


def step_euler(x, t, u):
    return x + (u - t) * eps(x, t)


def step_dpm2(x, t, u):
    """Lu et al. 2022, algorithm 1, in terms of h and the noise prediction; alpha is 1."""
    h = math.log(t / u)
    mid = math.exp((math.log(t) + math.log(u)) / 2)
    y = x - mid * math.expm1(h / 2) * eps(x, t)
    return x - u * math.expm1(h) * eps(y, mid)


def step_2s(x, t, u):
    """Lu et al. 2022b, algorithm 1 with r = 1/2."""
    h = math.log(t / u)
    mid = math.exp((math.log(t) + math.log(u)) / 2)
    y = mid / t * x - math.expm1(-h / 2) * D(x, t)
    return u / t * x - math.expm1(-h) * D(y, mid)


def multistep(order):
    """DPM-Solver++ of that order by quadrature: Lagrange's polynomial through the last predictions, times exp(tau - h).
    2M takes the line's value at h/2 instead (Lu et al. 2022b, algorithm 2)."""
    nodes, weights = gauss(40)
    x, past = start(), []
    for t, u in steps():
        past.insert(0, (-math.log(t), D(x, t)))
        if u == 0:
            x = past[0][1]
            yield x
            continue
        h = math.log(t / u)
        used = past[: order]
        if len(used) == 2:
            value = lagrange(used, past[0][0] + h / 2) * -math.expm1(-h)
        else:
            value = sum(w * h / 2 * math.exp(h * (a + 1) / 2 - h) * lagrange(used, past[0][0] + h * (a + 1) / 2)
                        for a, w in zip(nodes, weights))
        x = u / t * x + value
        yield x


def gauss(n):
    import numpy
    nodes, weights = numpy.polynomial.legendre.leggauss(n)
    return nodes.tolist(), weights.tolist()


def lagrange(points, at):
    total = 0
    for i, (a, v) in enumerate(points):
        total = total + math.prod((at - b) / (a - b) for j, (b, _) in enumerate(points) if j != i) * v
    return total


def vp(gens, eta=None, large=False):
    """DDPM (Ho et al. 2020, eq. 7) and, with an eta, DDIM (Song et al. 2021, eq. 12 and 16), on the chain's own points."""
    bars = [1 / (1 + t**2) for t in LEVELS]
    x = start() * math.sqrt(bars[0])
    for (t, _), bar, before in zip(steps(), bars, bars[1:]):
        origin = D(x / math.sqrt(bar), t)
        alpha, beta = bar / before, 1 - bar / before
        small = (1 - before) / (1 - bar) * beta
        if eta is None:
            mean = (math.sqrt(before) * beta * origin + math.sqrt(alpha) * (1 - before) * x) / (1 - bar)
            std = math.sqrt(beta if large else small)
        else:
            std = eta * math.sqrt(small)
            noise = (x - math.sqrt(bar) * origin) / math.sqrt(1 - bar)
            mean = math.sqrt(before) * origin + math.sqrt(max(1 - before - std**2, 0)) * noise
        x = mean
        if before < 1 and std > 0:
            x = x + std * randn(gens)
        yield x / math.sqrt(before)


def flow(_, rule):
    """dy/dtau = v, with y = (1 - tau)·x_0 + tau·z."""
    taus = [t / (1 + t) for t in LEVELS]

    def v(y, tau):
        return (y - D(y / (1 - tau), tau / (1 - tau))) / tau

    y = start() * (1 - taus[0])
    for a, b in zip(taus, taus[1:]):
        slope = v(y, a)
        if b > 0 and rule == "heun":
            slope = (slope + v(y + (b - a) * slope, b)) / 2
        if b > 0 and rule == "midpoint":
            slope = v(y + (b - a) / 2 * slope, (a + b) / 2)
        y = y + (b - a) * slope
        yield y / (1 - b)


def ctm(gens):
    """Kim et al. 2024, algorithm 3, with jumps of one Euler step and none below EPS."""
    x = start()
    for t, u in steps():
        down = min(u, max(EPS, math.sqrt(1 - GAMMA**2) * u))
        x = step_euler(x, t, down)
        if down < u:
            x = x + math.sqrt(u**2 - down**2) * randn(gens)
        yield x


# diffusers.


@contextlib.contextmanager
def doubled():
    float32 = torch.float32
    torch.float32 = torch.float64
    try:
        yield
    finally:
        torch.float32 = float32


def values(levels):
    return torch.tensor(levels, dtype=DOUBLE)


def twice(levels):
    """[a, b, b, c, c, d]: how diffusers lists levels for solvers of two stages."""
    v = values(levels)
    return torch.cat([v[:1], v[1:-1].repeat_interleave(2), v[-1:]])


def prepared(cls, calls, **config):
    sched = cls(**config)
    sched.set_timesteps(calls)
    sched.is_scale_input_called = True
    sched.timesteps = torch.arange(calls, 0, -1).to(DOUBLE)
    sched.set_begin_index(0)
    return sched


def call(sched, i, out, x, **more):
    with doubled():
        return sched.step(out, sched.timesteps[i], x, **more).prev_sample


def diffusers_euler(gens, cls=EulerDiscreteScheduler):
    n = len(LEVELS) - 1
    sched = prepared(cls, n)
    sched.sigmas = values(LEVELS)
    x = start()
    for i in range(n):
        x = call(sched, i, eps(x, LEVELS[i]), x, generator=gens)
        yield x


def diffusers_heun(_):
    n = len(LEVELS) - 1
    sched = prepared(HeunDiscreteScheduler, 2 * n - 1, prediction_type="sample")
    sched.sigmas = twice(LEVELS)
    sched.prev_derivative = sched.dt = None
    x = start()
    for i in range(2 * n - 1):
        x = call(sched, i, D(x, sched.sigmas[i]), x)
        if i % 2 == 1 or i == 2 * n - 2:
            yield x


def diffusers_kdpm2(gens, cls=KDPM2DiscreteScheduler):
    n = len(LEVELS) - 1
    sched = prepared(cls, n)
    sched.timesteps = torch.arange(2 * n - 1, 0, -1).to(DOUBLE)
    v = values(LEVELS)
    if cls is KDPM2DiscreteScheduler:
        mid = v.log().lerp(v.roll(1).log(), 0.5).exp()
    else:
        pairs = [down_up(t, u, 1) for t, u in steps()]
        down, up = values([p[0] for p in pairs] + [0.0]), values([p[1] for p in pairs] + [0.0])
        mid = v.log().lerp(down.log(), 0.5).exp()
        mid[-2:] = 0
        sched.sigmas_up, sched.sigmas_down = doubled_list(up), doubled_list(down)
    sched.sigmas, sched.sigmas_interpol = doubled_list(v), doubled_list(mid)
    x, more = start(), {} if cls is KDPM2DiscreteScheduler else {"generator": gens}
    for i in range(2 * n - 1):
        if i % 2 == 0:
            at = sched.sigmas[i]
        else:
            at = sched.sigmas_interpol[i if cls is KDPM2DiscreteScheduler else i - 1]
        x = call(sched, i, eps(x, at), x, **more)
        if i % 2 == 1 or i == 2 * n - 2:
            yield x


def doubled_list(v):
    return torch.cat([v[:1], v[1:].repeat_interleave(2), v[-1:]])


def alpha(sigma):
    return 1 / math.sqrt(1 + sigma**2)


def diffusers_multistep(_, order):
    n = len(LEVELS) - 1
    sched = prepared(DPMSolverMultistepScheduler, n, solver_order=order, prediction_type="sample", lower_order_final=False,
                     algorithm_type="dpmsolver++", solver_type="midpoint", final_sigmas_type="zero")
    sched.sigmas = values(LEVELS)
    x = start() * alpha(LEVELS[0])
    for i, (t, u) in enumerate(steps()):
        x = call(sched, i, D(x / alpha(t), t), x)
        yield x / alpha(u)


def diffusers_singlestep(_):
    n = len(LEVELS) - 1
    levels = []
    for t, u in steps()[:-1]:
        levels += [t, math.sqrt(t * u)]
    levels += LEVELS[-2:]
    calls = len(levels) - 1
    sched = prepared(DPMSolverSinglestepScheduler, calls, solver_order=2, prediction_type="sample", lower_order_final=True,
                     algorithm_type="dpmsolver++", solver_type="midpoint", final_sigmas_type="zero")
    sched.sigmas = values(levels)
    sched.order_list = [1, 2] * (n - 1) + [1]
    x = start() * alpha(levels[0])
    for i in range(calls):
        x = call(sched, i, D(x / alpha(levels[i]), levels[i]), x)
        if i % 2 == 1 or i == calls - 1:
            yield x / alpha(levels[i + 1])


def chain(cls, **config):
    n = len(LEVELS) - 1
    sched = cls(num_train_timesteps=n, prediction_type="sample", clip_sample=False, **config)
    sched.alphas_cumprod = values([1 / (1 + t**2) for t in reversed(LEVELS[:-1])])
    sched.set_timesteps(n)
    return sched


def diffusers_chain(gens, cls, config=None, **more):
    sched = chain(cls, **(config or {}))
    x = start() * alpha(LEVELS[0])
    for i, (t, u) in enumerate(steps()):
        x = sched.step(D(x / alpha(t), t), int(sched.timesteps[i]), x, generator=gens, **more).prev_sample
        yield x / alpha(u)


def diffusers_flow(_, cls):
    taus = [t / (1 + t) for t in LEVELS]
    n = len(taus) - 1
    heun = cls is FlowMatchHeunDiscreteScheduler
    sched = prepared(cls, n)
    sched.sigmas = twice(taus) if heun else values(taus)
    sched.timesteps = torch.arange(len(sched.sigmas), 0, -1).to(DOUBLE)
    y = start() * (1 - taus[0])
    for i in range(len(sched.sigmas) - 1):
        tau = sched.sigmas[i].item()
        y = call(sched, i, (y - D(y / (1 - tau), tau / (1 - tau))) / tau, y)
        if not heun or i % 2 == 1 or i == len(sched.sigmas) - 2:
            yield y / (1 - sched.sigmas[i + 1])


# Noise levels.


def levels():
    """Formulas of k-diffusion's get_sigmas_*, and diffusers' chain and flow spacings."""
    n, hi, lo = 6, 80.0, 0.002
    ramp = torch.linspace(0, 1, n, dtype=DOUBLE)
    out = {"karras": (hi ** (1 / 7) + ramp * (lo ** (1 / 7) - hi ** (1 / 7))) ** 7,
           "exponential": torch.linspace(math.log(hi), math.log(lo), n, dtype=DOUBLE).exp()}
    t = torch.linspace(1, 1e-3, n, dtype=DOUBLE)
    out["vp"] = (torch.exp(19.9 * t**2 / 2 + 0.1 * t) - 1).sqrt()
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=DOUBLE)
    bars = (1 - betas).cumprod(0)
    sched = DDIMScheduler(num_train_timesteps=1000, timestep_spacing="trailing")
    for count in (6, 7):
        sched.set_timesteps(count)
        at = bars[sched.timesteps]
        out[f"chain.{count}"] = ((1 - at) / at).sqrt()
    for shift in (1.0, 3.0):
        sched = FlowMatchEulerDiscreteScheduler(shift=shift)
        # Given explicitly: diffusers' own list would shift the ends twice.
        with doubled():
            sched.set_timesteps(sigmas=torch.linspace(0.98, 0.02, n, dtype=DOUBLE).tolist())
        tau = sched.sigmas[:-1].to(DOUBLE)
        out[f"flow.{shift:g}"] = tau / (1 - tau)
    return out


PAPERS = {
    "euler": euler, "heun": heun, "edm": edm, "ctm": ctm,
    "euler_a": lambda g: ancestral(g, step_euler, 1), "euler_a.eta": lambda g: ancestral(g, step_euler, ETA),
    "dpm2": lambda g: ancestral(g, step_dpm2, 0), "dpm2_a": lambda g: ancestral(g, step_dpm2, 1),
    "dpmpp_2s": lambda g: ancestral(g, step_2s, 0), "dpmpp_2s_a": lambda g: ancestral(g, step_2s, 1),
    "dpmpp_2m": lambda _: multistep(2), "dpmpp_3m": lambda _: multistep(3),
    "ddpm": vp, "ddpm.large": lambda g: vp(g, large=True),
    "ddim": lambda g: vp(g, 0), "ddim.eta": lambda g: vp(g, ETA),
    "flow_euler": lambda _: flow(_, "euler"), "flow_heun": lambda _: flow(_, "heun"),
    "flow_midpoint": lambda _: flow(_, "midpoint"),
}
DIFFUSERS = {
    "euler": diffusers_euler, "heun": diffusers_heun, "dpm2": diffusers_kdpm2,
    "euler_a": lambda g: diffusers_euler(g, EulerAncestralDiscreteScheduler),
    "dpm2_a": lambda g: diffusers_kdpm2(g, KDPM2AncestralDiscreteScheduler),
    "dpmpp_2m": lambda g: diffusers_multistep(g, 2), "dpmpp_3m.diffusers": lambda g: diffusers_multistep(g, 3),
    "dpmpp_2s": diffusers_singlestep,
    "ddpm": lambda g: diffusers_chain(g, DDPMScheduler),
    "ddpm.large": lambda g: diffusers_chain(g, DDPMScheduler, {"variance_type": "fixed_large"}),
    "ddim": lambda g: diffusers_chain(g, DDIMScheduler),
    "ddim.eta": lambda g: diffusers_chain(g, DDIMScheduler, eta=ETA),
    "flow_euler": lambda g: diffusers_flow(g, FlowMatchEulerDiscreteScheduler),
    "flow_heun": lambda g: diffusers_flow(g, FlowMatchHeunDiscreteScheduler),
}

if __name__ == "__main__":
    out = {"x": start(), "levels": values(LEVELS)}
    for name, run in PAPERS.items():
        out[name] = torch.stack(list(run(streams())))
    for name, run in DIFFUSERS.items():
        got = torch.stack(list(run(streams())))
        if name in out:
            worst = (got - out[name]).abs().max().item()
            print(f"{name:12} diffusers and the formula differ by {worst:.1e}")
        out[name] = got
    for name, v in levels().items():
        out["levels." + name] = v
    path = os.path.join(os.path.abspath(__file__).partition("/scripts/golden/")[0], "sampling", "testdata", "samplers.safetensors")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    save_file({k: v.contiguous() for k, v in out.items()}, path,
              metadata={"torch": torch.__version__, "diffusers": diffusers.__version__, "seed": str(START)})
    print(os.path.relpath(path), os.path.getsize(path))
