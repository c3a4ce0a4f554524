package webui

import (
	"bytes"
	"fmt"
	"image"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/builtin"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/sampling/generate"
	"github.com/onestep-go/onestep/sampling/texttoimage/infotext"
	"github.com/onestep-go/onestep/serve/engine"
	"github.com/onestep-go/onestep/torch/torchtest"
	"github.com/onestep-go/onestep/torch/vision"
)

func TestMain(m *testing.M) { torchtest.Main(m) }

// The built-in model by the real engine: the same seed is the same image, alone and among others.
func TestBuiltIn(t *testing.T) {
	file := filepath.Join(t.TempDir(), "builtin.safetensors")
	require.NoError(t, os.WriteFile(file, builtin.Data(), 0o600))
	e, err := engine.New(engine.Options{MaxImages: 2, MaxSteps: 2, Models: []engine.Model{
		{Name: "builtin", Open: func() (*generate.Model, error) { return generate.Open(file, sd.Options{}) }},
	}})
	require.NoError(t, err)
	defer func() { require.NoError(t, e.Close()) }()
	h := New(e, Options{})
	got := post(t, h, "a", "/sdapi/v1/txt2img", `{"prompt": "0", "seed": 7, "batch_size": 2, "sampler_name": "Euler a", "scheduler": "automatic", "width": 48, "height": 48}`)
	require.Len(t, got.Images, 2)
	require.Equal(t, []uint64{7, 8}, got.info.AllSeeds)
	require.Equal(t, []any{48, 48, "builtin"}, []any{got.info.Width, got.info.Height, got.info.Model})
	settings := infotext.Parse(got.info.Texts[1])
	require.Equal(t, []string{"8", "48x48", "builtin"}, []string{settings.Get("Seed"), settings.Get("Size"), settings.Get("Model")})
	require.NotEmpty(t, settings.Get("Class"))
	require.Contains(t, fmt.Sprint(got.info.Notices), "euler_a")
	second, _ := decode(t, got.Images[1])
	require.Equal(t, image.Pt(48, 48), second.Bounds().Size())

	alone := post(t, h, "a", "/sdapi/v1/txt2img", `{"prompt": "0", "seed": 8, "width": 48, "height": 48}`)
	first, _ := decode(t, alone.Images[0])
	require.Equal(t, vision.OnWhite(second).Pix, vision.OnWhite(first).Pix)
	require.Equal(t, []any{"multistep"}, names(get(t, h, "a", "/sdapi/v1/samplers"), "name"))

	// Inpainting keeps what is black in the mask.
	mask := image.NewGray(image.Rect(0, 0, 32, 32))
	copy(mask.Pix, bytes.Repeat([]byte{255}, 16*32))
	got = post(t, h, "a", "/sdapi/v1/img2img", fmt.Sprintf(`{"prompt": "0", "seed": 1, "width": 32, "height": 32, "init_images": [%q], "mask": %q}`,
		grey(t, 32, 32, 90), pngOf(t, mask)))
	m, _ := decode(t, got.Images[0])
	require.InDelta(t, 90, shade(m, 5, 30), 1)
	got = post(t, h, "a", "/sdapi/v1/txt2img", `{"prompt": "0", "batch_size": 3, "steps": 22}`)
	require.Len(t, got.Images, 2, "as many as are allowed")
	require.Equal(t, []int{2, 2}, []int{len(got.info.AllPrompts), got.info.Steps})
	require.Len(t, got.info.Notices, 2)
	status, body, _ := call(t, h, "a", "POST", "/sdapi/v1/txt2img", `{"prompt": "a photo of something else"}`)
	require.Equal(t, 400, status)
	require.Contains(t, string(body), "prompt")
}

// The enlargement of the masked part is no notice, since clients ask for it; another size of the whole input image is one.
func TestMaskedPartNotices(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "model")
	require.NoError(t, tiny.Write(dir, "sd15"))
	e, err := engine.New(engine.Options{Models: []engine.Model{{Name: "sd15", Open: func() (*generate.Model, error) { return generate.Open(dir, sd.Options{}) }}}})
	require.NoError(t, err)
	defer func() { require.NoError(t, e.Close()) }()
	h := New(e, Options{})
	mask := image.NewGray(image.Rect(0, 0, 32, 32))
	copy(mask.Pix[8*32+8:], bytes.Repeat([]byte{255}, 8))
	ask := func(more string) []string {
		return post(t, h, "a", "/sdapi/v1/img2img", fmt.Sprintf(`{"prompt": "a cat", "steps": 2, "width": 32, "height": 32, "init_images": [%q], "mask": %q, "mask_blur": 0%s}`,
			grey(t, 32, 32, 90), pngOf(t, mask), more)).info.Notices
	}
	require.Empty(t, ask(``))
	require.Empty(t, ask(`, "inpaint_full_res": false`))
	require.Empty(t, ask(`, "inpaint_full_res_padding": 4`))
	got := post(t, h, "a", "/sdapi/v1/img2img", fmt.Sprintf(`{"prompt": "a cat", "steps": 2, "width": 32, "height": 32, "init_images": [%q]}`, grey(t, 16, 16, 90)))
	require.Equal(t, []string{"the input image is resized from 16×16 to 32×32 pixels"}, got.info.Notices)
}
