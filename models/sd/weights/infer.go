package weights

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/models/sd/clip"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/torch/nn"
)

// Values that cannot be inferred from tensors are those of all published models of the kind: Stable Diffusion 1 has 8 heads, the others
// have heads of 64 channels; norms have 32 groups.
const (
	heads1   = 8
	headSize = 64
)

// hasAll reports whether a source has exactly the planned tensors.
func hasAll(src nn.Source, plan []nn.Shape) bool {
	n := 0
	for range src.Names() {
		n++
	}
	return n == len(plan) && !slices.ContainsFunc(plan, func(t nn.Shape) bool {
		dims, _, ok := src.Info(t.Name)
		return !ok || !slices.Equal(dims, t.Dims)
	})
}

// tensors is a source with diffusers' names, from which sizes are inferred.
type tensors struct{ nn.Source }

// dim returns a dimension of a tensor, or 0 if it does not exist.
func (t tensors) dim(i int, format string, args ...any) int {
	dims, _, _ := t.Info(fmt.Sprintf(format, args...))
	if i >= len(dims) {
		return 0
	}
	return dims[i]
}

// dims returns the number of dimensions.
func (t tensors) dims(name string) int {
	dims, _, _ := t.Info(name)
	return len(dims)
}

// first returns the first name with that suffix.
func (t tensors) first(end string) string {
	for name := range t.Names() {
		if strings.HasSuffix(name, end) {
			return name
		}
	}
	return ""
}

// unetConfig infers the configuration of a U-Net.
func unetConfig(src nn.Source) (unet.Config, error) {
	for _, c := range []unet.Config{unet.SD15(), unet.LCM15(), unet.Inpaint15(), unet.SD21(), unet.SDXL(), unet.SSD1B()} {
		if hasAll(src, unet.Shapes(c)) {
			return c, nil
		}
	}
	t := tensors{src}
	f := ourForm(namesOf(src, ""))
	e, err := t.encoder(f)
	if err != nil {
		return unet.Config{}, err
	}
	c := unet.Config{
		Encoder: e, OutChannels: t.dim(0, "conv_out.weight"), TimeEmbeddingDim: t.dim(0, "time_embedding.linear_1.weight"),
		TimeCondProjDim: t.dim(1, "time_embedding.cond_proj.weight"),
	}
	var same unet.Depths // the default of the up blocks
	for i, blocks := range f.up {
		c.UpBlockTypes = append(c.UpBlockTypes, blockType("UpBlock2D", "CrossAttnUpBlock2D", blocks))
		c.ReverseTransformerLayers = append(c.ReverseTransformerLayers, t.depths("up_blocks", i, blocks, 1))
		switch n := len(e.TransformerLayers); n {
		case len(f.up):
			same = append(same, e.TransformerLayers[n-1-i])
		case 1:
			same = append(same, e.TransformerLayers[0])
		}
	}
	equal := len(same) == len(c.ReverseTransformerLayers)
	for i, d := range c.ReverseTransformerLayers {
		crosses := slices.ContainsFunc(f.up[i], func(b block) bool { return b.attention })
		equal = equal && (!crosses || len(d) == 1 && slices.Equal(d, same[i]))
	}
	if equal {
		c.ReverseTransformerLayers = nil
	}
	// Linear projections without an additional embedding are Stable Diffusion 2: without this, some of its models overflow in diffusers in
	// half precision.
	c.UpcastAttention = c.UseLinearProjection && c.AdditionEmbedType == ""
	if c.AdditionEmbedType != "" { // as in all models of SDXL's shape: 1024 pixels
		c.SampleSize = unet.SDXL().SampleSize
	}
	c = c.WithDefaults()
	return c, c.Validate()
}

// controlNetConfig infers the configuration of a ControlNet.
func controlNetConfig(src nn.Source) (unet.ControlNetConfig, error) {
	for _, c := range []unet.ControlNetConfig{unet.ControlNet15(), unet.ControlNet21(), unet.ControlNetXL()} {
		if hasAll(src, unet.ControlNetShapes(c)) {
			return c, nil
		}
	}
	t := tensors{src}
	f := ourForm(namesOf(src, ""))
	e, err := t.encoder(f)
	if err != nil {
		return unet.ControlNetConfig{}, err
	}
	const image = "controlnet_cond_embedding."
	c := unet.ControlNetConfig{
		Encoder: e, ConditioningChannels: t.dim(1, image+"conv_in.weight"), EmbeddingChannels: unet.Ints{t.dim(0, image+"conv_in.weight")},
	}
	for i := 1; i < f.hint-2; i += 2 {
		c.EmbeddingChannels = append(c.EmbeddingChannels, t.dim(0, image+"blocks.%d.weight", i))
	}
	c = c.WithDefaults()
	return c, c.Validate()
}

func blockType(plain, cross string, blocks []block) string {
	if slices.ContainsFunc(blocks, func(b block) bool { return b.attention }) {
		return cross
	}
	return plain
}

