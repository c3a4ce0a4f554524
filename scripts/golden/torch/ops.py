"""Results of PyTorch's operators, for torch/ops_golden_test.go: python scripts/golden/torch/ops.py writes torch/testdata/ops.safetensors
and torch/testdata/random.safetensors.

The inputs are stored under their names, each case's result under "out.CASE"; the Go test does the same call.
"""
import os

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

SEED = 20261123
torch.manual_seed(SEED)
torch.set_num_threads(1)
FOLDER = os.path.join(os.path.abspath(__file__).partition("/scripts/golden/")[0], "torch", "testdata")
META = {"torch": torch.__version__, "seed": str(SEED)}

x, y = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
p = torch.rand(2, 3, 4) + 0.1
row = torch.randn(4)
half = torch.randn(2, 3).half()
whole = torch.randint(-5, 6, (2, 3))
other = torch.randint(1, 4, (2, 3))
idx = torch.tensor([1, 0, 1])
mask = x > 0
m1, m2 = torch.randn(3, 4), torch.randn(4, 5)
img = torch.randn(2, 4, 6, 6)
w, wb = torch.randn(6, 2, 3, 3), torch.randn(6)
g, gb = torch.randn(4), torch.randn(4)
q, k, v = torch.randn(2, 2, 5, 4), torch.randn(2, 2, 7, 4), torch.randn(2, 2, 7, 4)
attn_mask = torch.randn(5, 7)
table = torch.randn(5, 3)
sortd = torch.tensor([0.0, 1.0, 2.0, 4.0])
lw, lb = torch.randn(5, 4), torch.randn(5)
bm, bytes_, ints, wide = torch.randn(2, 3, 4), torch.randint(0, 200, (2, 3), dtype=torch.uint8), torch.randint(-9, 9, (2, 3), dtype=torch.int32), torch.randn(2, 3).double()
holes = torch.tensor([[1.0, float("nan"), 3.0], [float("inf"), -2.0, 0.0]])
INPUTS = dict(x=x, y=y, p=p, row=row, half=half, whole=whole, other=other, idx=idx, mask=mask, m1=m1, m2=m2, img=img, w=w, wb=wb,
              g=g, gb=gb, q=q, k=k, v=v, attn_mask=attn_mask, table=table, sortd=sortd, lw=lw, lb=lb, bm=bm, bytes=bytes_, ints=ints, wide=wide, holes=holes)


def clipped(limit, *grads):
    params = [torch.zeros_like(t).requires_grad_() for t in grads]
    for p, t in zip(params, grads):
        p.grad = t.clone()
    total = torch.nn.utils.clip_grad_norm_(params, limit)
    return torch.cat([total.reshape(1)] + [p.grad.flatten() for p in params])


