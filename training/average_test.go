package training

import (
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/checkpoint"
	perceptron "github.com/onestep-go/onestep/models/mlp"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/optim"
	"github.com/onestep-go/onestep/torch/safetensors"
	"github.com/onestep-go/onestep/training/dataset"
)

// counted is a network with a tensor that no training changes.
type counted struct {
	*perceptron.MLP
	table *torch.Tensor
}

func (c counted) Tensors() iter.Seq2[string, *torch.Tensor] {
	return func(yield func(string, *torch.Tensor) bool) {
		for name, x := range c.MLP.Tensors() {
			if !yield(name, x) {
				return
			}
		}
		yield("table", c.table)
	}
}

// averaged is a run of a tiny denoiser with a few averages.
type averaged struct {
	Trainer
	net     *perceptron.MLP
	history []map[string][]float64 // the weights after each step; those of steps that were taken again, once more
}

func newAveraged(t *testing.T, dir string, averages ...Average) *averaged {
	t.Helper()
	scope := torch.NewScope(torch.CPU)
	t.Cleanup(scope.Close)
	c := perceptron.Config{Shape: []int{1, 1, 2}, Width: 8, Depth: 1}
	a := &averaged{net: network(t, c, torch.Float32, 1)}
	for i := range averages {
		averages[i].Into = counted{network(t, c, torch.Float32, 1), torch.FromSlice(scope, []int64{3, 1, 4})}
	}
	opt, err := optim.RAdam{LR: 0.02}.New(a.net.Parameters())
	require.NoError(t, err)
	t.Cleanup(opt.Close)
	a.Trainer = Trainer{Objective: &EDM{Model: &models.EDM{Net: a.net}}, Model: a.net, Optimizer: opt, Averages: averages,
		Data: Images{Loader: &dataset.Loader{Dataset: pixels{}, Batch: 4, Seed: 1}}, Dir: dir, Seed: 1, Steps: 12, SaveEvery: 4, KeepStates: 20}
	a.Progress = func(Progress) { a.history = append(a.history, numbers(a.net.Parameters())) }
	return a
}

func numbers(tensors iter.Seq2[string, *torch.Tensor]) map[string][]float64 {
	all := map[string][]float64{}
	for name, x := range tensors {
		s := torch.NewScope(torch.CPU)
		all[name] = torch.ToSlice[float64](x.Detach(s).To(s, torch.Float64))
		s.Close()
	}
	return all
}

func inFile(t *testing.T, path string) map[string][]float64 {
	t.Helper()
	w, err := torch.OpenWeights(path)
	require.NoError(t, err)
	s := torch.NewScope(torch.CPU)
	all := numbers(w.All(s))
	s.Close()
	require.NoError(t, w.Close())
	return all
}

// off returns the norm of got - want, relative to that of want.
func off(t *testing.T, got, want map[string][]float64) float64 {
	t.Helper()
	var difference, whole float64
	for name, w := range want {
		require.Len(t, got[name], len(w), name)
		for i, x := range w {
			difference, whole = difference+(got[name][i]-x)*(got[name][i]-x), whole+x*x
		}
	}
	return math.Sqrt(difference / whole)
}

// follow returns the average of the weights after each step, by decays.
func follow(history []map[string][]float64, start map[string][]float64, decay func(k int) float64) map[string][]float64 {
	all := map[string][]float64{}
	for name, w := range start {
		all[name] = slices.Clone(w)
	}
	for k, weights := range history {
		d := decay(k)
		for name, w := range weights {
			for i, x := range w {
				all[name][i] = d*all[name][i] + (1-d)*x
			}
		}
	}
	return all
}

