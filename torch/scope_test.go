package torch_test

import (
	"encoding/json"
	"errors"
	"math"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// caught runs f in a scope and returns the error its panic became.
func caught(t *testing.T, f func(s *torch.Scope)) *torch.Error {
	t.Helper()
	err := torch.Run(torch.CPU, func(s *torch.Scope) error { f(s); return nil })
	var e *torch.Error
	require.ErrorAs(t, err, &e)
	return e
}

func TestScopesFree(t *testing.T) {
	before := torch.Live()
	var outside, kept *torch.Tensor
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		require.Equal(t, torch.CPU, s.Device())
		outside = torch.Ones(s, torch.Float32, 3)
		require.NoError(t, s.Run(func(s *torch.Scope) error {
			kept = s.Keep(torch.Ones(s, torch.Float32, 2))
			torch.Ones(s, torch.Float32, 100)
			return nil
		}))
		require.Equal(t, before+2, torch.Live())
		require.False(t, kept.Freed())
		got := s.Tidy(func(s *torch.Scope) *torch.Tensor {
			for range 100 {
				torch.Ones(s, torch.Float32, 2)
			}
			return outside.Add(s, outside)
		})
		require.Equal(t, before+3, torch.Live())
		require.Equal(t, 6.0, got.Sum(s).Item())
		require.Same(t, outside, s.Tidy(func(*torch.Scope) *torch.Tensor { return outside }), "a tensor of an outer scope passes through")
		require.Nil(t, s.Tidy(func(*torch.Scope) *torch.Tensor { return nil }))
		got.Free()
		got.Free()
		require.True(t, got.Freed())

		// A tensor of an outer scope may be freed inside; a view outlives its base; freed ones do not trouble the scope.
		base := torch.Arange(s, 4, torch.Float32)
		view := s.Tidy(func(s *torch.Scope) *torch.Tensor {
			v := base.Narrow(s, 0, 2, 2)
			base.Free()
			return v
		})
		require.Equal(t, []float32{2, 3}, torch.ToSlice[float32](view))
		for range 10 {
			x := torch.Ones(s, torch.Float32, 2)
			view.Free()
			view = x
		}
		return nil
	}))
	require.Equal(t, before, torch.Live())
	require.True(t, kept.Freed())
	require.True(t, outside.Freed())

	s := torch.NewScope(torch.CPU)
	torch.Ones(s, torch.Float32, 2)
	s.Close()
	s.Close()
	require.Equal(t, before, torch.Live())
}

func TestErrorsFreeAndName(t *testing.T) {
	before := torch.Live()
	e := caught(t, func(s *torch.Scope) { torch.Ones(s, torch.Float32, 2, 3).Add(s, torch.Ones(s, torch.Float64, 4)) })
	require.Equal(t, "aten::add.Tensor", e.Op)
	require.Equal(t, "float32[2, 3], float64[4]", e.Shapes)
	require.ErrorContains(t, e, "must match")
	e = caught(t, func(s *torch.Scope) {
		torch.Ones(s, torch.Float32, 2, 3).MatMul(s, torch.Ones(s, torch.Int64, 3, 2))
	})
	require.Contains(t, e.Shapes, "int64[3, 2]")
	e = caught(t, func(s *torch.Scope) { torch.Ones(s, torch.Int64, 2).SetRequiresGrad(true) })
	require.ErrorContains(t, e, "int64[2]")
	e = caught(t, func(s *torch.Scope) { torch.Ones(s, torch.Float32, 2).View(s, 3) })
	require.ErrorContains(t, e, "view")
	e = caught(t, func(s *torch.Scope) { torch.Cat(s, []*torch.Tensor{torch.Ones(s, torch.Float32, 2), nil}, 0) })
	require.ErrorContains(t, e, "an operand is nil")
	e = caught(t, func(s *torch.Scope) { torch.FromSlice(s, []float32{1, 2}, 3) })
	require.ErrorContains(t, e, "holds 3 elements, the data has 2")
	e = caught(t, func(s *torch.Scope) { torch.FromSlice(s, []float32{1}, -1) })
	require.ErrorContains(t, e, "invalid shape")
	e = caught(t, func(s *torch.Scope) { torch.Ones(s, torch.Float32, 2).Item() })
	require.ErrorContains(t, e, "one element")
	e = caught(t, func(s *torch.Scope) { torch.ToSlice[int64](torch.Ones(s, torch.Float32, 2)) })
	require.ErrorContains(t, e, "want int64, got float32")
	e = caught(t, func(s *torch.Scope) { torch.Ones(s, torch.Float32, 2).Dim(1) })
	require.ErrorContains(t, e, "no dimension 1")
	e = caught(t, func(s *torch.Scope) { torch.Empty(s, torch.Float32, 1<<40, 1<<10) })
	require.ErrorIs(t, e, torch.ErrOutOfMemory)
	require.Equal(t, before, torch.Live())
}

