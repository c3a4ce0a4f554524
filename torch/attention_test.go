package torch_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
)

// Attention in blocks gives what libtorch's kernel gives in float64.
func TestAttentionInBlocks(t *testing.T) {
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			g := torch.NewGenerator(s, 1)
			for _, d := range []torch.DType{torch.Float32, torch.BFloat16} {
				tolerance := 2e-6
				if d == torch.BFloat16 {
					tolerance = 1e-2 // two units in the last place of values below 1
				}
				for _, c := range []struct{ l, s, d, dv int }{{300, 256, 8, 8}, {256, 5000, 3, 5}, {1100, 1024, 16, 16}} {
					draw := func(n, d int) *torch.Tensor { // as layers make them: heads inside
						return torch.Randn(s, g, torch.Float32, 2, n, 3, d).Transpose(s, 1, 2)
					}
					q, k, v := draw(c.l, c.d).To(s, d), draw(c.s, c.d).To(s, d), draw(c.s, c.dv).To(s, d)
					for _, scale := range []float64{0, 0.3} {
						want := torch.Attention(s, q.To(s, torch.Float64), k.To(s, torch.Float64), v.To(s, torch.Float64), torch.AttentionOptions{Scale: scale})
						got := torch.Attention(s, q, k, v, torch.AttentionOptions{Scale: scale})
						require.Equal(t, want.Shape(), got.Shape())
						require.Equal(t, d, got.DType())
						require.Less(t, got.To(s, torch.Float64).Sub(s, want).Abs(s).Max(s).Item(), tolerance, "%v %+v", d, c)
					}
				}
			}
			return nil
		})
	})
	require.NoError(t, err)
}
