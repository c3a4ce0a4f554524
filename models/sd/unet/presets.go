package unet

// SD15 is Stable Diffusion 1.5's network, and those of 1.1 to 1.4.
func SD15() Config {
	return Config{SampleSize: Ints{64}, Encoder: Encoder{CrossAttentionDim: Ints{768}}}.WithDefaults()
}

// LCM15 is the latent consistency model distilled from Stable Diffusion 1.5: its network has a guidance embedding.
func LCM15() Config {
	c := SD15()
	c.TimeCondProjDim = 256
	return c
}

// Inpaint15 is Stable Diffusion 1.5's network for inpainting, whose inputs are the latents, the mask and the masked image's latents.
func Inpaint15() Config {
	c := SD15()
	c.InChannels = 9
	return c
}

// SD21 is Stable Diffusion 2.1's network, for images of 768×768 pixels.
func SD21() Config {
	return Config{SampleSize: Ints{96}, Encoder: Encoder{
		AttentionHeadDim: Ints{5, 10, 20, 20}, CrossAttentionDim: Ints{1024}, UseLinearProjection: true, UpcastAttention: true,
	}}.WithDefaults()
}

// Mini is a network of 7.2 million weights for latents of 8×8, to be trained from scratch on a CPU: two levels with attention at both. Input and
// output channels are the autoencoder's, and the width of the text features is the text encoder's: see sd.New.
func Mini() Config { return small(8, 96, 160) }

// Small is a network of 7.5 million weights for latents of 16×16, with a first level without attention: a sample takes 1.4 times as long as
// with Mini.
func Small() Config {
	c := small(16, 64, 96, 160)
	c.DownBlockTypes[0], c.UpBlockTypes[2] = downBlock, upBlock
	return c
}

// small has one residual block per level, with attention.
func small(size int, channels ...int) Config {
	c := Config{SampleSize: Ints{size}, Encoder: Encoder{BlockOutChannels: channels, LayersPerBlock: Ints{1}, AttentionHeadDim: Ints{4}}}
	for range channels {
		c.DownBlockTypes, c.UpBlockTypes = append(c.DownBlockTypes, crossDownBlock), append(c.UpBlockTypes, crossUpBlock)
	}
	return c
}

// SDXL is Stable Diffusion XL's base network.
func SDXL() Config {
	return Config{
		SampleSize: Ints{128}, Encoder: xl(), UpBlockTypes: []string{crossUpBlock, crossUpBlock, upBlock},
	}.WithDefaults()
}

// SSD1B is Segmind's distilled, smaller Stable Diffusion XL.
func SSD1B() Config {
	c := SDXL()
	c.MidBlockType = MidResidual
	c.TransformerLayers = Depths{{0}, {2, 2}, {4, 4}}
	c.ReverseTransformerLayers = Depths{{4, 4, 10}, {2, 1, 1}, {0}}
	return c
}

// ControlNet15 is a ControlNet for Stable Diffusion 1.5.
func ControlNet15() ControlNetConfig { return ControlNetConfig{Encoder: SD15().Encoder}.WithDefaults() }

// ControlNet21 is a ControlNet for Stable Diffusion 2.1.
func ControlNet21() ControlNetConfig { return ControlNetConfig{Encoder: SD21().Encoder}.WithDefaults() }

// ControlNetXL is a ControlNet for Stable Diffusion XL, of full size.
func ControlNetXL() ControlNetConfig { return ControlNetConfig{Encoder: xl()}.WithDefaults() }

func xl() Encoder {
	return Encoder{
		BlockOutChannels: Ints{320, 640, 1280}, DownBlockTypes: []string{downBlock, crossDownBlock, crossDownBlock},
		AttentionHeadDim: Ints{5, 10, 20}, CrossAttentionDim: Ints{2048}, UseLinearProjection: true,
		TransformerLayers: Depths{{1}, {2}, {10}},
		AdditionEmbedType: textTime, AdditionTimeEmbedDim: 256, ProjectionInputDim: 2816,
	}
}
