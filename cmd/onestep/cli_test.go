package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"image"
	"image/png"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/onestep-go/onestep/cmd/onestep/internal/job"
	"github.com/onestep-go/onestep/internal/options"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/safetensors"
	"github.com/onestep-go/onestep/torch/torchtest"
	"github.com/onestep-go/onestep/training/recipe"
)

var update = flag.Bool("update", false, "write the golden files again")

// asCommand is the environment variable with a command line for a process of its own; see command.
const asCommand = "ONESTEP_TEST_COMMAND"

func TestMain(m *testing.M) {
	if line := os.Getenv(asCommand); line != "" {
		signal.Ignore(syscall.SIGXFSZ) // as main does
		os.Exit(run(context.Background(), strings.Fields(line), os.Stdout, os.Stderr))
	}
	torchtest.Main(m)
}

// command is a command line as a process of its own.
func command(line string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asCommand+"="+line)
	return cmd
}

// try runs a command line in this process.
func try(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(context.Background(), args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestHelp(t *testing.T) {
	for _, name := range []string{"", "train", "train-lcm", "train-lora", "train-ldm", "sample", "edit", "generate", "serve", "eval", "convert", "lora", "lora info", "lora merge", "lora convert", "lora extract", "inspect", "average", "info", "doctor", "version", "completion"} {
		args := append(strings.Fields(name), "--help")
		code, got, errs := try(args...)
		require.Zero(t, code)
		require.Empty(t, errs)
		path := filepath.Join("testdata", "help", strings.Trim("onestep-"+strings.ReplaceAll(name, " ", "-"), "-")+".txt")
		if *update {
			require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
			require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
		}
		want, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, string(want), got, "%s: go test ./cmd/onestep -update writes it again", path)

		_, same, _ := try(append([]string{"help"}, strings.Fields(name)...)...)
		require.Equal(t, got, same)
	}
}

// With --method, help shows the options of that method only. --card and --dry-run need no directory, and name the default method.
func TestHelpOfMethod(t *testing.T) {
	for _, args := range [][]string{{"train", "--method", "edm", "--help"}, {"train", "--help", "--method", "edm"}} {
		code, out, errs := try(args...)
		require.Zero(t, code, errs)
		require.Contains(t, out, "--high")
		require.Contains(t, out, "--batch")
		require.NotContains(t, out, "--s0")
		require.NotContains(t, out, "--teacher")
	}
	code, out, errs := try("train", "--data", "emoji", "--resolution", "8", "--dry-run")
	require.Zero(t, code, errs)
	require.Contains(t, out, `"method": "ict"`)
	code, out, errs = try("train", "--data", "emoji", "--resolution", "8", "--card")
	require.Zero(t, code, errs)
	require.Contains(t, out, "# ict")
}

// Every option of a run has a flag, under the same name, so that configuration files and flags match.
func TestEveryOptionHasAFlag(t *testing.T) {
	cmd, _, err := (&app{}).root().Find([]string{"train"})
	require.NoError(t, err)
	for _, o := range append(options.Of(new(job.Train)), options.Of(new(recipe.PD))...) {
		require.NotNil(t, cmd.Flags().Lookup(o.Name), o.Name)
	}
	for _, o := range recipe.Options() {
		require.NotNil(t, cmd.Flags().Lookup(o.Name), o.Name)
	}
}

// Every refusal is one line on stderr, nothing on stdout, and the right exit code; nothing is made or overwritten.
func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
		return path
	}
	busy := write("busy.png", "mine")
	junk := write("junk.safetensors", "not weights")
	full := filepath.Dir(write("full/thing", "mine"))
	write("out/000003.png", "mine")
	config := write("config.json", `{"stepz": 3}`)
	write("broken/options.json", `{"method": "ict", "steps": "x"}`)
	write("moved/options.json", `{"method": "ict", "data": "nowhere"}`)
	write("s0.json", `{"method": "edm", "s0": 30}`)
	write("data.json", `{"data": "nowhere"}`)
	zero := write("zero.json", `{"batch": -1}`)
	require.NoError(t, unix.Mkfifo(filepath.Join(dir, "pipe"), 0o644))
	before := tree(t, dir)

	builtin := "sample --model builtin --out DIR/x.png "
	train := "train --data emoji --out DIR/r "
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"smaple", 2, `unknown command "smaple": did you mean sample?`},
		{"trian --data x", 2, `unknown command "trian": did you mean train?`},
		{"lora mrge --x", 2, `unknown command "mrge": did you mean merge?`},
		{"help smaple", 2, `unknown command "smaple": did you mean sample?`},
		{"--verison", 2, "unknown flag --verison: did you mean --version?"},
		{"-x", 2, "unknown shorthand flag"},
		{"sample --modle builtin", 2, "unknown flag --modle: did you mean --model?"},
		{"sample", 2, "--model is missing"},
		{"sample --model builtin", 2, "--out is missing"},
		{"sample --model builtin --out", 2, "--out: its value is missing"},
		{"sample --model builtin --out x.gif", 2, "want FILE.png"},
		{builtin + "--n 0", 2, `--n: want a whole number from 1 on, got "0"`},
		{builtin + "--n 1000001", 2, "--n: want 1 to 1000000 images"},
		{builtin + "--n 20000", 2, "--n: a grid holds at most 10000 images"},
		{builtin + "--n 1e3", 2, `--n: want a whole number from 1 on, got "1e3"`},
		{builtin + "--seed -1", 2, `--seed: want a whole number from 0 on, got "-1"`},
		{builtin + "--steps 0", 2, "--steps: want a whole number from 1 on"},
		{builtin + "--steps 1001", 2, "--steps: want 1 to 1000"},
		{builtin + "--times 0.8,80", 2, "got 80 after 0.8"},
		{builtin + "--times 80,80", 2, "got 80 after 80"},
		{builtin + "--times 80,0.002", 2, "above the minimum level 0.002"},
		{builtin + "--times 80,1,0", 2, "--times: want noise levels above 0"},
		{builtin + "--times 80,NaN", 2, "--times: want numbers"},
		{builtin + "--times 81,1", 2, "--times: want noise levels up to 80"},
		{builtin + "--times 80 --steps 2", 2, "--times: 1 noise level for 2 steps"},
		{builtin + "--times 80,x", 2, `--times: want numbers with commas between them, such as 80,0.8, got "80,x"`},
		{builtin + "--label 99", 2, "--label: want a class from 0 to 8 (Smileys"},
		{builtin + "--label -1", 2, "--label: want a class"},
		{builtin + "--label cat", 2, `no class "cat"`},
		{builtin + "--device tpu", 2, "unknown device"},
		{builtin + "--device cuda:99", 1, "device cuda:99"},
		{"generate --prompt cat --cuda-graphs --out DIR/x.png", 2, "--cuda-graphs: they are for --device cuda, and the device is cpu"},
		{builtin + "--batch 0", 2, "--batch: want a whole number from 1 on"},
		{builtin + "--threads 5000", 2, "--threads: want 1 to 4096"},
		{builtin + "extra", 2, `want no arguments, only flags, got "extra"`},
		{"sample --model builtin --out DIR/out --columns 3", 2, "--columns: DIR/"},
		{"sample --model builtin --out DIR/none/../x.png", 1, "none/.. does not exist"},
		{"sample --model builtin --out " + busy, 1, "--overwrite"},
		{"sample --model builtin --n 5 --out DIR/out/", 1, "000003.png exists"},
		{"sample --model DIR/none --out DIR/x.png", 1, "no such file"},
		{"sample --model DIR --out DIR/x.png", 1, "no snapshot"},
		{"sample --model DIR/pipe --out DIR/x.png", 1, "named pipe: want a regular file"},
		{"sample --model " + junk + " --out DIR/x.png", 1, "a text file"},
		{"train", 2, "--data is missing"},
		{"train --data emoji", 2, "--out is missing"},
		{train + "--method itc", 2, `got "itc": did you mean ict?`},
		{"train --resume --out DIR/r", 2, "--resume: there is no run in DIR/r"},
		{"train --resume --out DIR/broken", 1, "onestep: DIR/broken/options.json: steps: want"},
		{"train --resume --out DIR/moved", 1, "onestep: DIR/moved/options.json: data nowhere: no such file"},
		{"train --resume --extend --out DIR/r", 2, "--extend: there is no run in DIR/r"},
		{"train --card --data emoji --steps 0", 2, "--steps: want"},
		{train + "--config DIR/s0.json", 2, "--config DIR/s0.json: s0: the method edm"},
		{train + "--config DIR/s0.json --method ict --s1 20", 2, "--config DIR/s0.json: s0, --s1: want"},
		{"train --out DIR/r --config DIR/data.json", 1, "--config DIR/data.json: data nowhere: no such file"},
		{train + "--channels 33", 2, "--channels: want an even number"},
		{train + "--method gan", 2, `--method: want ct, ict, ect, stablect, cd, cmt, sct, scd, ctm, meanflow, soflow, alphaflow, imf, pd, msct, mscd, edm, ddpm or flow, got "gan"`},
		{train + "--steps x", 2, `--steps: want an integer from 1 to 1000000000, got "x"`},
		{train + "--steps -5", 2, `--steps: want an integer from 1 to 1000000000, got "-5"`},
		{train + "--steps 0", 2, "--steps: want an integer from 1"},
		{train + "--steps 99999999999999999999", 2, "--steps: want"},
		{train + "--steps 2000000000", 2, "--steps: want an integer from 1 to 1000000000"},
		{train + "--batch 0", 2, "--batch: want an integer from 1 to 1048576"},
		{train + "--batch 9999999", 2, "--batch: want an integer from 1 to 1048576"},
		{train + "--lr 0", 2, "--lr: want a number above 0 and below 10"},
		{train + "--lr nan", 2, "--lr: want a number above 0 and below 10"},
		{train + "--lr x", 2, `--lr: want a number above 0 and below 10, got "x"`},
		{train + "--lr-decay 2", 2, "--lr-decay: want a number from 0 to 1"},
		{train + "--resolution 0", 2, "--resolution: want an integer from 4 to 1024"},
		{train + "--resolution 3", 2, "--resolution: want an integer from 4 to 1024"},
		{train + "--resolution 2048", 2, "--resolution: want an integer from 4 to 1024"},
		{train + "--resolution 9 --mult 1,2", 2, "cannot be halved"},
		{train + "--mult 1,2,2,2,2,2,2", 2, "cannot be halved"},
		{train + "--mult none", 2, "mult): want 1 to 10, got 0"},
		{train + "--mult 1,,2", 2, "--mult: want integers"},
		{train + "--mult 1,99", 2, "--mult: want integers from 1 to 64"},
		{train + "--attention 7", 2, "attention: want image sizes of the levels"},
		{train + "--channels 4096 --mult 64,64 --blocks 64", 2, "weights, the limit is"},
		{train + "--blocks 65", 2, "--blocks: want an integer from 1 to 64"},
		{train + "--colors 2", 2, "--colors: want 1 or 3"},
		{train + "--dropout 1", 2, "--dropout: want a number from 0 and below 1"},
		{train + "--distance ssim", 2, "--distance: want l1, l2, norm, huber or lpips"},
		{train + "--s0 1", 2, "--s0: want an integer from 2"},
		{train + "--s0 9 --s1 8", 2, "--s0, --s1: "},
		{train + "--method meanflow --power 1.5", 2, "--power: want a number above 0 and up to 1"},
		{train + "--keep -1", 2, "--keep: want an integer from 0 on"},
		{train + "--widths 0.1,0.05,0.1", 2, "--widths: want different values, got 0.1,0.05,0.1"},
		{train + "--half-lives 5,5", 2, "--half-lives: want different values, got 5,5"},
		{train + "--method pd --teacher empirical --steps 3", 2, "--steps: want at least 4 for the stages from 2 to 1 sampling steps"},
		{train + "--method pd --teacher empirical --lr-decay 0.1", 2, "--lr-decay: the method pd"},
		{train + "--method flow --teacher empirical", 2, "--teacher: the method flow"},
		{train + "--mu0 1", 2, "--mu0: want a number above 0 and below 1"},
		{train + "--ema 1", 2, "--ema: want a number from 0 and below 1"},
		{train + "--clip 0", 2, "--clip: want a number above 0"},
		{train + "--clip inf", 2, "--clip: want a number above 0"},
		{train + "--corrupt ignore", 2, "--corrupt: want error or skip"},
		{train + "--workers 0", 2, "--workers: want"},
		{train + "--save-every 0", 2, "--save-every: want"},
		{train + "--sample-every -1", 2, "--sample-every: want an integer from 0 on"},
		{train + "--duration 5", 2, `--duration: want a time such as 90s, 30m or 2h, got "5"`},
		{train + "--duration -5s", 2, "--duration: want a positive time"},
		{train + "--threads 0", 2, "--threads: want"},
		{train + "--device tpu", 2, `--device: want cpu, cuda or cuda:N, got "tpu"`},
		{train + "--device cuda:99", 1, "device cuda:99"},
		{train + "--json=maybe", 2, `--json: want true or false, got "maybe"`},
		{train + "--config DIR/none.json", 1, "none.json: no such file"},
		{train + "--config " + config, 2, `unknown field "stepz"`},
		{train + "--config " + zero, 2, "batch: want an integer from 1"},
		{train + "--config " + full, 1, "is a directory; wanted a JSON file"},
		{train + "extra", 2, "no arguments"},
		{"train --data DIR/none --out DIR/r", 1, "no such file or directory"},
		{"train --data " + busy + " --out DIR/r", 1, "is an image"},
		{"train --data emoji --steps 1 --out " + full, 1, "is not empty"},
		{"train --data emoji --steps 1 --out " + busy, 1, "not a directory"},
		{"average DIR --width nan --out DIR/a", 2, "got NaN"},
		{"average DIR --width 0.5 --out DIR/a", 2, "got 0.5"},
		{"average DIR --width 0.1 --out DIR/a", 1, "power-function EMA weights"},
		{"average DIR/none --width 0.1 --out DIR/a", 1, "no such directory"},
		{"info DIR/none", 1, "no such file"},
		{"info DIR", 1, "junk.safetensors: not a valid safetensors file"},
		{"info " + full, 1, "neither a run"},
		{"info DIR/pipe", 1, "neither a regular file nor a directory"},
		{"info " + busy, 1, "a text file"},
		{"info", 2, "want one file or directory"},
		{"info a b", 2, `want one file or directory, got "a b"`},
		{"doctor now", 2, "want no arguments"},
		{"completion", 2, "want one shell"},
		{"completion tcsh", 2, "want one shell: bash, zsh or fish"},
	} {
		code, out, errs := try(strings.Fields(strings.ReplaceAll(c.args, "DIR", dir))...)
		require.Equal(t, c.code, code, "%s: %s", c.args, errs)
		require.Empty(t, out, c.args)
		require.Equal(t, 1, strings.Count(errs, "\n"), "%s: one line, got %s", c.args, errs)
		require.True(t, strings.HasPrefix(errs, "onestep: "), errs)
		require.Contains(t, strings.ReplaceAll(errs, dir, "DIR"), c.want, c.args)
		require.NotContains(t, errs, "goroutine", c.args)
		require.Equal(t, before, tree(t, dir), "%s: nothing has changed", c.args)
	}
}