// Wrong use of each kind of operation names the operation, the shapes and what is wrong.
func TestWrongUse(t *testing.T) {
	ones := func(s *torch.Scope, shape ...int) *torch.Tensor { return torch.Ones(s, torch.Float32, shape...) }
	for _, c := range []struct {
		f    func(s *torch.Scope)
		want string
	}{
		{func(s *torch.Scope) { ones(s, 2).AddInPlace(s, ones(s, 3)) }, "add_.Tensor: The size of tensor a (2) must match the size of tensor b (3) at non-singleton dimension 0 (operands: float32[2], float32[3])"},
		{func(s *torch.Scope) { ones(s, 2, 3).MatMul(s, ones(s, 2, 3)) }, "(operands: float32[2, 3], float32[2, 3])"},
		{func(s *torch.Scope) { ones(s, 2, 3).Linear(s, ones(s, 4, 4), nil) }, "(operands: float32[2, 3], float32[4, 4])"},
		{func(s *torch.Scope) { ones(s, 1, 3, 4, 4).Conv2D(s, ones(s, 8, 2, 3, 3), nil, torch.Conv2DOptions{}) }, "conv2d: Given groups=1, weight of size [8, 2, 3, 3], expected input[1, 3, 4, 4] to have 2 channels"},
		{func(s *torch.Scope) {
			ones(s, 1, 3, 4, 4).Conv2D(s, torch.Ones(s, torch.Float64, 8, 3, 3, 3), nil, torch.Conv2DOptions{})
		}, "conv2d: expected scalar type Float but found Double (operands: float32[1, 3, 4, 4], float64[8, 3, 3, 3])"},
		{func(s *torch.Scope) { ones(s, 1, 3, 4, 4).GroupNorm(s, 2, nil, nil, 1e-5) }, "divisible by num_groups"},
		{func(s *torch.Scope) { ones(s, 3, 4).LayerNorm(s, []int{5}, nil, nil, 1e-5) }, "layer_norm: Given normalized_shape=[5], expected input with shape [*, 5], but got input of size[3, 4] (operands: float32[3, 4])"},
		{func(s *torch.Scope) {
			torch.Attention(s, ones(s, 1, 1, 2, 3), ones(s, 1, 1, 2, 4), ones(s, 1, 1, 2, 3), torch.AttentionOptions{})
		}, "scaled_dot_product_attention"},
		{func(s *torch.Scope) { ones(s, 2, 2).Embedding(s, torch.FromSlice(s, []int64{5})) }, "embedding: index out of range in self (operands: float32[2, 2], int64[1])"},
		{func(s *torch.Scope) { ones(s, 2, 2).Embedding(s, ones(s, 1)) }, "embedding: Expected tensor for argument #1 'indices' to have one of the following scalar types: Long, Int"},
		{func(s *torch.Scope) { ones(s, 2).IndexSelect(s, 0, torch.FromSlice(s, []int64{2})) }, "index_select: index out of range"},
		{func(s *torch.Scope) { ones(s, 2).Index(s, torch.FromSlice(s, []int64{-3})) }, "index.Tensor: index -3 is out of bounds for dimension 0 with size 2"},
		{func(s *torch.Scope) { ones(s, 2).Gather(s, 0, torch.FromSlice(s, []int64{9})) }, "gather: index 9 is out of bounds"},
		{func(s *torch.Scope) { ones(s, 2).Select(s, 0, 5) }, "select.int: select(): index 5 out of range for tensor of size [2] at dimension 0 (operands: float32[2])"},
		{func(s *torch.Scope) { ones(s, 2).Narrow(s, 0, 1, 5) }, "narrow: start (1) + length (5) exceeds dimension size (2)"},
		{func(s *torch.Scope) { ones(s, 2).Transpose(s, 0, 3) }, "transpose.int: Dimension out of range"},
		{func(s *torch.Scope) { ones(s, 4).Reshape(s, -1, -1) }, "reshape: only one dimension can be inferred"},
		{func(s *torch.Scope) { ones(s, 2, 3).Transpose(s, 0, 1).View(s, 6) }, "view: view size is not compatible"},
		{func(s *torch.Scope) { ones(s, 2, 3).PerSample(s, 4) }, "per_sample: want a tensor [B]"},
		{func(s *torch.Scope) { ones(s, 1, 1, 2, 2).Interpolate(s, 0, 2, torch.Bilinear) }, "Input and output sizes should be greater than 0"},
		{func(s *torch.Scope) { ones(s, 1, 1, 2, 2).Interpolate(s, 2, 2, 99) }, "interpolate: unknown mode 99 (operands: float32[1, 1, 2, 2])"},
		{func(s *torch.Scope) { ones(s, 1, 1, 2, 2).Pad(s, []int{5, 5}, torch.PadReflect, 0) }, "pad: "},
		{func(s *torch.Scope) { torch.Cat(s, nil, 0) }, "cat: "},
		{func(s *torch.Scope) { torch.Stack(s, []*torch.Tensor{ones(s, 2), ones(s, 3)}, 0) }, "stack: stack expects each tensor to be equal size, but got [2] at entry 0 and [3] at entry 1 (operands: float32[2], float32[3])"},
		{func(s *torch.Scope) {
			torch.Cat(s, []*torch.Tensor{ones(s, 2), ones(s, 2), ones(s, 2), ones(s, 2), ones(s, 2), ones(s, 2, 2)}, 0)
		}, "(operands: float32[2], float32[2], float32[2], float32[2], … 2 more)"},
		{func(s *torch.Scope) { torch.ForeachAddInPlace(s, []*torch.Tensor{ones(s, 2)}, nil, 1) }, "_foreach_add_.List: "},
		{func(s *torch.Scope) { torch.FromSlice(s, []int64{1}).Mean(s) }, "mean: "},
		{func(s *torch.Scope) { torch.FromSlice(s, []int64{1}).AddScalarInPlace(s, 0.5) }, "result type Float can't be cast to the desired output type Long"},
		{func(s *torch.Scope) { torch.Full(s, 300, torch.Uint8, 1) }, "full: value cannot be converted to type uint8_t without overflow"},
		{func(s *torch.Scope) { torch.Zeros(s, torch.DType(77), 1) }, "there is no dtype(77)"},
		{func(s *torch.Scope) { torch.Zeros(s, torch.Float32, -1) }, "zeros: "},
		{func(s *torch.Scope) { torch.Zeros(s, torch.Float32, 1<<62, 1<<62) }, "zeros: Storage size calculation overflowed"},
		{func(s *torch.Scope) { torch.FromBytes(s, []byte{1, 2, 3}, torch.Float32) }, "3 bytes is not a whole number of float32 elements"},
		{func(s *torch.Scope) { torch.Randperm(s, torch.NewGenerator(s, 1), -1) }, "randperm.generator: "},
		{func(s *torch.Scope) {
			torch.FromSlice(s, []float32{-1, 2}).Multinomial(s, torch.NewGenerator(s, 1), 1, true)
		}, "multinomial: probability tensor contains either `inf`, `nan` or element < 0 (operands: float32[2])"},
		{func(s *torch.Scope) { ones(s, 2).SetGrad(ones(s, 3)) }, "set_grad: the gradient must have the tensor's shape, dtype and device, got Float[3] on cpu (operands: float32[2])"},
		{func(s *torch.Scope) { ones(s, 2).SetGrad(torch.Ones(s, torch.Float64, 2)) }, "got Double[2]"},
		{func(s *torch.Scope) { x := ones(s, 2); x.SetGrad(x) }, "its own gradient"},
		{func(s *torch.Scope) {
			x := ones(s, 2)
			x.SetRequiresGrad(true)
			x.Neg(s).SetGrad(ones(s, 2))
		}, "set_grad: only leaves hold gradients"},
		{func(s *torch.Scope) {
			x := ones(s, 2)
			x.SetRequiresGrad(true)
			x.AddScalarInPlace(s, 1)
		}, "add_.Scalar: a leaf Variable that requires grad is being used in an in-place operation. (operands: float32[2])"},
		{func(s *torch.Scope) {
			x := ones(s, 2)
			x.SetRequiresGrad(true)
			x.Neg(s).SetRequiresGrad(false)
		}, "requires_grad_: only leaves can stop"},
		{func(s *torch.Scope) {
			many := make([]int, 70) // more than libtorch's own kernels take
			for i := range many {
				many[i] = 1
			}
			ones(s, 1).View(s, many...).MatMul(s, ones(s, 5))
		}, "a tensor of 70 dimensions"},
		{func(s *torch.Scope) { var x *torch.Tensor; x.Exp(s) }, "exp: an operand is nil"},
		{func(*torch.Scope) { var x *torch.Tensor; x.Shape() }, "shape: an operand is nil"},
		{func(s *torch.Scope) { s.Keep(nil) }, "keep: an operand is nil"},
		{func(s *torch.Scope) { ones(s, 2, 2).Int() }, "int: takes a tensor of one element, got 4 (operands: float32[2, 2])"},
		{func(s *torch.Scope) { torch.Full(s, math.NaN(), torch.Float32).Int() }, "int: value cannot be converted to type int64_t without overflow"},
	} {
		err := torch.Run(torch.CPU, func(s *torch.Scope) error { c.f(s); return nil })
		var e *torch.Error
		assert.ErrorAs(t, err, &e, c.want)
		assert.ErrorContains(t, err, c.want)
	}
}

