package recipe

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/internal/options"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/training"
)

// tiny is a run of a few steps of any method.
func tiny(t *testing.T, m Method) Run {
	t.Helper()
	r := Run{Method: m, Data: "emoji", Resolution: 8, Classes: true, Flip: true, Steps: 4, Batch: 4, Seed: 7, Size: &unet.Options{Channels: 8, Mult: []int{1, 2}, Blocks: 1},
		Dropout: 0.1, SaveEvery: 2, Out: filepath.Join(t.TempDir(), "run")}
	if m != nil && m.Spec().Distils {
		require.NoError(t, r.Set("teacher", Empirical))
	}
	return r
}

// Every option is declared once, with help, a default and choices that it takes, and what shares its name shares its type.
func TestEveryOptionIsDeclaredOnce(t *testing.T) {
	seen := map[string]reflect.Type{}
	help := map[string]int{}
	look := func(of any) {
		for _, o := range options.Of(of) {
			if was, ok := seen[o.Name]; ok {
				require.Equal(t, was, o.Type(), o.Name)
			}
			seen[o.Name] = o.Type()
			if o.Help != "" {
				help[o.Name]++
			} else {
				require.Empty(t, o.Default+o.Called+strings.Join(o.Choices, ""), "%s: declared in part", o.Name)
			}
			if o.Default != "" {
				v, err := o.Parse(o.Default)
				require.NoError(t, err)
				require.NoError(t, o.Check(v), o.Name)
			}
			for _, c := range o.Choices {
				_, err := o.Parse(c)
				require.NoError(t, err)
			}
		}
	}
	look(new(Run))
	for _, m := range Methods() {
		look(m)
	}
	require.Greater(t, len(seen), 45)
	for option := range seen {
		require.Equal(t, 1, help[option], option)
		_, ok := declared(option)
		require.True(t, ok, option)
	}
	for _, p := range network.Presets() {
		for _, o := range options.Of(p.Options()) {
			require.Zero(t, help[o.Name], "%s: an option of runs or methods, and of the network %s", o.Name, p.Name)
		}
	}
}

// The names that options may have are those of what they stand for.
func TestChoices(t *testing.T) {
	choices := func(option string) []string {
		o, ok := declared(option)
		require.True(t, ok)
		return o.Choices
	}
	for _, d := range choices("distance") {
		require.NotEmpty(t, distances[d], d)
		if d != lpipsName {
			_, err := training.ParseDistance(d)
			require.NoError(t, err)
		}
	}
	require.Len(t, choices("distance"), len(distances))
	for _, s := range choices("solver") {
		require.NotNil(t, solvers[s], s)
	}
	require.Len(t, choices("solver"), len(solvers))
}

// Guidance needs a denoiser with label dropout: methods that do not train a denoiser must not have the option.
func TestLabelDropoutNeedsADenoiser(t *testing.T) {
	for _, m := range Methods() {
		r := tiny(t, m)
		p, err := r.Plan()
		require.NoError(t, err)
		net, err := network.New(p.Start.Network, torch.CPU, torch.Float32, 1)
		require.NoError(t, err)
		f, err := p.spec.Function(Model{net, p.Start})
		net.Close()
		require.NoError(t, err)
		_, denoiser := f.(models.Denoiser)
		require.Equal(t, denoiser, m.Spec().Guidable, m.Spec().Name)
		require.NoError(t, p.Close())
	}
}

// Every method trains by its name with nothing set, and its snapshot opens. A second run of it has the same weights.
func TestEveryMethodTrains(t *testing.T) {
	require.NoError(t, torch.SetThreads(1))
	for _, method := range Names() {
		t.Run(method, func(t *testing.T) {
			var files [2][]byte
			for i := range files {
				m, err := Named(method)
				require.NoError(t, err)
				r := tiny(t, m)
				result, err := r.Train(t.Context())
				require.NoError(t, err)
				require.True(t, result.Finished)
				d, err := checkpoint.ReadDescription(result.Snapshot)
				require.NoError(t, err)
				require.Equal(t, method, d.Method)
				files[i], err = os.ReadFile(result.Snapshot)
				require.NoError(t, err)
			}
			require.Equal(t, files[0], files[1])
		})
	}
}

