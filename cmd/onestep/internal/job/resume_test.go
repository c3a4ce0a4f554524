package job

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/png"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/dit"
	"github.com/onestep-go/onestep/models/lpips"
	"github.com/onestep-go/onestep/models/mlp"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/sampling"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
	"github.com/onestep-go/onestep/training"
	"github.com/onestep-go/onestep/training/recipe"
	"github.com/onestep-go/onestep/training/rundir"
)

// runIn names, in a child process of these tests, the folder it trains in.
const runIn = "ONESTEP_TEST_RUN_IN"

// teacherIn names the folder of the denoiser that is distilled.
const teacherIn = "ONESTEP_TEST_TEACHER_IN"

func tinyRun(dir, method string) Train {
	m, err := recipe.Named(method)
	if err != nil {
		panic(err)
	}
	o := Train{Threads: 1, Run: recipe.Run{
		Method: m, Data: "emoji", Out: dir, Steps: 40, Batch: 4, Seed: 7, Resolution: 8, Size: &unet.Options{Channels: 8, Mult: []int{1, 2}, Blocks: 1},
		Dropout: 0.1, Flip: true, SaveEvery: 6, SampleEvery: new(0), LogEvery: 1, Workers: 2, Classes: true, Resume: true,
	}}
	if m.Spec().Distils {
		set(&o, "teacher", os.Getenv(teacherIn))
	}
	if method == "cmt" {
		set(&o, "solver-steps", 4) // the teacher's evaluations in each step
	}
	return o
}

// set gives an option of the run or its method a value, in a copy of the method.
func set(o *Train, option string, v any) {
	own[recipe.Method](o)
	if err := o.Set(option, v); err != nil {
		panic(err)
	}
}

// own returns the run's method, as a copy that no other run has.
func own[M recipe.Method](o *Train) M {
	c := reflect.New(reflect.TypeOf(o.Method).Elem())
	c.Elem().Set(reflect.ValueOf(o.Method).Elem())
	o.Method = c.Interface().(recipe.Method)
	return o.Method.(M)
}

// size returns the size of the run's U-Net, as a copy that no other run has.
func size(o *Train) *unet.Options {
	c := *o.Size.(*unet.Options)
	o.Size = &c
	return &c
}

// teacher trains a denoiser for a few steps and makes tinyRun's distillation use it, for the length of a test.
func teacher(t *testing.T) string {
	t.Helper()
	o := tinyRun(filepath.Join(t.TempDir(), "teacher"), "edm")
	o.Steps = 5
	_, err := o.Train(context.Background(), Hooks{})
	require.NoError(t, err)
	t.Setenv(teacherIn, o.Out)
	return o.Out
}

func TestMain(m *testing.M) {
	if dir := os.Getenv(runIn); dir != "" {
		_, err := tinyRun(dir, os.Getenv("ONESTEP_TEST_METHOD")).Train(context.Background(), Hooks{
			Progress: func(training.Progress) { time.Sleep(3 * time.Millisecond) }, // so that there is time to kill it in
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	torchtest.Main(m)
}

func child(dir, method string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), runIn+"="+dir, "ONESTEP_TEST_METHOD="+method)
	cmd.Stderr = os.Stderr
	return cmd
}

func lines(path string) int {
	b, _ := os.ReadFile(path)
	return bytes.Count(b, []byte("\n"))
}

// 40 steps equal 20 and more, kill -9 at a random moment, and a resumed run to 40: every byte of the weights, of the
// averaged weights, of the target and of the optimizer's state, and the statistics too.
func TestResumeAfterKillIsExact(t *testing.T) {
	teacher(t)
	for _, method := range recipe.Names() {
		t.Run(method, func(t *testing.T) {
			whole, killed := filepath.Join(t.TempDir(), "whole"), filepath.Join(t.TempDir(), "killed")
			here := func(dir string) {
				t.Helper()
				_, err := tinyRun(dir, method).Train(context.Background(), Hooks{})
				require.NoError(t, err)
			}
			here(whole)

			at := 20 + rand.IntN(15)
			c := child(killed, method)
			require.NoError(t, c.Start())
			require.Eventually(t, func() bool { return lines(filepath.Join(killed, "stats.jsonl")) >= at }, 60*time.Second, time.Millisecond)
			require.NoError(t, c.Process.Kill())
			require.Error(t, c.Wait())
			done := lines(filepath.Join(killed, "stats.jsonl"))
			t.Logf("killed after step %d", done)
			require.Less(t, done, 40, "the run had finished before it was killed")
			here(killed)

			for _, name := range []string{"state-0000040.safetensors", "model-0000040.safetensors", "options.json"} {
				a, err := os.ReadFile(filepath.Join(whole, name))
				require.NoError(t, err)
				b, err := os.ReadFile(filepath.Join(killed, name))
				require.NoError(t, err)
				require.True(t, bytes.Equal(a, b), "%s differs", name)
			}
			require.Equal(t, losses(t, whole), losses(t, killed))
		})
	}
}

// losses are those of a run of 40 steps.
func losses(t *testing.T, dir string) []float64 {
	t.Helper()
	out := lossesOf(t, dir)
	require.Len(t, out, 40)
	return out
}

func lossesOf(t *testing.T, dir string) (out []float64) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "stats.jsonl"))
	require.NoError(t, err)
	for line := range bytes.Lines(b) {
		var v struct{ Loss float64 }
		require.NoError(t, json.Unmarshal(line, &v))
		out = append(out, v.Loss)
	}
	return out
}

