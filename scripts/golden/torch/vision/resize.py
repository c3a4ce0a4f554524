"""What Pillow's resize makes of an image, for torch/vision: python scripts/golden/torch/vision/resize.py writes PNG files into its testdata/resize."""
import os

import numpy as np
import PIL
from PIL import Image

FOLDER = os.path.join(os.path.abspath(__file__).partition("/scripts/golden/")[0], "torch", "vision", "testdata", "resize")
os.makedirs(FOLDER, exist_ok=True)
rng = np.random.default_rng(1)
y, x = np.mgrid[0:37, 0:53]
picture = np.stack([(x * 5) % 256, (y * 7 + x) % 256, rng.integers(0, 256, x.shape)], -1).astype("uint8")
source = Image.fromarray(picture)
source.save(os.path.join(FOLDER, "source.png"))
for name, f in {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC, "lanczos": Image.LANCZOS}.items():
    for w, h in ((16, 24), (53, 24), (100, 37), (64, 64), (7, 90)):
        source.resize((w, h), resample=f).save(os.path.join(FOLDER, f"{name}_{w}x{h}.png"))
print(PIL.__version__)
