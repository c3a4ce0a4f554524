package dit

import (
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/configjson"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch"
)

// diffusersConfig is the config.json of diffusers' DiTTransformer2DModel.
type diffusersConfig struct {
	Class                 string  `json:"_class_name"`
	NumAttentionHeads     int     `json:"num_attention_heads"`
	AttentionHeadDim      int     `json:"attention_head_dim"`
	InChannels            int     `json:"in_channels"`
	OutChannels           *int    `json:"out_channels"`
	NumLayers             int     `json:"num_layers"`
	Dropout               float64 `json:"dropout"`
	NormNumGroups         int     `json:"norm_num_groups"` // not used
	AttentionBias         bool    `json:"attention_bias"`
	SampleSize            int     `json:"sample_size"`
	PatchSize             int     `json:"patch_size"`
	ActivationFn          string  `json:"activation_fn"`
	NumEmbedsAdaNorm      *int    `json:"num_embeds_ada_norm"`
	UpcastAttention       bool    `json:"upcast_attention"`
	NormType              string  `json:"norm_type"`
	NormElementwiseAffine bool    `json:"norm_elementwise_affine"`
	NormEps               float64 `json:"norm_eps"`
}

// diffusersDefaults has the defaults of DiTTransformer2DModel for absent keys.
func diffusersDefaults() diffusersConfig {
	classes := 1000
	return diffusersConfig{
		NumAttentionHeads: 16, AttentionHeadDim: 72, InChannels: 4, NumLayers: 28, NormNumGroups: 32, AttentionBias: true,
		SampleSize: 32, PatchSize: 2, ActivationFn: "gelu-approximate", NumEmbedsAdaNorm: &classes, NormType: "ada_norm_zero",
		NormEps: 1e-5,
	}
}

// FromDiffusers reads the config.json of a diffusers DiTTransformer2DModel. Keys and values that are not supported are errors that name
// them.
func FromDiffusers(data []byte) (Config, error) {
	fail := func(err error) (Config, error) { return Config{}, fmt.Errorf("dit: diffusers config: %w", err) }
	d := diffusersDefaults()
	if err := configjson.UnmarshalDiffusers(data, &d); err != nil {
		return fail(err)
	}
	if err := d.supported(); err != nil {
		return fail(err)
	}
	c := Config{
		Resolution: d.SampleSize, InChannels: d.InChannels, Patch: d.PatchSize, Width: d.NumAttentionHeads * d.AttentionHeadDim,
		Depth: d.NumLayers, Heads: d.NumAttentionHeads, EndpointFreqs: true, MLPNormEps: d.NormEps, Classes: *d.NumEmbedsAdaNorm,
		Dropout: d.Dropout,
	}
	if d.OutChannels != nil {
		c.OutChannels = *d.OutChannels
	}
	c = c.WithDefaults()
	if err := c.Validate(); err != nil {
		return fail(err)
	}
	return c, nil
}

// supported reports keys and values that are not supported.
func (d diffusersConfig) supported() error {
	no := func(key string, want, got any) error {
		return fmt.Errorf("%s: only %v is supported, the file has %s", key, want, quote.Text(fmt.Sprint(got)))
	}
	// In Config, zero means the default; and a product of two large numbers could overflow.
	for _, n := range []struct {
		key   string
		value int
	}{
		{"num_attention_heads", d.NumAttentionHeads}, {"attention_head_dim", d.AttentionHeadDim}, {"in_channels", d.InChannels},
		{"num_layers", d.NumLayers}, {"sample_size", d.SampleSize}, {"patch_size", d.PatchSize},
	} {
		if n.value < 1 || n.value > 1<<20 {
			return no(n.key, "a positive number of at most 2^20", n.value)
		}
	}
	switch {
	case d.Class != "" && d.Class != "DiTTransformer2DModel":
		return no("_class_name", "DiTTransformer2DModel", d.Class)
	case d.OutChannels != nil && *d.OutChannels < 1:
		return no("out_channels", "a positive number or null", *d.OutChannels)
	case !d.AttentionBias:
		return no("attention_bias", true, false)
	case d.ActivationFn != "gelu-approximate":
		return no("activation_fn", "gelu-approximate", d.ActivationFn)
	case d.NumEmbedsAdaNorm == nil:
		return no("num_embeds_ada_norm", "a positive number", "null")
	case *d.NumEmbedsAdaNorm < 1:
		return no("num_embeds_ada_norm", "a positive number", *d.NumEmbedsAdaNorm)
	case d.UpcastAttention:
		return no("upcast_attention", false, true)
	case d.NormType != "ada_norm_zero":
		return no("norm_type", "ada_norm_zero", d.NormType)
	case d.NormElementwiseAffine:
		return no("norm_elementwise_affine", false, true)
	case d.NormEps == 0:
		return no("norm_eps", "a positive number", 0)
	}
	return nil
}

