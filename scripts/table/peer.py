"""Easy consistency tuning by its authors' own loss, in PyTorch, on the table's network, data and budget: the table's row to compare ECT with.

    peer.py --code DIR --peers DIR --init MODEL.safetensors --images IDX.gz --labels IDX.gz --steps N --out DIR [--n 2000] [--resume]

--code is a clone of github.com/locuslab/ect (training/loss.py is run as it is, but for the state of CUDA's generator, which it asks for also on a
CPU), --peers the directory of edm_unet.py, --init the teacher as onestep trained it, with classes. Optimizer, learning rate, EMA, gradient
clipping, stages and batches are those of onestep train --method ect. It writes n images of one and of two network evaluations, of all classes in turn.
"""
import argparse
import gzip
import os
import sys
import time

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
import torch.nn.functional as F

parser = argparse.ArgumentParser()
for name in ("code", "peers", "init", "images", "labels", "out"):
    parser.add_argument(f"--{name}", required=True)
parser.add_argument("--steps", type=int, required=True)
parser.add_argument("--batch", type=int, default=64)
parser.add_argument("--lr", type=float, default=0.002)
parser.add_argument("--n", type=int, default=2000)
parser.add_argument("--resume", action="store_true")
args = parser.parse_args()
sys.path[:0] = [args.peers, args.code]

import edm_unet  # noqa: E402
from torch_utils import distributed  # noqa: E402
from training.loss import ECMLoss  # noqa: E402

torch.set_num_threads(1)
torch.manual_seed(1)
torch.cuda.get_rng_state, torch.cuda.set_rng_state = torch.get_rng_state, torch.set_rng_state
distributed.print0 = print
CLASSES, CHANNELS, SIDE = 10, 16, 28


class UNet(edm_unet.UNet):
    """The peers' network with the class embedding that onestep adds to that of the noise level."""

    def __init__(self):
        super().__init__(side=SIDE, in_channels=1, channels=CHANNELS, mult=(1, 2, 4), blocks=1, attention=(7,))
        self.label = nn.Embedding(CLASSES, 4 * CHANNELS)
        self.classes = None
        self.map1.register_forward_hook(lambda _, __, out: out + self.label(self.classes))

    def load(self, path):
        """Loads a snapshot of onestep, whose names are diffusers'."""
        given, state = load_file(path), {"label.weight": "class_embedding.weight", "freqs": None}

        def layer(old, new):
            for part in ("weight", "bias"):
                state[f"{old}.{part}"] = f"{new}.{part}"

        def block(old, new, attention, b):
            for a, c in {"norm1": "norm0", "conv1": "conv0", "time_emb_proj": "affine", "norm2": "norm1", "conv2": "conv1"}.items():
                layer(f"{old}.{c}", f"{new}.{a}")
            if b.skip is not None:
                layer(f"{old}.skip", f"{new}.conv_shortcut")
            if b.attention:
                layer(f"{old}.norm2", f"{attention}.group_norm")
                layer(f"{old}.proj", f"{attention}.to_out.0")
                for part in ("weight", "bias"):
                    given[f"{attention}.qkv.{part}"] = torch.cat([given.pop(f"{attention}.to_{x}.{part}") for x in "qkv"])
                layer(f"{old}.qkv", f"{attention}.qkv")

        layer("map0", "time_embedding.linear_1")
        layer("map1", "time_embedding.linear_2")
        layer("enter", "conv_in")
        layer("out_norm", "conv_norm_out")
        layer("leave", "conv_out")
        for blocks, name, side in ((self.enc, "enc", "down"), (self.dec, "dec", "up")):
            level = at = 0
            for i, b in enumerate(blocks):
                if b.resample:
                    block(f"{name}.{i}", f"{side}_blocks.{level}.{side}samplers.0", None, b)
                    level, at = level + 1, 0
                else:
                    block(f"{name}.{i}", f"{side}_blocks.{level}.resnets.{at}", f"{side}_blocks.{level}.attentions.{at if side == 'down' else 0}", b)
                    at += 1
        block("mid.0", "mid_block.resnets.0", "mid_block.attentions.0", self.mid[0])
        block("mid.1", "mid_block.resnets.1", None, self.mid[1])
        own = self.state_dict()
        self.load_state_dict({old: own[old] if new is None else given.pop(new).reshape(own[old].shape) for old, new in state.items()})
        if given:
            raise SystemExit(f"{path}: tensors that the network lacks: {sorted(given)}")



