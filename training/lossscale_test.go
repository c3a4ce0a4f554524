package training

import (
	"bytes"
	"context"
	"iter"
	"log/slog"
	"math"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/optim"
	"github.com/onestep-go/onestep/training/dataset"
)

// narrowed is ‖w·x - x‖² times a factor, with a product that passes through type d, as a network in half precision has it.
type narrowed struct {
	w      *torch.Tensor
	d      torch.DType
	factor float64
}

func (n *narrowed) Parameters() iter.Seq2[string, *torch.Tensor] {
	return func(yield func(string, *torch.Tensor) bool) { yield("w", n.w) }
}

func (n *narrowed) Loss(s *torch.Scope, _ int, b Batch, _ Draws) *torch.Tensor {
	y := b.X.Mul(s, n.w).To(s, n.d).To(s, torch.Float32)
	return y.Sub(s, b.X).Square(s).Mean(s).MulScalar(s, n.factor)
}

func (n *narrowed) Update(*torch.Scope, int) {}
func (n *narrowed) State() iter.Seq2[string, *torch.Tensor] {
	return func(func(string, *torch.Tensor) bool) {}
}
func (n *narrowed) Stats(int) map[string]float64 { return nil }

// narrow trains with Adam, whose steps do not depend on the factor, and returns the weight.
func narrow(t *testing.T, d torch.DType, factor float64, tr Trainer) (Result, float64, string, error) {
	t.Helper()
	return narrowUntil(t, 0, d, factor, tr)
}

