package torch_test

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

type function = func(s *torch.Scope, xs tensorList) *torch.Tensor

// quotient is the derivative of f at xs in the direction of vs by central differences of fourth order,
// (8·(f(h)-f(-h)) - (f(2h)-f(-2h)))/12h: with float64 and h = 1e-4, rounding leaves some 1e-12 of f's size, the step less.
func quotient(s *torch.Scope, f function, xs, vs tensorList) *torch.Tensor {
	const h = 1e-4
	at := func(d float64) *torch.Tensor {
		return s.Tidy(func(s *torch.Scope) *torch.Tensor {
			moved := make(tensorList, len(xs))
			for i, x := range xs {
				moved[i] = x.Clone(s)
				if vs[i] != nil {
					moved[i].AddScaledInPlace(s, vs[i], d)
				}
			}
			return f(s, moved)
		})
	}
	near, far := at(h).Sub(s, at(-h)), at(2*h).Sub(s, at(-2*h))
	return near.MulScalar(s, 8).Sub(s, far).DivScalar(s, 12*h)
}

// forwardCase is a function of float64 tensors of the given shapes, drawn from the standard normal distribution.
type forwardCase struct {
	shapes [][]int
	f      function
}

func forwardCases(s *torch.Scope) map[string]forwardCase {
	g := torch.NewGenerator(s, 5)
	random := func(shape ...int) *torch.Tensor { return torch.Randn(s, g, torch.Float64, shape...) }
	indices := torch.FromSlice(s, []int64{2, 0, 2, 1})
	rows := torch.FromSlice(s, []int64{0, 2, 1, 2, 0, 1, 1, 0, 2, 1, 2, 0}, 3, 4)
	mask := torch.FromSlice(s, []bool{true, false, true, true, false, true, true, false, true, true, true, false}, 3, 4)
	w, b, norm := random(6, 4, 3, 3), random(6), random(4)
	img, mat, row := []int{2, 4, 6, 6}, []int{3, 4}, []int{4}

	cases := map[string]forwardCase{}
	add := func(name string, f function, shapes ...[]int) { cases[name] = forwardCase{shapes, f} }
	unary := func(name string, f func(x *torch.Tensor, s *torch.Scope) *torch.Tensor, shape []int) {
		add(name, func(s *torch.Scope, xs tensorList) *torch.Tensor { return f(xs[0], s) }, shape)
	}
	positive := func(name string, f func(x *torch.Tensor, s *torch.Scope) *torch.Tensor) {
		unary(name, func(x *torch.Tensor, s *torch.Scope) *torch.Tensor { return f(x.Square(s).AddScalar(s, 0.3), s) }, mat)
	}
	binary := func(name string, f func(x *torch.Tensor, s *torch.Scope, y *torch.Tensor) *torch.Tensor, shapes ...[]int) {
		add(name, func(s *torch.Scope, xs tensorList) *torch.Tensor { return f(xs[0], s, xs[1]) }, shapes...)
	}
	inPlace := func(name string, f func(s *torch.Scope, x, y *torch.Tensor), shapes ...[]int) {
		add(name, func(s *torch.Scope, xs tensorList) *torch.Tensor {
			x := xs[0].MulScalar(s, 2)
			f(s, x, xs[len(xs)-1])
			return x
		}, shapes...)
	}

	// Layers, with tangents for the weights too where they are inputs.
	add("linear", func(s *torch.Scope, xs tensorList) *torch.Tensor { return xs[0].Linear(s, xs[1], xs[2]) }, mat, []int{5, 4}, []int{5})
	add("linear without bias", func(s *torch.Scope, xs tensorList) *torch.Tensor { return xs[0].Linear(s, w.Reshape(s, -1, 4), nil) }, []int{2, 3, 4})
	conv := func(o torch.Conv2DOptions) function {
		return func(s *torch.Scope, xs tensorList) *torch.Tensor { return xs[0].Conv2D(s, w, b, o) }
	}
	add("conv", conv(torch.Conv2DOptions{Padding: 1}), img)
	add("conv, stride 2", conv(torch.Conv2DOptions{Padding: 1, Stride: 2}), img)
	add("conv, dilation 2", conv(torch.Conv2DOptions{Padding: 2, Dilation: 2}), img)
	add("conv, weights", func(s *torch.Scope, xs tensorList) *torch.Tensor {
		return xs[0].Conv2D(s, xs[1], xs[2], torch.Conv2DOptions{Stride: 2, Groups: 2})
	}, img, []int{6, 2, 3, 3}, []int{6})
	add("group norm", func(s *torch.Scope, xs tensorList) *torch.Tensor { return xs[0].GroupNorm(s, 2, norm, norm, 1e-5) }, img)
	add("group norm, weights", func(s *torch.Scope, xs tensorList) *torch.Tensor { return xs[0].GroupNorm(s, 2, xs[1], xs[2], 1e-5) }, img, row, row)
	add("group norm, bare", func(s *torch.Scope, xs tensorList) *torch.Tensor { return xs[0].GroupNorm(s, 4, nil, nil, 1e-5) }, img)
	add("layer norm", func(s *torch.Scope, xs tensorList) *torch.Tensor { return xs[0].LayerNorm(s, row, norm, norm, 1e-5) }, mat)
	add("layer norm, weights", func(s *torch.Scope, xs tensorList) *torch.Tensor { return xs[0].LayerNorm(s, row, xs[1], xs[2], 1e-5) }, []int{2, 3, 4}, row, row)
	add("layer norm, bare", func(s *torch.Scope, xs tensorList) *torch.Tensor { return xs[0].LayerNorm(s, row, nil, nil, 1e-5) }, mat)
	add("batch norm", func(s *torch.Scope, xs tensorList) *torch.Tensor {
		return xs[0].BatchNorm(s, norm, norm, norm, norm.Square(s), 1e-5)
	}, img)
	add("dropout", func(s *torch.Scope, xs tensorList) *torch.Tensor {
		return xs[0].Sin(s).Dropout(s, 0.4, torch.NewGenerator(s, 3))
	}, img)
	add("embedding", func(s *torch.Scope, xs tensorList) *torch.Tensor { return xs[0].Embedding(s, indices).Mul(s, xs[1]) }, []int{3, 5}, []int{4, 5})
	unary("avg pool", func(x *torch.Tensor, s *torch.Scope) *torch.Tensor { return x.Square(s).AvgPool2D(s, 2) }, img)
	unary("adaptive avg pool", func(x *torch.Tensor, s *torch.Scope) *torch.Tensor { return x.Square(s).AdaptiveAvgPool2D(s, 4, 1) }, img)
	unary("max pool", func(x *torch.Tensor, s *torch.Scope) *torch.Tensor { return x.Square(s).MaxPool2D(s, 3, 2, 1) }, img)
	unary("upsample nearest", func(x *torch.Tensor, s *torch.Scope) *torch.Tensor { return x.Square(s).UpsampleNearest(s, 2) }, img)
	for name, mode := range map[string]torch.InterpolateMode{
		"nearest": torch.Nearest, "bilinear": torch.Bilinear, "bicubic": torch.Bicubic,
		"bilinear antialias": torch.BilinearAntialias, "bicubic antialias": torch.BicubicAntialias,
	} {
		unary("interpolate "+name, func(x *torch.Tensor, s *torch.Scope) *torch.Tensor { return x.Square(s).Interpolate(s, 4, 9, mode) }, img)
	}
	for _, mode := range []torch.PadMode{torch.PadConstant, torch.PadReflect, torch.PadReplicate} {
		unary("pad "+string(mode), func(x *torch.Tensor, s *torch.Scope) *torch.Tensor {
			return x.Square(s).Pad(s, []int{0, 1, 2, 1}, mode, 0)
		}, img)
	}

	// Attention, by the operator's own choice among its kernels without tangents.
	attend := func(o torch.AttentionOptions) function {
		return func(s *torch.Scope, xs tensorList) *torch.Tensor { return torch.Attention(s, xs[0], xs[1], xs[2], o) }
	}
	q, kv := []int{2, 2, 5, 4}, []int{2, 2, 7, 4}
	add("attention", attend(torch.AttentionOptions{}), q, kv, kv)
	add("attention, scale", attend(torch.AttentionOptions{Scale: 0.7}), q, kv, kv)
	add("attention, causal", attend(torch.AttentionOptions{Causal: true}), kv, kv, kv)
	add("attention, mask", attend(torch.AttentionOptions{Mask: random(5, 7)}), q, kv, kv)
	allowed := random(5, 7).GtScalar(s, -0.5)
	allowed.Select(s, 0, 3).FillInPlace(s, 0) // which may attend to nothing
	add("attention, bool mask", attend(torch.AttentionOptions{Mask: allowed}), q, kv, kv)
	query := random(q...)
	add("attention, learned mask", func(s *torch.Scope, xs tensorList) *torch.Tensor {
		return torch.Attention(s, query, query, query, torch.AttentionOptions{Mask: xs[0]})
	}, []int{5, 5})
	add("attention, one operand", func(s *torch.Scope, xs tensorList) *torch.Tensor {
		x := xs[0].Reshape(s, 2, 3, 2, 4, 5).Transpose(s, 3, 4) // as the U-Net cuts queries, keys and values
		return torch.Attention(s, x.Select(s, 1, 0), x.Select(s, 1, 1), x.Select(s, 1, 2), torch.AttentionOptions{})
	}, []int{2, 24, 5})

	// Elementwise.
	for name, f := range map[string]func(x *torch.Tensor, s *torch.Scope) *torch.Tensor{
		"neg": (*torch.Tensor).Neg, "exp": (*torch.Tensor).Exp, "expm1": (*torch.Tensor).Expm1, "square": (*torch.Tensor).Square,
		"abs": (*torch.Tensor).Abs, "sin": (*torch.Tensor).Sin, "cos": (*torch.Tensor).Cos, "atan": (*torch.Tensor).Atan,
		"erf": (*torch.Tensor).Erf, "sigmoid": (*torch.Tensor).Sigmoid, "tanh": (*torch.Tensor).Tanh, "silu": (*torch.Tensor).SiLU,
		"relu": (*torch.Tensor).ReLU, "softplus": (*torch.Tensor).Softplus, "round": (*torch.Tensor).Round, "floor": (*torch.Tensor).Floor,
		"sign": (*torch.Tensor).Sign, "sum": (*torch.Tensor).Sum, "mean": (*torch.Tensor).Mean, "norm": (*torch.Tensor).Norm,
		"max": (*torch.Tensor).Max, "min": (*torch.Tensor).Min, "contiguous": (*torch.Tensor).Contiguous, "clone": (*torch.Tensor).Clone,
	} {
		unary(name, f, mat)
	}
	for name, f := range map[string]func(x *torch.Tensor, s *torch.Scope) *torch.Tensor{
		"log": (*torch.Tensor).Log, "log1p": (*torch.Tensor).Log1p, "sqrt": (*torch.Tensor).Sqrt, "rsqrt": (*torch.Tensor).Rsqrt,
		"reciprocal": (*torch.Tensor).Reciprocal,
	} {
		positive(name, f)
	}
	unary("tan", func(x *torch.Tensor, s *torch.Scope) *torch.Tensor { return x.Sin(s).Tan(s) }, mat)
	unary("erfinv", func(x *torch.Tensor, s *torch.Scope) *torch.Tensor { return x.Sin(s).MulScalar(s, 0.8).Erfinv(s) }, mat)
	unary("gelu", func(x *torch.Tensor, s *torch.Scope) *torch.Tensor { return x.GELU(s, false) }, mat)
	unary("gelu, tanh", func(x *torch.Tensor, s *torch.Scope) *torch.Tensor { return x.GELU(s, true) }, mat)
	unary("scalars", func(x *torch.Tensor, s *torch.Scope) *torch.Tensor {
		return x.AddScalar(s, 1.5).MulScalar(s, 3).SubScalar(s, 0.25).DivScalar(s, 7).PowScalar(s, 3)
	}, mat)
	unary("clamp", func(x *torch.Tensor, s *torch.Scope) *torch.Tensor { return x.Clamp(s, -0.5, 0.6) }, mat)
	unary("clamp min", func(x *torch.Tensor, s *torch.Scope) *torch.Tensor { return x.ClampMin(s, -0.3) }, mat)
	for name, f := range map[string]func(x *torch.Tensor, s *torch.Scope, y *torch.Tensor) *torch.Tensor{
		"add": (*torch.Tensor).Add, "sub": (*torch.Tensor).Sub, "mul": (*torch.Tensor).Mul, "div": (*torch.Tensor).Div,
		"atan2": (*torch.Tensor).Atan2, "maximum": (*torch.Tensor).Maximum, "minimum": (*torch.Tensor).Minimum,
	} {
		binary(name, f, mat, mat)
		binary(name+", broadcast", f, mat, row)
		binary(name+", broadcast both", f, []int{3, 1}, row)
	}
	binary("pow", func(x *torch.Tensor, s *torch.Scope, y *torch.Tensor) *torch.Tensor {
		return x.Square(s).AddScalar(s, 0.3).Pow(s, y)
	}, mat, mat)
	binary("lerp", func(x *torch.Tensor, s *torch.Scope, y *torch.Tensor) *torch.Tensor { return x.Lerp(s, y, 0.3) }, mat, mat)
	add("addcmul", func(s *torch.Scope, xs tensorList) *torch.Tensor { return xs[0].AddCMul(s, xs[1], xs[2], 0.5) }, mat, mat, row)
	binary("matmul", (*torch.Tensor).MatMul, mat, []int{4, 2})
	binary("matmul, batches", (*torch.Tensor).MatMul, []int{2, 1, 3, 4}, []int{5, 4, 2})
	add("per sample", func(s *torch.Scope, xs tensorList) *torch.Tensor { return xs[0].Mul(s, xs[1].Cos(s).PerSample(s, 4)) }, img, []int{2})

	// In place, on tensors that carry a tangent, that do not, and through views.
	inPlace("add_", func(s *torch.Scope, x, y *torch.Tensor) { x.AddInPlace(s, y) }, mat, row)
	inPlace("sub_", func(s *torch.Scope, x, y *torch.Tensor) { x.SubInPlace(s, y) }, mat, row)
	inPlace("mul_", func(s *torch.Scope, x, y *torch.Tensor) { x.MulInPlace(s, y) }, mat, row)
	inPlace("div_", func(s *torch.Scope, x, y *torch.Tensor) { x.DivInPlace(s, y) }, mat, row)
	inPlace("scalars_", func(s *torch.Scope, x, _ *torch.Tensor) { x.AddScalarInPlace(s, 2); x.MulScalarInPlace(s, 0.5) }, mat)
	inPlace("add scaled_", func(s *torch.Scope, x, y *torch.Tensor) { x.AddScaledInPlace(s, y, -0.7) }, mat, mat)
	inPlace("lerp_", func(s *torch.Scope, x, y *torch.Tensor) { x.LerpInPlace(s, y, 0.3) }, mat, mat)
	inPlace("copy_", func(s *torch.Scope, x, y *torch.Tensor) { x.Select(s, 0, 1).CopyFrom(s, y) }, mat, row)
	inPlace("fill_", func(s *torch.Scope, x, _ *torch.Tensor) { x.Narrow(s, 1, 1, 2).FillInPlace(s, 3) }, mat)
	inPlace("zero_", func(s *torch.Scope, x, _ *torch.Tensor) { x.Select(s, 0, 2).ZeroInPlace(s) }, mat)
	inPlace("index put_", func(s *torch.Scope, x, y *torch.Tensor) { x.IndexPutInPlace(s, tensorList{indices}, y, true) }, mat, row)
	add("silu_", func(s *torch.Scope, xs tensorList) *torch.Tensor {
		x := xs[0].MulScalar(s, 2)
		if s.GradEnabled() {
			return x.SiLU(s)
		}
		x.SiLUInPlace(s)
		return x
	}, mat)
	add("in place on a constant", func(s *torch.Scope, xs tensorList) *torch.Tensor {
		x := torch.Ones(s, torch.Float64, 3, 4)
		x.AddInPlace(s, xs[0])
		return x.Sin(s)
	}, row)
	add("in place on a constant's view", func(s *torch.Scope, xs tensorList) *torch.Tensor {
		x := torch.Ones(s, torch.Float64, 3, 4)
		x.Select(s, 0, 1).MulInPlace(s, xs[0])
		return x.Exp(s)
	}, row)

	// Reductions.
	unary("sum, dims", func(x *torch.Tensor, s *torch.Scope) *torch.Tensor { return x.SumDim(s, true, 0, 2) }, img)
	unary("mean, dims", func(x *torch.Tensor, s *torch.Scope) *torch.Tensor { return x.MeanDim(s, false, 1, -1) }, img)
	unary("norm, dims", func(x *torch.Tensor, s *torch.Scope) *torch.Tensor { return x.NormDim(s, true, 1, 2, 3) }, img)
	unary("var", func(x *torch.Tensor, s *torch.Scope) *torch.Tensor { return x.Var(s, 1) }, mat)
	unary("std", func(x *torch.Tensor, s *torch.Scope) *torch.Tensor { return x.Std(s, 0) }, mat)
	unary("std, dims", func(x *torch.Tensor, s *torch.Scope) *torch.Tensor { return x.StdDim(s, 1, true, 1) }, mat)
	unary("max, dims", func(x *torch.Tensor, s *torch.Scope) *torch.Tensor { return x.MaxDim(s, false, 1) }, mat)
	unary("min, dims", func(x *torch.Tensor, s *torch.Scope) *torch.Tensor { return x.MinDim(s, true, 0) }, mat)
	unary("cumsum", func(x *torch.Tensor, s *torch.Scope) *torch.Tensor { return x.CumSum(s, 1) }, mat)
	unary("softmax", func(x *torch.Tensor, s *torch.Scope) *torch.Tensor { return x.Softmax(s, -1) }, mat)
	unary("log softmax", func(x *torch.Tensor, s *torch.Scope) *torch.Tensor { return x.LogSoftmax(s, 1) }, img)
	unary("logsumexp", func(x *torch.Tensor, s *torch.Scope) *torch.Tensor { return x.LogSumExp(s, false, 1) }, mat)

	// Shapes and choice.
	add("cat", func(s *torch.Scope, xs tensorList) *torch.Tensor {
		return torch.Cat(s, tensorList{xs[0], norm.Expand(s, 2, 4), xs[1]}, 0)
	}, mat, mat)
	add("stack", func(s *torch.Scope, xs tensorList) *torch.Tensor {
		return torch.Stack(s, tensorList{xs[0], xs[1], norm}, 1)
	}, row, row)
	unary("chunk", func(x *torch.Tensor, s *torch.Scope) *torch.Tensor { c := x.Chunk(s, 2, 1); return c[0].Mul(s, c[1]) }, img)
	unary("split", func(x *torch.Tensor, s *torch.Scope) *torch.Tensor { return x.Split(s, 3, 1)[1].Exp(s) }, img)
	unary("unbind", func(x *torch.Tensor, s *torch.Scope) *torch.Tensor { return x.Unbind(s, 1)[2].Exp(s) }, img)
	unary("views", func(x *torch.Tensor, s *torch.Scope) *torch.Tensor {
		x = x.Permute(s, 0, 2, 3, 1).Reshape(s, 2, 36, 4).Transpose(s, 1, 2).Unsqueeze(s, 0).Squeeze(s, 0)
		return x.Flatten(s, 0, 1).View(s, 4, 2, 36).Narrow(s, 2, 3, 30).Slice(s, 2, 1, 30, 4).Select(s, 1, 1)
	}, img)
	unary("channels last", func(x *torch.Tensor, s *torch.Scope) *torch.Tensor {
		return x.ChannelsLast(s).Conv2D(s, w, b, torch.Conv2DOptions{})
	}, img)
	unary("expand", func(x *torch.Tensor, s *torch.Scope) *torch.Tensor {
		return x.Unsqueeze(s, 0).Expand(s, 5, 3, 4).Sin(s)
	}, mat)
	unary("copies", func(x *torch.Tensor, s *torch.Scope) *torch.Tensor {
		return x.Flip(s, 1).Repeat(s, 2, 1).RepeatInterleave(s, 2, 1)
	}, mat)
	unary("index", func(x *torch.Tensor, s *torch.Scope) *torch.Tensor { return x.Index(s, indices, nil) }, mat)
	unary("index, mask", func(x *torch.Tensor, s *torch.Scope) *torch.Tensor { return x.Index(s, mask) }, mat)
	unary("index select", func(x *torch.Tensor, s *torch.Scope) *torch.Tensor { return x.IndexSelect(s, 1, indices) }, mat)
	unary("gather", func(x *torch.Tensor, s *torch.Scope) *torch.Tensor { return x.Gather(s, 0, rows) }, mat)
	unary("masked fill", func(x *torch.Tensor, s *torch.Scope) *torch.Tensor { return x.MaskedFill(s, mask, 2) }, mat)
	unary("triangles", func(x *torch.Tensor, s *torch.Scope) *torch.Tensor { return x.Tril(s, 1).Triu(s, -1) }, mat)
	unary("sort", func(x *torch.Tensor, s *torch.Scope) *torch.Tensor { y, _ := x.Sort(s, 1, true); return y }, mat)
	add("where", func(s *torch.Scope, xs tensorList) *torch.Tensor { return torch.Where(s, mask, xs[0], xs[1]) }, mat, row)
	return cases
}

