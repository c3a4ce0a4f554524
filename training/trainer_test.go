package training

import (
	"bytes"
	"context"
	"iter"
	"log/slog"
	"maps"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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
	after    func(p *poisoned, k int) // a step that was taken; nil: nothing
}

func (p *poisoned) Parameters() iter.Seq2[string, *torch.Tensor] {
	return func(yield func(string, *torch.Tensor) bool) { yield("w", p.w) }
}

func (p *poisoned) Loss(s *torch.Scope, k int, b Batch, _ Draws) *torch.Tensor {
	l := b.X.Mul(s, p.w).Sub(s, b.X).Square(s).Mean(s)
	switch {
	case p.bad(k, p.opt.LR()):
		return l.MulScalar(s, math.NaN())
	case p.gradient[k]:
		return l.Add(s, p.w.Sub(s, p.w.Detach(s)).Sqrt(s).Sum(s)) // 0, with an infinite slope
	}
	return l
}

func (p *poisoned) Update(_ *torch.Scope, k int) {
	p.taken = append(p.taken, k)
	if p.after != nil {
		p.after(p, k)
	}
}

// spoil multiplies the weight.
func (p *poisoned) spoil(by float64) {
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	p.w.Detach(s).MulScalarInPlace(s, by)
}

func (p *poisoned) State() iter.Seq2[string, *torch.Tensor] {
	return func(func(string, *torch.Tensor) bool) {}
}
func (p *poisoned) Stats(int) map[string]float64 { return nil }

// guarded trains 12 steps, saving every 4.
func guarded(t *testing.T, dir string, g Guard, bad func(k int, lr float64) bool, gradient ...int) (Result, *poisoned, string, error) {
	t.Helper()
	return guardedThen(t, dir, g, bad, nil, gradient...)
}

// guardedThen is guarded with something that happens after each step that was taken.
func guardedThen(t *testing.T, dir string, g Guard, bad func(k int, lr float64) bool, after func(p *poisoned, k int), gradient ...int) (Result, *poisoned, string, error) {
	t.Helper()
	scope := torch.NewScope(torch.CPU)
	t.Cleanup(scope.Close)
	p := &poisoned{w: torch.Zeros(scope, torch.Float32, 1), bad: bad, gradient: map[int]bool{}, after: after}
	p.w.SetRequiresGrad(true)
	for _, k := range gradient {
		p.gradient[k] = true
	}
	opt, err := optim.SGD{LR: 0.1}.New(p.Parameters())
	require.NoError(t, err)
	t.Cleanup(opt.Close)
	p.opt = opt
	var log bytes.Buffer
	r, err := (&Trainer{Objective: p, Model: p, Optimizer: opt, Data: Images{Loader: &dataset.Loader{Dataset: pixels{}, Batch: 4, Seed: 1}},
		Dir: dir, Seed: 1, Steps: 12, SaveEvery: 4, Guard: g, Log: slog.New(slog.NewTextHandler(&log, nil))}).Train(context.Background())
	return r, p, log.String(), err
}

