package blocks

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// Each result is the sum of what a kernel's elements see, on images of odd sides too.
func TestDownsample(t *testing.T) {
	for _, padAfter := range []bool{false, true} {
		torchtest.Devices(t, func(t *testing.T, dev torch.Device) {
			d, st := build(t, dev, func(p nn.Path) *Downsample { return NewDownsample(p, 3, padAfter) })
			require.NoError(t, torch.Run(dev, func(s *torch.Scope) error {
				x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float64, 2, 3, 5, 8)
				before, height := 1, 3 // zeros above and left of the image; rows of the result
				if padAfter {
					before, height = 0, 2
				}
				same(t, s, st, x, func(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return d.Forward(s, x, nil) },
					func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
						padded := x.Pad(s, []int{before, 2, before, 2}, torch.PadConstant, 0)
						var sum *torch.Tensor
						for i := range 3 {
							for j := range 3 {
								rows := torch.Arange(s, height, torch.Int64).MulScalar(s, 2).AddScalar(s, float64(i))
								columns := torch.Arange(s, 4, torch.Int64).MulScalar(s, 2).AddScalar(s, float64(j))
								seen := padded.IndexSelect(s, 2, rows).IndexSelect(s, 3, columns).Permute(s, 0, 2, 3, 1)
								part := seen.MatMul(s, d.Conv.Weight.Select(s, 3, j).Select(s, 2, i).Transpose(s, 0, 1))
								if sum == nil {
									sum = part
								} else {
									sum = sum.Add(s, part)
								}
							}
						}
						return sum.Add(s, d.Conv.Bias).Permute(s, 0, 3, 1, 2)
					})
				return nil
			}))
		})
	}
}

// What was halved with odd sides becomes what it was.
func TestUpsample(t *testing.T) {
	torchtest.Devices(t, func(t *testing.T, dev torch.Device) {
		u, st := build(t, dev, func(p nn.Path) *Upsample { return NewUpsample(p, 3) })
		require.NoError(t, torch.Run(dev, func(s *torch.Scope) error {
			x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float64, 2, 3, 3, 4)
			same(t, s, st, x, func(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return u.Double(s, x, nil) },
				func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
					big := x.Unsqueeze(s, 3).Unsqueeze(s, 5).Expand(s, 2, 3, 3, 2, 4, 2).Reshape(s, 2, 3, 6, 8)
					return u.Conv.Forward(s, big)
				})
			odd := torch.FromSlice(s, []int64{0, 0, 1, 1, 2})
			same(t, s, st, x, func(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return u.To(s, x, 5, 8, nil) },
				func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
					columns := torch.FromSlice(s, []int64{0, 0, 1, 1, 2, 2, 3, 3})
					return u.Conv.Forward(s, x.IndexSelect(s, 2, odd).IndexSelect(s, 3, columns))
				})
			return nil
		}))
	})
}