// A cancelled run has saved its last whole step, and says that it was cancelled.
func TestCancelSaves(t *testing.T) {
	o := tinyRun(filepath.Join(t.TempDir(), "run"), "ict")
	ctx, cancel := context.WithCancel(context.Background())
	r, err := o.Train(ctx, Hooks{Progress: func(p training.Progress) {
		if p.Step == 9 {
			cancel()
		}
	}})
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, 9, r.Step)
	require.False(t, r.Finished)
	require.FileExists(t, r.State)
	require.FileExists(t, r.Snapshot)
	require.Equal(t, filepath.Join(o.Out, "state-0000009.safetensors"), r.State)
}

// Every method trains, and its snapshot opens as what it is. Distillation starts from the teacher's network and weights.
func TestMethods(t *testing.T) {
	from := teacher(t)
	weights := func(path string) []float32 {
		f, err := checkpoint.OpenFile(path, torch.CPU)
		require.NoError(t, err)
		defer f.Close()
		for _, w := range f.Network.Parameters() {
			return torch.ToSlice[float32](w)
		}
		return nil
	}
	for _, method := range recipe.Names() {
		t.Run(method, func(t *testing.T) {
			o := tinyRun(filepath.Join(t.TempDir(), "run"), method)
			o.Steps, o.SampleEvery = 4, new(2)
			distils := o.Method.Spec().Distils
			if distils {
				o.LR = 1e-9
			}
			r, err := o.Train(context.Background(), Hooks{})
			require.NoError(t, err)
			d, err := checkpoint.ReadDescription(r.Snapshot)
			require.NoError(t, err)
			require.Equal(t, method, d.Method)
			spec, kind := o.Method.Spec(), checkpoint.Consistency
			switch {
			case spec.Until:
				kind = checkpoint.Trajectory
			case spec.Guidable:
				kind = checkpoint.Denoiser
			}
			require.Equal(t, kind, d.Kind)
			require.Equal(t, spec.Leveled, d.Levels != nil)
			if atZero, known := map[string]bool{"ct": false, "ict": false, "ect": true, "cd": false, "sct": true, "scd": true, "stablect": true, "cmt": true}[method]; known {
				require.Equal(t, atZero, d.Boundary == models.AtZero)
			}
			require.FileExists(t, filepath.Join(o.Out, "samples-0000002.png"))
			if distils {
				require.InDeltaSlice(t, weights(from), weights(r.Snapshot), 1e-6)
			}
		})
	}
	o := tinyRun(filepath.Join(t.TempDir(), "run"), "ect")
	o.Init, o.Steps, o.LR = from, 1, 1e-9
	r, err := o.Train(context.Background(), Hooks{})
	require.NoError(t, err)
	require.InDeltaSlice(t, weights(from), weights(r.Snapshot), 1e-6, "--init")
	o.Init, o.Seed, o.Out = "none", 8, filepath.Join(t.TempDir(), "run")
	r, err = o.Train(context.Background(), Hooks{})
	require.NoError(t, err)
	require.NotEqual(t, weights(from), weights(r.Snapshot))
}