// tree lists what a folder holds, with the text of files.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	m := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			m[path] = ""
			return err
		}
		text, err := os.ReadFile(path)
		m[path] = string(text)
		return err
	}))
	return m
}

func TestDoctor(t *testing.T) {
	code, out, errs := try("doctor", "--json")
	require.Zero(t, code, errs)
	var h health
	require.NoError(t, json.Unmarshal([]byte(out), &h))
	require.Equal(t, h.Expected, h.Libtorch)
	require.Contains(t, h.Works, "cpu")
	require.FileExists(t, h.Library)
	require.Positive(t, h.Threads)
	require.NotEqual(t, h.CUDA, h.CUDAReason != "", "either it is there or there is a reason")

	code, out, _ = try("doctor")
	require.Zero(t, code)
	require.Contains(t, out, h.Library)
	require.Contains(t, out, "work on cpu")
}

// What the kernel says of an NVIDIA driver counts, whether libtorch can use it or not.
func TestDriver(t *testing.T) {
	root := t.TempDir()
	version, cards := driver(root)
	require.Empty(t, version)
	require.Empty(t, cards)

	dir := filepath.Join(root, "proc/driver/nvidia")
	card := filepath.Join(dir, "gpus/0000:1b:00.0")
	require.NoError(t, os.MkdirAll(card, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(card, "information"), []byte("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 17\n"), 0o644))
	for text, want := range map[string]string{
		"NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.161.08  Sat Feb 17 22:55:48 UTC 2024\nGCC version:  gcc 12\n":                                 "535.161.08",
		"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (dvs-builder@U16)  Thu Jan 23 22:50:36 UTC 2025\nGCC 12.2.0\n": "570.86.15",
		"something else": "of unknown version",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "version"), []byte(text), 0o644))
		version, cards = driver(root)
		require.Equal(t, want, version)
		require.Equal(t, []string{"NVIDIA H100 80GB HBM3"}, cards)
	}
	h := health{Driver: version, Cards: cards, CUDAReason: "why", Error: "it burns", GPUs: []gpu{{"cuda:0", 1 << 30, 2 << 30}}}
	for _, want := range []string{"NVIDIA H100", "not loaded: why", "1.0 of 2.0 GiB free", "it burns"} {
		require.Contains(t, h.String(), want)
	}
}

