package nn

import (
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// double adds a weight once more.
type double struct{ calls *int }

func (d double) AddTo(s *torch.Scope, sum, w *torch.Tensor) {
	*d.calls++
	sum.AddInPlace(s, w)
}

func TestAdaptersChangeTheirLayersAlone(t *testing.T) {
	var n twoLayers
	st, err := Build(torch.CPU, torch.Float64, 1, n.build)
	require.NoError(t, err)
	defer st.Close()
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	calls := 0
	a := Adapters{n.out.Weight: {double{&calls}}}
	h := n.conv.Adapted(s, torch.Ones(s, torch.Float64, 1, 1, 3, 3), a)
	require.Equal(t, torch.ToSlice[float64](n.conv.Forward(s, torch.Ones(s, torch.Float64, 1, 1, 3, 3))), torch.ToSlice[float64](h))
	h = h.Flatten(s, 1, -1)
	want := n.out.Forward(s, h)
	require.Equal(t, torch.ToSlice[float64](want.Add(s, want)), torch.ToSlice[float64](n.out.Adapted(s, h, a)))
	require.Equal(t, torch.ToSlice[float64](want), torch.ToSlice[float64](n.out.Adapted(s, h, nil)))
	require.Equal(t, 1, calls)
}

// A picture alone is convolved as it is among others, also with adapters that no layer can compute apart.
func TestAdaptersOfOnePicture(t *testing.T) {
	var n twoLayers
	st, err := Build(torch.CPU, torch.Float64, 1, n.build)
	require.NoError(t, err)
	defer st.Close()
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	calls := 0
	a := Adapters{n.conv.Weight: {double{&calls}}}
	x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float64, 1, 1, 3, 3)
	want := n.conv.Adapted(s, x, a)
	got := n.conv.Adapted(s, x.Reshape(s, 1, 3, 3), a)
	require.Equal(t, torch.ToSlice[float64](want), torch.ToSlice[float64](got))
	require.Equal(t, 2, calls)
}

// adapted is layers with low-rank adapters.
type adapted struct {
	linear   Linear
	conv     Conv2D
	adapters Adapters
}

var halving = torch.Conv2DOptions{Padding: 1, Stride: 2}

// build makes a linear layer and a convolution, and for each adapters of ranks 2 and 3.
func (l *adapted) build(p Path) {
	l.linear, l.conv = NewLinear(p.Sub("linear"), 6, 8), NewConv2D(p.Sub("conv"), 4, 6, 3, halving)
	l.adapters = Adapters{}
	for i, r := range []int{2, 3} {
		q, scale := p.Sub(i), 0.75-float64(i)
		l.adapters[l.linear.Weight] = append(l.adapters[l.linear.Weight],
			LowRank{NewLinearInit(q.Sub("a"), 6, r, FanIn(1), nil), NewLinearInit(q.Sub("b"), r, 8, FanIn(1), nil), scale})
		l.adapters[l.conv.Weight] = append(l.adapters[l.conv.Weight], LowRank{
			NewConv2DInit(q.Sub("c"), 4, r, 3, halving, FanIn(1), nil), NewConv2DInit(q.Sub("d"), r, 6, 1, torch.Conv2DOptions{}, FanIn(1), nil), scale,
		})
	}
}

// bound makes the layers with weights of their own, and once more of a file that has them.
func bound(t *testing.T, d torch.DType) (plain, filed *adapted, store *Store) {
	t.Helper()
	plain, filed = &adapted{}, &adapted{}
	st, err := Build(torch.CPU, d, 1, plain.build)
	require.NoError(t, err)
	t.Cleanup(st.Close)
	w := save(t, maps.Collect(st.Tensors()))
	store, err = BuildFrom(w, torch.CPU, d, filed.build)
	require.NoError(t, err)
	t.Cleanup(store.Close)
	return plain, filed, store
}

