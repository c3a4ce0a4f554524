package main

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// Every benchmark of the small network runs and reports figures, in both precisions, and a step also with libtorch's operators alone.
func TestWorks(t *testing.T) {
	threads := torch.Threads()
	defer func() { require.NoError(t, torch.SetThreads(threads)) }()
	defer torch.SetFused(true)
	for name, variants := range map[string][][]string{
		"train": {nil, {"--plain"}}, "sample": {nil, {"--precision", "bf16"}},
		"ct": {{"--precision", "bf16"}}, "cd": {nil}, "ect": {{"--precision", "bf16"}}, "scd": {{"--precision", "bf16"}},
	} {
		for _, more := range variants {
			var out bytes.Buffer
			require.NoError(t, work(append([]string{name, "--case", "tiny", "--runs", "1"}, more...), &out), name)
			var got map[string]float64
			require.NoError(t, json.Unmarshal(out.Bytes(), &got))
			require.GreaterOrEqual(t, len(got), 3)
			for key, v := range got {
				require.False(t, math.IsNaN(v) || v < 0, "%s: %s", name, key)
			}
		}
	}
	require.ErrorContains(t, work([]string{"train", "--precision", "f64"}, &bytes.Buffer{}), "f32, bf16 or f16")
}

// Figures that were written are read again; a missing file has none, and a damaged one is an error.
func TestReadRows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "last.json")
	got, err := readRows(path)
	require.NoError(t, err)
	require.Empty(t, got)
	text, err := json.Marshal([]row{{Name: "train ms_per_step", Ours: 3}})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, text, 0o644))
	got, err = readRows(path)
	require.NoError(t, err)
	require.Equal(t, 3.0, got["train ms_per_step"].Ours)
	require.NoError(t, os.WriteFile(path, []byte("["), 0o644))
	_, err = readRows(path)
	require.ErrorContains(t, err, path)
}

// The test's program is the benchmark's, too, which runs itself.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "work" {
		main()
		return
	}
	torchtest.Main(m)
}