func TestVersionAndCompletion(t *testing.T) {
	code, out, _ := try("version")
	require.Zero(t, code)
	require.Contains(t, out, "libtorch "+torch.Version())
	code, out, _ = try("version", "--json")
	require.Zero(t, code)
	var v map[string]string
	require.NoError(t, json.Unmarshal([]byte(out), &v))
	require.Equal(t, runtime.Version(), v["go"])
	code, short, _ := try("--version")
	require.Zero(t, code)
	require.Equal(t, "onestep "+v["onestep"]+"\n", short)

	for _, shell := range []string{"bash", "zsh", "fish"} {
		code, out, errs := try("completion", shell)
		require.Zero(t, code, errs)
		require.Contains(t, out, "onestep", shell)
	}
	for args, want := range map[string]string{"train --method ": "ct\nict\n", "train --corrupt ": "error\nskip\n", "sample --model b": "builtin\n", "completion ": "bash\nzsh\nfish\n"} {
		_, out, _ := try(append([]string{"__complete"}, strings.Split(args, " ")...)...)
		require.Contains(t, out, want, args)
	}
}

// From training to a picture and back to its settings.
func TestTrainSampleInfo(t *testing.T) {
	dir := t.TempDir()
	run := filepath.Join(dir, "run")
	config := filepath.Join(dir, "config.json")
	require.NoError(t, os.WriteFile(config, []byte(`{"steps": 9, "batch": 3, "channels": 8, "mult": [1, 2], "flip": true, "seed": 99}`), 0o644))
	args := strings.Fields("train --method ict --data emoji --resolution 8 --config " + config + " --steps 4 --seed 3 --threads 1 --flip=false --sample-every 2 --classes --json --out " + run)

	code, out, errs := try(append(args, "--dry-run")...)
	require.Zero(t, code, errs)
	require.NoDirExists(t, run)
	planned := filepath.Join(dir, "planned.json")
	require.NoError(t, os.WriteFile(planned, []byte(out), 0o644))

	code, out, errs = try(args...)
	require.Zero(t, code, errs)
	require.NotContains(t, errs, "\r", "no bar: this is no terminal")
	require.NotContains(t, errs, "\x1b")
	var got trained
	require.NoError(t, json.Unmarshal([]byte(out), &got))
	require.Equal(t, 4, got.Step, "the flag goes before the file")
	require.Equal(t, int64(12), got.Images)
	require.Positive(t, got.Loss)
	require.True(t, got.Finished)
	require.FileExists(t, got.State)
	for _, name := range []string{"options.json", "stats.jsonl", "log.txt", "samples-0000002.png", "state-0000004.safetensors"} {
		st, err := os.Stat(filepath.Join(run, name))
		require.NoError(t, err)
		require.Positive(t, st.Size(), name)
	}
	events, err := filepath.Glob(filepath.Join(run, "events.out.tfevents.*"))
	require.NoError(t, err)
	require.Len(t, events, 1)

	// The options are those that --dry-run told, and as a configuration they ask for the same run.
	resolved, err := os.ReadFile(filepath.Join(run, "options.json"))
	require.NoError(t, err)
	plan, err := os.ReadFile(planned)
	require.NoError(t, err)
	var asked, did map[string]any
	require.NoError(t, json.Unmarshal(plan, &asked))
	require.NoError(t, json.Unmarshal(resolved, &did))
	require.Contains(t, did["data_holds"], "1906 images, sha256 ")
	delete(did, "data_holds")
	require.Equal(t, asked, did)
	code, _, errs = try("train", "--config", planned, "--out", run)
	require.Equal(t, exitFailure, code)
	require.Contains(t, errs, "pass --resume")
	byProgram := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(byProgram, "options.json"), []byte(`{"accumulate": 1, "seed": 1, "steps": 4}`), 0o644))
	code, _, errs = try("train", "--resume", "--out", byProgram)
	require.Equal(t, exitFailure, code)
	require.Contains(t, errs, byProgram+" was started by a Go program")
	require.NotContains(t, errs, "--config")
	code, out, errs = try("train", "--config", planned, "--out", run, "--resume")
	require.Zero(t, code, errs)
	require.Equal(t, "4 steps, 12 images\nsnapshot: "+got.Snapshot+"\n", out, "there is nothing left to do")
	code, _, errs = try("train", "--config", planned, "--out", run, "--resume", "--lr", "0.5")
	require.Equal(t, exitFailure, code)
	require.Contains(t, errs, "lr was 0.001, now 0.5")

	code, out, errs = try("info", run, "--json")
	require.Zero(t, code, errs)
	var r runInfo
	require.NoError(t, json.Unmarshal([]byte(out), &r))
	require.EqualValues(t, 3, r.Options["batch"], "the file's options count")
	require.Equal(t, false, r.Options["flip"])
	require.EqualValues(t, 3, r.Options["seed"])
	require.EqualValues(t, 4, r.Last["step"])
	require.Equal(t, []int{4}, r.Snapshots)
	code, out, errs = try("info", run)
	require.Zero(t, code, errs)
	for _, want := range []string{"lr_decay           0.3\n", "last statistics:\n", "1 snapshot, the last after step 4\n", "1 checkpoint, "} {
		require.Contains(t, out, want)
	}

	picture := filepath.Join(dir, "grid.png")
	code, out, errs = try(strings.Fields("sample --model " + run + " --times 80,1 --n 5 --columns 3 --seed 10 --threads 1 --out " + picture)...)
	require.Zero(t, code, errs)
	require.Equal(t, picture+"\n", out)
	require.Empty(t, errs)
	require.Equal(t, image.Pt(3*(8+2)+2, 2*(8+2)+2), size(t, picture))
	code, out, errs = try("info", picture)
	require.Zero(t, code, errs)
	require.Regexp(t, `times +\[80,1\]\n`, out)
	require.Regexp(t, `seed +10\n`, out)
	code, _, errs = try(strings.Fields("sample --model " + run + " --out " + picture + " --overwrite")...)
	require.Zero(t, code, errs)
	require.Equal(t, image.Pt(8, 8), size(t, picture), "one image is itself")

	// One file an image; the same images whatever the batch.
	for _, batch := range []string{"1", "4"} {
		code, out, errs = try(strings.Fields("sample --model " + run + " --n 5 --seed 10 --threads 1 --json --batch " + batch + " --out " + dir + "/b" + batch + "/")...)
		require.Zero(t, code, errs)
		var got job.Sampled
		require.NoError(t, json.Unmarshal([]byte(out), &got))
		require.Len(t, got.Files, 5)
		require.Equal(t, []float64{80}, got.Times)
	}
	for _, name := range []string{"000010.png", "000014.png"} {
		a, err := os.ReadFile(filepath.Join(dir, "b1", name))
		require.NoError(t, err)
		b, err := os.ReadFile(filepath.Join(dir, "b4", name))
		require.NoError(t, err)
		require.True(t, bytes.Equal(a, b), "%s depends on the batch", name)
	}
	// A picture's text says how to draw it again: image 14 is of class 14 mod 9.
	code, out, errs = try("info", filepath.Join(dir, "b4", "000014.png"), "--json")
	require.Zero(t, code, errs)
	var p struct {
		Text struct{ Onestep job.Sample }
	}
	require.NoError(t, json.Unmarshal([]byte(out), &p))
	require.Equal(t, job.Sample{Model: filepath.Base(got.Snapshot), Sampler: "multistep", Steps: 1, Times: []float64{80}, Label: 5, N: 1, Seed: 14}, p.Text.Onestep)
	again := filepath.Join(dir, "again.png")
	code, _, errs = try(strings.Fields("sample --seed 14 --threads 1 --model " + got.Snapshot + " --out " + again)...)
	require.Zero(t, code, errs)
	require.Equal(t, tree(t, filepath.Join(dir, "b1", "000014.png"))[filepath.Join(dir, "b1", "000014.png")], tree(t, again)[again])

	code, out, errs = try("info", got.Snapshot, "--all")
	require.Zero(t, code, errs)
	require.Contains(t, out, "method ict on emoji, step 4, 12 images seen")
	require.Contains(t, out, "made by: onestep train --method ict --data emoji --steps 4 --batch 3 --seed 3 --resolution 8 --classes --channels 8 --mult 1,2 --sample-every 2 --threads 1\n")
	require.Contains(t, out, "conv_in.weight ")
	code, out, errs = try("info", got.State, "--json")
	require.Zero(t, code, errs)
	var m modelInfo
	require.NoError(t, json.Unmarshal([]byte(out), &m))
	require.Equal(t, "training checkpoint", m.Kind)
	require.NotEmpty(t, m.Tensors)
	require.Zero(t, torch.Live())
}

