package torch_test

import (
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
)

func TestCall(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.FromSlice(s, []float32{3, 1, 2, 5})
		r, err := torch.Call(s, "aten::topk", x, 2)
		require.NoError(t, err)
		require.Equal(t, []float32{5, 3}, torch.ToSlice[float32](r[0].(*torch.Tensor)))
		require.Equal(t, []int64{3, 0}, torch.ToSlice[int64](r[1].(*torch.Tensor)))

		r, err = torch.Call(s, "add.Tensor", x, x, 2.5) // without the namespace; a float where a Scalar belongs
		require.NoError(t, err)
		require.Equal(t, 3*3.5, r[0].(*torch.Tensor).Select(s, 0, 0).Item())

		r, err = torch.Call(s, "aten::clamp", x, nil, 2) // None
		require.NoError(t, err)
		require.Equal(t, []float32{2, 1, 2, 2}, torch.ToSlice[float32](r[0].(*torch.Tensor)))

		r, err = torch.Call(s, "aten::zeros", []int{2, 2}, torch.Int64, nil, torch.CPU, false)
		require.NoError(t, err)
		require.Equal(t, torch.Int64, r[0].(*torch.Tensor).DType())

		r, err = torch.Call(s, "aten::sum.dim_IntList", x.Reshape(s, 2, 2), []int{1}, torch.Default{}, torch.Float64)
		require.NoError(t, err)
		require.Equal(t, []float64{4, 7}, torch.ToSlice[float64](r[0].(*torch.Tensor)))

		r, err = torch.Call(s, "aten::size.int", x, 0)
		require.NoError(t, err)
		require.Equal(t, []any{4}, r)
		r, err = torch.Call(s, "aten::equal", x, x)
		require.NoError(t, err)
		require.Equal(t, []any{true}, r)
		r, err = torch.Call(s, "aten::randn.generator", []int{3}, torch.NewGenerator(s, 1))
		require.NoError(t, err)
		require.Equal(t, []int{3}, r[0].(*torch.Tensor).Shape())
		r, err = torch.Call(s, "aten::contiguous", torch.Ones(s, torch.Float32, 1, 2, 2, 2), torch.ChannelsLast)
		require.NoError(t, err)
		require.True(t, r[0].(*torch.Tensor).IsChannelsLast())
		r, err = torch.Call(s, "aten::gelu", x, "tanh")
		require.NoError(t, err)
		require.Len(t, r, 1)

		var many []*torch.Tensor // more results than fit into the words that calls usually return
		for range 200 {
			many = append(many, x)
		}
		r, err = torch.Call(s, "aten::_foreach_add.Scalar", many, 1)
		require.NoError(t, err)
		list := r[0].([]*torch.Tensor)
		require.Len(t, list, 200)
		require.Equal(t, 6.0, list[199].Select(s, 0, 3).Item())
		return nil
	}))
}