// A struct and its options by name are the same run; what a run fills in does not reach the caller's struct.
func TestStructAndNames(t *testing.T) {
	method := &ICT{Schedule: "linear", S0: 3}
	byStruct := tiny(t, method)
	byStruct.LRDecay = new(0.0)
	byName := Run{Out: "x"}
	var values Values
	text, err := json.Marshal(byStruct)
	require.NoError(t, err)
	values, err = ReadOptions(text)
	require.NoError(t, err)
	require.NoError(t, values.Apply(&byName))
	a, err := byStruct.Resolve()
	require.NoError(t, err)
	b, err := byName.Resolve()
	require.NoError(t, err)
	one, err := json.Marshal(a)
	require.NoError(t, err)
	two, err := json.Marshal(b)
	require.NoError(t, err)
	require.JSONEq(t, string(one), string(two))
	require.Equal(t, 0.0, *b.LRDecay)
	require.Equal(t, 20, a.Method.(*ICT).S1)
	require.Equal(t, &ICT{Schedule: "linear", S0: 3}, method)
	again, err := a.Resolve()
	require.NoError(t, err)
	three, err := json.Marshal(again)
	require.NoError(t, err)
	require.Equal(t, string(one), string(three))
}

// Errors name options as in JSON, and as a program does.
func TestErrorsNameOptions(t *testing.T) {
	for _, c := range []struct {
		change func(r *Run)
		option string
		want   []string
	}{
		{func(r *Run) { r.LabelDropout, r.Classes = 0.1, false; r.Method = &EDM{} }, "label-dropout", []string{"label_dropout", "set classes"}},
		{func(r *Run) { r.LabelDropout = 0.1; r.Method = &ICT{} }, "label-dropout", []string{"label_dropout", "ict", "edm"}},
		{func(r *Run) { r.Method = &CD{} }, "teacher", []string{"cd", "set teacher to empirical"}},
		{func(r *Run) { r.Method = &CT{S0: 1} }, "s0", []string{"s0", "from 2 to 1048576", "1"}},
		{func(r *Run) { r.Method = &ICT{S0: 9, S1: 8} }, "s1", []string{"s0, s1", "9", "8"}},
		{func(r *Run) { r.LR = 11 }, "lr", []string{"lr", "above 0 and below 10", "11"}},
		{func(r *Run) { r.Method = &CT{LPIPS: "x"} }, "lpips", []string{"lpips", "huber"}},
		{func(r *Run) { r.Network = "gan" }, "network", []string{"ddpmpp", "gan"}},
		{func(r *Run) { r.Network, r.Size = "dit", &unet.Options{Mult: []int{1}} }, "mult", []string{"mult", "dit", "ddpmpp"}},
		{func(r *Run) { r.Data = "" }, "data", []string{"data", "missing"}},
	} {
		r := tiny(t, nil)
		c.change(&r)
		_, err := r.Train(t.Context())
		var of *OptionError
		require.ErrorAs(t, err, &of, "%s %v", c.option, c.want)
		require.True(t, of.Usage)
		require.Equal(t, c.option, of.Option)
		for _, want := range c.want {
			require.Contains(t, err.Error(), want)
		}
		require.NotContains(t, err.Error(), "--")
		text := of.Text(Naming{Name: func(o string) string { return "--" + o }, Set: func(o, v string) string { return "pass --" + o + " " + v }})
		require.Contains(t, text, "--"+c.option)
		require.False(t, strings.ContainsAny(text+err.Error(), "\x01\x02\x03\x04"))
		require.NoDirExists(t, r.Out)
	}
	r := tiny(t, &CD{})
	require.NoError(t, r.Set("teacher", "nowhere"))
	_, err := r.Train(t.Context())
	var of *OptionError
	require.ErrorAs(t, err, &of)
	require.False(t, of.Usage)
	require.Equal(t, "teacher", of.Option)
	require.ErrorContains(t, err, "nowhere")
}

// A method of a program's own runs like any other.
func TestOwnMethod(t *testing.T) {
	r := tiny(t, &own{Scale: 2})
	r.Progress = func(p training.Progress) { require.Positive(t, p.Loss) }
	result, err := r.Train(t.Context())
	require.NoError(t, err)
	d, err := checkpoint.ReadDescription(result.Snapshot)
	require.NoError(t, err)
	require.Equal(t, "own", d.Method)
	text, err := os.ReadFile(filepath.Join(r.Out, "options.json"))
	require.NoError(t, err)
	require.Contains(t, string(text), `"scale": 2`)
	_, err = Named("own")
	require.Error(t, err)
	r.Method, r.Resume = &own{Scale: 3}, true
	_, err = r.Train(t.Context())
	require.ErrorContains(t, err, "scale was 2, now 3")
}