// Averages of every kind are what their formulas make of the recorded weights, up to float32's rounding, and each is in its
// file. The first one's is the run's model.
func TestAveragesFollow(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	a := newAveraged(t, dir, Average{Decay: 0.8, RampUp: 2}, Average{HalfLife: 2000}, Average{HalfLife: 12, RampUp: 0.5}, Average{Width: 0.1}, Average{})
	start := numbers(a.net.Parameters())
	r, err := a.Train(t.Context())
	require.NoError(t, err)
	gamma, err := models.PowerExponent(0.1)
	require.NoError(t, err)
	for file, decay := range map[string]func(k int) float64{
		"model-0000012": func(k int) float64 { return min(0.8, float64(k+1)/float64(k+2)) },
		// A twentieth of what was seen is less than 2,000 images.
		"model-0000012.half-life-2k": func(k int) float64 { return math.Pow(0.5, 4/(0.05*float64(4*k))) },
		"model-0000012.half-life-12": func(k int) float64 { return math.Pow(0.5, 4/min(12, 0.5*float64(4*k))) },
		"model-0000012.width-0.1":    func(k int) float64 { return math.Pow(float64(k)/float64(k+1), gamma+1) },
		"model-0000012.decay-0":      func(int) float64 { return 0 },
	} {
		got := inFile(t, filepath.Join(dir, file+".safetensors"))
		require.Less(t, off(t, got, follow(a.history, start, decay)), 2e-6, file)
		require.Equal(t, []float64{3, 1, 4}, got["table"])
	}
	require.Greater(t, off(t, start, a.history[11]), 0.01, "the weights have moved")

	found, err := checkpoint.Find(dir)
	require.NoError(t, err)
	require.Equal(t, r.Snapshot, found)
	require.Equal(t, filepath.Join(dir, "model-0000012.safetensors"), found)
	d, err := checkpoint.ReadDescription(filepath.Join(dir, "model-0000012.width-0.1.safetensors"))
	require.NoError(t, err)
	require.Equal(t, []any{12, int64(48), "edm"}, []any{d.Step, d.Images, d.Method})
}

func TestAverageNames(t *testing.T) {
	for want, a := range map[string]Average{
		"decay-0.9999": {Decay: 0.9999}, "decay-0": {}, "width-0.05": {Width: 0.05}, "half-life-500k": {HalfLife: 500_000},
		"half-life-50M": {HalfLife: 50e6}, "half-life-1500k": {HalfLife: 1.5e6}, "half-life-1234": {HalfLife: 1234}, "half-life-0.5": {HalfLife: 0.5},
	} {
		require.Equal(t, want, a.Name())
	}
}

func TestAveragesRefused(t *testing.T) {
	run := func(change func(a *averaged), averages ...Average) error {
		a := newAveraged(t, filepath.Join(t.TempDir(), "run"), averages...)
		change(a)
		_, err := a.Train(t.Context())
		return err
	}
	none := func(*averaged) {}
	for want, averages := range map[string][]Average{
		"EMA weights 1: decay-0.9":                       {{Decay: 0.9}, {Decay: 0.9, RampUp: 3}},
		"0.9, 0 and 0.1":                                 {{Decay: 0.9, Width: 0.1}},
		"EMA weights 1: want a decay in [0, 1), got 1":   {{}, {Decay: 1}},
		"EMA weights 0: want a decay in [0, 1), got NaN": {{Decay: math.NaN()}},
		"EMA weights 0: want a half-life from 0":         {{HalfLife: -1}},
		"got 0.3":                                        {{Width: 0.3}},
		"got 10":                                         {{Width: 0.1, RampUp: 10}},
		"got -1":                                         {{RampUp: -1}},
	} {
		require.ErrorContains(t, run(none, averages...), want)
	}
	require.ErrorContains(t, run(func(a *averaged) { a.Averages[1].Into = nil }, Average{}, Average{Decay: 0.5}), "EMA weights 1: no Into")
	require.ErrorContains(t, run(func(a *averaged) { a.Averages[1].Into = a.Averages[0].Into }, Average{}, Average{Decay: 0.5}), "EMA weights 1, decay-0.5: the weight")
	require.ErrorContains(t, run(func(a *averaged) { a.Averages[0].Into = a.net }, Average{}), "with the model")
	require.ErrorContains(t, run(func(a *averaged) {
		a.Averages[0].Into = network(t, perceptron.Config{Shape: []int{1, 1, 2}, Width: 4, Depth: 1}, torch.Float32, 1)
	}, Average{Width: 0.1}), "EMA weights 0, width-0.1: ")
}

