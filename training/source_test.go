package training

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/optim"
	"github.com/onestep-go/onestep/torch/safetensors"
)

// points2D is a source of points in the plane, each a function of its position, in batches of that size.
func points2D(batch int) SourceFunc {
	return func(s *torch.Scope, start int64) Batch {
		x := make([]float32, 0, 2*batch)
		for i := range batch {
			at := float32((start + int64(i)) % 7)
			x = append(x, at/10, -at/20)
		}
		return Batch{X: torch.FromSlice(s, x, batch, 2)}
	}
}

// trained returns the weights after a few steps of improved consistency training on points2D.
func trained(t *testing.T, batch, accumulate int, change func(tr *Trainer)) (weights []float32, r Result) {
	t.Helper()
	net := newMLP(t, 2, 16, 0)
	opt, err := optim.SGD{LR: 0.05}.New(net.Parameters())
	require.NoError(t, err)
	defer opt.Close()
	tr := &Trainer{
		Objective: &CT{Model: &models.Consistency{Net: net}, Schedule: Fixed{Levels: 10}, Index: LogNormal{}, Weight: InverseGap, Distance: L2{}},
		Model:     net, Optimizer: opt, Data: points2D(batch), Accumulate: accumulate, Seed: 3, Steps: 6,
	}
	if change != nil {
		change(tr)
	}
	r, err = tr.Train(t.Context())
	require.NoError(t, err)
	for _, p := range net.Parameters() {
		s := torch.NewScope(torch.CPU)
		weights = append(weights, torch.ToSlice[float32](p.Detach(s).Contiguous(s))...)
		s.Close()
	}
	return weights, r
}

// A step of several batches is the step of one large batch, as noise and levels belong to the samples. 1e-5: sums are of another order.
func TestAccumulatedBatches(t *testing.T) {
	whole, r := trained(t, 12, 0, nil)
	require.Equal(t, int64(72), r.Seen)
	for _, accumulate := range []int{2, 3, 12} {
		parts, r := trained(t, 12/accumulate, accumulate, nil)
		require.Equal(t, int64(72), r.Seen)
		require.InDeltaSlice(t, whole, parts, 1e-5, "%d batches a step", accumulate)
	}
	other, _ := trained(t, 12, 0, func(tr *Trainer) { tr.Seed = 4 })
	require.Greater(t, math.Abs(float64(whole[0]-other[0])), 1e-5, "the seed counts")
}

// A run without a folder computes the same and leaves nothing; one with a folder, of any source, resumes where it was.
func TestRunWithoutFolder(t *testing.T) {
	here := t.TempDir()
	t.Chdir(here)
	want, r := trained(t, 12, 2, nil)
	require.True(t, r.Finished)
	require.Empty(t, r.Snapshot)
	left, err := os.ReadDir(here)
	require.NoError(t, err)
	require.Empty(t, left)

	dir := filepath.Join(here, "run")
	trained(t, 12, 2, func(tr *Trainer) {
		tr.Dir = dir
		ctx, cancel := context.WithCancel(t.Context())
		tr.Progress = func(p Progress) {
			if p.Step == 4 {
				cancel()
			}
		}
		_, err := tr.Train(ctx)
		require.ErrorIs(t, err, context.Canceled)
		tr.Progress = nil
	})
	got, r := trained(t, 12, 2, func(tr *Trainer) { tr.Dir = dir })
	require.Equal(t, int64(144), r.Seen)
	require.Equal(t, want, got)

	err = (&Trainer{Objective: &EDM{}, Model: newMLP(t, 2, 8, 0), Optimizer: none{}, Data: points2D(1), Steps: 1, Guard: Guard{Rollbacks: 1}}).validate()
	require.ErrorContains(t, err, "Rollbacks")
}

// none is an optimizer that is never used.
type none struct{ Optimizer }

// Runs that were saved when noise was drawn for batches are refused by name.
func TestOldStatesAreRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	trained(t, 4, 1, func(tr *Trainer) { tr.Dir = dir })
	path := filepath.Join(dir, "state-0000006.safetensors")
	f, err := safetensors.Open(path)
	require.NoError(t, err)
	head := f.Metadata()[stateKey]
	require.NoError(t, f.Close())
	var fields map[string]any
	require.NoError(t, json.Unmarshal([]byte(head), &fields))
	require.EqualValues(t, 2, fields["format"])
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	old := strings.Replace(string(data), `{\"format\":2,`, `{\"format\":1,`, 1)
	require.NotEqual(t, string(data), old)
	require.NoError(t, os.WriteFile(path, []byte(old), 0o644))
	net := newMLP(t, 2, 16, 0)
	opt, err := optim.SGD{LR: 0.05}.New(net.Parameters())
	require.NoError(t, err)
	defer opt.Close()
	_, err = (&Trainer{Objective: &EDM{Model: &models.EDM{Net: net}}, Model: net, Optimizer: opt, Data: points2D(4), Dir: dir, Seed: 3, Steps: 6}).Train(t.Context())
	require.ErrorContains(t, err, "older version")
	require.ErrorContains(t, err, path)
}

// What a source fails with ends the run, and one that ends is a mistake.
func TestSourcesThatFail(t *testing.T) {
	net := newMLP(t, 2, 8, 0)
	opt, err := optim.SGD{LR: 0.05}.New(net.Parameters())
	require.NoError(t, err)
	defer opt.Close()
	broken := errors.New("broken")
	for want, source := range map[string]Source{"broken": failing{broken}, "no more batches": failing{}} {
		_, err := (&Trainer{Objective: &EDM{Model: &models.EDM{Net: net}}, Model: net, Optimizer: opt, Data: source, Steps: 2}).Train(t.Context())
		require.ErrorContains(t, err, want)
	}
}

// Captions reach Prepare, one for each sample, also when the objective tries its network; nobody encoding them is an error.
func TestCaptionsAreEncoded(t *testing.T) {
	net := newMLP(t, 2, 8, 0)
	opt, err := optim.SGD{LR: 0.05}.New(net.Parameters())
	require.NoError(t, err)
	defer opt.Close()
	source := SourceFunc(func(s *torch.Scope, start int64) Batch {
		b := points2D(3)(s, start)
		b.Captions = []string{"a", "b", "c"}
		return b
	})
	var got []int
	tr := &Trainer{Objective: trying{&EDM{Model: &models.EDM{Net: net}}}, Model: net, Optimizer: opt, Data: source, Steps: 1}
	tr.Prepare = func(_ *torch.Scope, b Batch, _ Draws) Batch {
		require.Len(t, b.Captions, b.X.Dim(0))
		got = append(got, len(b.Captions))
		b.Captions = nil
		return b
	}
	_, err = tr.Train(t.Context())
	require.NoError(t, err)
	require.Equal(t, []int{1, 3}, got)
	tr.Prepare = nil
	_, err = tr.Train(t.Context())
	require.ErrorContains(t, err, "captions")
}

// trying is an objective that tries its network.
type trying struct{ Objective }

func (o trying) Try(s *torch.Scope, b Batch, d Draws) { o.Loss(s, 0, b, d) }

// failing yields one batch, and then its error if it has one.
type failing struct{ err error }

func (f failing) Batches(context.Context, int64) iter.Seq2[func(s *torch.Scope) Batch, error] {
	return func(yield func(func(s *torch.Scope) Batch, error) bool) {
		one := func(s *torch.Scope) Batch { return points2D(2)(s, 0) }
		if yield(one, nil) && f.err != nil {
			yield(nil, f.err)
		}
	}
}
