"""Makes the embedded emoji set: python scripts/make_emoji.py noto-64.tar.gz

The archive is a WebDataset shard of Noto emoji (Apache-2.0, Google) at 64x64 with alpha, with names and groups from
emoji-datasource (MIT). Each is composited on white, averaged down to 32x32, and put into one lossless WebP atlas of 44
columns, in the archive's order: training/dataset/emoji/atlas.webp. Names and groups go into index.json.
"""
import io
import json
import os
import sys
import tarfile

import numpy as np
from PIL import Image

COLUMNS, SIDE = 44, 32
members = {}
with tarfile.open(sys.argv[1]) as tar:
    for m in tar:
        stem, ext = m.name.split(".", 1)
        members.setdefault(stem, {})[ext] = tar.extractfile(m).read()
keys = sorted(members)
rows = -(-len(keys) // COLUMNS)
atlas = np.full((rows * SIDE, COLUMNS * SIDE, 3), 255, np.uint8)
groups, names, labels = [], [], []
for i, key in enumerate(keys):
    rgba = np.asarray(Image.open(io.BytesIO(members[key]["png"])).convert("RGBA"), np.float64)
    rgb = rgba[..., :3] * rgba[..., 3:] / 255 + 255 - rgba[..., 3:]
    rgb = rgb.reshape(SIDE, 2, SIDE, 2, 3).mean((1, 3))
    y, x = divmod(i, COLUMNS)
    atlas[y * SIDE:(y + 1) * SIDE, x * SIDE:(x + 1) * SIDE] = np.rint(rgb)
    info = json.loads(members[key]["json"])
    if info["group"] not in groups:
        groups.append(info["group"])
    names.append(info["name"])
    labels.append(groups.index(info["group"]))
folder = os.path.join(os.path.dirname(__file__), "..", "training", "dataset", "emoji")
Image.fromarray(atlas).save(os.path.join(folder, "atlas.webp"), lossless=True, quality=100, method=6)
with open(os.path.join(folder, "index.json"), "w") as f:
    json.dump({"side": SIDE, "columns": COLUMNS, "groups": groups, "labels": labels, "names": names}, f, separators=(",", ":"))
    f.write("\n")
print(len(keys), "emoji,", {n: os.path.getsize(os.path.join(folder, n)) for n in ("atlas.webp", "index.json")})
