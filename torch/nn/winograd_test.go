package nn

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
)

// A 3×3 convolution of enough pixels in channels-last order is computed by this library's kernels, with gradients, without them and in a network
// that was packed, to the same bits; all others are libtorch's.
func TestOwnConvolution(t *testing.T) {
	defer torch.SetFused(true)
	var own, strided, narrow Conv2D
	st, err := Build(torch.CPU, torch.Float32, 1, func(p Path) {
		own = NewConv2D(p.Sub("own"), 16, 32, 3, torch.Conv2DOptions{Padding: 1})
		strided = NewConv2D(p.Sub("strided"), 16, 32, 3, torch.Conv2DOptions{Padding: 1, Stride: 2})
		narrow = NewConv2D(p.Sub("narrow"), 16, 3, 3, torch.Conv2DOptions{Padding: 1})
	})
	require.NoError(t, err)
	defer st.Close()
	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float32, 1, 16, 16, 16)
		last := x.ChannelsLast(s)
		libtorch := func(c Conv2D, x *torch.Tensor) float64 { // the largest difference from it
			return c.Forward(s, x).Sub(s, x.Conv2D(s, c.Weight, c.Bias, c.Opt)).Abs(s).Max(s).Item()
		}
		require.NotZero(t, libtorch(own, last))
		require.LessOrEqual(t, libtorch(own, last), 1e-5)
		for what, d := range map[string]float64{
			"order": libtorch(own, x), "stride": libtorch(strided, last), "channels": libtorch(narrow, last),
			"pixels": libtorch(own, x.Narrow(s, 2, 0, 15).ChannelsLast(s)), "type": libtorch(Conv2D{Weight: own.Weight.To(s, torch.Float64), Opt: own.Opt}, last.To(s, torch.Float64)),
		} {
			require.Zero(t, d, what)
		}
		if half := last.To(s, torch.BFloat16); torch.FusedConv(torch.BFloat16) { // with the parameters in float32 as they are
			require.Zero(t, own.Forward(s, half).Sub(s, half.Conv3x3(s, own.Weight, own.Bias)).Abs(s).Max(s).Item())
			cast := Conv2D{Weight: own.Weight.To(s, torch.BFloat16), Bias: own.Bias.To(s, torch.BFloat16), Opt: own.Opt}
			few := half.Narrow(s, 2, 0, 15).ChannelsLast(s)
			require.NotZero(t, own.Forward(s, half).Sub(s, half.Conv2D(s, cast.Weight, cast.Bias, own.Opt)).Abs(s).Max(s).Item())
			require.Zero(t, own.Forward(s, few).Sub(s, few.Conv2D(s, cast.Weight, cast.Bias, own.Opt)).Abs(s).Max(s).Item())
		}
		with := own.Forward(s, last)
		for _, w := range st.Tensors() {
			w.SetRequiresGrad(false)
		}
		for range 2 {
			without := s.NoGradTidy(func(s *torch.Scope) *torch.Tensor { return own.Forward(s, last) })
			require.Zero(t, without.Sub(s, with).Abs(s).Max(s).Item())
			st.Pack()
		}
		torch.SetFused(false)
		require.Zero(t, libtorch(Conv2D{Weight: own.Weight, Bias: own.Bias, Opt: own.Opt}, last))
		return nil
	})
	require.NoError(t, err)
}

// A layer from a file is computed by these kernels to the same bits as one that was built, with adapters, merged or not, near what packed weights
// give. It holds its weight once: as the file has it, converted, or packed for sizes and in a process without these kernels.
func TestOwnConvolutionFromFiles(t *testing.T) {
	defer torch.SetFused(true)
	const side, bytes = 128, 128 * 128 * 9 * 4
	opt := torch.Conv2DOptions{Padding: 1}
	var plain, filed Conv2D
	st, err := Build(torch.CPU, torch.Float32, 1, func(p Path) { plain = NewConv2D(p, side, side, 3, opt) })
	require.NoError(t, err)
	defer st.Close()
	st.SetRequiresGrad(false)
	held := func() int {
		m, err := torch.CPU.Memory()
		require.NoError(t, err)
		return int(m.Allocated)
	}
	if torch.SetFused(true); !torch.Fused() {
		t.Skip("no kernels for this processor")
	}
	for _, d := range []torch.DType{torch.Float32, torch.BFloat16} {
		s := torch.NewScope(torch.CPU)
		require.NoError(t, s.NoGrad(func(s *torch.Scope) error {
			of := map[string]*torch.Tensor{}
			for name, w := range st.Tensors() {
				of[name] = w.To(s, d)
				w.CopyFrom(s, of[name])
			}
			bound, err := BuildFrom(save(t, of), torch.CPU, torch.Float32, func(p Path) { filed = NewConv2D(p, side, side, 3, opt) })
			require.NoError(t, err)
			defer bound.Close()
			large := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float32, 1, side, 16, 16).ChannelsLast(s)
			other := large.Contiguous(s)
			small := large.Narrow(s, 2, 0, 8).ChannelsLast(s)
			own, few := plain.Forward(s, large), plain.Forward(s, small)
			base := held()
			weight := func(want int) { // what the layer holds beside the file
				t.Helper()
				require.InDelta(t, want, held()-base, bytes/8)
			}
			apart := bytes // bytes of a weight that is not the file's
			if d == torch.Float32 {
				apart = 0
			}
			run := func(x, want *torch.Tensor, tolerance float64, a Adapters) {
				t.Helper()
				require.NoError(t, s.Run(func(s *torch.Scope) error {
					got := filed.Adapted(s, x, a)
					require.True(t, got.IsChannelsLast())
					require.LessOrEqual(t, got.Sub(s, want).Abs(s).Max(s).Item(), tolerance)
					return nil
				}))
			}
			run(large, own, 0, nil)
			run(other, own, 0, nil)
			weight(apart)
			run(small, few, 1e-5, nil)
			weight(bytes)
			run(large, own, 0, nil)
			weight(apart)
			torch.SetFused(false)
			run(large, own, 1e-5, nil)
			weight(bytes)
			torch.SetFused(true)
			run(large, own, 0, nil)
			weight(apart)

			change := Adapters{filed.Weight: {opposite{}}, plain.Weight: {opposite{}}}
			want := plain.Adapted(s, large, change)
			require.NotZero(t, want.Sub(s, own).Abs(s).Max(s).Item())
			base = held() - apart
			for range 2 {
				run(large, want, 0, change)
			}
			weight(bytes)
			require.NoError(t, bound.Merge(change))
			run(large, want, 0, nil)
			weight(bytes)
			require.NoError(t, bound.Merge(nil))
			run(large, own, 0, nil)
			weight(apart)
			return nil
		}))
		s.Close()
	}
}

