package lora

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/safetensors"
)

// The hashes are those that Python computes of the file that the safetensors package writes (scripts/golden/lora/hashes.py): exactly, since
// they depend on bytes alone.
func TestHashes(t *testing.T) {
	text, err := os.ReadFile("testdata/hashes.json")
	require.NoError(t, err)
	var golden struct {
		Shapes [][2]json.RawMessage
		Cases  []struct {
			Name     string
			Metadata map[string]string
			Model    string `json:"sshs_model_hash"`
			Legacy   string `json:"sshs_legacy_hash"`
		}
	}
	require.NoError(t, json.Unmarshal(text, &golden))
	var tensors []safetensors.Source
	for n, entry := range golden.Shapes {
		var one safetensors.Source
		require.NoError(t, json.Unmarshal(entry[0], &one.Name))
		require.NoError(t, json.Unmarshal(entry[1], &one.Shape))
		data := make([]byte, 2*product(one.Shape))
		for i := range len(data) / 2 {
			binary.LittleEndian.PutUint16(data[2*i:], uint16((i*31+n*7919)%65521))
		}
		one.DType, one.Data = safetensors.F16, safetensors.Bytes(data)
		tensors = append(tensors, one)
	}
	require.Len(t, golden.Cases, 2)
	for _, c := range golden.Cases {
		metadata := maps.Clone(c.Metadata)
		require.NoError(t, addHashes(metadata, tensors))
		require.Equal(t, c.Model, metadata["sshs_model_hash"], c.Name)
		require.Equal(t, c.Legacy, metadata["sshs_legacy_hash"], c.Name)
	}
	require.NotEqual(t, golden.Cases[0].Legacy, golden.Cases[1].Legacy, "the header's length moves what is hashed")
}

// A saved adapter tells other programs its name, its base model, its ranks and alphas, and the hashes of what is in the file.
func TestSavedAdapterHasMetadata(t *testing.T) {
	f16 := torch.Float16
	for kind, want := range map[string]map[string]string{
		"sd15": {"ss_base_model_version": "sd_v1", "ss_v2": "False", "modelspec.architecture": "stable-diffusion-v1/lora", "modelspec.prediction_type": "epsilon",
			"modelspec.implementation": "diffusers"},
		"sd2":  {"ss_base_model_version": "sd_v2_v", "ss_v2": "True", "modelspec.architecture": "stable-diffusion-v2-768-v/lora", "modelspec.prediction_type": "v"},
		"sdxl": {"ss_base_model_version": "sdxl_base_v1-0", "ss_v2": "False", "modelspec.architecture": "stable-diffusion-xl-v1-base/lora"},
	} {
		m := openTiny(t, kind)
		made, err := Adapters{}.New(m, sd.AdapterConfig{Rank: 4, Alpha: 2, Text: kind == "sd15"})
		require.NoError(t, err)
		defer made.Close()
		for _, layout := range []string{"", "peft", "diffusers"} {
			path := filepath.Join(t.TempDir(), "my style.safetensors")
			about := sd.AdapterFile{Layout: layout, DType: &f16, Base: "base", Kind: map[string]weights.Kind{"sd15": weights.SD15, "sd2": weights.SD2, "sdxl": weights.SDXL}[kind],
				Prediction: map[bool]string{true: "v_prediction", false: "epsilon"}[kind == "sd2"], Width: 512, Height: 768,
				Date: time.Date(2026, 11, 29, 15, 4, 5, 0, time.UTC), Metadata: map[string]string{"ss_learning_rate": "0.0001"}}
			require.NoError(t, made.Save(path, about))
			require.NoError(t, made.Save(path, about), "in place of the first")
			back, err := Adapters{}.Open(m, path, nil)
			require.NoError(t, err)
			defer back.Close()
			file := back.(*Adapter).File()
			all := maps.Clone(want)
			maps.Copy(all, map[string]string{
				"ss_output_name": "my style", "modelspec.title": "my style", "ss_sd_model_name": "base", "ss_network_module": "networks.lora", "ss_network_dim": "4", "ss_network_alpha": "2.0",
				"ss_network_args": `{"conv_alpha":"2.0","conv_dim":"4"}`, "ss_resolution": "(512, 768)", "modelspec.resolution": "512x768", "modelspec.date": "2026-11-29T15:04:05",
				"ss_learning_rate": "0.0001", "modelspec.sai_model_spec": "1.0.1",
			})
			for key, v := range all {
				require.Equal(t, v, file.Metadata[key], key)
			}
			require.Len(t, file.Metadata[modelHash], 64)
			require.Len(t, file.Metadata[legacyHash], 8)
			require.Equal(t, layout == "" || layout == "kohya", file.Modules[0].Layout == Kohya)
			text := 0
			for _, m := range file.Modules {
				if strings.HasPrefix(m.Name, "text_encoder") || strings.HasPrefix(m.Name, "lora_te") {
					text++
				}
			}
			require.Equal(t, kind == "sd15", text > 0)
		}
		require.ErrorContains(t, made.Save(filepath.Join(t.TempDir(), "a"), sd.AdapterFile{Layout: "other"}), "kohya")
	}
}

