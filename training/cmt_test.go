package training

import (
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	perceptron "github.com/onestep-go/onestep/models/mlp"
	"github.com/onestep-go/onestep/models/solver"
	"github.com/onestep-go/onestep/torch"
)

// indices returns a tensor [B, P] of whole numbers.
func indices(s *torch.Scope, x *torch.Tensor) (all [][]int) {
	for i := range x.Dim(0) {
		var row []int
		for _, v := range torch.ToSlice[int64](x.Select(s, 0, i).Contiguous(s)) {
			row = append(row, int(v))
		}
		all = append(all, row)
	}
	return all
}

// Trajectories, losses and gradients are those of PyTorch, for consistency functions and for jumps.
func TestCMTLossGolden(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		r := readReference(t, s, "cmt")
		net, jumps := r.net(t, "model", false), r.net(t, "jumps", true)
		c := &CMT{Model: &models.Consistency{Net: net, Boundary: models.AtZero}, Teacher: gaussian, Steps: 5}
		path := solver.Path(s, gaussian, r["x"].Add(s, r["z"].MulScalar(s, 80)), c.Levels(), models.Cond{})
		off := torch.Stack(s, path, 0).Sub(s, r["path"]).Norm(s).Item() / r["path"].Norm(s).Item()
		require.Less(t, off, 1e-12)
		from, to := indices(s, r["start"]), indices(s, r["end"])
		last := [][]int{{5, 5}, {5, 5}, {5, 5}, {5, 5}}
		r.require(t, s, "consistency", c.LossAt(s, r.batch(), from, last, r["z"], 1), net)
		c.Model, c.Jumps = nil, &models.MeanFlow{Net: jumps}
		r.require(t, s, "jumps", c.LossAt(s, r.batch(), from, to, r["z"], 1), jumps)
		return nil
	}))
}

// The exact average velocity has a small loss, which is the solver's error and falls with its steps.
func TestCMTLossOfTheExactAverage(t *testing.T) {
	loss := func(steps int) (l float64) {
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			c := &CMT{Jumps: &models.MeanFlow{Net: &gaussianFlow{}}, Teacher: gaussian, Steps: steps}
			b := Batch{X: gaussian.Sample(s, torch.NewGenerator(s, 1), torch.Float64, 64, 2)}
			l = c.Loss(s, 0, b, drawn(1, 0, b)).Item()
			return nil
		}))
		return l
	}
	few, many := loss(16), loss(64)
	t.Logf("%.3g with 16 steps, %.3g with 64", few, many)
	require.Less(t, few, 1e-2)
	require.Less(t, many, few/8)
}

// Points are drawn without repetition, and jumps end below; all points have a target at the end for a consistency function.
func TestCMTDraws(t *testing.T) {
	b := Batch{}
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		b.X = torch.Ones(s, torch.Float32, 1, 2)
		host := drawn(1, 0, b).Samples[0]
		from := host.Perm(16)[:8]
		for i, end := range ends(host, from, 16, true) {
			require.Greater(t, end, from[i])
			require.LessOrEqual(t, end, 16)
		}
		require.Equal(t, slices.Repeat([]int{16}, 8), ends(host, from, 16, false))
		return nil
	}))
	levels := (&CMT{}).Levels()
	require.Len(t, levels, 17)
	require.Equal(t, []float64{80, 0}, []float64{levels[0], levels[16]})
	require.InEpsilon(t, math.Pow(0.002/80, 1./16), levels[9]/levels[8], 1e-12)
}

func TestCMTRefuses(t *testing.T) {
	at := &models.Consistency{Net: &perceptron.MLP{}, Boundary: models.AtZero}
	for want, c := range map[string]*CMT{
		"and not both":     {},
		"boundary at zero": {Model: &models.Consistency{}, Teacher: gaussian},
		"no teacher":       {Model: at},
		"1 to 1000 steps":  {Model: at, Teacher: gaussian, Steps: -1},
		"1 to 16 points":   {Model: at, Teacher: gaussian, Points: 17},
		"smallest level":   {Model: at, Teacher: gaussian, SigmaMin: 100},
	} {
		require.ErrorContains(t, c.Validate(), want)
	}
}