// explicit is what the layers make of x and of an image with the weights W + Σ scale·B·A.
func (l *adapted) explicit(s *torch.Scope, x, image *torch.Tensor) (y, z *torch.Tensor) {
	sum := func(w *torch.Tensor) *torch.Tensor {
		all := w.To(s, torch.Float64).Flatten(s, 1, -1)
		for _, a := range l.adapters[w] {
			a := a.(LowRank)
			up, down := a.Up.Kernel().To(s, torch.Float64).Flatten(s, 1, -1), a.Down.Kernel().To(s, torch.Float64).Flatten(s, 1, -1)
			all = all.Add(s, up.MatMul(s, down).MulScalar(s, a.Scale))
		}
		return all.Reshape(s, w.Shape()...)
	}
	return x.To(s, torch.Float64).Linear(s, sum(l.linear.Weight), l.linear.Bias.To(s, torch.Float64)),
		image.To(s, torch.Float64).Conv2D(s, sum(l.conv.Weight), l.conv.Bias.To(s, torch.Float64), halving)
}

// Layers give W + Σ scale·B·A times their input, whichever way they take: with few rows apart, with many by a changed weight, packed or
// not, and with gradients.
func TestLowRank(t *testing.T) {
	for _, d := range []torch.DType{torch.Float32, torch.Float64} {
		plain, filed, _ := bound(t, d)
		ways := map[bool]int{}
		for _, l := range []*adapted{plain, filed} {
			for _, rows := range []int{1, 3, 130, 2000} {
				for _, grad := range []bool{false, true} {
					side := 2 * max(1, rows/40)
					run := func(s *torch.Scope) error {
						g := torch.NewGenerator(s, uint64(rows))
						x, image := torch.Randn(s, g, d, rows, 6), torch.Randn(s, g, d, 1, 4, side, side)
						ways[apart(s, l.linear.Weight, nil, rows, l.adapters[l.linear.Weight])]++
						ways[apart(s, l.conv.Weight, nil, side*side/4, l.adapters[l.conv.Weight])]++
						y, z := l.linear.Adapted(s, x, l.adapters), l.conv.Adapted(s, image, l.adapters)
						wantY, wantZ := l.explicit(s, x, image)
						torchtest.Close(t, "linear", y.To(s, torch.Float64), wantY, 3e-6, 0)
						torchtest.Close(t, "convolution", z.To(s, torch.Float64), wantZ, 3e-6, 0)
						require.Equal(t, d, y.DType())
						require.Equal(t, d, z.DType())
						return nil
					}
					require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
						if grad {
							return run(s)
						}
						return s.NoGrad(run)
					}))
				}
			}
		}
		require.Greater(t, ways[true], 4)
		require.Greater(t, ways[false], 4)
	}
}

// Gradients reach the adapters' layers, and those alone when the layer is frozen.
func TestLowRankGradients(t *testing.T) {
	_, l, _ := bound(t, torch.Float64)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		a := l.adapters[l.linear.Weight][0].(LowRank)
		for _, w := range []*torch.Tensor{a.Down.Kernel(), a.Up.Kernel()} {
			w.SetRequiresGrad(true)
		}
		x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float64, 2000, 6)
		l.linear.Adapted(s, x, l.adapters).Sum(s).Backward()
		// d/dB of Σ scale·x·Aᵀ·Bᵀ is scale·1ᵀ·x·Aᵀ in each row.
		want := x.SumDim(s, true, 0).MatMul(s, a.Down.Kernel().Detach(s).Transpose(s, 0, 1)).MulScalar(s, a.Scale).Expand(s, 8, 2)
		torchtest.Close(t, "gradient", a.Up.Kernel().Grad(s), want, 1e-9, 0)
		require.NotNil(t, a.Down.Kernel().Grad(s))
		require.Nil(t, l.linear.Weight.Grad(s))
		return nil
	}))
}