// A few-step adapter's file has the size of the grid of timesteps that it was distilled on, which loading and the cache return. Other files
// have none, and what is no size is ignored with a notice.
func TestOriginalSteps(t *testing.T) {
	m := openTiny(t, "sd15")
	made, err := Adapters{}.New(m, sd.AdapterConfig{Rank: 2})
	require.NoError(t, err)
	defer made.Close()
	dir := t.TempDir()
	save := func(name string, f sd.AdapterFile) string {
		path := filepath.Join(dir, name+".safetensors")
		require.NoError(t, made.Save(path, f))
		return path
	}
	read := func(path string) (int, []string) {
		a, err := Load(m, path, Options{})
		require.NoError(t, err)
		defer a.Close()
		return a.OriginalSteps(), a.Notices()
	}
	few := save("few", sd.AdapterFile{OriginalSteps: 10, Metadata: map[string]string{sd.RunEntry: `{"run": "train-lcm", "phases": 2}`}})
	n, notices := read(few)
	require.Equal(t, 10, n)
	require.Empty(t, notices)
	n, notices = read(save("style", sd.AdapterFile{}))
	require.Zero(t, n)
	require.Empty(t, notices)
	for _, bad := range []string{"", "0", "-4", "4.5", "many", "1000001", "99999999999999999999"} {
		n, notices = read(save("bad", sd.AdapterFile{Metadata: map[string]string{gridKey: bad}}))
		require.Zero(t, n, bad)
		require.Len(t, notices, 1, bad)
		require.Contains(t, notices[0], gridKey)
	}
	files, err := weights.Open(m.Path, weights.Options{})
	require.NoError(t, err)
	info, err := Adapters{}.Inspect(files, few)
	require.NoError(t, err)
	defer func() { require.NoError(t, files.Close()) }()
	require.Equal(t, 10, info.OriginalSteps)

	f, err := Open(few)
	require.NoError(t, err)
	converted := filepath.Join(dir, "converted.safetensors")
	require.NoError(t, f.Write(converted, files, WriteOptions{Layout: PEFT}))
	require.NoError(t, f.Close())
	n, _ = read(converted)
	require.Equal(t, 10, n)
	f, err = Open(converted)
	require.NoError(t, err)
	require.Equal(t, sd.AdapterRun{Command: "train-lcm", Phases: 2}, f.Run())
	f.Metadata[sd.RunEntry] = `{"run": "train-lcm", "phases": 11}` // more than the grid has
	require.Zero(t, f.Run())
	f.Metadata[sd.RunEntry] = `[]`
	require.Zero(t, f.Run())
	require.NoError(t, f.Close())

	c := NewCache(m, CacheOptions{Dir: dir})
	defer func() { require.NoError(t, c.Close()) }()
	for want, tags := range map[string][]prompt.LoRA{
		"[10]": {{Name: "style", Weight: 1}, {Name: "few", Weight: 1}}, "[]": {{Name: "style", Weight: 1}, {Name: "few", Weight: 0}},
	} {
		all, release, err := c.Tagged(t.Context(), tags)
		require.NoError(t, err)
		release()
		require.Equal(t, want, fmt.Sprint(all.Grids))
		require.Equal(t, want == "[10]", slices.Contains(all.Runs, sd.AdapterRun{Command: "train-lcm", Phases: 2}))
	}
}
