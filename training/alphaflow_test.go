package training

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	perceptron "github.com/onestep-go/onestep/models/mlp"
	"github.com/onestep-go/onestep/torch"
)

// Losses and gradients are those of PyTorch.
func TestAlphaFlowLossGolden(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		r := readReference(t, s, "alphaflow")
		net := r.net(t, "model", true)
		for name, c := range map[string]struct {
			alpha float64
			f     AlphaFlow
		}{
			"third":    {0.3, AlphaFlow{MeanFlow: MeanFlow{Power: 0.75}}},
			"small":    {0.01, AlphaFlow{MeanFlow: MeanFlow{Eps: 0.01}}},
			"one":      {1, AlphaFlow{MeanFlow: MeanFlow{Power: 0.5}}},
			"shortcut": {0.5, AlphaFlow{MeanFlow: MeanFlow{Power: 0.75}, Shortcut: true}},
		} {
			c.f.Model = &models.MeanFlow{Net: net}
			r.require(t, s, name, c.f.LossAt(s, c.alpha, r.batch(), r.numbers("r"), r.numbers("tau"), r["z"], 1), net)
		}
		return nil
	}))
}

// tinyPower is as good as no adaptive weight.
const tinyPower = 1e-12

// The limits of the family: flow matching where r = τ, whatever α; trajectory flow matching for α = 1; the loss of shortcut models, times
// 2, for α = ½; MeanFlow's gradient, with adaptive weights too, for α → 0, and its loss at 0.
func TestAlphaFlowLimits(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		ref := readReference(t, s, "alphaflow")
		net := ref.net(t, "model", true)
		m := &models.MeanFlow{Net: net}
		b, z := ref.batch(), ref["z"]
		r, tau := []float64{0, 0.2, 0.5, 0.7}, []float64{0.9, 0.6, 0.8, 0.75}
		plain := &AlphaFlow{MeanFlow: MeanFlow{Model: m, Power: tinyPower}}
		flow := &Flow{Model: &models.Flow{Net: sameTimes{net}}}
		require.InEpsilon(t, 2*flow.LossAt(s, b, tau, z, 1).Item(), plain.LossAt(s, 0.3, b, tau, tau, z, 1).Item(), 1e-9)

		at := torch.FromSlice(s, tau)
		u := m.AverageVelocity(s, models.Interpolate(s, b.X, z, at), torch.FromSlice(s, r), at, models.Cond{})
		direct := sumOfSquares(s, u.Sub(s, z.Sub(s, b.X))).Mean(s).Item()
		require.InEpsilon(t, direct, plain.LossAt(s, 1, b, r, tau, z, 1).Item(), 1e-9)

		gradient := func(loss *torch.Tensor) *torch.Tensor {
			var params []*torch.Tensor
			for _, p := range net.Parameters() {
				params = append(params, p)
			}
			var all []*torch.Tensor
			for _, g := range torch.Grad(s, []*torch.Tensor{loss}, params, torch.BackwardOptions{}) {
				all = append(all, g.Flatten(s, 0, -1))
			}
			return torch.Cat(s, all, 0)
		}
		for _, power := range []float64{tinyPower, 0.75, 1} {
			f := &AlphaFlow{MeanFlow: MeanFlow{Model: m, Power: power, Eps: 0.1}}
			want := gradient(f.MeanFlow.LossAt(s, b, r, tau, z, 1))
			require.Equal(t, f.MeanFlow.LossAt(s, b, r, tau, z, 1).Item(), f.LossAt(s, 0, b, r, tau, z, 1).Item())
			off := func(alpha float64) float64 {
				return gradient(f.LossAt(s, alpha, b, r, tau, z, 1)).Sub(s, want).Norm(s).Item() / want.Norm(s).Item()
			}
			require.Less(t, off(1e-5), 1e-3)
			require.InEpsilon(t, 10, off(1e-3)/off(1e-4), 0.1, "of first order in α")
		}
		return nil
	}))
}

// The golden file holds shortcut models' own loss, of the samples whose times differ.
func TestAlphaFlowShortcut(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		ref := readReference(t, s, "alphaflow")
		net := ref.net(t, "model", true)
		f := &AlphaFlow{MeanFlow: MeanFlow{Model: &models.MeanFlow{Net: net}, Power: tinyPower}, Shortcut: true}
		rows := torch.FromSlice(s, []int64{0, 2, 3})
		b := Batch{X: ref["x"].IndexSelect(s, 0, rows)}
		loss := f.LossAt(s, 0.5, b, []float64{0, 0.5, 0.7}, []float64{0.9, 0.8, 0.75}, ref["z"].IndexSelect(s, 0, rows), 1)
		ref.require(t, s, "frans", loss.DivScalar(s, 2), net)
		return nil
	}))
}

// sameTimes is a network of two times that is told that both are the same.
type sameTimes struct{ *perceptron.MLP }

func (n sameTimes) Forward(s *torch.Scope, x, noise *torch.Tensor, c models.Cond) *torch.Tensor {
	c.Until = noise
	return n.MLP.Forward(s, x, noise, c)
}

func TestAlphaFlowSchedule(t *testing.T) {
	f := &AlphaFlow{Steps: 400}
	require.Equal(t, 1.0, f.Alpha(0))
	require.Equal(t, 0.5, f.Alpha(200))
	require.InEpsilon(t, 1/(1+math.Exp(2)), f.Alpha(232), 1e-12, "25·32/400 = 2")
	require.Equal(t, 0.0, f.Alpha(399))
	late := &AlphaFlow{Steps: 400, From: 0.5, To: 0.75}
	require.Equal(t, 1.0, late.Alpha(199))
	require.Equal(t, 0.5, late.Alpha(250))
	require.Equal(t, 0.0, late.Alpha(320))
	require.Equal(t, 0.25, (&AlphaFlow{Steps: 4, Constant: 0.25}).Alpha(3))
}

func TestAlphaFlowRefuses(t *testing.T) {
	for want, f := range map[string]*AlphaFlow{
		"no model":          {Steps: 1},
		"at least 1 step":   {},
		"constant α":        {Steps: 1, Constant: 2},
		"two fractions":     {Steps: 1, From: 0.5, To: 0.2},
		"γ above 0":         {Steps: 1, Gamma: -1},
		"η in (0, 0.5)":     {Steps: 1, Clamp: 0.5},
		"need a constant α": {Steps: 1, Shortcut: true},
	} {
		require.ErrorContains(t, f.Validate(), want)
	}
}
