package training

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	perceptron "github.com/onestep-go/onestep/models/mlp"
	"github.com/onestep-go/onestep/torch"
)

// Losses and gradients are those of PyTorch, of the solution function written out, which the generator compares with the published gradient.
func TestSoFlowLossGolden(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		r := readReference(t, s, "soflow")
		net := r.net(t, "model", true)
		for name, f := range map[string]*SoFlow{"cifar": {}, "imagenet": {Power: 1, Eps: 0.01}} {
			f.Model = &models.MeanFlow{Net: net}
			r.require(t, s, name, f.LossAt(s, r.batch(), r.numbers("end"), r.numbers("mid"), r.numbers("tau"), r["z"], 1), net)
		}
		return nil
	}))
}

// With one gap for all samples the loss is α-flow's with α = gap, but for the factor ½/D and a constant per element; with a gap of 1 it is
// trajectory flow matching.
func TestSoFlowIsAlphaFlow(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		ref := readReference(t, s, "soflow")
		net := ref.net(t, "model", true)
		r, tau, mid := []float64{0, 0.2, 0.5, 0.6}, []float64{0.9, 0.8, 0.8, 0.7}, make([]float64, 4)
		for _, gap := range []float64{0.01, 0.3, 1} {
			for i := range mid {
				mid[i] = tau[i] - gap*(tau[i]-r[i])
			}
			so := &SoFlow{Model: &models.MeanFlow{Net: net}, Power: 0.75, Eps: 0.01}
			alpha := &AlphaFlow{MeanFlow: MeanFlow{Model: so.Model, Power: 0.75, Eps: 0.02}} // ‖Δ‖²/2 + c is (‖Δ‖² + 2c)/2
			want := alpha.LossAt(s, gap, ref.batch(), r, tau, ref["z"], 1).Item() / 4 * math.Pow(2, 0.75)
			require.InEpsilon(t, want, so.LossAt(s, ref.batch(), r, mid, tau, ref["z"], 1).Item(), 1e-10, "gap %g", gap)
		}
		return nil
	}))
}

// f(x, t, t) is x, to the same bits, whatever the network.
func TestSoFlowStays(t *testing.T) {
	net := network(t, perceptron.Config{Width: 8, Depth: 1, Until: true}, torch.Float32, 1)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float32, 5, 2)
		at := torch.FromSlice(s, []float32{0, 0.002, 0.5, 3, 80})
		got := (&models.MeanFlow{Net: net}).Jump(s, x, at, at, models.Cond{})
		require.Equal(t, torch.ToSlice[float32](x), torch.ToSlice[float32](got))
		return nil
	}))
}

func TestSoFlowDraws(t *testing.T) {
	f := &SoFlow{Steps: 100}
	require.Equal(t, 1.0, f.Gap(0))
	require.InEpsilon(t, math.Sqrt(1./3200), f.Gap(50), 1e-12)
	require.InEpsilon(t, 1./3200, f.Gap(1000), 1e-12, "past the end of the run")
}

func TestSoFlowRefuses(t *testing.T) {
	for want, f := range map[string]*SoFlow{
		"no model":                     {},
		"no network":                   {Model: &models.MeanFlow{}, Steps: 1},
		"at least 1 step":              {Model: &models.MeanFlow{}},
		"gaps in":                      {Model: &models.MeanFlow{}, Steps: 1, First: 2, Last: 1},
		"flow-matching samples":        {Model: &models.MeanFlow{}, Steps: 1, Flow: 1.5},
		"standard deviations":          {Model: &models.MeanFlow{}, Steps: 1, Mean: 1},
		"want a power in (0, 1] and a": {Model: &models.MeanFlow{}, Steps: 1, Power: 3},
	} {
		require.ErrorContains(t, f.Validate(), want)
	}
}
