package dit

import (
	"fmt"
	"iter"
	"math"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/blocks"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// DiT is the network F_θ. It owns its weights.
type DiT struct {
	config Config
	store  *nn.Store

	patches         nn.Conv2D     // patch embedding, run as a linear layer: see tokens
	positions       *torch.Tensor // [1, tokens, Width], fixed
	noise           *blocks.TimestepEmbedding
	until, guidance *blocks.TimestepEmbedding // or nil
	class           nn.Embedding
	blocks          []block
	modulation      nn.Linear // shift and scale of the last norm
	out             nn.Linear
}

// New makes a network with random weights drawn from seed, initialised as in the paper: gates and the last layer are zero, so that
// every block starts as the identity and the network's output as zero. The weights have type dtype; initial values are drawn in float32
// for every type.
func New(c Config, dev torch.Device, dtype torch.DType, seed uint64) (*DiT, error) {
	c = c.WithDefaults()
	if err := c.Validate(); err != nil {
		return nil, err
	}
	d := &DiT{config: c}
	var err error
	if d.store, err = nn.Build(dev, dtype, seed, d.build); err != nil {
		return nil, err
	}
	return d, nil
}

func (d *DiT) build(p nn.Path) {
	c := d.config
	d.positions = p.Buffer("pos_embed", positions(c), 1, c.tokens(), c.Width)
	pixels := c.Patch * c.Patch
	rule := xavier(c.InChannels*pixels, c.Width)
	o := torch.Conv2DOptions{Stride: c.Patch}
	d.patches = nn.NewConv2DInit(p.Sub("x_embedder", "proj"), c.InChannels, c.Width, c.Patch, o, rule, nn.Zeros)
	d.noise = newEmbedding(p.Sub("t_embedder"), c)
	if c.Until {
		d.until = newEmbedding(p.Sub("until_embedder"), c)
	}
	if c.Guidance {
		d.guidance = newEmbedding(p.Sub("guidance_embedder"), c)
	}
	if c.Classes > 0 {
		table := p.Sub("y_embedder", "embedding_table")
		d.class = nn.Embedding{Weight: table.Param("weight", nn.Normal(embedStd), c.Classes+1, c.Width)}
	}
	for i := range c.Depth {
		d.blocks = append(d.blocks, newBlock(p.Sub("blocks", i), c, i))
	}
	last := p.Sub("final_layer")
	d.out = nn.NewLinearInit(last.Sub("linear"), c.Width, pixels*c.OutChannels, nn.Zeros, nn.Zeros)
	d.modulation = nn.NewLinearInit(last.Sub("adaLN_modulation", 1), c.Width, 2*c.Width, nn.Zeros, nn.Zeros)
}

// Config returns the configuration with its defaults filled in.
func (d *DiT) Config() Config { return d.config }

// Parameters yields the trainable weights, with the names of the original checkpoints.
func (d *DiT) Parameters() iter.Seq2[string, *torch.Tensor] { return d.store.Parameters() }

// Tensors yields the tensors of a checkpoint: the weights and the fixed position embeddings.
func (d *DiT) Tensors() iter.Seq2[string, *torch.Tensor] { return d.store.Tensors() }

// Store returns the owner of the weights.
func (d *DiT) Store() *nn.Store { return d.store }

// Clone makes a copy with weights of its own that do not require gradients, for a target network or EMA weights.
func (d *DiT) Clone() (*DiT, error) { return nn.Clone(d, New) }

// Close frees the weights.
func (d *DiT) Close() { d.store.Close() }

// Forward returns F_θ(x, noise) for x [B, InChannels, R, R] and noise labels [B], as [B, OutChannels, R, R]. With Cond.Checkpointing each
// block is computed again for gradients.
func (d *DiT) Forward(s *torch.Scope, x, noise *torch.Tensor, c models.Cond) *torch.Tensor {
	r, in := d.config.Resolution, d.config.InChannels
	d.store.Takes("dit", "the images", x)
	if x.NDim() != 4 || x.Dim(1) != in || x.Dim(2) != r || x.Dim(3) != r {
		panic(&torch.Error{Op: "dit", Msg: fmt.Sprintf("want images of shape [B, %d, %d, %d], got %v", in, r, r, x.Shape())})
	}
	c.Check("dit", d.store, x, noise, d.config.Inputs())
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		emb := d.embed(s, noise, c, x.DType())
		h := d.tokens(s, x.To(s, c.Computes(d.store.DType())), c.Adapters)
		for _, b := range d.blocks {
			h = blocks.Release(blocks.Checkpoint(s, c.Checkpointing, func(s *torch.Scope, x []*torch.Tensor) *torch.Tensor {
				return b.forward(s, x[0], x[1], c)
			}, h, emb), h)
		}
		m := d.modulation.Adapted(s, emb, c.Adapters).Unsqueeze(s, 1).Chunk(s, 2, 2)
		h = modulate(s, h, m[0], m[1], normEps)
		return d.image(s, d.out.Adapted(s, h, c.Adapters).To(s, x.DType()), x.IsChannelsLastOnly())
	})
}