// The time of a session covers samples: it ends after the samples during which the time ran out, and time is left for those at its end.
func TestDurationCoversSamples(t *testing.T) {
	scope := torch.NewScope(torch.CPU)
	defer scope.Close()
	p := &poisoned{w: torch.Zeros(scope, torch.Float32, 1), bad: at()}
	p.w.SetRequiresGrad(true)
	opt, err := optim.SGD{LR: 0.1}.New(p.Parameters())
	require.NoError(t, err)
	defer opt.Close()
	p.opt = opt
	tr := Trainer{Objective: p, Model: p, Optimizer: opt, Data: Images{Loader: &dataset.Loader{Dataset: pixels{}, Batch: 4, Seed: 1}},
		Dir: filepath.Join(t.TempDir(), "run"), Steps: 1000, SaveEvery: 1000, SampleEvery: 2, Duration: time.Minute}
	sampled := 0
	tr.Sample = func(_ context.Context, k int) error {
		sampled = k
		tr.Duration = 1 // as if it had taken that long
		return nil
	}
	r, err := tr.Train(t.Context())
	require.NoError(t, err)
	require.Equal(t, []int{2, 2}, []int{sampled, r.Step}, "no step after the time")
	require.FileExists(t, r.State)

	tr.Duration, tr.SampleTime = time.Hour, func(perSecond float64) time.Duration { return time.Duration(7200 / perSecond * float64(time.Second)) }
	run := &session{rate: newRate()}
	require.Zero(t, tr.reserve(run))
	run.rate.add(time.Minute, 4*60)
	require.Equal(t, 30*time.Minute, tr.reserve(run), "7200 images at 4 a second")
	run.rate.add(2*time.Minute, 60)
	require.Equal(t, 30*time.Minute, tr.reserve(run), "at most half of the session")
	run.sampled = time.Minute
	require.Equal(t, time.Minute, tr.reserve(run), "what it took")
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

// Skipped steps are logged and counted, and change nothing.
func TestSkips(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	r, p, log, err := guarded(t, dir, Guard{Skips: 2}, at(2, 3, 6), 9)
	require.NoError(t, err)
	require.True(t, r.Finished)
	require.Equal(t, 4, r.Skipped)
	require.Equal(t, []int{0, 1, 4, 5, 7, 8, 10, 11}, p.taken)
	require.Equal(t, 4, strings.Count(log, "skipped a step"))
	require.Contains(t, log, "consecutive=2")
	stats, err := os.ReadFile(filepath.Join(dir, "stats.jsonl"))
	require.NoError(t, err)
	require.Equal(t, 12, bytes.Count(stats, []byte("\n")))
	require.Equal(t, 12-3, bytes.Count(stats, []byte(`"loss"`)), "a loss that is NaN is omitted")
	require.Contains(t, string(stats), `"skipped":4`)

	_, _, _, err = guarded(t, filepath.Join(t.TempDir(), "run"), Guard{Skips: 2}, at(2, 3, 4))
	require.ErrorContains(t, err, "step 4: the loss is NaN", "three in a row are too many")
}

// A run that took no step at all has failed.
func TestSkippingEveryStepFails(t *testing.T) {
	r, p, _, err := guarded(t, filepath.Join(t.TempDir(), "run"), Guard{Skips: 100}, func(int, float64) bool { return true })
	require.ErrorContains(t, err, "12 steps")
	require.Empty(t, p.taken)
	require.Equal(t, 12, r.Skipped)
}

// A run that diverges rolls back to its last checkpoint with half the learning rate, up to Guard.Rollbacks times. A run that is killed
// then and resumed computes the same.
func TestRollback(t *testing.T) {
	tooFast := func(k int, lr float64) bool { return k >= 6 && lr > 0.03 }
	dir := filepath.Join(t.TempDir(), "run")
	r, p, log, err := guarded(t, dir, Guard{Skips: 1, Rollbacks: 2}, tooFast)
	require.NoError(t, err)
	require.True(t, r.Finished)
	require.Equal(t, []int{0, 1, 2, 3, 4, 5, 4, 5, 4, 5, 6, 7, 8, 9, 10, 11}, p.taken)
	require.Equal(t, 4, r.Skipped)
	require.InDelta(t, 0.025, p.opt.LR(), 1e-12)
	require.Equal(t, 2, strings.Count(log, "rolled back"))
	stats, err := os.ReadFile(filepath.Join(dir, "stats.jsonl"))
	require.NoError(t, err)
	require.Equal(t, 12, bytes.Count(stats, []byte("\n")), "one line a step, not two")

	_, _, _, err = guarded(t, filepath.Join(t.TempDir(), "run"), Guard{Rollbacks: 1}, tooFast)
	require.ErrorContains(t, err, "step 6: the loss is NaN")

	// Resumes from the checkpoint of step 8, which holds the learning rate's factor.
	require.NoError(t, os.Remove(filepath.Join(dir, "state-0000012.safetensors")))
	_, again, _, err := guarded(t, dir, Guard{Skips: 1, Rollbacks: 2}, tooFast)
	require.NoError(t, err)
	require.Equal(t, []int{8, 9, 10, 11}, again.taken)
	require.Equal(t, p.w.Item(), again.w.Item())

	_, _, _, err = guarded(t, filepath.Join(t.TempDir(), "run"), Guard{Rollbacks: 2}, at(1))
	require.ErrorContains(t, err, "step 1: the loss is NaN", "there is no checkpoint to roll back to")
	require.ErrorContains(t, err, "lower learning rate")
	_, _, _, err = guarded(t, filepath.Join(t.TempDir(), "run"), Guard{Rollbacks: 2}, at(0))
	require.ErrorContains(t, err, "the loss is NaN at the first step: the weights that the run starts from or the data", "no learning rate was used yet")
}

// Weights that are not finite are not saved, though all losses were finite; the run rolls back, or ends.
func TestWhatIsNotFiniteIsNotSaved(t *testing.T) {
	overflow := func(p *poisoned, k int) {
		if k == 7 && p.opt.LR() > 0.06 {
			p.spoil(math.Inf(1))
		}
	}
	dir := filepath.Join(t.TempDir(), "run")
	_, _, _, err := guardedThen(t, dir, Guard{}, at(), overflow)
	require.ErrorContains(t, err, "step 8: 1 ")
	require.ErrorContains(t, err, "learning rate")
	for _, kind := range []string{"state", "model"} {
		require.FileExists(t, filepath.Join(dir, kind+"-0000004.safetensors"))
		require.NoFileExists(t, filepath.Join(dir, kind+"-0000008.safetensors"))
	}
	r, p, log, err := guardedThen(t, filepath.Join(t.TempDir(), "run"), Guard{Rollbacks: 1}, at(), overflow)
	require.NoError(t, err)
	require.True(t, r.Finished)
	require.Equal(t, []int{0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7, 8, 9, 10, 11}, p.taken)
	require.Equal(t, 1, strings.Count(log, "rolled back"))

	// The same at the end of the run. A checkpoint with values that are not finite is not resumed from.
	last := filepath.Join(t.TempDir(), "run")
	_, _, _, err = guardedThen(t, last, Guard{}, at(), func(p *poisoned, k int) {
		if k == 11 {
			p.spoil(math.NaN())
		}
	})
	require.ErrorContains(t, err, "step 12: 1 ")
	require.NoFileExists(t, filepath.Join(last, "state-0000012.safetensors"))
	state := filepath.Join(last, "state-0000008.safetensors")
	text, err := os.ReadFile(state)
	require.NoError(t, err)
	copy(text[len(text)-4:], "\xff\xff\xff\x7f")
	require.NoError(t, os.WriteFile(state, text, 0o644))
	_, _, _, err = guarded(t, last, Guard{Rollbacks: 1}, at())
	require.ErrorContains(t, err, state)
	require.ErrorContains(t, err, "step 4")
}

// Nothing is saved while steps are skipped: it would replace the checkpoint to roll back to by one of the diverging run.
func TestNothingIsSavedBetweenSkips(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	_, p, _, err := guarded(t, dir, Guard{Skips: 5}, at(6, 7, 8))
	require.NoError(t, err)
	require.Equal(t, []int{0, 1, 2, 3, 4, 5, 9, 10, 11}, p.taken)
	require.NoFileExists(t, filepath.Join(dir, "model-0000008.safetensors"))
	require.FileExists(t, filepath.Join(dir, "model-0000010.safetensors"), "as soon as a step is taken")
}

// If the run diverges from the last checkpoint again, it rolls back to the one before, and later does not resume from the last one.
func TestRollbackGoesFurther(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	var fifth float64 // the rate at which step 5 was taken last
	bad := func(k int, _ float64) bool { return k >= 9 && fifth > 0.03 }
	after := func(p *poisoned, k int) {
		if k == 5 {
			fifth = p.opt.LR()
		}
		if k == 4 && p.opt.LR() < 0.1 {
			require.NoFileExists(t, filepath.Join(dir, "state-0000008.safetensors"))
			require.FileExists(t, filepath.Join(dir, "model-0000008.safetensors"), "snapshots are kept")
		}
	}
	r, p, log, err := guardedThen(t, dir, Guard{Rollbacks: 2}, bad, after)
	require.NoError(t, err)
	require.True(t, r.Finished)
	require.Equal(t, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 4, 5, 6, 7, 8, 9, 10, 11}, p.taken)
	require.Equal(t, 2, strings.Count(log, "rolled back"))
	require.FileExists(t, filepath.Join(dir, "state-0000008.safetensors"), "written anew")
}