// A layer of many channels from a file in bfloat16 is computed by these kernels in that type, on the file's own weight.
func TestOwnConvolutionFromFilesInBFloat16(t *testing.T) {
	if !torch.FusedConv(torch.BFloat16) {
		t.Skip("no kernels for this processor")
	}
	const channels, bytes = 320, 320 * 320 * 9 * 2
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	g := torch.NewGenerator(s, 1)
	w, b := torch.Randn(s, g, torch.Float32, channels, channels, 3, 3).To(s, torch.BFloat16), torch.Randn(s, g, torch.Float32, channels).To(s, torch.BFloat16)
	var layer Conv2D
	bound, err := BuildFrom(save(t, map[string]*torch.Tensor{"weight": w, "bias": b}), torch.CPU, torch.BFloat16, func(p Path) {
		layer = NewConv2D(p, channels, channels, 3, torch.Conv2DOptions{Padding: 1})
	})
	require.NoError(t, err)
	defer bound.Close()
	require.NoError(t, s.NoGrad(func(s *torch.Scope) error {
		for _, side := range []int{16, 17} {
			x := torch.Randn(s, g, torch.Float32, 1, channels, side, side).To(s, torch.BFloat16)
			want := x.ChannelsLast(s).Conv3x3(s, w, b)
			require.NotZero(t, x.Conv2D(s, w, b, torch.Conv2DOptions{Padding: 1}).Sub(s, want).Abs(s).Max(s).Item())
			before, err := torch.CPU.Memory()
			require.NoError(t, err)
			got := layer.Forward(s, x)
			after, err := torch.CPU.Memory()
			require.NoError(t, err)
			require.Zero(t, got.Sub(s, want).Abs(s).Max(s).Item())
			require.Less(t, int(after.Allocated-before.Allocated), bytes/2)
		}
		return nil
	}))
}

// opposite is an adapter that turns a weight's sign around.
type opposite struct{}

func (opposite) AddTo(s *torch.Scope, sum, w *torch.Tensor) {
	sum.AddScaledInPlace(s, w.To(s, sum.DType()), -2)
}

// Layers of Stable Diffusion 1.5 at full width, of each number of channels, are near the same with packed weights.
func TestOwnConvolutionAtFullWidth(t *testing.T) {
	defer torch.SetFused(true)
	if torch.SetFused(true); !torch.Fused() {
		t.Skip("no kernels for this processor")
	}
	for _, c := range [][2]int{{320, 320}, {960, 640}, {1280, 1280}, {512, 256}, {256, 128}} { // in, out
		var layer Conv2D
		s := torch.NewScope(torch.CPU)
		w := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float32, c[1], c[0], 3, 3).DivScalar(s, math.Sqrt(float64(9*c[0])))
		bias := torch.Randn(s, torch.NewGenerator(s, 2), torch.Float32, c[1])
		bound, err := BuildFrom(save(t, map[string]*torch.Tensor{"weight": w, "bias": bias}), torch.CPU, torch.Float32, func(p Path) {
			layer = NewConv2D(p, c[0], c[1], 3, torch.Conv2DOptions{Padding: 1})
		})
		require.NoError(t, err)
		require.NoError(t, s.NoGrad(func(s *torch.Scope) error {
			x := torch.Randn(s, torch.NewGenerator(s, 3), torch.Float32, 1, c[0], 16, 16)
			own := layer.Forward(s, x)
			torch.SetFused(false)
			off := layer.Forward(s, x).Sub(s, own).Abs(s).Max(s).Item()
			torch.SetFused(true)
			require.NotZero(t, off)
			require.Less(t, off, 3e-5, c) // of results up to 5
			return nil
		}))
		bound.Close()
		s.Close()
	}
}
