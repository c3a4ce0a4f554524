package dit

import (
	"testing"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

func BenchmarkNetwork(b *testing.B) {
	net, err := New(Config{Depth: 4}, torch.CPU, torch.Float32, 1)
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
	run("forward", 8, func(s *torch.Scope, x, noise *torch.Tensor) {
		s.NoGradTidy(func(s *torch.Scope) *torch.Tensor { return net.Forward(s, x, noise, models.Cond{}) })
	})
	run("forward and backward", 8, func(s *torch.Scope, x, noise *torch.Tensor) {
		net.Forward(s, x, noise, models.Cond{}).Square(s).Mean(s).Backward()
	})
}