OUT = dict(
    Neg=-x, Exp=x.exp(), Expm1=x.expm1(), Log=p.log(), Log1p=p.log1p(), Sqrt=p.sqrt(), Rsqrt=p.rsqrt(), Square=x.square(),
    Reciprocal=p.reciprocal(), Abs=x.abs(), Sign=x.sign(), Sin=x.sin(), Cos=x.cos(), Tan=x.tan(), Atan=x.atan(), Erf=x.erf(),
    Erfinv=(p - 0.6).erfinv(), Floor=x.floor(), Ceil=x.ceil(), Round=x.round(), Sigmoid=x.sigmoid(), Tanh=x.tanh(), SiLU=F.silu(x),
    ReLU=x.relu(), Softplus=F.softplus(x), IsFinite=(x / mask).isfinite(), LogicalNot=mask.logical_not(),
    Add=x + y, AddBroadcast=x + row, AddPromote=half + whole, AddInt=whole + other, Sub=x - y, Mul=x * y, Div=x / p, DivInt=whole / other,
    Pow=p.pow(y), Atan2=x.atan2(y), Maximum=x.maximum(y), Minimum=x.minimum(y), Eq=whole == other, Ne=whole != other, Lt=x < y, Le=x <= y,
    Gt=x > y, Ge=x >= y, LogicalAnd=mask.logical_and(y > 0), LogicalOr=mask.logical_or(y > 0), MatMul=m1 @ m2,
    AddScalar=x + 1.5, AddScalarInt=whole + 2, SubScalar=x - 0.25, MulScalar=x * 3, DivScalar=x / 7, PowScalar=p.pow(2.5),
    EqScalar=whole == 2, NeScalar=whole != 2, LtScalar=x < 0.5, LeScalar=whole <= 1, GtScalar=x > 0.5, GeScalar=whole >= 1,
    RemainderScalar=whole.remainder(3), FloorDivScalar=whole.floor_divide(2),
    AddInPlace=x + y, SubInPlace=x - y, MulInPlace=x * y, DivInPlace=x / p, AddScalarInPlace=x + 2, MulScalarInPlace=x * 0.5,
    FillInPlace=torch.full_like(x, 2.5), SiLUInPlace=F.silu(x), ZeroInPlace=torch.zeros_like(x), CopyFrom=row.expand(2, 3, 4).contiguous(),
    AddScaledInPlace=x + 0.3 * y, Lerp=x.lerp(y, 0.3), LerpInPlace=x.lerp(y, 0.3), AddCMul=x.addcmul(y, p, value=0.7), Clamp=x.clamp(-0.5, 0.5),
    ClampMin=x.clamp(min=0.1), Where=torch.where(mask, x, y), MaskedFill=x.masked_fill(mask, -1.0), GELU=F.gelu(x), GELUTanh=F.gelu(x, approximate="tanh"),
    Tril=m1.tril(-1), Triu=m1.triu(1),
    Zeros=torch.zeros(2, 3), Ones=torch.ones(2, dtype=torch.float64), Full=torch.full((2,), 2.5), Arange=torch.arange(5), Linspace=torch.linspace(0, 1, 5),
    Eye=torch.eye(3), ZerosLike=torch.zeros_like(x),
    Reshape=x.reshape(4, 6), View=x.view(6, -1), Flatten=x.flatten(1), Transpose=x.transpose(0, 2).contiguous(), Permute=x.permute(2, 0, 1).contiguous(),
    Unsqueeze=row.unsqueeze(0), Squeeze=x[:1].squeeze(0), Expand=row.expand(3, 4).contiguous(), PerSample=torch.tensor([1.0, 2.0]).reshape(2, 1, 1) * x, MulPerSample=x * torch.tensor([1.0, 2.0]).reshape(2, 1, 1),
    Contiguous=x.transpose(0, 1).contiguous(), ChannelsLast=img.contiguous(memory_format=torch.channels_last).contiguous(),
    Narrow=x.narrow(2, 1, 2).contiguous(), Slice=x[:, :, 0:4:2].contiguous(), Select=x.select(1, 2).contiguous(), IndexSelect=x.index_select(0, idx),
    Index=x[:, idx], IndexMask=x[mask], IndexPut=x.index_put((idx,), torch.tensor(9.0)), Gather=m1.gather(1, idx[:, None]),
    Chunk=x.chunk(2, 2)[1].contiguous(), Split=x.split(3, 2)[1].contiguous(), Unbind=x.unbind(1)[2].contiguous(), Cat=torch.cat([x, y], 1),
    Stack=torch.stack([x, y], 1), Flip=x.flip(0, 2), Repeat=row.repeat(2, 3), RepeatInterleave=m1.repeat_interleave(2, 1),
    To=x.half(), ToBF16=x.bfloat16(), ToInt=(x * 10).to(torch.int32), ToU8=(p * 100).to(torch.uint8), ToBool=whole.bool(), Clone=x.clone(),
    Sum=x.sum(), SumInt=whole.sum(), SumDim=x.sum((0, 2)), SumKeep=x.sum(1, keepdim=True), Mean=x.mean(), MeanDim=x.mean((1, 2)), Norm=x.norm(),
    NormDim=torch.linalg.vector_norm(x, dim=(1, 2)), Var=x.var(), Std=x.std(correction=0), StdDim=x.std(2), Max=x.max(), Min=x.min(), MaxDim=x.amax(1),
    MinDim=x.amin(2, keepdim=True), ArgMax=x.argmax(2), ArgMin=x.argmin(1), All=mask.all(), Any=mask.any(), CumSum=x.cumsum(1), CumProd=x.cumprod(1),
    Quantile=x.quantile(0.3, 2, keepdim=True), Softmax=x.softmax(2),
    LogSoftmax=x.log_softmax(1), LogSumExp=x.logsumexp((1, 2)), Sort=x.sort(2, descending=True).values, SortIndices=x.sort(2, descending=True).indices,
    SearchSorted=torch.searchsorted(sortd, p, right=True),
    Linear=F.linear(m1, lw, lb), LinearNoBias=F.linear(m1, lw), Conv2D=F.conv2d(img, w, wb, stride=2, padding=1, groups=2),
    Conv2DDilated=F.conv2d(img[:, :2], w, None, dilation=2), GroupNorm=F.group_norm(img, 2, g, gb, 1e-6), LayerNorm=F.layer_norm(x, (4,), g, gb, 1e-5),
    BatchNorm=F.batch_norm(img, gb, g.abs(), g, gb, False, 0.0, 1e-3), AvgPool2D=F.avg_pool2d(img, 2), AdaptiveAvgPool2D=F.adaptive_avg_pool2d(img, (2, 3)),
    MaxPool2D=F.max_pool2d(img, 3, 2, 1), UpsampleNearest=F.interpolate(img[:, :1], scale_factor=2, mode="nearest"),
    InterpolateNearest=F.interpolate(img[:1, :1], (4, 9), mode="nearest"), InterpolateBilinear=F.interpolate(img[:1, :1], (9, 4), mode="bilinear"),
    InterpolateBicubic=F.interpolate(img[:1, :1], (9, 4), mode="bicubic"),
    InterpolateBilinearAA=F.interpolate(img[:1, :1], (3, 3), mode="bilinear", antialias=True),
    InterpolateBicubicAA=F.interpolate(img[:1, :1], (3, 3), mode="bicubic", antialias=True),
    Pad=F.pad(img[:1, :1], (1, 2, 0, 1), value=0.5), PadReflect=F.pad(img[:1, :1], (1, 2, 2, 1), mode="reflect"),
    PadReplicate=F.pad(img[:1, :1], (1, 2, 2, 1), mode="replicate"), Embedding=F.embedding(idx, table),
    Attention=F.scaled_dot_product_attention(q, k, v), AttentionMask=F.scaled_dot_product_attention(q, k, v, attn_mask, scale=0.3),
    AttentionCausal=F.scaled_dot_product_attention(q, q, q, is_causal=True), Detach=x,
    # Promotion of dtypes; reductions of NaN and of nothing; half precision.
    AddBF16F32=half.bfloat16() + holes, AddU8Int32=bytes_ + ints, AddBoolInt=(whole > 0) + whole, MulInt32Half=ints * half, AddF32F64=holes + wide,
    AddZeroDimF64=holes + torch.tensor(0.1, dtype=torch.float64), MulScalarIntFloat=whole * 1.5, DivScalarInt=whole / 4, PowScalarInt=whole.pow(2),
    ClampIntFloat=whole.clamp(-0.5, 2), MaxNaN=holes.max(), MinDimNaN=holes.amin(1), SumEmpty=x[:0].sum(), MeanEmpty=x[:0].mean(), SumBool=mask.sum((0, 1)),
    CatPromote=torch.cat([whole, holes], 0), SumHalf=half.sum(), LinearBF16=F.linear(m1.bfloat16(), lw.bfloat16(), lb.bfloat16()),
    LinearF64=F.linear(m1.double(), lw.double(), lb.double()), ConvBF16=F.conv2d(img.bfloat16(), w.bfloat16(), None, groups=2),
    SoftmaxHalf=half.softmax(1), IsFiniteHoles=holes.isfinite(), WhereHoles=torch.where(holes.isfinite(), holes, torch.tensor(-1.0)),
    MatMulBatch=bm @ m2, MatMulBatches=bm @ bm.transpose(1, 2), MatMulVector=m1 @ row, IndexTwo=x[idx, torch.tensor([2, 0, 1])],
    IndexPutAdd=x.index_put((idx,), torch.tensor(9.0), accumulate=True), SliceNegative=x[:, -2:].contiguous(), SelectNegative=x.select(-1, -1).contiguous(),
    ConvPoint=F.conv2d(img, w[:, :, :1, :1].repeat(1, 2, 1, 1)), ConvChannelsLast=F.conv2d(img.contiguous(memory_format=torch.channels_last), w, wb, padding=1, groups=2).contiguous(),
    GroupNormPlain=F.group_norm(img, 4), LayerNormPlain=F.layer_norm(x, (3, 4)), MaskBool=F.scaled_dot_product_attention(q, k, v, attn_mask > 0),
    ClipGradNorm=clipped(1.5, x, m1, gb), ClipGradNormLoose=clipped(1e3, x, m1), ClipGradNormF64=clipped(0.5, wide), GradNorm=torch.cat([x.flatten(), m1.flatten()]).norm(),
    Empty=torch.full((2, 3), 7, dtype=torch.int32), CountNonFinite=(~holes.isfinite()).sum(),
    ForeachAdd=torch.cat([t.flatten() for t in torch._foreach_add([x, row], [y, row], alpha=0.5)]),
    ForeachSqrt=torch.cat([p.sqrt().flatten(), sortd.sqrt()]),
)
save_file({**{k: t.contiguous() for k, t in INPUTS.items()}, **{"out." + k: t.contiguous().clone() for k, t in OUT.items()}},
          os.path.join(FOLDER, "ops.safetensors"), metadata=META)

