package tests

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/sdtest"
	tinysd "github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/sampling/texttoimage"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/torch/safetensors"
)

// scaled is a source with other values.
type scaled struct {
	nn.Source
	by float64
}

func (v scaled) Get(s *torch.Scope, name string) (*torch.Tensor, error) {
	t, err := v.Source.Get(s, name)
	if err != nil {
		return nil, err
	}
	return t.MulScalar(s, v.by), nil
}

// tinyParts is a tiny model with the published scheduler of its kind. Its U-Net has a guidance embedding if it is distilled.
func tinyParts(t *testing.T, kind string, distilled bool) *weights.Model {
	t.Helper()
	m, err := tinysd.Model(kind)
	require.NoError(t, err)
	m.Scheduler, err = json.Marshal(publishedSchedulers(t)[kind])
	require.NoError(t, err)
	if distilled {
		c, err := unet.ParseConfig(m.UNet.Config)
		require.NoError(t, err)
		c.TimeCondProjDim = 32
		data, err := json.Marshal(c)
		require.NoError(t, err)
		m.UNet = &weights.Component{Config: data, Source: sdtest.Filled(unet.Shapes(c))}
	}
	return m
}

// writeTensors writes a part's tensors into a file, under other names.
func writeTensors(t *testing.T, path string, c *weights.Component, name func(string) string, more ...safetensors.Source) string {
	t.Helper()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		list := more
		for n := range c.Names() {
			v, err := c.Get(s, n)
			require.NoError(t, err)
			list = append(list, safetensors.Source{Name: name(n), DType: safetensors.F32, Shape: v.Shape(), Data: safetensors.Bytes(v.Bytes())})
		}
		return safetensors.Write(path, list, safetensors.Options{})
	}))
	return path
}

func asIs(name string) string { return name }

// latentsOf draws with a model and returns the latents, and what the drawing decided.
func latentsOf(t *testing.T, path string, o sd.Options, method string) ([]float32, *texttoimage.Plan) {
	t.Helper()
	m, err := sd.Open(path, o)
	require.NoError(t, err)
	defer func() { require.NoError(t, m.Close()) }()
	seen := &decoded{Autoencoder: m.VAE}
	m.VAE = seen
	d := texttoimage.Pipeline{Model: m, Steps: 3, Width: 64, Height: 64, Seed: 3}
	if method != "" {
		d.Method, err = scheduler.Named(method)
		require.NoError(t, err)
	}
	plan, err := d.Plan("a cat")
	require.NoError(t, err)
	for _, err := range d.Run(t.Context(), "a cat") {
		require.NoError(t, err)
	}
	return seen.latents, plan
}

// A U-Net from elsewhere, in every form that such are published in, makes of a model what the directory with that U-Net and the other parts
// is, also where it makes it a latent consistency model; so does a text encoder.
func TestPartsFromElsewhere(t *testing.T) {
	for _, c := range []struct {
		kind      string
		distilled bool
	}{{"sd15", false}, {"sd15", true}, {"sdxl", false}, {"sdxl", true}} {
		t.Run(c.kind+map[bool]string{true: "-lcm"}[c.distilled], func(t *testing.T) {
			dir := t.TempDir()
			at := func(name string) string { return filepath.Join(dir, name) }
			base := tinyParts(t, c.kind, false)
			require.NoError(t, weights.WriteFolder(at("base"), base, weights.WriteOptions{}))
			single := filepath.Join(dir, "base.safetensors")
			require.NoError(t, weights.WriteSingle(single, base, weights.WriteOptions{}))

			other := tinyParts(t, c.kind, c.distilled)
			other.UNet.Source = scaled{other.UNet.Source, 0.9}
			other.Text.Source = scaled{other.Text.Source, 0.8}
			if other.Text2 != nil {
				other.Text2.Source = scaled{other.Text2.Source, 0.7}
			}
			require.NoError(t, weights.WriteFolder(at("other"), other, weights.WriteOptions{}))

			mixed := tinyParts(t, c.kind, c.distilled)
			mixed.UNet.Source = other.UNet.Source
			if c.distilled {
				var config map[string]any
				require.NoError(t, json.Unmarshal(base.Scheduler, &config))
				if c.kind == "sd15" {
					config = publishedSchedulers(t)["lcm"]
				}
				config["_class_name"] = "LCMScheduler"
				var err error
				mixed.Scheduler, err = json.Marshal(config)
				require.NoError(t, err)
			}
			require.NoError(t, weights.WriteFolder(at("mixed"), mixed, weights.WriteOptions{}))

			plain, _ := latentsOf(t, at("base"), sd.Options{}, "")
			want, decided := latentsOf(t, at("mixed"), sd.Options{}, "")
			require.NotEqual(t, plain, want)
			require.Equal(t, c.distilled, decided.Distilled)

			forms := map[string]string{"folder": at("other/unet")}
			forms["bare"] = writeTensors(t, at("bare.safetensors"), other.UNet, asIs)
			theirs := weights.CompVis(other.UNet.Names())
			for _, prefix := range []string{"", "model.diffusion_model.", "diffusion_model."} {
				forms["CompVis"+prefix] = writeTensors(t, at("old"+prefix+"safetensors"), other.UNet, func(name string) string {
					old, ok := theirs(name)
					require.True(t, ok, name)
					return prefix + old
				})
			}
			forms["no config"] = at("noconfig")
			require.NoError(t, os.Mkdir(at("noconfig"), 0o777))
			writeTensors(t, at("noconfig/diffusion_pytorch_model.fp16.safetensors"), other.UNet, asIs)
			if !c.distilled { // a whole one has a scheduler of its own
				forms["whole folder"] = at("other")
				forms["whole file"] = at("whole.safetensors")
				require.NoError(t, weights.WriteSingle(forms["whole file"], other, weights.WriteOptions{}))
			}
			for name, path := range forms {
				for _, model := range []string{at("base"), single} {
					got, plan := latentsOf(t, model, sd.Options{UNet: path}, "")
					assert.InDeltaSlice(t, want, got, 1e-4, "%s beside %s", name, model)
					assert.Equal(t, decided.Timesteps, plan.Timesteps, "%s beside %s", name, model)
					files, err := weights.Open(model, sd.Options{UNet: path}.Files())
					require.NoError(t, err)
					told := strings.Join(files.Notices, "\n")
					assert.Equal(t, c.distilled, strings.Contains(told, "latent consistency model"), told)
					assert.Equal(t, name == "no config", strings.Contains(told, "fp16"), told)
					assert.NotEqual(t, weights.Unknown, files.Kind)
					require.Len(t, files.UNet.Files, 1)
					require.NoError(t, files.Close())
				}
			}
			// What is not there need not be: the base without its U-Net, which is the larger part of a download.
			require.NoError(t, os.RemoveAll(at("base/unet")))
			got, _ := latentsOf(t, at("base"), sd.Options{UNet: at("other/unet")}, "")
			assert.InDeltaSlice(t, want, got, 1e-4)
		})
	}
}

