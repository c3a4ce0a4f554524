package vae

import (
	"maps"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd/sdtest"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// The sizes of the published models, and what their interface says of them.
func TestSizes(t *testing.T) {
	for _, c := range []Config{SD15(), SDXL(), {}} {
		require.Equal(t, 83_653_863, nn.Count(Shapes(c)))
		require.Len(t, Shapes(c), 248)
	}
	require.Equal(t, 0.13025, SDXL().ScalingFactor)
	require.True(t, *SDXL().ForceUpcast)
	require.Equal(t, 2_445_063, nn.Count(TinyShapes(TAESD())))
	require.Equal(t, 1_338_528+1_338_499, nn.Count(TinyShapes(TAEF2()))) // of the published files
}

// small are a KL and a tiny autoencoder of a few hundred weights.
func small(t *testing.T, dtype torch.DType) []Autoencoder {
	t.Helper()
	k, err := New(Config{Channels: []int{4, 8}, Layers: 1, Groups: 2}, torch.CPU, dtype, 1)
	require.NoError(t, err)
	t.Cleanup(k.Close)
	tiny, err := NewTiny(TinyConfig{EncoderWidths: []int{4, 4}, DecoderWidths: []int{4, 4}, EncoderBlocks: []int{1, 1},
		DecoderBlocks: []int{1, 1}, Pool: true, ScalingFactor: 0.5}, torch.CPU, dtype, 2)
	require.NoError(t, err)
	t.Cleanup(tiny.Close)
	return []Autoencoder{k, tiny}
}

// Random weights depend on nothing but the seed, and both types are what the interface says.
func TestNew(t *testing.T) {
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	x := torch.Rand(s, torch.NewGenerator(s, 1), torch.Float32, 2, 3, 8, 12)
	again := small(t, torch.Float32)
	for i, a := range small(t, torch.Float32) {
		require.Equal(t, 2, a.Factor())
		require.Equal(t, 4, a.Channels())
		require.Equal(t, torch.Float32, a.DType())
		z := a.Encode(s, x, nil)
		require.Equal(t, []int{2, 4, 4, 6}, z.Shape())
		require.True(t, z.RequiresGrad())
		require.Equal(t, x.Shape(), a.Decode(s, z).Shape())
		require.Zero(t, distance(s, z, again[i].Encode(s, x, nil)))
		weights := a.(interface{ Store() *nn.Store }).Store()
		require.Equal(t, len(maps.Collect(weights.Parameters())), len(maps.Collect(weights.Tensors())))
	}
}

// Gradients reach every weight and are right: the passes that work in place do so where nothing was saved.
func TestGradients(t *testing.T) {
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	x := torch.Randn(s, torch.NewGenerator(s, 3), torch.Float64, 2, 3, 4, 12)
	for _, a := range small(t, torch.Float64) {
		if k, ok := a.(*KL); ok {
			k.Tile, k.Slice = 8, true // two tiles either way, and their seam
		}
		loss := func(s *torch.Scope) *torch.Tensor {
			return a.Decode(s, a.Encode(s, x, streams(s, 1))).Square(s).Sum(s)
		}
		loss(s).Backward()
		for name, p := range a.(interface{ Store() *nn.Store }).Store().Parameters() {
			grad := p.Grad(s)
			require.NotNil(t, grad, name)
			// Along the gradient the loss changes by its square.
			const h = 1e-6
			step := grad.DivScalar(s, grad.Norm(s).Item()+1e-30)
			at := func(h float64) (v float64) {
				require.NoError(t, s.NoGrad(func(s *torch.Scope) error {
					p.AddScaledInPlace(s, step, h)
					v = loss(s).Item()
					p.AddScaledInPlace(s, step, -h)
					return nil
				}))
				return v
			}
			want := grad.Norm(s).Item()
			require.InDelta(t, want, (at(h)-at(-h))/(2*h), 1e-4*max(want, 1), name)
		}
	}
}

// A pass frees everything but its result, and leaves what it was given as it was.
func TestFrees(t *testing.T) {
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	g := torch.NewGenerator(s, 1)
	x, z := torch.Rand(s, g, torch.Float32, 2, 3, 20, 12), torch.Randn(s, g, torch.Float32, 2, 4, 10, 6)
	for i, a := range append(small(t, torch.Float32), small(t, torch.Float32)...) {
		if i > 1 {
			switch a := a.(type) {
			case *KL:
				a.Tile, a.Slice = 8, true
			case *Tiny:
				a.Tile = 16
			}
		}
		inModes(t, s, func(s *torch.Scope) {
			before := torch.Live()
			first, decoded := a.Encode(s, x, nil), a.Decode(s, z)
			require.EqualValues(t, before+2, torch.Live())
			require.Zero(t, distance(s, first, a.Encode(s, x, nil)), "inputs changed")
			require.Zero(t, distance(s, decoded, a.Decode(s, z)), "inputs changed")
		})
	}
}

// Tiles are rounded to whole latents, whatever was asked for, so that sizes agree; diffusers' are wrong where they are not.
func TestTile(t *testing.T) {
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	k := small(t, torch.Float64)[0].(*KL)
	x := torch.Rand(s, torch.NewGenerator(s, 1), torch.Float64, 1, 3, 22, 34)
	whole := k.Encode(s, x, nil)
	for tile, same := range map[int]int{1: 8, 7: 8, 8: 8, 15: 8, 16: 16, 33: 32, 100: 0, 36: 32} {
		k.Tile = same
		want := k.Encode(s, x, nil)
		k.Tile = tile
		z := k.Encode(s, x, nil)
		require.Zero(t, distance(s, want, z), tile)
		require.Equal(t, whole.Shape(), z.Shape(), tile)
		require.Equal(t, x.Shape(), k.Decode(s, z).Shape(), tile)
		require.Equal(t, tile == 100, distance(s, whole, z) == 0, tile)
	}
}

// A tiny autoencoder's tiles are rounded, too, and with gradients there are none.
func TestTinyTile(t *testing.T) {
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	tiny := small(t, torch.Float64)[1].(*Tiny)
	require.Equal(t, 2, tiny.Factor())
	x := torch.Rand(s, torch.NewGenerator(s, 1), torch.Float64, 1, 3, 70, 38)
	whole := tiny.Encode(s, x, nil)
	require.NoError(t, s.NoGrad(func(s *torch.Scope) error {
		for tile, same := range map[int]int{1: 32, 31: 32, 32: 32, 47: 32, 48: 48, 79: 64, 80: 0, 1000: 0} {
			tiny.Tile = same
			want := tiny.Encode(s, x, nil)
			tiny.Tile = tile
			z := tiny.Encode(s, x, nil)
			require.Zero(t, distance(s, want, z), tile)
			require.Equal(t, whole.Shape(), z.Shape(), tile)
			require.Equal(t, x.Shape(), tiny.Decode(s, z).Shape(), tile)
			require.Equal(t, same == 0, distance(s, whole, z) < 1e-12, tile)
		}
		return nil
	}))
	tiny.Tile = 32
	require.Zero(t, distance(s, whole, tiny.Encode(s, x, nil)), "with gradients")
}

// What a pass is given wrongly is told, with what was wanted.
func TestRefuses(t *testing.T) {
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	zeros := func(dims ...int) *torch.Tensor { return torch.Zeros(s, torch.Float32, dims...) }
	for _, a := range small(t, torch.Float32) {
		for want, x := range map[string]*torch.Tensor{
			"want images [n, 3, H, W] with height and width divisible by 2, got [2 3 7 8]": zeros(2, 3, 7, 8),
			"want images [n, 3, H, W] with height and width divisible by 2, got [2 3 8 7]": zeros(2, 3, 8, 7),
			"want images [n, 3, H, W] with height and width divisible by 2, got [2 4 8 8]": zeros(2, 4, 8, 8),
			"want images [n, 3, H, W] with height and width divisible by 2, got [3 8 8]":   zeros(3, 8, 8),
			"want images [n, 3, H, W] with height and width divisible by 2, got [0 3 8 8]": zeros(0, 3, 8, 8),
		} {
			require.ErrorContains(t, torch.Catch(func() { a.Encode(s, x, nil) }), want)
		}
		for want, z := range map[string]*torch.Tensor{
			"want latents [n, 4, H, W], got [2 3 8 8]": zeros(2, 3, 8, 8),
			"want latents [n, 4, H, W], got [4 8 8]":   zeros(4, 8, 8),
			"want latents [n, 4, H, W], got [1 4 0 8]": zeros(1, 4, 0, 8),
		} {
			require.ErrorContains(t, torch.Catch(func() { a.Decode(s, z) }), want)
		}
	}
	err := torch.Catch(func() { small(t, torch.Float32)[0].Encode(s, zeros(3, 3, 8, 8), streams(s, 1, 2)) })
	require.ErrorContains(t, err, "3 images and 2 random streams")
}

// Goroutines can share an autoencoder, at sizes of their own.
func TestConcurrent(t *testing.T) {
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	g := openGolden(t, s, "kl")
	k := g.kl(t, torch.Float32)
	tiny := openGolden(t, s, "taesd")
	other := tiny.tiny(t, torch.Float32)
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			assert.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
				return s.NoGrad(func(s *torch.Scope) error {
					for range 3 {
						if i%2 == 0 {
							k.Decode(s, g.tensors["z"].Narrow(s, 2, 0, 4))
							continue
						}
						assert.Less(t, distance(s, g.tensors["decoded"], k.Decode(s, g.tensors["z"])), tolerances[torch.Float32])
						assert.Less(t, distance(s, tiny.tensors["encoded"], other.Encode(s, tiny.tensors["x"], nil)), tolerances[torch.Float32])
					}
					return nil
				})
			}))
		})
	}
	all.Wait()
}

