"""Losses, gradients and optimizer steps of latent consistency distillation over diffusers' U-Nets and peft's adapters, for training's tests.

    python scripts/golden/training/lcd.py      writes training/testdata/lcd-{sd,xl}-PREDICTION.safetensors

Latent consistency distillation (Luo et al. 2023, algorithm 1) written out from its formulas, in float64: a full model with a guidance
embedding and a target that follows, and LCM-LoRA, whose target is the student itself. Weights and inputs follow from names
(shared/sdfill.py; z.K, noise.K, … for step K), so that a file has results only.

A case NAME, full or lora, has for each distance (huber, l2)

    NAME/DISTANCE/loss       of step 0, from filled weights (of an adapter: both factors)
    NAME/DISTANCE/grad       prints of all gradients [parameters, 4], in the order of the metadata's names
    NAME/train/loss          of three steps of AdamW from the start of training (of an adapter: B = 0), with the Huber distance
    NAME/train/weights       prints of how far the weights have moved after these, and of
    NAME/train/target        the target's weights (full models only)

A print of a tensor is its norm and its products with three normal tensors drawn from NAME#0, NAME#1 and NAME#2 of the parameter's name:
another tensor has another print, whatever their difference is.
"""
import copy
import json
import os
import sys
import zlib

import diffusers
import peft
import torch
from diffusers import UNet2DConditionModel
from diffusers.optimization import get_scheduler
from safetensors.torch import save_file

ROOT = os.path.abspath(__file__).partition("/scripts/golden/")[0]
sys.path.append(os.path.join(ROOT, "scripts", "golden", "shared"))
from sdfill import fill, value  # noqa: E402

OUT = os.path.join(ROOT, "training", "testdata")
torch.set_num_threads(1)

SKIP, SCALING, HUBER_C, DECAY = 20, 10.0, 0.001, 0.95
W_MIN, W_MAX = 5.0, 15.0
B, TOKENS, SIDE = 4, 5, 8
# Of each step: the pairs of timesteps, with the boundary and the last one, and guidances, with both ends.
INDEX = [[0, 24, 49, 7], [13, 0, 31, 48], [49, 2, 0, 20]]
GUIDANCE = [[5.0, 15.0, 9.25, 7.5], [15.0, 6.125, 5.0, 11.0], [8.0, 5.0, 15.0, 12.75]]
EMPTY = 3  # the sample without a prompt
LR, WARMUP, CLIP, DECAY_W = 1e-3, 2, 1.0, 1e-2
RANK, ALPHA = 3, 2.0
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2", "conv_shortcut",
           "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj"]

DOWN, CROSS_DOWN, UP, CROSS_UP = "DownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"
CONFIGS = {
    "sd": dict(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=12, attention_head_dim=2,
               down_block_types=(CROSS_DOWN, DOWN), up_block_types=(UP, CROSS_UP), sample_size=SIDE),
    "xl": dict(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=12, attention_head_dim=(2, 4),
               down_block_types=(DOWN, CROSS_DOWN), up_block_types=(CROSS_UP, UP), sample_size=SIDE, use_linear_projection=True,
               transformer_layers_per_block=(1, 2), addition_embed_type="text_time", addition_time_embed_dim=4,
               projection_class_embeddings_input_dim=6 * 4 + 10),
}
COND_DIM = 16
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
BAR = torch.cumprod(1 - BETAS, 0)


def draw(name, *shape):
    """Standard normal numbers that follow from a name."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode()))).double()


def embed(w, dim):
    """The guidance embedding, in float32 as published."""
    half = dim // 2
    step = torch.log(torch.tensor(10000.0, dtype=torch.float32)) / (half - 1)
    freqs = torch.exp(torch.arange(half, dtype=torch.float32) * -step)
    angles = (w.float() * 1000)[:, None] * freqs
    return torch.cat([angles.sin(), angles.cos()], 1).double()


def col(v):
    return v.reshape(-1, 1, 1, 1)


def parts(prediction, y, F, n):
    """x_0 and the noise, as the network's output has them."""
    a, s = col(BAR[n].sqrt()), col((1 - BAR[n]).sqrt())
    if prediction == "epsilon":
        return (y - s * F) / a, F
    return a * y - s * F, s * y + a * F


def boundary(n):
    at = SCALING * n.double()
    return col(0.25 / (at**2 + 0.25)), col(at / (at**2 + 0.25).sqrt())


def distance(kind, a, b):
    d = a - b
    return (d**2).mean() if kind == "l2" else ((d**2 + HUBER_C**2).sqrt() - HUBER_C).mean()


def conditions(config, step):
    """What samples and the empty prompt are conditioned on."""
    width = config["cross_attention_dim"]
    null = draw("null", 1, TOKENS, width)
    text = draw(f"text.{step}", B, TOKENS, width)
    text[EMPTY] = null[0]
    if "addition_embed_type" not in config:
        return (text, None), (null.expand(B, -1, -1), None)
    pooled_width = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
    null_pooled, pooled = draw("null.pooled", 1, pooled_width), draw(f"pooled.{step}", B, pooled_width)
    pooled[EMPTY] = null_pooled[0]
    sizes = torch.tensor([[64 + i, 64, i, 0, 64, 64 - step] for i in range(B)])
    return ((text, dict(text_embeds=pooled, time_ids=sizes)),
            (null.expand(B, -1, -1), dict(text_embeds=null_pooled.expand(B, -1), time_ids=sizes)))


def ask(net, y, n, cond, **more):
    return net(y, n, encoder_hidden_states=cond[0], added_cond_kwargs=cond[1], **more).sample


