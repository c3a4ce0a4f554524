package training

import (
	"bytes"
	"context"
	"iter"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/sampling"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/optim"
	"github.com/onestep-go/onestep/training/dataset"
)

// pixels is a data set of 2×1 images.
type pixels struct{}

func (pixels) Name() string           { return "pixels" }
func (pixels) Len() int               { return 16 }
func (pixels) Shape() (int, int, int) { return 1, 1, 2 }
func (pixels) Classes() []string      { return nil }
func (pixels) Read(i int, dst []byte) (int, error) {
	dst[0], dst[1] = byte(16*i), byte(255-16*i)
	return -1, nil
}

// poisoned is an objective, ‖w·x - x‖², whose loss is not finite at some steps. At the steps in gradient only the gradient is
// not.
type poisoned struct {
	w        *torch.Tensor
	bad      func(k int, lr float64) bool
	gradient map[int]bool
	opt      Optimizer
	taken    []int
}

func (p *poisoned) Parameters() iter.Seq2[string, *torch.Tensor] {
	return func(yield func(string, *torch.Tensor) bool) { yield("w", p.w) }
}

func (p *poisoned) Loss(s *torch.Scope, k int, b Batch, _ Draws) *torch.Tensor {
	l := b.Images.Mul(s, p.w).Sub(s, b.Images).Square(s).Mean(s)
	switch {
	case p.bad(k, p.opt.LR()):
		return l.MulScalar(s, math.NaN())
	case p.gradient[k]:
		return l.Add(s, p.w.Sub(s, p.w.Detach(s)).Sqrt(s).Sum(s)) // 0, with an infinite slope
	}
	return l
}

func (p *poisoned) Update(_ *torch.Scope, k int) { p.taken = append(p.taken, k) }
func (p *poisoned) State() iter.Seq2[string, *torch.Tensor] {
	return func(func(string, *torch.Tensor) bool) {}
}
func (p *poisoned) Stats(int) map[string]float64 { return nil }

// guarded trains 12 steps, saving every 4.
func guarded(t *testing.T, dir string, g Guard, bad func(k int, lr float64) bool, gradient ...int) (Result, *poisoned, string, error) {
	t.Helper()
	scope := torch.NewScope(torch.CPU)
	t.Cleanup(scope.Close)
	p := &poisoned{w: torch.Zeros(scope, torch.Float32, 1), bad: bad, gradient: map[int]bool{}}
	p.w.SetRequiresGrad(true)
	for _, k := range gradient {
		p.gradient[k] = true
	}
	opt, err := optim.SGD{LR: 0.1}.New(p.Parameters())
	require.NoError(t, err)
	t.Cleanup(opt.Close)
	p.opt = opt
	var log bytes.Buffer
	r, err := (&Trainer{Objective: p, Model: p, Optimizer: opt, Data: &dataset.Loader{Dataset: pixels{}, Batch: 4, Seed: 1},
		Dir: dir, Seed: 1, Steps: 12, SaveEvery: 4, Guard: g, Log: slog.New(slog.NewTextHandler(&log, nil))}).Train(context.Background())
	return r, p, log.String(), err
}

func at(steps ...int) func(int, float64) bool {
	return func(k int, _ float64) bool {
		for _, s := range steps {
			if k == s {
				return true
			}
		}
		return false
	}
}

// Without a guard the first loss that is not finite ends the run, with its step's number, and what is saved is from before.
func TestDivergenceEndsTheRun(t *testing.T) {
	for name, c := range map[string]struct {
		loss, gradient []int
		want           string
	}{
		"loss":     {[]int{6}, nil, "step 6: the loss is NaN"},
		"gradient": {nil, []int{6}, "step 6: the gradient's norm is"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "run")
			r, p, _, err := guarded(t, dir, Guard{}, at(c.loss...), c.gradient...)
			require.ErrorContains(t, err, c.want)
			require.Equal(t, []int{0, 1, 2, 3, 4, 5}, p.taken)
			require.Equal(t, 6, r.Step)
			require.FileExists(t, filepath.Join(dir, "state-0000004.safetensors"))
			require.NoFileExists(t, filepath.Join(dir, "state-0000006.safetensors"))
			require.False(t, math.IsNaN(p.w.Item()))
		})
	}
}

