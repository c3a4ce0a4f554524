package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A class is chosen by its name, however it is typed, or by its number: the image is the same. Several come in turn.
func TestSampleByClassName(t *testing.T) {
	dir := t.TempDir()
	sample := func(out string, args ...string) (got struct {
		Label   int
		Labels  []int
		Classes []string
	}) {
		var stdout, stderr bytes.Buffer
		args = append([]string{"sample", "--model", "builtin", "--json", "--seed", "5", "--out", dir + "/" + out}, args...)
		require.Equal(t, 0, run(t.Context(), args, &stdout, &stderr), stderr.String())
		require.NoError(t, json.Unmarshal(stdout.Bytes(), &got))
		return got
	}
	require.Equal(t, 8, sample("a.png", "--label", "flags").Label)
	require.Equal(t, []string{"Flags"}, sample("b.png", "--label", "8").Classes)
	a, err := os.ReadFile(filepath.Join(dir, "a.png"))
	require.NoError(t, err)
	b, err := os.ReadFile(filepath.Join(dir, "b.png"))
	require.NoError(t, err)
	require.Equal(t, a, b)
	require.Equal(t, 0, sample("c.png", "--label", "smileys-&-emotion").Label)
	got := sample("d/", "--label", "Flags, food & drink,2", "--n", "4")
	require.Equal(t, []int{8, 3, 2}, got.Labels)
	require.Equal(t, []string{"Flags", "Food & Drink", "Animals & Nature"}, got.Classes)
	for i, label := range []float64{8, 3, 2, 8} {
		require.Equal(t, label, settingsOf(t, filepath.Join(dir, "d", []string{"000005.png", "000006.png", "000007.png", "000008.png"}[i]))["label"])
	}
	sample("e.png", "--label", "flags,food & drink,2", "--n", "4")
	require.Equal(t, []any{8.0, 3.0, 2.0}, settingsOf(t, filepath.Join(dir, "e.png"))["labels"])

	for label, want := range map[string]string{"flag": "did you mean Flags?", "drink": "Food & Drink", "boat": "Smileys & Emotion", "flags,": "empty", "": "want a class"} {
		var stdout, stderr bytes.Buffer
		require.Equal(t, exitUsage, run(t.Context(), []string{"sample", "--model", "builtin", "--out", filepath.Join(dir, "x.png"), "--label", label}, &stdout, &stderr), label)
		require.Contains(t, stderr.String(), want, label)
	}
}