// Every family of operators against difference quotients, in the direction of all inputs and of the first alone. quotient
// leaves less than 1e-10 of results of ordinary size; the tolerance is 1e-9 beside the largest element. With gradients on
// the derivative is the same.
func TestJVPAgainstDifferences(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		for name, c := range forwardCases(s) {
			for _, direction := range []string{"all", "first"} {
				require.NoError(t, s.Run(func(s *torch.Scope) error {
					g := torch.NewGenerator(s, 11)
					xs, vs := make(tensorList, len(c.shapes)), make(tensorList, len(c.shapes))
					for i, shape := range c.shapes {
						xs[i] = torch.Randn(s, g, torch.Float64, shape...)
						if i == 0 || direction == "all" {
							vs[i] = torch.Randn(s, g, torch.Float64, shape...)
						}
					}
					_, graphed := torch.JVP(s, c.f, xs, vs)
					return s.NoGrad(func(s *torch.Scope) error {
						y, dy := torch.JVP(s, c.f, xs, vs)
						want := quotient(s, c.f, xs, vs)
						scale := 1 + want.Abs(s).Max(s).Item()
						torchtest.Close(t, name+": y", y, c.f(s, xs), 1e-13, 1e-13) // attention takes another path
						torchtest.Close(t, name+", "+direction, dy, want, 1e-9*scale, 0)
						torchtest.Close(t, name+", gradients on", graphed, dy, 1e-13*scale, 0)
						return nil
					})
				}), name)
			}
		}
		return nil
	}))
}

