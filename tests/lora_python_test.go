package tests

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
)

// Adapters that onestep writes, in three layouts, load in diffusers and peft with no key left over or missing, change the same weights
// by the same amounts, and give the same picture; so do files that those write of them.
func TestDiffusersReadsOurAdapters(t *testing.T) {
	python := torchtest.Python(t, "torch", "diffusers", "transformers", "safetensors", "peft", "PIL")
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	python3 := func(script string, jobs any) {
		t.Helper()
		path, err := filepath.Abs(filepath.Join("testdata", script))
		require.NoError(t, err)
		data, err := json.Marshal(jobs)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(at("jobs.json"), data, 0o666))
		runScript(t, python, dir, path, at("jobs.json"))
	}
	classes := map[string]string{"sd15": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}
	layouts := []lora.Layout{lora.Kohya, lora.PEFT, lora.Diffusers}
	models, adapters := map[string]*sd.Model{}, map[string]*lora.Adapter{}
	var jobs, cases []map[string]any
	for _, kind := range []string{"sd15", "sdxl"} {
		require.NoError(t, tinysd.Write(at(kind), kind))
		m, err := sd.Open(at(kind), sd.Options{})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, m.Close()) })
		// An alpha of its own for each module is what diffusers gets wrong in kohya's layout: one for all here.
		a, err := lora.New(lora.Of(m), lora.Config{Rank: 2, Alpha: 3, Targets: append([]string{"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"}, lora.LCMTargets...)})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, a.Close()) })
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			g := torch.NewGenerator(s, 4)
			return s.NoGrad(func(s *torch.Scope) error {
				for name, p := range a.Parameters() {
					if strings.HasSuffix(name, ".lora_B.weight") {
						p.NormalInPlace(s, 0, 0.05, g)
					}
				}
				return nil
			})
		}))
		models[kind], adapters[kind] = m, a
		for _, l := range layouts {
			name := kind + "-" + l.String()
			file := at(name + ".adapter.safetensors")
			require.NoError(t, a.Write(file, lora.WriteOptions{Layout: l}))
			job := map[string]any{"name": name, "pipeline": classes[kind], "model": at(kind), "adapters": []map[string]any{{"file": file}}}
			if l == lora.PEFT {
				job["export"] = map[string]string{"peft": at(name + ".back.safetensors")}
			}
			jobs = append(jobs, job)
			cases = append(cases, map[string]any{
				"name": name, "pipeline": classes[kind], "model": at(kind), "scheduler": "LCMScheduler", "seeds": []int{5},
				"adapters": []map[string]any{{"file": file, "weight": 0.8}}, "fuse": l == lora.PEFT,
				"args": map[string]any{"prompt": "a red cat", "num_inference_steps": 3, "guidance_scale": 1, "width": 64, "height": 64},
			})
		}
	}
	python3("lora_reads.py", jobs)
	python3("diffusers_cases.py", cases)
	for kind, m := range models {
		a := adapters[kind]
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			want := effect(t, s, m, a.At(1))
			for _, l := range layouts {
				theirs, _ := torchtest.Golden(t, s, at(kind+"-"+l.String()+".safetensors"))
				n := 0
				for name, delta := range theirs {
					path, ok := strings.CutPrefix(name, "0/")
					if strings.HasSuffix(path, "/scale") || !ok {
						continue
					}
					n++
					torchtest.Close(t, name, delta.Reshape(s, want[path].Shape()...), want[path], 2e-6, 0)
				}
				require.Equal(t, len(want), n, l)
			}
			back, err := lora.Load(m, at(kind+"-peft.back.safetensors"), lora.Options{})
			require.NoError(t, err)
			defer back.Close()
			for path, delta := range effect(t, s, m, back.At(1)) {
				torchtest.Close(t, path, delta, want[path], 2e-6, 0)
			}
			require.Len(t, back.Modules, len(a.Modules))
			return nil
		}))
		draw := texttoimage.Pipeline{Model: m, Method: scheduler.LCM{}, Steps: 3, Guidance: 1, Seed: 5, Width: 64, Height: 64, Plain: true, Adapters: a.At(0.8)}
		for p, err := range draw.Images(context.Background(), "a red cat") {
			require.NoError(t, err)
			ours := at(kind + ".ours.png")
			require.NoError(t, vision.Write(ours, p, vision.WriteOptions{}))
			for _, l := range layouts {
				same(t, fmt.Sprint(kind, " ", l), ours, at(fmt.Sprintf("%s-%s.0.png", kind, l)))
			}
		}
	}
}

// A folder with an adapter baked in draws in diffusers what the tool draws with the adapter at run time.
func TestDiffusersReadsMergedModels(t *testing.T) {
	python := torchtest.Python(t, "torch", "diffusers", "transformers", "safetensors")
	script, err := filepath.Abs("testdata/diffusers_draw.py")
	require.NoError(t, err)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	onestep := tool(t)
	run := func(args ...string) {
		t.Helper()
		cmd, _, errs := command(onestep, args...)
		require.NoError(t, cmd.Run(), errs)
	}
	model, adapter := filepath.Join(sdFolder, "sd15"), filepath.Join(loraFolder, "both-kohya.safetensors")
	run("lora", "merge", "--model", model, "--lora", adapter+"=0.7", "--dtype", "f32", "--out", at("merged"))
	run("lora", "merge", "--model", model, "--lora", adapter+"=0.7", "--dtype", "f32", "--out", at("merged.safetensors"))
	run("lora", "merge", "--model", model, "--lora", adapter+"=0.7,unet:0", "--dtype", "f32", "--out", at("text"))
	args := []string{script, at("merged")}
	names := []string{"merged", "merged.safetensors", "text"}
	for i, name := range names {
		weight := []string{"=0.7", "=0.7", "=0.7,unet:0"}[i]
		run("generate", "--model", model, "--lora", adapter+weight, "--sampler", "lcm", "--prompt", "a red cat", "--plain", "--steps", "3", "--seed", "11", "--threads", "1",
			"--out", at(name+".ours.png"))
		args = append(args, at(name), at(name+".theirs.png"))
	}
	runScript(t, python, dir, args...)
	for _, name := range slices.Compact(names) {
		same(t, name, at(name+".ours.png"), at(name+".theirs.png"))
	}
}