// A rollback is saved: a run that is started again keeps the learning rate's factor and the number of rollbacks.
func TestRollbackIsSaved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	bad := func(k int, _ float64) bool { return k >= 6 }
	_, p, _, err := guarded(t, dir, Guard{Rollbacks: 1}, bad)
	require.ErrorContains(t, err, "step 6: the loss is NaN")
	require.ErrorContains(t, err, "1 of 1 rollbacks")
	require.ErrorContains(t, err, "0.5")
	require.Equal(t, []int{0, 1, 2, 3, 4, 5, 4, 5}, p.taken)
	_, p, _, err = guarded(t, dir, Guard{Rollbacks: 1}, bad)
	require.ErrorContains(t, err, "1 of 1 rollbacks")
	require.Equal(t, []int{4, 5}, p.taken)
	require.InDelta(t, 0.05, p.opt.LR(), 1e-12)
}

// A run that ended before its first checkpoint starts again from step 0, logs that, and records no step twice; one whose checkpoints were
// removed is an error.
func TestRunWithoutState(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	_, _, _, err := guarded(t, dir, Guard{}, at(2))
	require.ErrorContains(t, err, "step 2: the loss is NaN")
	_, p, log, err := guarded(t, dir, Guard{}, at())
	require.NoError(t, err)
	require.Len(t, p.taken, 12)
	require.Contains(t, log, "starts again from step 0")
	stats, err := os.ReadFile(filepath.Join(dir, "stats.jsonl"))
	require.NoError(t, err)
	require.Equal(t, 12, bytes.Count(stats, []byte("\n")))

	last := filepath.Join(dir, "model-0000012.safetensors")
	want, err := os.ReadFile(last)
	require.NoError(t, err)
	require.NoError(t, os.Remove(last))
	_, _, _, err = guarded(t, dir, Guard{}, at())
	require.NoError(t, err)
	got, err := os.ReadFile(last)
	require.NoError(t, err, "a missing snapshot is written again from the checkpoint")
	require.Equal(t, want, got)

	states, err := filepath.Glob(filepath.Join(dir, "state-*"))
	require.NoError(t, err)
	require.Len(t, states, 2)
	for _, path := range states {
		require.NoError(t, os.Remove(path))
	}
	_, _, _, err = guarded(t, dir, Guard{}, at())
	require.ErrorContains(t, err, "3 steps")
}