// Teachers and first weights that do not fit are refused before anything is made.
func TestRunRefusesTeachers(t *testing.T) {
	from := teacher(t)
	student := tinyRun(filepath.Join(t.TempDir(), "run"), "ict")
	student.Steps = 1
	_, err := student.Train(context.Background(), Hooks{})
	require.NoError(t, err)
	plain := tinyRun(filepath.Join(t.TempDir(), "plain"), "edm")
	plain.Steps, plain.Classes = 1, false
	_, err = plain.Train(context.Background(), Hooks{})
	require.NoError(t, err)
	for _, c := range []struct {
		name, want string
		change     func(o *Train)
	}{
		{"none", "--method cd needs a teacher", func(o *Train) { set(o, "teacher", "") }},
		{"missing", "--teacher /nonexistent: no such file", func(o *Train) { set(o, "teacher", "/nonexistent") }},
		{"student", "--teacher: want a denoiser (--method: edm, ddpm, flow)", func(o *Train) { set(o, "teacher", student.Out) }},
		{"size", "--teacher: the model is for images of 3×8×8", func(o *Train) { o.Resolution = 16 }},
		{"size of the teacher", "--teacher: the model is for images of 3×8×8", func(o *Train) { o.Resolution, o.Init = 16, "none" }},
		{"classes", "9 classes: pass --classes", func(o *Train) { o.Classes = false }},
		{"classes of a student", "--init: the model was trained without classes: leave out --classes", func(o *Train) { o.Init = plain.Out }},
		{"classes of a teacher", "--teacher: the model was trained without classes: leave out --classes", func(o *Train) { set(o, "teacher", plain.Out) }},
		{"classes of a teacher only", "--teacher: the model was trained without classes", func(o *Train) { o.Init = "none"; set(o, "teacher", plain.Out) }},
		{"network", "--network dit: the run starts from the network of --teacher " + from + ", which has ddpmpp", func(o *Train) { o.Network, o.Size = "dit", nil }},
		{"channels", "--channels 64: the run starts from the network of --teacher " + from + ", which has 8: leave the option out, or pass --init none", func(o *Train) { size(o).Channels = 64 }},
		{"mult", "--mult 2,2: the run starts from the network of --init " + plain.Out + ", which has 1,2", func(o *Train) {
			o.Init, o.Classes, size(o).Mult = plain.Out, false, []int{2, 2}
			set(o, "teacher", plain.Out+"/")
		}},
		{"blocks", "--blocks 2: the run", func(o *Train) { size(o).Blocks = 2 }},
		{"attention", "--attention none: the run starts from the network of --teacher " + from + ", which has 4", func(o *Train) { size(o).Attention = []int{} }},
		{"patch", "--patch 2: the run", func(o *Train) { o.Size = &dit.Options{Patch: 2} }},
		{"solver", "--solver: want one of euler, heun", func(o *Train) { own[*recipe.CD](o).Solver = "rk4" }},
		{"init", "--init /nonexistent: no such file", func(o *Train) { o.Init = "/nonexistent" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := tinyRun(filepath.Join(t.TempDir(), "run"), "cd")
			set(&o, "teacher", from)
			c.change(&o)
			_, err := o.Train(context.Background(), Hooks{})
			require.ErrorContains(t, err, c.want)
			require.NoDirExists(t, o.Out, "nothing was made")
		})
	}
}

// A model that cannot be used is found before the run's folder is made, and one that is there already is left as it is.
func TestRunRefusesWeights(t *testing.T) {
	from := teacher(t)
	file, err := checkpoint.Find(from)
	require.NoError(t, err)
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		damage func() []byte
		want   string
	}{
		"not finite": {func() []byte {
			b := bytes.Clone(text)
			copy(b[len(b)-4:], "\xff\xff\xff\x7f")
			return b
		}, "1 of its weights are"},
		"cut": {func() []byte { return text[:len(text)-8] }, "not a valid safetensors file"},
	} {
		bad := filepath.Join(t.TempDir(), "bad.safetensors")
		require.NoError(t, os.WriteFile(bad, c.damage(), 0o644))
		for _, init := range []string{"", "none", bad} {
			o := tinyRun(filepath.Join(t.TempDir(), "run"), "cd")
			o.Init = init
			set(&o, "teacher", bad)
			_, err := o.Train(context.Background(), Hooks{})
			require.ErrorContains(t, err, "--teacher: ", name)
			require.ErrorContains(t, err, bad)
			require.ErrorContains(t, err, c.want)
			require.NoDirExists(t, o.Out, "nothing was made")
		}
		o := tinyRun(filepath.Join(t.TempDir(), "run"), "ect")
		o.Init = bad
		_, err := o.Train(context.Background(), Hooks{})
		require.ErrorContains(t, err, "--init: ", name)
		require.ErrorContains(t, err, bad)
		require.NoDirExists(t, o.Out, "nothing was made")
	}
}

func TestRunRefuses(t *testing.T) {
	for _, c := range []struct {
		name, want string
		change     func(o *Train)
	}{
		{"data", "no such file or directory", func(o *Train) { o.Data = "/nonexistent" }},
		{"no data", "--data is missing", func(o *Train) { o.Data = "" }},
		{"steps", "--steps: want an integer from 1 to 1000000000, got \"-1\"", func(o *Train) { o.Steps = -1 }},
		{"lr", "--lr: want a number above 0 and below 10", func(o *Train) { o.LR = -1 }},
		{"resolution", "--resolution: want an integer from 4 to 1024", func(o *Train) { o.Resolution = 3 }},
		{"halving", "cannot be halved", func(o *Train) { o.Resolution = 9 }},
		{"distance", "--distance: want one of l1, l2", func(o *Train) { own[*recipe.CT](o).Distance = "ssim" }},
		{"no weights", "--distance lpips needs weights", func(o *Train) { own[*recipe.CT](o).Distance = "lpips" }},
		{"no file", "python scripts/lpips_weights.py vgg no.safetensors", func(o *Train) { m := own[*recipe.CT](o); m.Distance, m.LPIPS = "lpips", "no.safetensors" }},
		{"needless weights", "--lpips: the distance huber", func(o *Train) { own[*recipe.CT](o).LPIPS = "no.safetensors" }},
		{"levels", "--s0, --s1", func(o *Train) { m := own[*recipe.CT](o); m.S0, m.S1 = 10, 5 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "run")
			o := tinyRun(dir, "ct")
			c.change(&o)
			_, err := o.Train(context.Background(), Hooks{})
			require.ErrorContains(t, err, c.want)
			require.NoDirExists(t, dir, "nothing was made")
		})
	}

	// A run that exists is not touched without being asked for, and not continued with other options.
	o := tinyRun(filepath.Join(t.TempDir(), "run"), "ct")
	o.Steps = 1
	_, err := o.Train(context.Background(), Hooks{})
	require.NoError(t, err)
	o.Resume = false
	_, err = o.Train(context.Background(), Hooks{})
	require.ErrorContains(t, err, "--resume")
	o.Resume, o.LR = true, 0.5
	_, err = o.Train(context.Background(), Hooks{})
	require.ErrorContains(t, err, "lr was 0.001, now 0.5")
	var u *UsageError
	require.False(t, errors.As(err, &u))
}

