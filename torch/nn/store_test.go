package nn

import (
	"iter"
	"maps"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
)

func newStore(t *testing.T, dtype torch.DType, seed uint64) *Store {
	t.Helper()
	st, err := NewStore(torch.CPU, dtype, seed)
	require.NoError(t, err)
	t.Cleanup(st.Close)
	return st
}

// names of what is yielded, in that order.
func names(ts iter.Seq2[string, *torch.Tensor]) []string {
	var out []string
	for name := range ts {
		out = append(out, name)
	}
	return out
}

func TestStoreKeepsNamesInOrder(t *testing.T) {
	st := newStore(t, torch.Float32, 1)
	p := st.Root().Sub("down", 0)
	NewLinear(p.Sub("b"), 3, 2)
	freq := p.Buffer("a", Ones, 4)
	NewGroupNorm(st.Root().Sub("norm"), 2, 4, 1e-5)
	require.Equal(t, []string{"down.0.b.weight", "down.0.b.bias", "norm.weight", "norm.bias"}, names(st.Parameters()))
	require.Equal(t, []string{"down.0.b.weight", "down.0.b.bias", "down.0.a", "norm.weight", "norm.bias"}, names(st.Tensors()))
	require.Equal(t, 3*2+2+4+4, st.Count())
	require.False(t, freq.RequiresGrad())
	for name, w := range st.Parameters() {
		require.True(t, w.RequiresGrad(), name)
	}
	st.SetRequiresGrad(false)
	for name, w := range st.Parameters() {
		require.False(t, w.RequiresGrad(), name)
	}
	for range st.Parameters() {
		break // stopping early is allowed
	}
}

func TestNonFinite(t *testing.T) {
	st := newStore(t, torch.Float32, 1)
	st.Root().Param("a", Ones, 3)
	b := st.Root().Buffer("b", Ones, 2)
	n, err := st.NonFinite()
	require.NoError(t, err)
	require.Zero(t, n)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		b.CopyFrom(s, torch.FromSlice(s, []float32{float32(math.NaN()), float32(math.Inf(1))}, 2))
		return nil
	}))
	n, err = st.NonFinite()
	require.NoError(t, err)
	require.Equal(t, 2, n)
}

func TestStoreRefusesANameTwice(t *testing.T) {
	st := newStore(t, torch.Float32, 1)
	st.Root().Param("w", Zeros, 1)
	require.PanicsWithError(t, `nn.Store: the name "w" is taken`, func() { st.Root().Param("w", Zeros, 1) })
}

// Initial values depend on the seed and on what was drawn before, and on nothing else; other dtypes get them rounded.
func TestInitialValues(t *testing.T) {
	draw := func(dtype torch.DType, seed uint64) []float64 {
		st, err := NewStore(torch.CPU, dtype, seed)
		require.NoError(t, err)
		defer st.Close()
		NewLinear(st.Root().Sub("a"), 100, 50)
		w := NewConv2D(st.Root().Sub("b"), 8, 16, 3, torch.Conv2DOptions{}).Weight
		s := torch.NewScope(torch.CPU)
		defer s.Close()
		return torch.ToSlice[float64](w.Detach(s).To(s, torch.Float64))
	}
	a := draw(torch.Float32, 7)
	require.Equal(t, a, draw(torch.Float32, 7))
	require.Equal(t, a, draw(torch.Float64, 7))
	require.NotEqual(t, a, draw(torch.Float32, 8))
	require.InDeltaSlice(t, a, draw(torch.BFloat16, 7), 1e-3)

	// Uniform within 1/√fanIn: PyTorch's default, whose standard deviation is the bound over √3.
	bound := 1 / math.Sqrt(8*9)
	require.LessOrEqual(t, slices.Max(a), bound)
	require.GreaterOrEqual(t, slices.Min(a), -bound)
	sum := 0.0
	for _, v := range a {
		sum += v * v
	}
	require.InEpsilon(t, bound/math.Sqrt(3), math.Sqrt(sum/float64(len(a))), 0.05)
}

