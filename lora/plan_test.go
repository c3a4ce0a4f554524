package lora_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/models/sd/weights"
)

// What Plan says of a model whose weights are not read is what New makes for it: the same layers and as many parameters.
func TestPlanIsWhatNewMakes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sdxl")
	require.NoError(t, tiny.Write(dir, "sdxl"))
	files, err := weights.Open(dir, weights.Options{})
	require.NoError(t, err)
	defer files.Close()
	m, err := sd.Open(dir, sd.Options{})
	require.NoError(t, err)
	defer m.Close()
	for _, c := range []sd.AdapterConfig{{Rank: 2}, {Rank: 3, Text: true}, {Rank: 2, Targets: []string{"to_q", "conv1", "norm1"}}, {Rank: 2, Text: true, Targets: []string{"fc1"}}} {
		plan, err := lora.Adapters{}.Plan(files, c)
		require.NoError(t, err)
		if c.Targets != nil && c.Targets[0] == "to_q" {
			require.Equal(t, []string{"norm1"}, plan.Unused, "a norm has no adapter")
			c.Targets = c.Targets[:2]
		} else {
			require.Empty(t, plan.Unused)
		}
		a, err := lora.Adapters{}.New(m, c)
		require.NoError(t, err)
		defer a.Close()
		var names, made []string
		for _, l := range plan.Layers {
			names = append(names, l.Name)
		}
		for _, module := range a.(*lora.Adapter).Modules {
			made = append(made, module.Name)
		}
		require.ElementsMatch(t, made, names)
		n := int64(0)
		for _, p := range a.Parameters() {
			n += int64(p.NumEl())
		}
		require.Equal(t, n, plan.Parameters(c.Rank))
	}
}

// The name of a training run's directory finds its best snapshot.
func TestFindRuns(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a/best.safetensors", "a/options.json", "a/model-0000001.safetensors", "b/best.safetensors", "b/options.json", "c/adapter_config.json"} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}
	for name, want := range map[string]string{"a": "a/best.safetensors", "b": "b/best.safetensors", "c": "c"} {
		got, err := lora.Find(dir, name)
		require.NoError(t, err)
		require.Equal(t, filepath.Join(dir, want), got)
	}
	_, err := lora.Find(dir, "best")
	require.ErrorContains(t, err, "ambiguous")
}
