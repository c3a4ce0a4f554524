package modelstest

import (
	"fmt"
	"iter"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/torch/torchtest"
)

func TestMain(m *testing.M) { torchtest.Main(m) }

// zero is the network F = 0.
type zero struct{}

func (zero) Forward(s *torch.Scope, x, _ *torch.Tensor, _ models.Cond) *torch.Tensor {
	return x.MulScalar(s, 0)
}

func (zero) Parameters() iter.Seq2[string, *torch.Tensor] {
	return func(func(string, *torch.Tensor) bool) {}
}

// small is a network that keeps all rules: a convolution, and linear layers of the noise label and what else it is told.
type small struct {
	store           *nn.Store
	expect          Expect
	conv            nn.Conv2D
	class           nn.Embedding
	label           nn.Linear
	until, guidance *nn.Linear // or nil
}

func newSmall(expect Expect, dev torch.Device, dtype torch.DType, seed uint64) (*small, error) {
	st, err := nn.NewStore(dev, dtype, seed)
	if err != nil {
		return nil, err
	}
	n := &small{store: st, expect: expect}
	p := st.Root()
	n.conv = nn.NewConv2D(p.Sub("conv"), 2, 2, 3, torch.Conv2DOptions{Padding: 1})
	n.label = nn.NewLinear(p.Sub("label"), 1, 2)
	if expect.Classes > 0 {
		n.class = nn.NewEmbedding(p.Sub("class"), expect.Classes, 2)
	}
	if expect.Until {
		l := nn.NewLinear(p.Sub("until"), 1, 2)
		n.until = &l
	}
	if expect.Guidance {
		l := nn.NewLinear(p.Sub("guidance"), 1, 2)
		n.guidance = &l
	}
	return n, nil
}

func (n *small) Clone() (*small, error) {
	twin, err := newSmall(n.expect, n.store.Device(), n.store.DType(), 0)
	if err != nil {
		return nil, err
	}
	if err := twin.store.Load(n.Tensors()); err != nil {
		return nil, err
	}
	twin.store.SetRequiresGrad(false)
	return twin, nil
}

func (n *small) Tensors() iter.Seq2[string, *torch.Tensor] { return n.store.Tensors() }

func (n *small) Close() { n.store.Close() }

func (n *small) Forward(s *torch.Scope, x, noise *torch.Tensor, c models.Cond) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		e := n.label.Forward(s, noise.To(s, x.DType()).Unsqueeze(s, 1))
		if n.class.Weight != nil {
			e = e.Add(s, n.class.Forward(s, c.Class))
		} else if c.Class != nil {
			panic(&torch.Error{Op: "small", Msg: "no classes"})
		}
		if c.Text != nil || c.Pooled != nil || c.Sizes != nil {
			panic(&torch.Error{Op: "small", Msg: "no text"})
		}
		for _, more := range []struct {
			layer *nn.Linear
			v     *torch.Tensor
		}{{n.until, c.Until}, {n.guidance, c.Guidance}} {
			switch {
			case (more.layer == nil) != (more.v == nil):
				panic(&torch.Error{Op: "small", Msg: "a label too many or too few"})
			case more.layer != nil:
				e = e.Add(s, more.layer.Forward(s, more.v.To(s, x.DType()).Unsqueeze(s, 1)))
			}
		}
		h := n.conv.Forward(s, x.To(s, c.Computes(n.store.DType()))).Add(s, e.Unsqueeze(s, -1).Unsqueeze(s, -1))
		return c.Dropout.Apply(s, h.SiLU(s), 0.2, 0).To(s, x.DType())
	})
}

func (n *small) Parameters() iter.Seq2[string, *torch.Tensor] { return n.store.Parameters() }

func TestNetworkAcceptsASoundNetwork(t *testing.T) {
	for _, e := range []Expect{{}, {Classes: 4}, {Until: true}, {Classes: 2, Until: true, Guidance: true}} {
		e.Shape, e.Dropout = []int{2, 5, 5}, true
		torchtest.Devices(t, func(t *testing.T, dev torch.Device) {
			Network(t, dev, func(dev torch.Device, dtype torch.DType, seed uint64) (*small, error) {
				return newSmall(e, dev, dtype, seed)
			}, e)
		})
	}
}

