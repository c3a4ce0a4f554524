package openai

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/builtin"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/sampling/generate"
	"github.com/onestep-go/onestep/serve/engine"
	"github.com/onestep-go/onestep/torch/torchtest"
	"github.com/onestep-go/onestep/torch/vision"
)

func TestMain(m *testing.M) { torchtest.Main(m) }

// The built-in model by the real engine: what is sent is what is generated, and the file says how.
func TestBuiltIn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "builtin.safetensors")
	require.NoError(t, os.WriteFile(path, builtin.Data(), 0o600))
	e, err := engine.New(engine.Options{MaxImages: 2, MaxPixels: 128 * 128, Models: []engine.Model{
		{Name: "builtin", Open: func() (*generate.Model, error) { return generate.Open(path, sd.Options{}) }},
	}})
	require.NoError(t, err)
	defer func() { require.NoError(t, e.Close()) }()
	h := New(e, Options{})
	a := post(t, h, generations, `{"model": "gpt-image-1", "prompt": "animals", "n": 2, "size": "48x48", "seed": "7"}`)
	require.Equal(t, 200, a.status, "%s", a.body)
	require.Len(t, a.Data, 2)
	assert.Equal(t, []any{"48x48", "builtin", uint64(7), uint64(8)}, []any{a.Size, a.Model, a.Data[0].Seed, a.Data[1].Seed})
	second, err := vision.Decode(a.Data[1].B64JSON)
	require.NoError(t, err)
	assert.Equal(t, image.Pt(48, 48), second.Bounds().Size())
	texts, err := vision.ReadTexts(bytes.NewReader(a.Data[1].B64JSON))
	require.NoError(t, err)
	settings := map[string]string{}
	for _, text := range texts {
		settings[text.Keyword] = text.Value
	}
	var wrote struct{ Seed uint64 }
	require.NoError(t, json.Unmarshal([]byte(settings["onestep"]), &wrote), "%v", settings)
	assert.EqualValues(t, 8, wrote.Seed)

	// The same seed is the same image, in a stream, too.
	all := eventsOf(t, post(t, h, generations, `{"prompt": "animals", "size": "48x48", "seed": 8, "stream": true}`))
	require.Equal(t, "image_generation.completed", all[len(all)-1].name)
	alone, err := vision.Decode(all[len(all)-1].B64JSON)
	require.NoError(t, err)
	assert.Equal(t, vision.OnWhite(second).Pix, vision.OnWhite(alone).Pix)

	// Only what is transparent in the mask changes.
	is := part{"image", "a.png", picture(t, 32, 32, false)}
	mask := part{"mask", "m.png", picture(t, 32, 32, true)}
	a = form(t, h, edits, value("prompt", "animals"), value("seed", "1"), is, mask)
	require.Equal(t, 200, a.status, "%s", a.body)
	got, err := vision.Decode(a.Data[0].B64JSON)
	require.NoError(t, err)
	for y := range 32 {
		r, g, b, _ := got.At(20, y).RGBA()
		require.InDeltaSlice(t, []uint32{200, 100, 50}, []uint32{r >> 8, g >> 8, b >> 8}, 1)
	}
	assert.Equal(t, 200, form(t, h, variations, is, value("seed", "1")).status)

	for body, param := range map[string]string{
		`{"prompt": "no such class"}`: "prompt", `{"prompt": "", "labels": [99]}`: "labels", `{"prompt": "animals", "seed": 18446744073709551615, "n": 2}`: "seed",
		`{"prompt": "` + strings.Repeat("a", 11_000) + `"}`: "prompt",
	} {
		a := post(t, h, generations, body)
		if assert.Equal(t, 400, a.status, param) && assert.NotNil(t, a.Error.Param) {
			assert.Equal(t, param, *a.Error.Param)
		}
	}
	// What is more than the limits is less than was asked for, and the reply says so.
	a = post(t, h, generations, `{"prompt": "animals", "n": 100, "steps": 100, "size": "4096x2048"}`)
	require.Equal(t, 200, a.status)
	assert.Len(t, a.Data, 2)
	assert.GreaterOrEqual(t, len(a.Notices), 3)
	var width, height int
	_, err = fmt.Sscanf(a.Size, "%dx%d", &width, &height)
	require.NoError(t, err)
	assert.LessOrEqual(t, width*height, 128*128)
}
