package torch_test

import (
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

type tensors map[string]*torch.Tensor

// opCases are the calls of scripts/golden/torch/ops.py, by the names it stores their results under.
var opCases = map[string]func(s *torch.Scope, in tensors) *torch.Tensor{}

func init() {
	unary := func(names string, in string, f func(t *torch.Tensor, s *torch.Scope) *torch.Tensor) {
		opCases[names] = func(s *torch.Scope, g tensors) *torch.Tensor { return f(g[in], s) }
	}
	unary("Neg", "x", (*torch.Tensor).Neg)
	unary("Exp", "x", (*torch.Tensor).Exp)
	unary("Expm1", "x", (*torch.Tensor).Expm1)
	unary("Log", "p", (*torch.Tensor).Log)
	unary("Log1p", "p", (*torch.Tensor).Log1p)
	unary("Sqrt", "p", (*torch.Tensor).Sqrt)
	unary("Rsqrt", "p", (*torch.Tensor).Rsqrt)
	unary("Square", "x", (*torch.Tensor).Square)
	unary("Reciprocal", "p", (*torch.Tensor).Reciprocal)
	unary("Abs", "x", (*torch.Tensor).Abs)
	unary("Sign", "x", (*torch.Tensor).Sign)
	unary("Sin", "x", (*torch.Tensor).Sin)
	unary("Cos", "x", (*torch.Tensor).Cos)
	unary("Tan", "x", (*torch.Tensor).Tan)
	unary("Atan", "x", (*torch.Tensor).Atan)
	unary("Erf", "x", (*torch.Tensor).Erf)
	unary("Floor", "x", (*torch.Tensor).Floor)
	unary("Ceil", "x", (*torch.Tensor).Ceil)
	unary("Round", "x", (*torch.Tensor).Round)
	unary("Sigmoid", "x", (*torch.Tensor).Sigmoid)
	unary("Tanh", "x", (*torch.Tensor).Tanh)
	unary("SiLU", "x", (*torch.Tensor).SiLU)
	unary("ReLU", "x", (*torch.Tensor).ReLU)
	unary("Softplus", "x", (*torch.Tensor).Softplus)
	unary("LogicalNot", "mask", (*torch.Tensor).LogicalNot)
	unary("Clone", "x", (*torch.Tensor).Clone)
	unary("Detach", "x", (*torch.Tensor).Detach)
	unary("Sum", "x", (*torch.Tensor).Sum)
	unary("SumInt", "whole", (*torch.Tensor).Sum)
	unary("Mean", "x", (*torch.Tensor).Mean)
	unary("Norm", "x", (*torch.Tensor).Norm)
	unary("Max", "x", (*torch.Tensor).Max)
	unary("Min", "x", (*torch.Tensor).Min)
	unary("All", "mask", (*torch.Tensor).All)
	unary("Any", "mask", (*torch.Tensor).Any)
	binary := func(name, a, b string, f func(t *torch.Tensor, s *torch.Scope, y *torch.Tensor) *torch.Tensor) {
		opCases[name] = func(s *torch.Scope, g tensors) *torch.Tensor { return f(g[a], s, g[b]) }
	}
	binary("Add", "x", "y", (*torch.Tensor).Add)
	binary("AddBroadcast", "x", "row", (*torch.Tensor).Add)
	binary("AddPromote", "half", "whole", (*torch.Tensor).Add)
	binary("AddInt", "whole", "other", (*torch.Tensor).Add)
	binary("Sub", "x", "y", (*torch.Tensor).Sub)
	binary("Mul", "x", "y", (*torch.Tensor).Mul)
	binary("Div", "x", "p", (*torch.Tensor).Div)
	binary("DivInt", "whole", "other", (*torch.Tensor).Div)
	binary("Pow", "p", "y", (*torch.Tensor).Pow)
	binary("Atan2", "x", "y", (*torch.Tensor).Atan2)
	binary("Maximum", "x", "y", (*torch.Tensor).Maximum)
	binary("Minimum", "x", "y", (*torch.Tensor).Minimum)
	binary("Eq", "whole", "other", (*torch.Tensor).Eq)
	binary("Ne", "whole", "other", (*torch.Tensor).Ne)
	binary("Lt", "x", "y", (*torch.Tensor).Lt)
	binary("Le", "x", "y", (*torch.Tensor).Le)
	binary("Gt", "x", "y", (*torch.Tensor).Gt)
	binary("Ge", "x", "y", (*torch.Tensor).Ge)
	binary("MatMul", "m1", "m2", (*torch.Tensor).MatMul)
	binary("Embedding", "table", "idx", (*torch.Tensor).Embedding)
	scalar := func(name, in string, v float64, f func(t *torch.Tensor, s *torch.Scope, v float64) *torch.Tensor) {
		opCases[name] = func(s *torch.Scope, g tensors) *torch.Tensor { return f(g[in], s, v) }
	}
	scalar("AddScalar", "x", 1.5, (*torch.Tensor).AddScalar)
	scalar("AddScalarInt", "whole", 2, (*torch.Tensor).AddScalar)
	scalar("SubScalar", "x", 0.25, (*torch.Tensor).SubScalar)
	scalar("MulScalar", "x", 3, (*torch.Tensor).MulScalar)
	scalar("DivScalar", "x", 7, (*torch.Tensor).DivScalar)
	scalar("PowScalar", "p", 2.5, (*torch.Tensor).PowScalar)
	scalar("EqScalar", "whole", 2, (*torch.Tensor).EqScalar)
	scalar("NeScalar", "whole", 2, (*torch.Tensor).NeScalar)
	scalar("LtScalar", "x", 0.5, (*torch.Tensor).LtScalar)
	scalar("LeScalar", "whole", 1, (*torch.Tensor).LeScalar)
	scalar("GtScalar", "x", 0.5, (*torch.Tensor).GtScalar)
	scalar("GeScalar", "whole", 1, (*torch.Tensor).GeScalar)
	scalar("RemainderScalar", "whole", 3, (*torch.Tensor).RemainderScalar)
	scalar("FloorDivScalar", "whole", 2, (*torch.Tensor).FloorDivScalar)
	scalar("ClampMin", "x", 0.1, (*torch.Tensor).ClampMin)
	changed := func(name string, f func(s *torch.Scope, x *torch.Tensor, g tensors)) {
		opCases[name] = func(s *torch.Scope, g tensors) *torch.Tensor {
			x := g["x"].Clone(s)
			f(s, x, g)
			return x
		}
	}
	changed("AddInPlace", func(s *torch.Scope, x *torch.Tensor, g tensors) { x.AddInPlace(s, g["y"]) })
	changed("SubInPlace", func(s *torch.Scope, x *torch.Tensor, g tensors) { x.SubInPlace(s, g["y"]) })
	changed("MulInPlace", func(s *torch.Scope, x *torch.Tensor, g tensors) { x.MulInPlace(s, g["y"]) })
	changed("DivInPlace", func(s *torch.Scope, x *torch.Tensor, g tensors) { x.DivInPlace(s, g["p"]) })
	changed("AddScalarInPlace", func(s *torch.Scope, x *torch.Tensor, g tensors) { x.AddScalarInPlace(s, 2) })
	changed("MulScalarInPlace", func(s *torch.Scope, x *torch.Tensor, g tensors) { x.MulScalarInPlace(s, 0.5) })
	changed("FillInPlace", func(s *torch.Scope, x *torch.Tensor, g tensors) { x.FillInPlace(s, 2.5) })
	changed("SiLUInPlace", func(s *torch.Scope, x *torch.Tensor, g tensors) { x.SiLUInPlace(s) })
	changed("ZeroInPlace", func(s *torch.Scope, x *torch.Tensor, g tensors) { x.ZeroInPlace(s) })
	changed("CopyFrom", func(s *torch.Scope, x *torch.Tensor, g tensors) { x.CopyFrom(s, g["row"]) })
	changed("AddScaledInPlace", func(s *torch.Scope, x *torch.Tensor, g tensors) { x.AddScaledInPlace(s, g["y"], 0.3) })
	changed("LerpInPlace", func(s *torch.Scope, x *torch.Tensor, g tensors) { x.LerpInPlace(s, g["y"], 0.3) })
	changed("IndexPut", func(s *torch.Scope, x *torch.Tensor, g tensors) {
		x.IndexPutInPlace(s, []*torch.Tensor{g["idx"]}, torch.Scalar(s, float32(9)), false)
	})
	for name, f := range map[string]func(s *torch.Scope, g tensors) *torch.Tensor{
		"Erfinv":   func(s *torch.Scope, g tensors) *torch.Tensor { return g["p"].SubScalar(s, 0.6).Erfinv(s) },
		"IsFinite": func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].Div(s, g["mask"]).IsFinite(s) },
		"LogicalAnd": func(s *torch.Scope, g tensors) *torch.Tensor {
			return g["mask"].LogicalAnd(s, g["y"].GtScalar(s, 0))
		},
		"LogicalOr": func(s *torch.Scope, g tensors) *torch.Tensor { return g["mask"].LogicalOr(s, g["y"].GtScalar(s, 0)) },
		"Lerp":      func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].Lerp(s, g["y"], 0.3) },
		"AddCMul":   func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].AddCMul(s, g["y"], g["p"], 0.7) },
		"Clamp":     func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].Clamp(s, -0.5, 0.5) },
		"Where":     func(s *torch.Scope, g tensors) *torch.Tensor { return torch.Where(s, g["mask"], g["x"], g["y"]) },
		"MaskedFill": func(s *torch.Scope, g tensors) *torch.Tensor {
			return g["x"].MaskedFill(s, g["mask"], -1)
		},
		"GELU":       func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].GELU(s, false) },
		"GELUTanh":   func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].GELU(s, true) },
		"Tril":       func(s *torch.Scope, g tensors) *torch.Tensor { return g["m1"].Tril(s, -1) },
		"Triu":       func(s *torch.Scope, g tensors) *torch.Tensor { return g["m1"].Triu(s, 1) },
		"Zeros":      func(s *torch.Scope, g tensors) *torch.Tensor { return torch.Zeros(s, torch.Float32, 2, 3) },
		"Ones":       func(s *torch.Scope, g tensors) *torch.Tensor { return torch.Ones(s, torch.Float64, 2) },
		"Full":       func(s *torch.Scope, g tensors) *torch.Tensor { return torch.Full(s, 2.5, torch.Float32, 2) },
		"Arange":     func(s *torch.Scope, g tensors) *torch.Tensor { return torch.Arange(s, 5, torch.Int64) },
		"Linspace":   func(s *torch.Scope, g tensors) *torch.Tensor { return torch.Linspace(s, 0, 1, 5, torch.Float32) },
		"Eye":        func(s *torch.Scope, g tensors) *torch.Tensor { return torch.Eye(s, 3, torch.Float32) },
		"ZerosLike":  func(s *torch.Scope, g tensors) *torch.Tensor { return torch.ZerosLike(s, g["x"]) },
		"Reshape":    func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].Reshape(s, 4, 6) },
		"View":       func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].View(s, 6, -1) },
		"Flatten":    func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].Flatten(s, 1, -1) },
		"Transpose":  func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].Transpose(s, 0, 2) },
		"Permute":    func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].Permute(s, 2, 0, 1) },
		"Unsqueeze":  func(s *torch.Scope, g tensors) *torch.Tensor { return g["row"].Unsqueeze(s, 0) },
		"Squeeze":    func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].Narrow(s, 0, 0, 1).Squeeze(s, 0) },
		"Expand":     func(s *torch.Scope, g tensors) *torch.Tensor { return g["row"].Expand(s, 3, 4) },
		"Contiguous": func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].Transpose(s, 0, 1).Contiguous(s) },
		"MulPerSample": func(s *torch.Scope, g tensors) *torch.Tensor { // the factors' own type does not count
			return g["x"].MulPerSample(s, torch.FromSlice(s, []float64{1, 2}))
		},
		"PerSample": func(s *torch.Scope, g tensors) *torch.Tensor {
			return torch.FromSlice(s, []float32{1, 2}).PerSample(s, 3).Mul(s, g["x"])
		},
		"ChannelsLast": func(s *torch.Scope, g tensors) *torch.Tensor { return g["img"].ChannelsLast(s) },
		"Narrow":       func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].Narrow(s, 2, 1, 2) },
		"Slice":        func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].Slice(s, 2, 0, 4, 2) },
		"Select":       func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].Select(s, 1, 2) },
		"IndexSelect":  func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].IndexSelect(s, 0, g["idx"]) },
		"Index":        func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].Index(s, nil, g["idx"]) },
		"IndexMask":    func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].Index(s, g["mask"]) },
		"Gather":       func(s *torch.Scope, g tensors) *torch.Tensor { return g["m1"].Gather(s, 1, g["idx"].Unsqueeze(s, 1)) },
		"Chunk":        func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].Chunk(s, 2, 2)[1] },
		"Split":        func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].Split(s, 3, 2)[1] },
		"Unbind":       func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].Unbind(s, 1)[2] },
		"Cat":          func(s *torch.Scope, g tensors) *torch.Tensor { return torch.Cat(s, []*torch.Tensor{g["x"], g["y"]}, 1) },
		"Stack": func(s *torch.Scope, g tensors) *torch.Tensor {
			return torch.Stack(s, []*torch.Tensor{g["x"], g["y"]}, 1)
		},
		"Flip":             func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].Flip(s, 0, 2) },
		"Repeat":           func(s *torch.Scope, g tensors) *torch.Tensor { return g["row"].Repeat(s, 2, 3) },
		"RepeatInterleave": func(s *torch.Scope, g tensors) *torch.Tensor { return g["m1"].RepeatInterleave(s, 2, 1) },
		"To":               func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].To(s, torch.Float16) },
		"ToBF16":           func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].To(s, torch.BFloat16) },
		"ToInt":            func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].MulScalar(s, 10).To(s, torch.Int32) },
		"ToU8":             func(s *torch.Scope, g tensors) *torch.Tensor { return g["p"].MulScalar(s, 100).To(s, torch.Uint8) },
		"ToBool":           func(s *torch.Scope, g tensors) *torch.Tensor { return g["whole"].To(s, torch.Bool) },
		"SumDim":           func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].SumDim(s, false, 0, 2) },
		"SumKeep":          func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].SumDim(s, true, 1) },
		"MeanDim":          func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].MeanDim(s, false, 1, 2) },
		"NormDim":          func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].NormDim(s, false, 1, 2) },
		"Var":              func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].Var(s, 1) },
		"Std":              func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].Std(s, 0) },
		"StdDim":           func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].StdDim(s, 1, false, 2) },
		"MaxDim":           func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].MaxDim(s, false, 1) },
		"MinDim":           func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].MinDim(s, true, 2) },
		"ArgMax":           func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].ArgMax(s, 2) },
		"ArgMin":           func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].ArgMin(s, 1) },
		"CumSum":           func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].CumSum(s, 1) },
		"CumProd":          func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].CumProd(s, 1) },
		"Quantile":         func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].Quantile(s, 0.3, 2, true) },
		"Softmax":          func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].Softmax(s, 2) },
		"LogSoftmax":       func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].LogSoftmax(s, 1) },
		"LogSumExp":        func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].LogSumExp(s, false, 1, 2) },
		"Sort":             func(s *torch.Scope, g tensors) *torch.Tensor { v, _ := g["x"].Sort(s, 2, true); return v },
		"SortIndices":      func(s *torch.Scope, g tensors) *torch.Tensor { _, i := g["x"].Sort(s, 2, true); return i },
		"SearchSorted":     func(s *torch.Scope, g tensors) *torch.Tensor { return g["sortd"].SearchSorted(s, g["p"], true) },
		"Linear":           func(s *torch.Scope, g tensors) *torch.Tensor { return g["m1"].Linear(s, g["lw"], g["lb"]) },
		"LinearNoBias":     func(s *torch.Scope, g tensors) *torch.Tensor { return g["m1"].Linear(s, g["lw"], nil) },
		"Conv2D": func(s *torch.Scope, g tensors) *torch.Tensor {
			return g["img"].Conv2D(s, g["w"], g["wb"], torch.Conv2DOptions{Stride: 2, Padding: 1, Groups: 2})
		},
		"Conv2DDilated": func(s *torch.Scope, g tensors) *torch.Tensor {
			return g["img"].Narrow(s, 1, 0, 2).Conv2D(s, g["w"], nil, torch.Conv2DOptions{Dilation: 2})
		},
		"GroupNorm": func(s *torch.Scope, g tensors) *torch.Tensor { return g["img"].GroupNorm(s, 2, g["g"], g["gb"], 1e-6) },
		"LayerNorm": func(s *torch.Scope, g tensors) *torch.Tensor {
			return g["x"].LayerNorm(s, []int{4}, g["g"], g["gb"], 1e-5)
		},
		"BatchNorm": func(s *torch.Scope, g tensors) *torch.Tensor {
			return g["img"].BatchNorm(s, g["g"], g["gb"], g["gb"], g["g"].Abs(s), 1e-3)
		},
		"AvgPool2D":         func(s *torch.Scope, g tensors) *torch.Tensor { return g["img"].AvgPool2D(s, 2) },
		"AdaptiveAvgPool2D": func(s *torch.Scope, g tensors) *torch.Tensor { return g["img"].AdaptiveAvgPool2D(s, 2, 3) },
		"MaxPool2D":         func(s *torch.Scope, g tensors) *torch.Tensor { return g["img"].MaxPool2D(s, 3, 2, 1) },
		"UpsampleNearest": func(s *torch.Scope, g tensors) *torch.Tensor {
			return g["img"].Narrow(s, 1, 0, 1).UpsampleNearest(s, 2)
		},
		"InterpolateNearest":    resized(4, 9, torch.Nearest),
		"InterpolateBilinear":   resized(9, 4, torch.Bilinear),
		"InterpolateBicubic":    resized(9, 4, torch.Bicubic),
		"InterpolateBilinearAA": resized(3, 3, torch.BilinearAntialias),
		"InterpolateBicubicAA":  resized(3, 3, torch.BicubicAntialias),
		"Pad": func(s *torch.Scope, g tensors) *torch.Tensor {
			return one(s, g).Pad(s, []int{1, 2, 0, 1}, torch.PadConstant, 0.5)
		},
		"PadReflect": func(s *torch.Scope, g tensors) *torch.Tensor {
			return one(s, g).Pad(s, []int{1, 2, 2, 1}, torch.PadReflect, 0)
		},
		"PadReplicate": func(s *torch.Scope, g tensors) *torch.Tensor {
			return one(s, g).Pad(s, []int{1, 2, 2, 1}, torch.PadReplicate, 0)
		},
		"Attention": func(s *torch.Scope, g tensors) *torch.Tensor {
			return torch.Attention(s, g["q"], g["k"], g["v"], torch.AttentionOptions{})
		},
		"AttentionMask": func(s *torch.Scope, g tensors) *torch.Tensor {
			return torch.Attention(s, g["q"], g["k"], g["v"], torch.AttentionOptions{Mask: g["attn_mask"], Scale: 0.3})
		},
		"AttentionCausal": func(s *torch.Scope, g tensors) *torch.Tensor {
			return torch.Attention(s, g["q"], g["q"], g["q"], torch.AttentionOptions{Causal: true})
		},
	} {
		opCases[name] = f
	}
	for name, f := range map[string]func(s *torch.Scope, g tensors) *torch.Tensor{
		"AddBF16F32": func(s *torch.Scope, g tensors) *torch.Tensor {
			return g["half"].To(s, torch.BFloat16).Add(s, g["holes"])
		},
		"AddU8Int32":   func(s *torch.Scope, g tensors) *torch.Tensor { return g["bytes"].Add(s, g["ints"]) },
		"AddBoolInt":   func(s *torch.Scope, g tensors) *torch.Tensor { return g["whole"].GtScalar(s, 0).Add(s, g["whole"]) },
		"MulInt32Half": func(s *torch.Scope, g tensors) *torch.Tensor { return g["ints"].Mul(s, g["half"]) },
		"AddF32F64":    func(s *torch.Scope, g tensors) *torch.Tensor { return g["holes"].Add(s, g["wide"]) },
		"AddZeroDimF64": func(s *torch.Scope, g tensors) *torch.Tensor {
			return g["holes"].Add(s, torch.Full(s, 0.1, torch.Float64))
		},
		"MulScalarIntFloat": func(s *torch.Scope, g tensors) *torch.Tensor { return g["whole"].MulScalar(s, 1.5) },
		"DivScalarInt":      func(s *torch.Scope, g tensors) *torch.Tensor { return g["whole"].DivScalar(s, 4) },
		"PowScalarInt":      func(s *torch.Scope, g tensors) *torch.Tensor { return g["whole"].PowScalar(s, 2) },
		"ClampIntFloat":     func(s *torch.Scope, g tensors) *torch.Tensor { return g["whole"].Clamp(s, -0.5, 2) },
		"MaxNaN":            func(s *torch.Scope, g tensors) *torch.Tensor { return g["holes"].Max(s) },
		"MinDimNaN":         func(s *torch.Scope, g tensors) *torch.Tensor { return g["holes"].MinDim(s, false, 1) },
		"SumEmpty":          func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].Narrow(s, 0, 0, 0).Sum(s) },
		"MeanEmpty":         func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].Narrow(s, 0, 0, 0).Mean(s) },
		"SumBool":           func(s *torch.Scope, g tensors) *torch.Tensor { return g["mask"].SumDim(s, false, 0, 1) },
		"CatPromote": func(s *torch.Scope, g tensors) *torch.Tensor {
			return torch.Cat(s, []*torch.Tensor{g["whole"], g["holes"]}, 0)
		},
		"SumHalf": func(s *torch.Scope, g tensors) *torch.Tensor { return g["half"].Sum(s) },
		"LinearBF16": func(s *torch.Scope, g tensors) *torch.Tensor {
			return g["m1"].To(s, torch.BFloat16).Linear(s, g["lw"].To(s, torch.BFloat16), g["lb"].To(s, torch.BFloat16))
		},
		"LinearF64": func(s *torch.Scope, g tensors) *torch.Tensor {
			return g["m1"].To(s, torch.Float64).Linear(s, g["lw"].To(s, torch.Float64), g["lb"].To(s, torch.Float64))
		},
		"ConvBF16": func(s *torch.Scope, g tensors) *torch.Tensor {
			return g["img"].To(s, torch.BFloat16).Conv2D(s, g["w"].To(s, torch.BFloat16), nil, torch.Conv2DOptions{Groups: 2})
		},
		"SoftmaxHalf":   func(s *torch.Scope, g tensors) *torch.Tensor { return g["half"].Softmax(s, 1) },
		"IsFiniteHoles": func(s *torch.Scope, g tensors) *torch.Tensor { return g["holes"].IsFinite(s) },
		"WhereHoles": func(s *torch.Scope, g tensors) *torch.Tensor {
			return torch.Where(s, g["holes"].IsFinite(s), g["holes"], torch.Scalar(s, float32(-1)))
		},
		"MatMulBatch":   func(s *torch.Scope, g tensors) *torch.Tensor { return g["bm"].MatMul(s, g["m2"]) },
		"MatMulBatches": func(s *torch.Scope, g tensors) *torch.Tensor { return g["bm"].MatMul(s, g["bm"].Transpose(s, 1, 2)) },
		"MatMulVector":  func(s *torch.Scope, g tensors) *torch.Tensor { return g["m1"].MatMul(s, g["row"]) },
		"IndexTwo": func(s *torch.Scope, g tensors) *torch.Tensor {
			return g["x"].Index(s, g["idx"], torch.FromSlice(s, []int64{2, 0, 1}))
		},
		"IndexPutAdd": func(s *torch.Scope, g tensors) *torch.Tensor {
			x := g["x"].Clone(s)
			x.IndexPutInPlace(s, []*torch.Tensor{g["idx"]}, torch.Scalar(s, float32(9)), true)
			return x
		},
		"SliceNegative":  func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].Slice(s, 1, -2, 3, 1) },
		"SelectNegative": func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].Select(s, -1, -1) },
		"ConvPoint": func(s *torch.Scope, g tensors) *torch.Tensor {
			return g["img"].Conv2D(s, g["w"].Narrow(s, 2, 0, 1).Narrow(s, 3, 0, 1).Repeat(s, 1, 2, 1, 1), nil, torch.Conv2DOptions{})
		},
		"ConvChannelsLast": func(s *torch.Scope, g tensors) *torch.Tensor {
			return g["img"].ChannelsLast(s).Conv2D(s, g["w"], g["wb"], torch.Conv2DOptions{Padding: 1, Groups: 2})
		},
		"GroupNormPlain": func(s *torch.Scope, g tensors) *torch.Tensor { return g["img"].GroupNorm(s, 4, nil, nil, 1e-5) },
		"LayerNormPlain": func(s *torch.Scope, g tensors) *torch.Tensor { return g["x"].LayerNorm(s, []int{3, 4}, nil, nil, 1e-5) },
		"MaskBool": func(s *torch.Scope, g tensors) *torch.Tensor {
			return torch.Attention(s, g["q"], g["k"], g["v"], torch.AttentionOptions{Mask: g["attn_mask"].GtScalar(s, 0)})
		},
		"ClipGradNorm":      clipped(1.5, "x", "m1", "gb"),
		"ClipGradNormLoose": clipped(1e3, "x", "m1"),
		"ClipGradNormF64":   clipped(0.5, "wide"),
		"GradNorm": func(s *torch.Scope, g tensors) *torch.Tensor {
			var params []*torch.Tensor
			for _, name := range []string{"x", "m1"} {
				p := torch.ZerosLike(s, g[name])
				p.SetGrad(g[name])
				params = append(params, p)
			}
			return torch.GradNorm(s, params)
		},
		"Empty": func(s *torch.Scope, g tensors) *torch.Tensor {
			x := torch.Empty(s, torch.Int32, 2, 3)
			x.FillInPlace(s, 7)
			return x
		},
		"CountNonFinite": func(s *torch.Scope, g tensors) *torch.Tensor {
			return torch.Scalar(s, int64(torch.CountNonFinite(s, []*torch.Tensor{g["holes"], g["x"]})))
		},
		"ForeachAdd": func(s *torch.Scope, g tensors) *torch.Tensor {
			return flat(s, torch.ForeachAdd(s, []*torch.Tensor{g["x"], g["row"]}, []*torch.Tensor{g["y"], g["row"]}, 0.5)...)
		},
		"ForeachSqrt": func(s *torch.Scope, g tensors) *torch.Tensor {
			return flat(s, torch.ForeachSqrt(s, []*torch.Tensor{g["p"], g["sortd"]})...)
		},
	} {
		opCases[name] = f
	}
}