// broken is a network with its own way through Forward.
type broken struct {
	*small
	forward func(n *small, s *torch.Scope, x, noise *torch.Tensor, c models.Cond) *torch.Tensor
}

func (b broken) Forward(s *torch.Scope, x, noise *torch.Tensor, c models.Cond) *torch.Tensor {
	return b.forward(b.small, s, x, noise, c)
}

// findings records what a kit reports.
type findings []string

func (*findings) Helper() {}

func (*findings) Logf(string, ...any) {}

func (f *findings) Errorf(format string, args ...any) {
	*f = append(*f, fmt.Sprintf(format, args...))
}

// Each rule broken in turn is found, by the check that is named after it.
func TestNetworkFindsWhatIsBroken(t *testing.T) {
	calls := uint64(0)
	for _, c := range []struct {
		check   string
		told    bool // of the end of a jump and a guidance scale
		forward func(n *small, s *torch.Scope, x, noise *torch.Tensor, c models.Cond) *torch.Tensor
	}{
		{"shapes", false, func(n *small, s *torch.Scope, x, noise *torch.Tensor, c models.Cond) *torch.Tensor {
			return s.Tidy(func(s *torch.Scope) *torch.Tensor { return n.Forward(s, x, noise, c).Narrow(s, 1, 0, 1) })
		}},
		{"inputs", false, func(n *small, s *torch.Scope, x, noise *torch.Tensor, c models.Cond) *torch.Tensor {
			return s.Tidy(func(s *torch.Scope) *torch.Tensor { return n.Forward(s, x, noise.MulScalar(s, 0), c) })
		}},
		{"inputs", true, func(n *small, s *torch.Scope, x, noise *torch.Tensor, c models.Cond) *torch.Tensor {
			return s.Tidy(func(s *torch.Scope) *torch.Tensor {
				c.Until = c.Until.MulScalar(s, 0)
				return n.Forward(s, x, noise, c)
			})
		}},
		{"inputs", true, func(n *small, s *torch.Scope, x, noise *torch.Tensor, c models.Cond) *torch.Tensor {
			return s.Tidy(func(s *torch.Scope) *torch.Tensor {
				c.Guidance = c.Guidance.MulScalar(s, 0)
				return n.Forward(s, x, noise, c)
			})
		}},
		{"independence", false, func(n *small, s *torch.Scope, x, noise *torch.Tensor, c models.Cond) *torch.Tensor {
			return s.Tidy(func(s *torch.Scope) *torch.Tensor {
				y := n.Forward(s, x, noise, c)
				return y.Sub(s, y.MeanDim(s, true, 0))
			})
		}},
		{"modes", false, func(n *small, s *torch.Scope, x, noise *torch.Tensor, c models.Cond) *torch.Tensor {
			return s.Tidy(func(s *torch.Scope) *torch.Tensor {
				y := n.Forward(s, x, noise, c)
				if !s.GradEnabled() {
					return y.MulScalar(s, 1.01)
				}
				return y
			})
		}},
		{"memory format", false, func(n *small, s *torch.Scope, x, noise *torch.Tensor, c models.Cond) *torch.Tensor {
			return s.Tidy(func(s *torch.Scope) *torch.Tensor { return n.Forward(s, x, noise, c).Contiguous(s) })
		}},
		{"dropout", false, func(n *small, s *torch.Scope, x, noise *torch.Tensor, c models.Cond) *torch.Tensor {
			if c.Dropout != (models.Dropout{}) {
				calls++
				c.Dropout = models.DropoutFrom(calls)
			}
			return n.Forward(s, x, noise, c)
		}},
		{"recomputed", false, func(n *small, s *torch.Scope, x, noise *torch.Tensor, c models.Cond) *torch.Tensor {
			if c.Dropout != (models.Dropout{}) {
				calls++
				c.Dropout = models.DropoutFrom(calls)
			}
			return n.Forward(s, x, noise, c)
		}},
		{"gradients", false, func(n *small, s *torch.Scope, x, noise *torch.Tensor, c models.Cond) *torch.Tensor {
			m := *n
			m.label.Bias = nil
			return m.Forward(s, x, noise, c)
		}},
		{"refusals", false, func(n *small, s *torch.Scope, x, noise *torch.Tensor, _ models.Cond) *torch.Tensor {
			return n.Forward(s, x, noise, models.Cond{})
		}},
		{"refusals", false, func(n *small, s *torch.Scope, x, noise *torch.Tensor, c models.Cond) *torch.Tensor {
			c.Until = nil
			return n.Forward(s, x, noise, c)
		}},
		{"refusals", false, func(n *small, s *torch.Scope, x, noise *torch.Tensor, c models.Cond) *torch.Tensor {
			c.Guidance = nil
			return n.Forward(s, x, noise, c)
		}},
		{"inputs stay", false, func(n *small, s *torch.Scope, x, noise *torch.Tensor, c models.Cond) *torch.Tensor {
			y := n.Forward(s, x, noise, c)
			_ = s.NoGrad(func(s *torch.Scope) error { noise.AddScalarInPlace(s, 0); x.MulScalarInPlace(s, 1.001); return nil })
			return y
		}},
		{"types", false, func(n *small, s *torch.Scope, x, noise *torch.Tensor, c models.Cond) *torch.Tensor {
			return s.Tidy(func(s *torch.Scope) *torch.Tensor { return n.Forward(s, x, noise, c).To(s, torch.Float32) })
		}},
		{"derivative", false, func(n *small, s *torch.Scope, x, noise *torch.Tensor, c models.Cond) *torch.Tensor {
			return s.Tidy(func(s *torch.Scope) *torch.Tensor { return n.Forward(s, x.Detach(s), noise, c).Add(s, x).Sub(s, x) })
		}},
		{"leaks", false, func(n *small, s *torch.Scope, x, noise *torch.Tensor, c models.Cond) *torch.Tensor {
			return n.Forward(s, x, noise, c).MulScalar(s, 2)
		}},
	} {
		t.Run(c.check, func(t *testing.T) {
			found := &findings{}
			expect := Expect{Shape: []int{2, 5, 5}, Dropout: true, Until: c.told, Guidance: c.told}
			make := func(dtype torch.DType, seed uint64) (Made, error) {
				n, err := newSmall(expect, torch.CPU, dtype, seed)
				if err != nil {
					return nil, err
				}
				return broken{n, c.forward}, nil
			}
			net, err := make(torch.Float32, 1)
			require.NoError(t, err)
			defer net.Close()
			k := kit{t: found, dev: torch.CPU, net: net, make: make, expect: expect}
			k.clone = func() (Made, error) { return net.(broken).small.Clone() }
			k.run(func(k kit, s *torch.Scope) { k.fill(s, k.net) })
			require.Empty(t, *found)
			for _, check := range checks {
				before := len(*found)
				k.run(check.run)
				if check.name == c.check {
					require.Greater(t, len(*found), before, "the check has to find it")
				}
			}
			t.Log(*found)
		})
	}
}