// A network without forward-mode derivatives is found before a run is made, also where the derivative comes in later.
func TestForwardModeIsTriedBeforeTheRun(t *testing.T) {
	distances := formula{F: func(s *torch.Scope, u, _ *torch.Tensor) *torch.Tensor {
		d, err := torch.Call(s, "aten::_cdist_forward", u, u, 2.0, nil)
		if err != nil {
			panic(err)
		}
		return d[0].(*torch.Tensor)
	}}
	scope := torch.NewScope(torch.CPU)
	defer scope.Close()
	p := &poisoned{w: torch.Zeros(scope, torch.Float32, 1)}
	opt, err := optim.SGD{LR: 0.1}.New(p.Parameters())
	require.NoError(t, err)
	defer opt.Close()
	for want, o := range map[string]Objective{
		"SCM's Step above 0":  &SCM{Model: &models.TrigConsistency{Net: distances}, Warmup: 1000},
		"use other operators": &MeanFlow{Model: &models.MeanFlow{Net: distances}, Ratio: 1e-9},
	} {
		dir := filepath.Join(t.TempDir(), "run")
		_, err = (&Trainer{Objective: o, Model: p, Optimizer: opt, Data: Images{Loader: &dataset.Loader{Dataset: pixels{}, Batch: 4}}, Dir: dir, Steps: 1}).Train(context.Background())
		require.ErrorContains(t, err, "the network cannot be trained")
		require.ErrorContains(t, err, "_cdist_forward has no forward-mode derivative in libtorch")
		require.ErrorContains(t, err, want)
		require.NoDirExists(t, dir)
	}
}