// falls is a denoiser's loss that is not a number at some learning rates.
type falls struct {
	*EDM
	opt func() float64
}

func (f falls) Loss(s *torch.Scope, k int, b Batch, d Draws) *torch.Tensor {
	l := f.EDM.Loss(s, k, b, d)
	if k >= 8 && f.opt() > 0.015 {
		return l.MulScalar(s, math.NaN())
	}
	return l
}

// A run with two kinds of averages that went back once ends, from any of its states, with files that are the uninterrupted run's
// byte by byte.
func TestAveragesResume(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	train := func(averages ...Average) (*averaged, error) {
		a := newAveraged(t, dir, averages...)
		a.Objective, a.Guard, a.SaveEvery = falls{a.Objective.(*EDM), a.Optimizer.LR}, Guard{Rollbacks: 1}, 3
		_, err := a.Train(t.Context())
		return a, err
	}
	files := func() map[string]string {
		all := map[string]string{}
		paths, err := filepath.Glob(filepath.Join(dir, "*.safetensors"))
		require.NoError(t, err)
		for _, path := range paths {
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			all[filepath.Base(path)] = string(text)
		}
		return all
	}
	kinds := []Average{{HalfLife: 1000}, {Width: 0.1}}
	a, err := train(kinds...)
	require.NoError(t, err)
	require.Len(t, a.history, 12+2, "steps 6 and 7 are taken twice")
	want := files()
	require.Len(t, want, 4*3, "a checkpoint and two snapshots, four times")
	for left, steps := range map[int]int{9: 3, 6: 6, 3: 9 + 2} { // the state of step 6 knows that the run went back to it
		last := fmt.Sprintf("-%07d", left)
		for name := range want {
			if step := name[len("model"):][:len(last)]; step > last {
				require.NoError(t, os.Remove(filepath.Join(dir, name)))
			}
		}
		a, err := train(kinds...)
		require.NoError(t, err)
		require.Len(t, a.history, steps)
		require.Equal(t, want, files(), "from step %d", left)
	}
	_, err = train(Average{HalfLife: 1000}, Average{Width: 0.05})
	require.ErrorContains(t, err, `[half-life-1k width-0.1], but this run has [half-life-1k width-0.05]`)
	_, err = train()
	require.ErrorContains(t, err, "[half-life-1k width-0.1]")
}

// A width that was not tracked is found from two that were. The error, relative to the average that all the run's weights give,
// is 4e-5 to 5e-4 here, less than a tenth of the profiles' distance, and for one that was tracked float32's rounding; bounds leave
// a factor of five to ten, for other processors. Sampling with the tracked width instead is off by 2e-2 to 1e-1.
func TestCombineAverages(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	a := newAveraged(t, dir, Average{Width: 0.05}, Average{Width: 0.1}, Average{Decay: 0.9})
	a.Steps, a.SaveEvery, a.KeepStates = 400, 20, 1
	start := numbers(a.net.Parameters())
	_, err := a.Train(t.Context())
	require.NoError(t, err)
	saved, err := SavedAverages(dir)
	require.NoError(t, err)
	require.Len(t, saved, 2*20)
	require.Equal(t, SavedAverage{filepath.Join(dir, "model-0000400.width-0.1.safetensors"), 0.1, 400}, saved[39])

	for _, c := range []struct {
		width          float64
		step           int
		distance, most float64
	}{
		{0.07, 0, 0.005, 5e-4}, {0.07, 300, 0.005, 5e-4}, {0.03, 400, 0.05, 5e-3}, {0.15, 400, 0.01, 5e-3}, {0.05, 400, 1e-6, 1e-6},
	} {
		combined, err := CombineAverages(dir, c.width, c.step)
		require.NoError(t, err)
		path := filepath.Join(t.TempDir(), "model.safetensors")
		require.NoError(t, combined.Save(path, SaveOptions{}))
		gamma, err := models.PowerExponent(c.width)
		require.NoError(t, err)
		want := follow(a.history[:combined.Step], start, func(k int) float64 { return models.PowerDecay(gamma, k) })
		got := inFile(t, path)
		nearest := inFile(t, filepath.Join(dir, fmt.Sprintf("model-%07d.safetensors", combined.Step)))
		t.Logf("width %g after %d: distance %.1e, error %.1e; that of width 0.05: %.1e; %d files", c.width, combined.Step, combined.Distance, off(t, got, want), off(t, nearest, want), len(combined.From))
		require.Less(t, off(t, got, want), c.most)
		require.Less(t, combined.Distance, c.distance)
		require.Equal(t, []float64{3, 1, 4}, got["table"])
		d, err := checkpoint.ReadDescription(path)
		require.NoError(t, err)
		require.Equal(t, combined.Step, d.Step)
		require.ErrorIs(t, combined.Save(path, SaveOptions{}), fs.ErrExist)
		require.NoError(t, combined.Save(path, SaveOptions{Overwrite: true}))
	}
}

