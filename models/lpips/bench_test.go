package lpips

import (
	"testing"

	"github.com/onestep-go/onestep/torch"
)

// A step of training needs the distance and the gradient in one of the images.
func BenchmarkDistance(b *testing.B) {
	for _, net := range []Net{Alex, VGG} {
		l, err := New(Config{Net: net}, torch.CPU, torch.Float32, 1)
		if err != nil {
			b.Fatal(err)
		}
		defer l.Close()
		b.Run(string(net), func(b *testing.B) {
			for b.Loop() {
				if err := torch.Run(torch.CPU, func(s *torch.Scope) error {
					x, y := pictures(s, 3, 64)
					x.SetRequiresGrad(true)
					l.Distance(s, x, y).Sum(s).Backward()
					return nil
				}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
