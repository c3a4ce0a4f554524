package dit

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// Forward-mode derivatives in image, noise label and end of the jump are those of central differences of fourth order, which
// in float64 are exact to some 1e-11.
func TestJVP(t *testing.T) {
	c := tiny
	c.Resolution, c.InChannels, c.Classes, c.Until, c.Dropout = 6, 2, 3, true, 0.2
	net, err := NewAs(c, torch.CPU, torch.Float64, 1)
	require.NoError(t, err)
	defer net.Close()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		randomize(s, net.Parameters())
		g := torch.NewGenerator(s, 1)
		random := func(shape ...int) *torch.Tensor { return torch.Randn(s, g, torch.Float64, shape...) }
		xs := []*torch.Tensor{random(2, 2, 6, 6), random(2), random(2)}
		vs := []*torch.Tensor{random(2, 2, 6, 6), random(2), random(2)}
		class := torch.FromSlice(s, []int64{1, 3})
		f := func(s *torch.Scope, xs []*torch.Tensor) *torch.Tensor {
			return net.Forward(s, xs[0], xs[1], models.Cond{Class: class, Until: xs[2], Dropout: torch.NewGenerator(s, 2)})
		}
		distance := func(want, got *torch.Tensor) float64 {
			return got.Detach(s).Sub(s, want.Detach(s)).Norm(s).Item() / want.Detach(s).Norm(s).Item()
		}
		y, dy := torch.JVP(s, f, xs, vs)
		require.Less(t, distance(f(s, xs), y), 1e-13)

		const h = 1e-4
		at := func(d float64) *torch.Tensor {
			moved := make([]*torch.Tensor, len(xs))
			for i, x := range xs {
				moved[i] = x.Add(s, vs[i].MulScalar(s, d))
			}
			return f(s, moved)
		}
		near, far := at(h).Sub(s, at(-h)), at(2*h).Sub(s, at(-2*h))
		want := near.MulScalar(s, 8).Sub(s, far).DivScalar(s, 12*h)
		t.Logf("relative difference %.2g", distance(want, dy))
		require.Less(t, distance(want, dy), 1e-8)
		require.NoError(t, s.NoGrad(func(s *torch.Scope) error {
			_, plain := torch.JVP(s, f, xs, vs)
			require.Less(t, distance(dy, plain), 1e-12, "without gradients")
			return nil
		}))

		y.Square(s).Mean(s).Backward()
		for name, p := range net.Parameters() {
			require.NotZero(t, p.Grad(s).Abs(s).Max(s).Item(), name)
		}
		return nil
	}))
}
