"""Traces of more of diffusers' schedulers, for sampling/scheduler/samplers_test.go:

    python scripts/golden/sampling/scheduler/samplers.py     writes sampling/scheduler/testdata/samplers.{json,safetensors}

A case starts from the noise of a generator with its seed, [2, 2, 2, 2] times the scheduler's init_noise_sigma, or adds it to an image
(the second draw) where it has a strength; the "network" returns its input times t/(t+1); schedulers draw from the same generator. Stored are
the latents after each step and the timesteps.

The Brownian motion of DPMSolverSDEScheduler is fed: each half of a step is an increment of the generator's, in place of torchsde's tree.
DPM++ 2S ancestral, which diffusers does not have, is written out below from its formulas, on the levels of EulerDiscreteScheduler, and so is
Euler ancestral with spaced levels.
"""
import json
import os

import diffusers
import numpy
import scipy.stats
import torch
from diffusers import (DDIMScheduler, DDPMScheduler, DEISMultistepScheduler, DPMSolverMultistepScheduler, DPMSolverSDEScheduler,
                       EulerAncestralDiscreteScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler, KDPM2AncestralDiscreteScheduler,
                       KDPM2DiscreteScheduler, LMSDiscreteScheduler, PNDMScheduler, UniPCMultistepScheduler)
from safetensors.torch import save_file

FOLDER = os.path.join(os.path.abspath(__file__).partition("/scripts/golden/")[0], "sampling", "scheduler", "testdata")
SD = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
CLASSES = {"pndm": PNDMScheduler, "ddpm": DDPMScheduler, "lms": LMSDiscreteScheduler, "dpm2": KDPM2DiscreteScheduler,
           "dpm2_a": KDPM2AncestralDiscreteScheduler, "dpmpp_sde": DPMSolverSDEScheduler, "dpmpp_2m_sde": DPMSolverMultistepScheduler,
           "dpmpp_3m_sde": DPMSolverMultistepScheduler, "deis": DEISMultistepScheduler, "euler": EulerDiscreteScheduler,
           "heun": HeunDiscreteScheduler, "dpmpp_2m": DPMSolverMultistepScheduler, "unipc": UniPCMultistepScheduler, "ddim": DDIMScheduler,
           "euler_a": EulerAncestralDiscreteScheduler, "dpmpp_3m": DPMSolverMultistepScheduler, "unipc_bh1": UniPCMultistepScheduler,
           "dpmpp_2m_sde_heun": DPMSolverMultistepScheduler}
OWN = {"dpmpp_2m_sde": dict(algorithm_type="sde-dpmsolver++", solver_order=2), "dpmpp_3m_sde": dict(algorithm_type="sde-dpmsolver++", solver_order=3),
       "dpmpp_3m": dict(solver_order=3), "dpmpp_2m_sde_heun": dict(algorithm_type="sde-dpmsolver++", solver_type="heun"),
       "unipc_bh1": dict(solver_type="bh1")}
SPACED = {"karras": dict(use_karras_sigmas=True), "exponential": dict(use_exponential_sigmas=True), "beta": dict(use_beta_sigmas=True),
          "trailing": dict(timestep_spacing="trailing"), "leading": dict(timestep_spacing="leading"), "linspace": dict(timestep_spacing="linspace")}
torch.set_num_threads(1)
diffusers.logging.set_verbosity_error()
cases, tensors = [], {}


class Increments:
    """A Brownian motion over σ whose increments are drawn as they are asked for: from σ to a middle, and from there on."""

    def __init__(self, generator):
        self.generator, self.half = generator, None

    def __call__(self, a, b):
        z = torch.randn(2, 2, 2, 2, generator=self.generator)
        if self.half is None:
            self.half = (b, z * (a - b).sqrt())
            return z
        middle, moved = self.half
        self.half = None
        return (moved + z * (middle - b).sqrt()) / (a - b).sqrt()


def network(x, t):
    return x * (float(t) / (float(t) + 1))