// A run goes on with what it was started with: the same data, teacher and first weights, wherever they lie, and not with others
// under the same names. What does not change its meaning may change.
func TestResumeNoticesOtherInputs(t *testing.T) {
	dir := t.TempDir()
	picture := func(folder, name string, value uint8) {
		img := image.NewGray(image.Rect(0, 0, 8, 8))
		for i := range img.Pix {
			img.Pix[i] = value + uint8(i*int(value))
		}
		var b bytes.Buffer
		require.NoError(t, png.Encode(&b, img))
		require.NoError(t, os.MkdirAll(filepath.Join(dir, folder), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, folder, name), b.Bytes(), 0o644))
	}
	picture("data", "a.png", 1)
	picture("data", "b.png", 2)
	begin := func(name, method string, change func(o *Train)) Train {
		o := tinyRun(filepath.Join(dir, name), method)
		o.Data, o.Classes, o.Flip, o.Dropout = filepath.Join(dir, "data"), false, false, 0
		o.Steps, o.SaveEvery, o.Batch = 6, 2, 2
		change(&o)
		return o
	}
	first := begin("teacher", "edm", func(o *Train) { o.SaveEvery = 3 })
	_, err := first.Train(context.Background(), Hooks{})
	require.NoError(t, err)
	student := begin("student", "cd", func(o *Train) { set(o, "teacher", first.Out) })
	three := func(o Train) (recipe.Result, error) { // ends after three steps, as if interrupted
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		return o.Train(ctx, Hooks{Progress: func(p training.Progress) {
			if p.Step == 3 {
				cancel()
			}
		}})
	}
	_, err = three(student)
	require.ErrorIs(t, err, context.Canceled)
	goOn := func(change func(o *Train)) (recipe.Result, error) {
		o := student
		change(&o)
		return three(o)
	}
	again := func() error { // nothing is left to be done before the fourth step, unless it is refused
		_, err := goOn(func(*Train) {})
		return err
	}
	state := func() map[string]string {
		files := map[string]string{}
		entries, err := os.ReadDir(student.Out)
		require.NoError(t, err)
		for _, e := range entries {
			if e.Name() != "log.txt" && e.Name() != ".lock" {
				text, err := os.ReadFile(filepath.Join(student.Out, e.Name()))
				require.NoError(t, err)
				files[e.Name()] = string(text)
			}
		}
		return files
	}
	before := state()
	refused := func(err error, want string) {
		t.Helper()
		require.ErrorContains(t, err, want)
		require.Equal(t, before, state(), "nothing was written")
	}

	picture("data", "c.png", 3)
	refused(again(), `data_holds was "2 images, sha256 `)
	require.NoError(t, os.Remove(filepath.Join(dir, "data", "c.png")))

	// The teacher has been trained on, or its file is another's.
	last, older := filepath.Join(first.Out, "model-0000006.safetensors"), filepath.Join(first.Out, "model-0000003.safetensors")
	weights, err := os.ReadFile(last)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(first.Out, "model-0000009.safetensors"), weights, 0o644))
	refused(again(), `now "model-0000009.safetensors, sha256 `)
	require.NoError(t, os.Remove(filepath.Join(first.Out, "model-0000009.safetensors")))
	other, err := os.ReadFile(older)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(last, other, 0o644))
	refused(again(), `teacher_holds was "model-0000006.safetensors, sha256 `)
	require.NoError(t, os.WriteFile(last, weights, 0o644))

	for want, change := range map[string]func(o *Train){
		"batch was 2, now 3":              func(o *Train) { o.Batch = 3 },
		"steps was 6, now 7":              func(o *Train) { o.Steps = 7 },
		"lr was 0.001, now 0.002":         func(o *Train) { o.LR = 0.002 },
		`init was "` + first.Out + `"`:    func(o *Train) { o.Init = "none" },
		`solver was "heun", now "euler"`:  func(o *Train) { set(o, "solver", "euler") },
		"flip was false, now true":        func(o *Train) { o.Flip = true },
		"dropout was 0, now 0.1":          func(o *Train) { o.Dropout = 0.1 },
		"half_lives was null, now [1000]": func(o *Train) { o.HalfLives = []float64{1000} },
		"--channels 16: the run starts":   func(o *Train) { size(o).Channels = 16 },
		"the data itself":                 func(o *Train) { set(o, "teacher", "empirical") },
	} {
		_, err := goOn(change)
		if want == "the data itself" {
			want = `now "empirical"`
		}
		refused(err, want)
	}

	// The same in other places, with other habits.
	require.NoError(t, os.Rename(filepath.Join(dir, "data"), filepath.Join(dir, "moved")))
	require.NoError(t, os.Rename(first.Out, filepath.Join(dir, "master")))
	r, err := goOn(func(o *Train) {
		o.Data = filepath.Join(dir, "moved")
		set(o, "teacher", filepath.Join(dir, "master", "model-0000006.safetensors"))
		o.Duration, o.LogEvery, o.SaveEvery, o.Workers, o.Keep, o.Skips, o.Rollbacks = time.Hour, 2, 3, 1, 2, new(1), new(7)
	})
	require.NoError(t, err)
	require.True(t, r.Finished)
	snapshots, err := rundir.Steps(student.Out, "model")
	require.NoError(t, err)
	require.Equal(t, []int{3, 6}, snapshots, "--keep 2")
}

