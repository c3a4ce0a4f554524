package unet

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
)

// The student of a full latent consistency model has the teacher's weights, copied and trainable, and a projection drawn within ±1/√dim as
// PyTorch draws it: with a projection of 0 its outputs are the teacher's. The configuration is that of a published one.
func TestWithGuidance(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := open(t, s, "sd15")
		u := g.network(t, torch.Float32)
		n, err := u.WithGuidance(0, torch.Float64, 5)
		require.NoError(t, err)
		defer n.Close()
		want := u.Config()
		want.TimeCondProjDim = 256
		require.Equal(t, want, n.Config())
		require.Equal(t, torch.Float64, n.Store().DType())

		weights, more := map[string]*torch.Tensor{}, 0
		for name, w := range u.Tensors() {
			weights[name] = w
		}
		for name, w := range n.Parameters() {
			require.True(t, w.RequiresGrad(), name)
			if name != condProj {
				require.Equal(t, torch.ToSlice[float64](weights[name].To(s, torch.Float64)), torch.ToSlice[float64](w), name)
				continue
			}
			more++
			v := w.Detach(s)
			require.Equal(t, []int{32, 256}, v.Shape())
			require.LessOrEqual(t, v.Abs(s).Max(s).Item(), 1/math.Sqrt(256))
			require.InEpsilon(t, 1/math.Sqrt(3*256), v.Std(s, 0).Item(), 0.03, "uniform")
		}
		require.Equal(t, 1, more)

		return s.NoGrad(func(s *torch.Scope) error {
			c := g.cond(s, torch.Float64)
			x, at := g.as(s, "x", torch.Float64), g.tensors["t"]
			teacher := g.network(t, torch.Float64).Forward(s, x, at, c)
			c.Guidance = torch.FromSlice(s, []float64{8.5})
			require.Greater(t, distance(s, teacher, n.Forward(s, x, at, c)), 1e-3)
			n.encoder.cond.Weight.ZeroInPlace(s)
			require.Less(t, distance(s, teacher, n.Forward(s, x, at, c)), 1e-12)
			u.Close()
			n.Forward(s, x, at, c) // it shares nothing with u
			return nil
		})
	}))
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		lcm := open(t, s, "lcm").network(t, torch.Float32)
		_, err := lcm.WithGuidance(256, torch.Float32, 1)
		require.ErrorContains(t, err, "already has a guidance embedding")
		_, err = open(t, s, "sd15").network(t, torch.Float32).WithGuidance(-1, torch.Float32, 1)
		require.ErrorContains(t, err, "time_cond_proj_dim")
		return nil
	}))
}