// The derivative that torch.func.jvp finds for a network of embedding, convolutions, group norm, attention and interpolation
// (scripts/golden/torch/jvp.py). In float64 only the order of sums differs.
func TestJVPEqualsPyTorch(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		w, _ := torchtest.Golden(t, s, "testdata/jvp.safetensors")
		net := func(s *torch.Scope, xs tensorList) *torch.Tensor {
			x, at := xs[0], xs[1]
			angles := at.Unsqueeze(s, 1).Mul(s, torch.Arange(s, 8, torch.Float64).AddScalar(s, 1))
			e := torch.Cat(s, tensorList{angles.Cos(s), angles.Sin(s)}, 1).Add(s, w["table"].Embedding(s, w["labels"])).SiLU(s)
			e = e.Linear(s, w["emb"], w["emb_b"]).Unsqueeze(s, -1).Unsqueeze(s, -1)
			h := x.Conv2D(s, w["conv_in"], w["conv_in_b"], torch.Conv2DOptions{Padding: 1})
			h = h.Add(s, e).GroupNorm(s, 4, w["norm"], w["norm_b"], 1e-5).SiLU(s)
			h = h.Conv2D(s, w["down"], w["down_b"], torch.Conv2DOptions{Padding: 1, Stride: 2})
			p := h.Flatten(s, 2, 3).Transpose(s, 1, 2)
			var heads tensorList
			for _, z := range p.Linear(s, w["qkv"], w["qkv_b"]).Chunk(s, 3, 2) {
				heads = append(heads, z.Reshape(s, 2, 16, 2, 4).Transpose(s, 1, 2))
			}
			a := torch.Attention(s, heads[0], heads[1], heads[2], torch.AttentionOptions{})
			p = p.Add(s, a.Transpose(s, 1, 2).Flatten(s, 2, 3).Linear(s, w["out"], w["out_b"]))
			h = p.Transpose(s, 1, 2).Reshape(s, h.Shape()...).UpsampleNearest(s, 2)
			scale := at.Square(s).AddScalar(s, 1).Sqrt(s).PerSample(s, 4)
			return x.Div(s, scale).Add(s, h.Conv2D(s, w["conv_out"], nil, torch.Conv2DOptions{Padding: 1}))
		}
		y, dy := torch.JVP(s, net, tensorList{w["x"], w["t"]}, tensorList{w["vx"], w["vt"]})
		torchtest.Close(t, "y", y, w["y"], 1e-12, 0)
		torchtest.Close(t, "dy", dy, w["dy"], 1e-12, 0)
		return nil
	}))
}

