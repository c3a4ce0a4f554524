package texttoimage_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/sampling/texttoimage"
	"github.com/onestep-go/onestep/torch"
)

// A variation acts on the noise that is added to an input image's latents, as in A1111: one of strength 1 is that of its seed.
func TestVariationOfInputImage(t *testing.T) {
	m := openTiny(t, sd.Options{})
	picture, mask := given()
	for name, d := range map[string]texttoimage.Pipeline{
		"strength 1": {Strength: 1},
		"ddim":       {Strength: 0.8, Method: scheduler.DDIM{}},
		"euler":      {Strength: 0.8, Method: scheduler.Euler{}},
		"lcm":        {Strength: 0.8, Method: scheduler.LCM{}},
		"mask":       {Strength: 0.8, Mask: mask},
	} {
		t.Run(name, func(t *testing.T) {
			d.Model, d.Init, d.Steps, d.Seed = m, picture, 4, 1
			plain := images(t, d, "a cat")[0]
			varied := d
			varied.VariationSeed = 9
			require.Zero(t, off(plain, images(t, varied, "a cat")[0]))
			varied.VariationStrength = 0.4
			require.Greater(t, off(plain, images(t, varied, "a cat")[0]), 2)
			varied.VariationStrength = 1
			require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
				d.Latents = noise.NewStreams(s, 9).Randn(s, torch.Float32, 4, 8, 8)
				same(t, "the other seed's noise", images(t, d, "a cat"), images(t, varied, "a cat"))
				return nil
			}))
		})
	}
}
