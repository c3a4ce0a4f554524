package unet

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/sd/sdtest"
	"github.com/onestep-go/onestep/torch"
)

// BenchmarkLevel is a way down and up through one level of Stable Diffusion 1.5, as large as its levels are for a picture of
// 512×512 pixels: three residual blocks and three transformers.
func BenchmarkLevel(b *testing.B) {
	for _, level := range []struct{ channels, side int }{{320, 64}, {1280, 16}} {
		for _, dtype := range []torch.DType{torch.Float32, torch.BFloat16} {
			c := SD15()
			c.BlockOutChannels, c.LayersPerBlock, c.TimeEmbeddingDim = Ints{level.channels}, Ints{1}, 1280
			c.DownBlockTypes, c.MidBlockType, c.UpBlockTypes = []string{crossDownBlock}, NoMid, []string{crossUpBlock}
			u, err := From(c, sdtest.Filled(Shapes(c)), torch.CPU, dtype)
			require.NoError(b, err)
			b.Run(fmt.Sprint(level.channels, "x", level.side, "x", level.side, "/", dtype), func(b *testing.B) {
				require.NoError(b, torch.Run(torch.CPU, func(s *torch.Scope) error {
					return s.NoGrad(func(s *torch.Scope) error {
						g := torch.NewGenerator(s, 1)
						random := func(dims ...int) *torch.Tensor {
							return torch.Randn(s, g, torch.Float32, dims...).To(s, dtype)
						}
						x, text := random(1, 4, level.side, level.side), random(1, 77, 768)
						t := torch.Zeros(s, torch.Int64, 1)
						for b.Loop() {
							u.Forward(s, x, t, models.Cond{Text: text}).Free()
						}
						return nil
					})
				}))
			})
			u.Close()
		}
	}
}
