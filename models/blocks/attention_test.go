package blocks

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// Attention is softmax(q·kᵀ/√d)·v of each head, to the tokens themselves or to others of another width.
func TestAttention(t *testing.T) {
	const n, tokens, width = 2, 5, 6
	for _, c := range []struct {
		name         string
		others, from int
		heads        int
		causal       bool
	}{{"of one head", tokens, width, 1, false}, {"causal", tokens, width, 3, true}, {"to text", 4, 8, 2, false}} {
		t.Run(c.name, func(t *testing.T) {
			torchtest.Devices(t, func(t *testing.T, dev torch.Device) {
				m, st := build(t, dev, func(p nn.Path) *Attention {
					return &Attention{
						Q: nn.NewLinearInit(p.Sub("q"), width, width, nn.FanIn(width), nil), K: nn.NewLinearInit(p.Sub("k"), c.from, width, nn.FanIn(c.from), nil),
						V: nn.NewLinear(p.Sub("v"), c.from, width), Out: nn.NewLinear(p.Sub("out"), width, width), Heads: c.heads, Causal: c.causal,
					}
				})
				require.NoError(t, torch.Run(dev, func(s *torch.Scope) error {
					g := torch.NewGenerator(s, 1)
					x, y := torch.Randn(s, g, torch.Float64, n, tokens, width), torch.Randn(s, g, torch.Float64, n, c.others, c.from)
					other := func(x *torch.Tensor) *torch.Tensor {
						if c.from == width {
							return x
						}
						return y
					}
					same(t, s, st, x, func(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return m.Forward(s, x, other(x), nil) },
						func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
							d := width / c.heads
							q, k, v := m.Q.Forward(s, x), m.K.Forward(s, other(x)), m.V.Forward(s, other(x))
							var heads []*torch.Tensor
							for i := range c.heads {
								head := func(t *torch.Tensor) *torch.Tensor { return t.Narrow(s, 2, i*d, d) }
								w := head(q).MatMul(s, head(k).Transpose(s, 1, 2)).DivScalar(s, math.Sqrt(float64(d)))
								if c.causal {
									row := torch.Arange(s, tokens, torch.Float64)
									w = w.MaskedFill(s, row.Unsqueeze(s, 0).Gt(s, row.Unsqueeze(s, 1)), math.Inf(-1))
								}
								heads = append(heads, w.Softmax(s, 2).MatMul(s, head(v)))
							}
							return m.Out.Forward(s, torch.Cat(s, heads, 2))
						})
					return nil
				}))
			})
		})
	}
}