func TestInits(t *testing.T) {
	st := newStore(t, torch.Float32, 3)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		std := func(w *torch.Tensor) float64 { return math.Sqrt(w.Detach(s).Square(s).Mean(s).Item()) }
		require.InEpsilon(t, 2, std(st.Root().Param("normal", Normal(2), 100, 100)), 0.05)
		require.InEpsilon(t, 0.02, std(st.Root().Param("scaled", Scaled(Normal(2), 0.01), 100, 100)), 0.05)
		require.InEpsilon(t, 3/math.Sqrt(3), std(st.Root().Param("uniform", Uniform(3), 100, 100)), 0.05)
		require.InEpsilon(t, 1, std(NewEmbedding(st.Root().Sub("table"), 100, 100).Weight), 0.05)
		n := NewLayerNorm(st.Root().Sub("norm"), 5, 1e-5)
		require.Equal(t, []float32{1, 1, 1, 1, 1}, torch.ToSlice[float32](n.Weight))
		require.Equal(t, make([]float32, 5), torch.ToSlice[float32](n.Bias))
		return nil
	}))
}

func TestLoad(t *testing.T) {
	st := newStore(t, torch.Float32, 1)
	l := NewLinear(st.Root().Sub("l"), 2, 1)
	freq := st.Root().Buffer("freq", Ones, 2)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		require.NoError(t, st.Load(maps.All(map[string]*torch.Tensor{
			"l.weight": torch.FromSlice(s, []float64{1, 2}, 1, 2), // converted
			"l.bias":   torch.FromSlice(s, []float32{3}),
			"freq":     torch.FromSlice(s, []float32{4, 5}),
		})))
		return nil
	}))
	require.Equal(t, []float32{1, 2}, torch.ToSlice[float32](l.Weight))
	require.Equal(t, []float32{3}, torch.ToSlice[float32](l.Bias))
	require.Equal(t, []float32{4, 5}, torch.ToSlice[float32](freq))
	require.True(t, l.Weight.RequiresGrad())
}

// All that is wrong with a file is in one error, and nothing has changed.
func TestLoadReportsEverything(t *testing.T) {
	st := newStore(t, torch.Float32, 1)
	NewLinear(st.Root().Sub("a"), 2, 3)
	NewLinear(st.Root().Sub("b"), 2, 3)
	before := torch.ToSlice[float32](st.byKey["a.weight"].t)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		err := st.Load(maps.All(map[string]*torch.Tensor{
			"a.weight": torch.Zeros(s, torch.Float32, 3, 2),
			"a.bias":   torch.Zeros(s, torch.Float32, 2),
			"b.weight": torch.Zeros(s, torch.Float32, 2, 3),
			"c":        torch.Zeros(s, torch.Float32, 1),
			"d":        torch.Zeros(s, torch.Float32, 1),
		}))
		require.EqualError(t, err, "weights do not fit the network: 1 missing: b.bias; 2 unexpected: c, d; "+
			"2 shape mismatch: a.bias (want [3], got [2]), b.weight (want [3 2], got [2 3])")
		many := map[string]*torch.Tensor{}
		for i := range 20 {
			many[string(rune('A'+i))] = torch.Zeros(s, torch.Float32, 1)
		}
		require.ErrorContains(t, st.Load(maps.All(many)), "20 unexpected: A, B, C, D, E, F, G, H, I, J, K, L, and 8 more")
		return nil
	}))
	require.Equal(t, before, torch.ToSlice[float32](st.byKey["a.weight"].t))
}

// Shapes writes down what a constructor would make, without making it: here layers of 16 TB.
func TestShapes(t *testing.T) {
	live := torch.Live()
	got := Shapes(func(p Path) {
		NewLinear(p.Sub("big", 1), 1<<21, 1<<21)
		p.Buffer("freq", Ones, 8)
		NewConv2D(p.Sub("conv"), 4, 6, 3, torch.Conv2DOptions{Groups: 2})
	})
	require.Equal(t, live, torch.Live())
	require.Equal(t, []Shape{
		{"big.1.weight", []int{1 << 21, 1 << 21}, false},
		{"big.1.bias", []int{1 << 21}, false},
		{"freq", []int{8}, true},
		{"conv.weight", []int{6, 2, 3, 3}, false},
		{"conv.bias", []int{6}, false},
	}, got)
}