// tokens embeds the image's patches, [B, tokens, Width], and adds their position embeddings. The patch embedding's convolution runs as a
// linear layer on the patches' pixels, so that its result is in the layout that the blocks take.
func (d *DiT) tokens(s *torch.Scope, x *torch.Tensor, a nn.Adapters) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		c, side := d.config, d.config.Resolution/d.config.Patch
		x = x.Reshape(s, -1, c.InChannels, side, c.Patch, side, c.Patch).Permute(s, 0, 2, 4, 1, 3, 5)
		x = x.Reshape(s, -1, c.tokens(), c.InChannels*c.Patch*c.Patch)
		h := x.Linear(s, a.WeightFor(s, x, d.patches.Weight).Flatten(s, 1, -1), a.WeightFor(s, x, d.patches.Bias))
		return h.Add(s, d.positions.To(s, h.DType()))
	})
}

// image reassembles patches [B, tokens, Patch·Patch·OutChannels] to an image, in the memory format of the input.
func (d *DiT) image(s *torch.Scope, h *torch.Tensor, channelsLast bool) *torch.Tensor {
	c, side := d.config, d.config.Resolution/d.config.Patch
	h = h.Reshape(s, -1, side, side, c.Patch, c.Patch, c.OutChannels)
	if channelsLast {
		return h.Permute(s, 0, 1, 3, 2, 4, 5).Reshape(s, -1, c.Resolution, c.Resolution, c.OutChannels).Permute(s, 0, 3, 1, 2)
	}
	return h.Permute(s, 0, 5, 1, 3, 2, 4).Reshape(s, -1, c.OutChannels, c.Resolution, c.Resolution).Contiguous(s)
}

// embed returns silu of the sum of all embeddings, [B, Width], which every modulation takes.
func (d *DiT) embed(s *torch.Scope, noise *torch.Tensor, c models.Cond, dtype torch.DType) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		e := d.vector(s, d.noise, noise, dtype, c.Adapters)
		if d.until != nil {
			e = e.Add(s, d.vector(s, d.until, c.Until, dtype, c.Adapters))
		}
		if d.guidance != nil {
			e = e.Add(s, d.vector(s, d.guidance, c.Guidance, dtype, c.Adapters))
		}
		if d.config.Classes > 0 {
			e = e.Add(s, d.class.Adapted(s, c.Class, c.Adapters))
		}
		return e.SiLU(s)
	})
}

// newEmbedding makes the two layers of the original code's TimestepEmbedder.
func newEmbedding(p nn.Path, c Config) *blocks.TimestepEmbedding {
	return &blocks.TimestepEmbedding{
		Linear1: nn.NewLinearInit(p.Sub("mlp", 0), c.Freqs, c.Width, nn.Normal(embedStd), nn.Zeros),
		Linear2: nn.NewLinearInit(p.Sub("mlp", 2), c.Width, c.Width, nn.Normal(embedStd), nn.Zeros),
	}
}

// vector maps v [B] to its embedding [B, Width], in dtype. Angles are computed in v's type, in float32 at least.
func (d *DiT) vector(s *torch.Scope, e *blocks.TimestepEmbedding, v *torch.Tensor, dtype torch.DType, a nn.Adapters) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		if v.DType() != torch.Float64 {
			v = v.To(s, torch.Float32)
		}
		of := blocks.Sinusoids{Dim: d.config.Freqs}
		if d.config.EndpointFreqs {
			of.Shift = 1
		}
		return e.Forward(s, of.Of(s, v).To(s, dtype), a)
	})
}

// block is x + gate·attention(norm(x)), then x + gate·mlp(norm(x)), with norms and gates modulated by the embedding.
type block struct {
	modulation nn.Linear // shift, scale and gate of attention, then of the MLP
	qkv, proj  nn.Linear
	fc1, fc2   nn.Linear
	heads      int
	eps        float64 // of the norm before the MLP
	dropout    float64
	number     int // index of the block, which has two dropout layers
}