// Resuming a run that is not there starts one, with a notice: the directory may be misspelt.
func TestResumeOfNothingIsSaid(t *testing.T) {
	o := tinyRun(filepath.Join(t.TempDir(), "run"), "ict")
	o.Steps = 1
	var said bytes.Buffer
	_, err := o.Train(context.Background(), Hooks{Log: slog.New(slog.NewTextHandler(&said, nil))})
	require.NoError(t, err)
	require.Contains(t, said.String(), "no run to resume")
	said.Reset()
	_, err = o.Train(context.Background(), Hooks{Log: slog.New(slog.NewTextHandler(&said, nil))})
	require.NoError(t, err)
	require.NotContains(t, said.String(), "no run to resume")
}

// Example images of weights that draw none do not end a run that may still go back.
func TestExamplesOfADivergedRun(t *testing.T) {
	torch.SetFused(false) // the fused norm stays finite with such weights
	defer torch.SetFused(true)
	o := tinyRun(filepath.Join(t.TempDir(), "run"), "ict")
	o.LR, o.Clip, o.Dropout, o.SaveEvery, o.SampleEvery, o.Skips, o.Rollbacks = 9.9, 1e9, 0, 3, new(1), new(1), new(1)
	var said bytes.Buffer
	_, err := o.Train(context.Background(), Hooks{Log: slog.New(slog.NewTextHandler(&said, nil))})
	require.ErrorContains(t, err, "1 of 1 rollbacks")
	require.Contains(t, said.String(), `msg="no sample grid" step=`)
}

// A denoiser is drawn from by every sampler, and by Heun's where none is named; each says how often it asked the network.
func TestSampleFromADenoiser(t *testing.T) {
	from := teacher(t)
	draw := func(change func(o *Sample)) (Sampled, error) {
		o := DefaultSample()
		o.Model, o.N, o.Threads, o.Out = from, 2, 1, filepath.Join(t.TempDir(), "x.png")
		change(&o)
		return o.Run(context.Background(), nil)
	}
	got, err := draw(func(*Sample) {})
	require.NoError(t, err)
	require.Equal(t, "heun", got.Sampler)
	require.Len(t, got.Times, 18)
	require.Equal(t, 35, got.Evaluations, "two a step, and one for the last")
	evaluations := map[string]int{"euler": 4, "heun": 7, "dpmpp_2m": 4, "dpmpp_2s": 7, "flow_midpoint": 7}
	for _, name := range sampling.Names() {
		got, err := draw(func(o *Sample) { o.Sampler, o.Steps = name, 4 })
		require.NoError(t, err, name)
		require.FileExists(t, got.Files[0])
		if want, ok := evaluations[name]; ok {
			require.Equal(t, want, got.Evaluations, name)
		}
	}
	got, err = draw(func(o *Sample) { o.Sampler, o.Times = "euler", []float64{40, 1} })
	require.NoError(t, err)
	require.Equal(t, []float64{40, 1}, got.Times)
	require.Equal(t, 2, got.Evaluations)

	_, err = draw(func(o *Sample) { o.Sampler = "multistep" })
	require.ErrorContains(t, err, "--sampler: multistep cannot sample from a denoiser model: want euler, heun")
	_, err = draw(func(o *Sample) { o.Sampler = "rk4" })
	require.ErrorContains(t, err, "--sampler: want one of multistep, ctm, euler")
	_, err = draw(func(o *Sample) { o.Model, o.Sampler = "builtin", "heun" })
	require.ErrorContains(t, err, "--sampler: heun cannot sample from a consistency model: want multistep")
	got, err = draw(func(o *Sample) { o.Model, o.Sampler, o.Steps = "builtin", "multistep", 2 })
	require.NoError(t, err)
	require.Equal(t, 2, got.Evaluations)
}

