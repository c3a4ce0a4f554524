"""Images of diffusers' unconditional and class-conditional pipelines, for sampling/generate's tests.

    python scripts/golden/sampling/generate/pipelines.py      writes sampling/generate/testdata/pipelines.safetensors

The networks are tiny UNet2DModels. Their weights are not stored: the metadata lists names and shapes, and both sides draw them in that order from
one stream. Stored are the images of each case, [2, 3, 8, 8] from 0 to 1, of the generators with the seeds 5 and 6.
"""
import json
import math
import os

import diffusers
import torch
from diffusers import CMStochasticIterativeScheduler, ConsistencyModelPipeline, DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from safetensors.torch import save_file

SEED = 20261129
OUT = os.path.join(os.path.abspath(__file__).partition("/scripts/golden/")[0], "sampling", "generate", "testdata", "pipelines.safetensors")
NETS = {
    "adm": dict(sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attn_norm_num_groups=4, attention_head_dim=8,
                down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
                downsample_type="resnet", upsample_type="resnet", resnet_time_scale_shift="scale_shift", num_class_embeds=3),
    "ddpm": dict(sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=None, norm_eps=1e-6,
                 down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"), downsample_padding=0,
                 flip_sin_to_cos=False, freq_shift=1),
}
CM = [dict(), dict(num_inference_steps=2), dict(timesteps=[22, 0]), dict(timesteps=[33, 17, 9, 0]), dict(num_inference_steps=6, config=dict(num_train_timesteps=6)),
      dict(config=dict(num_train_timesteps=151, sigma_max=40.0, sigma_data=1.0, clip_denoised=False), timesteps=[67, 0])]
DDPM = [
    dict(steps=8), dict(steps=6, config=dict(variance_type="fixed_large", timestep_spacing="trailing")),
    dict(steps=6, config=dict(variance_type="fixed_small_log", timestep_spacing="linspace", clip_sample=False)),
    dict(steps=20, config=dict(num_train_timesteps=20, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")),
    dict(steps=5, config=dict(prediction_type="sample", thresholding=True, sample_max_value=2.0)),
    dict(steps=10, config=dict(num_train_timesteps=10, trained_betas=[0.01 * (i + 1) for i in range(10)], clip_sample_range=0.8)),
]
DDIM = [
    dict(steps=8), dict(steps=8, eta=1.0), dict(steps=7, eta=0.5, config=dict(timestep_spacing="trailing")),
    dict(steps=7, config=dict(timestep_spacing="linspace", clip_sample=False)), dict(steps=5, config=dict(set_alpha_to_one=False, steps_offset=1)),
    dict(steps=6, config=dict(rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing")),
    dict(steps=8, config=dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012), eta=1.0),
]


def draw(name, shape, g):
    """Values of the size that training leaves behind. drawn in pipelines_test.go does the same."""
    v = torch.randn(shape, generator=g)
    if len(shape) > 1:
        return v / math.sqrt(math.prod(shape[1:]))
    return v * 0.1 + 1 if name.endswith("weight") else v * 0.1


def generators():
    return [torch.Generator().manual_seed(s) for s in (5, 6)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    diffusers.logging.set_verbosity_error()
    nets, layouts, configs = {}, {}, {}
    for name, kwargs in NETS.items():
        net = UNet2DModel(**kwargs).eval()
        g = torch.Generator().manual_seed(SEED)
        weights = {k: draw(k, tuple(v.shape), g) for k, v in net.state_dict().items()}
        net.load_state_dict(weights)
        nets[name] = net
        layouts[name] = [[k, list(v.shape)] for k, v in weights.items()]
        configs[name] = {k: v for k, v in net.config.items() if not k.startswith("_")} | {"_class_name": "UNet2DModel"}
    out, cases = {}, []

    def add(kind, net, scheduler, images, **case):
        config = {k: v for k, v in scheduler.config.items() if k != "_use_default_values"}
        cases.append(dict(kind=kind, net=net, scheduler=config | {"_class_name": type(scheduler).__name__}, **case))
        out[str(len(cases) - 1)] = images.contiguous()

    for case in CM:
        scheduler = CMStochasticIterativeScheduler(**case.pop("config", {}))
        pipe = ConsistencyModelPipeline(nets["adm"], scheduler)
        pipe.set_progress_bar_config(disable=True)
        images = pipe(batch_size=2, class_labels=[2, 0], generator=generators(), output_type="pt", **case).images
        add("cm", "adm", scheduler, images, steps=case.get("num_inference_steps", 0), timesteps=case.get("timesteps"))
    for kind, pipeline, cls, all_cases in (("ddpm", DDPMPipeline, DDPMScheduler, DDPM), ("ddim", DDIMPipeline, DDIMScheduler, DDIM)):
        for case in all_cases:
            scheduler = cls(**case.get("config", {}))
            pipe = pipeline(nets["ddpm"], scheduler)
            pipe.set_progress_bar_config(disable=True)
            more = dict(eta=case["eta"]) if "eta" in case else {}
            images = pipe(batch_size=2, generator=generators(), num_inference_steps=case["steps"], output_type="pt", **more).images
            add(kind, "ddpm", pipe.scheduler, torch.as_tensor(images), steps=case["steps"], eta=case.get("eta", 0.0))
    meta = {"torch": torch.__version__, "diffusers": diffusers.__version__, "seed": str(SEED), "cases": json.dumps(cases),
            "configs": json.dumps(configs), "weights": json.dumps(layouts)}
    os.makedirs(os.path.dirname(OUT), exist_ok=True)
    save_file(out, OUT, metadata=meta)
    print(OUT, os.path.getsize(OUT))
