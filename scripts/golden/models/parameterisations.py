"""What diffusers' schedulers make of noise levels and predictions, for models/ddpm_test.go and models/flow_test.go.

    python scripts/golden/models/parameterisations.py     writes models/testdata/parameterisations.safetensors

Schedulers compute their tables in float32, which leaves four digits of the lowest noise levels. While they do, that name is bound
to float64, so that differences are differences of formulas. The networks' outputs are random numbers, stored beside the rest.
"""
import contextlib
import os

import diffusers
import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from safetensors.torch import save_file

SEED, DOUBLE = 20261128, torch.float64
STEPS = [0, 1, 17, 400, 999]
SIGMAS = [0.001, 0.01, 0.0124, 0.1, 0.7, 1.0, 3.3, 14.6, 80.0, 150.0, 157.0, 500.0, 20000.0]
SHAPE = (len(STEPS), 1, 2, 3)


@contextlib.contextmanager
def doubled():
    float32 = torch.float32
    torch.float32 = DOUBLE
    try:
        yield
    finally:
        torch.float32 = float32


def chains(out):
    """alphas_cumprod, and the step that each of SIGMAS is told as: interpolated, and the nearest in ln sigma."""
    for schedule in ("linear", "scaled_linear", "squaredcos_cap_v2"):
        ends = dict(beta_start=0.00085, beta_end=0.012) if schedule == "scaled_linear" else {}
        for steps in (1000, 20):
            config = dict(num_train_timesteps=steps, beta_schedule=schedule, **ends)
            with doubled():
                bars = DDPMScheduler(**config).alphas_cumprod
                euler = EulerDiscreteScheduler(**config)
            assert bars.dtype == DOUBLE
            name = f"{schedule}.{steps}."
            # Of a long chain every seventh step is enough, and its last.
            out[name + "alphas_cumprod"] = bars if steps < 100 else torch.cat([bars[::7], bars[-1:]])
            logs = np.log((((1 - bars) / bars) ** 0.5).numpy())
            out[name + "index"] = torch.from_numpy(np.array([euler._sigma_to_t(np.array([s]), logs)[0] for s in SIGMAS]))
            nearest = np.abs(np.log(np.array(SIGMAS))[:, None] - logs[None]).argmin(1)
            out[name + "nearest"] = torch.from_numpy(nearest.astype(np.float64))


def predictions(out, x, z, y, net):
    with doubled():
        train = DDPMScheduler()
    steps = torch.tensor(STEPS)
    out["ddpm.noisy"] = train.add_noise(x, z, steps)
    out["ddpm.velocity"] = train.get_velocity(x, z, steps)
    for kind in ("epsilon", "v_prediction", "sample"):
        for cls in (DDIMScheduler, DDPMScheduler):
            with doubled():
                sched = cls(prediction_type=kind, clip_sample=False)
            sched.set_timesteps(1000)
            got = torch.cat([sched.step(net[i:i + 1], step, y[i:i + 1]).pred_original_sample for i, step in enumerate(STEPS)])
            if cls is DDIMScheduler:
                out["ddpm." + kind] = got
            assert torch.allclose(got, out["ddpm." + kind], rtol=1e-12, atol=1e-12)


def flow(out, x, z, y, net):
    for shift in (1.0, 3.0):
        with doubled():
            sched = FlowMatchEulerDiscreteScheduler(shift=shift)
            sched.set_timesteps(len(STEPS))
            name = f"flow.{shift:g}."
            out[name + "sigmas"], out[name + "timesteps"] = sched.sigmas.clone(), sched.timesteps.clone()
            out[name + "noisy"] = sched.scale_noise(x, sched.timesteps, z)
            assert sched.sigmas.dtype == DOUBLE
            # A step to 0 ends at the prediction of x_0.
            ends = []
            for i, tau in enumerate(out[name + "sigmas"][:-1].tolist()):
                sched.set_timesteps(1)
                sched.sigmas, sched.timesteps = torch.tensor([tau, 0.0], dtype=DOUBLE), torch.tensor([1000 * tau], dtype=DOUBLE)
                ends.append(sched.step(net[i:i + 1], sched.timesteps[0], y[i:i + 1]).prev_sample)
            out[name + "x0"] = torch.cat(ends)


if __name__ == "__main__":
    g = torch.Generator().manual_seed(SEED)
    x, z, y, net = (torch.randn(SHAPE, generator=g, dtype=DOUBLE) for _ in range(4))
    out = {"x": x, "z": z, "y": y, "net": net, "sigmas": torch.tensor(SIGMAS, dtype=DOUBLE), "steps": torch.tensor(STEPS)}
    chains(out)
    predictions(out, x, z, y, net)
    flow(out, x, z, y, net)
    path = os.path.join(os.path.abspath(__file__).partition("/scripts/golden/")[0], "models", "testdata", "parameterisations.safetensors")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    save_file({k: v.contiguous() for k, v in out.items()}, path,
              metadata={"torch": torch.__version__, "diffusers": diffusers.__version__, "seed": str(SEED)})
    print(os.path.relpath(path), os.path.getsize(path))