// cube is w·x³, whose derivatives are known.
func cube(w *torch.Tensor) function {
	return func(s *torch.Scope, xs tensorList) *torch.Tensor { return xs[0].PowScalar(s, 3).Mul(s, w) }
}

// With gradients on y carries the graph of f, and dy = 3w·x²·v one that leads to weights, inputs and tangents.
func TestJVPWithGradients(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		w, x, v := leaf(s, []float64{2, 3}), leaf(s, []float64{1, 2}), leaf(s, []float64{5, 7})
		y, dy := torch.JVP(s, cube(w), tensorList{x}, tensorList{v})
		require.Equal(t, []float64{2, 24}, torch.ToSlice[float64](y))
		require.Equal(t, []float64{30, 252}, torch.ToSlice[float64](dy))
		grads := func(of *torch.Tensor) (lists [][]float64) {
			for _, g := range torch.Grad(s, tensorList{of.Sum(s)}, tensorList{w, x, v}, torch.BackwardOptions{AllowUnused: true, RetainGraph: true}) {
				if g == nil {
					lists = append(lists, nil)
				} else {
					lists = append(lists, torch.ToSlice[float64](g))
				}
			}
			return lists
		}
		require.Equal(t, [][]float64{{1, 8}, {6, 36}, nil}, grads(y))
		require.Equal(t, [][]float64{{15, 84}, {60, 252}, {6, 36}}, grads(dy))
		require.False(t, dy.Detach(s).RequiresGrad())

		// A gradient inside f: the product of the second derivative with v, 6w·x·v.
		_, second := torch.JVP(s, func(s *torch.Scope, xs tensorList) *torch.Tensor {
			return torch.Grad(s, tensorList{cube(w)(s, xs).Sum(s)}, xs, torch.BackwardOptions{CreateGraph: true})[0]
		}, tensorList{x}, tensorList{v})
		require.Equal(t, []float64{60, 252}, torch.ToSlice[float64](second))

		return s.NoGrad(func(s *torch.Scope) error {
			y, dy := torch.JVP(s, cube(w), tensorList{x}, tensorList{v})
			require.Equal(t, []bool{false, false}, []bool{y.RequiresGrad(), dy.RequiresGrad()})
			return nil
		})
	}))
}