// Without a usable GPU every way to one says so, in the loader's own words and without libtorch's list of kernels.
func TestNoCUDA(t *testing.T) {
	opened, reason := torch.CUDAOpened()
	if opened {
		t.Skip("CUDA is here")
	}
	for name, f := range map[string]func(s *torch.Scope){
		"zeros": func(*torch.Scope) {
			g := torch.NewScope(torch.CUDA(0))
			defer g.Close()
			torch.Zeros(g, torch.Float32, 2)
		},
		"slice": func(*torch.Scope) {
			g := torch.NewScope(torch.CUDA(0))
			defer g.Close()
			torch.FromSlice(g, []float32{1})
		},
		"to":        func(s *torch.Scope) { torch.Zeros(s, torch.Float32, 2).ToDevice(s, torch.CUDA(0)) },
		"generator": func(s *torch.Scope) { torch.NewGeneratorOn(s, torch.CUDA(0), 1) },
	} {
		e := caught(t, f)
		require.ErrorContains(t, e, reason, name)
		require.Less(t, len(e.Error()), 500, name)
	}
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		require.ErrorContains(t, s.On(torch.CUDA(0), func(*torch.Scope) error { return nil }), reason)
		return s.On(torch.CPU, func(s *torch.Scope) error {
			require.Equal(t, torch.CPU, torch.Ones(s, torch.Float32).Device())
			return nil
		})
	}))
	_, err := torch.CUDA(0).Memory()
	require.ErrorContains(t, err, reason)
	require.PanicsWithError(t, "cuda: want the number of a GPU, from 0 on, got -1", func() { torch.CUDA(-1) })
	require.NoError(t, torch.CPU.Synchronize())
	require.NoError(t, torch.EmptyCache())
	require.Zero(t, torch.CUDACount())
}

