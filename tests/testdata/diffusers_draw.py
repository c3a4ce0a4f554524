"""Draws with diffusers what onestep draws, for tests/diffusers_test.go: diffusers_draw.py CONFIG MODEL OUT.png [MODEL OUT.png]…

A MODEL is a folder of diffusers', or a single file whose configurations are those of the folder CONFIG.
"""
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
import torch  # noqa: E402
from diffusers import LCMScheduler, StableDiffusionPipeline  # noqa: E402
from diffusers.utils import logging  # noqa: E402

logging.set_verbosity_error()
torch.set_num_threads(1)
config, pairs = sys.argv[1], sys.argv[2:]
for model, out in zip(pairs[::2], pairs[1::2]):
    if os.path.isdir(model):
        pipe = StableDiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32, safety_checker=None)
    else:
        pipe = StableDiffusionPipeline.from_single_file(model, config=config, local_files_only=True, torch_dtype=torch.float32,
                                                        safety_checker=None)
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    pipe("a red cat", num_inference_steps=3, guidance_scale=1.0, width=64, height=64,
         generator=torch.Generator().manual_seed(11)).images[0].save(out)