// flat joins all elements of the tensors into one row.
func flat(s *torch.Scope, ts ...*torch.Tensor) *torch.Tensor {
	rows := make([]*torch.Tensor, len(ts))
	for i, x := range ts {
		rows[i] = x.Reshape(s, -1)
	}
	return torch.Cat(s, rows, 0)
}

// clipped is the norm, followed by the gradients that ClipGradNorm leaves.
func clipped(limit float64, names ...string) func(s *torch.Scope, g tensors) *torch.Tensor {
	return func(s *torch.Scope, g tensors) *torch.Tensor {
		var params, grads []*torch.Tensor
		for _, name := range names {
			p := torch.ZerosLike(s, g[name])
			p.SetGrad(g[name].Clone(s))
			params = append(params, p)
		}
		total := torch.ClipGradNorm(s, params, limit)
		for _, p := range params {
			grads = append(grads, p.Grad(s))
		}
		return flat(s, append([]*torch.Tensor{total}, grads...)...)
	}
}

// one is the first channel of the first image.
func one(s *torch.Scope, g tensors) *torch.Tensor {
	return g["img"].Narrow(s, 0, 0, 1).Narrow(s, 1, 0, 1)
}

func resized(h, w int, mode torch.InterpolateMode) func(s *torch.Scope, g tensors) *torch.Tensor {
	return func(s *torch.Scope, g tensors) *torch.Tensor { return one(s, g).Interpolate(s, h, w, mode) }
}