func TestCallRefuses(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Ones(s, torch.Float32, 2)
		for _, c := range []struct {
			op   string
			args []any
			want []string
		}{
			{"aten::no_such_thing", nil, []string{"no_such_thing: this libtorch has no operator with this name", "aten::add.Tensor"}},
			{"add.Tensor", []any{x, "y"}, []string{"argument 2 (other) takes Tensor, got a string", "schema: aten::add.Tensor(Tensor self, Tensor other"}},
			{"add.Tensor", []any{x}, []string{"argument 2 (other) is missing", "schema:"}},
			{"add.Tensor", []any{x, x, 1, 2}, []string{"takes 3 arguments, got more", "schema:"}},
			{"add.Tensor", []any{x, nil}, []string{"argument 2 (other) takes Tensor, got None"}},
			{"sum.dim_IntList", []any{x, 1.5}, []string{"argument 2 (dim)", "got a float", "int[1]?"}},
			{"gelu", []any{x, 3}, []string{"argument 2 (approximate) takes str, got an integer"}},
			{"add.Tensor", []any{x, uint16(3)}, []string{"argument 2 has the unsupported Go type uint16", "schema:"}},
			{"cat", []any{[]*torch.Tensor{x, nil}}, []string{"argument 1 (tensors)", "got None"}},
			{"transpose.int", []any{x, 0, 7}, []string{"Dimension out of range", "float32[2]"}},
			{"randn.generator", []any{[]int{2}, x}, []string{"argument 2 (generator)", "got a tensor"}},
			{"exp", []any{(*torch.Tensor)(nil)}, []string{"exp: an operand is nil"}},
			{"native_dropout", []any{x, 0.5, 1}, []string{"argument 3 (train) takes Optional[bool], got an integer"}},
			{"add.Tensor", []any{x, torch.CPU}, []string{"argument 2 (other) takes Tensor, got a device"}},
			{"add.Tensor", []any{x, []float64{1}}, []string{"got a list of floats"}},
			{"add.Tensor", []any{x, []bool{true}}, []string{"got a list of bools"}},
			{"add.Tensor", []any{x, torch.Default{}}, []string{"argument 2 has no default", "schema:"}},
			{"upsample_nearest2d.vec", []any{x, nil, []int{2}}, []string{"argument 3 (scale_factors)", "got a list of integers"}},
			{"add.Overload", []any{x}, []string{"aten::add has no overload Overload; it has add.Scalar(Tensor self, Scalar other", "add.Tensor(Tensor self, Tensor other"}},
			{"_backward", []any{x, []*torch.Tensor{}}, []string{"use Backward or Grad"}},
			// A result without an encoding, and operands of a dtype that has no DType here.
			{"item", []any{complexNumber(t, s)}, []string{"a result of kind ComplexDouble cannot be returned", "item(Tensor self) -> Scalar", "complex64[]"}},
		} {
			_, err := torch.Call(s, c.op, c.args...)
			for _, want := range c.want {
				require.ErrorContains(t, err, want, c.op)
			}
		}
		_, err := torch.Schema("aten::nope")
		require.Error(t, err)
		text, err := torch.Schema("conv2d")
		require.NoError(t, err)
		require.Contains(t, text, "aten::conv2d(Tensor input, Tensor weight, Tensor? bias=None")
		return nil
	}))
}

func complexNumber(t *testing.T, s *torch.Scope) *torch.Tensor {
	r, err := torch.Call(s, "complex", torch.Ones(s, torch.Float32), torch.Ones(s, torch.Float32))
	require.NoError(t, err)
	return r[0].(*torch.Tensor)
}

// Where no overload fits, the error lists those that there are and what was given, in bounds and printable.
func TestCallListsOverloads(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Ones(s, torch.Float32, 2)
		for _, c := range []struct {
			op        string
			args      []any
			want, not []string
		}{
			{"add", []any{x, 2}, []string{"add.Tensor(Tensor self, Tensor other, *, Scalar alpha=1) -> Tensor", "add.Scalar(Tensor self, Scalar other", "(float32[2], int 2)"}, nil},
			{"add.Scalar", []any{x, x}, []string{"argument 2 (other)", "add.Tensor(Tensor self, Tensor other", "(float32[2], float32[2])"}, []string{"; add.Scalar("}},
			{"transpose", nil, []string{"transpose.int(", "given ()"}, nil},
			{"sum.nope\x1b[2J", []any{x, "a\x1b[2J", []int{1}, []*torch.Tensor{x}, nil, torch.Float64, 1.5, true, torch.Default{}},
				[]string{"sum.dim_IntList(Tensor self, int[1]? dim", `"a\x1b[2J"`, "[]int[1]", "a list of 1 tensor", "nil", "float64 1.5", "bool true", "the default"}, []string{"\x1b"}},
			{"gelu", []any{x, 3}, []string{"argument 2 (approximate)", "given (float32[2], int 3)"}, []string{"gelu.out("}}, // which writes into an argument
			{"gelu.x", []any{x}, []string{"gelu.out(", "gelu(Tensor self"}, nil},
			{"add_.Scalar", []any{x, x}, []string{"add_.Tensor("}, nil},
			{"add.Tensor", []any{x, make([]int, 1000)}, []string{"a long []int"}, nil},
			{strings.Repeat("n", 100_000), nil, []string{"has no operator with this name"}, nil},
			{"normal", []any{x}, []string{"normal.Tensor_float(", "and 1 more"}, nil},
		} {
			_, err := torch.Call(s, c.op, c.args...)
			for _, want := range c.want {
				require.ErrorContains(t, err, want, c.op)
			}
			for _, not := range c.not {
				require.NotContains(t, err.Error(), not, c.op)
			}
			require.Less(t, len(err.Error()), 4096, c.op)
			require.NotContains(t, err.Error(), "\n")
		}
		_, err := torch.Schema("add")
		require.ErrorContains(t, err, "add.Tensor(")
		return nil
	}))
}

