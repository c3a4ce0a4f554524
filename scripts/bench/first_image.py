"""The peer's side of "start to first image": load the benchmark network, generate one image in one step, write a PNG.

    python first_image.py PEERS WEIGHTS.pt OUT.png      timed from outside, as a whole process
    python first_image.py PEERS WEIGHTS.pt --save       writes the weights
"""
import sys

import torch

sys.path.insert(0, sys.argv[1])
from edm_unet import build  # noqa: E402

torch.set_num_threads(2)
torch.manual_seed(1)
if sys.argv[3] == "--save":
    torch.save(build("cifar", "eager")[0].state_dict(), sys.argv[2])
else:
    from PIL import Image

    net, model, _, side, ch = build("cifar", "eager")
    net.load_state_dict(torch.load(sys.argv[2], weights_only=True))
    net.eval()
    with torch.inference_mode():
        x = model(torch.randn(1, ch, side, side) * 80, torch.full((1,), 80.0)).clamp(-1, 1)
    pixels = x[0].add(1).mul(127.5).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(sys.argv[3])
