package recipe

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch/safetensors"
	"github.com/onestep-go/onestep/training/rundir"
)

// A run without a method is ICT; a resumed one keeps its own.
func TestDefaultMethod(t *testing.T) {
	r := tiny(t, nil)
	resolved, err := r.Resolve()
	require.NoError(t, err)
	require.Equal(t, Default, resolved.Method.Spec().Name)
	require.IsType(t, &ICT{}, resolved.Method)

	r.Method = &CT{}
	r.Steps = 1
	_, err = r.Train(t.Context())
	require.NoError(t, err)
	r.Method, r.Resume = nil, true
	_, err = r.Train(t.Context())
	require.NoError(t, err)
	again := Run{Out: r.Out, Resume: true}
	require.NoError(t, Values{"steps": 3}.Apply(&again))
	require.IsType(t, &CT{}, again.Method)
}

// The error of a resumed run with other options lists those that were set, not those that follow from them.
func TestResumeListsOptionsThatWereSet(t *testing.T) {
	r := tiny(t, &ICT{})
	r.Steps = 500
	r.Duration = 1
	_, err := r.Train(t.Context())
	require.NoError(t, err)
	r.Resume, r.Duration, r.Steps, r.Batch = true, 0, 50_000, 8
	_, err = r.Train(t.Context())
	for _, want := range []string{"batch was 4, now 8", "steps was 500, now 50000"} {
		require.ErrorContains(t, err, want)
	}
	for _, derived := range []string{"ema", "s1", "log_every", "more"} {
		require.NotContains(t, err.Error(), " "+derived+" ")
	}
	r.Batch, r.EMA = 4, new(0.5)
	_, err = r.Train(t.Context())
	require.ErrorContains(t, err, "ema was", "it was set")
	r.Steps, r.EMA, r.Size = 500, nil, nil
	_, err = r.Train(t.Context())
	require.ErrorContains(t, err, "channels was 8, now 32", "a default is listed if nothing else differs")
}

// Gradient checkpointing changes no bit, for each kind of network, and neither does turning it on when a run resumes, which options.json then has.
func TestCheckpointingChangesNothing(t *testing.T) {
	for _, c := range []struct {
		method  Method
		network string
	}{{&ICT{}, ""}, {&EDM{}, "dit"}, {&MeanFlow{}, "mlp"}, {&CTM{}, "ncsnpp"}} {
		var states [3]map[string]string
		for i := range states {
			r := tiny(t, c.method)
			r.Steps, r.SaveEvery, r.Checkpointing, r.Dropout = 2, 1, i == 1, 0.3
			if c.network != "" {
				r.Size = nil
				require.NoError(t, r.Set("network", c.network))
				require.NoError(t, r.Set("channels", 8))
			}
			if c.network == "dit" {
				require.NoError(t, r.Set("channels", 16))
			}
			if i == 2 {
				r.Duration = 1 // after a step
				_, err := r.Train(t.Context())
				require.NoError(t, err)
				r.Duration, r.Resume, r.Checkpointing = 0, true, true
			}
			got, err := r.Train(t.Context())
			require.NoError(t, err)
			require.Equal(t, 2, got.Step)
			states[i] = tensors(t, got.Snapshot)
			if i > 0 {
				require.Equal(t, states[0], states[i], "%s, %d", c.network, i)
				was, err := rundir.ReadOptions(r.Out)
				require.NoError(t, err)
				require.Equal(t, true, was["checkpointing"])
			}
		}
	}
}

// tensors reads the tensors of a file.
func tensors(t *testing.T, path string) map[string]string {
	t.Helper()
	f, err := safetensors.Open(path)
	require.NoError(t, err)
	defer f.Close()
	all := map[string]string{}
	for x := range f.Tensors() {
		all[x.Name] = string(x.Data)
	}
	return all
}

// A damaged history in options.json is an error that names the file and the entry.
func TestHistoryIsChecked(t *testing.T) {
	r := tiny(t, &ICT{})
	r.Steps = 1
	_, err := r.Train(t.Context())
	require.NoError(t, err)
	path := filepath.Join(r.Out, "options.json")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	r.Resume = true
	for _, entry := range []string{`{"until": -2, "steps": 3, "lr": 0.1}`, `{"until": 5, "steps": 3, "lr": 0.1}`, `{"until": 1, "steps": 3, "lr": 0}`,
		`{"until": 1, "steps": 3, "lr": 0.1, "lr_decay": 2}`} {
		damaged := strings.Replace(string(text), "{", `{"history": [`+entry+`],`, 1)
		require.NoError(t, os.WriteFile(path, []byte(damaged), 0o644))
		_, err = r.Train(t.Context())
		require.ErrorContains(t, err, path)
		require.ErrorContains(t, err, "history: entry 0")
	}
}

// An error of a network's configuration is one of the option that it is about.
func TestNetworkErrorsNameOptions(t *testing.T) {
	for option, v := range map[string]any{"channels": 33, "mult": []int{}, "attention": []int{7}} {
		r := tiny(t, nil)
		require.NoError(t, r.Set(option, v))
		_, err := r.Resolve()
		var of *OptionError
		require.ErrorAs(t, err, &of)
		require.Equal(t, option, of.Option)
		require.Contains(t, of.Text(Naming{Name: func(o string) string { return "--" + o }}), "--"+option)
	}
}

// Options of an unsound method are empty, and Resolve returns the error.
func TestValuesOfUnsoundMethods(t *testing.T) {
	for _, m := range []Method{(*custom)(nil), valid(), (*ICT)(nil)} {
		r := Run{Method: m}
		require.Empty(t, r.Values())
		require.Empty(t, r.Chosen())
		_, err := r.Resolve()
		require.Error(t, err)
	}
	require.Empty(t, Run{}.Chosen())
}

// A plan needs no run directory; training does.
func TestPlanWithoutDirectory(t *testing.T) {
	r := tiny(t, nil)
	r.Out = ""
	p, err := r.Plan()
	require.NoError(t, err)
	defer p.Close()
	_, err = p.Card()
	require.NoError(t, err)
	for _, train := range []func() error{
		func() error { _, err := p.Train(t.Context()); return err },
		func() error { _, err := r.Train(t.Context()); return err },
	} {
		var of *OptionError
		require.ErrorAs(t, train(), &of)
		require.Equal(t, "out", of.Option)
	}
}
