package training

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	perceptron "github.com/onestep-go/onestep/models/mlp"
	"github.com/onestep-go/onestep/sampling"
	"github.com/onestep-go/onestep/torch"
)

// Every objective takes Batch.Weight: with weights 0 and 2 the loss of two samples, a mean, is that of the second one, and with 3 and 1
// it is 1.5 times the first's and half the second's.
func TestBatchWeight(t *testing.T) {
	net := func(until bool) *perceptron.MLP {
		return network(t, perceptron.Config{Width: 8, Depth: 1, Until: until}, torch.Float64, 1)
	}
	consistency := &models.Consistency{Net: net(false)}
	low, high := []float64{0.5, 3}, []float64{1, 5}
	trig := &models.TrigConsistency{Net: net(false)}
	steps := []int{3, 700}
	type lossOf func(s *torch.Scope, b Batch, rows []int, z *torch.Tensor) *torch.Tensor
	pick := func(v []float64, rows []int) (out []float64) {
		for _, i := range rows {
			out = append(out, v[i])
		}
		return out
	}
	pickInts := func(v []int, rows []int) (out []int) {
		for _, i := range rows {
			out = append(out, v[i])
		}
		return out
	}
	for name, loss := range map[string]lossOf{
		"ct": func(s *torch.Scope, b Batch, rows []int, z *torch.Tensor) *torch.Tensor {
			c := &CT{Model: consistency, Schedule: Fixed{}, Weight: InverseGap}
			return c.LossAt(s, b, pick(low, rows), pick(high, rows), z, 1)
		},
		"cd": func(s *torch.Scope, b Batch, rows []int, z *torch.Tensor) *torch.Tensor {
			c := &CD{CT: CT{Model: consistency, Schedule: Fixed{}}, Teacher: gaussian, Solver: sampling.Heun{}}
			return c.LossAt(s, b, pick(low, rows), pick(high, rows), z, 1)
		},
		"ect": func(s *torch.Scope, b Batch, rows []int, z *torch.Tensor) *torch.Tensor {
			return (&ECT{Model: consistency, Steps: 1}).LossAt(s, b, pick(low, rows), pick(high, rows), z, 1)
		},
		"edm": func(s *torch.Scope, b Batch, rows []int, z *torch.Tensor) *torch.Tensor {
			return (&EDM{Model: &models.EDM{Net: net(false)}}).LossAt(s, b, pick(high, rows), z, 1)
		},
		"flow": func(s *torch.Scope, b Batch, rows []int, z *torch.Tensor) *torch.Tensor {
			return (&Flow{Model: &models.Flow{Net: net(false)}}).LossAt(s, b, pick([]float64{0.2, 0.7}, rows), z, 1)
		},
		"ddpm": func(s *torch.Scope, b Batch, rows []int, z *torch.Tensor) *torch.Tensor {
			return (&DDPM{Model: &models.DDPM{Net: net(false)}}).LossAt(s, b, pickInts(steps, rows), z, 1)
		},
		"lcd": func(s *torch.Scope, b Batch, rows []int, z *torch.Tensor) *torch.Tensor {
			l := &LCD{Model: &models.Latent{Model: &models.DDPM{Net: net(false)}}, Teacher: &models.DDPM{Net: &spy{}}}
			return l.LossAt(s, b, pickInts([]int{0, 40}, rows), pick([]float64{5, 9}, rows), z, 1)
		},
		"pd": func(s *torch.Scope, b Batch, rows []int, z *torch.Tensor) *torch.Tensor {
			p := &PD{Model: &models.EDM{Net: net(false)}, Teacher: gaussian, Steps: 100}
			return p.LossAt(s, 0, b, pickInts([]int{1, 9}, rows), z, 1)
		},
		"scm": func(s *torch.Scope, b Batch, rows []int, z *torch.Tensor) *torch.Tensor {
			return (&SCM{Model: trig}).LossAt(s, 0, b, pick(high, rows), z, 1)
		},
		"ctm": func(s *torch.Scope, b Batch, rows []int, z *torch.Tensor) *torch.Tensor {
			c := &CTM{Model: &models.Trajectory{Net: net(true)}, Teacher: gaussian, Solver: sampling.Heun{}}
			return c.LossAt(s, b, [][]float64{pick(high, rows), pick(low, rows)}, pick([]float64{0.01, 0.3}, rows), z, 1)
		},
		"ctm, denoising": func(s *torch.Scope, b Batch, rows []int, z *torch.Tensor) *torch.Tensor {
			c := &CTM{Model: &models.Trajectory{Net: net(true)}}
			return c.DenoisingLossAt(s, b, pick(high, rows), z, 1)
		},
		// The first sample's times differ and the second's are equal: their losses are computed in the other order.
		"mean flow": func(s *torch.Scope, b Batch, rows []int, z *torch.Tensor) *torch.Tensor {
			f := &MeanFlow{Model: &models.MeanFlow{Net: net(true)}, Power: 0.5}
			return f.LossAt(s, b, pick([]float64{0.1, 0.4}, rows), pick([]float64{0.8, 0.4}, rows), z, 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
				stream := torch.NewGenerator(s, 1)
				x, z := torch.Randn(s, stream, torch.Float64, 2, 2), torch.Randn(s, stream, torch.Float64, 2, 2)
				both := func(w ...float64) float64 {
					b := Batch{X: x}
					if len(w) > 0 {
						b.Weight = torch.FromSlice(s, w).To(s, torch.Float32) // a source's, whatever the samples' type is
					}
					return loss(s, b, []int{0, 1}, z).Item()
				}
				first := loss(s, Batch{X: x.Narrow(s, 0, 0, 1)}, []int{0}, z.Narrow(s, 0, 0, 1)).Item()
				second := loss(s, Batch{X: x.Narrow(s, 0, 1, 1)}, []int{1}, z.Narrow(s, 0, 1, 1)).Item()
				require.InEpsilon(t, (first+second)/2, both(), 1e-9)
				require.InEpsilon(t, second, both(0, 2), 1e-9)
				require.InEpsilon(t, 1.5*first+0.5*second, both(3, 1), 1e-9)
				require.Greater(t, max(first/second, second/first), 1.01, "the samples' losses differ")
				return nil
			}))
		})
	}
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Zeros(s, torch.Float64, 2, 2)
		(&DDPM{Model: &models.DDPM{Net: net(false)}}).LossAt(s, Batch{X: x, Weight: torch.Ones(s, torch.Float64, 3)}, steps, x, 1)
		return nil
	})
	require.ErrorContains(t, err, "Batch.Weight")
}
