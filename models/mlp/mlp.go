package mlp

import (
	"fmt"
	"iter"
	"math"
	"slices"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/blocks"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// MLP is the network F_θ. It owns its weights.
type MLP struct {
	config Config
	store  *nn.Store

	layers []nn.Linear // the hidden ones
	class  nn.Embedding
	out    nn.Linear
}

// New makes a network with random weights drawn from seed: PyTorch's defaults, with the last layer near zero, so that a
// consistency function over it starts close to c_skip·x. The weights have type dtype; initial values are drawn in float32 for every
// type.
func New(c Config, dev torch.Device, dtype torch.DType, seed uint64) (*MLP, error) {
	c = c.WithDefaults().clone()
	if err := c.Validate(); err != nil {
		return nil, err
	}
	m := &MLP{config: c}
	var err error
	if m.store, err = nn.Build(dev, dtype, seed, m.build); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *MLP) build(p nn.Path) {
	c := m.config
	in := c.inputs()
	for i := range c.Depth {
		m.layers = append(m.layers, nn.NewLinear(p.Sub("layers", i), in, c.Width))
		in = c.Width
	}
	if c.Classes > 0 {
		m.class = nn.NewEmbedding(p.Sub("class_embedding"), c.Classes+1, c.Width)
	}
	m.out = nn.NewLinearInit(p.Sub("out"), c.Width, c.elements(), blocks.NearZero(c.Width), nn.Zeros)
}

// Config returns the configuration with its defaults filled in.
func (m *MLP) Config() Config { return m.config.clone() }

// Parameters yields the trainable weights by name.
func (m *MLP) Parameters() iter.Seq2[string, *torch.Tensor] { return m.store.Parameters() }

// Tensors yields the tensors of a checkpoint: the weights.
func (m *MLP) Tensors() iter.Seq2[string, *torch.Tensor] { return m.store.Tensors() }

// Load copies values into the weights. Names and shapes have to match; the error lists all mismatches.
func (m *MLP) Load(values iter.Seq2[string, *torch.Tensor]) error { return m.store.Load(values) }

// Store returns the owner of the weights.
func (m *MLP) Store() *nn.Store { return m.store }

// Clone makes a copy with weights of its own that do not require gradients, for a target network or EMA weights.
func (m *MLP) Clone() (*MLP, error) { return nn.Clone(m, New) }

// Close frees the weights.
func (m *MLP) Close() { m.store.Close() }

// Forward returns F_θ(x, noise) for x [B, ...] of the configured shape and noise labels [B], in x's shape. With Cond.Checkpointing
// each hidden layer is computed again for gradients.
func (m *MLP) Forward(s *torch.Scope, x, noise *torch.Tensor, c models.Cond) *torch.Tensor {
	m.store.Takes("mlp", "the samples", x)
	if x.NDim() == 0 || !slices.Equal(x.Shape()[1:], m.config.Shape) {
		panic(&torch.Error{Op: "mlp", Msg: fmt.Sprintf("want a batch of samples of shape %v, got %v", m.config.Shape, x.Shape())})
	}
	c.Check("mlp", m.store, x, noise, m.config.Inputs())
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		inputs := []*torch.Tensor{features(s, x.Flatten(s, 1, -1), m.config.Freqs)}
		inputs = append(inputs, m.label(s, noise, m.config.NoiseScale, x.DType()))
		if m.config.Until {
			inputs = append(inputs, m.label(s, c.Until, m.config.NoiseScale, x.DType()))
		}
		if m.config.Guidance {
			inputs = append(inputs, m.label(s, c.Guidance, 1, x.DType()))
		}
		h := torch.Cat(s, inputs, 1).To(s, c.Computes(m.store.DType()))
		for i, l := range m.layers {
			h = blocks.Checkpoint(s, c.Checkpointing, func(s *torch.Scope, x []*torch.Tensor) *torch.Tensor {
				h := l.Adapted(s, x[0], c.Adapters)
				if i == 0 && m.config.Classes > 0 {
					h = h.Add(s, m.class.Adapted(s, c.Class, c.Adapters).To(s, h.DType()))
				}
				return c.Dropout.Apply(s, h.SiLU(s), m.config.Dropout, i)
			}, h)
		}
		y := m.out.Adapted(s, h, c.Adapters).To(s, x.DType()).Reshape(s, x.Shape()...)
		if x.IsChannelsLastOnly() {
			return y.ChannelsLast(s)
		}
		return y
	})
}

// label returns the features of scale·v, for v [B], as [B, 1 + 2·NoiseFreqs]. Angles are computed in v's type, in float32 at
// least.
func (m *MLP) label(s *torch.Scope, v *torch.Tensor, scale float64, dtype torch.DType) *torch.Tensor {
	if v.DType() != torch.Float64 {
		v = v.To(s, torch.Float32)
	}
	return features(s, v.Unsqueeze(s, 1).MulScalar(s, scale), m.config.NoiseFreqs).To(s, dtype)
}

// features returns v [B, N] with its sines and cosines at 1, 2, 4, … radians per unit, [B, N·(1 + 2·freqs)].
func features(s *torch.Scope, v *torch.Tensor, freqs int) *torch.Tensor {
	parts := []*torch.Tensor{v}
	for i := range freqs {
		a := v.MulScalar(s, math.Exp2(float64(i)))
		parts = append(parts, a.Sin(s), a.Cos(s))
	}
	return torch.Cat(s, parts, 1)
}
