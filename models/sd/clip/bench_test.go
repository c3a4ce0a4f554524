package clip

import (
	"fmt"
	"testing"

	"github.com/onestep-go/onestep/torch"
)

// CLIP ViT-L/14 with random weights on texts of 77 tokens: one, and two as guidance needs.
func BenchmarkForward(b *testing.B) {
	for _, dtype := range []torch.DType{torch.Float32, torch.BFloat16} {
		e, err := New(L(), torch.CPU, dtype, 1)
		if err != nil {
			b.Fatal(err)
		}
		for _, n := range []int{1, 2} {
			b.Run(fmt.Sprintf("%s/%d", dtype, n), func(b *testing.B) {
				for b.Loop() {
					if err := torch.Run(torch.CPU, func(s *torch.Scope) error {
						return s.NoGrad(func(s *torch.Scope) error {
							e.Forward(s, zeros(s, n, 77).AddScalar(s, 320), Options{})
							return nil
						})
					}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		e.Close()
	}
}
