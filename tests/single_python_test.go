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

	"github.com/onestep-go/onestep/models/sd"
	tinysd "github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/sampling/texttoimage"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
	"github.com/onestep-go/onestep/torch/vision"
)

// theirSchedulers are diffusers' classes of our samplers, with what they are configured with; "" is the model's own. dpmpp_sde draws other
// noise there, by torchsde, and dpmpp_2s_a does not exist there.
var theirSchedulers = map[string]struct {
	class  string
	config map[string]any
}{
	"":                  {},
	"ddim":              {class: "DDIMScheduler"},
	"ddpm":              {class: "DDPMScheduler"},
	"deis":              {class: "DEISMultistepScheduler"},
	"dpm2":              {class: "KDPM2DiscreteScheduler"},
	"dpm2_a":            {class: "KDPM2AncestralDiscreteScheduler"},
	"dpmpp_2m":          {class: "DPMSolverMultistepScheduler"},
	"dpmpp_2m_sde":      {"DPMSolverMultistepScheduler", map[string]any{"algorithm_type": "sde-dpmsolver++"}},
	"dpmpp_3m_sde":      {"DPMSolverMultistepScheduler", map[string]any{"algorithm_type": "sde-dpmsolver++", "solver_order": 3}},
	"dpmpp_3m":          {"DPMSolverMultistepScheduler", map[string]any{"solver_order": 3}},
	"dpmpp_2m_sde_heun": {"DPMSolverMultistepScheduler", map[string]any{"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"}},
	"dpmpp_2s_a":        {},
	"dpmpp_sde":         {},
	"euler":             {class: "EulerDiscreteScheduler"},
	"euler_a":           {class: "EulerAncestralDiscreteScheduler"},
	"heun":              {class: "HeunDiscreteScheduler"},
	"lcm":               {class: "LCMScheduler"},
	"lms":               {class: "LMSDiscreteScheduler"},
	"pndm":              {class: "PNDMScheduler"},
	"tcd":               {"TCDScheduler", nil},
	"unipc":             {class: "UniPCMultistepScheduler"},
	"unipc_bh1":         {}, // diffusers' ends in NaN
}

// A single file that says nothing of its scheduler draws with every sampler what diffusers' from_single_file draws with it and the folder
// of the published configurations.
func TestBareSingleFileDrawsAsDiffusers(t *testing.T) {
	if testing.Short() {
		t.Skip("loads over a hundred pipelines in Python: a minute")
	}
	python := torchtest.Python(t, "torch", "diffusers", "transformers", "safetensors", "PIL", "scipy")
	script, err := filepath.Abs("testdata/diffusers_cases.py")
	require.NoError(t, err)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	c := sdCase{}
	start, mask := c.picture(t, "init64.png"), c.picture(t, "mask64.png")
	require.NoError(t, vision.Write(at("start.png"), start, vision.WriteOptions{}))
	require.NoError(t, vision.Write(at("mask.png"), mask, vision.WriteOptions{}))

	type drawing struct {
		pair
		file, method string
	}
	var all []drawing
	var cases []map[string]any
	for kind, published := range publishedSchedulers(t) {
		name, pipeline, whole := kind, "StableDiffusionPipeline", []string(nil)
		switch kind {
		case "sd2-base":
			name = "sd2"
		case "sd15-inpaint":
			name, pipeline = "inpaint", "StableDiffusionInpaintPipeline"
		case "lcm":
			name, whole = "lcm15", []string{"unet"} // diffusers leaves time_embedding.cond_proj out of single files
		case "sdxl", "ssd1b":
			pipeline = "StableDiffusionXLPipeline"
			whole = []string{"text_encoder_2"} // of which diffusers tells the two by widths that the small ones have in common
		}
		require.NoError(t, tinysd.Write(at(kind), name))
		data, err := json.Marshal(published)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(at(kind), "scheduler", "scheduler_config.json"), data, 0o666))
		index := filepath.Join(at(kind), "model_index.json")
		data, err = os.ReadFile(index)
		require.NoError(t, err)
		var parts map[string]any
		require.NoError(t, json.Unmarshal(data, &parts))
		parts["scheduler"] = []any{"diffusers", published["_class_name"]}
		data, err = json.Marshal(parts)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(index, data, 0o666))
		file := bare(t, at(kind))
		for _, method := range append(scheduler.Names(), "") {
			theirs, ok := theirSchedulers[method]
			require.True(t, ok, "no scheduler of diffusers for %q", method)
			if method != "" && theirs.class == "" {
				continue
			}
			d := drawing{file: file, method: method, pair: pair{
				Name: fmt.Sprintf("%s.%s", kind, method), Pipeline: pipeline, Model: at(kind), Scheduler: theirs.class, Config: theirs.config, kind: kind,
				Args: map[string]any{"prompt": "a red cat", "num_inference_steps": 4, "guidance_scale": 2.0, "width": 64, "height": 64}, Seeds: []uint64{3},
				ours: texttoimage.Pipeline{Steps: 4, Guidance: 2, Width: 64, Height: 64, Seed: 3, Plain: true},
			}}
			if kind == "lcm" && theirs.class != "" { // this pipeline puts its own 1 in the configuration's place
				d.Config = map[string]any{"steps_offset": published["steps_offset"]}
				maps.Copy(d.Config, theirs.config)
			}
			if method == "tcd" {
				eta := 0.3
				d.Eta = &eta
			}
			if kind == "sd15-inpaint" {
				d.Args["image"], d.Args["mask_image"], d.Args["strength"] = at("start.png"), at("mask.png"), 1.0
				d.ours.Init, d.ours.Mask, d.ours.Strength = start, mask, 1
			}
			all = append(all, d)
			data, err := json.Marshal(d.pair)
			require.NoError(t, err)
			var one map[string]any
			require.NoError(t, json.Unmarshal(data, &one))
			one["single"], one["parts"], one["latents"] = file, whole, true
			cases = append(cases, one)
		}
	}
	data, err := json.Marshal(cases)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(at("cases.json"), data, 0o644))
	runScript(t, python, ".", script, at("cases.json"))

	for _, d := range all {
		t.Run(d.Name, func(t *testing.T) {
			o := sd.Options{Config: at(d.kind + ".rest")} // for the tokenizer
			require.NoError(t, os.RemoveAll(o.Config))
			require.NoError(t, os.CopyFS(o.Config, os.DirFS(d.Model)))
			require.NoError(t, os.RemoveAll(filepath.Join(o.Config, "scheduler")))
			if d.kind == "sd2-base" {
				o.Prediction = "epsilon" // which the file cannot say
			}
			m, err := sd.Open(d.file, o)
			require.NoError(t, err)
			defer func() { require.NoError(t, m.Close()) }()
			seen := &decoded{Autoencoder: m.VAE}
			m.VAE = seen
			draw := d.ours
			draw.Model = m
			if d.method != "" {
				draw.Method, err = scheduler.Named(d.method)
				require.NoError(t, err)
			}
			for _, err := range draw.Images(t.Context(), "a red cat") {
				require.NoError(t, err)
			}
			require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
				golden, _ := torchtest.Golden(t, s, at(d.Name+".latents.safetensors"))
				want := golden["latents"]
				size := want.Abs(s).Max(s).Item()
				off := torch.FromSlice(s, seen.latents, want.Shape()...).Sub(s, want).Abs(s).Max(s).Item()
				assert.LessOrEqual(t, off, 1e-5*size) // both in float32: 2.4e-6 at most was seen
				return nil
			}))
		})
	}
}
