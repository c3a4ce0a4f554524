package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/torch"
)

// pixelFolder writes a directory of diffusers with a tiny U-Net and that scheduler_config.json; "" writes the network alone.
func pixelFolder(t *testing.T, scheduler string) string {
	t.Helper()
	c := unet.Config{Resolution: 8, Channels: 8, Mult: []int{1, 1}, Blocks: 1, Resample: unet.ResampleConv, NormGroups: 4}
	config, err := c.Diffusers()
	require.NoError(t, err)
	net, err := network.New(network.Config{Net: c}, torch.CPU, torch.Float32, 5)
	require.NoError(t, err)
	defer net.Close()
	dir := filepath.Join(t.TempDir(), "model")
	at := filepath.Join(dir, "unet")
	if scheduler == "" {
		at = dir
	}
	write := func(path, text string) {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o777))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o666))
	}
	write(filepath.Join(at, "config.json"), string(config))
	if scheduler != "" {
		write(filepath.Join(dir, "scheduler", "scheduler_config.json"), scheduler)
	}
	require.NoError(t, torch.SaveSafetensors(filepath.Join(at, "diffusion_pytorch_model.safetensors"), net.Tensors(), torch.SaveOptions{}))
	return dir
}

const (
	cmScheduler   = `{"_class_name": "CMStochasticIterativeScheduler", "num_train_timesteps": 40}`
	ddpmScheduler = `{"_class_name": "DDPMScheduler", "num_train_timesteps": 1000, "clip_sample": true}`
)

// Directories of diffusers in pixel space are models of every command.
func TestDiffusersFolders(t *testing.T) {
	cm, ddpm, lone := pixelFolder(t, cmScheduler), pixelFolder(t, ddpmScheduler), pixelFolder(t, "")
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	done := func(args ...string) (string, string) {
		t.Helper()
		code, out, errs := try(args...)
		require.Zero(t, code, "%v: %s", args, errs)
		return out, errs
	}
	done("sample", "--model", cm, "--timesteps", "22,0", "--n", "2", "--threads", "1", "--out", at("cm.png"))
	_, errs := done("sample", "--model", ddpm, "--steps", "2", "--threads", "1", "--out", at("ddpm.png"))
	require.Contains(t, errs, "ddpm_leading")
	done("sample", "--model", ddpm, "--sampler", "ddim_trailing", "--steps", "3", "--threads", "1", "--out", at("ddim.png"))
	_, errs = done("sample", "--model", lone, "--steps", "2", "--threads", "1", "--out", at("lone.png"))
	require.Contains(t, errs, "assuming a denoiser of DDPM's chain")
	out, _ := done("info", at("ddim.png"))
	require.Contains(t, out, "ddim_trailing")

	out, _ = done("info", cm)
	require.Contains(t, out, "consistency model")
	require.Contains(t, out, "CMStochasticIterativeScheduler")
	out, _ = done("info", lone, "--all")
	require.Contains(t, out, "note: ")
	require.Contains(t, out, "down_blocks.0.resnets.0.conv1.weight")

	done("inspect", "--model", ddpm, "--n", "1", "--steps", "4", "--columns", "3", "--threads", "1", "--out", at("inspect.png"))

	// Converted to a model file and to directories, it generates the same image.
	same := func(model, name string, args ...string) {
		t.Helper()
		done(append([]string{"sample", "--model", model, "--seed", "3", "--threads", "1", "--out", at(name)}, args...)...)
		done(append([]string{"sample", "--model", cm, "--seed", "3", "--threads", "1", "--out", at("want.png"), "--overwrite"}, args...)...)
		require.Equal(t, pixelsOf(t, at("want.png")), pixelsOf(t, at(name)))
	}
	done("convert", "--model", cm, "--out", at("cm.safetensors"))
	same(at("cm.safetensors"), "own.png", "--timesteps", "22,0")
	done("convert", "--model", at("cm.safetensors"), "--out", at("back"))
	same(at("back"), "back.png", "--timesteps", "33,0")
	scheduler, err := os.ReadFile(at("back/scheduler/scheduler_config.json"))
	require.NoError(t, err)
	require.Contains(t, string(scheduler), `"num_train_timesteps":40`)
	index, err := os.ReadFile(at("back/model_index.json"))
	require.NoError(t, err)
	require.Contains(t, string(index), "ConsistencyModelPipeline")

	// What does not fit is an error that says what to do.
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"sample", "--model", ddpm, "--timesteps", "3,1", "--out", at("x.png")}, "--timesteps: "},
		{[]string{"sample", "--model", cm, "--steps", "41", "--out", at("x.png")}, "--steps: want 1 to 40 steps"},
		{[]string{"sample", "--model", filepath.Join(cm, "unet", "diffusion_pytorch_model.safetensors"), "--out", at("x.png")}, "use the directory"},
		{[]string{"generate", "--model", cm, "--prompt", "x", "--out", at("x.png")}, "onestep sample --model"},
		{[]string{"convert", "--model", cm, "--out", at("back")}, "exists"},
		{[]string{"convert", "--model", cm, "--layout", "edm", "--out", at("x")}, "--layout"},
		{[]string{"train", "--method", "cd", "--teacher", cm, "--data", "emoji", "--resolution", "8", "--steps", "1", "--out", at("run")}, "denoiser"},
	} {
		code, _, errs := try(c.args...)
		require.NotZero(t, code, c.args)
		require.Contains(t, errs, c.want, c.args)
		require.NotContains(t, errs, "goroutine", c.args)
	}
	_, sd := tinyModel(t)
	for _, args := range [][]string{
		{"sample", "--model", sd, "--out", at("x.png")}, {"inspect", "--model", sd, "--out", at("x.png")},
		{"train", "--method", "cd", "--teacher", sd, "--data", "emoji", "--steps", "1", "--out", at("run")},
	} {
		code, _, errs := try(args...)
		require.NotZero(t, code, args)
		require.Contains(t, errs, "onestep generate --model", args)
	}
}

