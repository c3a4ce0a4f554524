package tests

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/sampling/texttoimage"
	"github.com/onestep-go/onestep/torch/safetensors"
)

// publishedSchedulers are the scheduler_config.json of the published models, by kind. models/sd/weights/scheduler.go names the copies in
// public repositories that they were compared with.
func publishedSchedulers(t *testing.T) map[string]map[string]any {
	t.Helper()
	data, err := os.ReadFile("testdata/schedulers.json")
	require.NoError(t, err)
	var all map[string]map[string]any
	require.NoError(t, json.Unmarshal(data, &all))
	return all
}

// bare writes a folder's model as a single file that says nothing of its scheduler. The sizes of the small networks cannot be read off
// their tensors, so that these stay.
func bare(t *testing.T, folder string) string {
	t.Helper()
	m, err := weights.Open(folder, weights.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, m.Close()) }()
	whole := filepath.Join(t.TempDir(), "whole.safetensors")
	require.NoError(t, weights.WriteSingle(whole, m, weights.WriteOptions{}))
	f, err := safetensors.Open(whole)
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	var configs map[string]json.RawMessage
	require.NoError(t, json.Unmarshal([]byte(f.Metadata()["onestep.configs"]), &configs))
	delete(configs, "scheduler")
	kept, err := json.Marshal(configs)
	require.NoError(t, err)
	var list []safetensors.Source
	for v := range f.Tensors() {
		if v.Name != "v_pred" && v.Name != "ztsnr" {
			list = append(list, safetensors.Source{Name: v.Name, DType: v.DType, Shape: v.Shape, Data: safetensors.Bytes(v.Data)})
		}
	}
	path := filepath.Join(t.TempDir(), "bare.safetensors")
	require.NoError(t, safetensors.Write(path, list, safetensors.Options{Metadata: map[string]string{"onestep.configs": string(kept)}}))
	return path
}

// A file that says nothing of its scheduler has the published one of its kind, and draws with every sampler what the folder with that
// scheduler_config.json draws.
func TestBareSingleFileDrawsAsFolder(t *testing.T) {
	for kind, published := range publishedSchedulers(t) {
		t.Run(kind, func(t *testing.T) {
			folder, o := filepath.Join(t.TempDir(), "folder"), sd.Options{}
			name := kind
			if kind == "sd2-base" {
				name, o.Prediction = "sd2", "epsilon" // which the file cannot say
			}
			require.NoError(t, os.CopyFS(folder, os.DirFS(filepath.Join(sdFolder, name))))
			data, err := json.Marshal(published)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(folder, "scheduler", "scheduler_config.json"), data, 0o666))
			file := bare(t, folder)
			o.Config = filepath.Join(t.TempDir(), "rest") // for the tokenizer
			require.NoError(t, os.CopyFS(o.Config, os.DirFS(folder)))
			require.NoError(t, os.RemoveAll(filepath.Join(o.Config, "scheduler")))

			draw := func(path, method string, o sd.Options) []float32 {
				m, err := sd.Open(path, o)
				require.NoError(t, err)
				defer func() { require.NoError(t, m.Close()) }()
				seen := &decoded{Autoencoder: m.VAE}
				m.VAE = seen
				d := texttoimage.Pipeline{Model: m, Steps: 4, Width: 32, Height: 32, Guidance: 2, Seed: 3}
				if kind == "sd15-inpaint" {
					c := sdCase{Init: "init32.png", Mask: "mask32.png"}
					d.Init, d.Mask, d.Strength = c.picture(t, c.Init), c.picture(t, c.Mask), 1
				}
				if method != "" {
					if d.Method, err = scheduler.Named(method); err != nil {
						t.Fatal(err)
					}
				}
				for _, err := range d.Run(t.Context(), "a cat") {
					require.NoError(t, err, "%s by %s", kind, method)
				}
				return seen.latents
			}
			for _, method := range append(scheduler.Names(), "") {
				want := draw(folder, method, sd.Options{})
				require.NotEmpty(t, want)
				// The same arithmetic on the same weights, at other addresses: see TestWeightsAtOtherAddresses. Latents are within ±20.
				require.InDeltaSlice(t, want, draw(file, method, o), 1e-3, "%s by %s", kind, method)
			}

			m, err := weights.Open(file, weights.Options{Prediction: o.Prediction})
			require.NoError(t, err)
			defer func() { require.NoError(t, m.Close()) }()
			var got map[string]any
			require.NoError(t, json.Unmarshal(m.Scheduler, &got))
			want := maps.Clone(published)
			delete(want, "_diffusers_version")
			assert.Equal(t, want, got)
			assert.Len(t, m.Notices, map[bool]int{true: 1}[kind == "sd2"])
		})
	}
}

