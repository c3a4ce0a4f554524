package webui

import (
	"context"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/sampling/texttoimage/infotext"
	"github.com/onestep-go/onestep/serve/engine"
	"github.com/onestep-go/onestep/serve/internal/upload"
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

// halfMask is white on the left half.
func halfMask(w, h int) *image.Gray {
	m := image.NewGray(image.Rect(0, 0, w, h))
	for i := range m.Pix {
		if i%w < w/2 {
			m.Pix[i] = 255
		}
	}
	return m
}

func TestMask(t *testing.T) {
	f, h := newFake()
	body := func(mask image.Image, more string) string {
		return fmt.Sprintf(`{"init_images": [%q], "mask": %q, "inpaint_full_res": false, "mask_blur": 0, "seed": 30%s}`, grey(t, 20, 10, 100), pngOf(t, mask), more)
	}
	sides := func(m image.Image) []int { return []int{shade(m, 0, 5), shade(m, 19, 5)} }
	got := post(t, h, "a", "/sdapi/v1/img2img", body(halfMask(20, 10), `, "width": 20, "height": 10`))
	require.Equal(t, []int{255, 0}, sides(f.last().Mask))
	require.Empty(t, got.info.Notices)
	require.True(t, got.info.Inpaints)
	// What is black in the mask is the input image to the bit.
	m, _ := decode(t, got.Images[0])
	require.Equal(t, []int{30, 100}, sides(m))
	got = post(t, h, "a", "/sdapi/v1/img2img", body(halfMask(20, 10), `, "width": 20, "height": 10, "inpainting_mask_invert": 1`))
	require.Equal(t, []int{0, 255}, sides(f.last().Mask))
	m, _ = decode(t, got.Images[0])
	require.Equal(t, []int{100, 30}, sides(m))
	got = post(t, h, "a", "/sdapi/v1/img2img", body(halfMask(20, 10), `, "resize_mode": 1, "width": 8, "height": 8`))
	require.Equal(t, image.Pt(10, 10), f.last().Mask.Bounds().Size())
	m, _ = decode(t, got.Images[0])
	require.Equal(t, image.Pt(8, 8), m.Bounds().Size())

	// Of a drawing with transparency, the opaque part is the mask; a mask of another size is scaled.
	drawn := image.NewNRGBA(image.Rect(0, 0, 40, 20))
	for i := range 60 {
		drawn.Set(i%3, i/3, color.NRGBA{0, 0, 0, 255})
	}
	post(t, h, "a", "/sdapi/v1/img2img", body(drawn, ""))
	require.Equal(t, []int{255, 0}, sides(f.last().Mask))
	require.Equal(t, image.Pt(20, 10), f.last().Mask.Bounds().Size())

	got = post(t, h, "a", "/sdapi/v1/img2img", body(halfMask(20, 10), `, "inpainting_fill": 2, "mask_round": false`))
	requireNotices(t, got, "mask_round", "inpainting_fill 2")
	got = post(t, h, "a", "/sdapi/v1/img2img", body(halfMask(20, 10), `, "inpainting_fill": 1, "mask_round": true`))
	require.Empty(t, got.info.Notices)
	status, _, _ := call(t, h, "a", "POST", "/sdapi/v1/img2img", body(halfMask(20, 10), `, "mask_blur_x": 1e9`))
	require.Equal(t, 422, status)
}

// The edge of a mask is soft, and the settings say how.
func TestMaskBlur(t *testing.T) {
	_, h := newFake()
	got := post(t, h, "a", "/sdapi/v1/img2img", fmt.Sprintf(`{"init_images": [%q], "mask": %q, "width": 80, "height": 10, "seed": 0, "inpaint_full_res": false}`,
		grey(t, 80, 10, 200), pngOf(t, halfMask(80, 10))))
	m, texts := decode(t, got.Images[0])
	row := []int{}
	for x := range 80 {
		row = append(row, shade(m, x, 5))
	}
	require.True(t, slices.IsSorted(row), "%d", row)
	require.Equal(t, []int{0, 200}, []int{row[20], row[59]})
	// A Gaussian with a standard deviation of 4 pixels around the edge at 40, in its 16th, 50th and 84th percent.
	for x, want := range map[int]float64{36: 0.16, 40: 0.5, 44: 0.84} {
		require.InDelta(t, 200*want, (float64(row[x-1])+float64(row[x]))/2, 4, x)
	}
	require.Equal(t, "4", got.info.Extra["Mask blur"])
	require.Equal(t, "4", infotext.Parse(texts[0].Value).Get("Mask blur"))
	require.Equal(t, got.info.Texts[0], texts[0].Value)
}

// Where the mask is white, the model gets the colours around it, or the input image.
func TestFill(t *testing.T) {
	f, h := newFake()
	input, mask := image.NewGray(image.Rect(0, 0, 60, 20)), image.NewGray(image.Rect(0, 0, 60, 20))
	for i := range input.Pix {
		switch x := i % 60; {
		case x < 20:
			input.Pix[i] = 40
		case x < 40:
			input.Pix[i], mask.Pix[i] = 255, 255
		default:
			input.Pix[i] = 200
		}
	}
	for fill, want := range map[string][]int{"0": {40, 40, 200, 200}, "1": {40, 255, 255, 200}} {
		post(t, h, "a", "/sdapi/v1/img2img", fmt.Sprintf(`{"init_images": [%q], "mask": %q, "mask_blur": 0, "inpaint_full_res": false, "inpainting_fill": %s}`,
			pngOf(t, input), pngOf(t, mask), fill))
		row := []int{}
		for x := range 60 {
			row = append(row, shade(f.last().Init, x, 10))
		}
		require.Equal(t, []int{want[0], want[3]}, []int{row[19], row[40]}, "what is kept")
		require.InDelta(t, want[1], row[20], 5)
		require.InDelta(t, want[2], row[39], 5)
		require.True(t, fill == "1" || slices.IsSorted(row), "%d", row)
	}
	// Without anything to keep there are no colours around it.
	post(t, h, "a", "/sdapi/v1/img2img", fmt.Sprintf(`{"init_images": [%q], "mask": %q}`, grey(t, 8, 8, 100), grey(t, 8, 8, 255)))
	require.Equal(t, 100, shade(f.last().Init, 4, 4))
}

// A1111's default is to generate the masked part alone, enlarged, and to put it in its place.
func TestOnlyMasked(t *testing.T) {
	f, h := newFake()
	mask := image.NewGray(image.Rect(0, 0, 100, 60))
	for y := 20; y < 30; y++ {
		for x := 40; x < 44; x++ {
			mask.SetGray(x, y, color.Gray{255})
		}
	}
	got := post(t, h, "a", "/sdapi/v1/img2img", fmt.Sprintf(`{"init_images": [%q], "mask": %q, "width": 64, "height": 64, "seed": 9, "mask_blur": 0, "inpaint_full_res_padding": 3}`,
		grey(t, 100, 60, 100), pngOf(t, mask)))
	require.Equal(t, image.Pt(16, 16), f.last().Init.Bounds().Size())
	require.Equal(t, image.Pt(16, 16), f.last().Mask.Bounds().Size())
	m, texts := decode(t, got.Images[0])
	require.Equal(t, image.Pt(100, 60), m.Bounds().Size())
	for y := range 60 {
		for x := range 100 {
			want := 100
			if mask.GrayAt(x, y).Y > 0 {
				want = 9
			}
			require.Equal(t, want, shade(m, x, y))
		}
	}
	require.Equal(t, []string{"Only masked", "3"}, []string{got.info.Extra["Inpaint area"], infotext.Parse(texts[0].Value).Get("Masked area padding")})
	require.Empty(t, got.info.Notices)

	// At the border, the part is moved inside; where it is as large as the image, it ends there.
	whole := image.Rect(0, 0, 100, 60)
	for _, c := range []struct{ part, want image.Rectangle }{
		{image.Rect(0, 0, 2, 20), image.Rect(0, 0, 20, 20)},
		{image.Rect(95, 50, 100, 60), image.Rect(90, 50, 100, 60)},
		{image.Rect(10, 0, 90, 60), image.Rect(10, 0, 90, 60)},
		{image.Rect(50, 30, 51, 31), image.Rect(50, 30, 51, 31)},
	} {
		require.Equal(t, c.want, inProportion(c.part, 0, 0, whole))
	}
	require.Equal(t, image.Rect(30, 20, 50, 30), inProportion(image.Rect(38, 20, 42, 30), 512, 256, whole))
	// A mask without white: the whole image, as in A1111.
	got = post(t, h, "a", "/sdapi/v1/img2img", fmt.Sprintf(`{"init_images": [%q], "mask": %q}`, grey(t, 100, 60, 100), grey(t, 100, 60, 0)))
	require.Equal(t, image.Pt(100, 60), f.last().Init.Bounds().Size())
	require.NotContains(t, got.info.Extra, "Inpaint area")
}

// Of large images, which requests keep while they wait, few pixels are kept; where that changes the result it is said.
func TestLargeImages(t *testing.T) {
	f, h := newFake()
	h.(*server).decoder = upload.NewDecoder(upload.Limits{}, 1000)
	body := fmt.Sprintf(`{"init_images": [%q], "width": 8, "height": 8%%s}`, grey(t, 100, 50, 100))
	got := post(t, h, "a", "/sdapi/v1/img2img", fmt.Sprintf(body, ""))
	require.Equal(t, image.Pt(44, 22), f.last().Init.Bounds().Size())
	require.Empty(t, got.info.Notices)
	got = post(t, h, "a", "/sdapi/v1/img2img", fmt.Sprintf(body, fmt.Sprintf(`, "mask": %q, "mask_blur": 0`, pngOf(t, halfMask(64, 32)))))
	m, _ := decode(t, got.Images[0])
	require.Equal(t, image.Pt(44, 22), m.Bounds().Size())
	requireNotices(t, got, "100×50 to 44×22")

	// Transparency counts before pixels are left out: of a mask, what is drawn, and of an input image, which goes on white.
	drawn := image.NewNRGBA(image.Rect(0, 0, 100, 50))
	for y := range 50 {
		for x := range 50 {
			drawn.Set(x, y, color.NRGBA{0, 0, 0, 255})
		}
	}
	post(t, h, "a", "/sdapi/v1/img2img", fmt.Sprintf(`{"init_images": [%q], "mask": %[1]q, "inpaint_full_res": false, "mask_blur": 0, "inpainting_fill": 1}`, pngOf(t, drawn)))
	require.Equal(t, []int{255, 0}, []int{shade(f.last().Mask, 0, 11), shade(f.last().Mask, 43, 11)})
	require.Equal(t, []int{0, 255}, []int{shade(f.last().Init, 0, 11), shade(f.last().Init, 43, 11)})
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

// The images of a request whose client is gone are not worked on, and those of too many requests are refused.
func TestImagesInTurn(t *testing.T) {
	f, h := newFake()
	body := fmt.Sprintf(`{"init_images": [%q], "mask": %q}`, grey(t, 64, 64, 100), pngOf(t, halfMask(64, 64)))
	r := httptest.NewRequest("POST", "/sdapi/v1/img2img", strings.NewReader(body))
	ctx, cancel := context.WithCancel(r.Context())
	cancel()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r.WithContext(ctx))
	require.Empty(t, f.seen)
	require.Empty(t, w.Body.String())
	_, err := filled(ctx, image.NewNRGBA(image.Rect(0, 0, 8, 8)), halfMask(8, 8))
	require.ErrorIs(t, err, context.Canceled)

	hog := h.(*server).decoder.For(t.Context(), "hog")
	for n := 100 << 20; n > 0; {
		if hog.Hold(n) != nil {
			n /= 2
		}
	}
	status, data, header := call(t, h, "a", "POST", "/sdapi/v1/img2img", body)
	require.Equal(t, 429, status, string(data))
	require.NotEmpty(t, header.Get("Retry-After"))
	hog.Close()
	post(t, h, "a", "/sdapi/v1/img2img", body)
}

// No strength is a strength.
func TestNoStrength(t *testing.T) {
	f, h := newFake()
	got := post(t, h, "a", "/sdapi/v1/img2img", fmt.Sprintf(`{"init_images": [%q], "denoising_strength": 0}`, grey(t, 2, 2, 0)))
	require.Equal(t, engine.LeastStrength, f.last().Strength)
	require.Zero(t, *got.info.Strength)
}