// Diffusers returns the config.json with which diffusers' DiTTransformer2DModel builds the same network, so that it can load the weights
// of DiffusersTensors. A configuration that DiTTransformer2DModel cannot express is an error that says why.
func (c Config) Diffusers() ([]byte, error) {
	c = c.WithDefaults()
	if err := c.Validate(); err != nil {
		return nil, err
	}
	fail := func(why string) ([]byte, error) {
		return nil, fmt.Errorf("dit: DiTTransformer2DModel cannot express %s", why)
	}
	switch {
	case c.Classes == 0:
		return fail("a network without classes")
	case c.Until:
		return fail("until")
	case c.Guidance:
		return fail("guidance")
	case !c.EndpointFreqs:
		return fail("frequencies without endpoint_freqs")
	case c.Freqs != 256:
		return fail(fmt.Sprintf("freqs of %d: it has 256", c.Freqs))
	case c.MLPWidth != 4*c.Width:
		return fail(fmt.Sprintf("mlp_width of %d: it has 4 times the width, %d", c.MLPWidth, 4*c.Width))
	}
	d := diffusersDefaults()
	d.Class, d.SampleSize, d.PatchSize = "DiTTransformer2DModel", c.Resolution, c.Patch
	d.InChannels, d.OutChannels = c.InChannels, &c.OutChannels
	d.NumAttentionHeads, d.AttentionHeadDim, d.NumLayers = c.Heads, c.Width/c.Heads, c.Depth
	d.NumEmbedsAdaNorm, d.NormEps, d.Dropout = &c.Classes, c.MLPNormEps, c.Dropout
	return json.MarshalIndent(d, "", "  ")
}

// diffusersPrefix is the prefix of a DiTTransformer2DModel's blocks. No tensor of the original layout has it.
const diffusersPrefix = "transformer_blocks."

// Load copies a checkpoint into the weights: in the original layout, which is this package's, or in that of
// diffusers' DiTTransformer2DModel. Names and shapes have to match; the error lists all mismatches.
//
// There are two exceptions. If the last layer has twice OutChannels, and OutChannels is InChannels, the checkpoint also predicts a
// variance, which is dropped. And diffusers' files lack the fixed position embeddings.
func (d *DiT) Load(values iter.Seq2[string, *torch.Tensor]) error {
	return torch.Run(d.store.Device(), func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			given := maps.Collect(values)
			for name := range given {
				if strings.HasPrefix(name, diffusersPrefix) {
					var err error
					if given, err = d.translate(s, given); err != nil {
						return err
					}
					break
				}
			}
			d.withoutVariance(s, given)
			return d.store.Load(maps.All(given))
		})
	})
}

// withoutVariance drops the channels of a learned variance, the second half of each pixel's, from the last layer.
func (d *DiT) withoutVariance(s *torch.Scope, given map[string]*torch.Tensor) {
	c := d.config
	pixels := c.Patch * c.Patch
	for _, name := range []string{"final_layer.linear.weight", "final_layer.linear.bias"} {
		w := given[name]
		if w == nil || w.NDim() == 0 || w.Dim(0) != 2*pixels*c.OutChannels || c.OutChannels != c.InChannels {
			continue
		}
		rest := w.Shape()[1:]
		w = w.Reshape(s, append([]int{pixels, 2 * c.OutChannels}, rest...)...).Narrow(s, 1, 0, c.OutChannels)
		given[name] = w.Reshape(s, append([]int{-1}, rest...)...)
	}
}

// source maps one of our tensors to diffusers' layout: one tensor there, or several, concatenated along the first dimension.
type source struct {
	ours   string
	theirs []string
}

// sources lists the sources of all weights in diffusers' layout. There every block has its own copy of the embeddings; the first
// block's are used.
func (d *DiT) sources() []source {
	var all []source
	layer := func(ours string, theirs ...string) {
		for _, part := range []string{".weight", ".bias"} {
			names := make([]string, len(theirs))
			for i, t := range theirs {
				names[i] = t + part
			}
			all = append(all, source{ours + part, names})
		}
	}
	layer("x_embedder.proj", "pos_embed.proj")
	for _, e := range blockEmbeddings {
		all = append(all, source{e.ours, []string{diffusersPrefix + "0." + e.theirs}})
	}
	for i := range d.config.Depth {
		ours, theirs := fmt.Sprintf("blocks.%d.", i), fmt.Sprintf("%s%d.", diffusersPrefix, i)
		layer(ours+"adaLN_modulation.1", theirs+"norm1.linear")
		layer(ours+"attn.qkv", theirs+"attn1.to_q", theirs+"attn1.to_k", theirs+"attn1.to_v")
		layer(ours+"attn.proj", theirs+"attn1.to_out.0")
		layer(ours+"mlp.fc1", theirs+"ff.net.0.proj")
		layer(ours+"mlp.fc2", theirs+"ff.net.2")
	}
	layer("final_layer.adaLN_modulation.1", "proj_out_1")
	layer("final_layer.linear", "proj_out_2")
	return all
}

