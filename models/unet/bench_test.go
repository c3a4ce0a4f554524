package unet

import (
	"testing"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// benchmark is the network that speed is measured with, as in scripts/bench: 7.0 million weights.
func benchmark(resolution, imageChannels int) Config {
	return DDPMPP(resolution, imageChannels, 64, []int{1, 2, 2}, 2, resolution/2)
}

// The benchmarks' network at its real size; compare with scripts/bench, which measures PyTorch beside it.
func BenchmarkNetwork(b *testing.B) {
	net, err := New(benchmark(32, 3), torch.CPU, torch.Float32, 1)
	if err != nil {
		b.Fatal(err)
	}
	defer net.Close()
	run := func(name string, batch int, f func(s *torch.Scope, x, noise *torch.Tensor)) {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if err := torch.Run(torch.CPU, func(s *torch.Scope) error {
					f(s, torch.Randn(s, torch.NewGenerator(s, 1), torch.Float32, batch, 3, 32, 32), torch.Zeros(s, torch.Float32, batch))
					return nil
				}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	run("forward", 32, func(s *torch.Scope, x, noise *torch.Tensor) {
		s.NoGradTidy(func(s *torch.Scope) *torch.Tensor { return net.Forward(s, x, noise, models.Cond{}) })
	})
	run("forward and backward", 32, func(s *torch.Scope, x, noise *torch.Tensor) {
		net.Forward(s, x, noise, models.Cond{}).Square(s).Mean(s).Backward()
	})
}
