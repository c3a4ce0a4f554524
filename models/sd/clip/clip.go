package clip

import (
	"fmt"
	"iter"
	"math"

	"github.com/onestep-go/onestep/models/blocks"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Encoder is a text encoder. It owns its weights. Several goroutines may use it at once.
type Encoder struct {
	config Config
	store  *nn.Store

	tokens, positions nn.Embedding
	layers            []layer
	norm              nn.LayerNorm
	projection        nn.Linear // if config.Projection
}

// New makes an encoder with random weights drawn from seed, by transformers' rules.
func New(c Config, dev torch.Device, dtype torch.DType, seed uint64) (*Encoder, error) {
	return build(c, func(all func(p nn.Path)) (*nn.Store, error) { return nn.Build(dev, dtype, seed, all) })
}

// From makes an encoder from the weights in src, which has to outlive it: see [nn.BuildFrom].
func From(c Config, src nn.Source, dev torch.Device, dtype torch.DType) (*Encoder, error) {
	return build(c, func(all func(p nn.Path)) (*nn.Store, error) { return nn.BuildFrom(src, dev, dtype, all) })
}

func build(c Config, store func(all func(p nn.Path)) (*nn.Store, error)) (*Encoder, error) {
	c = c.WithDefaults()
	if err := c.Validate(); err != nil {
		return nil, err
	}
	e := &Encoder{config: c}
	var err error
	if e.store, err = store(e.build); err != nil {
		return nil, fmt.Errorf("clip: %w", err)
	}
	return e, nil
}

// Shapes returns the names and shapes of an encoder's tensors without creating them.
func Shapes(c Config) []nn.Shape { return nn.Shapes((&Encoder{config: c.WithDefaults()}).build) }

func (e *Encoder) build(p nn.Path) {
	c := e.config
	width := float64(c.Width)
	model := p.Sub("text_model")
	table := func(name string, n int) nn.Embedding {
		return nn.Embedding{Weight: model.Sub("embeddings", name).Param("weight", nn.Normal(0.02), n, c.Width)}
	}
	e.tokens, e.positions = table("token_embedding", c.Vocab), table("position_embedding", c.Positions)
	for i := range c.Depth {
		e.layers = append(e.layers, newLayer(model.Sub("encoder", "layers", i), c))
	}
	e.norm = nn.NewLayerNorm(model.Sub("final_layer_norm"), c.Width, c.Eps)
	if c.Projection {
		e.projection = nn.NewLinearInit(p.Sub("text_projection"), c.Width, c.ProjectionDim, nn.Normal(1/math.Sqrt(width)), nil)
	}
}

// Config returns the configuration with its defaults filled in.
func (e *Encoder) Config() Config { return e.config }

// Store returns the store that owns the weights.
func (e *Encoder) Store() *nn.Store { return e.store }

// Parameters yields the trainable weights by transformers' names.
func (e *Encoder) Parameters() iter.Seq2[string, *torch.Tensor] { return e.store.Parameters() }

// Tensors yields the tensors of a checkpoint by transformers' names.
func (e *Encoder) Tensors() iter.Seq2[string, *torch.Tensor] { return e.store.Tensors() }

// Close frees the weights.
func (e *Encoder) Close() { e.store.Close() }

// Options select the output of Forward. The zero value is that of Stable Diffusion 1 and 2.
//
// For them, diffusers' clip_skip k is Skip k. For SDXL it is Skip k+1 with Raw, and without clip_skip Skip 1 with Raw.
type Options struct {
	Skip       int         // the number of last layers that Output.Hidden skips
	Raw        bool        // Output.Hidden without the final norm
	HiddenOnly bool        // do not compute Output.Pooled, nor the layers that Hidden skips
	Adapters   nn.Adapters // of linear layers and norms

	// Extra has the embedding vectors of the additional token ids from Config.Vocab on, [k, Width], as of textual inversion embeddings.
	Extra *torch.Tensor
}

// Output is the result of Forward.
type Output struct {
	Hidden *torch.Tensor // [n, L, Width]: one vector per token
	// Pooled is one vector per prompt, [n, Width], or [n, ProjectionDim] with a projection: the output of the last layer and the final norm
	// at the end token. That is the first token with id Config.EOS, or the first token if there is none; if EOS is 2, as in old files, it
	// is the first token with the largest id below Config.Vocab.
	Pooled *torch.Tensor
}

// Forward encodes token ids [n, L], int64, with L at most Config.Positions. Attention is causal; padding after the end token is encoded
// like the other tokens. An invalid shape, id or Skip panics with a *torch.Error.
func (e *Encoder) Forward(s *torch.Scope, ids *torch.Tensor, o Options) Output {
	e.check(ids, o)
	var out Output
	hidden := len(e.layers) - o.Skip // layers until Hidden
	h := e.embed(s, ids, o.Extra)
	for i, l := range e.layers {
		if i == hidden {
			out.Hidden = h
			if o.HiddenOnly {
				break
			}
		}
		next := l.forward(s, h, o.Adapters)
		if h != out.Hidden {
			h.Free()
		}
		h = next
	}
	if o.Skip == 0 {
		out.Hidden = h
	}
	if !o.HiddenOnly {
		out.Pooled = e.pool(s, h, ids, o.Adapters)
	}
	if h != out.Hidden {
		h.Free()
	}
	if !o.Raw {
		out.Hidden = blocks.Release(e.norm.Adapted(s, out.Hidden, o.Adapters), out.Hidden)
	}
	return out
}

// check panics for invalid inputs.
func (e *Encoder) check(ids *torch.Tensor, o Options) {
	fail := func(format string, args ...any) {
		panic(&torch.Error{Op: "clip", Msg: fmt.Sprintf(format, args...)})
	}
	c, skip, tokens := e.config, o.Skip, e.config.Vocab
	if x := o.Extra; x != nil {
		e.store.Takes("clip", "the extra vectors", x)
		if x.NDim() != 2 || x.Dim(0) < 1 || x.Dim(1) != c.Width {
			fail("want Options.Extra of shape [k, %d], got %v", c.Width, x.Shape())
		}
		tokens += x.Dim(0)
	}
	o.Adapters.CheckOpen("clip")
	e.store.TakesIndices("clip", "the tokens", ids, tokens)
	switch {
	case ids.NDim() != 2 || ids.Dim(1) < 1 || ids.Dim(1) > c.Positions:
		fail("want tokens of shape [n, 1 to %d], got %v", c.Positions, ids.Shape())
	case skip < 0 || skip > c.Depth:
		fail("the encoder has %d layers: want Options.Skip of 0 to %d, got %d", c.Depth, c.Depth, skip)
	}
}

// embed returns the sums of token and position embeddings, [n, L, Width].
func (e *Encoder) embed(s *torch.Scope, ids, extra *torch.Tensor) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		var x *torch.Tensor
		if extra == nil {
			x = e.tokens.Forward(s, ids)
		} else {
			n := float64(e.config.Vocab)
			mine := nn.Embedding{Weight: extra}.Forward(s, ids.SubScalar(s, n).ClampMin(s, 0))
			given := ids.GeScalar(s, n)
			theirs := e.tokens.Forward(s, ids.MaskedFill(s, given, 0))
			x = torch.Where(s, given.Unsqueeze(s, 2), mine, theirs)
		}
		return x.Add(s, e.positions.Weight.Narrow(s, 0, 0, ids.Dim(1)))
	})
}

