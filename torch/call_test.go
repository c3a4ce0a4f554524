package torch_test

import (
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
			{"aten::no_such_thing", nil, []string{"no operator named aten::no_such_thing", "aten::add.Tensor"}},
			{"add.Tensor", []any{x, "y"}, []string{"argument 2 (other) takes Tensor, got a string", "schema: aten::add.Tensor(Tensor self, Tensor other"}},
			{"add.Tensor", []any{x}, []string{"argument 2 (other) is missing", "schema:"}},
			{"add.Tensor", []any{x, x, 1, 2}, []string{"takes 3 arguments, got more", "schema:"}},
			{"add.Tensor", []any{x, nil}, []string{"argument 2 (other) takes Tensor, got None"}},
			{"sum.dim_IntList", []any{x, 1.5}, []string{"argument 2 (dim)", "got a float", "int[1]?"}},
			{"gelu", []any{x, 3}, []string{"argument 2 (approximate) takes str, got an integer"}},
			{"add.Tensor", []any{x, uint16(3)}, []string{"argument 2 has the Go type uint16", "schema:"}},
			{"cat", []any{[]*torch.Tensor{x, nil}}, []string{"argument 1 (tensors)", "got None"}},
			{"transpose.int", []any{x, 0, 7}, []string{"Dimension out of range", "float32[2]"}},
			{"randn.generator", []any{[]int{2}, x}, []string{"argument 2 (generator)", "got a tensor"}},
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
