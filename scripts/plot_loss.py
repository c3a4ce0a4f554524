"""The loss of a training run, smoothed, as a picture: plot_loss.py RUN/stats.jsonl OUT.png

Needs Pillow (scripts/requirements-dev.txt). The curves in docs/results were drawn by it.
"""
import json
import math
import sys

from PIL import Image, ImageDraw

WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM, MARGIN = 640, 300, 50, 25, 30, 15


def round_step(span, parts):
    """The roundest step that divides span into at most that many parts."""
    step = 10.0 ** math.floor(math.log10(span / parts))
    for factor in (1, 2, 5, 10):
        if span / (step * factor) <= parts:
            return step * factor
    raise ValueError(span)


def ticks(low, high, parts):
    """The multiples of a round step from low to high."""
    step = round_step(high - low, parts)
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def main():
    with open(sys.argv[1]) as f:
        rows = [json.loads(line) for line in f]
    rows = [r for r in rows if "loss" in r]
    steps, losses = [r["step"] for r in rows], [r["loss"] for r in rows]
    window = max(1, len(losses) // 50)
    smooth = []
    for i in range(len(losses)):
        part = losses[max(0, i - window) : i + 1]
        smooth.append(sum(part) / len(part))
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    low, top = min(0, min(smooth) * 1.05), max(0, max(smooth) * 1.05)

    def x(step):
        return LEFT + (WIDTH - LEFT - RIGHT) * step / steps[-1]

    def y(loss):
        return MARGIN + (HEIGHT - BOTTOM - MARGIN) * (1 - (loss - low) / (top - low))

    for v in ticks(low, top, 6):
        draw.line([(LEFT, y(v)), (WIDTH - RIGHT, y(v))], fill=(225, 225, 225))
        draw.text((8, y(v) - 6), f"{v:.4g}", fill="black")
    for v in ticks(0, steps[-1], 8):
        draw.text((x(v) - 10, HEIGHT - BOTTOM + 8), f"{v:.6g}", fill="black")
        draw.line([(x(v), HEIGHT - BOTTOM), (x(v), HEIGHT - BOTTOM + 4)], fill="black")
    draw.line([(x(a), y(b)) for a, b in zip(steps, smooth)], fill=(30, 90, 200), width=2)
    draw.line([(LEFT, MARGIN), (LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, HEIGHT - BOTTOM)], fill="black")
    image.save(sys.argv[2])


if __name__ == "__main__":
    main()