// Trying a network takes the first batch of the run, and neither starts the source once more nor changes what the run draws.
func TestTryTakesTheFirstBatch(t *testing.T) {
	scope := torch.NewScope(torch.CPU)
	defer scope.Close()
	run := func(o Objective, steps int, dir string) (starts []int64, asked int) {
		p := &poisoned{w: torch.Zeros(scope, torch.Float32, 1)}
		opt, err := optim.SGD{LR: 0.1}.New(p.Parameters())
		require.NoError(t, err)
		defer opt.Close()
		data := starting{SourceFunc(func(s *torch.Scope, start int64) Batch {
			asked++
			return Batch{X: torch.Full(s, float64(start), torch.Float32, 3, 1)}
		}), &starts}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		_, err = (&Trainer{Objective: o, Model: p, Optimizer: opt, Data: data, Dir: dir, Seed: 7, Steps: 4, Progress: func(p Progress) {
			if p.Step == steps {
				stop()
			}
		}}).Train(ctx)
		require.ErrorIs(t, err, context.Canceled)
		return starts, asked
	}
	plain, tried := &drawing{}, &tryingOut{}
	run(plain, 4, "")
	dir := filepath.Join(t.TempDir(), "run")
	starts, asked := run(tried, 2, dir)
	require.Equal(t, []int64{0}, starts)
	require.Equal(t, 2, asked)
	require.Equal(t, []float64{0}, tried.samples, "the first sample alone")
	starts, asked = run(tried, 4, dir)
	require.Equal(t, []int64{6}, starts)
	require.Equal(t, 2, asked)
	require.Len(t, tried.samples, 1, "a resumed run has been tried")
	require.Equal(t, plain.drawn, tried.drawn)
}

// starting is a source that notes where it is started.
type starting struct {
	Source
	at *[]int64
}

func (s starting) Batches(ctx context.Context, start int64) iter.Seq2[func(s *torch.Scope) Batch, error] {
	*s.at = append(*s.at, start)
	return s.Source.Batches(ctx, start)
}

// drawing is an objective that notes what it draws.
type drawing struct {
	fixed
	drawn []float64
}

func (o *drawing) Loss(s *torch.Scope, _ int, b Batch, d Draws) *torch.Tensor {
	z := d.Noise(s, b.X).Add(s, b.X)
	for _, v := range torch.ToSlice[float32](z) {
		o.drawn = append(o.drawn, float64(v))
	}
	x := torch.Zeros(s, torch.Float32)
	x.SetRequiresGrad(true)
	return x
}

// tryingOut notes the samples that it is tried with, too.
type tryingOut struct {
	drawing
	samples []float64
}

func (o *tryingOut) Try(s *torch.Scope, b Batch, d Draws) {
	d.Noise(s, b.X)
	for _, v := range torch.ToSlice[float32](b.X) {
		o.samples = append(o.samples, float64(v))
	}
}