// Seeds that do nothing, or not the same every time, large initial outputs and clones of other weights are found.
func TestNetworkFindsHowItIsMade(t *testing.T) {
	expect := Expect{Shape: []int{2, 5, 5}, Dropout: true}
	calls := uint64(0)
	for name, seeds := range map[string]func(seed uint64) uint64{
		"one for all": func(uint64) uint64 { return 1 },
		"never twice": func(uint64) uint64 { calls++; return calls },
		"large":       func(seed uint64) uint64 { return seed },
	} {
		t.Run(name, func(t *testing.T) {
			found, e := &findings{}, expect
			if name == "large" {
				e.Initial = 1e-3
			}
			k := kit{t: found, dev: torch.CPU, expect: e}
			k.make = func(dtype torch.DType, seed uint64) (Made, error) { return newSmall(e, torch.CPU, dtype, seeds(seed)) }
			k.run(kit.initialWeights)
			require.NotEmpty(t, *found)
		})
	}
	net, err := newSmall(expect, torch.CPU, torch.Float32, 1)
	require.NoError(t, err)
	defer net.Close()
	found := &findings{}
	k := kit{t: found, dev: torch.CPU, net: net, expect: expect}
	k.clone = func() (Made, error) { return newSmall(expect, torch.CPU, torch.Float32, 2) }
	k.run(kit.clones)
	require.Contains(t, (*found)[0], "a clone's result records gradients")
	require.Contains(t, (*found)[1], "a clone's result differs")
}