// Whatever predicts can be distilled, into a student that starts from it, and the student is drawn from in one step.
func TestEveryTeacher(t *testing.T) {
	dir := t.TempDir()
	train := func(name, method string, change func(o *Train)) recipe.Result {
		o := tinyRun(filepath.Join(dir, name), method)
		o.Steps, o.Dropout = 3, 0
		change(&o)
		r, err := o.Train(context.Background(), Hooks{})
		require.NoError(t, err, name)
		return r
	}
	sample := func(model string) {
		o := DefaultSample()
		o.Model, o.N, o.Threads, o.Out = model, 2, 1, model+".png"
		_, err := o.Run(context.Background(), nil)
		require.NoError(t, err, model)
		require.FileExists(t, o.Out)
	}
	for _, method := range []string{"edm", "ddpm", "flow"} {
		form := checkpoint.FormType(method)
		train(method, method, func(o *Train) {
			if method == "ddpm" {
				*own[*recipe.DDPM](o) = recipe.DDPM{Betas: "cosine", Chain: 50}
			}
		})
		sample(filepath.Join(dir, method))
		r := train(method+"-cd", "cd", func(o *Train) { set(o, "teacher", filepath.Join(dir, method)) })
		d, err := checkpoint.ReadDescription(r.Snapshot)
		require.NoError(t, err)
		require.Equal(t, form, d.Form.Type, "the student's network predicts what the teacher's does")
		require.Equal(t, checkpoint.Consistency, d.Kind)
		sample(r.Snapshot)
	}
	r := train("flow-scd", "scd", func(o *Train) { set(o, "teacher", filepath.Join(dir, "flow")) })
	sample(r.Snapshot)
	d, err := checkpoint.ReadDescription(r.Snapshot)
	require.NoError(t, err)
	require.Equal(t, checkpoint.Flow, d.Form.Type)
	r = train("exact-scd", "scd", func(o *Train) { set(o, "teacher", "empirical") })
	sample(r.Snapshot)
	r = train("differences", "sct", func(o *Train) { *own[*recipe.SCT](o) = recipe.SCT{Step: 0.01, Weight: "prior"} })
	sample(r.Snapshot)
	r = train("flow-meanflow", "meanflow", func(o *Train) { o.Init = filepath.Join(dir, "flow") })
	sample(r.Snapshot)
	for _, method := range []string{"ctm", "pd"} {
		r = train("flow-"+method, method, func(o *Train) {
			o.Steps = 4
			set(o, "teacher", filepath.Join(dir, "flow"))
			if method == "pd" {
				set(o, "first", 2)
			}
		})
		sample(r.Snapshot)
	}
	draw := DefaultSample()
	draw.Model, draw.N, draw.Out = filepath.Join(dir, "flow-pd"), 2, filepath.Join(dir, "pd.png")
	got, err := draw.Run(context.Background(), nil)
	require.NoError(t, err)
	require.Equal(t, []any{"euler", 1}, []any{got.Sampler, got.Evaluations}, "as many steps as it was distilled for")
	draw.Model, draw.Steps, draw.Gamma, draw.N, draw.Out = filepath.Join(dir, "flow-ctm"), 3, 0.5, 2, filepath.Join(dir, "ctm.png")
	got, err = draw.Run(context.Background(), nil)
	require.NoError(t, err)
	require.Equal(t, []any{"ctm", 3}, []any{got.Sampler, got.Evaluations}, "the sampler of its method")
	r = train("exact-cd", "cd", func(o *Train) { *own[*recipe.CD](o) = recipe.CD{Teacher: "empirical", Solver: "euler"} })
	sample(r.Snapshot)
	r = train("reflow", "flow", func(o *Train) { set(o, "teacher", filepath.Join(dir, "flow")) })
	sample(r.Snapshot)

	// A transformer that is told more than its teacher starts from scratch.
	train("dit", "edm", func(o *Train) { o.Network, o.Size = "dit", &dit.Options{Channels: 16, Blocks: 1} })
	r = train("dit-ctm", "ctm", func(o *Train) {
		set(o, "teacher", filepath.Join(dir, "dit"))
		o.Network, o.Size = "dit", &dit.Options{Channels: 16, Blocks: 1}
	})
	sample(r.Snapshot)
	o := tinyRun(filepath.Join(dir, "no"), "ctm")
	o.Init = filepath.Join(dir, "dit")
	set(&o, "teacher", filepath.Join(dir, "edm"))
	_, err = o.Train(context.Background(), Hooks{})
	require.ErrorContains(t, err, "can get new ones: pass --init none")

	o = tinyRun(filepath.Join(dir, "no"), "flow")
	set(&o, "teacher", filepath.Join(dir, "edm"))
	_, err = o.Train(context.Background(), Hooks{})
	for _, want := range []string{"--teacher: the model has the form edm", "--method flow", "the form flow", "scd, ctm, pd"} {
		require.ErrorContains(t, err, want)
	}
	o = tinyRun(filepath.Join(dir, "no"), "edm")
	o.Init = filepath.Join(dir, "flow")
	_, err = o.Train(context.Background(), Hooks{})
	require.ErrorContains(t, err, "--init: the model has the form flow")
	require.ErrorContains(t, err, "--method edm")
	o = tinyRun(filepath.Join(dir, "no"), "scd")
	set(&o, "teacher", filepath.Join(dir, "ddpm"))
	_, err = o.Train(context.Background(), Hooks{})
	require.ErrorContains(t, err, "discrete timesteps")
	require.ErrorContains(t, err, "ctm, pd")
	require.NoDirExists(t, o.Out)
}