func TestShare(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Zeros(s, torch.Float32, 2)
		x.SetRequiresGrad(true)
		y := x.Share(s)
		x.Free()
		require.False(t, y.Freed())
		y.Sum(s).Backward()
		require.Equal(t, []float32{1, 1}, torch.ToSlice[float32](y.Share(s).Grad(s)), "gradients are shared")
		return nil
	}))
}

func TestShapesOf(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Ones(s, torch.Float32, 2, 1, 4)
		require.Equal(t, []int{2, 1, 4}, x.Shape())
		require.Equal(t, []int{4, 4, 1}, x.Strides())
		require.Equal(t, 3, x.NDim())
		require.Equal(t, 8, x.NumEl())
		require.Equal(t, 4, x.Dim(-1))
		require.Equal(t, 1, x.Dim(1))
		require.True(t, x.IsContiguous())
		require.False(t, x.Transpose(s, 0, 2).IsContiguous())
		require.False(t, x.IsChannelsLast())
		last := torch.Ones(s, torch.Float32, 2, 3, 4, 5).ChannelsLast(s)
		require.True(t, last.IsChannelsLast() && last.IsChannelsLastOnly() && !last.IsContiguous())
		both := last.Narrow(s, 1, 0, 1).Contiguous(s)
		require.True(t, both.IsChannelsLast() && !both.IsChannelsLastOnly() && both.IsContiguous(), "one channel")
		require.Equal(t, []int{2, 3, 4}, x.ExpandAs(s, torch.Ones(s, torch.Float32, 2, 3, 4)).Shape())
		require.Equal(t, []int{0, 0, 1}, torch.Ones(s, torch.Float32, 1, 1, 4).Expand(s, 2, 3, -1).Strides(), "without a copy")
		require.Empty(t, torch.Scalar(s, 1.0).Shape())
		require.Equal(t, 1, torch.Scalar(s, 1.0).NumEl())
		var none *torch.Tensor
		none.Free()
		require.True(t, none.Freed())
		require.Equal(t, 2, torch.Scalar(s, 2.9).Int(), "towards zero")
		require.Equal(t, 1<<53+1, torch.Scalar(s, int64(1<<53+1)).Int(), "exact where a float64 is not")
		require.Equal(t, []int64{1<<60 + 1}, torch.ToSlice[int64](torch.FromSlice(s, []int64{1}).AddScalar(s, 1<<60)), "large whole numbers stay whole")
		require.True(t, math.Signbit(torch.Full(s, math.Copysign(0, -1), torch.Float32).Item()), "-0 is a float")
		require.True(t, math.IsInf(torch.Full(s, math.Inf(1), torch.Float32).Item(), 1))
		return nil
	}))
}