func TestCombineAveragesRefuses(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	_, err := newAveraged(t, dir, Average{Width: 0.1}, Average{Decay: 0.9}).Train(t.Context())
	require.NoError(t, err)
	combined, err := CombineAverages(dir, 0.12, 0)
	require.NoError(t, err)
	require.Len(t, combined.From, 3)
	for want, ask := range map[string]func() error{
		"want a number between 0.001 and 0.289, got 0.5":  func() error { _, err := CombineAverages(dir, 0.5, 0); return err },
		"step 7: want one of the steps [4 8 12]":          func() error { _, err := CombineAverages(dir, 0.1, 7); return err },
		"step 4 there is only one snapshot, of width 0.1": func() error { _, err := CombineAverages(dir, 0.12, 4); return err },
		"want another file":                               func() error { return combined.Save(combined.From[1].Path, SaveOptions{Overwrite: true}) },
		"no such file or directory":                       func() error { _, err := CombineAverages(dir+"x", 0.1, 0); return err },
	} {
		require.ErrorContains(t, ask(), want)
	}
	self, err := CombineAverages(dir, 0.1, 4)
	require.NoError(t, err)
	require.InDeltaSlice(t, []float64{1}, self.Factors, 1e-12)
	other := filepath.Join(t.TempDir(), "run")
	_, err = newAveraged(t, other, Average{HalfLife: 100}).Train(t.Context())
	require.NoError(t, err)
	_, err = CombineAverages(other, 0.1, 0)
	require.ErrorIs(t, err, ErrNoAverages)

	// What a combination is saved as, in the run's folder, is no average that was tracked.
	out := filepath.Join(dir, "model-0000012.width-0.12.safetensors")
	require.NoError(t, combined.Save(out, SaveOptions{}))
	again, err := CombineAverages(dir, 0.12, 0)
	require.NoError(t, err)
	require.Equal(t, combined, again)

	for name, damage := range map[string]struct {
		change func(map[string]*torch.Tensor, *torch.Scope)
		want   string
	}{
		"not finite": {func(all map[string]*torch.Tensor, s *torch.Scope) {
			all["out.bias"] = torch.FromSlice(s, []float32{1, float32(math.NaN())})
		}, "model-0000008.safetensors: 1 elements of tensor out.bias"},
		"another shape": {func(all map[string]*torch.Tensor, s *torch.Scope) {
			all["out.bias"] = torch.FromSlice(s, []float32{1, 2, 3})
		}, "\"out.bias\""},
		"fewer": {func(all map[string]*torch.Tensor, _ *torch.Scope) { delete(all, "table") }, "different runs"},
		"integers": {func(all map[string]*torch.Tensor, s *torch.Scope) {
			all["table"] = torch.FromSlice(s, []int64{3, 1, 5})
		}, "int64"},
	} {
		path := combined.From[1].Path
		whole, err := os.ReadFile(path)
		require.NoError(t, err)
		rewrite(t, path, damage.change)
		require.ErrorContains(t, combined.Save(out, SaveOptions{Overwrite: true}), damage.want, name)
		require.NoError(t, os.WriteFile(path, whole, 0o644))
	}
	require.NoError(t, os.Truncate(combined.From[1].Path, 100))
	_, err = CombineAverages(dir, 0.12, 0)
	require.ErrorContains(t, err, combined.From[1].Path+": not a valid safetensors file")
	require.ErrorContains(t, err, "remove the file")
	require.NoError(t, os.Remove(combined.From[1].Path))
	combined, err = CombineAverages(dir, 0.12, 0)
	require.NoError(t, err)
	require.Len(t, combined.From, 2)
}