func size(t *testing.T, path string) image.Point {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	img, err := png.Decode(f)
	require.NoError(t, err)
	return img.Bounds().Size()
}

// A run's averages are further models, from which others are found afterwards.
func TestAverage(t *testing.T) {
	dir := t.TempDir()
	run := filepath.Join(dir, "run")
	train := "train --data emoji --resolution 8 --channels 8 --mult 1,2 --blocks 1 --batch 4 --steps 8 --save-every 2 --threads 1 --method ict --out "
	code, _, errs := try(strings.Fields(train + run + " --widths 0.05,0.1 --half-lives 16")...)
	require.Zero(t, code, errs)
	found := filepath.Join(dir, "found.safetensors")
	average := []string{"average", run, "--width", "0.07", "--out", found}
	code, out, errs := try(append(average, "--json")...)
	require.Zero(t, code, errs)
	var got averaged
	require.NoError(t, json.Unmarshal([]byte(out), &got))
	require.Equal(t, []any{0.07, 8, found}, []any{got.Width, got.Step, got.File})
	require.Positive(t, got.From)
	for _, model := range []string{found, filepath.Join(run, "model-0000008.half-life-16.safetensors"), filepath.Join(run, "model-0000008.width-0.05.safetensors")} {
		code, _, errs = try("sample", "--model", model, "--out", filepath.Join(dir, "x.png"), "--overwrite")
		require.Zero(t, code, errs)
	}
	for want, args := range map[string][]string{
		"exists: choose another name":     average,
		"--width is missing":              {"average", run, "--out", "x"},
		"--out is missing":                {"average", run, "--width", "0.1"},
		"want a number between 0.001 and": {"average", run, "--width", "0.5", "--out", filepath.Join(dir, "no")},
		"want one of the steps":           {"average", run, "--width", "0.07", "--step", "3", "--out", filepath.Join(dir, "no")},
		"run directory":                   {"average", "--width", "0.1"},
	} {
		code, out, errs := try(args...)
		require.NotZero(t, code)
		require.Empty(t, out)
		require.Contains(t, errs, want)
	}
	require.NoFileExists(t, filepath.Join(dir, "no"))
	plain := filepath.Join(dir, "plain")
	code, _, errs = try(strings.Fields(train + plain)...)
	require.Zero(t, code, errs)
	code, _, errs = try("average", plain, "--width", "0.1", "--out", filepath.Join(dir, "no"))
	require.Equal(t, 1, code)
	require.Contains(t, errs, "such as 0.05 and 0.1")
	code, _, errs = try(strings.Fields(train + filepath.Join(dir, "no") + " --widths 0.9")...)
	require.Equal(t, 2, code)
	require.Contains(t, errs, "--widths: ")
}

