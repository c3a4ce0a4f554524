package component

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
)

// FuzzIndex looks for indexes that name files elsewhere.
func FuzzIndex(f *testing.F) {
	f.Add([]byte(`{"metadata": {"total_size": 1}, "weight_map": {"a": "x-00001-of-00002.safetensors", "b": "../y.bin"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		weights, err := parseIndex(data)
		if err != nil {
			return
		}
		for _, name := range weights {
			if filepath.Base(name) != name || name == ".." || name == "." {
				t.Fatalf("%q lies elsewhere", name)
			}
		}
	})
}

// Weights are found in order of preference, and an error says which variants there are.
func TestFind(t *testing.T) {
	dir := t.TempDir()
	touch := func(name string) { require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o666)) }
	_, err := Find(dir, "")
	require.ErrorIs(t, err, fs.ErrNotExist)
	touch("diffusion_pytorch_model.fp16.safetensors")
	_, err = Find(dir, "")
	require.ErrorContains(t, err, "fp16.safetensors")
	var variant *VariantError
	require.ErrorAs(t, WithVariants(dir, "", false, err, dir), &variant)
	require.Equal(t, []string{"fp16"}, variant.Found)
	for _, name := range []string{"diffusion_pytorch_model.bin", "diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model.safetensors"} {
		touch(name)
		path, err := Find(dir, "")
		require.NoError(t, err)
		require.Equal(t, name, filepath.Base(path))
	}
	require.Equal(t, []string{"", "fp16"}, Variants(dir))
	_, err = Find(dir, "../fp16")
	require.ErrorContains(t, err, "variant")
}

// Shards are one source, and an index that does not fit its shards is refused.
func TestShards(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		for file, name := range map[string]string{"a.safetensors": "x", "b.safetensors": "y"} {
			err := torch.SaveSafetensors(filepath.Join(dir, file), func(yield func(string, *torch.Tensor) bool) {
				yield(name, torch.Ones(s, torch.Float32, 2))
			}, torch.SaveOptions{})
			if err != nil {
				return err
			}
		}
		return nil
	}))
	path := filepath.Join(dir, "model.safetensors.index.json")
	index := func(text string) { require.NoError(t, os.WriteFile(path, []byte(text), 0o666)) }
	index(`{"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}`)
	f, err := Open(path)
	require.NoError(t, err)
	require.Len(t, Paths(path, f), 2)
	shape, dtype, ok := f.Info("y")
	require.True(t, ok)
	require.Equal(t, []int{2}, shape)
	require.Equal(t, torch.Float32, dtype)
	require.NoError(t, f.Close())
	for text, want := range map[string]string{
		`{"weight_map": {"x": "a.safetensors"}}`:                                             "",
		`{"weight_map": {"x": "b.safetensors", "y": "b.safetensors"}}`:                       "not in b.safetensors",
		`{"weight_map": {"x": "a.safetensors", "y": "b.safetensors", "z": "b.safetensors"}}`: "tensor \"z\" is not in",
		`{"weight_map": {"x": "../a.safetensors"}}`:                                          "want the name of a file in the directory",
		`{"weight_map": {}}`:                     "weight_map is missing or empty",
		`{`:                                      "want an index of shards",
		`{"weight_map": {"x": "c.safetensors"}}`: "shard",
	} {
		index(text)
		f, err := Open(path)
		if want == "" {
			require.NoError(t, errors.Join(err, f.Close()))
			continue
		}
		require.ErrorContains(t, err, want)
	}
}

// Null components are none, and what is no pair of a library and a class is a setting.
func TestParsePipeline(t *testing.T) {
	p, err := ParsePipeline([]byte(`{"_class_name": "DDPMPipeline", "_x": ["a", "B"], "unet": ["diffusers", "UNet2DModel"], "scheduler": [null, null], "n": [1, 2]}`))
	require.NoError(t, err)
	require.Equal(t, "DDPMPipeline", p.Class)
	require.Equal(t, map[string]string{"unet": "UNet2DModel"}, p.Classes)
	require.Len(t, p.Keys, 5)
	for _, bad := range []string{"[]", "{", `{"_class_name": 3}`} {
		_, err := ParsePipeline([]byte(bad))
		require.Error(t, err, bad)
	}
}