// tolerance is absolute and relative: the same kernels run on the same type of machine, so only vector widths may reorder
// sums. 1e-6 of values near 1 is 8 units in the last place of float32; of the 16-bit types it is two units, as their products
// may be added up in float32 or not. Integers, bools and shapes are equal.
func tolerance(d torch.DType) (atol, rtol float64) {
	switch d {
	case torch.Float64:
		return 1e-14, 1e-14
	case torch.Float32:
		return 1e-6, 2e-6
	case torch.Float16:
		return 1e-3, 2e-3
	case torch.BFloat16:
		return 8e-3, 1.6e-2
	default:
		return 0, 0
	}
}

// Every case equals PyTorch's.
func TestOperatorsEqualPyTorch(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		in, _ := torchtest.Golden(t, s, "testdata/ops.safetensors")
		results := 0
		for name, want := range in {
			name, ok := cutPrefix(name, "out.")
			if !ok {
				continue
			}
			results++
			f, ok := opCases[name]
			if !ok {
				t.Errorf("the golden file has %s, this test has not", name)
				continue
			}
			require.NoError(t, s.Run(func(s *torch.Scope) error {
				got := f(s, in)
				if name == "Arange" {
					require.Equal(t, torch.Int64, got.DType())
				}
				atol, rtol := tolerance(want.DType())
				torchtest.Close(t, name, got, want, atol, rtol)
				return nil
			}), name)
		}
		require.Equal(t, len(opCases), results)
		return nil
	}))
}