// They are teachers and starting points of training, and a run that is resumed checks that their files are the same.
func TestTrainFromFolders(t *testing.T) {
	cm, ddpm := pixelFolder(t, cmScheduler), pixelFolder(t, ddpmScheduler)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	common := strings.Fields("--data emoji --resolution 8 --batch 2 --threads 1")
	for name, args := range map[string][]string{
		"cd":   {"--method", "cd", "--teacher", ddpm},
		"ct":   {"--method", "ct", "--init", cm},
		"ddpm": {"--method", "ddpm", "--init", ddpm},
	} {
		args = append(append([]string{"train", "--steps", "2", "--out", at(name)}, args...), common...)
		code, _, errs := try(args...)
		require.Zero(t, code, errs)
		code, _, errs = try("sample", "--model", at(name), "--steps", "2", "--n", "2", "--out", at(name+".png"))
		require.Zero(t, code, errs)
		if name != "cd" {
			continue
		}
		more := strings.Fields("train --resume --extend --steps 3 --method cd --teacher " + ddpm + " --out " + at("cd"))
		code, _, errs = try(append(more, common...)...)
		require.Zero(t, code, errs)
	}
	// The chain that it was trained on is DDPM's again in diffusers.
	code, _, errs := try("convert", "--model", at("ddpm"), "--out", at("folder"))
	require.Zero(t, code, errs)
	index, err := os.ReadFile(at("folder/model_index.json"))
	require.NoError(t, err)
	require.Contains(t, string(index), "DDPMPipeline")
}

// A directory of diffusers in pixel space with a damaged file is not taken for a model of prompts, nor is a directory of neither.
func TestDamagedDiffusersFolders(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out.png")
	for what, v := range map[string]struct {
		index, want string
		spoil       func(t *testing.T, unet string)
	}{
		"truncated weights": {`{"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}`, "truncated", func(t *testing.T, unet string) {
			require.NoError(t, os.Truncate(filepath.Join(unet, "diffusion_pytorch_model.safetensors"), 9000))
		}},
		"another class": {`{"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}`, `its _class_name is "", expected UNet2DModel`, func(t *testing.T, unet string) {
			require.NoError(t, os.WriteFile(filepath.Join(unet, "config.json"), []byte("null"), 0o666))
		}},
		"another family": {`{"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]}`, "names no UNet2DModel as unet; wanted a model file", nil},
	} {
		t.Run(what, func(t *testing.T) {
			dir := pixelFolder(t, ddpmScheduler)
			require.NoError(t, os.WriteFile(filepath.Join(dir, "model_index.json"), []byte(v.index), 0o666))
			if v.spoil != nil {
				v.spoil(t, filepath.Join(dir, "unet"))
			}
			for _, args := range [][]string{{"sample"}, {"inspect"}} {
				code, _, errs := try(append(args, "--model", dir, "--out", out)...)
				require.NotZero(t, code)
				require.Contains(t, errs, v.want)
				require.NotContains(t, errs, "Stable Diffusion")
				require.Equal(t, 1, strings.Count(errs, "\n"), errs)
			}
		})
	}
}