// blockEmbeddings are the tensors that diffusers repeats in every block.
var blockEmbeddings = []struct{ ours, theirs string }{
	{"t_embedder.mlp.0.weight", "norm1.emb.timestep_embedder.linear_1.weight"},
	{"t_embedder.mlp.0.bias", "norm1.emb.timestep_embedder.linear_1.bias"},
	{"t_embedder.mlp.2.weight", "norm1.emb.timestep_embedder.linear_2.weight"},
	{"t_embedder.mlp.2.bias", "norm1.emb.timestep_embedder.linear_2.bias"},
	{"y_embedder.embedding_table.weight", "norm1.emb.class_embedder.embedding_table.weight"},
}

// translate converts the tensors of diffusers' layout to ours. Missing and unexpected tensors are errors.
func (d *DiT) translate(s *torch.Scope, theirs map[string]*torch.Tensor) (map[string]*torch.Tensor, error) {
	rest := maps.Clone(theirs)
	if err := d.oneEmbedding(s, rest); err != nil {
		return nil, err
	}
	delete(rest, "pos_embed.pos_embed") // in files of older versions; the positions are fixed
	ours := map[string]*torch.Tensor{"pos_embed": d.positions}
	var wrong []string
	for _, src := range d.sources() {
		var parts []*torch.Tensor
		for _, name := range src.theirs {
			t := rest[name]
			delete(rest, name)
			switch {
			case t == nil:
				wrong = append(wrong, quote.Text(name)+" is missing")
			case len(parts) > 0 && !slices.Equal(t.Shape(), parts[0].Shape()):
				wrong = append(wrong, fmt.Sprintf("%s has shape %v, %s has %v", quote.Text(name), t.Shape(), quote.Text(src.theirs[0]), parts[0].Shape()))
			default:
				parts = append(parts, t)
			}
		}
		if len(parts) == 1 {
			ours[src.ours] = parts[0]
		} else if len(parts) == len(src.theirs) {
			ours[src.ours] = torch.Cat(s, parts, 0)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(rest)) {
		wrong = append(wrong, quote.Text(name)+" is unexpected")
	}
	if n := len(wrong); n > 0 {
		text := strings.Join(wrong[:min(n, 12)], ", ")
		if n > 12 {
			text += fmt.Sprintf(", and %d more", n-12)
		}
		return nil, fmt.Errorf("weights in diffusers' layout do not match the network: %s", text)
	}
	return ours, nil
}

// oneEmbedding checks that the embeddings of all blocks equal the first block's, and removes the copies.
func (d *DiT) oneEmbedding(s *torch.Scope, theirs map[string]*torch.Tensor) error {
	for _, e := range blockEmbeddings {
		one := theirs[diffusersPrefix+"0."+e.theirs]
		for i := 1; i < d.config.Depth; i++ {
			name := fmt.Sprintf("%s%d.%s", diffusersPrefix, i, e.theirs)
			t := theirs[name]
			if one == nil || t == nil {
				continue // translate reports the first; a copy is not needed
			}
			if !slices.Equal(one.Shape(), t.Shape()) || one.Ne(s, t).Any(s).Item() != 0 {
				return fmt.Errorf("%s differs from block 0's: want the same embeddings of noise and class in all blocks, as in the published checkpoints", name)
			}
			delete(theirs, name)
		}
	}
	return nil
}

// DiffusersTensors yields the weights in the layout of diffusers' DiTTransformer2DModel, which repeats the embeddings in every
// block. The tensors are owned by s or by the network. The configuration has to be one that Config.Diffusers accepts.
func (d *DiT) DiffusersTensors(s *torch.Scope) iter.Seq2[string, *torch.Tensor] {
	return func(yield func(string, *torch.Tensor) bool) {
		own := maps.Collect(d.Tensors())
		for _, src := range d.sources() {
			parts := []*torch.Tensor{own[src.ours]}
			if len(src.theirs) > 1 {
				parts = own[src.ours].Detach(s).Chunk(s, len(src.theirs), 0)
			}
			for i, name := range src.theirs {
				if !yield(name, parts[i]) {
					return
				}
			}
		}
		for i := 1; i < d.config.Depth; i++ {
			for _, e := range blockEmbeddings {
				if !yield(fmt.Sprintf("%s%d.%s", diffusersPrefix, i, e.theirs), own[e.ours]) {
					return
				}
			}
		}
	}
}
