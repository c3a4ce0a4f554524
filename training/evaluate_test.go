package training

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/optim"
	"github.com/onestep-go/onestep/training/dataset"
)

// evaluated trains so many of 12 steps in a directory, evaluating every 3 steps, and returns the result with what was logged.
func evaluated(t *testing.T, dir string, until int, change func(*Trainer)) (Result, string) {
	t.Helper()
	scope := torch.NewScope(torch.CPU)
	t.Cleanup(scope.Close)
	p := &poisoned{w: torch.Zeros(scope, torch.Float32, 1), bad: at()}
	p.w.SetRequiresGrad(true)
	opt, err := optim.SGD{LR: 0.1}.New(p.Parameters())
	require.NoError(t, err)
	t.Cleanup(opt.Close)
	p.opt = opt
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var log bytes.Buffer
	tr := &Trainer{Objective: p, Model: p, Optimizer: opt, Data: Images{Loader: &dataset.Loader{Dataset: pixels{}, Batch: 4, Seed: 1}},
		Dir: dir, Seed: 1, Steps: 12, SaveEvery: 4, KeepSnapshots: 1, EvaluateEvery: 3, Log: slog.New(slog.NewTextHandler(&log, nil)),
		Progress: func(p Progress) {
			if p.Step == until && until < 12 {
				stop()
			}
		}}
	change(tr)
	r, err := tr.Train(ctx)
	if until < 12 {
		require.ErrorIs(t, err, context.Canceled)
	} else {
		require.NoError(t, err)
	}
	return r, log.String()
}

// scored has an evaluation for each step.
func scored(of map[int]float64) func(*Trainer) {
	return func(t *Trainer) {
		t.Evaluate = func(_ context.Context, k int) (Evaluation, error) {
			return Evaluation{Name: "fd", Value: of[k], Of: "pixels", More: map[string]float64{"kid": float64(k), "bad": math.NaN()}}, nil
		}
	}
}

// evaluations are the lines of stats.jsonl that have one.
func evaluations(t *testing.T, dir string) (all []map[string]any) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "stats.jsonl"))
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		var v map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &v))
		if v["eval"] != nil {
			all = append(all, v)
		}
	}
	return all
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(path...))
	require.NoError(t, err)
	return string(text)
}

// Evaluations are recorded beside the loss, and the model with the lowest value is kept, though its step has no snapshot any more.
func TestEvaluate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	scalars := map[int]map[string]float64{}
	r, log := evaluated(t, dir, 12, func(tr *Trainer) {
		scored(map[int]float64{3: 5, 6: 2, 9: 4, 12: 2})(tr)
		tr.Scalars = func(k int, v map[string]float64) error {
			if _, ok := v["fd"]; ok {
				scalars[k] = v
			}
			return nil
		}
	})
	require.Equal(t, &Best{filepath.Join(dir, "best.safetensors"), 6, "fd", 2, "pixels"}, r.Chosen)
	var steps []float64
	for _, v := range evaluations(t, dir) {
		steps = append(steps, v["step"].(float64))
		require.Equal(t, "fd", v["eval"])
		require.Equal(t, v["step"], v["kid"])
		require.NotContains(t, v, "bad")
	}
	require.Equal(t, []float64{3, 6, 9, 12}, steps)
	require.Equal(t, map[string]float64{"fd": 5, "kid": 3}, scalars[3])
	require.Contains(t, log, "msg=evaluation step=6 fd=2 kid=6 best=true")
	require.Contains(t, log, "msg=evaluation step=9 fd=4 kid=9 best=false")
	require.Equal(t, 1, strings.Count(read(t, dir, "best.json"), `"step": 6`))

	// The same weights as those of a run that ends there.
	short := filepath.Join(t.TempDir(), "run")
	evaluated(t, short, 6, func(tr *Trainer) {})
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		weight := func(path string) float64 {
			w, err := torch.OpenWeights(path)
			require.NoError(t, err)
			defer w.Close()
			v, err := w.Get(s, "w")
			require.NoError(t, err)
			return v.Clone(s).Item()
		}
		require.Equal(t, weight(filepath.Join(short, "model-0000006.safetensors")), weight(r.Chosen.Path))
		require.NotEqual(t, weight(r.Snapshot), weight(r.Chosen.Path))
		return nil
	}))
}

