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
	"github.com/onestep-go/onestep/models/unet2d"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// Estimates of activations are within a factor of 1.5 of what tensors hold at most, in either direction, with gradients and without.
func TestActivations(t *testing.T) {
	if torchtest.Alone(t) {
		testActivations(t, measuredNetworks, pass{"forward", false, false, Config.forward}, pass{"gradients", true, false, Config.gradients})
	}
}

// So are those of a step with gradient checkpointing, which networks would exceed without it.
func TestCheckpointed(t *testing.T) {
	if torchtest.Alone(t) {
		testActivations(t, append(measuredNetworks[1:], Config{Net: unet2d.Config{Height: 32, Width: 32, Channels: []int{32, 64}}}), pass{"checkpointing", true, true, Config.Checkpointed})
	}
}

var measuredNetworks = []Config{
	{Net: mlp.Config{Shape: []int{3, 8, 8}, Width: 256, Depth: 4}},
	{Net: dit.Config{Resolution: 32, Width: 96, Depth: 4}},
	{Net: unet.Config{Resolution: 32, Channels: 32}},
	{Net: unet.Config{Resolution: 32, Channels: 32, Attention: []int{16}}},
}

// pass is a pass of a network, and the estimate of what it takes.
type pass struct {
	name                     string
	gradients, checkpointing bool
	estimate                 func(Config) float64
}

func (c Config) forward() float64   { return c.Activations(false) }
func (c Config) gradients() float64 { return c.Activations(true) }

func testActivations(t *testing.T, of []Config, passes ...pass) {
	at := 8e6 // what is measured grows, because only what is larger than all that came before is seen
	for _, c := range of {
		c = c.WithDefaults()
		net, err := New(c, torch.CPU, torch.Float32, 1)
		require.NoError(t, err)
		defer net.Close()
		for _, pass := range passes {
			estimate := pass.estimate(c)
			before, err := torch.CPU.Memory()
			require.NoError(t, err)
			at = max(at, float64(before.PeakAllocated))
			n := int(1.6*at/(4*estimate)) + 1
			require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
				forward := func(s *torch.Scope) *torch.Tensor {
					x := torch.Ones(s, torch.Float32, append([]int{n}, c.Shape()...)...)
					return net.Forward(s, x, torch.Ones(s, torch.Float32, n), models.Cond{Checkpointing: pass.checkpointing}).Sum(s)
				}
				if !pass.gradients {
					return s.NoGrad(func(s *torch.Scope) error { forward(s); return nil })
				}
				forward(s).Backward()
				return nil
			}))
			after, err := torch.CPU.Memory()
			require.NoError(t, err)
			got, want := float64(after.PeakAllocated-before.Allocated), 4*float64(n)*estimate
			what := fmt.Sprintf("%s, %s, batch %d: %.1f MB, estimate %.1f MB, factor %.2f", c.Name(), pass.name, n, got/1e6, want/1e6, want/got)
			t.Log(what)
			require.Greater(t, after.PeakAllocated, before.PeakAllocated, what)
			assert.Less(t, want/got, 1.5, what)
			assert.Less(t, got/want, 1.5, what)
			at = got
		}
	}
}