type own struct {
	Scale float64 `option:"scale" default:"1" range:"(0,]" help:"scale of the loss"`
}

func (o *own) Spec() Spec {
	return Spec{Name: "own", Forms: []checkpoint.FormType{checkpoint.Flow}, Function: denoiser, Guidable: true}
}

func (o *own) Objective(_ *Parts, f any) (training.Objective, error) {
	if o.Scale < 2 {
		return nil, errors.New("the scale is lost")
	}
	return &training.Flow{Model: f.(*models.Flow)}, nil
}

// A run's options.json asks for the same run; files of versions that wrote the options of all methods do, too.
func TestReadOptions(t *testing.T) {
	r := Run{}
	values, err := ReadOptions([]byte(`{"method": "ict", "data": "emoji", "steps": 3, "solver": "heun", "mu": 0.95, "warmup": -1, "s0": 10, "first": 0, "chain": 1000,
		"betas": "linear", "lr_decay": 0, "seed": 18446744073709551615, "attention": [], "mult": [1, 4], "channels": 16, "patch": 0, "data_holds": "x", "onestep": "v1", "threads": 1, "device": "cuda:1"}`), options.Of(&struct {
		Threads int `option:"threads"`
	}{})...)
	require.NoError(t, err)
	require.NoError(t, values.Apply(&r))
	r.Out = "x"
	got, err := r.Resolve()
	require.NoError(t, err)
	require.Equal(t, torch.CUDA(1), got.Device)
	require.Equal(t, []any{10, 20}, []any{got.Method.(*ICT).S0, got.Method.(*ICT).S1})
	require.Equal(t, uint64(1<<64-1), got.Seed)
	require.Equal(t, 0.0, *got.LRDecay)
	require.Equal(t, map[string]any{"mult": []int{1, 4}, "channels": 16, "attention": []int{}}, got.given())
	for _, c := range []struct{ text, want string }{
		{"", "empty"}, {"null", "JSON object"}, {"[1]", "JSON object"}, {`{"stepz": 3}`, "stepz"}, {`{"steps": "many"}`, "steps"}, {`{"steps": 1.5}`, "steps"},
		{`{"steps": 3, "data": "emoji", "steps": 4}`, "steps: "}, {`{"label-dropout": 0.1, "label_dropout": 0.2}`, "label_dropout: "},
		{`{"steps": 3} {}`, "one JSON object"}, {`{"steps": `, "EOF"}, {`{"method": 3}`, "method"}, {`{"method": "gan"}`, "ict"}, {`{"method": "ict", "mu0": 0.5}`, "mu0"},
		{`{"batch": -1}`, "batch"}, {`{"device": "tpu"}`, "device"}, {`{"steps": 0}`, "steps"}, {`{"lr": 0}`, "lr"}, {`{"lr_decay": -1}`, "lr_decay"}, {`{"save_every": 0}`, "save_every"},
	} {
		values, err := ReadOptions([]byte(c.text))
		if err == nil {
			err = values.Apply(new(Run))
		}
		require.ErrorContains(t, err, c.want, c.text)
		require.Error(t, json.Unmarshal([]byte(c.text), new(Run)))
	}
	require.True(t, slices.Contains(UsedBy("s0"), "ict"))
	for _, text := range []string{`{"resolution": 0, "colors": 0, "log_every": 0, "ema": -1, "sample_every": -1, "widths": [], "s0": 0}`, `{"method": "sct", "warmup": -1}`,
		`{"method": "cd", "teacher": "empirical", "guidance": [], "classes": true}`} {
		chosen := Run{Data: "emoji", Out: filepath.Join(t.TempDir(), "run")}
		require.NoError(t, json.Unmarshal([]byte(text), &chosen), text)
		chosen, err := chosen.Resolve()
		require.NoError(t, err, text)
		require.Equal(t, 0.998, *chosen.EMA)
		require.Nil(t, chosen.guidance())
	}
	require.NoError(t, r.Set("method", "sct"))
	require.Equal(t, &SCT{}, r.Method)
	require.Error(t, r.Set("s0", 3))
	require.Error(t, r.Set("method", "gan"))
	require.Error(t, r.Set("gamma", 1))
	require.Error(t, r.Set("steps", "3"))
	require.Equal(t, &SCT{}, r.Method)
}
