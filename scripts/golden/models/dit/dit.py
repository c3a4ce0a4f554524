"""Outputs, gradients and sizes of Diffusion Transformers in PyTorch, for models/dit's tests.

    python scripts/golden/models/dit/dit.py      writes models/dit/testdata/

Most cases are diffusers' DiTTransformer2DModel, whose blocks get the same embeddings here, as in the published networks.
The case "original" is Reference below: the network of the paper in the layout of its checkpoints, with an end of a jump and
a guidance scale among the inputs, which is compared with diffusers before it is used. sizes.json has the numbers of weights
of the paper's networks.

Weights are not stored: a file's metadata lists their names and shapes, and both sides draw them in that order from one
stream (see draw). The folder testdata/pretrained is what save_pretrained writes, weights included, in float16.
"""
import json
import math
import os

import diffusers
import torch
from diffusers import DiTTransformer2DModel
from safetensors.torch import save_file
from torch import nn

SEED = 20261124
ROOT = os.path.abspath(__file__).partition("/scripts/golden/")[0]
OUT = os.path.join(ROOT, "models", "dit", "testdata")

CASES = {
    "latent": dict(sample_size=8, in_channels=4, out_channels=8, num_attention_heads=4, attention_head_dim=8, num_layers=3,
                   num_embeds_ada_norm=5),
    "gray": dict(sample_size=12, in_channels=1, patch_size=4, num_attention_heads=1, attention_head_dim=24, num_layers=2,
                 num_embeds_ada_norm=10, norm_eps=1e-2),
    "rgb": dict(sample_size=5, in_channels=3, patch_size=1, num_attention_heads=3, attention_head_dim=12, num_layers=1,
                num_embeds_ada_norm=1, dropout=0.1),
}
TIMES = [0.25, 37.0, 999.0]
PRETRAINED = dict(sample_size=4, in_channels=1, num_attention_heads=1, attention_head_dim=8, num_layers=2,
                  num_embeds_ada_norm=2)
SIZES = {"S/2": (384, 12, 6), "B/2": (768, 12, 12), "L/2": (1024, 24, 16), "XL/2": (1152, 28, 16)}  # width, depth, heads


def draw(shape, g):
    """Values of the size that training leaves behind. weights() in golden_test.go does the same."""
    v = torch.randn(shape, generator=g)
    return v / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else v * 0.1


def embedding(name):
    """The part of a name that every block has of the same tensor; None for other names."""
    head, _, tail = name.partition(".norm1.emb.")
    return tail if tail and head.startswith("transformer_blocks.") else None


def draw_all(net, g):
    """New weights for net, the embeddings of its first block in all, and the names and shapes in the order of drawing."""
    weights, layout, shared = {}, [], {}
    for k, v in net.state_dict().items():
        part = embedding(k)
        if part not in shared:
            layout.append([k, list(v.shape)])
            weights[k] = draw(tuple(v.shape), g)
            if part:
                shared[part] = weights[k]
        else:
            weights[k] = shared[part].clone()
    net.load_state_dict(weights)
    return weights, layout


def metadata(**extra):
    return {"torch": torch.__version__, "diffusers": diffusers.__version__, "seed": str(SEED)} | extra


def write(path, tensors, **extra):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    save_file({k: v.detach().contiguous() for k, v in tensors.items()}, path, metadata=metadata(**extra))
    print(os.path.relpath(path, ROOT), os.path.getsize(path))


def with_gradients(out, y, x, net, names):
    out["weight"] = torch.randn(y.shape, generator=torch.Generator().manual_seed(SEED))
    (y * out["weight"]).sum().backward()
    out["grad:x"] = x.grad
    out |= {"grad:" + k: p.grad for k, p in net.named_parameters() if k in names}


def diffusers_case(name, kwargs):
    net = DiTTransformer2DModel(**kwargs).eval()
    g = torch.Generator().manual_seed(SEED)
    _, layout = draw_all(net, g)
    c = net.config
    x = torch.randn(len(TIMES), c.in_channels, c.sample_size, c.sample_size, generator=g)
    out = {"x": x.clone(), "t": torch.tensor(TIMES)}
    out["class"] = torch.randint(0, c.num_embeds_ada_norm, (len(TIMES),), generator=g)
    out["class"][-1] = c.num_embeds_ada_norm  # none
    out["y"] = net(x, out["t"], out["class"]).sample
    config = {k: v for k, v in c.items() if not k.startswith("_")}
    write(os.path.join(OUT, name + ".safetensors"), out, config=json.dumps(config), weights=json.dumps(layout),
          names=json.dumps(list(net.state_dict())))