def ancestral(method, config, steps, g):
    """k-diffusion's formulas in diffusers' levels; returns start, latents and timesteps."""
    sched = EulerDiscreteScheduler.from_config(dict(config))
    sched.set_timesteps(steps)
    sigmas, logs = sched.sigmas.double(), (((1 - sched.alphas_cumprod) / sched.alphas_cumprod) ** 0.5).log().numpy()
    x = torch.randn(2, 2, 2, 2, generator=g) * sched.init_noise_sigma
    at, out, start = [], [], x

    def clean(x, sigma, t):
        at.append(float(t))
        return x - sigma * network((x.double() / (sigma ** 2 + 1) ** 0.5).float(), t)

    x = x.double()
    for i, t in enumerate(sched.timesteps):
        sigma, to = sigmas[i], sigmas[i + 1]
        up = min(to, (to ** 2 * (sigma ** 2 - to ** 2) / sigma ** 2) ** 0.5)
        down = (to ** 2 - up ** 2) ** 0.5
        x0 = clean(x, sigma, t)
        if down == 0 or method == "euler_a":
            x = x + (x - x0) / sigma * (down - sigma)
        else:
            middle = (sigma * down) ** 0.5  # halfway in -log σ
            half = middle / sigma * x + (1 - middle / sigma) * x0
            out.append(half)
            x0 = clean(half, middle, numpy.float32(sched._sigma_to_t(middle.numpy(), logs)))
            x = down / sigma * x + (1 - down / sigma) * x0
        if to > 0 or method == "euler_a":  # diffusers' Euler ancestral draws in the last step, too
            x = x + torch.randn(2, 2, 2, 2, generator=g).double() * up
        out.append(x)
    return start, out, at, float(sched.init_noise_sigma)


def run(method, config, steps=0, spacing="", strength=None, timesteps=None):
    seed = len(cases)
    g = torch.Generator().manual_seed(seed)
    own = {**config, **OWN.get(method, {}), **(SPACED[spacing] if spacing else {})}
    if method == "dpmpp_2s_a" or method == "euler_a" and spacing in ("karras", "exponential", "beta"):
        start, out, at, init = ancestral(method, own, steps, g)
    else:
        sched = CLASSES[method].from_config(own)
        if timesteps is None:
            sched.set_timesteps(steps)
        else:
            sched.set_timesteps(timesteps=timesteps)
        at, init = sched.timesteps, float(sched.init_noise_sigma)
        x = torch.randn(2, 2, 2, 2, generator=g)
        if strength is None:
            x = x * sched.init_noise_sigma
        else:
            image = torch.randn(2, 2, 2, 2, generator=g)
            skip = max(steps - min(int(steps * strength), steps), 0) * sched.order
            at = at[skip:]
            if hasattr(sched, "set_begin_index"):
                sched.set_begin_index(skip)
            x = sched.add_noise(image, x, at[:1].repeat(2))
        start, out = x, []
        if method == "dpmpp_sde":
            sched.noise_sampler = Increments(g)
        more = dict(generator=g) if method in ("ddpm", "dpm2_a", "dpmpp_2m_sde", "dpmpp_3m_sde", "dpmpp_2m_sde_heun", "euler_a",
                                                   "ddim") else {}
        for t in at:
            x = sched.step(network(sched.scale_model_input(x, t), t), t, x, return_dict=False, **more)[0]
            out.append(x)
        at = [float(t) for t in at]
    tensors[f"{seed}"] = torch.stack([start.double()] + [v.double() for v in out]).float()
    cases.append(dict(name=f"{seed}", method=method, config=config, steps=steps, spacing=spacing, strength=strength, timesteps=timesteps,
                      at=at, init_sigma=init))


V = dict(SD, prediction_type="v_prediction")
PUBLISHED = dict(SD, skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False)  # Stable Diffusion 1's
for n in (1, 2, 3, 5, 9):
    run("pndm", PUBLISHED, n)
run("pndm", dict(PUBLISHED, prediction_type="v_prediction"), 6)
run("pndm", dict(PUBLISHED, set_alpha_to_one=True), 6, "trailing")
run("pndm", dict(PUBLISHED, prediction_type="v_prediction"), 7, "linspace")
for n in (4, 5, 8):
    run("pndm", SD, n)
for strength in (0.9, 0.8, 0.5):
    run("pndm", PUBLISHED, 10, strength=strength)
