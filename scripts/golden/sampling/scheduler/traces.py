"""Traces of diffusers' schedulers, for sampling/scheduler/golden_test.go:

    python scripts/golden/sampling/scheduler/traces.py     writes sampling/scheduler/testdata/traces.{json,safetensors}

A case starts from the noise of a generator with its seed, [2, 2, 2, 2] times the scheduler's init_noise_sigma, or adds it to an image
(the second draw) where it has a strength; the "network" returns its input times t/(t+1), in the latents' type; schedulers draw from
the same generator. Stored are the timesteps, and the latents before and after each step, all cases' below each other in one tensor, since a
name for each would take more room than its numbers.
"""
import json
import os
import sys

import diffusers
import torch
from diffusers import (DDIMScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler, EulerDiscreteScheduler,
                       HeunDiscreteScheduler, LCMScheduler, TCDScheduler, UniPCMultistepScheduler)
from safetensors.torch import save_file

FOLDER = os.path.join(os.path.abspath(__file__).partition("/scripts/golden/")[0], "sampling", "scheduler", "testdata")
SD = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
CLASSES = {"lcm": LCMScheduler, "tcd": TCDScheduler, "ddim": DDIMScheduler, "euler": EulerDiscreteScheduler,
           "euler_a": EulerAncestralDiscreteScheduler, "heun": HeunDiscreteScheduler, "dpmpp_2m": DPMSolverMultistepScheduler,
           "unipc": UniPCMultistepScheduler}
torch.set_num_threads(1)
diffusers.logging.set_verbosity_error()
for c in CLASSES.values():  # PyTorch 2.11 draws other numbers in half precision than in float32; 2.15 and we round float32's
    sys.modules[c.__module__].randn_tensor = lambda shape, generator, device=None, dtype=None: torch.randn(shape, generator=generator).to(dtype)
cases, latents = [], []


def run(method, config, steps=0, eta=None, timesteps=None, original=None, strength=None, shorten=False, dtype="float32"):
    sched = CLASSES[method].from_config(dict(config))
    kind = getattr(torch, dtype)
    seed = len(cases)
    g = torch.Generator().manual_seed(seed)
    extra = {} if original is None else dict(original_inference_steps=original)
    if timesteps is None:
        sched.set_timesteps(steps, **extra, **(dict(strength=strength) if shorten else {}))
    else:
        sched.set_timesteps(timesteps=timesteps, **extra)
    at = sched.timesteps
    noise = torch.randn(2, 2, 2, 2, generator=g).to(kind)
    if strength is None:
        x = noise * sched.init_noise_sigma
    else:
        image = torch.randn(2, 2, 2, 2, generator=g).to(kind)
        if not shorten:  # StableDiffusionImg2ImgPipeline.get_timesteps
            n = steps or len(timesteps)
            skip = max(n - min(int(n * strength), n), 0) * sched.order
            at = at[skip:]
            if hasattr(sched, "set_begin_index"):
                sched.set_begin_index(skip)
        x = sched.add_noise(image, noise, at[:1].repeat(2))
    start, out = x, []
    for t in at:
        inp = sched.scale_model_input(x, t)
        more = {} if method in ("heun", "dpmpp_2m", "unipc") else dict(generator=g)
        if eta is not None:
            more["eta"] = eta
        x = sched.step(inp * (float(t) / (float(t) + 1)), t, x, return_dict=False, **more)[0]
        out.append(x)
    name = f"{seed}"
    latents.append(torch.stack([start] + out).float())
    cases.append(dict(name=name, method=method, config={k: v for k, v in config.items()}, steps=steps, eta=eta, timesteps=timesteps,
                      original=original, strength=strength, shorten=shorten, dtype=dtype, at=[float(t) for t in at],
                      init_sigma=float(sched.init_noise_sigma)))


for n in (1, 2, 3, 4, 5, 6, 7, 8):
    run("lcm", SD, n)
run("lcm", {}, 4)
run("lcm", dict(SD, prediction_type="v_prediction", rescale_betas_zero_snr=True), 4)
run("lcm", dict(SD, prediction_type="sample", timestep_scaling=3.0), 2)
run("lcm", dict(SD, beta_schedule="linear", clip_sample=True, clip_sample_range=0.7), 3)
run("lcm", dict(SD, beta_schedule="squaredcos_cap_v2", thresholding=True, sample_max_value=1.2, dynamic_thresholding_ratio=0.8), 3)
run("lcm", dict(trained_betas=[0.001 + 0.00001 * i for i in range(1000)]), 2)
run("lcm", SD, 4, original=100)
run("lcm", SD, timesteps=[999, 749, 499, 249])
run("lcm", SD, timesteps=[399])
run("lcm", SD, 4, strength=0.5, shorten=True)
run("lcm", SD, 4, strength=0.5)
run("lcm", SD, 7, strength=0.3)
run("lcm", SD, 7, strength=0.3, shorten=True)
for dtype in ("bfloat16", "float16"):
    run("lcm", SD, 4, dtype=dtype)
    run("euler_a", SD, 4, dtype=dtype)
    run("dpmpp_2m", SD, 4, dtype=dtype)
    run("ddim", SD, 4, dtype=dtype, strength=0.6)
