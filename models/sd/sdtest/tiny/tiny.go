// Package tiny has tiny Stable Diffusion models for tests that generate images.
package tiny

import (
	"encoding/json"
	"fmt"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd/clip"
	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/models/sd/sdtest"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/models/sd/weights"
)

// Kinds are the kinds of model that Model makes.
var Kinds = []string{"sd15", "lcm15", "inpaint", "sd2", "sdxl", "ssd1b"}

// network is the U-Net of a kind.
func network(kind string) (unet.Config, error) {
	c := unet.Config{SampleSize: unet.Ints{8}}
	c.BlockOutChannels, c.NormNumGroups, c.LayersPerBlock = unet.Ints{16, 16}, 4, unet.Ints{1}
	c.DownBlockTypes = []string{"CrossAttnDownBlock2D", "DownBlock2D"}
	c.UpBlockTypes = []string{"UpBlock2D", "CrossAttnUpBlock2D"}
	c.AttentionHeadDim, c.CrossAttentionDim = unet.Ints{2}, unet.Ints{16}
	switch kind {
	case "sd15":
	case "lcm15":
		c.TimeCondProjDim = 32
	case "inpaint":
		c.InChannels = 9
	case "sd2":
		c.UseLinearProjection, c.AttentionHeadDim = true, unet.Ints{2, 4}
	case "sdxl", "ssd1b":
		c.UseLinearProjection, c.AttentionHeadDim, c.CrossAttentionDim = true, unet.Ints{2, 4}, unet.Ints{32}
		c.DownBlockTypes = []string{"DownBlock2D", "CrossAttnDownBlock2D"}
		c.UpBlockTypes = []string{"CrossAttnUpBlock2D", "UpBlock2D"}
		c.AdditionEmbedType, c.AdditionTimeEmbedDim, c.ProjectionInputDim = "text_time", 8, 6*8+24
		if kind == "ssd1b" {
			c.MidBlockType = unet.MidResidual
		}
	default:
		return c, fmt.Errorf("there is no tiny model %s", quote.Quoted(kind))
	}
	return c.WithDefaults(), nil
}

// Model returns a model of a kind with tiny networks whose weights package sdtest fills: its images are noise, but they depend on prompt,
// seed and options like those of real models. A latent pixel is 8×8 image pixels; the default size is 64×64.
func Model(kind string) (*weights.Model, error) {
	net, err := network(kind)
	if err != nil {
		return nil, err
	}
	predicts := "epsilon"
	text := clip.Config{Width: 16, MLPWidth: 32, Depth: 3, Heads: 2}.WithDefaults()
	if kind == "sd2" {
		predicts, text.Activation = "v_prediction", "gelu"
	}
	auto := vae.Config{Channels: []int{8, 8, 8, 8}, Layers: 1, Groups: 2, SampleSize: 64}.WithDefaults()
	m := &weights.Model{Scheduler: fmt.Appendf(nil, `{"_class_name": "LCMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
		"num_train_timesteps": 1000, "prediction_type": %q, "clip_sample": false, "steps_offset": 1, "set_alpha_to_one": false}`, predicts)}
	m.Text, err = part(text, clip.Shapes(text), err)
	if net.AdditionEmbedType != "" {
		m.ZeroNegative = true
		second := clip.Config{Width: 16, MLPWidth: 32, Depth: 4, Heads: 2, Activation: "gelu", ProjectionDim: 24, Projection: true}.WithDefaults()
		m.Text2, err = part(second, clip.Shapes(second), err)
	}
	m.UNet, err = part(net, unet.Shapes(net), err)
	m.VAE, err = part(auto, vae.Shapes(auto), err)
	return m, err
}

// part returns err if it is not nil.
func part(config any, shapes sdtest.Filled, err error) (*weights.Component, error) {
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(config)
	return &weights.Component{Config: data, Source: shapes}, err
}

// Write writes the model of a kind as a diffusers directory.
func Write(dir, kind string) error {
	m, err := Model(kind)
	if err != nil {
		return err
	}
	return weights.WriteFolder(dir, m, weights.WriteOptions{Tokenizer: func(dir string, second bool) error {
		t := prompt.Default()
		if second {
			t = t.WithPad(0)
		}
		return t.Save(dir)
	}})
}

// WriteControlNet writes a ControlNet for the model of a kind as a diffusers directory.
func WriteControlNet(dir, kind string) error {
	net, err := network(kind)
	if err != nil {
		return err
	}
	c := unet.ControlNetConfig{Encoder: net.Encoder, EmbeddingChannels: unet.Ints{4, 4, 8, 8}}.WithDefaults()
	m := &weights.Model{}
	if m.ControlNet, err = part(c, unet.ControlNetShapes(c), nil); err != nil {
		return err
	}
	return weights.WriteFolder(dir, m, weights.WriteOptions{})
}
