"""Charts of docs/results/growth.json, as scripts/bench grow writes it: plot_growth.py growth.json OUT-DIR

One chart of time and one of peak memory against batch, resolution, parameters and sampling steps, for onestep and PyTorch, with the time that the
machine's fastest matrix product would take for the same number of operations. Needs matplotlib (scripts/requirements-dev.txt).
"""
import json
import os
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib import ticker

BASE = {"batch": 8, "resolution": 32, "channels": 64}
AXES = [("batch", "images in a batch"), ("resolution", "height and width in pixels"), ("channels", "million parameters"), ("steps", "sampling steps")]


def chosen(points, work, axis):
    """The points of some work that differ from the base in one axis only, by its value."""
    base = dict(BASE, steps=0 if work == "train" else 1)
    return sorted((p for p in points if p["work"] == work and all(p[k] == v for k, v in base.items() if k != axis)), key=lambda p: p[axis])


def main():
    with open(sys.argv[1]) as f:
        got = json.load(f)
    for what, unit, key in (("time", "milliseconds", "ms"), ("memory", "peak MiB", "peak_mib")):
        figure, axes = plt.subplots(1, len(AXES), figsize=(15, 4.2), dpi=100)
        for plot, (axis, label) in zip(axes, AXES):
            for work, color in (("train", "tab:blue"), ("sample", "tab:orange")):
                points = chosen(got["points"], work, axis)
                if work == "train" and axis == "steps":
                    continue
                x = [p["parameters"] / 1e6 if axis == "channels" else p[axis] for p in points]
                name = "a training step" if work == "train" else "sampling"
                plot.plot(x, [p["onestep"][key] for p in points], color=color, marker=".", label=f"{name}, onestep")
                plot.plot(x, [p["pytorch"][key] for p in points], color=color, marker=".", linestyle="--", label=f"{name}, PyTorch")
                if key == "ms":
                    roof = [p["gflop"] / got["roof_gflops"] * 1e3 for p in points]
                    plot.plot(x, roof, color=color, linestyle=":", label=f"{name}, all operations at the rate of matrix products")
            plot.set_xscale("log", base=2)
            plot.set_yscale("log")
            plot.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
            plot.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
            plot.yaxis.set_minor_formatter(ticker.FuncFormatter(lambda y, _: f"{y:g}" if f"{y:e}"[0] in "25" else ""))
            plot.set_xlabel(label)
            plot.grid(True, which="both", alpha=0.3)
        axes[0].set_ylabel(unit)
        figure.tight_layout()
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, fontsize=8, loc="upper center", ncol=3)
        figure.subplots_adjust(top=0.85)
        figure.savefig(os.path.join(sys.argv[2], f"growth-{what}.png"))


if __name__ == "__main__":
    main()