def pretrained():
    """A folder as diffusers writes it, and the output of what it reads back."""
    folder = os.path.join(OUT, "pretrained")
    g = torch.Generator().manual_seed(SEED)
    net = DiTTransformer2DModel(**PRETRAINED).eval()
    draw_all(net, g)
    net.half().save_pretrained(folder)
    net = DiTTransformer2DModel.from_pretrained(folder, torch_dtype=torch.float32).eval()
    x, t, y = torch.randn(2, 1, 4, 4, generator=g), torch.tensor([3.0, 250.5]), torch.tensor([1, 2])
    with torch.no_grad():
        write(os.path.join(folder, "output.safetensors"), {"x": x, "t": t, "class": y, "y": net(x, t, y).sample})


class Embedder(nn.Module):
    def __init__(self, width, freqs, endpoint=False):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(freqs, width), nn.SiLU(), nn.Linear(width, width))
        half = freqs // 2
        self.freqs = torch.exp(torch.arange(half) * -math.log(10000) / (half - endpoint))

    def forward(self, v):
        angles = v[:, None] * self.freqs
        return self.mlp(torch.cat([angles.cos(), angles.sin()], 1))


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        q, k, v = (a.unflatten(2, (self.heads, -1)).transpose(1, 2) for a in self.qkv(x).chunk(3, 2))
        weights = (q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))


class Adaptive(nn.Module):
    """Layers whose inputs and outputs are modulated by an embedding: a block, and the last layer."""

    def __init__(self, width, parts):
        super().__init__()
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, parts * width))
        self.parts = parts

    def modulation(self, e):
        return self.adaLN_modulation(e)[:, None].chunk(self.parts, 2)

    @staticmethod
    def norm(x, shift, scale, eps=1e-6):
        x = (x - x.mean(2, keepdim=True)) / (x.var(2, keepdim=True, unbiased=False) + eps).sqrt()
        return x * (1 + scale) + shift


class Block(Adaptive):
    def __init__(self, width, heads, hidden, eps):
        super().__init__(width, 6)
        self.attn = Attention(width, heads)
        self.mlp = nn.ModuleDict(dict(fc1=nn.Linear(width, hidden), fc2=nn.Linear(hidden, width)))
        self.eps = eps

    def forward(self, x, e):
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(e)
        x = x + gate1 * self.attn(self.norm(x, shift1, scale1))
        h = self.mlp.fc1(self.norm(x, shift2, scale2, self.eps))
        h = h / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
        return x + gate2 * self.mlp.fc2(h)


class Final(Adaptive):
    def __init__(self, width, out):
        super().__init__(width, 2)
        self.linear = nn.Linear(width, out)

    def forward(self, x, e):
        return self.linear(self.norm(x, *self.modulation(e)))


class Reference(nn.Module):
    """DiT (Peebles & Xie 2023), with the names of its checkpoints."""

    def __init__(self, size, channels, out, patch, width, depth, heads, classes, hidden=None, freqs=256, endpoint=False,
                 eps=1e-6, until=False, guidance=False):
        super().__init__()
        self.side, self.patch = size // patch, patch
        self.x_embedder = nn.ModuleDict(dict(proj=nn.Conv2d(channels, width, patch, patch)))
        self.t_embedder = Embedder(width, freqs, endpoint)
        self.until_embedder = Embedder(width, freqs, endpoint) if until else None
        self.guidance_embedder = Embedder(width, freqs, endpoint) if guidance else None
        self.y_embedder = nn.ModuleDict(dict(embedding_table=nn.Embedding(classes + 1, width))) if classes else None
        self.blocks = nn.ModuleList(Block(width, heads, hidden or 4 * width, eps) for _ in range(depth))
        self.final_layer = Final(width, patch * patch * out)
        self.register_buffer("pos_embed", self.positions(width))

    def positions(self, width):
        n = width // 4
        table = torch.zeros(self.side, self.side, width, dtype=torch.float64)
        for row in range(self.side):
            for column in range(self.side):
                for i in range(n):
                    for at, v in enumerate((column, row)):
                        table[row, column, 2 * n * at + i] = math.sin(v * 10000 ** (-i / n))
                        table[row, column, 2 * n * at + n + i] = math.cos(v * 10000 ** (-i / n))
        return table.reshape(1, -1, width).float()

    def forward(self, x, t, y=None, until=None, guidance=None):
        e = self.t_embedder(t)
        if self.y_embedder:
            e = e + self.y_embedder.embedding_table(y)
        if self.until_embedder:
            e = e + self.until_embedder(until)
        if self.guidance_embedder:
            e = e + self.guidance_embedder(guidance)
        x = self.x_embedder.proj(x).flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks:
            x = block(x, e)
        x = self.final_layer(x, e)
        p, s = self.patch, self.side
        return x.reshape(len(x), s, s, p, p, -1).permute(0, 5, 1, 3, 2, 4).reshape(len(x), -1, s * p, s * p)