func TestUseAfterFree(t *testing.T) {
	var old *torch.Tensor
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		old = torch.Ones(s, torch.Float32, 2)
		return nil
	}))
	for name, f := range map[string]func(s *torch.Scope){
		"aten::add.Tensor": func(s *torch.Scope) { torch.Ones(s, torch.Float32, 2).Add(s, old) },
		"aten::exp":        func(s *torch.Scope) { old.Exp(s) },
		"aten::conv2d":     func(s *torch.Scope) { old.Conv2D(s, old, nil, torch.Conv2DOptions{}) },
		"aten::cat":        func(s *torch.Scope) { torch.Cat(s, []*torch.Tensor{old}, 0) },
		"shape":            func(*torch.Scope) { old.Shape() },
		"item":             func(*torch.Scope) { old.Item() },
		"to_slice":         func(*torch.Scope) { torch.ToSlice[float32](old) },
		"backward":         func(*torch.Scope) { old.Backward() },
		"grad":             func(s *torch.Scope) { old.Grad(s) },
		"keep":             func(s *torch.Scope) { s.Keep(old) },
		"share":            func(s *torch.Scope) { old.Share(s) },
	} {
		e := caught(t, f)
		require.Equal(t, name, e.Op)
		require.ErrorIs(t, e, torch.ErrFreed, name)
	}

	before := torch.Live()
	closed := torch.NewScope(torch.CPU)
	closed.Close()
	for name, f := range map[string]func(s *torch.Scope){
		"aten::ones":       func(*torch.Scope) { torch.Ones(closed, torch.Float32, 2) },
		"aten::exp":        func(s *torch.Scope) { torch.Ones(s, torch.Float32, 2).Exp(closed) },
		"aten::view":       func(s *torch.Scope) { torch.Ones(s, torch.Float32, 2).View(closed, 2) },
		"aten::unbind.int": func(s *torch.Scope) { torch.Ones(s, torch.Float32, 2).Unbind(closed, 0) },
		"from_slice":       func(*torch.Scope) { torch.FromSlice(closed, []float32{1}) },
		"share":            func(s *torch.Scope) { torch.Ones(s, torch.Float32, 2).Share(closed) },
	} {
		e := caught(t, f)
		require.Equal(t, name, e.Op)
		require.ErrorContains(t, e, "a scope that is closed", name)
		require.ErrorIs(t, e, torch.ErrFreed, name)
	}
	var e *torch.Error
	require.Equal(t, before, torch.Live())
	e = caught(t, func(*torch.Scope) { torch.NewGenerator(closed, 1) })
	require.ErrorContains(t, e, "a scope that is closed")
	var g *torch.Generator
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error { g = torch.NewGenerator(s, 1); return nil }))
	e = caught(t, func(s *torch.Scope) { torch.Randn(s, g, torch.Float32, 2) })
	require.ErrorContains(t, e, "the generator was freed")
	e = caught(t, func(s *torch.Scope) { s.Keep(torch.Ones(s, torch.Float32, 1)) })
	require.ErrorContains(t, e, "no parent")
	e = caught(t, func(s *torch.Scope) {
		x := torch.Ones(s, torch.Float32, 1)
		s.Tidy(func(s *torch.Scope) *torch.Tensor { return s.Keep(x) })
	})
	require.ErrorContains(t, e, "another scope")
	e = caught(t, func(s *torch.Scope) {
		s.Tidy(func(s *torch.Scope) *torch.Tensor { x := torch.Ones(s, torch.Float32, 1); x.Free(); return x })
	})
	require.ErrorIs(t, e, torch.ErrFreed, "a freed result")
	e = caught(t, func(*torch.Scope) {
		parent := torch.NewScope(torch.CPU)
		parent.Tidy(func(s *torch.Scope) *torch.Tensor { parent.Close(); return torch.Ones(s, torch.Float32, 1) })
	})
	require.ErrorContains(t, e, "the parent scope is closed")
	require.Equal(t, before, torch.Live())
}

