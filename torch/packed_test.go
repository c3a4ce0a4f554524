package torch_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
)

// A packed weight gives what the plain one gives, for every option, for inputs in both memory orders, and for inputs of
// other sizes than it was packed for.
func TestPackedConvolutions(t *testing.T) {
	if !torch.PacksConv2D(torch.Float32) {
		t.Skip("this libtorch was built without oneDNN")
	}
	assert.False(t, torch.PacksConv2D(torch.Float64))
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			g := torch.NewGenerator(s, 1)
			for _, d := range []torch.DType{torch.Float32, torch.BFloat16} {
				if !torch.PacksConv2D(d) {
					continue
				}
				for _, o := range []torch.Conv2DOptions{{}, {Padding: 1}, {Stride: 2, Padding: 1}, {Dilation: 2}, {Groups: 2}} {
					w := torch.Randn(s, g, torch.Float32, 8, 6/max(o.Groups, 1), 3, 3).To(s, d)
					b := torch.Randn(s, g, torch.Float32, 8).To(s, d)
					packed := w.PackConv2D(s, []int{2, 6, 9, 7}, o)
					for _, shape := range [][]int{{2, 6, 9, 7}, {1, 6, 12, 12}} {
						x := torch.Randn(s, g, torch.Float32, shape...).To(s, d)
						want := x.To(s, torch.Float32).Conv2D(s, w.To(s, torch.Float32), b.To(s, torch.Float32), o)
						y := x.PackedConv2D(s, packed, b, o)
						assert.Equal(t, d, y.DType())
						last := x.ChannelsLast(s).PackedConv2D(s, packed, b, o)
						assert.True(t, last.IsChannelsLast())
						tolerance := 1e-5
						if d == torch.BFloat16 {
							tolerance = 0.07 // half a unit in the last place of sums up to 32, and rounding before it
						}
						for _, got := range []*torch.Tensor{y, last} {
							off := got.To(s, torch.Float32).Sub(s, want).Abs(s).Max(s).Item()
							assert.Less(t, off, tolerance, "%v %+v %v", d, o, shape)
						}
					}
				}
			}
			return nil
		})
	})
	require.NoError(t, err)
}

func TestSwap(t *testing.T) {
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		a, b := torch.Ones(s, torch.Float32, 2), torch.Zeros(s, torch.Int64, 3)
		require.NoError(t, s.Run(func(s *torch.Scope) error {
			c := torch.Full(s, 7, torch.Float32, 1)
			torch.Swap(a, c)
			assert.Equal(t, []float32{1, 1}, torch.ToSlice[float32](c))
			return nil
		}))
		assert.Equal(t, []float32{7}, torch.ToSlice[float32](a))
		torch.Swap(a, b)
		assert.Equal(t, []int64{0, 0, 0}, torch.ToSlice[int64](a))
		b.Free()
		assert.PanicsWithError(t, "swap: an operand was freed (by Free, or when its scope closed)", func() { torch.Swap(a, b) })
		return nil
	})
	require.NoError(t, err)
}