// A run that was killed before an evaluation evaluates when it resumes, and has the best model and the statistics of one that was not; its
// checkpoints have the bits of a run that is not evaluated.
func TestEvaluateResumes(t *testing.T) {
	all := scored(map[int]float64{3: 5, 6: 2, 8: 9, 9: 1, 12: 3})
	whole, plain, cut := filepath.Join(t.TempDir(), "run"), filepath.Join(t.TempDir(), "run"), filepath.Join(t.TempDir(), "run")
	want, _ := evaluated(t, whole, 12, all)
	evaluated(t, plain, 12, func(*Trainer) {})
	require.Equal(t, read(t, plain, "state-0000012.safetensors"), read(t, whole, "state-0000012.safetensors"))

	_, log := evaluated(t, cut, 6, all) // cancelled in step 6, before its evaluation
	require.NotContains(t, log, "step=6 fd")
	got, log := evaluated(t, cut, 12, all)
	require.Contains(t, log, "step=6 fd")
	require.Equal(t, evaluations(t, whole), evaluations(t, cut))
	require.Equal(t, [2]any{want.Chosen.Step, want.Chosen.Value}, [2]any{got.Chosen.Step, got.Chosen.Value})
	require.Equal(t, read(t, whole, "best.safetensors"), read(t, cut, "best.safetensors"))
	require.Equal(t, read(t, whole, "state-0000012.safetensors"), read(t, cut, "state-0000012.safetensors"))

	// A run without steps left evaluates nothing twice, and its best model stays.
	again, log := evaluated(t, cut, 12, all)
	require.NotContains(t, log, "msg=evaluation")
	require.Equal(t, got.Chosen, again.Chosen)
}

// A failing evaluation is a warning, and training continues.
func TestEvaluateFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	r, log := evaluated(t, dir, 12, func(tr *Trainer) {
		tr.Evaluate = func(_ context.Context, k int) (Evaluation, error) {
			switch k {
			case 3:
				return Evaluation{}, errors.New("no images")
			case 6:
				panic(&torch.Error{Op: "x", Msg: "out of memory"})
			case 9:
				return Evaluation{Name: "fd", Value: math.NaN()}, nil
			}
			return Evaluation{Name: "fd", Value: 1}, nil
		}
	})
	require.True(t, r.Finished)
	require.Equal(t, 12, r.Chosen.Step)
	for _, want := range []string{"no images", "out of memory", "fd is NaN"} {
		require.Contains(t, log, want)
	}
	require.Equal(t, 3, strings.Count(log, "evaluation failed; training continues"))
}

// Values of other data, or a damaged best.json, are not compared: the best model is chosen again, with a warning.
func TestEvaluateOther(t *testing.T) {
	for name, change := range map[string]func(dir string){
		"other data": func(dir string) {},
		"damaged": func(dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "best.json"), []byte("{"), 0o600))
		},
		"removed": func(dir string) { require.NoError(t, os.Remove(filepath.Join(dir, "best.safetensors"))) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "run")
			evaluated(t, dir, 7, scored(map[int]float64{3: 1, 6: 1}))
			change(dir)
			r, log := evaluated(t, dir, 12, func(tr *Trainer) {
				scored(map[int]float64{9: 8, 12: 9})(tr)
				if name == "other data" {
					was := tr.Evaluate
					tr.Evaluate = func(ctx context.Context, k int) (Evaluation, error) {
						e, err := was(ctx, k)
						e.Of = "others"
						return e, err
					}
				}
			})
			require.Equal(t, 9, r.Chosen.Step)
			require.Contains(t, log, "level=WARN")
			require.FileExists(t, r.Chosen.Path)
		})
	}
}