// Panics that are not operators' pass through every scope, which free all the same.
func TestOtherPanicsPass(t *testing.T) {
	before := torch.Live()
	boom := errors.New("boom")
	require.PanicsWithError(t, "boom", func() {
		_ = torch.Run(torch.CPU, func(s *torch.Scope) error {
			return s.NoGrad(func(s *torch.Scope) error {
				s.Tidy(func(s *torch.Scope) *torch.Tensor {
					torch.Ones(s, torch.Float32, 5)
					panic(boom)
				})
				return nil
			})
		})
	})
	require.Equal(t, before, torch.Live())
	require.ErrorIs(t, torch.Run(torch.CPU, func(*torch.Scope) error { return boom }), boom)
}

func TestDTypes(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		require.Equal(t, []float64{1, 2}, torch.ToSlice[float64](torch.FromSlice(s, []float64{1, 2})))
		require.Equal(t, []int64{-1, 2}, torch.ToSlice[int64](torch.FromSlice(s, []int64{-1, 2}, 2, 1)))
		require.Equal(t, []int32{-1, 2}, torch.ToSlice[int32](torch.FromSlice(s, []int32{-1, 2})))
		require.Equal(t, []uint8{255}, torch.ToSlice[uint8](torch.Scalar(s, uint8(255))))
		require.Equal(t, []bool{true, false}, torch.ToSlice[bool](torch.FromSlice(s, []bool{true, false})))
		require.Empty(t, torch.ToSlice[float32](torch.FromSlice(s, []float32{}, 0, 3)))
		x := torch.FromSlice(s, []float32{1, 2, 3, 4, 5, 6}, 2, 3)
		require.Equal(t, []float32{1, 4, 2, 5, 3, 6}, torch.ToSlice[float32](x.Transpose(s, 0, 1)), "in the order of indices")
		require.Equal(t, []int{1, 3}, x.Transpose(s, 0, 1).Strides())
		for d := torch.Float32; d <= torch.Bool; d++ {
			y := torch.Ones(s, d, 3)
			require.Equal(t, d, y.DType())
			require.Len(t, y.Bytes(), 3*d.Size())
			require.Equal(t, 1.0, y.Select(s, 0, 0).Item())
			back, err := torch.ParseDType(d.String())
			require.NoError(t, err)
			require.Equal(t, d, back)
			require.Equal(t, y.Bytes(), torch.FromBytes(s, y.Bytes(), d, 3).Bytes())
		}
		return nil
	}))
	_, err := torch.ParseDType("float8")
	require.ErrorContains(t, err, "unknown dtype")
}