// narrowUntil cancels the run after that many steps; 0: never.
func narrowUntil(t *testing.T, stop int, d torch.DType, factor float64, tr Trainer) (Result, float64, string, error) {
	t.Helper()
	scope := torch.NewScope(torch.CPU)
	defer scope.Close()
	n := &narrowed{torch.Zeros(scope, torch.Float32, 1), d, factor}
	n.w.SetRequiresGrad(true)
	opt, err := optim.Adam{LR: 0.05, Eps: 1e-20}.New(n.Parameters())
	require.NoError(t, err)
	defer opt.Close()
	var log bytes.Buffer
	tr.Objective, tr.Model, tr.Optimizer, tr.Seed = n, n, opt, 1
	tr.Data = Images{Loader: &dataset.Loader{Dataset: pixels{}, Batch: 4, Seed: 1}}
	tr.Log = slog.New(slog.NewTextHandler(&log, nil))
	if tr.Steps == 0 {
		tr.Steps = 12
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	tr.Progress = func(p Progress) {
		if p.Step == stop {
			cancel()
		}
	}
	r, err := tr.Train(ctx)
	return r, n.w.Item(), log.String(), err
}

// Gradients that float16 rounds to zero train a network with loss scaling, and as in float32: the weight after 12 steps is the same but
// for float16's rounding of the product, 2⁻¹¹.
func TestLossScaling(t *testing.T) {
	_, want, _, err := narrow(t, torch.Float32, 1, Trainer{})
	require.NoError(t, err)
	require.Greater(t, want, 0.3)
	const tiny = 1e-8
	_, lost, _, err := narrow(t, torch.Float16, tiny, Trainer{})
	require.NoError(t, err)
	require.Zero(t, lost, "without loss scaling the gradients are zero")
	r, got, _, err := narrow(t, torch.Float16, tiny, Trainer{LossScale: &LossScale{}})
	require.NoError(t, err)
	require.InEpsilon(t, want, got, 2e-3)
	require.Zero(t, r.Overflows)

	// The scale changes nothing where nothing is rounded to zero, since it is a power of two.
	_, plain, _, err := narrow(t, torch.Float32, 1, Trainer{LossScale: &LossScale{Growth: 2}, Clip: 0.1})
	require.NoError(t, err)
	_, clipped, _, err := narrow(t, torch.Float32, 1, Trainer{Clip: 0.1})
	require.NoError(t, err)
	require.Equal(t, clipped, plain)
	_, split, _, err := narrow(t, torch.Float32, 1, Trainer{LossScale: &LossScale{}, Accumulate: 2})
	require.NoError(t, err)
	_, whole, _, err := narrow(t, torch.Float32, 1, Trainer{Accumulate: 2})
	require.NoError(t, err)
	require.Equal(t, whole, split)
}

// A step whose scaled gradients overflow is skipped and halves the scale. It is no divergence: Guard allows no skips here.
func TestOverflowHalvesTheScale(t *testing.T) {
	r, got, log, err := narrow(t, torch.Float16, 64, Trainer{LossScale: &LossScale{}, Steps: 16})
	require.NoError(t, err)
	require.Positive(t, r.Overflows)
	require.Less(t, r.Overflows, 10)
	require.Zero(t, r.Skipped)
	require.Contains(t, log, "loss scale")
	_, want, _, err := narrow(t, torch.Float32, 1, Trainer{Steps: 16 - r.Overflows})
	require.NoError(t, err)
	require.InEpsilon(t, want, got, 0.1) // the batches are others by as many steps

	_, _, _, err = narrow(t, torch.Float16, 1e6, Trainer{LossScale: &LossScale{}, Steps: 40})
	require.ErrorContains(t, err, "diverged", "they overflow at a scale of 1, too")
	_, _, _, err = narrow(t, torch.Float16, 1e6, Trainer{LossScale: &LossScale{}, Steps: 10})
	require.ErrorContains(t, err, "10 steps", "none of the steps was taken")

	for _, bad := range []LossScale{{Start: 3}, {Start: 0.5}, {Start: math.Inf(1)}, {Start: math.NaN()}, {Start: -2}, {Growth: -1}} {
		_, _, _, err := narrow(t, torch.Float32, 1, Trainer{LossScale: &bad})
		require.ErrorContains(t, err, "LossScale", "%+v", bad)
	}
}

// The scale grows and falls as PyTorch's GradScaler's: twice after Growth steps in a row, half at an overflow, which starts the count
// anew.
func TestScale(t *testing.T) {
	c := scaling{Scale: 1 << 16}
	l := &LossScale{Growth: 3}
	var got []float64
	for _, good := range []bool{true, true, true, true, true, false, true, true, false, false, true, true, true, true} {
		if good {
			c.steady(l)
		} else {
			require.True(t, c.overflowed())
		}
		got = append(got, math.Log2(c.Scale))
	}
	require.Equal(t, []float64{16, 16, 17, 17, 17, 16, 16, 16, 15, 14, 14, 14, 15, 15}, got)
	require.Equal(t, scaling{1 << 15, 1, 3}, c)
	require.Equal(t, 2000, (&LossScale{}).growth())
	require.Equal(t, 65536.0, (&LossScale{}).start())
}

// A resumed run has the scale, and the count of steps since it changed, of the uninterrupted one, also where it overflows again and again.
func TestLossScalingResumes(t *testing.T) {
	whole, apart := filepath.Join(t.TempDir(), "whole"), filepath.Join(t.TempDir(), "apart")
	scale := &LossScale{Growth: 2}
	want, weight, _, err := narrow(t, torch.Float16, 64, Trainer{LossScale: scale, Steps: 20, Dir: whole, SaveEvery: 100})
	require.NoError(t, err)
	require.Greater(t, want.Overflows, 5)
	for stop := 7; stop < 20; stop += 3 {
		_, _, _, err := narrowUntil(t, stop, torch.Float16, 64, Trainer{LossScale: scale, Steps: 20, Dir: apart})
		require.ErrorIs(t, err, context.Canceled)
	}
	got, again, _, err := narrow(t, torch.Float16, 64, Trainer{LossScale: scale, Steps: 20, Dir: apart})
	require.NoError(t, err)
	require.Equal(t, weight, again)
	require.Equal(t, want.Overflows, got.Overflows)

	_, _, _, err = narrow(t, torch.Float16, 64, Trainer{Steps: 20, Dir: apart})
	require.ErrorContains(t, err, "LossScale")
	plain := filepath.Join(t.TempDir(), "plain")
	_, _, _, err = narrowUntil(t, 2, torch.Float32, 1, Trainer{Steps: 4, Dir: plain})
	require.ErrorIs(t, err, context.Canceled)
	_, _, _, err = narrow(t, torch.Float32, 1, Trainer{Steps: 4, Dir: plain, LossScale: scale})
	require.ErrorContains(t, err, "LossScale")
}
