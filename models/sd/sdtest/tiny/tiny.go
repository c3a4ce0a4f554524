// Package tiny has a small model of Stable Diffusion for tests that draw.
package tiny

import (
	"encoding/json"

	"github.com/onestep-go/onestep/models/sd/clip"
	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/models/sd/sdtest"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/models/sd/weights"
)

// Model is a model of Stable Diffusion 1's form whose networks are tiny and filled by name: its pictures are noise, but they depend on
// text, seed and options as real ones do. It works at 8 pixels for a latent, 64×64 pixels by itself.
func Model() (*weights.Model, error) {
	text := clip.Config{Width: 16, MLPWidth: 32, Depth: 2, Heads: 2}.WithDefaults()
	net := unet.Config{SampleSize: unet.Ints{8}}
	net.BlockOutChannels, net.NormNumGroups, net.LayersPerBlock = unet.Ints{16, 16}, 4, unet.Ints{1}
	net.DownBlockTypes = []string{"CrossAttnDownBlock2D", "DownBlock2D"}
	net.UpBlockTypes = []string{"UpBlock2D", "CrossAttnUpBlock2D"}
	net.AttentionHeadDim, net.CrossAttentionDim = unet.Ints{2}, unet.Ints{16}
	net = net.WithDefaults()
	auto := vae.Config{Channels: []int{8, 8, 8, 8}, Layers: 1, Groups: 2, SampleSize: 64}.WithDefaults()

	m := &weights.Model{Kind: weights.SD15, Scheduler: []byte(`{"_class_name": "LCMScheduler", "beta_start": 0.00085, "beta_end": 0.012,
		"beta_schedule": "scaled_linear", "num_train_timesteps": 1000}`)}
	for _, p := range []struct {
		to     **weights.Component
		config any
		from   sdtest.Filled
	}{{&m.Text, text, sdtest.Filled(clip.Shapes(text))}, {&m.UNet, net, sdtest.Filled(unet.Shapes(net))}, {&m.VAE, auto, sdtest.Filled(vae.Shapes(auto))}} {
		config, err := json.Marshal(p.config)
		if err != nil {
			return nil, err
		}
		*p.to = &weights.Component{Config: config, Source: p.from}
	}
	return m, nil
}

// Write writes it into a folder as diffusers does.
func Write(dir string) error {
	m, err := Model()
	if err != nil {
		return err
	}
	return weights.WriteFolder(dir, m, weights.WriteOptions{Tokenizer: func(dir string, _ bool) error { return prompt.Default().Save(dir) }})
}