for eta in (0.0, 0.3, 1.0):
    run("tcd", SD, 4, eta=eta)
run("tcd", dict(SD, prediction_type="v_prediction"), 3, eta=0.3)
run("tcd", dict(SD, prediction_type="sample"), 3, eta=0.5)
run("tcd", SD, timesteps=[800], eta=1.0)
run("tcd", SD, 4, eta=0.3, strength=0.6)
SPACINGS = ("leading", "trailing", "linspace")
for spacing in SPACINGS:
    for n in (1, 4, 10):
        run("ddim", dict(SD, timestep_spacing=spacing, clip_sample=False, steps_offset=int(spacing == "leading")), n)
run("ddim", {}, 10, eta=0.7)
run("ddim", dict(SD, set_alpha_to_one=False, prediction_type="v_prediction", clip_sample=False), 5, eta=1.0)
run("ddim", dict(SD, prediction_type="sample", clip_sample=False), 5)
run("ddim", dict(SD, prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False), 6)
run("ddim", dict(SD, thresholding=True, clip_sample=False), 5)
for method in ("euler", "euler_a", "heun", "dpmpp_2m", "unipc"):
    for spacing in SPACINGS:
        for n in (1, 2, 4, 9):
            run(method, dict(SD, timestep_spacing=spacing, steps_offset=int(spacing == "leading")), n)
    run(method, {}, 5)
    run(method, dict(SD, prediction_type="v_prediction"), 5)
    if method != "euler_a":  # the class does not know it
        run(method, dict(SD, prediction_type="sample"), 5)
    run(method, SD, 10, strength=0.45)
    if method != "heun":
        run(method, dict(SD, prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"), 6)
    if method != "euler_a":
        run(method, dict(SD, use_karras_sigmas=True), 1)
        run(method, dict(SD, use_karras_sigmas=True), 6)
        run(method, dict(SD, use_karras_sigmas=True, timestep_spacing="leading", steps_offset=1), 6, strength=0.5)
    if method not in ("euler_a", "heun"):
        run(method, dict(SD, final_sigmas_type="sigma_min"), 5)
    if method in ("euler", "dpmpp_2m", "heun"):
        run(method, SD, timesteps=[900, 500, 250, 1])
for method in ("dpmpp_2m", "unipc"):
    run(method, dict(SD, solver_order=1), 5)
    if method == "dpmpp_2m":  # UniPC divides by zero in its last step then
        run(method, dict(SD, lower_order_final=False), 6)
    run(method, dict(SD, thresholding=True), 6)
    run(method, SD, 20)
run("dpmpp_2m", dict(SD, euler_at_final=True, final_sigmas_type="sigma_min"), 20)
run("heun", dict(SD, clip_sample=True), 5)
for method in ("dpmpp_2m", "unipc"):  # of cosines, diffusers' own search for the first step fails but where a strength says which it is
    run(method, dict(beta_schedule="squaredcos_cap_v2", use_karras_sigmas=True), 6, strength=0.7)
    for n in (1, 16):
        run(method, dict(SD, final_sigmas_type="sigma_min", use_karras_sigmas=True), n)
OTHERS = dict(clip_sample=True, thresholding=True, final_sigmas_type="sigma_min", set_alpha_to_one=False, solver_order=1,
              rescale_betas_zero_snr=True, prediction_type="v_prediction", original_inference_steps=20, timestep_scaling=5.0)
for method in CLASSES:  # which of them a class does not know, and ignores
    run(method, dict(SD, **OTHERS), 4, eta=0.3 if method == "tcd" else None)
for n in (14, 16):  # few steps end in the first order
    run("dpmpp_2m", dict(SD, final_sigmas_type="sigma_min"), n)
run("ddim", dict(SD, clip_sample=False, timestep_spacing="trailing"), 7)  # 7 does not divide 1000: the last step ends at timestep 0

alphas = [SD, dict(beta_schedule="linear", beta_start=0.0001, beta_end=0.02), dict(beta_schedule="squaredcos_cap_v2"),
          dict(SD, rescale_betas_zero_snr=True, prediction_type="v_prediction")]
tensors = {"latents": torch.cat(latents), "alphas": torch.stack([LCMScheduler(**config).alphas_cumprod for config in alphas])}

os.makedirs(FOLDER, exist_ok=True)
with open(os.path.join(FOLDER, "traces.json"), "w") as f:
    for c in cases:
        f.write(json.dumps(c) + "\n")
save_file(tensors, os.path.join(FOLDER, "traces.safetensors"),
          metadata={"torch": torch.__version__, "diffusers": diffusers.__version__})
print(len(cases), sum(t.numel() for t in tensors.values()) * 4)