func cutPrefix(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || s[:len(prefix)] != prefix {
		return s, false
	}
	return s[len(prefix):], true
}

// The same on a GPU, within what its other order of sums changes.
func TestOperatorsOnCUDA(t *testing.T) {
	torchtest.SkipIfNoCUDA(t)
	require.NoError(t, torch.Run(torch.CUDA(0), func(s *torch.Scope) error {
		in, _ := torchtest.Golden(t, s, "testdata/ops.safetensors")
		for name, f := range opCases {
			got := f(s, in)
			require.True(t, got.Device().IsCUDA(), name)
			atol, rtol := tolerance(got.DType())
			torchtest.Close(t, name, got, in["out."+name], max(atol, 1e-4), max(rtol, 1e-4))
		}
		return nil
	}))
}

// No wrapper is left out: after these tests every operator that a wrapper names has been called, and every method that
// makes tensors is in the table above or named here with the test that has it.
func TestEveryWrapperRuns(t *testing.T) {
	torch.ForgetOps()
	TestOperatorsEqualPyTorch(t)
	TestDrawsEqualPyTorch(t)
	TestForeach(t)
	TestDropout(t)
	TestPackedConvolutions(t)
	TestPackedLinear(t)
	TestProduct(t)
	TestVersion(t)
	TestAddProductInPlace(t)
	TestAlias(t)
	TestGroupNormSiLUOfExtremes(t)
	TestConv3x3Derivatives(t)
	require.Empty(t, torch.UnusedOps())

	elsewhere := map[string]string{
		"AddProductInPlace": "TestAddProductInPlace", "Alias": "TestAlias", "Conv3x3": "TestConv3x3", "GroupNormSiLU": "TestGroupNormSiLU", "PackConv2D": "TestPackedConvolutions", "PackedConv2D": "TestPackedConvolutions", "PackLinear": "TestPackedLinear", "Product": "TestProduct", "ProductConv2D": "TestProduct", "PackedLinear": "TestPackedLinear",
		"Backward": "TestBackward", "Grad": "TestBackward", "Share": "TestShare", "ToDevice": "TestCUDA",
		"Bernoulli": "TestDrawsEqualPyTorch", "Multinomial": "TestDrawsEqualPyTorch", "NormalInPlace": "TestDrawsEqualPyTorch",
		"UniformInPlace": "TestDrawsEqualPyTorch", "Dropout": "TestDropout", "ExpandAs": "TestShapesOf", "IndexPutInPlace": "TestOperatorsEqualPyTorch", "Interpolate": "TestOperatorsEqualPyTorch",
	}
	methods, scope := reflect.TypeFor[*torch.Tensor](), reflect.TypeFor[*torch.Scope]()
	count := 0
	for m := range methods.Methods() {
		if m.Type.NumIn() < 2 || m.Type.In(1) != scope {
			continue
		}
		count++
		if _, ok := opCases[m.Name]; !ok && elsewhere[m.Name] == "" {
			t.Errorf("no case calls %s", m.Name)
		}
	}
	require.Greater(t, count, 120)
}
