package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// info lists the runs in a directory; one whose options cannot be read is listed with its error.
func TestInfoOfRuns(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	put("a/options.json", `{"method": "ict", "data": "emoji"}`)
	put("a/model-0000100.safetensors", "x")
	put("a/model-0002000.safetensors", "x")
	put("b/options.json", `{"method": "cd", "data": "photos"}`)
	put("c/options.json", `{`)
	put("d/notes.txt", "not a run")
	code, out, errs := try("info", dir)
	require.Zero(t, code, errs)
	require.Regexp(t, `(?m)^  \S+/a +ict on emoji, .*\b2000$`, out)
	require.Regexp(t, `(?m)^  \S+/b +cd on photos, no snapshot`, out)
	require.Regexp(t, `(?m)^  \S+/c +.*options.json`, out)
	require.NotContains(t, out, "/d ")
	code, out, errs = try("info", dir, "--json")
	require.Zero(t, code, errs)
	var got runsInfo
	require.NoError(t, json.Unmarshal([]byte(out), &got))
	require.Equal(t, "runs", got.Kind)
	require.Len(t, got.Runs, 3)
	require.Equal(t, oneRun{Path: filepath.Join(dir, "a"), Method: "ict", Data: "emoji", Step: 2000}, got.Runs[0])
	require.NotEmpty(t, got.Runs[2].Error)
}

// generate --from refuses an image of sample with the command that generates it again, which does.
func TestFromImageOfSample(t *testing.T) {
	at := func(name string) string { return filepath.Join(t.TempDir(), name) }
	first, again := at("a.png"), at("b.png")
	code, _, errs := try("sample", "--model", "builtin", "--n", "2", "--seed", "5", "--steps", "2", "--label", "1,3", "--threads", "1", "--out", first)
	require.Zero(t, code, errs)
	code, _, errs = try("generate", "--from", first, "--out", at("c.png"))
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, first)
	require.Contains(t, errs, "onestep sample --model builtin --n 2 --seed 5 --times 80,0.8 --sampler multistep --label 1,3 --out FILE.png")
	code, _, errs = try("sample", "--model", "builtin", "--n", "2", "--seed", "5", "--times", "80,0.8", "--sampler", "multistep", "--label", "1,3", "--threads", "1", "--out", again)
	require.Zero(t, code, errs)
	require.Equal(t, pixelsOf(t, first), pixelsOf(t, again))
}