// Text encoders, whatever else their files have.
func TestTextEncodersFromElsewhere(t *testing.T) {
	for _, kind := range []string{"sd15", "sdxl"} {
		dir := t.TempDir()
		at := func(name string) string { return filepath.Join(dir, name) }
		base := tinyParts(t, kind, false)
		require.NoError(t, weights.WriteFolder(at("base"), base, weights.WriteOptions{}))
		other := tinyParts(t, kind, false)
		other.Text.Source = scaled{other.Text.Source, 0.8}
		require.NoError(t, weights.WriteFolder(at("other"), other, weights.WriteOptions{}))
		want, _ := latentsOf(t, at("other"), sd.Options{}, "")
		zeros := func(name string, shape ...int) safetensors.Source {
			n := 4
			for _, d := range shape {
				n *= d
			}
			return safetensors.Source{Name: name, DType: safetensors.F32, Shape: shape, Data: safetensors.Bytes(make([]byte, n))}
		}
		for name, path := range map[string]string{
			"folder": at("other/text_encoder"), "whole": at("other"),
			"file":           writeTensors(t, at("te.safetensors"), other.Text, asIs),
			"transformers 5": writeTensors(t, at("te5.safetensors"), other.Text, func(name string) string { return strings.TrimPrefix(name, "text_model.") }),
			"with an image encoder": writeTensors(t, at("clip.safetensors"), other.Text, asIs, zeros("text_projection.weight", 8, 16),
				zeros("vision_model.embeddings.class_embedding", 8), zeros("visual_projection.weight", 8, 8), zeros("logit_scale")),
		} {
			got, _ := latentsOf(t, at("base"), sd.Options{TextEncoder: path}, "")
			assert.InDeltaSlice(t, want, got, 1e-4, "%s: %s", kind, name)
		}
		if kind == "sd15" {
			continue
		}
		second := tinyParts(t, kind, false)
		second.Text2.Source = scaled{second.Text2.Source, 0.7}
		require.NoError(t, weights.WriteFolder(at("second"), second, weights.WriteOptions{}))
		want, _ = latentsOf(t, at("second"), sd.Options{}, "")
		for name, path := range map[string]string{
			"folder": at("second/text_encoder_2"), "whole": at("second"), "file": writeTensors(t, at("te2.safetensors"), second.Text2, asIs),
		} {
			got, _ := latentsOf(t, at("base"), sd.Options{TextEncoder2: path}, "")
			assert.InDeltaSlice(t, want, got, 1e-4, "second: %s", name)
		}
	}
}