// A model's file says what it is in any form: embedded, sharded, without a description, or hostile.
func TestInfoModels(t *testing.T) {
	code, out, errs := try("info", "builtin", "--json")
	require.Zero(t, code, errs)
	var m modelInfo
	require.NoError(t, json.Unmarshal([]byte(out), &m))
	require.Equal(t, "consistency model", m.Kind)
	require.Equal(t, []int{3, 32, 32}, m.Description.Network.Shape())
	elements := 0
	for _, x := range m.Tensors {
		n := 1
		for _, d := range x.Shape {
			n *= d
		}
		elements += n
	}
	require.Equal(t, elements, m.Elements)

	sharded := "../../torch/safetensors/testdata/sharded"
	code, out, errs = try("info", sharded)
	require.Zero(t, code, errs)
	require.Contains(t, out, "weights\n")
	code, byName, _ := try("info", filepath.Join(sharded, "model.safetensors.index.json"))
	require.Zero(t, code)
	require.Equal(t, out, byName)

	// Names from a file do not drive the terminal.
	path := filepath.Join(t.TempDir(), "x.safetensors")
	require.NoError(t, safetensors.Write(path, []safetensors.Source{{Name: "a\x1b[2J", DType: safetensors.U8, Shape: []int{1}, Data: safetensors.Bytes([]byte{1})}},
		safetensors.Options{Metadata: map[string]string{"b\n": strings.Repeat("long ", 1000)}}))
	code, out, errs = try("info", path, "--all")
	require.Zero(t, code, errs)
	require.NotContains(t, out, "\x1b")
	require.Contains(t, out, `"a\x1b[2J"`)
	require.Contains(t, out, "1 tensor, 1 element, 0.0 MB (1 U8)")
	require.Less(t, len(out), 1000)
}

