package unet_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/torch"
)

// The derivative of whole networks in a direction of image and all labels, with classes and dropout, against central
// differences of fourth order in float64. With h = 1e-4, rounding (some 1e-16/h) and the step (h⁴ times the fifth derivative)
// leave about 1e-11 of the derivative; the tolerance is 1e-8 of its norm.
func TestJVP(t *testing.T) {
	ddpm := unet.Config{
		Resolution: 8, Channels: 16, Mult: []int{1, 2}, Blocks: 1, Attention: []int{4}, NormGroups: 4, Classes: 3, Dropout: 0.1,
		Resample: unet.ResampleConv, PadAfter: true,
	}
	adm := unet.ADM(8, 3, 32, []int{1, 2}, 1, 8)
	adm.Classes, adm.HeadDim, adm.Dropout = 4, 16, 0.3
	fourier := unet.Config{
		Resolution: 14, InChannels: 1, Channels: 8, Mult: []int{1, 1}, Blocks: 2, Embedding: unet.Fourier, FourierScale: 0.5, NoMidAttention: true,
	}
	ncsnpp := unet.NCSNPP(8, 3, 8, []int{1, 2}, 1, 4)
	ncsnpp.FourierScale, ncsnpp.Dropout = 0.5, 0.1
	told := ncsnpp
	told.Classes, told.NullLabel, told.Until, told.Guidance = 3, true, true, true
	pyramid := ddpm
	pyramid.ResidualInput, pyramid.Until, pyramid.Guidance = true, true, true
	for _, c := range []struct {
		name   string
		config unet.Config
	}{{"ddpm", ddpm}, {"adm", adm}, {"fourier", fourier}, {"ncsn++", ncsnpp}, {"ncsn++, told more", told}, {"pyramid", pyramid}} {
		t.Run(c.name, func(t *testing.T) {
			net, err := unet.NewAs(c.config, torch.CPU, torch.Float64, 1)
			require.NoError(t, err)
			defer net.Close()
			full := net.Config()
			require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
				g := torch.NewGenerator(s, 3)
				var cond models.Cond
				if full.Classes > 0 {
					cond.Class = torch.FromSlice(s, []int64{2, 0})
				}
				f := func(s *torch.Scope, xs []*torch.Tensor) *torch.Tensor {
					if full.Dropout > 0 {
						cond.Dropout = torch.NewGenerator(s, 5) // the same masks at every call
					}
					told := cond
					if full.Until {
						told.Until = xs[2]
					}
					if full.Guidance {
						told.Guidance = xs[3]
					}
					return net.Forward(s, xs[0], xs[1], told)
				}
				shape := []int{2, full.InChannels, full.Resolution, full.Resolution}
				xs := []*torch.Tensor{torch.Randn(s, g, torch.Float64, shape...), torch.FromSlice(s, []float64{0.4, 1.1})}
				vs := []*torch.Tensor{torch.Randn(s, g, torch.Float64, shape...), torch.FromSlice(s, []float64{-0.7, 0.3})}
				for range 2 { // Until and guidance, if the network is told them
					xs, vs = append(xs, torch.Randn(s, g, torch.Float64, 2)), append(vs, torch.Randn(s, g, torch.Float64, 2))
				}
				var derivative *torch.Tensor
				err := s.NoGrad(func(s *torch.Scope) error {
					for _, p := range net.Parameters() { // initial weights would leave the output near zero
						if dims := p.Shape(); len(dims) > 1 {
							p.NormalInPlace(s, 0, math.Sqrt(float64(dims[0])/float64(p.NumEl())), g)
						}
					}
					y, dy := torch.JVP(s, f, xs, vs)
					plain := f(s, xs)
					require.Less(t, y.Sub(s, plain).Norm(s).Item(), 1e-13*y.Norm(s).Item(), "attention takes another path")

					const h = 1e-4
					moved := func(d float64) *torch.Tensor {
						to := make([]*torch.Tensor, len(xs))
						for i, x := range xs {
							to[i] = x.Add(s, vs[i].MulScalar(s, d))
						}
						return f(s, to)
					}
					near, far := moved(h).Sub(s, moved(-h)), moved(2*h).Sub(s, moved(-2*h))
					want := near.MulScalar(s, 8).Sub(s, far).DivScalar(s, 12*h)
					off := dy.Sub(s, want).Norm(s).Item() / want.Norm(s).Item()
					t.Logf("|y| %.3g, |dy| %.3g, relative difference %.2g", y.Norm(s).Item(), dy.Norm(s).Item(), off)
					require.Less(t, off, 1e-8)

					// Directions add up, also those in which the image, or nothing but the image, stays.
					sum := torch.ZerosLike(s, dy)
					for i := range xs {
						one := make([]*torch.Tensor, len(xs))
						one[i] = vs[i]
						_, part := torch.JVP(s, f, xs, one)
						sum.AddInPlace(s, part)
					}
					require.Less(t, sum.Sub(s, dy).Norm(s).Item(), 1e-12*dy.Norm(s).Item(), "one input at a time")
					derivative = s.Keep(dy)
					return nil
				})
				if err != nil {
					return err
				}
				y, dy := torch.JVP(s, f, xs, vs)
				require.Less(t, dy.Detach(s).Sub(s, derivative).Norm(s).Item(), 1e-12*derivative.Norm(s).Item(), "with gradients on")
				y.Square(s).Mean(s).Backward()
				for name, p := range net.Parameters() {
					require.True(t, p.HasGrad(), name)
				}
				return nil
			}))
		})
	}
}

// What a derivative costs beside a forward pass, without gradients, for the benchmarks' network.
func BenchmarkJVP(b *testing.B) {
	net, err := unet.New(unet.Benchmark(32, 3), torch.CPU, 1)
	if err != nil {
		b.Fatal(err)
	}
	defer net.Close()
	f := func(s *torch.Scope, xs []*torch.Tensor) *torch.Tensor {
		return net.Forward(s, xs[0], xs[1], models.Cond{})
	}
	run := func(name string, pass func(s *torch.Scope, xs, vs []*torch.Tensor)) {
		b.Run(name, func(b *testing.B) {
			if err := torch.Run(torch.CPU, func(s *torch.Scope) error {
				g := torch.NewGenerator(s, 1)
				draw := func() []*torch.Tensor {
					return []*torch.Tensor{torch.Randn(s, g, torch.Float32, 8, 3, 32, 32), torch.Rand(s, g, torch.Float32, 8)}
				}
				xs, vs := draw(), draw()
				for b.Loop() {
					if err := s.NoGrad(func(s *torch.Scope) error { pass(s, xs, vs); return nil }); err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				b.Fatal(err)
			}
		})
	}
	run("forward", func(s *torch.Scope, xs, _ []*torch.Tensor) { f(s, xs) })
	run("jvp", func(s *torch.Scope, xs, vs []*torch.Tensor) { torch.JVP(s, f, xs, vs) })
}
