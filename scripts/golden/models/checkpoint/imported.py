"""Files of weights as openai/consistency_models and openai/guided-diffusion save them, and what their code computes with them, for
models/checkpoint's tests.

    PEERS=FOLDER python scripts/golden/models/checkpoint/imported.py     writes models/checkpoint/testdata/

FOLDER has clones of the repositories; shared/originals.py says which commits. So that files are small, all weights are overlapping views of one
storage, which PyTorch saves as such.
"""
import os
import sys
from collections import OrderedDict

import torch
from safetensors.torch import save_file

ROOT = os.path.abspath(__file__).partition("/scripts/golden/")[0]
sys.path.append(os.path.join(ROOT, "scripts", "golden", "shared"))
import originals  # noqa: E402

OUT = os.path.join(ROOT, "models", "checkpoint", "testdata")
SEED = 20261129
code = originals.load()


def views(net, g):
    """Weights of the size that training leaves behind, as views of one storage, in float16."""
    most = max(v.numel() for v in net.state_dict().values())
    base = (torch.randn(most + 99, generator=g) * 0.08).half()
    out = OrderedDict((name, base[i % 97:][:v.numel()].view(v.shape)) for i, (name, v) in enumerate(net.state_dict().items()))
    net.load_state_dict(out)
    return out


def network(module, **changes):
    return module.UNetModel(**(dict(image_size=8, in_channels=3, model_channels=32, out_channels=3, num_res_blocks=1, attention_resolutions=(1,),
                                    channel_mult=(1,), num_classes=9, num_head_channels=16, use_scale_shift_norm=True, resblock_updown=True) | changes)).eval()


def write(name, tensors):
    path = os.path.join(OUT, name + ".safetensors")
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata={"torch": torch.__version__, "seed": str(SEED)})
    print(os.path.relpath(path, ROOT), os.path.getsize(path))


def save(name, value):
    path = os.path.join(OUT, name)
    torch.save(value, path)
    print(os.path.relpath(path, ROOT), os.path.getsize(path))


def main():
    os.makedirs(OUT, exist_ok=True)
    g = torch.Generator().manual_seed(SEED)
    net = network(code.consistency)
    state = views(net, g)
    save("consistency.pt", state)
    z, sigma, y = torch.randn(3, 3, 8, 8, generator=g), torch.tensor([0.002, 0.7, 80.0]), torch.tensor([0, 8, 1])
    x = z * (sigma ** 2 + 0.25).sqrt().view(-1, 1, 1, 1)
    out = {"x": x, "sigma": sigma, "class": y}
    for key, distillation in (("denoised", False), ("origin", True)):
        diffusion = code.karras.KarrasDenoiser(sigma_data=0.5, sigma_max=80.0, sigma_min=0.002, distillation=distillation, loss_norm="l2")
        out[key] = diffusion.denoise(net, x, sigma, y=y)[1]
    write("consistency", out)

    net = network(code.guided, out_channels=6)
    save("guided.pt", views(net, g))
    t = torch.tensor([0, 500, 990])
    out = {"t": t, "class": y}
    for schedule in ("linear", "cosine"):
        gd = code.gaussian
        diffusion = gd.GaussianDiffusion(betas=gd.get_named_beta_schedule(schedule, 1000), model_mean_type=gd.ModelMeanType.EPSILON,
                                         model_var_type=gd.ModelVarType.LEARNED_RANGE, loss_type=gd.LossType.MSE)
        x = diffusion.q_sample(0.5 * z, t, torch.randn(z.shape, generator=g))
        scale = torch.from_numpy(1 / diffusion.sqrt_alphas_cumprod[t.numpy()]).float().view(-1, 1, 1, 1)
        out["x." + schedule] = x * scale  # in the coordinates of x_0 plus noise
        out["sigma." + schedule] = torch.from_numpy(((1 - diffusion.alphas_cumprod) / diffusion.alphas_cumprod)[t.numpy()] ** 0.5)
        out["denoised." + schedule] = diffusion.p_mean_variance(net, x, t, clip_denoised=False, model_kwargs={"y": y})["pred_xstart"]
    write("guided", out)

    # A checkpoint of training with both sets of weights.
    both = {"model": state, "ema": state | {"out.2.bias": state["out.2.bias"] + 1}, "step": 3}
    save("both.pt", both)


if __name__ == "__main__":
    with torch.no_grad():
        main()
