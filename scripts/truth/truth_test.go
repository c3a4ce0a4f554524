package main

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/modelstest"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

func TestMain(m *testing.M) { torchtest.Main(m) }

// brief is a tenth of the table's budget.
var brief = budget{steps: 800, batch: 256, lr: 3e-3, ema: 0.99}

// Every method, with a tenth of the table's budget, comes close to the exact function; the controls, which are known to be wrong, do not.
func TestMethodsComeNear(t *testing.T) {
	if testing.Short() {
		t.Skip("trains every method for some seconds")
	}
	toy := newToy(brief, 0)
	defer toy.close()
	// Limits of the RMSE at 80, about twice the values measured; 0.15 by default.
	limits := map[string]float64{"EDM teacher": 0.03, "CT, N = 18": 0.24, "CT, N by the run's length": 0.36, "PD, exact score, 16 to 1": 0.25}
	// At 80 the denoiser is x - 80 ε, which multiplies the network's errors. Reflow has other trajectories than the data.
	// The newest methods have short trainings in package training, and the others of their kinds are here.
	left := []string{"CMT, then", "SoFlow", "α-Flow", "iMF", "CMT for jumps", "multistep"}
	kept := []string{"SoFlow, power 0", "iMF, power 0"}
	unlimited := []string{"DDPM teacher", "reflow of the flow teacher"}
	far := map[string]float64{}
	for _, m := range methods() {
		begins := func(start string) bool { return strings.HasPrefix(m.name, start) }
		if slices.ContainsFunc(left, begins) && !slices.Contains(kept, m.name) {
			continue
		}
		l, err := toy.taught(context.Background(), m.name)
		require.NoError(t, err, m.name)
		got, err := toy.measure(context.Background(), m, l.f, 1000)
		require.NoError(t, err, m.name)
		t.Logf("%-50s %.3f", m.name, got.RMSE)
		far[m.name] = got.RMSE[len(got.RMSE)-1]
		if slices.Contains(unlimited, m.name) {
			continue
		}
		if m.worse != "" {
			require.Greater(t, far[m.name], 1.4*far[m.worse], "%s should be worse than %s", m.name, m.worse)
			continue
		}
		limit, ok := limits[m.name]
		if !ok {
			limit = 0.15
		}
		require.Less(t, far[m.name], limit, m.name)
		if got.Training != nil {
			require.Less(t, *got.Training, 0.18, "%s, from its solver", m.name)
		}
	}
	require.Less(t, far["CD, exact score, Heun 18"], 0.6*far["CD, exact score, Euler 18"], "a better solver's student is closer")
}

// The exact function has no error, and its samples have the data's distribution.
func TestMeasure(t *testing.T) {
	toy := newToy(brief, 0)
	got, err := toy.measure(context.Background(), method{}, modelstest.Mixture{}, 2000)
	require.NoError(t, err)
	for _, r := range got.RMSE {
		require.Less(t, r, 2e-5) // what float32 leaves at 80
	}
	// Sampling starts from N(0, 80²), which is a little narrower than the data with noise of level 80.
	require.Less(t, got.One.W1, 0.012)
	require.InDelta(t, 0.5, got.One.Std, 0.01)
	require.Less(t, got.Two.W1, 0.012)

	wrong, err := toy.measure(context.Background(), method{}, shifted{}, 2000)
	require.NoError(t, err)
	require.InDelta(t, 0.1, wrong.RMSE[0], 1e-4)
	require.InDelta(t, 0.1, wrong.One.W1, 0.01)
}

// shifted is wrong by 0.1.
type shifted struct{}

func (shifted) Origin(s *torch.Scope, x, t *torch.Tensor, c models.Cond) *torch.Tensor {
	return data.Origin(s, x, t, c).AddScalar(s, 0.1)
}

func TestTable(t *testing.T) {
	two := 0.25
	rs := []result{
		{Method: "iCT, N to 41", measured: measured{RMSE: []float64{0.1, 0.2, 0.3, 0.4}, One: &law{0.5, 0.6}}},
		{Method: "iCT, N to 41", Seed: 1, measured: measured{RMSE: []float64{0.1, 0.2, 0.3, 0.6}, One: &law{0.5, 0.6}}},
		{Method: "CT, N to 151 (control)", measured: measured{RMSE: []float64{0.1, 0.2, -1, 1.5}, Solver: &two}},
	}
	text := table(rs, 2)
	require.Contains(t, text, "| 0.100 | 0.200 | 0.300 | 0.500 (0.400 to 0.600) |  |  | 0.500 | 0.600 |  |  |")
	require.Contains(t, text, "| 0.100 | 0.200 |  | 1.500 (1.500 to 1.500) | 0.250 |")
	require.Regexp(t, `(?m)^- CT, N to 151 \(control\): .*\b3\.0 times.* iCT, N to 41\.$`, text)
	require.Equal(t, 2, strings.Count(text, "<small>"), "a row for each method that has results")
}
