package nn

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

func TestLastOnGPU(t *testing.T) {
	for _, d := range []torch.DType{torch.Float32, torch.Float64, torch.BFloat16, torch.Float16} {
		require.False(t, LastOnGPU(torch.CPU, d))
		require.Equal(t, d == torch.BFloat16 || d == torch.Float16, LastOnGPU(torch.CUDA(0), d))
	}
}

// twoConvs are a convolution with a stride and one with groups.
type twoConvs struct{ a, b Conv2D }

func (c *twoConvs) build(p Path) {
	c.a = NewConv2D(p.Sub("a"), 4, 8, 3, torch.Conv2DOptions{Padding: 1, Stride: 2})
	c.b = NewConv2D(p.Sub("b"), 8, 6, 3, torch.Conv2DOptions{Padding: 1, Groups: 2})
}

// A network whose weights are in channels-last order computes, differentiates, adapts, loads, is copied and is saved as the same network in the
// usual order. Its images are in channels-last order from the first convolution on.
func TestWeightsInChannelsLastOrder(t *testing.T) {
	var plain, last twoConvs
	made := func(c *twoConvs) *Store {
		st, err := Build(torch.CPU, torch.Float64, 1, c.build)
		require.NoError(t, err)
		t.Cleanup(st.Close)
		return st
	}
	stores := []*Store{made(&plain), made(&last)}
	for _, c := range []Conv2D{last.a, last.b} {
		toLast(stores[1].scope, c.Weight)
		require.True(t, c.Weight.RequiresGrad())
	}
	ordered := func() {
		for _, c := range []Conv2D{last.a, last.b} {
			require.True(t, c.Weight.IsChannelsLastOnly())
		}
	}
	ordered()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Randn(s, torch.NewGenerator(s, 2), torch.Float64, 2, 4, 6, 6)
		run := func(c *twoConvs, a Adapters) (y *torch.Tensor) { return c.b.Adapted(s, c.a.Adapted(s, x, a), a) }
		adapters := func(c *twoConvs) Adapters {
			g := torch.NewGenerator(s, 3)
			low := LowRank{
				Down:  Conv2D{Weight: torch.Randn(s, g, torch.Float64, 2, 4, 3, 3), Opt: c.a.Opt},
				Up:    Conv2D{Weight: torch.Randn(s, g, torch.Float64, 8, 2, 1, 1)},
				Scale: 1,
			}
			return Adapters{c.a.Weight: {low}}
		}
		same := func() {
			torchtest.Close(t, "output", run(&last, nil), run(&plain, nil), 1e-13, 1e-12)
			require.True(t, run(&last, nil).IsChannelsLast())
			torchtest.Close(t, "adapted", run(&last, adapters(&last)), run(&plain, adapters(&plain)), 1e-13, 1e-12)
		}
		same()
		for _, c := range []*twoConvs{&plain, &last} {
			run(c, nil).Square(s).Sum(s).Backward()
		}
		torchtest.Close(t, "gradient", last.a.Weight.Grad(s), plain.a.Weight.Grad(s), 1e-13, 1e-12)
		torchtest.Close(t, "gradient", last.b.Weight.Grad(s), plain.b.Weight.Grad(s), 1e-13, 1e-12)

		require.NoError(t, stores[1].Merge(adapters(&last)))
		require.NoError(t, stores[0].Merge(adapters(&plain)))
		ordered()
		same()
		for _, st := range stores {
			require.NoError(t, st.Merge(nil))
		}
		files := [2]string{filepath.Join(t.TempDir(), "plain"), filepath.Join(t.TempDir(), "last")}
		for i, st := range stores {
			require.NoError(t, torch.SaveSafetensors(files[i], st.Tensors(), torch.SaveOptions{}))
		}
		w, err := torch.OpenWeights(files[1])
		require.NoError(t, err)
		defer w.Close()
		for name, got := range w.All(s) {
			require.Equal(t, stores[0].byKey[name].t.Bytes(), got.Bytes(), name)
		}
		require.NoError(t, s.NoGrad(func(s *torch.Scope) error {
			plain.a.Weight.MulScalarInPlace(s, 2)
			return nil
		}))
		require.NoError(t, stores[1].Load(stores[0].Tensors()))
		ordered()
		same()

		var copied twoConvs
		st, err := BuildFrom(Stored{stores[1]}, torch.CPU, torch.Float64, copied.build)
		require.NoError(t, err)
		defer st.Close()
		torchtest.Close(t, "copy", run(&copied, nil), run(&plain, nil), 1e-13, 1e-12)
		return nil
	}))
}

// In half precision on a GPU weights are in channels-last order whether they are drawn or read, and so are the images after a convolution.
func TestOrderOnCUDA(t *testing.T) {
	torchtest.SkipIfNoCUDA(t)
	dev := torch.CUDA(0)
	var from, drawn, read, wide twoConvs
	source, err := Build(torch.CPU, torch.Float32, 1, from.build)
	require.NoError(t, err)
	defer source.Close()
	for _, d := range []torch.DType{torch.BFloat16, torch.Float16} {
		a, err := Build(dev, d, 1, drawn.build)
		require.NoError(t, err)
		defer a.Close()
		b, err := BuildFrom(Stored{source}, dev, d, read.build)
		require.NoError(t, err)
		defer b.Close()
		c, err := Build(dev, torch.Float32, 1, wide.build)
		require.NoError(t, err)
		defer c.Close()
		require.NoError(t, torch.Run(dev, func(s *torch.Scope) error {
			x := torch.Randn(s, torch.NewGenerator(s, 2), torch.Float32, 2, 4, 6, 6)
			want := wide.b.Forward(s, wide.a.Forward(s, x))
			require.False(t, wide.a.Weight.IsChannelsLast())
			for _, net := range []*twoConvs{&drawn, &read, &wide} {
				y := net.b.Forward(s, net.a.Forward(s, x.To(s, d).ChannelsLast(s)))
				require.True(t, y.IsChannelsLast())
				torchtest.Close(t, d.String(), y.To(s, torch.Float32), want, 0.03, 0.03)
				if net != &wide {
					require.True(t, net.a.Weight.IsChannelsLast() && net.b.Weight.IsChannelsLast())
				}
			}
			return nil
		}))
	}
}