def check_reference():
    """Reference is diffusers' network where both can say the same."""
    theirs = DiTTransformer2DModel(**CASES["latent"], norm_eps=1e-3).eval()
    g = torch.Generator().manual_seed(SEED)
    w, _ = draw_all(theirs, g)
    ours = Reference(8, 4, 8, 2, 32, 3, 4, 5, endpoint=True, eps=1e-3)

    def layer(to, *names):
        for part in ("weight", "bias"):
            v = torch.cat([w[f"{n}.{part}"] for n in names])
            ours.get_parameter(f"{to}.{part}").data.copy_(v)

    emb = "transformer_blocks.0.norm1.emb."
    layer("x_embedder.proj", "pos_embed.proj")
    layer("t_embedder.mlp.0", emb + "timestep_embedder.linear_1")
    layer("t_embedder.mlp.2", emb + "timestep_embedder.linear_2")
    ours.y_embedder.embedding_table.weight.data.copy_(w[emb + "class_embedder.embedding_table.weight"])
    for i in range(3):
        b = f"transformer_blocks.{i}."
        layer(f"blocks.{i}.adaLN_modulation.1", b + "norm1.linear")
        layer(f"blocks.{i}.attn.qkv", b + "attn1.to_q", b + "attn1.to_k", b + "attn1.to_v")
        layer(f"blocks.{i}.attn.proj", b + "attn1.to_out.0")
        layer(f"blocks.{i}.mlp.fc1", b + "ff.net.0.proj")
        layer(f"blocks.{i}.mlp.fc2", b + "ff.net.2")
    layer("final_layer.adaLN_modulation.1", "proj_out_1")
    layer("final_layer.linear", "proj_out_2")
    x, t, y = torch.randn(3, 4, 8, 8, generator=g), torch.tensor(TIMES), torch.tensor([0, 4, 5])
    with torch.no_grad():
        a, b = theirs(x, t, y).sample, ours(x, t, y)
    worst = ((a - b).abs().max() / a.abs().max()).item()
    print(f"Reference differs from diffusers by {worst:.2g}")
    assert worst < 1e-5


def original():
    net = Reference(size=6, channels=3, out=3, patch=3, width=24, depth=2, heads=2, classes=4, hidden=40, freqs=16,
                    until=True, guidance=True).eval()
    g = torch.Generator().manual_seed(SEED)
    layout = [[k, list(p.shape)] for k, p in net.named_parameters()]
    with torch.no_grad():
        for _, p in net.named_parameters():
            p.copy_(draw(tuple(p.shape), g))
    x = torch.randn(3, 3, 6, 6, generator=g).requires_grad_()
    out = {"x": x.detach().clone(), "t": torch.tensor([-1.5, 0.1, 1.1]), "class": torch.tensor([3, 0, 4]),
           "until": torch.tensor([-1.55, -1.5, 0.7]), "guidance": torch.tensor([1.0, 4.0, 7.5])}
    y = out["y"] = net(x, out["t"], out["class"], out["until"], out["guidance"])
    with_gradients(out, y, x, net, {k for k, v in layout if math.prod(v) <= 1024})
    out["pos_embed"] = net.pos_embed
    write(os.path.join(OUT, "original.safetensors"), out, weights=json.dumps(layout))


def sizes():
    """The paper's networks, with 1000 classes and a variance, on latents of 4x32x32: diffusers', each embedding once."""
    out = metadata()
    del out["seed"]
    for name, (width, depth, heads) in SIZES.items():
        with torch.device("meta"):
            net = DiTTransformer2DModel(num_attention_heads=heads, attention_head_dim=width // heads, num_layers=depth,
                                        out_channels=8)
        once = [p for k, p in net.named_parameters() if not embedding(k) or k.startswith("transformer_blocks.0.")]
        out[name] = sum(p.numel() for p in once)
    path = os.path.join(OUT, "sizes.json")
    with open(path, "w") as f:
        json.dump(out, f, indent=2)
        f.write("\n")
    print(os.path.relpath(path, ROOT), out)


if __name__ == "__main__":
    for name, kwargs in CASES.items():
        diffusers_case(name, kwargs)
    pretrained()
    check_reference()
    original()
    sizes()
