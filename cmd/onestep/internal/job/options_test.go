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
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/torch/safetensors"
)

func TestResolve(t *testing.T) {
	o := DefaultTrain()
	o.Data, o.Out = "emoji", "x"
	require.NoError(t, o.Resolve())
	require.Equal(t, 0.998, o.EMA, "1 - 20/10000")
	require.Equal(t, []int{2, 100}, []int{o.S0, o.S1})
	require.Equal(t, 5, o.LogEvery)
	require.Nil(t, o.Mult, "the images' size is not known yet")

	o = DefaultTrain()
	o.Data, o.Out, o.Method, o.Steps = "emoji", "x", "ict", 10
	require.NoError(t, o.Resolve())
	require.Equal(t, 0.9, o.EMA)
	require.Equal(t, []int{10, 20}, []int{o.S0, o.S1})

	// What is zero and means it stays.
	o = DefaultTrain()
	o.Data, o.Out, o.EMA, o.LRDecay, o.S0 = "emoji", "x", 0, 0, 300
	require.NoError(t, o.Resolve())
	require.Zero(t, o.EMA)
	require.Zero(t, o.LRDecay)
	require.Equal(t, 300, o.S1, "the levels do not become fewer")
}

// The network fits the images' size, and says what it is where that was left open.
func TestShape(t *testing.T) {
	for _, c := range []struct {
		side            int
		mult, attention []int // given; then expected
		wantMult, wantA []int
	}{
		{32, nil, nil, []int{1, 2, 2}, []int{8}},
		{30, nil, nil, []int{1, 2}, []int{15}},
		{9, nil, nil, []int{1}, []int{9}},
		{128, nil, nil, []int{1, 2, 2}, []int{}},
		{128, []int{1, 1, 2, 2}, nil, []int{1, 1, 2, 2}, []int{16}},
		{32, nil, []int{}, []int{1, 2, 2}, []int{}},
		{32, nil, []int{16, 8}, []int{1, 2, 2}, []int{16, 8}},
	} {
		o := DefaultTrain()
		o.Mult, o.Attention = c.mult, c.attention
		cfg, err := o.shape(3, c.side)
		require.NoError(t, err)
		require.Equal(t, c.wantMult, o.Mult)
		require.Equal(t, c.wantA, o.Attention)
		require.Equal(t, c.wantMult, cfg.Net.(unet.Config).Mult)
		require.ElementsMatch(t, c.wantA, cfg.Net.(unet.Config).Attention)
		require.Equal(t, c.side, cfg.Net.(unet.Config).Resolution)
	}
}

// Every network fits images of any size, and options of other networks are refused.
func TestNetworks(t *testing.T) {
	for _, name := range Networks() {
		for _, side := range []int{8, 14, 28, 31, 32, 64} {
			o := DefaultTrain()
			o.Network = name
			cfg, err := o.shape(1, side)
			require.NoError(t, err, "%s, %d pixels", name, side)
			require.Equal(t, []int{1, side, side}, cfg.Shape())
			require.Positive(t, o.Channels)
			require.Positive(t, o.Blocks)
		}
	}
	o := DefaultTrain()
	o.Network, o.Channels, o.Mult = "adm", 8, []int{1, 3}
	cfg, err := o.shape(3, 16)
	require.NoError(t, err, "a small one, whose norms have fewer groups than the paper's 32")
	require.Equal(t, 8, cfg.Net.(unet.Config).NormGroups)
	for _, c := range []struct {
		change func(o *Train)
		want   string
	}{
		{func(o *Train) { o.Network, o.Mult = "dit", []int{1, 2} }, "--mult: the network dit"},
		{func(o *Train) { o.Network, o.Attention = "mlp", []int{8} }, "--attention: the network mlp"},
		{func(o *Train) { o.Patch = 2 }, "--patch: the network ddpmpp"},
		{func(o *Train) { o.Network, o.Patch = "dit", 5 }, "resolution 32 is not a multiple of the patch, 5 pixels"},
		{func(o *Train) { o.Network = "gan" }, `--network: want one of ddpmpp, ncsnpp, adm, dit, mlp, got "gan"`},
	} {
		o := DefaultTrain()
		c.change(&o)
		_, err := o.shape(3, 32)
		require.ErrorContains(t, err, c.want)
	}
}

func TestReadConfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.json")
	read := func(text string) (Train, error) {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
		o := DefaultTrain()
		return o, o.ReadConfig(path)
	}
	o, err := read(`{"steps": 3, "mult": [1, 4], "seed": 18446744073709551615}`)
	require.NoError(t, err)
	require.Equal(t, 3, o.Steps)
	require.Equal(t, []int{1, 4}, o.Mult)
	require.Equal(t, uint64(1<<64-1), o.Seed)
	require.Equal(t, 64, o.Batch, "what the file does not name stays")
	for _, c := range []struct{ text, want string }{
		{"", "the file is empty"},
		{"null", "want a JSON object"},
		{"[1]", "want"},
		{`{"stepz": 3}`, `unknown field "stepz"`},
		{`{"steps": "many"}`, "steps: want int, got a JSON string"},
		{`{"steps": 1.5}`, "steps: want int"},
		{`{"steps": 3} {}`, "more follows"},
		{`{"steps": `, "unexpected EOF"},
	} {
		_, err := read(c.text)
		var u *UsageError
		require.ErrorAs(t, err, &u, c.text)
		require.ErrorContains(t, err, c.want)
		require.ErrorContains(t, err, path)
	}
	o = DefaultTrain()
	err = o.ReadConfig(path + "x")
	require.ErrorContains(t, err, "no such file")
	var u *UsageError
	require.False(t, errors.As(err, &u))
}

