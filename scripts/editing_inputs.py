"""Makes the input images of docs/editing.md from the embedded emoji: python scripts/editing_inputs.py

It needs Pillow and NumPy. The face is Noto's "grinning face" (Apache-2.0, Google; see NOTICE), as in the data of the built-in model.
"""
import json
import os

import numpy as np
from PIL import Image, ImageDraw

ROOT = os.path.join(os.path.dirname(__file__), "..")
EMOJI, OUT = os.path.join(ROOT, "training", "dataset", "emoji"), os.path.join(ROOT, "docs", "editing")
SIDE, SIGMA = 32, 0.4

with open(os.path.join(EMOJI, "index.json")) as f:
    index = json.load(f)
atlas = Image.open(os.path.join(EMOJI, "atlas.webp")).convert("RGB")


def emoji(name):
    y, x = divmod(index["names"].index(name), index["columns"])
    return atlas.crop((x * SIDE, y * SIDE, (x + 1) * SIDE, (y + 1) * SIDE))


def save(image, name):
    image.save(os.path.join(OUT, name), optimize=True)


face = emoji("grinning face")
save(face, "face.png")
save(emoji("smiling face with heart-shaped eyes"), "hearts.png")
save(face.convert("L"), "grey.png")
save(face.resize((8, 8), Image.BOX), "small.png")
mask = Image.new("L", (SIDE, SIDE), 0)
ImageDraw.Draw(mask).rectangle([0, 17, SIDE, SIDE], fill=255)
save(mask, "mask.png")
pixels = np.asarray(face, np.float64)
noisy = pixels + np.random.default_rng(1).normal(0, SIGMA * 127.5, pixels.shape)
save(Image.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8)), "noisy.png")
painting = Image.new("RGB", (SIDE, SIDE), "white")
draw = ImageDraw.Draw(painting)
draw.ellipse([3, 3, 28, 28], fill=(252, 190, 30))
for box in [9, 10, 12, 15], [19, 10, 22, 15], [9, 20, 22, 24]:
    draw.rectangle(box, fill=(90, 50, 10))
save(painting, "painting.png")
