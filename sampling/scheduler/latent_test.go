package scheduler

import (
	"iter"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
)

// bent is a network that is no polynomial of its input and depends on the timestep.
type bent struct{}

func (bent) Forward(s *torch.Scope, x, t *torch.Tensor, _ models.Cond) *torch.Tensor {
	return x.Tanh(s).Add(s, t.To(s, x.DType()).DivScalar(s, 1000).PerSample(s, x.NDim()))
}

func (bent) Parameters() iter.Seq2[string, *torch.Tensor] {
	return func(func(string, *torch.Tensor) bool) {}
}

// What LCM predicts of the clean latents in its first step is models.Latent in σ coordinates. LCM computes in float32 with ᾱ in float32,
// whose relative error is 1e-6, and divides differences of values of order 1 by √ᾱ, 0.07 at the end of the chain: 1e-4. The last scaling
// is one at which c_skip counts.
func TestLCMIsLatent(t *testing.T) {
	for _, predicts := range []noise.Prediction{noise.Epsilon, noise.Velocity, noise.Sample} {
		for _, scaling := range []float64{0, 10, 0.001} {
			c := noise.Config{Class: "LCMScheduler", Predicts: predicts, Scaling: scaling}
			chain, err := c.Chain()
			require.NoError(t, err)
			f := &models.Latent{Model: &models.DDPM{Net: bent{}, Chain: chain, Predict: predicts}, Scaling: scaling}
			for _, at := range []int{999, 499, 19, 0} {
				run, err := LCM{}.Start(c, Options{Timesteps: []int{at}})
				require.NoError(t, err)
				require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
					y := torch.Randn(s, torch.NewGenerator(s, 5), torch.Float32, 2, 4, 3, 3)
					out := bent{}.Forward(s, y, torch.Full(s, float64(at), torch.Float32, 1), models.Cond{})
					_, want := run.Step(s, 0, y, out, nil)
					x := y.To(s, torch.Float64).DivScalar(s, math.Sqrt(chain.AlphaBar(at)))
					got := f.Origin(s, x, torch.Full(s, chain.Sigma(at), torch.Float64, 1), models.Cond{})
					off := got.Sub(s, want.To(s, torch.Float64)).Abs(s).Max(s).Item()
					require.LessOrEqual(t, off, 1e-4*max(1, got.Abs(s).Max(s).Item()), "%s, scaling %g, timestep %d", predicts.Diffusers(), scaling, at)
					if at == 0 {
						require.Equal(t, torch.ToSlice[float32](y), torch.ToSlice[float32](want), "the boundary")
					}
					return nil
				}))
			}
		}
	}
}

// The scalings of the published models to the bit, by float32 operations one by one.
func TestScalings(t *testing.T) {
	ch, err := newChain(noise.Config{}, latentClass)
	require.NoError(t, err)
	for at := range ch.TrainSteps {
		v := float32(at) * 10
		d := float32(v*v) + 0.25
		skip, out := ch.scalings(at)
		require.Equal(t, 0.25/d, skip, "%d", at)
		require.Equal(t, v/root(d), out, "%d", at)
	}
}