func TestCommand(t *testing.T) {
	o := DefaultTrain()
	o.Data = "emoji"
	require.Equal(t, "onestep train --method ct --data emoji", o.Command())
	o.Method, o.Data, o.Steps, o.LR, o.Mult, o.Attention, o.Flip, o.Seed = "ict", "my pictures/it's", 7, 2e-4, []int{1, 2}, []int{}, true, 1<<64-1
	o.Dir, o.Out, o.Resume = "/somewhere", "run", true
	require.Equal(t, `onestep train --method ict --data 'my pictures/it'\''s' --steps 7 --lr 0.0002 --seed 18446744073709551615 --mult 1,2 --attention none --flip`, o.Command())
}

// A run's options.json can be read as a configuration, seed and all, and asks for the same run again.
func TestOptionsAreAConfig(t *testing.T) {
	o := tinyRun(filepath.Join(t.TempDir(), "a"), "ict")
	o.Steps, o.Seed = 1, 1<<64-3
	_, err := o.Run(context.Background(), Hooks{Version: "v1"})
	require.NoError(t, err)
	again := DefaultTrain()
	require.NoError(t, again.ReadConfig(filepath.Join(o.Out, "options.json")))
	require.Equal(t, o.Seed, again.Seed)
	again.Out, again.Resume = o.Out, true
	r, err := again.Run(context.Background(), Hooks{Version: "v2"})
	require.NoError(t, err, "it goes on where it is, by whatever version")
	require.True(t, r.Finished)

	f, err := safetensors.Open(filepath.Join(o.Out, "model-0000001.safetensors"))
	require.NoError(t, err)
	defer f.Close()
	d, err := checkpoint.ReadDescription(f.Metadata())
	require.NoError(t, err)
	require.Equal(t, o.Command(), d.Command)
	require.Len(t, d.ClassNames, 9)
}

// What a run is not given to start with is refused before anything is made.
func TestPlanMakesNothing(t *testing.T) {
	o := tinyRun(filepath.Join(t.TempDir(), "run"), "ct")
	o.Mult = nil
	cfg, err := o.Plan()
	require.NoError(t, err)
	require.Equal(t, []int{1, 2, 2}, o.Mult)
	require.Equal(t, 9, cfg.Network.Classes())
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
	_, err := o.Run(context.Background(), Hooks{})
	require.ErrorContains(t, err, "d.png")
	require.NoDirExists(t, o.Out, "it ended before its first step")

	o.Out, o.Corrupt = filepath.Join(t.TempDir(), "run"), "skip"
	var said bytes.Buffer
	r, err := o.Run(context.Background(), Hooks{Log: slog.New(slog.NewTextHandler(&said, nil))})
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
		_, err := o.Run(context.Background(), Hooks{})
		var u *UsageError
		require.ErrorAs(t, err, &u, c.name)
		require.ErrorContains(t, err, c.want)
		require.NoDirExists(t, o.Out)
	}
}

func TestToMapKeepsNumbers(t *testing.T) {
	o := DefaultTrain()
	o.Seed = 1<<64 - 1
	m, err := toMap(o)
	require.NoError(t, err)
	text, err := json.Marshal(m)
	require.NoError(t, err)
	require.Contains(t, string(text), `"seed":18446744073709551615`)
}

// A card has the method's formulas, and its schedule's values in this run.
func TestCard(t *testing.T) {
	for _, name := range Methods() {
		o := DefaultTrain()
		o.Method, o.Data, o.Out, o.Steps, o.Teacher = name, "emoji", "x", 2000, ""
		if m, err := methodNamed(name); err == nil && slices.Contains(m.options, "teacher") {
			o.Teacher = "empirical"
		}
		require.NoError(t, o.Resolve(), name)
		card, err := o.Card(checkpoint.Description{})
		require.NoError(t, err, name)
		require.Regexp(t, "(?s)^# "+name+": .*\n\n    .*L = .*2000 steps of 64 images", card)
	}
	o := DefaultTrain()
	o.Method, o.Data, o.Out, o.Teacher, o.Solver, o.Levels = "cd", "emoji", "x", "empirical", "heun", 18
	require.NoError(t, o.Resolve())
	card, err := o.Card(checkpoint.Description{})
	require.NoError(t, err)
	require.Contains(t, card, "| 0 | 18 | 0.95 | 0.0446 to 181 |")
	require.Contains(t, card, "With 18 levels, perfect training leaves 1.055 of the deviation of Gaussian data")

	o.Init, o.Guidance = "runs/flow", []float64{1, 5}
	card, err = o.Card(checkpoint.Description{Form: checkpoint.Form{Type: checkpoint.Flow}})
	require.NoError(t, err)
	require.Contains(t, card, "starts with the network of runs/flow, of the form flow: what it predicts stands for F.")
	require.Contains(t, card, "guided with a scale drawn from 1 to 5, which the student gets as an input.")
	require.Contains(t, card, "falls to 0 over the last 0.3 of the run")
	o.Method, o.Guidance, o.Levels = "pd", nil, 0
	require.NoError(t, o.Resolve())
	card, err = o.Card(checkpoint.Description{})
	require.NoError(t, err)
	require.Contains(t, card, "falls to 0 in every stage;")

	o = DefaultTrain()
	o.Method, o.Data, o.Out, o.Schedule, o.Steps, o.S0, o.S1 = "ict", "emoji", "x", "linear", 101, 10, 40
	require.NoError(t, o.Resolve())
	card, err = o.Card(checkpoint.Description{})
	require.NoError(t, err)
	require.Contains(t, card, "| 50 | 17 | 0 |", "1/16 is half way from 1/10 to 1/40")
	require.Contains(t, card, "| 100 | 40 | 0 |")
}