// A run that has not come far says what there is.
func TestInfoEmptyRun(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "options.json"), []byte(`{"steps": 5}`), 0o644))
	code, out, errs := try("info", dir, "--json")
	require.Zero(t, code, errs)
	require.JSONEq(t, `{"kind": "run", "path": "`+dir+`", "options": {"steps": 5}, "last": null, "snapshots": [], "states": []}`, out)
	code, out, _ = try("info", dir)
	require.Zero(t, code)
	require.Contains(t, out, "snapshots: none\ncheckpoints: none\n")

	// Options that the method, the network and the rest do not use are left out for people.
	require.NoError(t, os.WriteFile(filepath.Join(dir, "options.json"),
		[]byte(`{"method": "ict", "network": "dit", "distance": "huber", "data": "emoji", "s1": 20, "patch": 2, "warmup": 3, "mu0": 0.9, "lpips_resize": "", "mult": [1], "steps": 5}`), 0o644))
	_, out, _ = try("info", dir)
	for _, option := range []string{"method", "network", "distance", "data", "s1", "patch", "steps"} {
		require.Regexp(t, `(?m)^  `+option+` `, out)
	}
	for _, option := range []string{"warmup", "mu0", "lpips_resize", "mult"} {
		require.NotContains(t, out, option)
	}
	_, out, _ = try("info", dir, "--json")
	require.Contains(t, out, `"warmup"`)

	// The last whole line counts, and a long file is not read from its beginning.
	stats := strings.Repeat(`{"step": 1}`+"\n", 20_000) + `{"step": 2}` + "\n" + `{"step": 3, "lo`
	require.NoError(t, os.WriteFile(filepath.Join(dir, "stats.jsonl"), []byte(stats), 0o644))
	last, err := lastStats(filepath.Join(dir, "stats.jsonl"))
	require.NoError(t, err)
	require.Equal(t, map[string]any{"step": 2.0}, last)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "options.json"), []byte(`{`), 0o644))
	code, _, errs = try("info", dir)
	require.Equal(t, exitFailure, code)
	require.Contains(t, errs, "options.json")
}

