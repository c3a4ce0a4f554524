package network

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/dit"
	"github.com/onestep-go/onestep/models/mlp"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// Estimates of activations are within a factor of 1.5 of what tensors hold at most, in either direction, with gradients and without.
func TestActivations(t *testing.T) {
	if !torchtest.Alone(t) {
		return
	}
	at := 8e6 // what is measured grows, because only what is larger than all that came before is seen
	for _, c := range []Config{
		{Net: mlp.Config{Shape: []int{3, 8, 8}, Width: 256, Depth: 4}},
		{Net: dit.Config{Resolution: 32, Width: 96, Depth: 4}},
		{Net: unet.Config{Resolution: 32, Channels: 32}},
		{Net: unet.Config{Resolution: 32, Channels: 32, Attention: []int{16}}},
	} {
		c = c.WithDefaults()
		net, err := New(c, torch.CPU, torch.Float32, 1)
		require.NoError(t, err)
		defer net.Close()
		for _, gradients := range []bool{false, true} {
			before, err := torch.CPU.Memory()
			require.NoError(t, err)
			at = max(at, float64(before.PeakAllocated))
			n := int(1.6*at/(4*c.Activations(gradients))) + 1
			require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
				forward := func(s *torch.Scope) *torch.Tensor {
					x := torch.Ones(s, torch.Float32, append([]int{n}, c.Shape()...)...)
					return net.Forward(s, x, torch.Ones(s, torch.Float32, n), models.Cond{}).Sum(s)
				}
				if !gradients {
					return s.NoGrad(func(s *torch.Scope) error { forward(s); return nil })
				}
				forward(s).Backward()
				return nil
			}))
			after, err := torch.CPU.Memory()
			require.NoError(t, err)
			got, want := float64(after.PeakAllocated-before.Allocated), 4*float64(n)*c.Activations(gradients)
			what := fmt.Sprintf("%s, gradients %t, batch %d: %.1f MB, estimate %.1f MB, factor %.2f", c.Name(), gradients, n, got/1e6, want/1e6, want/got)
			t.Log(what)
			require.Greater(t, after.PeakAllocated, before.PeakAllocated, what)
			assert.Less(t, want/got, 1.5, what)
			assert.Less(t, got/want, 1.5, what)
			at = got
		}
	}
}
