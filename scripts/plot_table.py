"""The curves of the table of methods: plot_table.py docs/results/table-PART.json OUT.png

FD against images seen, for methods that need one evaluation of the network, as scripts/table measures it. Needs matplotlib
(scripts/requirements-dev.txt).
"""
import json
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main():
    with open(sys.argv[1]) as f:
        lines = json.load(f)
    lines = [line for line in lines if line["curve_fd"]]
    figure, axes = plt.subplots(figsize=(9, 5.5), dpi=100)
    for i, line in enumerate(sorted(lines, key=lambda line: line["curve_fd"][-1])):
        seen = line["images_seen"]
        per_step = line["images_of_run"] / line["curve_steps"][-1]
        before = seen - line["images_of_run"]  # those of the teacher or the stage before
        x = [(before + step * per_step) / 1000 for step in line["curve_steps"]]
        axes.plot(x, line["curve_fd"], label=line["name"], color=plt.cm.tab20(i % 20), linestyle="-" if before == 0 else "--", marker=".")
    axes.set_yscale("log")
    axes.set_xlabel("thousand images seen, those of the teacher included")
    axes.set_ylabel("FD of 500 images in one step")
    axes.grid(True, which="both", alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    figure.savefig(sys.argv[2])


if __name__ == "__main__":
    main()