// What does not belong together is one error, with numbers.
func TestPartsThatDoNotFit(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, kind := range []string{"sd15", "sdxl"} {
		require.NoError(t, tinysd.Write(at(kind), kind))
	}
	for _, c := range []struct {
		model string
		o     sd.Options
		want  []string
	}{
		{"sdxl", sd.Options{UNet: at("sd15/unet")}, []string{"unet", "16", "32", "incompatible"}},
		{"sd15", sd.Options{UNet: at("sdxl/unet")}, []string{"unet", "16", "32", "incompatible"}},
		{"sd15", sd.Options{TextEncoder2: at("sdxl/text_encoder_2")}, []string{"16", "32", "incompatible"}},
		{"sd15", sd.Options{UNet: at("sd15/vae")}, []string{"unet", "AutoencoderKL", "UNet2DConditionModel"}},
		{"sd15", sd.Options{TextEncoder: at("sd15/unet")}, []string{"text_encoder", "UNet2DConditionModel"}},
		{"sd15", sd.Options{VAE: at("sd15/text_encoder")}, []string{"vae", "CLIPTextModel"}},
		{"sd15", sd.Options{UNet: "testdata/lora/full-kohya.safetensors"}, []string{"unet", "LoRA"}},
		{"sd15", sd.Options{UNet: "testdata/embeddings/kohya.safetensors"}, []string{"unet", "embedding"}},
		{"sd15", sd.Options{UNet: at("missing")}, []string{"unet", "missing"}},
		{"sd15", sd.Options{TextEncoder2: at("sd15")}, []string{"text_encoder_2", "sd15"}},
		{"sd15", sd.Options{VAE: dir}, []string{"vae", "weights"}},
	} {
		_, err := sd.Open(at(c.model), c.o)
		require.Error(t, err)
		for _, w := range c.want {
			assert.ErrorContains(t, err, w)
		}
		assert.NotContains(t, err.Error(), "\n", "one line")
	}
	_, err := weights.Open(at("sd15"), weights.Options{Parts: weights.Parts{UNet: at("missing")}})
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// What a U-Net's file says of its predictions counts, and what the options say counts more.
func TestUNetSaysPrediction(t *testing.T) {
	dir := t.TempDir()
	base, other := tinyParts(t, "sdxl", false), tinyParts(t, "sdxl", false)
	require.NoError(t, weights.WriteFolder(filepath.Join(dir, "base"), base, weights.WriteOptions{}))
	empty := func(name string) safetensors.Source {
		return safetensors.Source{Name: name, DType: safetensors.F32, Shape: []int{0}, Data: safetensors.Bytes(nil)}
	}
	said := writeTensors(t, filepath.Join(dir, "v.safetensors"), other.UNet, asIs, empty("v_pred"), empty("ztsnr"))
	silent := writeTensors(t, filepath.Join(dir, "e.safetensors"), other.UNet, asIs)
	for _, c := range []struct {
		file, prediction, want string
		zero                   bool
		notices                int
	}{{said, "", "v_prediction", true, 2}, {said, "sample", "sample", true, 1}, {silent, "", "epsilon", false, 0}, {silent, "sample", "sample", false, 0}, {"", "v_prediction", "v_prediction", false, 0}} {
		m, err := weights.Open(filepath.Join(dir, "base"), weights.Options{Prediction: c.prediction, Parts: weights.Parts{UNet: c.file}})
		require.NoError(t, err)
		got, err := noise.ParseConfig(m.Scheduler)
		require.NoError(t, err)
		assert.Equal(t, c.want, got.Predicts.Diffusers())
		assert.Equal(t, c.zero, got.ZeroSNR)
		assert.Len(t, m.Notices, c.notices)
		require.NoError(t, sd.Check(m))
		require.NoError(t, m.Close())
	}
	_, err := weights.Open(filepath.Join(dir, "base"), weights.Options{Prediction: "noise"})
	require.ErrorContains(t, err, "noise")
	_, err = weights.Open(filepath.Join(dir, "base"), weights.Options{Config: dir})
	require.ErrorContains(t, err, dir)
}

// The estimate of memory counts the part that is used, and not the one whose place it takes.
func TestEstimateCountsPartsFromElsewhere(t *testing.T) {
	dir := t.TempDir()
	base, other := tinyParts(t, "sdxl", false), tinyParts(t, "ssd1b", false) // without a transformer in the middle
	for name, m := range map[string]*weights.Model{"base": base, "other": other} {
		require.NoError(t, weights.WriteFolder(filepath.Join(dir, name), m, weights.WriteOptions{}))
	}
	need := func(o sd.Options) float64 {
		files, err := weights.Open(filepath.Join(dir, "base"), o.Files())
		require.NoError(t, err)
		defer func() { require.NoError(t, files.Close()) }()
		n, err := sd.EstimateNeed(files, o, sd.Drawing{})
		require.NoError(t, err)
		return n.Weights
	}
	count := func(c *weights.Component) (n float64) {
		config, err := unet.ParseConfig(c.Config)
		require.NoError(t, err)
		return float64(nn.Count(unet.Shapes(config)))
	}
	require.InDelta(t, 4*(count(base.UNet)-count(other.UNet)), need(sd.Options{})-need(sd.Options{UNet: filepath.Join(dir, "other", "unet")}), 0)
}
