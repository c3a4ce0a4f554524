package blocks

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// build makes a block in float64 with random weights that let signals through.
func build[B any](t *testing.T, dev torch.Device, f func(p nn.Path) B) (B, *nn.Store) {
	t.Helper()
	var b B
	st, err := nn.Build(dev, torch.Float64, 1, func(p nn.Path) { b = f(p) })
	require.NoError(t, err)
	t.Cleanup(st.Close)
	require.NoError(t, torch.Run(dev, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			g := torch.NewGenerator(s, 3)
			for _, p := range st.Parameters() {
				p.AddScaledInPlace(s, torch.Randn(s, g, torch.Float64, p.Shape()...), 0.3)
			}
			return nil
		})
	}))
	return b, st
}

// same compares a block with plain operators, in values and in the gradients of input and weights, and makes sure that it leaves its input as
// it was and no intermediate result behind, with gradients and without.
func same(t *testing.T, s *torch.Scope, st *nn.Store, x *torch.Tensor, block, plain func(s *torch.Scope, x *torch.Tensor) *torch.Tensor) {
	t.Helper()
	off := func(a, b *torch.Tensor) float64 { return a.Sub(s, b).Abs(s).Max(s).Item() }
	x.SetRequiresGrad(true)
	kept := x.Detach(s).Clone(s)
	gradients := func(f func(s *torch.Scope, x *torch.Tensor) *torch.Tensor) (y *torch.Tensor, all []*torch.Tensor) {
		y = f(s, x)
		y.Mul(s, torch.Randn(s, torch.NewGenerator(s, 5), torch.Float64, y.Shape()...)).Sum(s).Backward()
		all = append(all, x.Grad(s).Clone(s))
		x.ZeroGrad()
		for name, p := range st.Parameters() {
			require.True(t, p.HasGrad(), name)
			all = append(all, p.Grad(s).Clone(s))
			p.ZeroGrad()
		}
		return y.Detach(s), all
	}
	y, got := gradients(block)
	want, grads := gradients(plain)
	require.Equal(t, want.Shape(), y.Shape())
	require.Less(t, off(y, want), 1e-12)
	for i, g := range grads {
		require.Less(t, off(got[i], g), 1e-11)
	}
	for _, mode := range []func(func(*torch.Scope) error) error{s.Run, s.NoGrad, s.Inference} {
		require.NoError(t, mode(func(s *torch.Scope) error {
			before := torch.Live()
			again := block(s, x)
			require.EqualValues(t, before+1, torch.Live())
			require.Less(t, off(again, want), 1e-12)
			return nil
		}))
	}
	require.Zero(t, off(x, kept))
}

func TestResidual(t *testing.T) {
	halve := func(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return x.AvgPool2D(s, 2) }
	emb := func(o ResidualOptions) ResidualOptions { o.Embedding = 5; return o }
	plain := ResidualOptions{GroupsIn: 2, GroupsOut: 3, Eps: 1e-3}
	modulated := emb(plain)
	modulated.ScaleShift, modulated.Scale, modulated.Last, modulated.Dropout, modulated.Place = true, 0.7, nn.Normal(0.01), 0.3, 4
	resized := emb(plain)
	resized.Resize, resized.ConvShortcut = halve, true
	for _, c := range []struct {
		name    string
		in, out int
		o       ResidualOptions
	}{{"as in autoencoders", 4, 6, plain}, {"as in DDPM", 6, 6, emb(plain)}, {"modulated", 4, 6, modulated}, {"resized", 6, 6, resized}} {
		t.Run(c.name, func(t *testing.T) {
			torchtest.Devices(t, func(t *testing.T, dev torch.Device) {
				r, st := build(t, dev, func(p nn.Path) *Residual { return NewResidual(p, c.in, c.out, c.o) })
				require.Equal(t, c.in != c.out || c.o.ConvShortcut, r.Shortcut != nil)
				require.NoError(t, torch.Run(dev, func(s *torch.Scope) error {
					g := torch.NewGenerator(s, 1)
					x := torch.Randn(s, g, torch.Float64, 2, c.in, 4, 6)
					e := torch.Randn(s, g, torch.Float64, 1, 5) // one for all images
					cond := models.Cond{Dropout: models.DropoutFrom(9)}
					same(t, s, st, x, func(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return r.Forward(s, x, e, cond) },
						func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
							h, skip := r.Norm1.Forward(s, x).SiLU(s), x
							if c.o.Resize != nil {
								h, skip = halve(s, h), halve(s, x)
							}
							h = r.Conv1.Forward(s, h)
							switch {
							case c.o.ScaleShift:
								by := r.Emb.Forward(s, e).Unsqueeze(s, 2).Unsqueeze(s, 3)
								h = r.Norm2.Forward(s, h)
								h = h.Add(s, h.Mul(s, by.Narrow(s, 1, 0, c.out))).Add(s, by.Narrow(s, 1, c.out, c.out))
							case c.o.Embedding > 0:
								h = r.Norm2.Forward(s, h.Add(s, r.Emb.Forward(s, e).Unsqueeze(s, 2).Unsqueeze(s, 3)))
							default:
								h = r.Norm2.Forward(s, h)
							}
							h = r.Conv2.Forward(s, cond.Dropout.Apply(s, h.SiLU(s), c.o.Dropout, c.o.Place))
							if r.Shortcut != nil {
								skip = r.Shortcut.Forward(s, skip)
							}
							h = h.Add(s, skip)
							if c.o.Scale != 0 {
								h = h.MulScalar(s, c.o.Scale)
							}
							return h
						})
					return nil
				}))
			})
		})
	}
}
