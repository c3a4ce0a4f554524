package lpips

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// Estimates of activations are within a factor of 1.4 of what tensors hold at most, in either direction.
func TestActivations(t *testing.T) {
	if !torchtest.Alone(t) {
		return
	}
	for _, net := range []Net{Alex, VGG} { // in this order: only what is larger than all that came before is seen
		c := Config{Net: net, Resize: ResizeSmall}
		l, err := New(c, torch.CPU, torch.Float32, 1)
		require.NoError(t, err)
		defer l.Close()
		before, err := torch.CPU.Memory()
		require.NoError(t, err)
		const n = 2
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			a, b := torch.Zeros(s, torch.Float32, n, 3, 32, 32), torch.Ones(s, torch.Float32, n, 3, 32, 32)
			a.SetRequiresGrad(true)
			l.Distance(s, a, b).Sum(s).Backward()
			return nil
		}))
		after, err := torch.CPU.Memory()
		require.NoError(t, err)
		require.Greater(t, after.PeakAllocated, before.PeakAllocated, "choose a larger batch")
		got, want := float64(after.PeakAllocated-before.Allocated), float64(4*n)*c.Activations(32, 32)
		t.Logf("%s: %.1f MB, estimate %.1f MB, factor %.2f", net, got/1e6, want/1e6, want/got)
		assert.Less(t, want/got, 1.4, net)
		assert.Less(t, got/want, 1.4, net)
		require.Equal(t, l.store.Count(), c.Count(), net)
	}
}
