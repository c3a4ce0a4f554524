package training

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	perceptron "github.com/onestep-go/onestep/models/mlp"
	"github.com/onestep-go/onestep/torch"
)

// Losses and gradients are those of PyTorch, over the whole batch and over classes.
func TestStableECTLossGolden(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		r := readReference(t, s, "stablect")
		net := r.net(t, "model", false)
		e := &StableECT{ECT{Model: &models.Consistency{Net: classless{net}, Boundary: models.AtZero}, Distance: PseudoHuber{}}}
		b := r.batch()
		r.require(t, s, "all", e.LossAt(s, b, r.numbers("low"), r.numbers("high"), r["z"], 1), net)
		b.Cond.Class = r["label"]
		r.require(t, s, "classes", e.LossAt(s, b, r.numbers("low"), r.numbers("high"), r["z"], 1), net)
		return nil
	}))
}

// classless is a network that ignores classes.
type classless struct{ *perceptron.MLP }

func (n classless) Forward(s *torch.Scope, x, noise *torch.Tensor, c models.Cond) *torch.Tensor {
	c.Class = nil
	return n.MLP.Forward(s, x, noise, c)
}

// A batch of one sample, and one whose samples have different classes, give ECT's loss to the same bits; so does a small level, at which
// no other sample can be meant.
func TestStableECTIsECT(t *testing.T) {
	net := newMLP(t, 2, 16, 0)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			stable := &StableECT{ECT{Model: &models.Consistency{Net: net, Boundary: models.AtZero}}}
			both := func(b Batch, low, high []float64) (got, want float64) {
				z := torch.Randn(s, torch.NewGenerator(s, 2), torch.Float32, b.X.Shape()...)
				return stable.LossAt(s, b, low, high, z, 1).Item(), stable.ECT.LossAt(s, b, low, high, z, 1).Item()
			}
			x := gaussian.Sample(s, torch.NewGenerator(s, 1), torch.Float32, 3, 2)
			got, want := both(Batch{X: x.Narrow(s, 0, 0, 1)}, []float64{3}, []float64{7})
			require.Equal(t, want, got)
			b := Batch{X: x}
			low, high := []float64{0, 1, 3}, []float64{1, 2, 9}
			got, want = both(b, low, high)
			require.NotEqual(t, want, got)
			got, want = both(b, []float64{0.001, 0.0005, 0}, []float64{0.002, 0.001, 0.003})
			require.Equal(t, want, got)
			b.Cond.Class = torch.FromSlice(s, []int64{0, 1, 2})
			got, want = both(b, low, high)
			require.Equal(t, want, got)
			return nil
		})
	}))
}

// The target has less variance: over the noise and the sample that lead to the same point, its lower point is nearly fixed, where ECT's
// spreads as the posterior does. Its mean is that of ECT.
func TestStableECTReducesVariance(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		const n, high, low = 512, 4.0, 2.0
		x := gaussian.Sample(s, torch.NewGenerator(s, 1), torch.Float64, n, 2)
		z := torch.Randn(s, torch.NewGenerator(s, 2), torch.Float64, n, 2)
		at := func(v float64) *torch.Tensor { return torch.Full(s, v, torch.Float64, n) }
		p := points{clean: x, noise: z, xHigh: noisy(s, x, z, at(high)), high: at(high), low: at(low)}
		exact := gaussian.Denoise(s, p.xHigh, at(high), models.Cond{})
		want := exact.Add(s, p.xHigh.Sub(s, exact).MulScalar(s, low/high))
		off := func(y *torch.Tensor) float64 { return math.Sqrt(y.Sub(s, want).Square(s).Mean(s).Item()) }
		own, mean := off(sameNoise(s, p)), off(batchMean(s, p))
		t.Logf("distance of the lower point from the exact trajectory's tangent: %.4f with the sample's noise, %.4f with the batch's mean", own, mean)
		require.Less(t, mean, own/8)
		return nil
	}))
}

func TestStableECTRefusesText(t *testing.T) {
	net := newMLP(t, 2, 8, 0)
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		e := &StableECT{ECT{Model: &models.Consistency{Net: net, Boundary: models.AtZero}, Steps: 1}}
		b := Batch{X: torch.Ones(s, torch.Float32, 2, 2), Cond: models.Cond{Text: torch.Ones(s, torch.Float32, 2, 3, 4)}}
		e.LossAt(s, b, []float64{0, 1}, []float64{1, 2}, b.X, 1)
		return nil
	})
	require.ErrorContains(t, err, "text features")
}