class Precond(nn.Module):
    """The preconditioning of ECT's networks: f(x, 0) = x."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, sigma, labels, augment_labels=None):
        sigma = sigma.reshape(-1, 1, 1, 1).float()
        total = (sigma**2 + 0.25).sqrt()
        self.net.classes = labels
        return 0.25 / total**2 * x + 0.5 * sigma / total * self.net(x / total, (sigma.clamp_min(1e-9).log() / 4).flatten())


def read(path, header):
    with gzip.open(path) as f:
        return np.frombuffer(f.read(), np.uint8, offset=header)


images = torch.from_numpy(read(args.images, 16).reshape(-1, 1, SIDE, SIDE).copy())
labels = torch.from_numpy(read(args.labels, 8).astype(np.int64))
net = UNet()
net.load(args.init)
f = Precond(net)
average = {k: v.clone() for k, v in net.state_dict().items()}
adam = torch.optim.RAdam(net.parameters(), lr=args.lr)
stages = min(8, max(1, args.steps // 250))
loss = ECMLoss(q=256 ** (1 / stages))
decay = min(0.9999, max(0.9, 1 - 20 / args.steps))
os.makedirs(args.out, exist_ok=True)
saved, begin, order = os.path.join(args.out, "state.pt"), 0, torch.empty(0, dtype=torch.int64)
if args.resume and os.path.exists(saved):
    state = torch.load(saved)
    net.load_state_dict(state["net"])
    adam.load_state_dict(state["adam"])
    average, begin, order = state["average"], state["step"], state["order"]
    torch.set_rng_state(state["rng"])
for step in range(begin, args.steps):
    if len(order) < args.batch:
        order = torch.cat([order, torch.randperm(len(images))])
    now, order = order[: args.batch], order[args.batch :]
    loss.update_schedule(step * stages // args.steps)
    adam.param_groups[0]["lr"] = args.lr * min(1, (args.steps - step) / (0.3 * args.steps))
    value = loss(f, images[now].float() / 127.5 - 1, labels[now]).mean()
    adam.zero_grad(set_to_none=True)
    value.backward()
    nn.utils.clip_grad_norm_(net.parameters(), 1)
    adam.step()
    with torch.no_grad():
        for k, v in net.state_dict().items():
            average[k].lerp_(v, 1 - decay)
    if (step + 1) % 100 == 0 or step + 1 == args.steps:
        print(f"step {step + 1}/{args.steps}: loss {value.item():.4f}, {time.process_time():.0f} s of processor time", flush=True)
        torch.save({"net": net.state_dict(), "adam": adam.state_dict(), "average": average, "step": step + 1, "order": order, "rng": torch.get_rng_state()}, saved + ".new")
        os.replace(saved + ".new", saved)

net.load_state_dict(average)
net.eval()
for evaluations in (1, 2):
    into = os.path.join(args.out, f"images-{evaluations}")
    os.makedirs(into, exist_ok=True)
    torch.manual_seed(2)
    with torch.inference_mode():
        for first in range(0, args.n, 50):
            classes = torch.arange(first, min(first + 50, args.n)) % CLASSES
            x = f(80 * torch.randn(len(classes), 1, SIDE, SIDE), torch.full((len(classes),), 80.0), classes)
            if evaluations == 2:
                x = f(x + 0.8 * torch.randn_like(x), torch.full((len(classes),), 0.8), classes)
            for i, pixels in enumerate(x.clamp(-1, 1).add(1).mul(127.5).round().byte().numpy()):
                Image.fromarray(pixels[0]).save(os.path.join(into, f"{first + i:05d}.png"))
