package tests

import (
	"encoding/json"
	"fmt"
	"image"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/models/sd"
	tinysd "github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/sampling/texttoimage"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
	"github.com/onestep-go/onestep/torch/vision"
	"github.com/onestep-go/onestep/training/finetune"
)

// An LCM-LoRA that is trained here loads in diffusers with no key left over, and gives the same image, to one level of rounding.
func TestDiffusersReadsTrainedAdapters(t *testing.T) {
	python := torchtest.Python(t, "torch", "diffusers", "transformers", "safetensors", "peft", "PIL")
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, tinysd.Write(at("sd15"), "sd15"))
	require.NoError(t, vision.Write(at("a.png"), image.NewNRGBA(image.Rect(0, 0, 64, 64)), vision.WriteOptions{}))
	m, err := sd.Open(at("sd15"), sd.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, m.Close()) }()
	for _, layout := range []string{"kohya", "peft", "diffusers"} {
		r, err := finetune.LCM{LoRA: true, Adapter: finetune.Adapter{Rank: 4, Layout: layout}, Run: finetune.Run{
			Model: at("sd15"), Data: dir, Steps: 5, Batch: 1, LR: 0.01, Cache: "none", Uncaptioned: true, Out: t.TempDir(), Adapters: lora.Adapters{},
		}}.Train(t.Context())
		require.NoError(t, err)
		a, err := lora.Load(m, r.Snapshot, lora.Options{})
		require.NoError(t, err)
		lcm, err := scheduler.Named("lcm")
		require.NoError(t, err)
		for img, err := range (texttoimage.Pipeline{Model: m, Method: lcm, Steps: 4, Guidance: 1, Seed: 1, Adapters: a.At(1)}).Images(t.Context(), "a cat") {
			require.NoError(t, err)
			require.NoError(t, vision.Write(at("ours.png"), img, vision.WriteOptions{Overwrite: true}))
		}
		require.NoError(t, a.Close())
		out := runScript(t, python, ".", "testdata/finetune_reads.py", at("sd15"), r.Snapshot, at("ours.png"))
		var got struct{ Modules, Tensors, Levels int }
		require.NoError(t, json.Unmarshal(out, &got), string(out))
		require.Equal(t, 78, got.Modules)
		require.Equal(t, map[string]int{"kohya": 3 * 78}[layout]+map[bool]int{true: 2 * 78}[layout != "kohya"], got.Tensors)
		require.LessOrEqual(t, got.Levels, 1, layout)
	}
}

// A full latent consistency model that train-lcm writes opens in diffusers, by its own class and as an ordinary pipeline whose network has a
// guidance embedding, and gives the same image as generate.
func TestDiffusersReadsTrainedModels(t *testing.T) {
	python := torchtest.Python(t, "torch", "diffusers", "transformers", "safetensors", "PIL")
	script, err := filepath.Abs("testdata/diffusers_cases.py")
	require.NoError(t, err)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	captionedImages(t, at("photos"), "a cat", "a dog", "a red cat")
	onestep := tool(t)
	run := func(args ...string) {
		t.Helper()
		cmd, _, errs := command(onestep, append(args, "--threads", "1")...)
		require.NoError(t, cmd.Run(), errs)
	}
	var cases []map[string]any
	ours := map[string]string{} // our image, by the name of the case
	for kind, c := range map[string]struct {
		classes []string
		dtype   string
	}{
		"sd15": {[]string{"LatentConsistencyModelPipeline", "DiffusionPipeline", "StableDiffusionPipeline"}, "f16"},
		"sd2":  {[]string{"StableDiffusionPipeline", "DiffusionPipeline"}, "f32"}, // predicts v
		"sdxl": {[]string{"StableDiffusionXLPipeline", "DiffusionPipeline"}, "f16"},
	} {
		require.NoError(t, tinysd.Write(at(kind), kind))
		run("train-lcm", "--model", at(kind), "--data", at("photos"), "--out", at(kind+".run"), "--steps", "4", "--batch", "2", "--lr", "0.001", "--cache", "none",
			"--guidance-size", "32", "--save-dtype", c.dtype)
		model := filepath.Join(at(kind+".run"), "model-0000004")
		for _, guidance := range []float64{1.5, 8.5} {
			image := at(fmt.Sprint(kind, ".", guidance, ".png"))
			run("generate", "--model", model, "--steps", "4", "--guidance", fmt.Sprint(guidance), "--prompt", "a red cat", "--plain", "--seed", "5", "--out", image)
			for _, class := range c.classes {
				name := fmt.Sprint(kind, "-", class, "-", guidance)
				ours[name] = image
				cases = append(cases, map[string]any{
					"name": name, "pipeline": class, "model": model, "scheduler": "", "seeds": []int{5},
					"args": map[string]any{"prompt": "a red cat", "num_inference_steps": 4, "guidance_scale": guidance, "width": 64, "height": 64},
				})
			}
		}
		require.Less(t, psnr(readPNG(t, at(kind+".1.5.png")), readPNG(t, at(kind+".8.5.png"))), 40., "the guidance is an input of the network")
	}
	data, err := json.Marshal(cases)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(at("cases.json"), data, 0o666))
	runScript(t, python, ".", script, at("cases.json"))
	for name, image := range ours {
		same(t, name, image, at(name+".0.png"))
	}
}

// The files that diffusers' training script of LCM-LoRA leaves load with no key left over, change the weights as in peft, and give the same
// image. One of them has no alpha, which is the rank then.
func TestAdaptersOfDiffusersScript(t *testing.T) {
	python := torchtest.Python(t, "torch", "diffusers", "transformers", "safetensors", "peft", "PIL")
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, tinysd.Write(at("sd15"), "sd15"))
	runScript(t, python, ".", "testdata/finetune_writes.py", at("sd15"), dir)
	m, err := sd.Open(at("sd15"), sd.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, m.Close()) }()
	for file, c := range map[string]struct{ alpha, share float64 }{
		"kohya.safetensors": {4, 1}, "folder": {4, 1}, "pytorch_lora_weights.safetensors": {2, 0.5},
	} {
		a, err := lora.Load(m, at(file), lora.Options{})
		require.NoError(t, err, file)
		require.Empty(t, a.Unmatched, file)
		require.Empty(t, a.Notices(), file)
		require.Len(t, a.Modules, 78, file)
		for _, module := range a.Modules {
			require.Equal(t, 2, module.Rank, file)
			require.InDelta(t, c.alpha, module.Alpha, 0, file)
		}
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			want, _ := torchtest.Golden(t, s, at("deltas.safetensors"))
			got := effect(t, s, m, a.At(1))
			require.Len(t, want, 78)
			require.Len(t, got, 78, file)
			for path, delta := range want {
				w := delta.MulScalar(s, c.share)
				torchtest.Close(t, path, got["unet."+path], w, 2e-6*w.Abs(s).Max(s).Item(), 0) // as in TestLoRAFiles
			}
			return nil
		}))
		draw := texttoimage.Pipeline{Model: m, Method: scheduler.LCM{}, Steps: 4, Guidance: 1, Seed: 1, Plain: true, Adapters: a.At(1 / c.share)}
		for img, err := range draw.Images(t.Context(), "a red cat") {
			require.NoError(t, err)
			require.NoError(t, vision.Write(at("ours.png"), img, vision.WriteOptions{Overwrite: true}))
		}
		same(t, file, at("ours.png"), at("image.png"))
		require.NoError(t, a.Close())
	}
}