# Random streams: several draws in a row from one generator, sizes on both sides of 16 and no multiples of it.
SIZES, draws = [(1,), (5,), (15,), (16,), (17,), (40,), (3, 7)], {}
for name, fn in {
    "randn": lambda s, d, gen: torch.randn(s, generator=gen, dtype=d), "rand": lambda s, d, gen: torch.rand(s, generator=gen, dtype=d),
}.items():
    for d in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        gen = torch.Generator().manual_seed(1234)
        for i, s in enumerate(SIZES):
            draws[f"{name}.{str(d)[6:]}.{i}"] = fn(s, d, gen)
gen = torch.Generator().manual_seed(99)
for i, s in enumerate(SIZES):
    draws[f"randint.{i}"] = torch.randint(-3, 1000, s, generator=gen)
    draws[f"randperm.{i}"] = torch.randperm(s[0] + 3, generator=gen)
    draws[f"multinomial.{i}"] = torch.multinomial(torch.arange(1.0, 9.0), s[0], replacement=True, generator=gen)
    draws[f"bernoulli.{i}"] = torch.zeros(s).bernoulli_(0.3, generator=gen)
    draws[f"normal.{i}"] = torch.zeros(s).normal_(1, 2, generator=gen)
    draws[f"uniform.{i}"] = torch.zeros(s).uniform_(-1, 3, generator=gen)
draws["state"] = gen.get_state()
save_file(draws, os.path.join(FOLDER, "random.safetensors"), metadata=META)
for n in ("ops", "random"):
    print(n, os.path.getsize(os.path.join(FOLDER, n + ".safetensors")))
