package noise

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
)

func TestChainRefuses(t *testing.T) {
	for _, c := range []struct {
		betas []float64
		want  string
	}{
		{nil, "chain: want at least 2 betas, got 0"},
		{[]float64{0.1, 0}, "got 0 at timestep 1"},
		{[]float64{0.1, 1}, "got 1 at timestep 1"},
		{[]float64{0.1, math.NaN()}, "got NaN at timestep 1"},
		{[]float64{0.1, 1e-30}, "noise levels"},
	} {
		_, err := NewChain(c.betas)
		require.ErrorContains(t, err, c.want)
	}
	_, err := Betas{Steps: 1}.Chain()
	require.Error(t, err)
	// A chain keeps its own numbers.
	betas := []float64{0.1, 0.2}
	chain, err := NewChain(betas)
	require.NoError(t, err)
	betas[0] = 0.5
	chain.Betas()[1] = 0.5
	require.Equal(t, []float64{0.1, 0.2}, chain.Betas())
	require.InDelta(t, 0.9*0.8, chain.AlphaBar(1), 1e-15)
}

// Index is the inverse of the table, at its steps, between them and, rounded, around them.
func TestChainIndex(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		chain := Default()
		var sigmas, middle, want []float64
		for i := range chain.Steps() {
			sigmas, want = append(sigmas, chain.Sigma(i)), append(want, float64(i))
			if i > 0 {
				middle = append(middle, math.Sqrt(chain.Sigma(i)*chain.Sigma(i-1)))
			}
		}
		require.InDeltaSlice(t, want, torch.ToSlice[float64](chain.Index(s, torch.FromSlice(s, sigmas), false)), 1e-9)
		require.Equal(t, want, torch.ToSlice[float64](chain.Index(s, torch.FromSlice(s, sigmas).To(s, torch.Float32), true)))
		got := torch.ToSlice[float64](chain.Index(s, torch.FromSlice(s, middle), false))
		for i := range got {
			require.InDelta(t, float64(i)+0.5, got[i], 1e-9)
		}
		require.Equal(t, []float64{0, 0, 0, 999, 999}, torch.ToSlice[float64](chain.Index(s, torch.FromSlice(s, []float64{0, 1e-30, 0.001, 158, 1e30}), false)))
		return nil
	}))
}