// Merged weights are those with the adapters; afterwards everything is as before, to the last bit, packed or not.
func TestMerge(t *testing.T) {
	for _, d := range []torch.DType{torch.Float32, torch.BFloat16} {
		tolerance := map[torch.DType]float64{torch.Float32: 3e-6, torch.BFloat16: 0.1}[d]
		plain, filed, filedStore := bound(t, d)
		for _, l := range []*adapted{plain, filed} {
			store := filedStore
			if l == plain {
				st, err := Build(torch.CPU, d, 1, l.build)
				require.NoError(t, err)
				defer st.Close()
				store = st
			}
			require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
				return s.NoGrad(func(s *torch.Scope) error {
					g := torch.NewGenerator(s, 3)
					few, many, image := torch.Randn(s, g, d, 5, 6), torch.Randn(s, g, d, 300, 6), torch.Randn(s, g, d, 1, 4, 6, 6)
					run := func(a Adapters) (all [][]float32) {
						for _, y := range []*torch.Tensor{l.linear.Adapted(s, few, a), l.linear.Adapted(s, many, a), l.conv.Adapted(s, image, a)} {
							all = append(all, torch.ToSlice[float32](y.To(s, torch.Float32).Contiguous(s)))
						}
						return all
					}
					before := run(nil)
					wantFew, wantImage := l.explicit(s, few, image)
					wantMany, _ := l.explicit(s, many, image)
					for range 2 {
						require.NoError(t, store.Merge(l.adapters))
						merged := run(nil)
						for i, want := range []*torch.Tensor{wantFew, wantMany, wantImage} {
							require.InDeltaSlice(t, torch.ToSlice[float32](want.To(s, torch.Float32)), merged[i], 10*tolerance)
							require.False(t, slices.Equal(before[i], merged[i]))
						}
						once := Adapters{l.linear.Weight: l.adapters[l.linear.Weight][:1]}
						require.NoError(t, store.Merge(once)) // one in place of the other
						single := run(Adapters{l.linear.Weight: l.adapters[l.linear.Weight][1:]})
						require.InDeltaSlice(t, merged[0], single[0], 10*tolerance) // both, one at run time
						require.InDeltaSlice(t, merged[1], single[1], 10*tolerance)
						require.Equal(t, before[2], single[2])
						require.NoError(t, store.Merge(nil))
						require.Equal(t, before, run(nil))
					}
					return nil
				})
			}))
		}
	}
}

// Goroutines with different adapters on the same layers do not disturb each other, and switching ten thousand times leaves nothing behind.
func TestAdaptersShare(t *testing.T) {
	_, l, _ := bound(t, torch.Float32)
	with := func(s *torch.Scope, n int, a Adapters) []float32 {
		y := s.NoGradTidy(func(s *torch.Scope) *torch.Tensor {
			return l.linear.Adapted(s, torch.Randn(s, torch.NewGenerator(s, uint64(n)), torch.Float32, n, 6), a)
		})
		return torch.ToSlice[float32](y)
	}
	choices := []Adapters{
		nil, l.adapters, {l.linear.Weight: l.adapters[l.linear.Weight][:1]}, {l.linear.Weight: l.adapters[l.linear.Weight][1:]},
	}
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	var want [4][]float32
	for i, a := range choices {
		want[i] = with(s, 200, a)
	}
	live := torch.Live()
	var all sync.WaitGroup
	for i, a := range choices {
		all.Go(func() {
			s := torch.NewScope(torch.CPU)
			defer s.Close()
			for range 50 {
				if got := with(s, 200, a); !slices.Equal(want[i], got) {
					t.Errorf("adapters %d: %v, want %v", i, got, want[i])
					return
				}
			}
		})
	}
	all.Wait()
	for i := range 10000 {
		c := torch.NewScope(torch.CPU)
		with(c, 3, choices[i%len(choices)])
		c.Close()
	}
	require.Equal(t, live, torch.Live())
}