func TestDevices(t *testing.T) {
	for name, want := range map[string]torch.Device{"cpu": torch.CPU, "cuda": torch.CUDA(0), "cuda:3": torch.CUDA(3)} {
		d, err := torch.ParseDevice(name)
		require.NoError(t, err)
		require.Equal(t, want, d)
		text, err := json.Marshal(d)
		require.NoError(t, err)
		var again torch.Device
		require.NoError(t, json.Unmarshal(text, &again))
		require.Equal(t, want, again)
	}
	require.Error(t, json.Unmarshal([]byte(`"tpu"`), new(torch.Device)))
	for _, name := range []string{"", "tpu", "cuda:", "cuda:-1", "cuda:x", "cuda:1000"} {
		_, err := torch.ParseDevice(name)
		require.ErrorContains(t, err, "unknown device", name)
	}
	require.NoError(t, torch.CPU.Available())
	if ok, reason := torch.CUDAOpened(); !ok {
		require.NotEmpty(t, reason)
		err := torch.Run(torch.CUDA(0), func(*torch.Scope) error { return nil })
		require.ErrorContains(t, err, reason, "the loader's own words")
	}
	require.Error(t, torch.CUDA(100).Available())
	require.Error(t, torch.SetThreads(0))
}

func TestCUDA(t *testing.T) {
	torchtest.SkipIfNoCUDA(t)
	e := func() *torch.Error {
		err := torch.Run(torch.CUDA(0), func(s *torch.Scope) error {
			x := torch.FromSlice(s, []float32{1, 2, 3})
			require.Equal(t, torch.CUDA(0), x.Device())
			require.Equal(t, []float32{2, 4, 6}, torch.ToSlice[float32](x.Add(s, x)))
			a := torch.Randn(s, torch.NewGeneratorOn(s, torch.CPU, 5), torch.Float32, 20)
			require.NoError(t, torch.Run(torch.CPU, func(c *torch.Scope) error {
				require.Equal(t, torch.ToSlice[float32](torch.Randn(c, torch.NewGenerator(c, 5), torch.Float32, 20)), torch.ToSlice[float32](a))
				return nil
			}))
			require.NoError(t, torch.CUDA(0).Synchronize())
			m, err := torch.CUDA(0).Memory()
			require.NoError(t, err)
			require.Positive(t, m.Allocated)
			x.Add(s, x.ToDevice(s, torch.CPU))
			return nil
		})
		var e *torch.Error
		require.ErrorAs(t, err, &e)
		return e
	}()
	require.Contains(t, e.Shapes, "on cuda:0")
	require.NoError(t, torch.EmptyCache())
}

// 64 goroutines at once: shared tensors are read, each has its own scopes, errors come back from the call that raised
// them, and grad modes stay where they belong, although goroutines move between threads.
func TestGoroutines(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		w := torch.Ones(s, torch.Float32, 8, 8)
		w.SetRequiresGrad(true)
		var wg sync.WaitGroup
		wrong := make(chan string, 64)
		for g := range 64 {
			wg.Go(func() {
				sc := torch.NewScope(torch.CPU)
				defer sc.Close()
				for i := range 50 {
					err := sc.Run(func(s *torch.Scope) error {
						x := torch.Full(s, float64(g), torch.Float32, 8, 8)
						grad := (g+i)%2 == 0
						var y *torch.Tensor
						if grad {
							y = x.MatMul(s, w)
						} else {
							y = s.NoGradTidy(func(s *torch.Scope) *torch.Tensor { return x.MatMul(s, w) })
						}
						if y.RequiresGrad() != grad {
							wrong <- "a grad mode of another goroutine"
						}
						if y.Sum(s).Item() != float64(8*8*8*g) {
							wrong <- "a wrong sum"
						}
						if i%5 == 0 {
							x.Add(s, torch.Ones(s, torch.Float32, g+9))
						}
						return nil
					})
					if (err != nil) != (i%5 == 0) {
						wrong <- "an error lost or misattributed"
					}
				}
			})
		}
		wg.Wait()
		close(wrong)
		for msg := range wrong {
			t.Error(msg)
		}
		return nil
	}))
}

