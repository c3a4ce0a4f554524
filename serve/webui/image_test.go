package webui

import (
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestImageToImage(t *testing.T) {
	f, h := newFake()
	init := grey(t, 20, 10, 100)
	body := func(more string) string {
		return fmt.Sprintf(`{"init_images": [%q]%s}`, "data:image/png;base64,"+init, more)
	}
	got := post(t, h, "a", "/sdapi/v1/img2img", body(`, "prompt": "p", "denoising_strength": 0.4`))
	r := f.last()
	require.Equal(t, image.Pt(20, 10), r.Init.Bounds().Size())
	require.Equal(t, 100, shade(r.Init, 0, 0))
	require.Nil(t, r.Mask)
	require.Equal(t, 0.4, r.Strength)
	require.Equal(t, 0.4, *got.info.Strength)
	require.Empty(t, got.info.Notices)
	require.Contains(t, got.Parameters, "init_images")
	require.Nil(t, got.Parameters["init_images"], "unless they are asked for")

	got = post(t, h, "a", "/sdapi/v1/img2img", body(`, "include_init_images": true`))
	require.Equal(t, []any{"data:image/png;base64," + init}, got.Parameters["init_images"])
	require.Equal(t, 0.75, f.last().Strength)

	// Plain base64, several images, and one that is cut to the proportions of the result.
	got = post(t, h, "a", "/sdapi/v1/img2img", fmt.Sprintf(`{"init_images": [%q, "x"], "resize_mode": 1, "width": 64, "height": 64}`, init))
	require.Equal(t, image.Pt(10, 10), f.last().Init.Bounds().Size())
	requireNotices(t, got, "2 images")
	requireNotices(t, post(t, h, "a", "/sdapi/v1/img2img", body(`, "resize_mode": 2`)), "resize_mode 2")
}

func TestMask(t *testing.T) {
	f, h := newFake()
	half := image.NewGray(image.Rect(0, 0, 20, 10))
	for i := range half.Pix {
		if i%20 < 10 {
			half.Pix[i] = 255
		}
	}
	body := func(mask, more string) string {
		return fmt.Sprintf(`{"init_images": [%q], "mask": %q%s}`, grey(t, 20, 10, 100), mask, more)
	}
	got := post(t, h, "a", "/sdapi/v1/img2img", body(pngOf(t, half), ""))
	require.Equal(t, []int{255, 0}, []int{shade(f.last().Mask, 0, 5), shade(f.last().Mask, 19, 5)})
	require.Empty(t, got.info.Notices, "A1111's defaults are not what the client asked for")
	require.True(t, got.info.Inpaints)
	post(t, h, "a", "/sdapi/v1/img2img", body(pngOf(t, half), `, "inpainting_mask_invert": 1`))
	require.Equal(t, []int{0, 255}, []int{shade(f.last().Mask, 0, 5), shade(f.last().Mask, 19, 5)})
	post(t, h, "a", "/sdapi/v1/img2img", body(pngOf(t, half), `, "resize_mode": 1, "width": 8, "height": 8`))
	require.Equal(t, image.Pt(10, 10), f.last().Mask.Bounds().Size())

	// Of a drawing with transparency, the opaque part is the mask.
	drawn := image.NewNRGBA(image.Rect(0, 0, 20, 10))
	for y := range 10 {
		drawn.Set(0, y, color.NRGBA{0, 0, 0, 255})
	}
	post(t, h, "a", "/sdapi/v1/img2img", body(pngOf(t, drawn), ""))
	require.Equal(t, []int{255, 0}, []int{shade(f.last().Mask, 0, 5), shade(f.last().Mask, 19, 5)})

	got = post(t, h, "a", "/sdapi/v1/img2img", body(pngOf(t, half), `, "mask_blur": 4, "inpainting_fill": 0, "inpaint_full_res": true`))
	requireNotices(t, got, "mask_blur", "inpainting_fill 0", "inpaint_full_res")
	got = post(t, h, "a", "/sdapi/v1/img2img", body(pngOf(t, half), `, "mask_blur": 0, "inpainting_fill": 1, "inpaint_full_res": false`))
	require.Empty(t, got.info.Notices)
}

// No path or URL is opened, and what is no image is an error that names the field.
func TestBadImages(t *testing.T) {
	_, h := newFake()
	for _, c := range []struct {
		body   string
		status int
		loc    []any
	}{
		{`{}`, 404, nil},
		{`{"init_images": []}`, 404, nil},
		{`{"init_images": "x"}`, 422, []any{"body", "init_images"}},
		{`{"init_images": [null]}`, 422, []any{"body", "init_images", "0"}},
		{`{"init_images": [5]}`, 422, []any{"body", "init_images", "0"}},
		{`{"init_images": ["http://127.0.0.1/x.png"]}`, 422, []any{"body", "init_images", "0"}},
		{`{"init_images": ["/etc/passwd"]}`, 422, []any{"body", "init_images", "0"}},
		{`{"init_images": ["AAAA"], "mask": "AAAA"}`, 422, []any{"body", "init_images", "0"}},
		{fmt.Sprintf(`{"init_images": [%q], "mask": "file:///etc/passwd"}`, grey(t, 2, 2, 0)), 422, []any{"body", "mask"}},
		{fmt.Sprintf(`{"init_images": [%q], "denoising_strength": 0}`, grey(t, 2, 2, 0)), 422, []any{"body", "denoising_strength"}},
		{fmt.Sprintf(`{"init_images": [%q], "denoising_strength": 1.1}`, grey(t, 2, 2, 0)), 422, []any{"body", "denoising_strength"}},
		{fmt.Sprintf(`{"init_images": [%q], "resize_mode": 9}`, grey(t, 2, 2, 0)), 422, []any{"body", "resize_mode"}},
	} {
		status, body, _ := call(t, h, "a", "POST", "/sdapi/v1/img2img", c.body)
		require.Equal(t, c.status, status, "%s: %s", c.body, body)
		if c.loc == nil {
			continue
		}
		var e struct{ Detail invalid }
		require.NoError(t, json.Unmarshal(body, &e))
		require.Equal(t, c.loc, e.Detail[0].Loc, c.body)
		require.NotContains(t, string(body), "root:")
	}
	f, _ := newFake()
	h = New(f, Options{MaxPixels: 100})
	status, body, _ := call(t, h, "a", "POST", "/sdapi/v1/img2img", fmt.Sprintf(`{"init_images": [%q]}`, grey(t, 20, 10, 0)))
	require.Equal(t, 422, status)
	require.Contains(t, string(body), "100")
	require.Empty(t, f.seen)
}
