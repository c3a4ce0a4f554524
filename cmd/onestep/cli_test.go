package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
)

var update = flag.Bool("update", false, "write the golden files again")

// try runs a command line in this process.
func try(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(context.Background(), args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestHelp(t *testing.T) {
	for _, name := range []string{"", "train", "sample", "info", "doctor", "version", "completion"} {
		args := append(strings.Fields(name), "--help")
		code, got, errs := try(args...)
		require.Zero(t, code)
		require.Empty(t, errs)
		path := filepath.Join("testdata", "help", strings.TrimSpace("onestep "+name)+".txt")
		if *update {
			require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
			require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
		}
		want, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, string(want), got, "%s: go test ./cmd/onestep -update writes it again", path)
	}
}

// Every refusal is one line on stderr, nothing on stdout, and the right exit code.
func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	busy := filepath.Join(dir, "busy.png")
	require.NoError(t, os.WriteFile(busy, []byte("mine"), 0o644))
	junk := filepath.Join(dir, "junk.safetensors")
	require.NoError(t, os.WriteFile(junk, []byte("not weights"), 0o644))
	full := filepath.Join(dir, "full")
	require.NoError(t, os.MkdirAll(filepath.Join(full, "things"), 0o755))
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"smaple", 2, `unknown command "smaple": did you mean sample?`},
		{"sample --modle builtin", 2, "unknown flag: --modle"},
		{"sample", 2, "--model is missing"},
		{"sample --model builtin", 2, "--out is missing"},
		{"sample --model builtin --out x.jpg", 2, "want FILE.png"},
		{"sample --model builtin --out " + dir + "/x.png --n 0", 2, "--n: want at least 1"},
		{"sample --model builtin --out " + dir + "/x.png --steps 0", 2, "--steps: want 1 to 1000"},
		{"sample --model builtin --out " + dir + "/x.png --times 0.8,80", 2, "largest first"},
		{"sample --model builtin --out " + dir + "/x.png --times 80,0.001", 2, "above the smallest level"},
		{"sample --model builtin --out " + dir + "/x.png --times 80 --steps 2", 2, "--times lists 1"},
		{"sample --model builtin --out " + dir + "/x.png --times 80,x", 2, "invalid argument"},
		{"sample --model builtin --out " + dir + "/x.png --label 99", 2, "--label: want 0 to 8 (Smileys"},
		{"sample --model builtin --out " + dir + "/x.png --label -1", 2, "--label: want a class"},
		{"sample --model builtin --out " + dir + "/x.png --device tpu", 2, "unknown device"},
		{"sample --model builtin --out " + dir + "/none/x.png", 1, "does not exist"},
		{"sample --model builtin --out " + busy, 1, "--overwrite"},
		{"sample --model " + dir + "/none --out " + dir + "/x.png", 1, "there is no such file or folder"},
		{"sample --model " + junk + " --out " + dir + "/x.png", 1, "not a valid safetensors file"},
		{"train", 2, "--data is missing"},
		{"train --data emoji", 2, "--out is missing"},
		{"train --data emoji --out " + dir + "/r --steps x", 2, "invalid argument"},
		{"train --data emoji --out " + dir + "/r --steps -5", 2, "--steps: want at least 1"},
		{"train --data emoji --out " + dir + "/r --resolution 9 --mult 1,2", 2, "cannot be halved"},
		{"train --data emoji --out " + dir + "/r --config " + dir + "/none.json", 2, "none.json"},
		{"train --data emoji --out " + dir + "/r extra", 2, "no arguments"},
		{"train --data " + dir + "/none --out " + dir + "/r", 1, "no such file or folder"},
		{"train --data emoji --steps 1 --out " + full, 1, "is not empty"},
		{"info " + dir + "/none", 1, "there is no such file or folder"},
		{"info " + dir, 1, "no run's folder"},
		{"info", 2, "want a file or a folder"},
		{"completion tcsh", 2, "want bash, zsh or fish"},
	} {
		code, out, errs := try(strings.Fields(c.args)...)
		require.Equal(t, c.code, code, "%s: %s", c.args, errs)
		require.Empty(t, out, c.args)
		require.Equal(t, 1, strings.Count(errs, "\n"), "%s: one line, got %s", c.args, errs)
		require.Contains(t, errs, c.want, c.args)
		require.NotContains(t, errs, "goroutine", c.args)
	}
	kept, err := os.ReadFile(busy)
	require.NoError(t, err)
	require.Equal(t, "mine", string(kept))
	require.NoDirExists(t, filepath.Join(dir, "r"))
}

