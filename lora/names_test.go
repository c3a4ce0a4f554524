package lora

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Names are those by which Find finds each adapter, and only adapters are listed.
func TestNames(t *testing.T) {
	dir := t.TempDir()
	want := map[string]string{ // path: name
		"ink.safetensors":                          "ink",
		"old/ink.pt":                               "old/ink",
		"old/deep/oil.v1.safetensors":              "oil.v1",
		"peft/adapter_model.safetensors":           "peft",
		"diffusers/pytorch_lora_weights.bin":       "diffusers",
		"run/best.safetensors":                     "run",
		"run/lora-0000010.safetensors":             "run",
		"run/options.json":                         "run",
		"notes.txt":                                "",
		"peft/adapter_config.json":                 "peft",
		"runs/2/pytorch_lora_weights.safetensors":  "runs/2",
		"single/checkpoint-only/water.safetensors": "water",
	}
	for path := range want {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(path)), 0o777))
		require.NoError(t, os.WriteFile(filepath.Join(dir, path), nil, 0o666))
	}
	got, err := Names(dir)
	require.NoError(t, err)
	require.Equal(t, []string{"diffusers", "ink", "oil.v1", "old/ink", "peft", "run", "runs/2", "water"}, got)
	for _, name := range got {
		_, err := Find(dir, name)
		require.NoError(t, err, name)
	}
	_, err = Names(filepath.Join(dir, "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
}
