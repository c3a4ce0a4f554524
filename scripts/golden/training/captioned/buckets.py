"""Aspect-ratio buckets of training/captioned/testdata/buckets.json, from the rule that kohya's sd-scripts publish.

Table: the square whose side is the root of the resolution's area, rounded down to a step; and for each width from the least to the
greatest side the greatest height that keeps the area and the greatest side, if it is not below the least; each also turned.
Assignment: the bucket of the image's own size, else the one whose aspect ratio differs least, the first in ascending order of those that tie; the image is
scaled to cover it. Without enlarging: an image above the area is scaled to the area, with the side rounded down to a step that changes the
aspect ratio less, and the bucket is what is left of both sides in whole steps.

Plain Python with IEEE doubles, as the scripts compute; random sizes from random.Random(16).
"""

import json
import math
import pathlib
import random
import sys

OUT = pathlib.Path(__file__).parents[4] / "training/captioned/testdata/buckets.json"


def steps(value, step):
    return step * math.floor(value / step)


def table(width, height, least, most, step):
    area = width * height
    widths = range(least, most + 1, step)
    landscape = {(w, min(most, steps(area // w, step))) for w in widths}
    kept = {(w, h) for w, h in landscape if h >= least}
    side = steps(math.sqrt(area), step)
    return sorted(kept | {(h, w) for w, h in kept} | {(side, side)})


def nearest(x):
    return math.floor(x + 0.5)


def enlarging(buckets, w, h):
    ratio = w / h
    if (w, h) in buckets:
        bw, bh = w, h
    else:
        bw, bh = min(buckets, key=lambda b: abs(b[0] / b[1] - ratio))
    scale = bh / h if ratio > bw / bh else bw / w
    return [bw, bh, nearest(w * scale), nearest(h * scale)]


def shrinking(area, step, w, h):
    ratio = w / h
    if w * h > area:
        across = math.sqrt(area * ratio)
        down = area / across
        w1 = steps(nearest(across), step)
        h1 = steps(nearest(w1 / ratio), step)
        h2 = steps(nearest(down), step)
        w2 = steps(nearest(h2 * ratio), step)
        if abs(w1 / h1 - ratio) < abs(w2 / h2 - ratio):
            w, h = w1, nearest(w1 / ratio)
        else:
            w, h = nearest(h2 * ratio), h2
    return [steps(w, step), steps(h, step), w, h]


def main():
    draw = random.Random(16)
    cases = []
    for width, height, least, most, step in [
        (512, 512, 256, 1024, 64),
        (768, 512, 320, 960, 64),
        (1024, 1024, 512, 2048, 64),
        (640, 640, 256, 1024, 32),
        (96, 96, 32, 192, 8),
    ]:
        buckets = table(width, height, least, most, step)
        images = [(512, 512), (1920, 1080), (1080, 1920), (4000, 3000), (64, 48), (1024, 256), (width, height)]
        images += [(draw.randrange(step, 3000), draw.randrange(step, 3000)) for _ in range(60)]
        images = [(w, h) for w, h in images if 1 / 6 < w / h < 6 and min(w, h) >= step]
        cases.append({
            "resolution": [width, height], "min": least, "max": most, "step": step, "table": buckets,
            "images": images,
            "enlarging": [enlarging(buckets, w, h) for w, h in images],
            "shrinking": [shrinking(width * height, step, w, h) for w, h in images],
        })
    OUT.write_text(json.dumps({"python": sys.version.split()[0], "seed": 16, "cases": cases}, separators=(",", ":")) + "\n")


main()
