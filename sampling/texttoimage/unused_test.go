package texttoimage_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/sampling/texttoimage"
)

// Options that the method or the model does not have are refused or said.
func TestUnusedOptions(t *testing.T) {
	sd15, lcm, sdxl := openKind(t, "sd15", sd.Options{}), openKind(t, "lcm15", sd.Options{}), openKind(t, "sdxl", sd.Options{})
	picture, _ := given()
	for name, c := range map[string]struct {
		d          texttoimage.Pipeline
		err, notes string // what they contain; "": there is none
	}{
		"shorten ddim":         {texttoimage.Pipeline{Model: sd15, Method: scheduler.DDIM{}, Init: picture, Shorten: true}, "ddim", ""},
		"shorten euler_karras": {texttoimage.Pipeline{Model: lcm, Method: scheduler.Euler{Karras: true}, Init: picture, Shorten: true}, "euler_karras", ""},
		"shorten lcm":          {texttoimage.Pipeline{Model: lcm, Init: picture, Shorten: true}, "", ""},
		"shorten tcd":          {texttoimage.Pipeline{Model: sd15, Method: scheduler.TCD{}, Init: picture, Shorten: true, Guidance: 1}, "", ""},
		"grid of euler":        {texttoimage.Pipeline{Model: sd15, Method: scheduler.Euler{}, OriginalSteps: 40}, "", "original steps (40) has no effect"},
		"grid of lcm":          {texttoimage.Pipeline{Model: lcm, OriginalSteps: 40}, "", ""},
		"variation seed":       {texttoimage.Pipeline{Model: lcm, VariationSeed: 3}, "", "the variation seed has no effect"},
		"variation":            {texttoimage.Pipeline{Model: lcm, VariationSeed: 3, VariationStrength: 0.1}, "", ""},
		"empty, no zeros":      {texttoimage.Pipeline{Model: sd15, EmptyNegative: true, Guidance: 5}, "", "empty negative prompt has no effect"},
		"empty, no guidance":   {texttoimage.Pipeline{Model: sdxl, EmptyNegative: true, Guidance: 1}, "", "empty negative prompt has no effect"},
		"empty":                {texttoimage.Pipeline{Model: sdxl, EmptyNegative: true, Guidance: 5}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			plan, err := c.d.Plan("a cat")
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
				return
			}
			require.NoError(t, err)
			got := joinNotices(plan.Notices)
			require.Contains(t, got, c.notes)
			if c.notes == "" {
				require.NotContains(t, got, "no effect")
			}
		})
	}
}