// What depends on the inputs and what does not.
func TestJVPConstants(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x, v := torch.FromSlice(s, []float64{1, 2}), torch.FromSlice(s, []float64{5, 7})
		derivative := func(f function, xs, vs tensorList) []float64 {
			y, dy := torch.JVP(s, f, xs, vs)
			require.Equal(t, y.Shape(), dy.Shape())
			return torch.ToSlice[float64](dy)
		}
		zero := []float64{0, 0}
		square := func(s *torch.Scope, xs tensorList) *torch.Tensor { return xs[0].Square(s) }
		require.Equal(t, zero, derivative(square, tensorList{x}, tensorList{nil}))
		require.Equal(t, zero, derivative(func(s *torch.Scope, _ tensorList) *torch.Tensor { return torch.Ones(s, torch.Float64, 2) }, tensorList{x}, tensorList{v}))
		require.Equal(t, zero, derivative(func(*torch.Scope, tensorList) *torch.Tensor { return x }, tensorList{x}, tensorList{v}), "a captured tensor")
		require.Equal(t, zero, derivative(func(*torch.Scope, tensorList) *torch.Tensor { return x }, nil, nil))
		require.Equal(t, zero, derivative(func(s *torch.Scope, xs tensorList) *torch.Tensor { return xs[0].Detach(s).Square(s) }, tensorList{x}, tensorList{v}))
		require.Equal(t, []float64{10, 28}, derivative(func(s *torch.Scope, xs tensorList) *torch.Tensor {
			return s.NoGradTidy(func(s *torch.Scope) *torch.Tensor { return xs[0].Square(s) })
		}, tensorList{x}, tensorList{v}), "NoGrad is about backward")
		require.Equal(t, []float64{5, 7}, derivative(func(s *torch.Scope, xs tensorList) *torch.Tensor {
			var c *torch.Tensor
			require.NoError(t, s.Inference(func(s *torch.Scope) error { c = s.Keep(xs[0].Square(s)); return nil }))
			return c.Add(s, xs[0])
		}, tensorList{x}, tensorList{v}), "what an inference scope makes is a constant")
		require.Equal(t, []float64{5, 7}, derivative(func(_ *torch.Scope, xs tensorList) *torch.Tensor { return xs[0] }, tensorList{x}, tensorList{v}))
		require.Equal(t, []float64{12, 12}, derivative(func(s *torch.Scope, xs tensorList) *torch.Tensor {
			return xs[0].Add(s, xs[1].Flip(s, 0))
		}, tensorList{x, x}, tensorList{v, v}), "one tensor for two inputs")

		// Indices go in without tangents; so do other dtypes.
		require.Equal(t, []float64{7, 5}, derivative(func(s *torch.Scope, xs tensorList) *torch.Tensor {
			return xs[0].IndexSelect(s, 0, xs[1])
		}, tensorList{x, torch.FromSlice(s, []int64{1, 0})}, tensorList{v, nil}))

		// Tensors whose elements share memory, or lie in another order than their tangents.
		wide := torch.FromSlice(s, []float64{3}).Expand(s, 2)
		require.Equal(t, []float64{30, 42}, derivative(square, tensorList{wide}, tensorList{v}))
		require.Equal(t, []float64{6, 12}, derivative(square, tensorList{x}, tensorList{wide}))
		m := torch.Arange(s, 6, torch.Float64).Reshape(s, 2, 3)
		require.Equal(t, []float64{0, 2, 12, 6, 8, 30}, derivative(square, tensorList{m.Transpose(s, 0, 1)}, tensorList{torch.FromSlice(s, []float64{5, 1. / 3, 6, 0.75, 2, 3}, 3, 2)}))

		// f may change its input, which changes x as without JVP, but not the tangent.
		derivative(func(s *torch.Scope, xs tensorList) *torch.Tensor { xs[0].MulScalarInPlace(s, 10); return xs[0] }, tensorList{x}, tensorList{v})
		require.Equal(t, []float64{10, 20}, torch.ToSlice[float64](x))
		require.Equal(t, []float64{5, 7}, torch.ToSlice[float64](v))

		for _, d := range []torch.DType{torch.Float32, torch.Float16, torch.BFloat16} {
			y, dy := torch.JVP(s, square, tensorList{x.To(s, d)}, tensorList{v.To(s, d)})
			require.Equal(t, []torch.DType{d, d}, []torch.DType{y.DType(), dy.DType()})
			require.Equal(t, []float64{100, 280}, torch.ToSlice[float64](dy.To(s, torch.Float64)))
		}
		_, dy := torch.JVP(s, func(s *torch.Scope, xs tensorList) *torch.Tensor { return xs[0].To(s, torch.Float32).Square(s) }, tensorList{x}, tensorList{v})
		require.Equal(t, []float32{100, 280}, torch.ToSlice[float32](dy))
		return nil
	}))
}