// pool returns Output.Pooled for the last layer's h [n, L, Width]. The norm is per token, so it is computed for the end tokens only.
func (e *Encoder) pool(s *torch.Scope, h, ids *torch.Tensor, a nn.Adapters) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		end := ids.MaskedFill(s, ids.GeScalar(s, float64(e.config.Vocab)), 0) // ids of Options.Extra are not end tokens
		if e.config.EOS != legacyEOS {
			end = ids.EqScalar(s, float64(e.config.EOS)).To(s, torch.Int64)
		}
		rows := torch.Arange(s, ids.Dim(0), torch.Int64)
		p := e.norm.Adapted(s, h.Index(s, rows, end.ArgMax(s, 1)), a)
		if e.config.Projection {
			p = e.projection.Adapted(s, p, a)
		}
		return p
	})
}

// layer is x + attention(norm(x)), then x + mlp(norm(x)).
type layer struct {
	norm1, norm2 nn.LayerNorm
	attention    blocks.Attention
	fc1, fc2     nn.Linear
	activation   func(s *torch.Scope, x *torch.Tensor) *torch.Tensor
}

func newLayer(p nn.Path, c Config) layer {
	width, depth := float64(c.Width), float64(c.Depth)
	in, out, hidden := 1/math.Sqrt(2*width*depth), 1/math.Sqrt(width), 1/math.Sqrt(2*width)
	linear := func(from, to int, std float64, names ...any) nn.Linear {
		return nn.NewLinearInit(p.Sub(names...), from, to, nn.Normal(std), nn.Zeros)
	}
	return layer{
		norm1: nn.NewLayerNorm(p.Sub("layer_norm1"), c.Width, c.Eps),
		attention: blocks.Attention{
			Q:     linear(c.Width, c.Width, in, "self_attn", "q_proj"),
			K:     linear(c.Width, c.Width, in, "self_attn", "k_proj"),
			V:     linear(c.Width, c.Width, in, "self_attn", "v_proj"),
			Out:   linear(c.Width, c.Width, out, "self_attn", "out_proj"),
			Heads: c.Heads, Causal: true,
		},
		norm2:      nn.NewLayerNorm(p.Sub("layer_norm2"), c.Width, c.Eps),
		fc1:        linear(c.Width, c.MLPWidth, hidden, "mlp", "fc1"),
		fc2:        linear(c.MLPWidth, c.Width, in, "mlp", "fc2"),
		activation: activations[c.Activation],
	}
}

func (l layer) forward(s *torch.Scope, x *torch.Tensor, a nn.Adapters) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		h := l.norm1.Adapted(s, x, a)
		h = blocks.Release(l.attention.Forward(s, h, h, a), h)
		x := blocks.Release(x.Add(s, h), h)
		h = l.norm2.Adapted(s, x, a)
		h = blocks.Release(l.fc1.Adapted(s, h, a), h)
		h = blocks.Release(l.activation(s, h), h)
		h = blocks.Release(l.fc2.Adapted(s, h, a), h)
		return x.Add(s, h)
	})
}

// sigmoidGELU is x·σ(1.702·x), which CLIP uses instead of GELU (Hendrycks & Gimpel 2016, section 2).
func sigmoidGELU(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		g := x.MulScalar(s, 1.702)
		g = blocks.Release(g.Sigmoid(s), g)
		return x.Mul(s, g)
	})
}