// A checkpoint of another run, or a file that is none, is an error that names the previous checkpoint.
func TestStatesOfOthers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	_, _, _, err := guarded(t, dir, Guard{}, at())
	require.NoError(t, err)
	last := filepath.Join(dir, "state-0000012.safetensors")
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	w, err := torch.OpenWeights(last)
	require.NoError(t, err)
	tensors := maps.Collect(w.All(s))
	head := w.File().Metadata()[stateKey]
	for want, change := range map[string]func() map[string]string{
		"is not a checkpoint":          func() map[string]string { return nil },
		"unexpected end of JSON input": func() map[string]string { return map[string]string{stateKey: "{"} },
		"of step 11":                   func() map[string]string { return map[string]string{stateKey: strings.Replace(head, ":12,", ":11,", 1)} },
		"LRScale:1e+09": func() map[string]string {
			return map[string]string{stateKey: strings.Replace(head, "}", `,"lr_scale":1e9}`, 1)}
		},
		"unexpected objective.target": func() map[string]string {
			tensors["objective.target"] = torch.Zeros(s, torch.Float32, 1)
			return map[string]string{stateKey: head}
		},
	} {
		metadata := change()
		path := filepath.Join(t.TempDir(), "state")
		require.NoError(t, torch.SaveSafetensors(path, maps.All(tensors), torch.SaveOptions{Metadata: metadata}))
		delete(tensors, "objective.target")
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		other := filepath.Join(t.TempDir(), "run")
		require.NoError(t, os.CopyFS(other, os.DirFS(dir)))
		require.NoError(t, os.WriteFile(filepath.Join(other, "state-0000012.safetensors"), text, 0o644))
		_, _, _, err = guarded(t, other, Guard{}, at())
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, "step 8", "the previous checkpoint")
	}
	w.Close()
}

// An empty or truncated checkpoint is an error that names the file, and the previous checkpoint, or the snapshot if there is none.
func TestDamagedCheckpoint(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	_, _, _, err := guarded(t, dir, Guard{}, at())
	require.NoError(t, err)
	last := filepath.Join(dir, "state-0000012.safetensors")
	for _, size := range []int64{100, 3, 0} {
		require.NoError(t, os.Truncate(last, size))
		_, _, _, err = guarded(t, dir, Guard{}, at())
		require.ErrorContains(t, err, last)
		require.ErrorContains(t, err, "remove the file to resume from the previous checkpoint, of step 8")
	}
	require.NoError(t, os.Remove(filepath.Join(dir, "state-0000008.safetensors")))
	_, _, _, err = guarded(t, dir, Guard{}, at())
	require.ErrorContains(t, err, last)
	require.ErrorContains(t, err, filepath.Join(dir, "model-0000012.safetensors"))
	require.NoError(t, os.Remove(filepath.Join(dir, "model-0000012.safetensors")))
	_, _, _, err = guarded(t, dir, Guard{}, at())
	require.ErrorContains(t, err, "start a new run")
	require.NotContains(t, err.Error(), "model-")
}

// The logged loss is split by noise level: each mean is that of the samples in its range.
func TestLossByLevel(t *testing.T) {
	r := &session{}
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		r.observe([]float64{0.05, 0.5, 0.9, 20, 80}, torch.FromSlice(s, []float64{1, 2, 4, 5, 6}))
		return nil
	}))
	require.Equal(t, map[string]mean{"loss_below_0.1": {1, 1}, "loss_0.1_to_1": {6, 2}, "loss_above_10": {11, 2}}, r.bins)

	net := newMLP(t, 2, 8, 0)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		b := Batch{X: gaussian.Sample(s, torch.NewGenerator(s, 1), torch.Float32, 64, 2)}
		for _, o := range []Objective{
			&EDM{Model: &models.EDM{Net: net}}, &CT{Model: &models.Consistency{Net: net}, Schedule: Fixed{}, Distance: L2{}},
			&CD{CT: CT{Model: &models.Consistency{Net: net}, Schedule: Fixed{}, Distance: L2{}}, Teacher: gaussian, Solver: sampling.Euler{}},
			&ECT{Model: &models.Consistency{Net: net, Boundary: models.AtZero}, Steps: 10},
		} {
			draws := drawn(1, 0, b)
			seen := 0
			draws.Observe = func(levels []float64, each *torch.Tensor) {
				require.Equal(t, []int{len(levels)}, each.Shape())
				seen += len(levels)
			}
			with := o.Loss(s, 0, b, draws).Item()
			require.Equal(t, 64, seen, "%T", o)
			require.Equal(t, o.Loss(s, 0, b, drawn(1, 0, b)).Item(), with, "%T: looking changes nothing", o)
		}
		return nil
	}))
}