// carries tells whether a tensor still has a tangent: then it is not constant in another JVP.
func carries(t *testing.T, s *torch.Scope, x *torch.Tensor) bool {
	t.Helper()
	_, dy := torch.JVP(s, func(s *torch.Scope, xs tensorList) *torch.Tensor { return x.MulScalar(s, 1) }, nil, nil)
	return dy.Abs(s).Max(s).Item() != 0
}

// However f ends, what it left elsewhere is plain, what it made is freed, and the next JVP works.
func TestJVPLeavesNothing(t *testing.T) {
	boom := errors.New("boom")
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x, v := torch.FromSlice(s, []float64{1, 2}), torch.FromSlice(s, []float64{5, 7})
		x.SetRequiresGrad(true)
		other := torch.NewScope(torch.CPU)
		defer other.Close()
		changed, viewed := torch.Ones(s, torch.Float64, 2), torch.Ones(s, torch.Float64, 2, 2)
		for _, grad := range []bool{true, false} {
			jvp := func(end func(s *torch.Scope)) (kept tensorList) {
				in := s.NoGrad
				if grad {
					in = s.Run
				}
				defer func() {
					if r := recover(); r != nil && r != any(boom) {
						panic(r)
					}
				}()
				_ = in(func(outer *torch.Scope) error {
					before := torch.Live()
					y, dy := torch.JVP(outer, func(s *torch.Scope, xs tensorList) *torch.Tensor {
						kept = tensorList{xs[0].Sin(other), xs[0].View(other, 2, 1), xs[0].Share(other)}
						if !grad {
							changed.AddInPlace(s, xs[0])
							viewed.Select(s, 0, 1).AddInPlace(s, xs[0])
						}
						end(s)
						return xs[0].Square(s)
					}, tensorList{x}, tensorList{v})
					require.EqualValues(t, len(kept)+2, torch.Live()-before)
					require.Equal(t, grad, y.RequiresGrad())
					require.Equal(t, []float64{10, 28}, torch.ToSlice[float64](dy))
					require.False(t, carries(t, outer, y))
					require.False(t, carries(t, outer, dy))
					return nil
				})
				return kept
			}
			for name, end := range map[string]func(s *torch.Scope){
				"returns":        func(*torch.Scope) {},
				"operator fails": func(s *torch.Scope) { x.View(s, 7) },
				"panics":         func(*torch.Scope) { panic(boom) },
				"goroutine ends": func(*torch.Scope) { runtime.Goexit() },
			} {
				before := torch.Live()
				var kept tensorList
				var wg sync.WaitGroup
				wg.Go(func() { kept = jvp(end) })
				wg.Wait()
				require.EqualValues(t, 3, torch.Live()-before, name)
				for i, k := range append(kept, changed, viewed) {
					require.False(t, carries(t, s, k), "%s: tensor %d", name, i)
				}
			}
			_, dy := torch.JVP(s, cube(v), tensorList{x}, tensorList{v})
			require.Equal(t, []float64{75, 588}, torch.ToSlice[float64](dy))
		}
		return nil
	}))
}

// The memory of tangents goes with the derivative's handle: neither y, nor its graph, nor a kept tensor holds any.
func TestJVPFreesTangents(t *testing.T) {
	const MiB = 8
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x, w := torch.Ones(s, torch.Float32, MiB<<18), torch.Ones(s, torch.Float32, MiB<<18)
		w.SetRequiresGrad(true)
		v := torch.Ones(s, torch.Float32, MiB<<18)
		for _, c := range []struct {
			name string
			in   func(func(s *torch.Scope) error) error
			want float64 // MiB that y and its graph hold
		}{{"gradients off", s.NoGrad, MiB}, {"gradients on", s.Run, 3 * MiB}} { // the sine's operand, the cosine's and y
			require.NoError(t, c.in(func(s *torch.Scope) error {
				before := memory(t).Allocated
				y, dy := torch.JVP(s, func(s *torch.Scope, xs tensorList) *torch.Tensor {
					return xs[0].Mul(s, w).Sin(s).Cos(s).View(s, MiB, -1)
				}, tensorList{x}, tensorList{v})
				require.Equal(t, s.GradEnabled(), y.RequiresGrad())
				dy.Free()
				require.InDelta(t, c.want, float64(memory(t).Allocated-before)/(1<<20), 0.1, c.name)
				return nil
			}))
			require.NoError(t, s.Run(func(s *torch.Scope) error { // nothing is left of the graph's rings
				require.NoError(t, c.in(func(s *torch.Scope) error {
					torch.JVP(s, cube(w), tensorList{x}, tensorList{v})
					return nil
				}))
				return nil
			}))
		}
		return nil
	}))
}

