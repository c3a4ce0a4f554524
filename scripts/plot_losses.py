"""The losses of several training runs, smoothed, in one chart: plot_losses.py OUT.png RUN/stats.jsonl ...

Needs matplotlib (scripts/requirements-dev.txt).
"""
import json
import os
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main():
    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=100)
    for path in sys.argv[2:]:
        with open(path) as f:
            rows = [r for r in map(json.loads, f) if "loss" in r]
        window = max(1, len(rows) // 40)
        losses = [r["loss"] for r in rows]
        smooth = [sum(losses[max(0, i - window + 1) : i + 1]) / min(window, i + 1) for i in range(len(losses))]
        axes.plot([r["step"] for r in rows], smooth, label=os.path.basename(os.path.dirname(path)), linewidth=1)
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.grid(True, which="both", alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(sys.argv[1])


if __name__ == "__main__":
    main()
