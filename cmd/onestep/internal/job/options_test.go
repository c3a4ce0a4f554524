package job

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"image"
	"image/png"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/dit"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/torch/safetensors"
	"github.com/onestep-go/onestep/training/recipe"
)

func TestResolve(t *testing.T) {
	o, err := (recipe.Run{Data: "emoji", Out: "x"}).Resolve()
	require.NoError(t, err)
	require.Equal(t, 0.998, *o.EMA, "1 - 20/10000")
	require.Equal(t, []int{10, 80}, []int{o.Method.(*recipe.ICT).S0, o.Method.(*recipe.ICT).S1})
	require.Equal(t, 5, o.LogEvery)
	require.Nil(t, o.Size, "the images' size is not known yet")

	o, err = (recipe.Run{Data: "emoji", Out: "x", Method: &recipe.ICT{}, Steps: 10}).Resolve()
	require.NoError(t, err)
	require.Equal(t, 0.9, *o.EMA)
	require.Equal(t, []int{10, 20}, []int{o.Method.(*recipe.ICT).S0, o.Method.(*recipe.ICT).S1})

	// What is zero and means it stays.
	o, err = (recipe.Run{Data: "emoji", Out: "x", EMA: new(0.0), LRDecay: new(0.0), Method: &recipe.CT{S0: 300}}).Resolve()
	require.NoError(t, err)
	require.Zero(t, *o.EMA)
	require.Zero(t, *o.LRDecay)
	require.Equal(t, 300, o.Method.(*recipe.CT).S1, "the levels do not become fewer")
}

// Files of options are read, or refused with their path.
func TestReadConfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.json")
	read := func(text string) (o Train, err error) {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
		values, err := ReadConfig(path)
		if err != nil {
			return o, err
		}
		o.Threads, _ = values["threads"].(int)
		return o, values.Apply(&o.Run)
	}
	o, err := read(`{"steps": 3, "mult": [1, 4], "seed": 18446744073709551615, "threads": 2}`)
	require.NoError(t, err)
	require.Equal(t, []any{3, 2, uint64(1<<64 - 1), []int{1, 4}}, []any{o.Steps, o.Threads, o.Seed, o.Values()["mult"]})
	require.Zero(t, o.Batch, "what the file does not name stays")
	for _, c := range []struct{ text, want string }{
		{"", "the file is empty"},
		{"null", "want a JSON object"},
		{"[1]", "want"},
		{`{"stepz": 3}`, `unknown field "stepz"`},
		{`{"steps": "many"}`, "steps: want an integer"},
		{`{"steps": 1.5}`, "steps: want an integer"},
		{`{"steps": 3} {}`, "one JSON object"},
		{`{"steps": `, "unexpected EOF"},
	} {
		_, err := read(c.text)
		var u *UsageError
		require.ErrorAs(t, err, &u, c.text)
		require.ErrorContains(t, err, c.want)
		require.ErrorContains(t, err, path)
	}
	_, err = ReadConfig(path + "x")
	require.ErrorContains(t, err, "no such file")
	var u *UsageError
	require.False(t, errors.As(err, &u))
}

func TestCommand(t *testing.T) {
	o := Train{Run: recipe.Run{Data: "emoji"}}
	require.Equal(t, "onestep train --method ict --data emoji", o.command())
	o.Method, o.Data, o.Steps, o.LR, o.Flip, o.Seed = &recipe.ICT{S0: 5}, "my pictures/it's", 7, 2e-4, true, 1<<64-1
	o.Size, o.LRDecay, o.EMA = &unet.Options{Mult: []int{1, 2}, Attention: []int{}}, new(0.3), new(0.0)
	o.DataDir, o.Out, o.Resume = "/somewhere", "run", true
	require.Equal(t, `onestep train --method ict --data 'my pictures/it'\''s' --steps 7 --lr 0.0002 --seed 18446744073709551615 --flip --mult 1,2 --attention none --ema 0 --s0 5`, o.command())
	o = Train{Run: recipe.Run{Data: "emoji", Network: "dit", Size: &dit.Options{Channels: 32}}}
	require.Equal(t, "onestep train --method ict --data emoji --network dit --channels 32", o.command(), "the default of another network")
}