// 10,000 JVPs, half of them with gradients on, keep the resident size: the last quarter's mean is within 3% of the second's.
func TestJVPKeepsMemoryFlat(t *testing.T) {
	steps := 10_000
	if testing.Short() {
		steps = 2000
	}
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := torch.NewGenerator(s, 1)
		w := torch.Randn(s, g, torch.Float32, 8, 8, 3, 3)
		w.SetRequiresGrad(true)
		x, v := torch.Randn(s, g, torch.Float32, 1, 8, 8, 8), torch.Randn(s, g, torch.Float32, 1, 8, 8, 8)
		live, allocated := torch.Live(), memory(t).Allocated
		var quarters [4]float64
		for k := range steps {
			in := s.Run
			if k%2 == 0 {
				in = s.NoGrad
			}
			if err := in(func(s *torch.Scope) error {
				torch.JVP(s, func(s *torch.Scope, xs tensorList) *torch.Tensor {
					return xs[0].Conv2D(s, w, nil, torch.Conv2DOptions{Padding: 1}).Softmax(s, 1).Exp(s).Square(s)
				}, tensorList{x}, tensorList{v})
				return nil
			}); err != nil {
				return err
			}
			quarters[k*4/steps] += residentKiB(t) / float64(steps/4)
		}
		require.Equal(t, live, torch.Live())
		require.Equal(t, allocated, memory(t).Allocated)
		t.Logf("resident size by quarter, KiB: %.0f", quarters)
		require.InEpsilon(t, quarters[1], quarters[3], 0.03)
		return nil
	}))
}

// JVPs of 16 goroutines at once, with gradients off and on, beside others that run plain operators on the same tensors.
func TestJVPConcurrent(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		w := leaf(s, []float64{2, 3})
		q := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float32, 1, 2, 6, 4)
		attended := torch.ToSlice[float32](torch.Attention(s, q, q, q, torch.AttentionOptions{}))
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				c := torch.NewScope(torch.CPU)
				defer c.Close()
				for k := range 25 {
					err := c.Run(func(s *torch.Scope) error {
						at, dir := float64(i+1), float64(k+1)
						x, v := torch.FromSlice(s, []float64{at, 2 * at}), torch.FromSlice(s, []float64{dir, -dir})
						y, dy := torch.JVP(s, cube(w), tensorList{x}, tensorList{v})
						require.Equal(t, []float64{2 * at * at * at, 24 * at * at * at}, torch.ToSlice[float64](y))
						require.Equal(t, []float64{6 * at * at * dir, -36 * at * at * dir}, torch.ToSlice[float64](dy))
						g := torch.Grad(s, tensorList{y.Sum(s)}, tensorList{w}, torch.BackwardOptions{})[0]
						require.Equal(t, []float64{at * at * at, 8 * at * at * at}, torch.ToSlice[float64](g))
						return s.NoGrad(func(s *torch.Scope) error {
							_, dy := torch.JVP(s, cube(w), tensorList{x}, tensorList{v})
							require.Equal(t, 6*at*at*dir, dy.Select(s, 0, 0).Item())
							require.Equal(t, attended, torch.ToSlice[float32](torch.Attention(s, q, q, q, torch.AttentionOptions{})), "the fused kernel's bits")
							return nil
						})
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		return nil
	}))
}

// Two goroutines, of which one waits for the other's turn, and a goroutine that works for f.
func TestJVPTakesTurns(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x, v := torch.FromSlice(s, []float64{1, 2}), torch.FromSlice(s, []float64{5, 7})
		var order []string
		second := make(chan struct{})
		torch.JVP(s, func(s *torch.Scope, xs tensorList) *torch.Tensor {
			started := make(chan struct{})
			go func() {
				defer close(second)
				c := torch.NewScope(torch.CPU)
				defer c.Close()
				close(started)
				torch.JVP(c, func(*torch.Scope, tensorList) *torch.Tensor { order = append(order, "second"); return x }, tensorList{x}, tensorList{v})
			}()
			<-started
			var y *torch.Tensor
			var wg sync.WaitGroup
			wg.Go(func() { y = xs[0].Square(s) })
			wg.Wait()
			order = append(order, "first")
			return y
		}, tensorList{x}, tensorList{v})
		<-second
		require.Equal(t, []string{"first", "second"}, order)
		return nil
	}))
}