// Every network is the one that was asked for, trains and draws; a run from its snapshot is of the same network and starts with its weights.
func TestEveryNetwork(t *testing.T) {
	dir := t.TempDir()
	// kinds are what tells the networks apart, of their configurations.
	kinds := map[string]func(c network.Config) bool{
		"ddpmpp": func(c network.Config) bool {
			u, ok := c.Net.(unet.Config)
			return ok && u.Embedding != unet.Fourier && u.HeadDim == 0
		},
		"ncsnpp": func(c network.Config) bool { u, ok := c.Net.(unet.Config); return ok && u.Embedding == unet.Fourier },
		"adm":    func(c network.Config) bool { u, ok := c.Net.(unet.Config); return ok && u.HeadDim > 0 },
		"dit":    func(c network.Config) bool { return c.Name() == "dit" },
		"mlp":    func(c network.Config) bool { return c.Name() == "mlp" },
		"unet2d": func(c network.Config) bool { return c.Name() == "unet2d" },
	}
	for _, name := range Networks() {
		t.Run(name, func(t *testing.T) {
			train := func(out string, change func(o *Train)) (network.Config, []float32) {
				o := tinyRun(filepath.Join(dir, name+out), "ict")
				o.Network, o.Steps, o.LR = name, 2, 1e-2
				switch name {
				case "dit":
					o.Size = &dit.Options{Channels: 32, Blocks: 1}
				case "mlp":
					o.Size = &mlp.Options{Channels: 32, Blocks: 1}
				default:
					size(&o).Channels = 32
				}
				change(&o)
				_, err := o.Train(context.Background(), Hooks{})
				require.NoError(t, err)
				f, err := checkpoint.OpenFile(o.Out, torch.CPU)
				require.NoError(t, err)
				defer f.Close()
				var weights []float32
				require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
					for _, p := range f.Network.Tensors() {
						weights = append(weights, torch.ToSlice[float32](p.Detach(s))...)
					}
					return nil
				}))
				return f.Description.Network, weights
			}
			still := func(o *Train) { o.LR = 1e-20 } // nothing moves
			_, initial := train("-still", still)
			config, trained := train("", func(*Train) {})
			require.True(t, kinds[name](config), "%+v", config)
			require.NotEqual(t, initial, trained)

			again, weights := train("-again", func(o *Train) {
				still(o)
				o.Init, o.Seed, o.Network, o.Size = filepath.Join(dir, name), 8, "", nil
			})
			require.Equal(t, config, again)
			require.InDeltaSlice(t, trained, weights, 1e-6)

			draw := DefaultSample()
			draw.Model, draw.N, draw.Threads, draw.Out = filepath.Join(dir, name), 2, 1, filepath.Join(dir, name+".png")
			_, err := draw.Run(context.Background(), nil)
			require.NoError(t, err)
			require.Greater(t, colours(t, draw.Out), 8)
		})
	}
}

// colours counts those of an image file.
func colours(t *testing.T, path string) int {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	img, err := png.Decode(f)
	require.NoError(t, err)
	seen := map[any]bool{}
	for y := range img.Bounds().Dy() {
		for x := range img.Bounds().Dx() {
			seen[img.At(x, y)] = true
		}
	}
	return len(seen)
}

// The perceptual distance is that of the weights in the file, here of nothing learned: it is linear in its last ones.
func TestLPIPS(t *testing.T) {
	net, err := lpips.New(lpips.Config{Net: lpips.VGG}, torch.CPU, torch.Float32, 1)
	require.NoError(t, err)
	defer net.Close()
	dir := t.TempDir()
	loss := func(name, distance string) float64 {
		o := tinyRun(filepath.Join(dir, name), "ict")
		o.Resolution, o.Steps = 16, 1
		set(&o, "distance", distance)
		if distance == "lpips" {
			weights := filepath.Join(dir, name+".safetensors")
			set(&o, "lpips", weights)
			require.NoError(t, torch.SaveSafetensors(weights, net.Tensors(), torch.SaveOptions{}))
		}
		r, err := o.Train(context.Background(), Hooks{})
		require.NoError(t, err)
		return r.Loss
	}
	once := loss("once", "lpips")
	require.Positive(t, once)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			scaled := 0
			for name, p := range net.Tensors() {
				if strings.HasPrefix(name, "lin") {
					p.MulScalarInPlace(s, 3)
					scaled++
				}
			}
			require.Equal(t, 5, scaled)
			return nil
		})
	}))
	require.InEpsilon(t, 3*once, loss("thrice", "lpips"), 1e-5)
	require.Greater(t, math.Abs(loss("huber", "huber")/once-1), 1e-3)
}

