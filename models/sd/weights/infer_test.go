package weights

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/sd/unet"
)

// Networks that are nearly published ones are recognised by their tensors' sizes: all settings are theirs, but for what was changed.
func TestInferred(t *testing.T) {
	for name, c := range map[string]struct {
		kind   Kind
		change func(c *unet.Config)
	}{
		"Stable Diffusion 1 for edits by instructions": {SD15, func(c *unet.Config) { c.InChannels = 8 }},
		"Stable Diffusion 2 for inpainting":            {SD2, func(c *unet.Config) { c.InChannels = 9 }},
		"SDXL for inpainting":                          {SDXL, func(c *unet.Config) { c.InChannels = 9 }},
		"a full latent consistency model of SDXL":      {SDXL, func(c *unet.Config) { c.TimeCondProjDim = 256 }},
		"a full latent consistency model of SSD-1B":    {SSD1B, func(c *unet.Config) { c.TimeCondProjDim = 256 }},
	} {
		t.Run(name, func(t *testing.T) {
			want := full(t, c.kind)
			var config unet.Config
			require.NoError(t, json.Unmarshal(want.UNet.Config, &config))
			c.change(&config)
			want.UNet = componentOf(t, config, unet.Shapes(config))
			file := published(t, want)
			l, err := sniff(file)
			require.NoError(t, err)
			assert.Equal(t, c.kind, l.kind)
			got := &Model{Kind: l.kind}
			require.NoError(t, got.fill(file, l, Options{}))
			inferred, err := unet.ParseConfig(got.UNet.Config)
			require.NoError(t, err)
			assert.True(t, hasAll(got.UNet, unet.Shapes(inferred)))
			if c.kind == SD15 || c.kind == SD2 { // tensors do not tell it
				inferred.SampleSize, config.SampleSize = nil, nil
			}
			ours, theirs := settings(t, inferred), settings(t, config)
			if c.kind == SSD1B { // said in another way; the tensors show that it is the same
				for _, key := range []string{"transformer_layers_per_block", "reverse_transformer_layers_per_block"} {
					delete(ours, key)
					delete(theirs, key)
				}
			}
			assert.Equal(t, theirs, ours)

			// Of inpainting, diffusers has pipelines of their own, and all predict the noise.
			paints := config.InChannels == 9
			chain, err := noise.ParseConfig(got.Scheduler)
			require.NoError(t, err)
			assert.Equal(t, noise.Epsilon, chain.Predicts)
			index, err := got.index()
			require.NoError(t, err)
			assert.Equal(t, paints, strings.Contains(string(index), "InpaintPipeline"))
		})
	}
}

// settings returns a configuration as it takes effect.
func settings(t *testing.T, c unet.Config) map[string]any {
	t.Helper()
	data, err := json.Marshal(c.WithDefaults())
	require.NoError(t, err)
	var all map[string]any
	require.NoError(t, json.Unmarshal(data, &all))
	return all
}
