package training

import (
	"bytes"
	"context"
	"log/slog"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	perceptron "github.com/onestep-go/onestep/models/mlp"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/optim"
)

// mixedRun trains a small network in a precision and returns the run's result, its log, and the weights before and after, with the EMA weights.
func mixedRun(t *testing.T, tr Trainer, lr float64) (r Result, log string, before, after, average []float32) {
	t.Helper()
	net := network(t, perceptron.Config{Width: 16, Depth: 2}, torch.Float32, 1)
	twin, err := net.Clone()
	require.NoError(t, err)
	defer twin.Close()
	opt, err := optim.Adam{LR: lr}.New(net.Parameters())
	require.NoError(t, err)
	defer opt.Close()
	values := func(m Module) (all []float32) {
		for _, p := range m.Parameters() {
			require.Equal(t, torch.Float32, p.DType())
			all = append(all, torch.ToSlice[float32](p)...)
		}
		return all
	}
	before = values(net)
	var text bytes.Buffer
	tr.Objective, tr.Model, tr.Optimizer = &EDM{Model: &models.EDM{Net: net}}, net, opt
	tr.Averages = []Average{{Into: twin, Decay: 0.999, RampUp: 1e-9}}
	tr.Log, tr.Seed = slog.New(slog.NewTextHandler(&text, nil)), 1
	tr.Data = SourceFunc(func(s *torch.Scope, seen int64) Batch {
		return Batch{X: torch.Randn(s, torch.NewGenerator(s, uint64(seen)), torch.Float32, 16, 2)}
	})
	r, err = tr.Train(context.Background())
	require.NoError(t, err)
	return r, text.String(), before, values(net), values(twin)
}

// Weights and EMA weights are float32 in mixed precision: a step that is smaller than half a unit in the last place of bfloat16 changes every
// weight that float32 can change.
func TestSmallUpdatesSurvive(t *testing.T) {
	const lr = 1e-5
	for _, d := range []torch.DType{torch.BFloat16, torch.Float16} {
		tr := Trainer{Precision: d, Steps: 1}
		if d == torch.Float16 {
			tr.LossScale = &LossScale{}
		}
		_, log, before, after, average := mixedRun(t, tr, lr)
		require.NotContains(t, log, "LossScale")
		small, moved := 0, 0
		for i, w := range before {
			change := float64(after[i] - w)
			require.LessOrEqual(t, math.Abs(change), 1.1*lr)
			if math.Abs(float64(w)) > 0.01 { // half a unit of bfloat16 is at least 2e-5 there
				small++
				if change != 0 {
					moved++
					require.NotEqual(t, after[i], average[i])
				}
			}
		}
		require.Greater(t, small, 100)
		require.Greater(t, float64(moved), 0.9*float64(small), d)
	}
}

// Loss scaling starts at a scale whose gradients overflow float16, skips steps until they do not, and then trains as bfloat16 does.
func TestMixedPrecisionScalesTheLoss(t *testing.T) {
	r, log, before, after, _ := mixedRun(t, Trainer{Precision: torch.Float16, LossScale: &LossScale{Start: 1 << 24}, Steps: 30}, 1e-3)
	require.Positive(t, r.Overflows)
	require.Less(t, r.Overflows, 20)
	require.Zero(t, r.Skipped)
	require.Contains(t, log, "halved the loss scale")
	_, _, _, other, _ := mixedRun(t, Trainer{Precision: torch.BFloat16, Steps: 30 - r.Overflows}, 1e-3)
	var dot, n, m float64
	for i := range before {
		a, b := float64(after[i]-before[i]), float64(other[i]-before[i])
		dot, n, m = dot+a*b, n+a*a, m+b*b
	}
	require.Greater(t, dot/math.Sqrt(n*m), 0.6, "both go the same way, on other batches")
}

// A precision without effect, without loss scaling, or that is none is not silent.
func TestPrecisionNotices(t *testing.T) {
	_, log, _, _, _ := mixedRun(t, Trainer{Precision: torch.Float16, Steps: 1}, 1e-3)
	require.Contains(t, log, "LossScale")
	wide := network(t, perceptron.Config{Width: 4, Depth: 1}, torch.Float64, 1)
	tr := Trainer{Objective: &EDM{Model: &models.EDM{Net: wide}}, Precision: torch.BFloat16}
	d, known := tr.weightsType()
	require.True(t, known)
	require.Equal(t, torch.Float64, d)
	require.False(t, tr.unscaled())
	opt, err := optim.SGD{}.New(wide.Parameters())
	require.NoError(t, err)
	defer opt.Close()
	var text bytes.Buffer
	tr.Model, tr.Optimizer, tr.Steps, tr.Log = wide, opt, 1, slog.New(slog.NewTextHandler(&text, nil))
	tr.Data = SourceFunc(func(s *torch.Scope, _ int64) Batch { return Batch{X: torch.Ones(s, torch.Float64, 2, 2)} })
	_, err = tr.Train(t.Context())
	require.NoError(t, err)
	require.Contains(t, text.String(), "no effect")
	tr.Precision = torch.Int64
	_, err = tr.Train(t.Context())
	require.ErrorContains(t, err, "Precision")
}