// An interrupted run says how to go on; one that had not begun leaves nothing.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	dir := filepath.Join(t.TempDir(), "r")
	var out, errs bytes.Buffer
	code := run(ctx, strings.Fields("train --data emoji --resolution 8 --channels 8 --batch 2 --steps 50 --out "+dir), &out, &errs)
	require.Equal(t, exitInterrupted, code)
	require.Equal(t, "onestep: interrupted\n", errs.String())
	require.NoDirExists(t, dir)

	errs.Reset()
	code = run(ctx, []string{"sample", "--model", "builtin", "--out", dir + ".png"}, &out, &errs)
	require.Equal(t, exitInterrupted, code)
	require.Equal(t, "onestep: interrupted\n", errs.String())
	require.NoFileExists(t, dir+".png")
	require.Empty(t, out.String())
}

// A run that ends by --duration is saved as at the end, says how it is resumed, and can be.
func TestDuration(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "r")
	args := strings.Fields("train --data emoji --resolution 8 --channels 8 --mult 1 --batch 2 --steps 3 --threads 1 --json --resume --duration 1ns --out " + dir)
	for step := 1; step <= 3; step++ {
		code, out, errs := try(args...)
		require.Zero(t, code, errs)
		var got trained
		require.NoError(t, json.Unmarshal([]byte(out), &got))
		require.Equal(t, step, got.Step)
		require.Equal(t, step == 3, got.Finished)
		require.Equal(t, step < 3, strings.Contains(errs, fmt.Sprintf("after step %d of 3; the same command with --resume", step)), errs)
		require.FileExists(t, got.Snapshot)
	}
}

