package openai

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/serve/engine"
)

// A value of 0 is no default: it is served as near to 0 as can be, or said.
func TestZero(t *testing.T) {
	e := &fake{}
	h := New(e, Options{})
	a := form(t, h, edits, value("prompt", "a"), part{"image", "a.png", picture(t, 8, 8, false)}, value("strength", "0"), value("guidance", "0"), value("steps", "0"))
	require.Equal(t, 200, a.status, "%s", a.body)
	assert.Equal(t, []any{engine.LeastStrength, 1.0}, []any{e.request().Strength, e.request().Guidance})
	assert.Len(t, a.Notices, 2)
}

// Parameters that come as files are read; what is no text is an error, and what nothing uses is a notice.
func TestFormFiles(t *testing.T) {
	e := &fake{}
	h := New(e, Options{})
	binary := []byte("\xff\xfe\x00")
	a := form(t, h, edits, part{"prompt", "blob", []byte("a hat")}, part{"images", "a.png", picture(t, 8, 4, false)}, part{"seed", "blob", []byte("7")}, part{"other", "b", binary})
	require.Equal(t, 200, a.status, "%s", a.body)
	assert.Equal(t, []any{"a hat", uint64(7), image.Pt(8, 4)}, []any{e.request().Prompt, *e.request().Seed, e.request().Init.Bounds().Size()})
	require.Len(t, a.Notices, 1)
	assert.Contains(t, a.Notices[0], "other")
	a = form(t, h, edits, part{"prompt", "blob", binary}, part{"file", "a.png", picture(t, 8, 4, false)})
	assert.Equal(t, 400, a.status)
	assert.Equal(t, "prompt", *a.Error.Param)
}

// Objects of adapters have numbers in some forms; a key that is none is refused.
func TestLoRAKeys(t *testing.T) {
	e := &fake{}
	h := New(e, Options{})
	image1 := part{"image", "a.png", picture(t, 4, 4, false)}
	a := form(t, h, edits, value("prompt", "a"), image1, value("loras[10][name]", "c"), value("loras[0][name]", "a"), value("loras[0][weight]", "0.5"), value("loras[2][name]", "b"))
	require.Equal(t, 200, a.status, "%s", a.body)
	assert.Equal(t, []prompt.LoRA{{Name: "a", Weight: 0.5, Text: 0.5}, {Name: "b", Weight: 1, Text: 1}, {Name: "c", Weight: 1, Text: 1}}, e.request().LoRAs)
	assert.Empty(t, a.Notices)
	a = form(t, h, edits, value("prompt", "a"), image1, value("loras[0][name]", "a"), value("loras[0][wieght]", "0.5"))
	assert.Equal(t, 400, a.status)
	assert.Contains(t, string(a.body), "wieght")
}

// What is not masked is the input image to the bit with a latent diffusion model, whose images are otherwise a little different everywhere.
func TestEditKeeps(t *testing.T) {
	h := New(&fake{}, Options{})
	image1, mask := part{"image", "a.png", picture(t, 20, 10, false)}, part{"mask", "m.png", picture(t, 20, 10, true)}
	for _, stream := range []string{"false", "true"} {
		a := form(t, h, edits, value("prompt", "a hat"), value("model", "org/sd-turbo"), image1, mask, value("stream", stream))
		require.Equal(t, 200, a.status, "%s", a.body)
		var file []byte
		if stream == "false" {
			file = a.Data[0].B64JSON
		} else {
			all := eventsOf(t, a)
			file = all[len(all)-1].B64JSON
		}
		m, err := png.Decode(bytes.NewReader(file))
		require.NoError(t, err)
		assert.Equal(t, color.NRGBA{200, 100, 50, 255}, color.NRGBAModel.Convert(m.At(3, 3)))
		assert.Equal(t, color.NRGBA{255, 255, 255, 255}, color.NRGBAModel.Convert(m.At(0, 3)), "repainted")
	}
}