// rewrite changes what a file holds.
func rewrite(t *testing.T, path string, change func(all map[string]*torch.Tensor, s *torch.Scope)) {
	t.Helper()
	f, err := os.ReadFile(path)
	require.NoError(t, err)
	parsed, err := safetensors.Parse(path, f)
	require.NoError(t, err)
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	tensors, err := torch.FromFile(s, parsed)
	require.NoError(t, err)
	all := maps.Collect(tensors)
	before := len(all)
	change(all, s)
	require.LessOrEqual(t, len(all), before, "it is there")
	require.NoError(t, torch.SaveSafetensors(path, maps.All(all), torch.SaveOptions{Metadata: parsed.Metadata(), Overwrite: true}))
}

// learner is an objective with a parameter of its own, whose gradient is 4 where the model's is 3.
type learner struct {
	fixed
	model, own *torch.Tensor
	bad        map[int]bool // steps at which the gradient of its own parameter is not finite
}

func one(name string, x *torch.Tensor) iter.Seq2[string, *torch.Tensor] {
	return func(yield func(string, *torch.Tensor) bool) { yield(name, x) }
}

func (l *learner) Parameters() iter.Seq2[string, *torch.Tensor] { return one("own", l.own) }
func (l *learner) State() iter.Seq2[string, *torch.Tensor]      { return one("own", l.own) }
func (l *learner) Loss(s *torch.Scope, k int, _ Batch, _ Draws) *torch.Tensor {
	sum := l.model.MulScalar(s, 3).Add(s, l.own.MulScalar(s, 4)).Sum(s)
	if l.bad[k] {
		sum = sum.Add(s, l.own.Sub(s, l.own.Detach(s)).Sqrt(s).Sum(s)) // 0, with an infinite slope
	}
	return sum
}

type single struct{ w *torch.Tensor }

func (m single) Parameters() iter.Seq2[string, *torch.Tensor] { return one("w", m.w) }

// What an objective learns itself is clipped together with the model and guarded as it is: of gradients 3 and 4, clipped to a norm
// of 1, each step takes 0.6 and 0.8, and one whose own gradient is not finite takes nothing.
func TestObjectivesParameters(t *testing.T) {
	scope := torch.NewScope(torch.CPU)
	defer scope.Close()
	l := &learner{model: torch.Zeros(scope, torch.Float32, 1), own: torch.Zeros(scope, torch.Float32, 1), bad: map[int]bool{1: true}}
	l.model.SetRequiresGrad(true)
	l.own.SetRequiresGrad(true)
	opt, err := optim.SGD{LR: 1}.New(func(yield func(string, *torch.Tensor) bool) {
		_ = yield("w", l.model) && yield("objective.own", l.own)
	})
	require.NoError(t, err)
	defer opt.Close()
	r, err := (&Trainer{Objective: l, Model: single{l.model}, Optimizer: opt, Data: Images{Loader: &dataset.Loader{Dataset: pixels{}, Batch: 4, Seed: 1}},
		Dir: filepath.Join(t.TempDir(), "run"), Steps: 3, Clip: 1, Guard: Guard{Skips: 1}}).Train(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, r.Skipped)
	require.InDelta(t, -2*0.6, l.model.Item(), 1e-5)
	require.InDelta(t, -2*0.8, l.own.Item(), 1e-5)
	require.Equal(t, []float64{l.own.Item()}, inFile(t, r.State)["objective.own"])
}
