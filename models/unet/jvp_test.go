package unet_test

import (
	"testing"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/torch"
)

// What a derivative costs beside a forward pass, without gradients, for the benchmarks' network.
func BenchmarkJVP(b *testing.B) {
	net, err := unet.New(unet.DDPMPP(32, 3, 64, []int{1, 2, 2}, 2, 16), torch.CPU, torch.Float32, 1)
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
