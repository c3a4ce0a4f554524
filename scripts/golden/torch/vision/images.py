"""Small pictures in every format and colour model, for the tests of torch/vision and training/dataset.

    python scripts/golden/torch/vision/images.py            writes torch/vision/testdata/ and training/dataset/testdata/

quadrants/: 16x16, top red and green, bottom blue and transparent (white where there is no transparency), as each format
stores it; orient/: the same, turned, with the EXIF orientation that turns it back (checked here with Pillow's own);
chroma/: a picture with colour at half the resolution, and what Pillow decodes;
square/: a picture and what Pillow's BICUBIC, a Catmull-Rom kernel that widens when it shrinks, makes of its middle.
"""
import os
import random

import PIL
from PIL import Image, ImageDraw, ImageOps

ROOT = os.path.abspath(__file__).partition("/scripts/golden/")[0]
SETS = os.path.join(ROOT, "training", "dataset", "testdata")
OUT = os.path.join(ROOT, "torch", "vision", "testdata")
os.makedirs(SETS, exist_ok=True)
os.makedirs(os.path.join(OUT, "quadrants"), exist_ok=True)
os.makedirs(os.path.join(OUT, "orient"), exist_ok=True)

image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
draw = ImageDraw.Draw(image)
draw.rectangle((0, 0, 7, 7), (255, 0, 0, 255))
draw.rectangle((8, 0, 15, 7), (0, 255, 0, 255))
draw.rectangle((0, 8, 7, 15), (0, 0, 255, 255))
white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def save(name, image, **kwargs):
    image.save(os.path.join(OUT, name), **kwargs)


q = "quadrants/"
save(q + "rgba.png", image)
save(q + "rgb.png", white)
save(q + "palette.png", white.quantize(8))
save(q + "palette_alpha.png", image.quantize(8))
save(q + "grey.png", white.convert("L"))
save(q + "grey_alpha.png", image.convert("LA"))
save(q + "grey_16.png", white.convert("L").convert("I").point(lambda v: v * 257).convert("I;16"))
save(q + "bits_1.png", white.convert("L").point(lambda v: 255 * (v > 100)).convert("1"))
save(q + "rgb.jpg", white, quality=95, subsampling=0)
save(q + "progressive.jpg", white, quality=95, subsampling=2, progressive=True)
save(q + "grey.jpg", white.convert("L"), quality=95)
save(q + "cmyk.jpg", white.convert("CMYK"), quality=95)
save(q + "alpha.gif", image)
save(q + "alpha_lossless.webp", image, lossless=True)
save(q + "alpha_lossy.webp", image, quality=95)
save(q + "lossy.webp", white, quality=95)
save(q + "rgb.bmp", white)

for o, turn in enumerate([None, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM,
                          Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_90, Image.Transpose.TRANSVERSE,
                          Image.Transpose.ROTATE_270], 1):
    wide = white.resize((32, 16), Image.Resampling.NEAREST)
    stored = wide if turn is None else wide.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = o
    save(f"orient/{o}.jpg", stored, quality=95, subsampling=0, exif=exif)
    if o > 1:
        save(f"orient/{o}.png", stored, exif=exif)
        save(f"orient/{o}.webp", stored, lossless=True, exif=exif)
    back = ImageOps.exif_transpose(Image.open(os.path.join(OUT, f"orient/{o}.jpg")))
    assert back.size == wide.size and max(abs(a - b) for p, r in zip(back.getdata(), wide.getdata()) for a, b in zip(p, r)) < 40, o

random.seed(3)
picture = Image.new("RGB", (60, 45), (250, 240, 200))
draw = ImageDraw.Draw(picture)
for _ in range(24):
    x, y, r = random.randrange(60), random.randrange(45), random.randrange(2, 12)
    draw.ellipse((x - r, y - r, x + r, y + r), tuple(random.randrange(256) for _ in range(3)))
os.makedirs(os.path.join(OUT, "square"), exist_ok=True)
picture.save(os.path.join(OUT, "square/from.png"), optimize=True)
middle = picture.crop((7, 0, 52, 45))
for side in (13, 32, 64):
    # In floats: with bytes Pillow clips between its two passes, and where that clips an overshoot it is not this kernel.
    planes = [c.convert("F").resize((side, side), Image.Resampling.BICUBIC) for c in middle.split()]
    planes = [c.point(lambda v: v * 1 + 0.5).convert("L") for c in planes]
    Image.merge("RGB", planes).save(os.path.join(OUT, f"square/{side}.png"), optimize=True)
os.makedirs(os.path.join(OUT, "chroma"), exist_ok=True)
for name, size, kwargs in (("420.jpg", (31, 21), dict(quality=90, subsampling=2)), ("422.jpg", (31, 21), dict(quality=90, subsampling=1)),
                           ("420_even.jpg", (32, 32), dict(quality=90, subsampling=2)), ("lossy.webp", (31, 21), dict(quality=90))):
    save("chroma/" + name, picture.crop((5, 5, 5 + size[0], 5 + size[1])), **kwargs)
    save("chroma/" + name + ".png", Image.open(os.path.join(OUT, "chroma", name)).convert("RGB"), optimize=True)
os.makedirs(os.path.join(OUT, "animated"), exist_ok=True)
for name, kwargs in (("lossy", dict(quality=90)), ("lossless", dict(lossless=True)), ("alpha", dict(quality=90))):
    frames = [image if name == "alpha" else white, Image.new("RGBA" if name == "alpha" else "RGB", (16, 16), "black")]
    save(f"animated/{name}.webp", frames[0], save_all=True, append_images=frames[1:], duration=100, **kwargs)
    shown = Image.open(os.path.join(OUT, f"animated/{name}.webp"))
    assert shown.n_frames == 2
    save(f"animated/{name}.png", shown.convert("RGBA"))
print("Pillow", PIL.__version__)