func TestDoctorAndVersion(t *testing.T) {
	code, out, errs := try("doctor", "--json")
	require.Zero(t, code, errs)
	var h health
	require.NoError(t, json.Unmarshal([]byte(out), &h))
	require.Equal(t, h.CompiledFor, h.Libtorch)
	require.Contains(t, h.Works, "cpu")
	require.FileExists(t, h.Library)
	code, out, _ = try("version")
	require.Zero(t, code)
	require.Contains(t, out, "libtorch "+torch.Version())
	code, out, _ = try("completion", "bash")
	require.Zero(t, code)
	require.Contains(t, out, "onestep")
}

// From training to a picture and back to its settings.
func TestTrainSampleInfo(t *testing.T) {
	dir := t.TempDir()
	run := filepath.Join(dir, "run")
	config := filepath.Join(dir, "config.json")
	require.NoError(t, os.WriteFile(config, []byte(`{"steps": 9, "batch": 3, "channels": 8, "mult": [1, 2]}`), 0o644))
	args := strings.Fields("train --method ict --data emoji --resolution 8 --config " + config + " --steps 4 --seed 3 --threads 1 --sample-every 2 --classes --json --out " + run)
	code, out, errs := try(args...)
	require.Zero(t, code, errs)
	var trained struct {
		Step     int
		Finished bool
		Snapshot string
	}
	require.NoError(t, json.Unmarshal([]byte(out), &trained))
	require.Equal(t, 4, trained.Step, "the flag goes before the file")
	require.True(t, trained.Finished)
	for _, name := range []string{"options.json", "stats.jsonl", "log.txt", "samples-0000002.png", "state-0000004.safetensors"} {
		st, err := os.Stat(filepath.Join(run, name))
		require.NoError(t, err)
		require.Positive(t, st.Size(), name)
	}
	events, err := filepath.Glob(filepath.Join(run, "events.out.tfevents.*"))
	require.NoError(t, err)
	require.Len(t, events, 1)

	code, out, errs = try("info", run, "--json")
	require.Zero(t, code, errs)
	require.Contains(t, out, `"batch":3`, "the file's options count")

	picture := filepath.Join(dir, "grid.png")
	code, _, errs = try(strings.Fields("sample --model " + run + " --times 80,1 --n 5 --columns 3 --seed 10 --threads 1 --out " + picture)...)
	require.Zero(t, code, errs)
	f, err := os.Open(picture)
	require.NoError(t, err)
	defer f.Close()
	img, err := png.Decode(f)
	require.NoError(t, err)
	require.Equal(t, 3*(8+2)+2, img.Bounds().Dx())
	require.Equal(t, 2*(8+2)+2, img.Bounds().Dy())
	code, out, errs = try("info", picture)
	require.Zero(t, code, errs)
	require.Contains(t, out, `"times":[80,1]`)
	require.Contains(t, out, `"seed":10`)

	// One file an image; the same images whatever the batch.
	for _, batch := range []string{"1", "4"} {
		code, out, errs = try(strings.Fields("sample --model " + run + " --n 5 --seed 10 --threads 1 --json --batch " + batch + " --out " + dir + "/b" + batch + "/")...)
		require.Zero(t, code, errs)
		var got struct{ Files []string }
		require.NoError(t, json.Unmarshal([]byte(out), &got))
		require.Len(t, got.Files, 5)
	}
	for _, name := range []string{"000010.png", "000014.png"} {
		a, err := os.ReadFile(filepath.Join(dir, "b1", name))
		require.NoError(t, err)
		b, err := os.ReadFile(filepath.Join(dir, "b4", name))
		require.NoError(t, err)
		require.True(t, bytes.Equal(a, b), "%s depends on the batch", name)
	}

	code, out, errs = try("info", trained.Snapshot)
	require.Zero(t, code, errs)
	require.Contains(t, out, "consistency model, ict on emoji, step 4, 12 images seen")
	require.Zero(t, torch.Live())
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var out, errs bytes.Buffer
	run := run(ctx, strings.Fields("train --data emoji --resolution 8 --channels 8 --batch 2 --steps 50 --out "+filepath.Join(t.TempDir(), "r")), &out, &errs)
	require.Equal(t, 130, run)
	require.Contains(t, errs.String(), "--resume goes on")
}