func TestJVPRefuses(t *testing.T) {
	square := func(s *torch.Scope, xs tensorList) *torch.Tensor { return xs[0].Square(s) }
	// nested calls JVP in a scope of f's choice; f has nothing of it.
	nested := func(in func(s *torch.Scope, f func(s *torch.Scope))) func(s *torch.Scope, x *torch.Tensor) {
		return func(s *torch.Scope, x *torch.Tensor) {
			torch.JVP(s, func(s *torch.Scope, xs tensorList) *torch.Tensor {
				var err error
				in(s, func(s *torch.Scope) {
					err = torch.Catch(func() { torch.JVP(s, square, tensorList{x}, tensorList{x}) })
				})
				if err != nil {
					panic(err)
				}
				return xs[0]
			}, tensorList{x}, tensorList{x})
		}
	}
	checkpointed := func(s *torch.Scope, xs tensorList) *torch.Tensor {
		return torch.Checkpoint(s, func(s *torch.Scope, in tensorList) tensorList { return tensorList{in[0].Square(s)} }, xs[0])[0]
	}
	call := func(op string, args ...any) function {
		return func(s *torch.Scope, xs tensorList) *torch.Tensor {
			r, err := torch.Call(s, op, append([]any{xs[0], xs[0]}, args...)...)
			if err != nil {
				panic(err)
			}
			return r[0].(*torch.Tensor)
		}
	}
	for name, c := range map[string]struct {
		f    func(s *torch.Scope, x *torch.Tensor)
		want string
	}{
		"inference scope": {func(s *torch.Scope, x *torch.Tensor) {
			err := s.Inference(func(s *torch.Scope) error { torch.JVP(s, square, tensorList{x}, tensorList{x}); return nil })
			panic(err)
		}, "jvp: tensors of inference scopes cannot carry tangents: call JVP in a NoGrad scope"},
		"below an inference scope": {func(s *torch.Scope, x *torch.Tensor) {
			panic(s.Inference(func(s *torch.Scope) error {
				return s.NoGrad(func(s *torch.Scope) error { torch.JVP(s, square, tensorList{x}, tensorList{x}); return nil })
			}))
		}, "inference scopes"},
		"inference result": {func(s *torch.Scope, x *torch.Tensor) {
			torch.JVP(s, func(s *torch.Scope, xs tensorList) (y *torch.Tensor) {
				_ = s.Inference(func(s *torch.Scope) error { y = s.Keep(xs[0].Square(s)); return nil })
				return y
			}, tensorList{x}, tensorList{x})
		}, "the function's result has no derivative: want floating-point numbers, made outside inference scopes (operands: float64[3, 4])"},
		"no operator": {func(s *torch.Scope, x *torch.Tensor) {
			torch.JVP(s, call("aten::_cdist_forward", 2.0, nil), tensorList{x}, tensorList{x})
		}, "_cdist_forward has no forward-mode derivative in libtorch: use other operators, or Detach its operands"},
		"no operator inside": {func(s *torch.Scope, x *torch.Tensor) {
			torch.JVP(s, call("aten::cdist"), tensorList{x}, tensorList{x})
		}, "_cdist_forward has no forward-mode derivative in libtorch"},
		"counts": {func(s *torch.Scope, x *torch.Tensor) { torch.JVP(s, square, tensorList{x}, nil) }, "1 inputs and 0 tangents: want one for each input, nil for zero"},
		"shape": {func(s *torch.Scope, x *torch.Tensor) {
			torch.JVP(s, square, tensorList{x}, tensorList{x.Select(s, 0, 1)})
		}, "tangent 0 must have its input's shape, dtype and device (operands: float64[3, 4], float64[4])"},
		"dtype": {func(s *torch.Scope, x *torch.Tensor) {
			torch.JVP(s, square, tensorList{x, x}, tensorList{nil, x.To(s, torch.Float32)})
		}, "tangent 1 must have its input's shape, dtype and device (operands: float64[3, 4], float32[3, 4])"},
		"whole numbers": {func(s *torch.Scope, x *torch.Tensor) {
			i := x.To(s, torch.Int64)
			torch.JVP(s, square, tensorList{i}, tensorList{i})
		}, "input 0 is not floating-point: want nil for its tangent"},
		"nil input": {func(s *torch.Scope, x *torch.Tensor) { torch.JVP(s, square, tensorList{nil}, tensorList{x}) }, "an operand is nil"},
		"freed": {func(s *torch.Scope, x *torch.Tensor) {
			v := x.Clone(s)
			v.Free()
			torch.JVP(s, square, tensorList{x}, tensorList{v})
		}, "an operand was freed"},
		"nil result": {func(s *torch.Scope, x *torch.Tensor) {
			torch.JVP(s, func(*torch.Scope, tensorList) *torch.Tensor { return nil }, tensorList{x}, tensorList{x})
		}, "jvp: an operand is nil"},
		"freed result": {func(s *torch.Scope, x *torch.Tensor) {
			torch.JVP(s, func(s *torch.Scope, xs tensorList) *torch.Tensor { y := xs[0].Square(s); y.Free(); return y }, tensorList{x}, tensorList{x})
		}, "jvp: an operand was freed"},
		"indices": {func(s *torch.Scope, x *torch.Tensor) {
			torch.JVP(s, func(s *torch.Scope, xs tensorList) *torch.Tensor { return xs[0].ArgMax(s, 0) }, tensorList{x}, tensorList{x})
		}, "the function's result has no derivative"},
		"closed scope": {func(_ *torch.Scope, x *torch.Tensor) {
			c := torch.NewScope(torch.CPU)
			c.Close()
			torch.JVP(c, square, tensorList{x}, tensorList{x})
		}, "scope is closed"},
		"checkpoint": {func(s *torch.Scope, x *torch.Tensor) { torch.JVP(s, checkpointed, tensorList{x}, tensorList{x}) }, "a checkpoint has no forward-mode derivative: call JVP with gradients off"},
		"nested":     {nested(func(s *torch.Scope, f func(s *torch.Scope)) { f(s) }), "JVP must not be called inside another"},
		"nested in a scope": {nested(func(s *torch.Scope, f func(s *torch.Scope)) {
			_ = s.NoGrad(func(s *torch.Scope) error { f(s); return nil })
		}), "JVP must not be called inside another"},
		"nested in a new scope": {nested(func(_ *torch.Scope, f func(s *torch.Scope)) { c := torch.NewScope(torch.CPU); defer c.Close(); f(c) }), "JVP must not be called inside another"},
		"nested in a goroutine": {nested(func(s *torch.Scope, f func(s *torch.Scope)) { var wg sync.WaitGroup; wg.Go(func() { f(s) }); wg.Wait() }), "JVP must not be called inside another"},
		"nested in a checkpoint": {nested(func(s *torch.Scope, f func(s *torch.Scope)) {
			x := torch.Ones(s, torch.Float32, 1)
			x.SetRequiresGrad(true)
			n := 0
			torch.Checkpoint(s, func(s *torch.Scope, in tensorList) tensorList {
				if n++; n == 2 {
					f(s)
				}
				return tensorList{in[0].Square(s)}
			}, x)[0].Backward()
		}), "JVP must not be called inside another"},
	} {
		e := caught(t, func(s *torch.Scope) { c.f(s, torch.Randn(s, torch.NewGenerator(s, 1), torch.Float64, 3, 4)) })
		require.ErrorContains(t, e, c.want, name)
		require.NotContains(t, e.Error(), "\n", name)
	}
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			x := torch.FromSlice(s, []float64{3})
			_, dy := torch.JVP(s, checkpointed, tensorList{x}, tensorList{x})
			require.Equal(t, 18.0, dy.Item(), "without gradients a checkpoint only calls its function")
			return nil
		})
	}))
}

// The derivative of f(x, t) = sin(x·t) along a trajectory: x moves with velocity v, t with 1.
func ExampleJVP() {
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		x, at, v := torch.Scalar(s, 2.0), torch.Scalar(s, 0.25), torch.Scalar(s, -1.0)
		f := func(s *torch.Scope, in []*torch.Tensor) *torch.Tensor { return in[0].Mul(s, in[1]).Sin(s) }
		y, dy := torch.JVP(s, f, []*torch.Tensor{x, at}, []*torch.Tensor{v, torch.Scalar(s, 1.0)})
		fmt.Printf("%.4f %.4f\n", y.Item(), dy.Item()) // cos(x·t)·(v·t + x) = 1.75·cos(½)
		return nil
	})
	if err != nil {
		fmt.Println(err)
	}
	// Output: 0.4794 1.5358
}