// A run's options.json can be read as a configuration, seed and all, and asks for the same run again.
func TestOptionsAreAConfig(t *testing.T) {
	o := tinyRun(filepath.Join(t.TempDir(), "a"), "ict")
	o.Steps, o.Seed = 1, 1<<64-3
	o.Version = "v1"
	_, err := o.Train(context.Background(), Hooks{})
	require.NoError(t, err)
	again := Train{Version: "v2", Threads: 1}
	values, err := ReadConfig(filepath.Join(o.Out, "options.json"))
	require.NoError(t, err)
	require.NoError(t, values.Apply(&again.Run))
	require.Equal(t, o.Seed, again.Seed)
	again.Out, again.Resume = o.Out, true
	r, err := again.Train(context.Background(), Hooks{})
	require.NoError(t, err, "it goes on where it is, by whatever version")
	require.True(t, r.Finished)

	f, err := safetensors.Open(filepath.Join(o.Out, "model-0000001.safetensors"))
	require.NoError(t, err)
	defer f.Close()
	d, err := checkpoint.ParseDescription(f.Metadata())
	require.NoError(t, err)
	require.Equal(t, o.command(), d.Command)
	require.Len(t, d.ClassNames, 9)
}

// What a run is not given to start with is refused before anything is made.
func TestPlanMakesNothing(t *testing.T) {
	o := tinyRun(filepath.Join(t.TempDir(), "run"), "ct")
	o.Size = nil
	p, err := o.Plan()
	require.NoError(t, err)
	require.NoError(t, p.Close())
	require.Equal(t, []int{1, 2, 2}, p.Run.Size.(*unet.Options).Mult)
	require.Equal(t, 9, p.Start.Network.Classes())
	require.NoDirExists(t, o.Out)
}

// Corrupt images end a run, or are skipped, logged once and counted.
func TestCorruptImages(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "images")
	require.NoError(t, os.Mkdir(dir, 0o755))
	var b bytes.Buffer
	require.NoError(t, png.Encode(&b, image.NewNRGBA(image.Rect(0, 0, 8, 8))))
	for _, name := range []string{"a", "b", "c"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name+".png"), b.Bytes(), 0o644))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "d.png"), b.Bytes()[:b.Len()-20], 0o644))

	o := tinyRun(filepath.Join(t.TempDir(), "run"), "ict")
	o.Data, o.Classes, o.Steps = dir, false, 6
	_, err := o.Train(context.Background(), Hooks{})
	require.ErrorContains(t, err, "d.png")
	require.NoDirExists(t, o.Out, "it ended before its first step")

	o.Out, o.Corrupt = filepath.Join(t.TempDir(), "run"), "skip"
	var said bytes.Buffer
	r, err := o.Train(context.Background(), Hooks{Log: slog.New(slog.NewTextHandler(&said, nil))})
	require.NoError(t, err)
	require.Equal(t, 1, r.Corrupt)
	require.Equal(t, 1, strings.Count(said.String(), "d.png"), "24 images were drawn from 4")
}

// Options that do not fit the data are wrong use.
func TestRunRefusesData(t *testing.T) {
	dir := t.TempDir()
	// Fashion-MNIST's layout with 3 images of 6×4 pixels, and no labels.
	idx := append([]byte{0, 0, 8, 3, 0, 0, 0, 3, 0, 0, 0, 6, 0, 0, 0, 4}, make([]byte, 3*24)...)
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write(idx)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	path := filepath.Join(dir, "train-images-idx3-ubyte.gz")
	require.NoError(t, os.WriteFile(path, b.Bytes(), 0o644))
	for _, c := range []struct {
		name, want string
		change     func(o *Train)
	}{
		{"no labels", "has no labels", func(o *Train) { o.Resolution = 8 }},
	} {
		o := tinyRun(filepath.Join(dir, "run"), "ct")
		o.Data = path
		c.change(&o)
		_, err := o.Train(context.Background(), Hooks{})
		var u *UsageError
		require.ErrorAs(t, err, &u, c.name)
		require.ErrorContains(t, err, c.want)
		require.NoDirExists(t, o.Out)
	}
}

