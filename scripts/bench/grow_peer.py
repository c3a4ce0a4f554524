"""The benchmark network in PyTorch at other sizes, in eager mode and float32: time, peak memory and operations of a training step or of sampling.

    grow_peer.py train|sample --peers DIR [--batch N] [--resolution N] [--channels N] [--steps N] [--runs N] [--threads N]
    grow_peer.py roof --peers DIR [--threads N]       the machine's fastest matrix product, in GFLOP/s
"""
import argparse
import json
import sys

import torch

parser = argparse.ArgumentParser()
parser.add_argument("work", choices=["train", "sample", "roof"])
parser.add_argument("--peers", required=True)
parser.add_argument("--batch", type=int, default=8)
parser.add_argument("--resolution", type=int, default=32)
parser.add_argument("--channels", type=int, default=64)
parser.add_argument("--steps", type=int, default=1)
parser.add_argument("--runs", type=int, default=5)
parser.add_argument("--threads", type=int, default=2)
args = parser.parse_args()
sys.path.insert(0, args.peers)

from common import count_flops, measure, reset_peak_rss, rss_mib, setup  # noqa: E402
from edm_unet import CASES, UNet  # noqa: E402
import edm_unet  # noqa: E402
import unet_sample  # noqa: E402
import unet_train  # noqa: E402

setup(args.threads, 0)


def build(case, variant):
    side = args.resolution
    net = UNet(side=side, channels=args.channels, attention=(side // 2,))
    return net, edm_unet.Denoiser(net), args.batch, side, 3


CASES["grown"] = None
if args.work == "roof":
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    took = measure(lambda: torch.mm(a, b), args.runs * 4, 2, args.threads)
    print(json.dumps({"gflops": 2 * 2048**3 / took["min_s"] / 1e9}))
elif args.work == "train":
    unet_train.build = build
    step = unet_train.Step("grown", "eager", False)
    step()
    reset_peak_rss()
    took = measure(step, args.runs, 1, args.threads)
    print(json.dumps({"ms": took["median_s"] * 1e3, "peak_rss_mib": rss_mib()["peak_rss_mib"], "gflop": count_flops(step) / 1e9,
                      "parameters": sum(p.numel() for p in step.params)}))
else:
    net, model, batch, side, channels = build("grown", "eager")
    net.eval()
    with torch.inference_mode():
        def sample():
            return unet_sample.consistency(model, (batch, channels, side, side), args.steps)

        sample()
        reset_peak_rss()
        took = measure(sample, args.runs, 1, args.threads)
        print(json.dumps({"ms": took["median_s"] * 1e3, "peak_rss_mib": rss_mib()["peak_rss_mib"], "gflop": count_flops(sample) / 1e9,
                          "parameters": sum(p.numel() for p in net.parameters())}))