def lcd(kind, prediction, config, student, target, teacher, step, full):
    """The loss. teacher is a network, and target and student are; the teacher of an adapter is the context that turns it off."""
    index, w = torch.tensor(INDEX[step]), torch.tensor(GUIDANCE[step], dtype=torch.float64)
    cond, null = conditions(config, step)
    z, noise = draw(f"z.{step}", B, 4, SIDE, SIDE), draw(f"noise.{step}", B, 4, SIDE, SIDE)
    start = SKIP * (index + 1) - 1
    end = (start - SKIP).clamp(min=0)
    y = col(BAR[start].sqrt()) * z + col((1 - BAR[start]).sqrt()) * noise
    more = dict(timestep_cond=embed(w, COND_DIM)) if full else {}

    def f(net, y, n):
        skip, out = boundary(n)
        return skip * y + out * parts(prediction, y, ask(net, y, n, cond, **more), n)[0]

    with torch.no_grad():
        with teacher() as net:
            some, none = [parts(prediction, y, ask(net, y, start, c), start) for c in (cond, null)]
        x0, eps = [c + col(w) * (c - u) for c, u in zip(some, none)]
        before = col(BAR[end].sqrt()) * x0 + col((1 - BAR[end]).sqrt()) * eps
        want = f(target, before, end)
    return distance(kind, f(student, y, start), want)


class Same:
    """A network as the context that lcd wants of a teacher."""

    def __init__(self, net):
        self.net = net

    def __call__(self):
        return self

    def __enter__(self):
        return self.net

    def __exit__(self, *_):
        pass


class Off:
    """The base of an adapted network."""

    def __init__(self, net):
        self.net = net

    def __call__(self):
        return self

    def __enter__(self):
        self.off = self.net.disable_adapter()
        self.off.__enter__()
        return self.net

    def __exit__(self, *error):
        self.off.__exit__(*error)


def full_model(config):
    teacher = fill(UNet2DConditionModel(**config).double()).requires_grad_(False)
    student = fill(UNet2DConditionModel(**config, time_cond_proj_dim=COND_DIM).double())
    return student, copy.deepcopy(student).requires_grad_(False), Same(teacher), dict(student.named_parameters())


def adapter(config, start):
    net = fill(UNet2DConditionModel(**config).double())
    net = peft.get_peft_model(net, peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS)).double().eval()
    learned = {}
    for name, p in net.named_parameters():
        if p.requires_grad:
            short = name.removeprefix("base_model.model.").replace(".default", "")
            with torch.no_grad():
                p.zero_() if start and ".lora_B." in name else p.copy_(value(short, tuple(p.shape)))
            learned[short] = p
    return net, net, Off(net), learned


def prints(tensors):
    rows = []
    for name, t in tensors.items():
        rows.append([t.norm()] + [(t * draw(f"{name}#{i}", *t.shape)).sum() for i in range(3)])
    return torch.tensor(rows, dtype=torch.float64)


def train(prediction, config, student, target, teacher, learned, full):
    """Three steps as the training scripts take them: clipped gradients, AdamW, the schedule, then the target."""
    begun = {k: p.detach().clone() for k, p in learned.items()}
    opt = torch.optim.AdamW(learned.values(), lr=LR, betas=(0.9, 0.999), eps=1e-8, weight_decay=DECAY_W)
    schedule = get_scheduler("constant_with_warmup", optimizer=opt, num_warmup_steps=WARMUP)
    losses, rates = [], []
    for step in range(3):
        loss = lcd("huber", prediction, config, student, target, teacher, step, full)
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned.values(), CLIP)
        rates.append(opt.param_groups[0]["lr"])
        opt.step()
        schedule.step()
        losses.append(loss.detach())
        if full:
            with torch.no_grad():
                for p, q in zip(target.parameters(), student.parameters()):
                    p.mul_(DECAY).add_(q, alpha=1 - DECAY)
    out = {"loss": torch.stack(losses), "weights": prints({k: p.detach() - begun[k] for k, p in learned.items()})}
    if full:
        out["target"] = prints({k: p - begun[k] for k, p in dict(target.named_parameters()).items()})
    return out, rates


def main():
    os.makedirs(OUT, exist_ok=True)
    for model, config in CONFIGS.items():
        for prediction in ("epsilon", "v_prediction"):
            tensors, names = {}, {}
            for case in ("full", "lora"):
                full = case == "full"
                for d in ("huber", "l2"):
                    student, target, teacher, learned = full_model(config) if full else adapter(config, False)
                    loss = lcd(d, prediction, config, student, target, teacher, 0, full)
                    loss.backward()
                    tensors[f"{case}/{d}/loss"] = loss.detach()
                    tensors[f"{case}/{d}/grad"] = prints({k: p.grad for k, p in learned.items()})
                    names[case] = list(learned)
                student, target, teacher, learned = full_model(config) if full else adapter(config, True)
                results, rates = train(prediction, config, student, target, teacher, learned, full)
                tensors |= {f"{case}/train/{k}": v for k, v in results.items()}
            meta = {"config": UNet2DConditionModel(**config).to_json_string(), "names": json.dumps(names), "lr": json.dumps(rates),
                    "index": json.dumps(INDEX), "w": json.dumps(GUIDANCE), "torch": torch.__version__,
                    "diffusers": diffusers.__version__, "peft": peft.__version__}
            path = os.path.join(OUT, f"lcd-{model}-{prediction}.safetensors")
            save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata=meta)
            print(path, os.path.getsize(path), {k: len(v) for k, v in names.items()})


main()