// Grad modes belong to scopes, wherever goroutines run: each call here may be on another thread than the one before.
func TestModesMigrate(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		w := torch.Ones(s, torch.Float64, 4)
		w.SetRequiresGrad(true)
		var wg sync.WaitGroup
		for g := range 64 {
			wg.Go(func() {
				root := torch.NewScope(torch.CPU)
				defer root.Close()
				for i := range 30 {
					err := root.Run(func(on *torch.Scope) error {
						return on.NoGrad(func(off *torch.Scope) error {
							return on.Inference(func(inference *torch.Scope) error {
								for _, c := range []struct {
									s    *torch.Scope
									want bool
								}{{on, true}, {off, false}, {on, true}, {inference, false}, {on, true}} {
									runtime.Gosched()
									if y := w.MulScalar(c.s, float64(g+i)); y.RequiresGrad() != c.want || c.s.GradEnabled() != c.want {
										t.Errorf("a result requires gradients: %v, want %v", !c.want, c.want)
									}
								}
								x := torch.Full(on, float64(g), torch.Float64, 4)
								x.SetRequiresGrad(true)
								loss := x.Square(on).Sum(on)
								runtime.Gosched()
								loss.Backward()
								if got := x.Grad(on).Sum(on).Item(); got != float64(8*g) {
									t.Errorf("gradient %v, want %v", got, 8*g)
								}
								return nil
							})
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

// One scope that many goroutines make tensors in knows each of them: those that are freed are, the others keep their values until it closes.
func TestSharedScope(t *testing.T) {
	const workers, each = 8, 10_000
	before := torch.Live()
	var kept, freed [workers][]*torch.Tensor
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				for i := range each {
					x := torch.Full(s, float64(w*each+i), torch.Float32)
					if i%2 == 0 {
						x.Free()
						freed[w] = append(freed[w], x)
					} else {
						kept[w] = append(kept[w], x)
					}
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, workers*each/2, torch.Live()-before)
		for w := range workers {
			for i, x := range kept[w] {
				require.EqualValues(t, w*each+2*i+1, x.Item())
			}
		}
		return nil
	}))
	require.Equal(t, before, torch.Live(), "the scope has lost tensors that were made in it")
	for w := range workers {
		for _, x := range append(kept[w], freed[w]...) {
			require.ErrorIs(t, torch.Catch(func() { x.Item() }), torch.ErrFreed)
		}
	}
}

// The number of threads holds on whatever thread a goroutine runs, also ones that libtorch has seen before the change. Each
// of an operator's threads adds up its part of a large sum, so that the last bits of the sum tell how many there were.
func TestThreadsAreProcessWide(t *testing.T) {
	defer func() { require.NoError(t, torch.SetThreads(1)) }()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float32, 300_000)
		sums := map[int]float64{}
		for _, n := range []int{3, 1, 2, 1, 3} {
			require.NoError(t, torch.SetThreads(n))
			require.Equal(t, n, torch.Threads())
			if _, ok := sums[n]; !ok {
				sums[n] = x.Sum(s).Item()
			}
			var wg sync.WaitGroup
			got := make(chan float64, 16)
			for range cap(got) {
				wg.Go(func() {
					_ = torch.Run(torch.CPU, func(s *torch.Scope) error { // on a thread of its own
						got <- x.Sum(s).Item()
						return nil
					})
				})
			}
			wg.Wait()
			close(got)
			for v := range got {
				require.Equal(t, sums[n], v, "%d threads", n)
			}
		}
		require.NotEqual(t, sums[1], sums[3], "one thread and three add up in different orders")
		return nil
	}))
}