// A denoiser that knows images without a class is guided at sampling, and its guidance distilled into a student that is told the
// scale, or into one of a single scale.
func TestGuidance(t *testing.T) {
	dir := t.TempDir()
	train := func(name, method string, change func(o *Train)) (recipe.Result, error) {
		o := tinyRun(filepath.Join(dir, name), method)
		o.Steps, o.Dropout = 6, 0
		change(&o)
		return o.Train(context.Background(), Hooks{})
	}
	draw := func(model string, scale float64) (Sampled, []byte, error) {
		o := DefaultSample()
		o.Model, o.Guidance, o.N, o.Threads, o.Out = filepath.Join(dir, model), scale, 3, 1, filepath.Join(t.TempDir(), "x.png")
		r, err := o.Run(context.Background(), nil)
		if err != nil {
			return r, nil, err
		}
		picture, err := os.ReadFile(o.Out)
		return r, picture, err
	}
	_, err := train("teacher", "edm", func(o *Train) { o.LabelDropout = 0.3 })
	require.NoError(t, err)
	_, err = train("plain", "edm", func(*Train) {})
	require.NoError(t, err)
	one, a, err := draw("teacher", 0)
	require.NoError(t, err)
	two, b, err := draw("teacher", 5)
	require.NoError(t, err)
	require.Equal(t, 2*one.Evaluations, two.Evaluations)
	require.NotEqual(t, a, b)
	_, _, err = draw("plain", 5)
	require.ErrorContains(t, err, "label dropout")

	_, err = train("range", "cd", func(o *Train) {
		o.LR, *own[*recipe.CD](o) = 0.01, recipe.CD{Teacher: filepath.Join(dir, "teacher"), Guidance: []float64{1, 5}}
	})
	require.NoError(t, err)
	one, a, err = draw("range", 1)
	require.NoError(t, err)
	two, b, err = draw("range", 4)
	require.NoError(t, err)
	require.Equal(t, []int{1, 1}, []int{one.Evaluations, two.Evaluations})
	require.NotEqual(t, a, b, "the student is told the scale")
	for scale, want := range map[float64]bool{0: false, 5: false, 7.5: true, 0.5: true} {
		var notes []string
		o := DefaultSample()
		o.Model, o.Guidance, o.Threads, o.Out = filepath.Join(dir, "range"), scale, 1, filepath.Join(t.TempDir(), "x.png")
		o.Note = func(n string) { notes = append(notes, n) }
		_, err := o.Run(context.Background(), nil)
		require.NoError(t, err)
		require.Equal(t, want, len(notes) > 0, "scale %g: %q", scale, notes)
		if want {
			require.Regexp(t, fmt.Sprintf(`\b%g\b.*\b1 to 5\b`, scale), notes[0])
		}
	}
	_, err = train("fixed", "cd", func(o *Train) {
		*own[*recipe.CD](o) = recipe.CD{Teacher: filepath.Join(dir, "teacher"), Guidance: []float64{3}}
	})
	require.NoError(t, err)
	_, _, err = draw("fixed", 3)
	require.ErrorContains(t, err, "the model was not trained for it")
	_, err = train("exact", "cd", func(o *Train) {
		*own[*recipe.CD](o) = recipe.CD{Teacher: "empirical", Guidance: []float64{1, 3}, Solver: "euler"}
	})
	require.NoError(t, err)

	for want, change := range map[string]func(o *Train){
		"--guidance: the teacher was trained without label dropout":  func(o *Train) { set(o, "teacher", filepath.Join(dir, "plain")) },
		"--guidance: a guided teacher needs classes: pass --classes": func(o *Train) { o.Classes = false },
		"got [4 1]": func(o *Train) { own[*recipe.CD](o).Guidance = []float64{4, 1} },
		"--label-dropout: the teacher was trained without label dropout": func(o *Train) {
			o.Method, o.LabelDropout = &recipe.CTM{Teacher: filepath.Join(dir, "plain")}, 0.1
		},
		"--label-dropout: the exact denoiser of the data": func(o *Train) {
			o.Method, o.LabelDropout = &recipe.CTM{Teacher: "empirical"}, 0.1
		},
	} {
		_, err := train("no", "cd", func(o *Train) {
			*own[*recipe.CD](o) = recipe.CD{Teacher: filepath.Join(dir, "teacher"), Guidance: []float64{1, 5}}
			change(o)
		})
		require.ErrorContains(t, err, want)
		require.NoDirExists(t, filepath.Join(dir, "no"))
	}
	_, err = train("no", "edm", func(o *Train) { o.LabelDropout, o.Classes = 0.1, false })
	require.ErrorContains(t, err, "there are no labels to drop")
}