// Every kind of value goes there and back.
func TestCallKinds(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Arange(s, 6, torch.Float32).Reshape(s, 2, 3)
		call := func(op string, args ...any) []any {
			t.Helper()
			r, err := torch.Call(s, op, args...)
			require.NoError(t, err)
			return r
		}
		require.Equal(t, []any{3}, call("size.int", x, -1))
		require.Equal(t, []any{false}, call("equal", x, x.AddScalar(s, 1)))
		require.Equal(t, []any{5.0 / 255, 0}, call("_choose_qparams_per_tensor", x), "a float and an int")
		require.Equal(t, []any{7.5}, call("item", torch.Scalar(s, 7.5)), "a Scalar is what it holds")
		require.Equal(t, []any{7}, call("item", torch.Scalar(s, int64(7))))
		require.Equal(t, []any{true}, call("item", torch.Scalar(s, true)))
		require.Empty(t, call("_foreach_zero_", []*torch.Tensor{x.Clone(s)}), "no result")
		require.Len(t, call("split_with_sizes", x, []int{1, 2}, 1)[0], 2)

		// A list of bools goes in, and gradients that were not asked for come back as nil.
		norm := call("native_layer_norm", x, []int{3}, nil, nil, 1e-5)
		r := call("native_layer_norm_backward", x, x, []int{3}, norm[1], norm[2], nil, nil, []bool{true, false, false})
		require.IsType(t, x, r[0])
		require.Equal(t, []any{nil, nil}, r[1:])

		in := call("index.Tensor", x, []*torch.Tensor{nil, torch.FromSlice(s, []int64{2})})[0].(*torch.Tensor)
		require.Equal(t, []float32{2, 5}, torch.ToSlice[float32](in), "nil in a list")
		require.Equal(t, []float32{0, 1, 2, 9, 9, 9}, torch.ToSlice[float32](call("slice_scatter", x, torch.Full(s, 9, torch.Float32, 1, 3), 0, int64(1))[0].(*torch.Tensor)))
		up := call("upsample_nearest2d.vec", x.Reshape(s, 1, 1, 2, 3), nil, []float64{2, 1})[0].(*torch.Tensor)
		require.Equal(t, []int{1, 1, 4, 3}, up.Shape())
		moved := call("to.dtype_layout", x, torch.Float16, nil, torch.CPU, nil, false, true, torch.PreserveFormat)[0].(*torch.Tensor)
		require.Equal(t, torch.Float16, moved.DType())
		conv := call("conv2d", x.Reshape(s, 1, 1, 2, 3), torch.Ones(s, torch.Float32, 1, 1, 1, 1), nil, 1, 1)[0].(*torch.Tensor)
		require.Equal(t, []int{1, 1, 4, 5}, conv.Shape(), "one number for int[2]")
		words := make([]int, 40) // more arguments than usually fit
		for i := range words {
			words[i] = 1
		}
		require.Len(t, call("view", torch.Ones(s, torch.Float32), words)[0].(*torch.Tensor).Shape(), 40)

		// An in-place operator returns its operand, behind a handle of its own.
		y := x.Clone(s)
		same := call("add_.Tensor", y, y)[0].(*torch.Tensor)
		y.Free()
		require.Equal(t, 10.0, same.Max(s).Item())

		// Sparse tensors have no strides, but can be held.
		sparse := call("to_sparse_csr", torch.Eye(s, 3, torch.Float32))[0].(*torch.Tensor)
		require.Equal(t, []int{3, 3}, sparse.Shape())
		require.False(t, sparse.IsContiguous())
		require.Equal(t, "tensor(float32[3, 3])", sparse.String())
		return nil
	}))
}

// First calls of one operator from many goroutines look it up at the same time.
func TestConcurrentLookup(t *testing.T) {
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			s := torch.NewScope(torch.CPU)
			defer s.Close()
			for _, op := range []string{"aten::hardtanh", "aten::logit", "aten::sinc", "aten::frac"} {
				if _, err := torch.Call(s, op, torch.Ones(s, torch.Float32, 2)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}
