package optim

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
)

// benchParams makes 7.0 million parameters in 200 tensors, with gradients: 50 times a 3x3 convolution of 128 channels
// (nearly), its bias and a norm's two vectors. scripts/bench_optim.py makes the same.
func benchParams(s *torch.Scope) *named {
	g := torch.NewGenerator(s, 0)
	var params named
	for i := range 50 {
		for j, shape := range [][]int{{128, 122, 3, 3}, {128}, {128}, {128}} {
			p := torch.Randn(s, g, torch.Float32, shape...)
			p.SetRequiresGrad(true)
			p.SetGrad(torch.Randn(s, g, torch.Float32, shape...))
			params.add(fmt.Sprintf("%d.%d", i, j), p)
		}
	}
	return &params
}

// BenchmarkStep is one step of 7.0 million parameters in 200 tensors, past RAdam's first steps, on one thread.
func BenchmarkStep(b *testing.B) {
	threads := torch.Threads()
	require.NoError(b, torch.SetThreads(1))
	defer func() { require.NoError(b, torch.SetThreads(threads)) }()
	for _, c := range []struct {
		name   string
		config maker
	}{
		{"SGD", SGD{Momentum: 0.9}},
		{"Adam", Adam{}},
		{"AdamW", AdamW{}},
		{"RAdam", RAdam{}},
	} {
		for _, path := range []string{"fused", "foreach"} {
			b.Run(c.name+"/"+path, func(b *testing.B) {
				require.NoError(b, torch.Run(torch.CPU, func(s *torch.Scope) error {
					opt, err := c.config.New(benchParams(s).all())
					require.NoError(b, err)
					defer opt.Close()
					if path == "foreach" {
						for _, p := range opt.params {
							p.dense = false
						}
					}
					for range 8 {
						opt.Step(s)
					}
					for b.Loop() {
						opt.Step(s)
					}
					return nil
				}))
			})
		}
	}
}