// No variance is outside of what diffusers allows, whatever the encoder says.
func TestClamp(t *testing.T) {
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	k, err := New(Config{Channels: []int{4, 8}, Layers: 1, Groups: 2, QuantConv: new(false)}, torch.CPU, torch.Float32, 1)
	require.NoError(t, err)
	defer k.Close()
	require.NoError(t, s.NoGrad(func(s *torch.Scope) error {
		for name, p := range k.Parameters() {
			if name == "encoder.conv_out.bias" {
				p.FillInPlace(s, 100)
				p.Narrow(s, 0, 4, 2).FillInPlace(s, -100)
			}
		}
		mean, logVar := k.Moments(s, torch.Zeros(s, torch.Float32, 1, 3, 8, 8))
		require.Greater(t, mean.Abs(s).Max(s).Item(), 50.0)
		low, high := logVar.Narrow(s, 1, 0, 2), logVar.Narrow(s, 1, 2, 2)
		require.Equal(t, []float64{-30, -30, 20, 20},
			[]float64{low.Min(s).Item(), low.Max(s).Item(), high.Min(s).Item(), high.Max(s).Item()})
		return nil
	}))
}

// Without gradients no more is held at once than a block's input, what its norm made of it, and a convolution's result. Of the largest
// image with the channels that a level is given, the unit here, that is 2.5 when the last level begins, which halves the channels. Slices
// and tiles hold as much of their part of it. Weights and results are some more.
func TestMemory(t *testing.T) {
	if !torch.Packs(torch.Float32) {
		t.Skip("on this processor convolutions need memory of their own")
	}
	if !torchtest.Alone(t) {
		return
	}
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	const n, channels, side = 4, 64, 128
	c := Config{Channels: []int{channels / 2, channels}, Layers: 1, Groups: 8, MidAttention: new(false)}
	k, err := From(c, sdtest.Filled(Shapes(c)), torch.CPU, torch.Float32)
	require.NoError(t, err)
	defer k.Close()
	require.NoError(t, s.NoGrad(func(s *torch.Scope) error {
		peak := func() float64 {
			m, err := torch.CPU.Memory()
			require.NoError(t, err)
			return float64(m.PeakAllocated)
		}
		z := torch.Zeros(s, torch.Float32, n, 4, side/2, side/2)
		m, err := torch.CPU.Memory()
		require.NoError(t, err)
		const unit = 4 * channels * side * side
		for _, part := range []struct {
			slice bool
			tile  int
			units float64
		}{{true, side / 2, 2.5 / 4}, {true, 0, 2.5}, {false, 0, 2.5 * n}} {
			before := peak()
			k.Slice, k.Tile = part.slice, part.tile
			k.Decode(s, z).Free()
			require.Less(t, before, peak())
			require.InDelta(t, part.units, (peak()-float64(m.Allocated))/unit, 0.7)
		}
		return nil
	}))
}
