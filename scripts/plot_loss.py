"""The loss of a training run, smoothed, as a picture: plot_loss.py RUN/stats.jsonl OUT.png

Needs Pillow (scripts/requirements-dev.txt). The curves in docs/results were drawn by it.
"""
import json
import sys

from PIL import Image, ImageDraw

WIDTH, HEIGHT, LEFT, BOTTOM, MARGIN = 640, 300, 50, 30, 10


def round_step(span, parts):
    """The roundest step that divides span into at most that many parts."""
    step = 1
    while True:
        for factor in (1, 2, 5):
            if span / (step * factor) <= parts:
                return step * factor
        step *= 10


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
    top = max(smooth) * 1.05

    def x(step):
        return LEFT + (WIDTH - LEFT - MARGIN) * step / steps[-1]

    def y(loss):
        return MARGIN + (HEIGHT - BOTTOM - MARGIN) * (1 - loss / top)

    for v in range(0, int(top) + 1, round_step(top, 6)):
        draw.line([(LEFT, y(v)), (WIDTH - MARGIN, y(v))], fill=(225, 225, 225))
        draw.text((10, y(v) - 6), str(v), fill="black")
    for v in range(0, steps[-1] + 1, round_step(steps[-1], 8)):
        draw.text((x(v) - 10, HEIGHT - BOTTOM + 8), str(v), fill="black")
        draw.line([(x(v), HEIGHT - BOTTOM), (x(v), HEIGHT - BOTTOM + 4)], fill="black")
    draw.line([(x(a), y(b)) for a, b in zip(steps, smooth)], fill=(30, 90, 200), width=2)
    draw.line([(LEFT, MARGIN), (LEFT, HEIGHT - BOTTOM), (WIDTH - MARGIN, HEIGHT - BOTTOM)], fill="black")
    image.save(sys.argv[2])


if __name__ == "__main__":
    main()
