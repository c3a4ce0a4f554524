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
	conv            nn.Conv2D
	class           nn.Embedding
	label           nn.Linear
	until, guidance *nn.Linear // or nil
}

func newSmall(t *testing.T, expect Expect) *small {
	st, err := nn.NewStore(torch.CPU, torch.Float32, 1)
	require.NoError(t, err)
	t.Cleanup(st.Close)
	n := &small{store: st}
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
	return n
}

func (n *small) Forward(s *torch.Scope, x, noise *torch.Tensor, c models.Cond) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		e := n.label.Forward(s, noise.To(s, x.DType()).Unsqueeze(s, 1))
		if n.class.Weight != nil {
			e = e.Add(s, n.class.Forward(s, c.Class))
		} else if c.Class != nil {
			panic(&torch.Error{Op: "small", Msg: "no classes"})
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
		h := n.conv.Forward(s, x).Add(s, e.Unsqueeze(s, -1).Unsqueeze(s, -1))
		return h.SiLU(s).Dropout(s, 0.2, c.Dropout)
	})
}

func (n *small) Parameters() iter.Seq2[string, *torch.Tensor] { return n.store.Parameters() }

func TestNetworkAcceptsASoundNetwork(t *testing.T) {
	for _, e := range []Expect{{}, {Classes: 4}, {Until: true}, {Classes: 2, Until: true, Guidance: true}} {
		e.Shape, e.Dropout = []int{2, 5, 5}, true
		Network(t, newSmall(t, e), e)
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
			if c.Dropout != nil {
				calls++
				c.Dropout.Seed(calls)
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
		{"leaks", false, func(n *small, s *torch.Scope, x, noise *torch.Tensor, c models.Cond) *torch.Tensor {
			return n.Forward(s, x, noise, c).MulScalar(s, 2)
		}},
	} {
		t.Run(c.check, func(t *testing.T) {
			found := &findings{}
			expect := Expect{Shape: []int{2, 5, 5}, Dropout: true, Until: c.told, Guidance: c.told}
			k := kit{found, broken{newSmall(t, expect), c.forward}, expect}
			k.run(kit.fill)
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