// The layers are the operators they are named after, with their weights.
func TestLayers(t *testing.T) {
	st := newStore(t, torch.Float64, 1)
	p := st.Root()
	linear, plain := NewLinear(p.Sub("linear"), 3, 2), NewLinearInit(p.Sub("plain"), 3, 2, Normal(1), nil)
	conv := NewConv2D(p.Sub("conv"), 2, 4, 3, torch.Conv2DOptions{Padding: 1, Stride: 2})
	group, layer, table := NewGroupNorm(p.Sub("group"), 2, 4, 1e-5), NewLayerNorm(p.Sub("layer"), 3, 1e-5), NewEmbedding(p.Sub("table"), 5, 2)
	require.Nil(t, plain.Bias)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		for _, w := range st.Parameters() { // the norms' too are to matter
			_ = s.NoGrad(func(s *torch.Scope) error { w.AddScalarInPlace(s, 0.25); return nil })
		}
		g := torch.NewGenerator(s, 2)
		same := func(want, got *torch.Tensor) {
			t.Helper()
			require.Equal(t, want.Shape(), got.Shape())
			require.Less(t, got.Sub(s, want).Abs(s).Max(s).Item(), 1e-13)
		}
		x := torch.Randn(s, g, torch.Float64, 4, 3)
		same(x.MatMul(s, linear.Weight.Transpose(s, 0, 1)).Add(s, linear.Bias), linear.Forward(s, x))
		same(x.MatMul(s, plain.Weight.Transpose(s, 0, 1)), plain.Forward(s, x))

		mean := x.MeanDim(s, true, 1)
		centred := x.Sub(s, mean)
		normal := centred.Div(s, centred.Square(s).MeanDim(s, true, 1).AddScalar(s, 1e-5).Sqrt(s))
		same(normal.Mul(s, layer.Weight).Add(s, layer.Bias), layer.Forward(s, x))

		img := torch.Randn(s, g, torch.Float64, 2, 4, 3, 3)
		groups := img.Reshape(s, 2, 2, 18)
		centred = groups.Sub(s, groups.MeanDim(s, true, 2))
		normal = centred.Div(s, centred.Square(s).MeanDim(s, true, 2).AddScalar(s, 1e-5).Sqrt(s)).Reshape(s, 2, 4, 3, 3)
		same(normal.Mul(s, group.Weight.Reshape(s, 4, 1, 1)).Add(s, group.Bias.Reshape(s, 4, 1, 1)), group.Forward(s, img))

		in := torch.Randn(s, g, torch.Float64, 1, 2, 4, 4)
		out := conv.Forward(s, in)
		require.Equal(t, []int{1, 4, 2, 2}, out.Shape())
		// The element at (1, 1) sees rows and columns 1 to 3.
		seen := in.Narrow(s, 2, 1, 3).Narrow(s, 3, 1, 3).Mul(s, conv.Weight).SumDim(s, false, 1, 2, 3).Add(s, conv.Bias)
		same(seen, out.Select(s, 0, 0).Select(s, 2, 1).Select(s, 1, 1))

		same(table.Weight.IndexSelect(s, 0, torch.FromSlice(s, []int64{4, 0})), table.Forward(s, torch.FromSlice(s, []int64{4, 0})))
		return nil
	}))
}

// A constant is the network's, in its type, but in no file.
func TestConstant(t *testing.T) {
	var c *torch.Tensor
	build := func(p Path) { c = p.Constant(Ones, 2, 3) }
	st, err := Build(torch.CPU, torch.BFloat16, 1, build)
	require.NoError(t, err)
	require.Equal(t, []int{2, 3}, c.Shape())
	require.Equal(t, torch.BFloat16, c.DType())
	require.False(t, c.RequiresGrad())
	for name := range st.Tensors() {
		t.Errorf("got a tensor %s, want none", name)
	}
	made := c
	require.Empty(t, Shapes(build))
	require.Nil(t, c)
	st.Close()
	require.True(t, made.Freed())
}