// Steps that are left out are logged and counted, and change nothing.
func TestSkips(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	r, p, log, err := guarded(t, dir, Guard{Skips: 2}, at(2, 3, 6), 9)
	require.NoError(t, err)
	require.True(t, r.Finished)
	require.Equal(t, 4, r.Skipped)
	require.Equal(t, []int{0, 1, 4, 5, 7, 8, 10, 11}, p.taken)
	require.Equal(t, 4, strings.Count(log, "left out a step"))
	require.Contains(t, log, "in_a_row=2")
	stats, err := os.ReadFile(filepath.Join(dir, "stats.jsonl"))
	require.NoError(t, err)
	require.Equal(t, 12, bytes.Count(stats, []byte("\n")))
	require.Equal(t, 12-3, bytes.Count(stats, []byte(`"loss"`)), "a loss that is no number is left out, not made up")
	require.Contains(t, string(stats), `"skipped":4`)

	_, _, _, err = guarded(t, filepath.Join(t.TempDir(), "run"), Guard{Skips: 2}, at(2, 3, 4))
	require.ErrorContains(t, err, "step 4: the loss is NaN", "three in a row are too many")
}

// A run that took no step at all has failed.
func TestSkippingEveryStepFails(t *testing.T) {
	r, p, _, err := guarded(t, filepath.Join(t.TempDir(), "run"), Guard{Skips: 100}, func(int, float64) bool { return true })
	require.ErrorContains(t, err, "none of 12 steps was taken")
	require.Empty(t, p.taken)
	require.Equal(t, 12, r.Skipped)
}

// A run that diverges goes back to its last saved state with half the learning rate, as often as it may. What it computes
// then is what a run that was killed there and went on computes, too.
func TestRollback(t *testing.T) {
	tooFast := func(k int, lr float64) bool { return k >= 6 && lr > 0.03 }
	dir := filepath.Join(t.TempDir(), "run")
	r, p, log, err := guarded(t, dir, Guard{Skips: 1, Rollbacks: 2}, tooFast)
	require.NoError(t, err)
	require.True(t, r.Finished)
	require.Equal(t, []int{0, 1, 2, 3, 4, 5, 4, 5, 4, 5, 6, 7, 8, 9, 10, 11}, p.taken)
	require.Equal(t, 4, r.Skipped)
	require.InDelta(t, 0.025, p.opt.LR(), 1e-12)
	require.Equal(t, 2, strings.Count(log, "went back to the last saved state"))
	stats, err := os.ReadFile(filepath.Join(dir, "stats.jsonl"))
	require.NoError(t, err)
	require.Equal(t, 12, bytes.Count(stats, []byte("\n")), "one line a step, not two")

	_, _, _, err = guarded(t, filepath.Join(t.TempDir(), "run"), Guard{Rollbacks: 1}, tooFast)
	require.ErrorContains(t, err, "step 6: the loss is NaN")

	// Goes on after the state of step 8, which knows the rate.
	require.NoError(t, os.Remove(filepath.Join(dir, "state-0000012.safetensors")))
	_, again, _, err := guarded(t, dir, Guard{Skips: 1, Rollbacks: 2}, tooFast)
	require.NoError(t, err)
	require.Equal(t, []int{8, 9, 10, 11}, again.taken)
	require.Equal(t, p.w.Item(), again.w.Item())

	_, _, _, err = guarded(t, filepath.Join(t.TempDir(), "run"), Guard{Rollbacks: 2}, at(1))
	require.ErrorContains(t, err, "step 1: the loss is NaN", "nothing is saved yet that it could go back to")
}

// The loss is told apart by noise level where it is logged: the means of the parts are those of the samples.
func TestLossByLevel(t *testing.T) {
	r := &session{}
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		r.observe([]float64{0.05, 0.5, 0.9, 20, 80}, torch.FromSlice(s, []float64{1, 2, 4, 5, 6}))
		return nil
	}))
	require.Equal(t, map[string]mean{"loss_below_0.1": {1, 1}, "loss_0.1_to_1": {6, 2}, "loss_above_10": {11, 2}}, r.bins)

	net := newMLP(t, 2, 8, 0)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		b := Batch{Images: gaussian.Sample(s, torch.NewGenerator(s, 1), torch.Float32, 64, 2)}
		for _, o := range []Objective{
			&EDM{Model: &models.EDM{Net: net}}, &CT{Model: &models.Consistency{Net: net}, Schedule: Fixed{}, Distance: L2{}},
			&CD{CT: CT{Model: &models.Consistency{Net: net}, Schedule: Fixed{}, Distance: L2{}}, Teacher: gaussian, Solver: sampling.Euler{}},
			&ECT{Model: &models.Consistency{Net: net, Boundary: models.AtZero}, Steps: 10},
		} {
			draws := Draw(s, 1, 0)
			seen := 0
			draws.Observe = func(levels []float64, each *torch.Tensor) {
				require.Equal(t, []int{len(levels)}, each.Shape())
				seen += len(levels)
			}
			with := o.Loss(s, 0, b, draws).Item()
			require.Equal(t, 64, seen, "%T", o)
			require.Equal(t, o.Loss(s, 0, b, Draw(s, 1, 0)).Item(), with, "%T: looking changes nothing", o)
		}
		return nil
	}))
}