func newBlock(p nn.Path, c Config, number int) block {
	linear := func(p nn.Path, in, out int) nn.Linear { return nn.NewLinearInit(p, in, out, xavier(in, out), nn.Zeros) }
	return block{
		qkv:        linear(p.Sub("attn", "qkv"), c.Width, 3*c.Width),
		proj:       linear(p.Sub("attn", "proj"), c.Width, c.Width),
		fc1:        linear(p.Sub("mlp", "fc1"), c.Width, c.MLPWidth),
		fc2:        linear(p.Sub("mlp", "fc2"), c.MLPWidth, c.Width),
		modulation: nn.NewLinearInit(p.Sub("adaLN_modulation", 1), c.Width, 6*c.Width, nn.Zeros, nn.Zeros),
		heads:      c.Heads, eps: c.MLPNormEps, dropout: c.Dropout, number: number,
	}
}

func (b block) forward(s *torch.Scope, x, emb *torch.Tensor, c models.Cond) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		m := b.modulation.Adapted(s, emb, c.Adapters).Unsqueeze(s, 1).Chunk(s, 6, 2)
		h := modulate(s, x, m[0], m[1], normEps)
		h = c.Dropout.Apply(s, blocks.Release(b.attend(s, h, c.Adapters), h), b.dropout, 2*b.number)
		x = x.AddCMul(s, m[2].To(s, x.DType()), h, 1)
		h.Free()
		h = modulate(s, x, m[3], m[4], b.eps)
		h = blocks.Release(b.fc1.Adapted(s, h, c.Adapters), h)
		h = c.Dropout.Apply(s, blocks.Release(h.GELU(s, true), h), b.dropout, 2*b.number+1)
		h = blocks.Release(b.fc2.Adapted(s, h, c.Adapters), h)
		return x.AddCMul(s, m[5].To(s, x.DType()), h, 1)
	})
}

// attend is self-attention over the tokens of h [B, tokens, Width].
func (b block) attend(s *torch.Scope, h *torch.Tensor, a nn.Adapters) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		shape := h.Shape()
		qkv := b.qkv.Adapted(s, h, a).Reshape(s, shape[0], shape[1], 3, b.heads, shape[2]/b.heads)
		qkv = qkv.Permute(s, 2, 0, 3, 1, 4) // [3, B, heads, tokens, D]
		h := torch.Attention(s, qkv.Select(s, 0, 0), qkv.Select(s, 0, 1), qkv.Select(s, 0, 2), torch.AttentionOptions{})
		return b.proj.Adapted(s, h.Transpose(s, 1, 2).Reshape(s, shape...), a)
	})
}

const (
	normEps   = 1e-6  // of all norms except those before the MLPs
	maxPeriod = 10000 // of the position embeddings' sines and cosines, in units of 2π
	embedStd  = 0.02  // standard deviation of the embeddings' initial weights
)

// modulate normalises the last dimension of h, scales it by 1 + scale and shifts it. In mixed precision scale and shift are float32.
func modulate(s *torch.Scope, h, shift, scale *torch.Tensor, eps float64) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		n := h.LayerNorm(s, []int{h.Dim(-1)}, nil, nil, eps)
		return shift.To(s, h.DType()).AddCMul(s, n, scale.AddScalar(s, 1).To(s, h.DType()), 1)
	})
}

// xavier is the initialisation of Glorot & Bengio (2010, eq. 16): uniform within ±√(6/(in+out)).
func xavier(in, out int) nn.Init { return nn.Uniform(math.Sqrt(6 / float64(in+out))) }

// positions fills in the position embeddings of the patches: one half for the column and one for the row, each of sines, then cosines,
// at the frequencies 10000^(-i/n) for i below n = Width/4.
func positions(c Config) nn.Init {
	return func(s *torch.Scope, t *torch.Tensor, _ *torch.Generator) {
		side, n := c.Resolution/c.Patch, c.Width/4
		freqs := torch.Arange(s, n, torch.Float64).MulScalar(s, -math.Log(maxPeriod)/float64(n)).Exp(s)
		angles := torch.Arange(s, side, torch.Float64).Unsqueeze(s, 1).Mul(s, freqs)
		line := torch.Cat(s, []*torch.Tensor{angles.Sin(s), angles.Cos(s)}, 1) // [side, Width/2]
		column := line.Unsqueeze(s, 0).Expand(s, side, side, 2*n)
		row := line.Unsqueeze(s, 1).Expand(s, side, side, 2*n)
		t.CopyFrom(s, torch.Cat(s, []*torch.Tensor{column, row}, 2).Reshape(s, 1, side*side, 4*n))
	}
}
