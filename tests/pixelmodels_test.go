package tests

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/models/unet2d"
	"github.com/onestep-go/onestep/sampling/generate"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
	"github.com/onestep-go/onestep/torch/vision"
)

// pixelModels opens directories in diffusers: the network's output for the inputs in in.safetensors, and the pipeline's images.
const pixelModels = `
import sys
import torch
from diffusers import ConsistencyModelPipeline, DDPMPipeline, DiffusionPipeline
from safetensors.torch import load_file, save_file
torch.set_num_threads(1)
for dir in sys.argv[1:]:
    pipe = DiffusionPipeline.from_pretrained(dir, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    given = load_file(dir + ".in.safetensors")
    with torch.no_grad():
        out = {"y": pipe.unet(given["x"], given["t"], given.get("class")).sample}
    generators = [torch.Generator().manual_seed(s) for s in (5, 6)]
    if isinstance(pipe, ConsistencyModelPipeline):
        out["images"] = pipe(batch_size=2, class_labels=[2, 0], timesteps=[22, 0], generator=generators, output_type="pt").images
    elif isinstance(pipe, DDPMPipeline):
        out["images"] = torch.as_tensor(pipe(batch_size=2, num_inference_steps=6, generator=generators, output_type="pt").images)
    save_file({k: v.contiguous() for k, v in out.items()}, dir + ".out.safetensors")
`

// The directories that we write open in diffusers: networks and pipelines compute the same there.
func TestDiffusersReadsPixelModels(t *testing.T) {
	python := torchtest.Python(t, "torch", "diffusers", "safetensors")
	adm := unet.ADM(8, 3, 32, []int{1, 2}, 1, 4)
	adm.Classes, adm.HeadDim, adm.NormGroups = 3, 16, 8
	plain := unet.Config{Resolution: 8, Channels: 8, Mult: []int{1, 2}, Blocks: 1, Attention: []int{4}, Resample: unet.ResampleConv, NormGroups: 4, EndpointFreqs: true}
	song := unet2d.Config{Height: 8, Channels: []int{32, 32}, Down: []unet2d.Block{unet2d.SkipDownBlock, unet2d.AttnSkipDownBlock},
		Up: []unet2d.Block{unet2d.AttnSkipUpBlock, unet2d.SkipUpBlock}, Layers: 1, Embedding: unet.Fourier}
	var dirs []string
	for _, c := range []struct {
		name string
		net  network.Spec
		of   func(net models.Network) any
	}{
		{"consistency", adm, func(net models.Network) any { return &models.Consistency{Net: net, Noise: models.ScaledLog} }},
		{"ddpm", plain, func(net models.Network) any { return &models.DDPM{Net: net} }},
		{"ve", song, func(net models.Network) any { return &models.VE{Net: net} }},
	} {
		dir := filepath.Join(t.TempDir(), c.name)
		dirs = append(dirs, dir)
		net, err := network.New(network.Config{Net: c.net}, torch.CPU, torch.Float32, 3)
		require.NoError(t, err)
		defer net.Close()
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			g := torch.NewGenerator(s, 1)
			return s.NoGrad(func(s *torch.Scope) error {
				for _, p := range net.Parameters() {
					p.AddInPlace(s, torch.Randn(s, g, torch.Float32, p.Shape()...).MulScalar(s, 0.1))
				}
				given := map[string]*torch.Tensor{"x": torch.Randn(s, g, torch.Float32, 2, 3, 8, 8), "t": torch.FromSlice(s, []float32{3, 250})}
				if c.name == "consistency" {
					given["class"] = torch.FromSlice(s, []int64{2, 0})
				}
				return torch.SaveSafetensors(dir+".in.safetensors", func(yield func(string, *torch.Tensor) bool) {
					for name, v := range given {
						if !yield(name, v) {
							return
						}
					}
				}, torch.SaveOptions{})
			})
		}))
		d, err := checkpoint.Describe(c.of(net))
		require.NoError(t, err)
		notice, err := checkpoint.SaveFolder(dir, d, net.Tensors(), checkpoint.SaveOptions{})
		require.NoError(t, err)
		require.Empty(t, notice)
	}
	script := filepath.Join(t.TempDir(), "pixels.py")
	require.NoError(t, os.WriteFile(script, []byte(pixelModels), 0o644))
	out, err := exec.Command(python, append([]string{script}, dirs...)...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	for _, dir := range dirs {
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			given, _ := torchtest.Golden(t, s, dir+".in.safetensors")
			want, _ := torchtest.Golden(t, s, dir+".out.safetensors")
			f, err := checkpoint.OpenFile(dir, torch.CPU)
			require.NoError(t, err)
			defer f.Close()
			label := given["t"]
			exploding := f.Description.Form.Type == checkpoint.VE
			if exploding {
				label = label.Log(s)
			}
			y := f.Network.Forward(s, given["x"], label, models.Cond{Class: given["class"]})
			if exploding {
				y = y.Div(s, given["t"].Reshape(s, -1, 1, 1, 1))
			}
			torchtest.Close(t, dir, y, want["y"], 2e-4, 2e-5)
			if want["images"] == nil {
				return nil
			}
			r := generate.Request{N: 2, Seed: 5, Timesteps: []int{22, 0}, Labels: []int{2, 0}}
			if f.Description.Kind == checkpoint.Denoiser {
				r = generate.Request{N: 2, Seed: 5, Sampler: "ddpm_leading", Steps: 6}
			}
			m, err := generate.Open(dir, sd.Options{})
			require.NoError(t, err)
			defer m.Close()
			at := 0
			for img, err := range m.Images(context.Background(), r) {
				require.NoError(t, err)
				got, err := vision.FromImages(s, 3, img.Image)
				require.NoError(t, err)
				theirs := want["images"].Narrow(s, 0, at, 1).MulScalar(s, 2).SubScalar(s, 1)
				torchtest.Close(t, "image", got, theirs, 1.01/127.5, 0) // in steps of 8 bits
				at++
			}
			require.Equal(t, 2, at)
			return nil
		}))
	}
}
