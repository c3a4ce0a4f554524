package sd

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd/clip"
	"github.com/onestep-go/onestep/models/sd/sdtest"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/models/sd/weights"
)

// A U-Net of Stable Diffusion 1 beside the text encoders of XL, and the other way round, is one error with both widths and families. Those that
// belong together are none, SSD-1B's and a distilled one beside XL's among them.
func TestCheckTellsFamilies(t *testing.T) {
	component := func(config any, shapes sdtest.Filled) *weights.Component {
		data, err := json.Marshal(config)
		require.NoError(t, err)
		return &weights.Component{Config: data, Source: shapes}
	}
	network := func(c unet.Config) *weights.Component { return component(c, unet.Shapes(c)) }
	text := func(c clip.Config) *weights.Component { return component(c, clip.Shapes(c)) }
	lcm := unet.SDXL()
	lcm.TimeCondProjDim = 256
	one, two := text(clip.L()), text(clip.BigG())
	for _, c := range []struct {
		m    weights.Model
		want []string
	}{
		{weights.Model{UNet: network(unet.SD15()), Text: one}, nil},
		{weights.Model{UNet: network(unet.SD21()), Text: text(clip.H())}, nil},
		{weights.Model{UNet: network(unet.SDXL()), Text: one, Text2: two}, nil},
		{weights.Model{UNet: network(unet.SSD1B()), Text: one, Text2: two}, nil},
		{weights.Model{UNet: network(lcm), Text: one, Text2: two}, nil},
		{weights.Model{UNet: network(unet.SD15()), Text: one, Text2: two}, []string{"768 (Stable Diffusion 1)", "2048 (Stable Diffusion XL"}},
		{weights.Model{UNet: network(unet.SDXL()), Text: one}, []string{"2048 (Stable Diffusion XL", "768 (Stable Diffusion 1)"}},
		{weights.Model{UNet: network(unet.SD21()), Text: one}, []string{"1024 (Stable Diffusion 2)", "768 (Stable Diffusion 1)"}},
	} {
		err := Check(&c.m)
		if c.want == nil {
			require.NoError(t, err)
			continue
		}
		for _, want := range c.want {
			require.ErrorContains(t, err, want)
		}
		require.NotContains(t, err.Error(), "\n")
	}
}