for method in ("ddpm", "lms", "dpm2", "dpm2_a", "dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde", "deis", "dpmpp_2s_a"):
    plain = dict(clip_sample=False) if method == "ddpm" else {}
    for n in (1, 2, 6):
        run(method, dict(SD, **plain), n)
    run(method, dict(SD, steps_offset=1, **plain), 5, "leading")
    run(method, dict(SD, **plain), 5, "trailing")
    if method != "dpmpp_2s_a":
        run(method, dict(V, **plain), 4)
    if method not in ("dpmpp_2s_a", "lms"):  # LMS uses weights of steps that were left out
        run(method, dict(SD, **plain), 5, strength=0.6)
    if method in ("lms", "dpmpp_2m_sde", "deis", "ddpm"):
        run(method, dict(SD, prediction_type="sample", **plain), 4)
    if method != "ddpm":
        for spacing in ("karras", "exponential", "beta"):
            run(method, SD, 5, spacing)
run("ddpm", {}, 5)  # clips
run("ddpm", SD, timesteps=[900, 500, 1])
run("dpmpp_2m_sde", dict(V, rescale_betas_zero_snr=True, timestep_spacing="trailing"), 5)
for method in ("dpmpp_2m_sde", "dpmpp_3m_sde", "deis"):
    run(method, SD, 15)
run("dpmpp_3m_sde", dict(SD, final_sigmas_type="sigma_min"), 15)
run("deis", dict(SD, solver_order=1), 4)
for method in ("euler", "heun", "dpmpp_2m", "unipc"):
    for spacing in ("exponential", "beta", "trailing"):
        run(method, SD, 5, spacing)
run("unipc", dict(SD, final_sigmas_type="sigma_min"), 5, "beta")
run("dpmpp_2m", dict(SD, final_sigmas_type="sigma_min"), 5, "exponential")
for spacing in ("karras", "exponential", "beta", "trailing"):
    run("euler_a", SD, 4, spacing)
run("ddim", dict(SD, clip_sample=False), 4, "trailing")

# The third order, Heun's form and B(h) = h.
THIRD, KEPT = dict(SD, solver_order=3), dict(SD, final_sigmas_type="sigma_min")
for method, config in (("dpmpp_3m", SD), ("unipc", THIRD), ("unipc_bh1", dict(KEPT, solver_order=3)), ("unipc_bh1", KEPT), ("deis", THIRD),
                       ("dpmpp_2m_sde_heun", SD)):  # diffusers' bh1 ends in NaN at a level of 0
    for n in (1, 2, 3, 7, 16):
        run(method, config, n)
    run(method, dict(config, prediction_type="v_prediction"), 5, "karras")
    run(method, config, 9, strength=0.6)
run("dpmpp_2m", dict(SD, solver_type="heun"), 6)
run("dpmpp_3m", KEPT, 16)
run("dpmpp_3m", dict(KEPT, euler_at_final=True, thresholding=True), 16)
run("unipc", dict(KEPT, solver_order=3, lower_order_final=False), 8)
run("unipc_bh1", dict(KEPT, solver_order=1), 4)
run("unipc", dict(THIRD, solver_type="heun"), 5)  # which is not UniPC's: bh2
run("deis", dict(THIRD, solver_type="heun", euler_at_final=True), 16)  # which DEIS does not know

quantiles = numpy.array([0.0, 1e-6, 0.001, 0.1, 1 / 3, 0.5, 0.7, 0.99, 0.99999, 1.0])
tensors["beta.p"] = torch.from_numpy(quantiles)
tensors["beta.x"] = torch.from_numpy(scipy.stats.beta.ppf(quantiles, 0.6, 0.6))
with open(os.path.join(FOLDER, "samplers.json"), "w") as f:
    for c in cases:
        f.write(json.dumps({k: v for k, v in c.items() if v not in (None, "")}) + "\n")
save_file(tensors, os.path.join(FOLDER, "samplers.safetensors"),
          metadata={"torch": torch.__version__, "diffusers": diffusers.__version__, "seed": "the case's number"})
print(len(cases), sum(t.numel() for t in tensors.values()) * 4)