// depths returns the numbers of transformer blocks of a level: a single one, or one after each residual block. Without any it is the
// placeholder without.
func (t tensors) depths(kind string, level int, blocks []block, without int) unet.Ints {
	var d unet.Ints
	for j := range blocks {
		d = append(d, namesOf(t, "").count(kind+".%d.attentions.%d.transformer_blocks.%d.norm1.weight", level, j))
	}
	if !slices.ContainsFunc(blocks, func(b block) bool { return b.attention }) {
		return unet.Ints{without}
	}
	if !slices.ContainsFunc(d, func(n int) bool { return n != d[0] }) {
		return d[:1]
	}
	return d
}

// encoder infers the common part of U-Nets and ControlNets.
func (t tensors) encoder(f form) (unet.Encoder, error) {
	if len(f.down) == 0 {
		return unet.Encoder{}, errors.New("want a network with down_blocks.0.resnets.0")
	}
	e := unet.Encoder{InChannels: t.dim(1, "conv_in.weight")}
	cross := t.first("attn2.to_k.weight")
	e.CrossAttentionDim = unet.Ints{max(1, t.dim(1, "%s", cross))}
	e.UseLinearProjection = t.dims(t.first("proj_in.weight")) == 2
	e.MidBlockType = [...]unet.Middle{unet.NoMid, unet.MidResidual, unet.MidCrossAttention}[(f.mid+1)/2]
	mid := max(1, namesOf(t, "").count("mid_block.attentions.0.transformer_blocks.%d.norm1.weight"))
	for i, blocks := range f.down {
		width := t.dim(0, "down_blocks.%d.resnets.0.conv1.weight", i)
		e.BlockOutChannels = append(e.BlockOutChannels, width)
		e.DownBlockTypes = append(e.DownBlockTypes, blockType("DownBlock2D", "CrossAttnDownBlock2D", blocks))
		e.LayersPerBlock = append(e.LayersPerBlock, len(blocks))
		n := 1
		if i == len(f.down)-1 {
			n = mid // the last level's number is also the middle block's
		}
		e.TransformerLayers = append(e.TransformerLayers, t.depths("down_blocks", i, blocks, n))
		heads := heads1
		if e.UseLinearProjection {
			heads = max(1, width/headSize)
		}
		e.AttentionHeadDim = append(e.AttentionHeadDim, heads)
	}
	e.LayersPerBlock, e.AttentionHeadDim = single(e.LayersPerBlock), single(e.AttentionHeadDim)
	if d := e.TransformerLayers; !slices.ContainsFunc(d, func(v unet.Ints) bool { return len(v) != 1 || v[0] != d[0][0] }) {
		e.TransformerLayers = d[:1]
	}
	if n := t.dim(1, "add_embedding.linear_1.weight"); n > 0 {
		e.AdditionEmbedType, e.AdditionTimeEmbedDim, e.ProjectionInputDim = "text_time", 256, n
	}
	return e, nil
}

// single reduces a list of equal numbers to one number.
func single(v unet.Ints) unet.Ints {
	if slices.ContainsFunc(v, func(n int) bool { return n != v[0] }) {
		return v
	}
	return v[:1]
}

// vaeConfig infers the configuration of an autoencoder. The scaling factor cannot be inferred: xl selects SDXL's.
func vaeConfig(src nn.Source, xl bool) (vae.Config, error) {
	c := vae.SD15()
	if xl {
		c = vae.SDXL()
	}
	if hasAll(src, vae.Shapes(c)) {
		return c, nil
	}
	t := tensors{src}
	has := namesOf(src, "")
	flag := func(name string) *bool { v := has(name); return &v }
	c.InChannels, c.OutChannels = t.dim(1, "encoder.conv_in.weight"), t.dim(0, "decoder.conv_out.weight")
	c.LatentChannels = t.dim(1, "decoder.conv_in.weight")
	c.QuantConv, c.PostQuantConv = flag("quant_conv.weight"), flag("post_quant_conv.weight")
	c.MidAttention = flag("encoder.mid_block.attentions.0.to_q.weight")
	c.Layers, c.Channels = has.count("encoder.down_blocks.0.resnets.%d.norm1.weight"), nil
	for i := range has.count("encoder.down_blocks.%d.resnets.0.norm1.weight") {
		c.Channels = append(c.Channels, t.dim(0, "encoder.down_blocks.%d.resnets.0.conv1.weight", i))
	}
	return c, c.Validate()
}

// clipConfig infers the configuration of a text encoder.
func clipConfig(src nn.Source, f textForm) (clip.Config, error) {
	for _, c := range []clip.Config{clip.L(), clip.H(), clip.BigG()} {
		if hasAll(src, clip.Shapes(c)) {
			return c, nil
		}
	}
	t := tensors{src}
	c := clip.L()
	if f == openCLIP {
		c = clip.H() // for its activation
	}
	c.Vocab, c.Width = t.dim(0, textModel+textTokens), t.dim(1, textModel+textTokens)
	c.Positions = t.dim(0, textModel+"embeddings.position_embedding.weight")
	c.MLPWidth = t.dim(0, textModel+"encoder.layers.0.mlp.fc1.weight")
	c.Depth = namesOf(src, textModel).count("encoder.layers.%d.layer_norm1.weight")
	c.Heads = max(1, c.Width/headSize)
	if n := t.dim(0, textProjected); n > 0 {
		c.Projection, c.ProjectionDim = true, n
	}
	return c, c.Validate()
}
