package tests

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/clip"
	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// New models open in diffusers' StableDiffusionPipeline, with a small tokenizer and a small text encoder, and give the same images there, by
// their own scheduler_config.json. One whose autoencoder diffusers does not have is refused there, and not decoded wrongly.
func TestDiffusersReadsNewModels(t *testing.T) {
	python := torchtest.Python(t, "torch", "diffusers", "transformers", "safetensors")
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }

	kl := vae.Config{Channels: []int{8, 8, 8, 8}, Layers: 1, Groups: 2, SampleSize: 64}.WithDefaults()
	k, err := vae.New(kl, torch.CPU, torch.Float32, 3)
	require.NoError(t, err)
	defer k.Close()
	component := func(name string, spec vae.Spec, st *nn.Store) string {
		data, err := spec.MarshalJSON()
		require.NoError(t, err)
		w := &weights.Model{VAE: &weights.Component{Config: data, Source: nn.Stored{Store: st}}}
		require.NoError(t, weights.WriteFolder(at(name), w, weights.WriteOptions{}))
		return at(name)
	}
	autoencoders := map[string]string{"kl": component("kl-vae", vae.Spec{KL: &kl}, k.Store())}
	for name, c := range map[string]vae.TinyConfig{"taesd": vae.TAESD(), "taef2": vae.TAEF2()} {
		a, err := vae.NewTiny(c, torch.CPU, torch.Float32, 3)
		require.NoError(t, err)
		defer a.Close()
		autoencoders[name] = component(name+"-vae", vae.Spec{Tiny: &c}, a.Store())
	}

	tokens, err := prompt.Default().First(486, "a red cat")
	require.NoError(t, err)
	tokens, err = tokens.WithMax(16)
	require.NoError(t, err)
	net := unet.Config{SampleSize: unet.Ints{8}}
	net.BlockOutChannels, net.NormNumGroups, net.LayersPerBlock, net.AttentionHeadDim = unet.Ints{16, 32}, 4, unet.Ints{1}, unet.Ints{2}
	net.DownBlockTypes, net.UpBlockTypes = []string{"CrossAttnDownBlock2D", "DownBlock2D"}, []string{"UpBlock2D", "CrossAttnUpBlock2D"}

	args := []string{"-c", `
import os, sys
os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import logging
logging.set_verbosity_error()
torch.set_num_threads(1)
for model, out in zip(sys.argv[2::2], sys.argv[3::2]):
    pipe = StableDiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32)
    assert pipe.tokenizer.model_max_length == 16
    pipe.set_progress_bar_config(disable=True)
    pipe("a red cat, flat", num_inference_steps=4, guidance_scale=3.0, generator=torch.Generator().manual_seed(11)).images[0].save(out)
try:
    StableDiffusionPipeline.from_pretrained(sys.argv[1])
except Exception as e:
    assert "onestep" in str(e) or "AutoencoderTinyPool" in str(e), e
else:
    raise SystemExit("the model with TAEF2 was opened")
`, at("taef2-v")}
	onestep := tool(t)
	var names []string
	for auto, path := range autoencoders {
		for name, c := range map[string]sd.NewConfig{"eps": {Predict: noise.Epsilon}, "v": {Predict: noise.Velocity, ZeroSNR: true}} {
			name = auto + "-" + name
			c.UNet, c.Text, c.Tokenizer, c.Autoencoder, c.Seed = net, clip.Config{Width: 16, MLPWidth: 32, Depth: 2, Heads: 2}, tokens, path, 4
			m, err := sd.New(c)
			require.NoError(t, err)
			_, err = m.Write(at(name), weights.WriteOptions{})
			require.NoError(t, err)
			require.NoError(t, m.Close())
			cmd, _, errs := command(onestep, "generate", "--model", at(name), "--sampler", "ddim", "--prompt", "a red cat, flat", "--plain", "--steps", "4",
				"--guidance", "3", "--seed", "11", "--threads", "1", "--out", at(name+".ours.png"))
			require.NoError(t, cmd.Run(), errs)
			if auto != "taef2" {
				names = append(names, name)
				args = append(args, at(name), at(name+".theirs.png"))
			}
		}
	}
	runScript(t, python, dir, args...)
	for _, name := range names {
		same(t, name, at(name+".ours.png"), at(name+".theirs.png"))
	}
}