// A card has the method's formulas, and its schedule's values in this run.
func TestCard(t *testing.T) {
	card := func(o Train) string {
		o.Data, o.Out, o.Resolution, o.Force = "emoji", "x", 8, true
		p, err := o.Plan()
		require.NoError(t, err)
		defer func() { require.NoError(t, p.Close()) }()
		text, err := p.Card()
		require.NoError(t, err)
		return text
	}
	for _, m := range recipe.Methods() {
		o := Train{Run: recipe.Run{Method: m, Steps: 2000}}
		if m.Spec().Distils {
			set(&o, "teacher", "empirical")
		}
		require.Regexp(t, "(?s)^# "+m.Spec().Name+": .*\n\n    .*L = .*2000 steps of 64 images", card(o))
	}
	o := Train{Run: recipe.Run{Method: &recipe.CD{Teacher: "empirical", Guidance: []float64{1, 5}}, Classes: true}}
	text := card(o)
	require.Contains(t, text, "| 0 | 18 | 0.95 | 0.0446 to 181 |")
	require.Contains(t, text, "1.055")
	require.Contains(t, text, "from 1 to 5")
	require.Contains(t, text, "over the last 0.3 of the run")
	o.Method = &recipe.PD{Teacher: "empirical"}
	require.Contains(t, card(o), "in every stage")
	text = card(Train{Run: recipe.Run{Method: &recipe.ICT{Schedule: "linear", S0: 10, S1: 40}, Steps: 101}})
	require.Contains(t, text, "| 50 | 17 | 0 |", "1/16 is half way from 1/10 to 1/40")
	require.Contains(t, text, "| 100 | 40 | 0 |")

	flow := tinyRun(filepath.Join(t.TempDir(), "flow"), "flow")
	flow.Steps = 1
	_, err := flow.Train(context.Background(), Hooks{})
	require.NoError(t, err)
	text = card(Train{Run: recipe.Run{Method: &recipe.CD{Teacher: flow.Out}, Classes: true}})
	require.Contains(t, text, flow.Out+", of the form flow")
}

// What a Go program trains by the library is what the tool trains, to the bit, and each resumes the other's run.
func TestLibraryIsTheTool(t *testing.T) {
	tool := tinyRun(filepath.Join(t.TempDir(), "tool"), "ect")
	tool.Steps, tool.SaveEvery = 6, 2
	_, err := tool.Train(context.Background(), Hooks{})
	require.NoError(t, err)
	library := tool.Run
	library.Out = filepath.Join(t.TempDir(), "library")
	library.Duration = 1 // a step
	r, err := library.Train(context.Background())
	require.NoError(t, err)
	require.Equal(t, 1, r.Step)
	rest := tool
	rest.Out = library.Out
	_, err = rest.Train(context.Background(), Hooks{})
	require.NoError(t, err)
	for _, name := range []string{"state-0000006.safetensors", "model-0000006.safetensors"} {
		a, err := os.ReadFile(filepath.Join(tool.Out, name))
		require.NoError(t, err)
		b, err := os.ReadFile(filepath.Join(library.Out, name))
		require.NoError(t, err)
		require.True(t, bytes.Equal(a, b), name)
	}
	library.Out = tool.Out
	r, err = library.Train(context.Background())
	require.NoError(t, err)
	require.True(t, r.Finished)
}

// A run that was saved when options.json had the options of all methods, at their defaults, is resumed.
func TestRunOfAnEarlierVersionIsResumed(t *testing.T) {
	o := tinyRun(filepath.Join(t.TempDir(), "run"), "ict")
	o.Steps, o.Duration = 3, 1
	_, err := o.Train(context.Background(), Hooks{})
	require.NoError(t, err)
	path := filepath.Join(o.Out, "options.json")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	var all map[string]any
	require.NoError(t, json.Unmarshal(text, &all))
	for option, v := range map[string]any{"mu0": 0.9, "solver": "heun", "mu": 0.95, "warmup": -1, "weight": "learned", "ratio": 0.75, "power": 0.75, "last": 1, "high": 0.1,
		"betas": "linear", "chain": 1000, "onestep": "v0"} {
		require.NotContains(t, all, option)
		all[option] = v
	}
	for _, left := range []string{"label_dropout", "keep"} { // which were left out at 0
		delete(all, left)
	}
	text, err = json.Marshal(all)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, text, 0o644))
	o.Duration = 0
	r, err := o.Train(context.Background(), Hooks{})
	require.NoError(t, err)
	require.True(t, r.Finished)

	values, err := ReadRun(o.Out)
	require.NoError(t, err)
	again := Train{Run: recipe.Run{Out: o.Out, Resume: true}}
	require.NoError(t, values.Apply(&again.Run))
	require.Equal(t, 1, values["threads"])
	_, err = again.Train(context.Background(), Hooks{})
	require.NoError(t, err)

	all["mu0"] = 0.5
	text, err = json.Marshal(all)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, text, 0o644))
	values, err = ReadRun(o.Out)
	require.NoError(t, err)
	err = o.Flagged(values.Apply(&again.Run))
	require.ErrorContains(t, err, "--mu0")
}