// What a model predicts survives in files that others read: by the tensors that say so, and by ModelSpec.
func TestSingleFileSaysPrediction(t *testing.T) {
	for _, kind := range []string{"sd15", "sd2", "sdxl", "ssd1b"} {
		for _, c := range []struct {
			prediction string
			zero       bool
			want       []string
			spec       string
		}{{"epsilon", false, nil, "epsilon"}, {"v_prediction", false, []string{"v_pred"}, "v"}, {"v_prediction", true, []string{"v_pred", "ztsnr"}, "v"}} {
			t.Run(fmt.Sprint(kind, c.prediction, c.zero), func(t *testing.T) {
				folder := filepath.Join(t.TempDir(), "folder")
				require.NoError(t, os.CopyFS(folder, os.DirFS(filepath.Join(sdFolder, kind))))
				config := maps.Clone(publishedSchedulers(t)[kind])
				config["prediction_type"], config["rescale_betas_zero_snr"] = c.prediction, c.zero
				data, err := json.Marshal(config)
				require.NoError(t, err)
				require.NoError(t, os.WriteFile(filepath.Join(folder, "scheduler", "scheduler_config.json"), data, 0o666))
				m, err := weights.Open(folder, weights.Options{})
				require.NoError(t, err)
				defer func() { require.NoError(t, m.Close()) }()
				path := filepath.Join(t.TempDir(), "single.safetensors")
				require.NoError(t, weights.WriteSingle(path, m, weights.WriteOptions{}))
				f, err := safetensors.Open(path)
				require.NoError(t, err)
				var says []string
				for _, name := range []string{"v_pred", "ztsnr"} {
					if _, ok := f.Tensor(name); ok {
						says = append(says, name)
					}
				}
				assert.Equal(t, c.want, says)
				meta := f.Metadata()
				assert.Equal(t, c.spec, meta["modelspec.prediction_type"])
				assert.NotEmpty(t, meta["modelspec.architecture"])

				// Without the configuration, the tensors and ModelSpec alone say the same.
				var list []safetensors.Source
				for v := range f.Tensors() {
					list = append(list, safetensors.Source{Name: v.Name, DType: v.DType, Shape: v.Shape, Data: safetensors.Bytes(v.Data)})
				}
				var configs map[string]json.RawMessage
				require.NoError(t, json.Unmarshal([]byte(meta["onestep.configs"]), &configs))
				delete(configs, "scheduler")
				kept, err := json.Marshal(configs)
				require.NoError(t, err)
				meta["onestep.configs"] = string(kept)
				again := filepath.Join(t.TempDir(), "again.safetensors")
				require.NoError(t, safetensors.Write(again, list, safetensors.Options{Metadata: meta}))
				require.NoError(t, f.Close())
				back, err := weights.Open(again, weights.Options{})
				require.NoError(t, err)
				defer func() { require.NoError(t, back.Close()) }()
				assert.Empty(t, back.Ignored)
				assert.Empty(t, back.Notices)
				require.NoError(t, sd.Check(back))
				got, err := noise.ParseConfig(back.Scheduler)
				require.NoError(t, err)
				assert.Equal(t, c.prediction, got.Predicts.Diffusers())
				assert.Equal(t, c.zero, got.ZeroSNR)
			})
		}
	}
}