func TestExplain(t *testing.T) {
	full := fmt.Errorf("step 3: %w", &torch.Error{Op: "aten::conv2d", Msg: "no", Err: torch.ErrOutOfMemory})
	stopped := fmt.Errorf("draw: %w", context.Canceled)
	find := func(args ...string) *cobra.Command {
		cmd, rest, err := (&app{}).root().Find(args)
		require.NoError(t, err)
		require.NoError(t, cmd.ParseFlags(rest))
		return cmd
	}
	for _, c := range []struct {
		err         error
		interrupted bool
		want        string
		code        int
	}{
		{errors.New("plain"), true, "plain", exitFailure},
		{stopped, true, "interrupted", exitInterrupted},
		{stopped, false, stopped.Error(), exitFailure},
		{fmt.Errorf("train: %w", &job.UsageError{Msg: "bad"}), false, "train: bad", exitUsage},
		{full, false, "not enough memory: step 3: conv2d: no: choose a smaller --batch or --resolution or --channels", exitMemory},
	} {
		msg, code := explain(c.err, find("train"), c.interrupted)
		require.Equal(t, c.want, msg)
		require.Equal(t, c.code, code)
	}
	// The advice names flags that the command has, and that matter.
	for _, c := range []struct {
		args  []string
		flags []string
	}{
		{[]string{"generate"}, []string{"--width", "--height", "--tile", "--dtype"}},
		{[]string{"generate", "--batch", "8"}, []string{"--batch"}},
		{[]string{"sample"}, []string{"--batch"}},
		{[]string{"inspect"}, []string{"--n"}},
		{[]string{"convert"}, nil},
		{[]string{"lora", "extract"}, nil},
	} {
		msg, _ := explain(full, find(c.args...), false)
		got := regexp.MustCompile(`--\w+`).FindAllString(msg, -1)
		require.Equal(t, c.flags, got, "%v: %s", c.args, msg)
		for _, f := range got {
			require.NotNil(t, find(c.args...).Flags().Lookup(f[2:]), msg)
		}
	}
}

func TestOneLine(t *testing.T) {
	require.Equal(t, "a; b; c", oneLine("a\n  b\r\n\nc\n"))
}

func TestDurationText(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 59600 * time.Millisecond: "1m00s", 125 * time.Second: "2m05s", 3*time.Hour + 5*time.Minute + time.Second: "3h05m", math.MaxInt64: "?",
	} {
		require.Equal(t, want, duration(d))
	}
}

// Without a terminal, progress is a log line now and then.
func TestProgressWithoutTerminal(t *testing.T) {
	var errs, file bytes.Buffer
	sc := newScreen(&errs)
	sc.start()
	sc.show(0.1, "step 1/10", "soon")
	require.Empty(t, errs.String())
	sc.next = time.Now()
	sc.tee(&file)
	sc.show(0.2, "step 2/10", "loss 3")
	require.Contains(t, errs.String(), `msg="step 2/10" progress="loss 3"`)
	require.Equal(t, errs.String(), file.String())
	sc.show(0.3, "step 3/10", "loss 3")
	require.Equal(t, 1, strings.Count(errs.String(), "\n"))
	sc.stop()
}
