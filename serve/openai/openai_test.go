package openai

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/serve/engine"
	"github.com/onestep-go/onestep/torch/vision"
)

// answer is any reply.
type answer struct {
	status int
	header http.Header
	body   []byte

	Error struct {
		Message, Type string
		Param, Code   *string
	}
	Data []struct {
		B64JSON       []byte `json:"b64_json"`
		URL           string
		RevisedPrompt string `json:"revised_prompt"`
		Seed          uint64
	}
	Created                 int64
	Size, Model, Background string
	OutputFormat            string `json:"output_format"`
	Notices                 []string
	Usage                   map[string]any
}

func do(t *testing.T, h http.Handler, r *http.Request) answer {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	a := answer{status: w.Code, header: w.Result().Header, body: w.Body.Bytes()}
	if strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") {
		require.NoError(t, json.Unmarshal(a.body, &a), "%s", a.body)
	}
	return a
}

func post(t *testing.T, h http.Handler, path, body string) answer {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	return do(t, h, r)
}

const generations, edits, variations = "/v1/images/generations", "/v1/images/edits", "/v1/images/variations"

// part is a part of a form: a value, or a file if it has a name.
type part struct {
	name, file string
	data       []byte
}

func form(t *testing.T, h http.Handler, path string, parts ...part) answer {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for _, p := range parts {
		to, err := io.Writer(nil), error(nil)
		if p.file == "" {
			to, err = w.CreateFormField(p.name)
		} else {
			to, err = w.CreateFormFile(p.name, p.file)
		}
		require.NoError(t, err)
		_, err = to.Write(p.data)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	r := httptest.NewRequest(http.MethodPost, path, &b)
	r.Header.Set("Content-Type", w.FormDataContentType())
	return do(t, h, r)
}

func value(name, text string) part { return part{name: name, data: []byte(text)} }

// picture is a PNG of one colour, transparent at its left edge if it is to be.
func picture(t *testing.T, w, h int, transparent bool) []byte {
	t.Helper()
	m := image.NewNRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			m.Set(x, y, color.NRGBA{R: 200, G: 100, B: 50, A: 255})
			if transparent && x == 0 {
				m.Set(x, y, color.NRGBA{})
			}
		}
	}
	var b bytes.Buffer
	require.NoError(t, png.Encode(&b, m))
	return b.Bytes()
}

func TestGeneration(t *testing.T) {
	e := &fake{notices: []string{"the scale 7 has no effect on 32×32"}, texts: []vision.Text{{Keyword: "parameters", Value: "a cat\nSteps: 1"}}}
	h := New(e, Options{})
	a := post(t, h, generations, `{"model": "emoji", "prompt": "a cat", "n": 2, "size": "48x40", "seed": 7, "steps": 2, "guidance": 7.5, "negative_prompt": "dog",
		"sampler": "heun", "strength": 0.5, "loras": [{"name": "style", "weight": 0.5}, "b:0.25", "c"], "labels": [1, 0]}`)
	require.Equal(t, 200, a.status, "%s", a.body)
	seed := uint64(7)
	assert.Equal(t, engine.Request{
		Model: "emoji", Prompt: "a cat", Negative: "dog", N: 2, Width: 48, Height: 40, Seed: &seed, Steps: 2, Guidance: 7.5, Sampler: "heun", Strength: 0.5,
		Labels: []int{1, 0}, LoRAs: []prompt.LoRA{{Name: "style", Weight: 0.5, Text: 0.5}, {Name: "b", Weight: 0.25, Text: 0.25}, {Name: "c", Weight: 1, Text: 1}},
	}, e.request())
	require.Len(t, a.Data, 2)
	for i, d := range a.Data {
		assert.EqualValues(t, 7+i, d.Seed)
		assert.Equal(t, "a cat", d.RevisedPrompt)
		assert.Empty(t, d.URL)
		m, err := png.Decode(bytes.NewReader(d.B64JSON))
		require.NoError(t, err)
		assert.Equal(t, image.Pt(48, 40), m.Bounds().Size())
		texts, err := vision.ReadTexts(bytes.NewReader(d.B64JSON))
		require.NoError(t, err)
		assert.Equal(t, e.texts, texts)
	}
	assert.Equal(t, "48x40", a.Size)
	assert.Equal(t, "png", a.OutputFormat)
	assert.Equal(t, "opaque", a.Background)
	assert.Equal(t, "emoji", a.Model)
	assert.InDelta(t, time.Now().Unix(), a.Created, 5)
	assert.Contains(t, a.Usage, "total_tokens")
	assert.Equal(t, e.notices, a.Notices)
	assert.Equal(t, "the scale 7 has no effect on 32x32", a.header.Get("Onestep-Notice"))
}

// What some clients send in place of what is documented.
func TestLenient(t *testing.T) {
	e := &fake{}
	h := New(e, Options{})
	a := post(t, h, generations, `{"prompt": "", "n": "2", "size": " 32 X 16 ", "seed": "7", "steps": "3.0", "guidance": "1.5", "stream": "false", "user": null,
		"response_format": null, "output_format": "jpg", "output_compression": "90"}`)
	require.Equal(t, 200, a.status, "%s", a.body)
	is := e.request()
	assert.Equal(t, []any{2, 3, 1.5, 32, 16, uint64(7)}, []any{is.N, is.Steps, is.Guidance, is.Width, is.Height, *is.Seed})
	assert.Equal(t, "jpeg", a.OutputFormat)
	assert.Empty(t, a.Notices)

	for body, seed := range map[string]any{
		`{"prompt": "a", "seed": -1}`: nil, `{"prompt": "a", "seed": null}`: nil, `{"prompt": "a", "seed": 1e3}`: uint64(1000),
		`{"prompt": "a", "seed": 18446744073709551615}`: uint64(1<<64 - 1), `{"prompt": "a", "seed": "42"}`: uint64(42),
	} {
		require.Equal(t, 200, post(t, h, generations, body).status, body)
		if seed == nil {
			assert.Nil(t, e.request().Seed, body)
		} else {
			assert.Equal(t, seed, *e.request().Seed, body)
		}
	}
	post(t, h, generations, `{"prompt": "a", "step": 4, "cfg_scale": "2", "label": 1}`)
	assert.Equal(t, []any{4, 2.0, []int{1}}, []any{e.request().Steps, e.request().Guidance, e.request().Labels})
}

func TestNotices(t *testing.T) {
	h := New(&fake{}, Options{})
	for body, want := range map[string][]string{
		`{"prompt": "a", "quality": "auto", "background": "opaque", "moderation": "auto"}`: {},
		`{"prompt": "a", "quality": "hd", "style": "vivid", "user": "u1", "colour\u001b": 1}`: {
			`not used: "colour\x1b", quality, style, user`},
		`{"prompt": "a", "model": "dall-e-3", "response_format": "b64_json"}`: {"model: there is no dall-e-3; the default model is used"},
		`{"prompt": "a", "partial_images": 2}`:                                {"partial_images are sent with stream: true only"},
		`{"prompt": "a", "output_format": "webp", "output_compression": 50}`:  {"output_compression is for jpeg: webp is lossless here"},
		`{"prompt": "a", "output_format": "webp", "output_compression": 100}`: {},
		`{"prompt": "a", "steps": 1, "step": 2}`:                              {"not used: step"},
	} {
		a := post(t, h, generations, body)
		require.Equal(t, 200, a.status, "%s", a.body)
		assert.Equal(t, want, a.Notices, body)
		assert.Equal(t, len(want), len(a.header.Values("Onestep-Notice")))
	}
	many := map[string]any{"prompt": "a"}
	for i := range 1000 {
		many[fmt.Sprint("x", i)] = 1
	}
	body, err := json.Marshal(many)
	require.NoError(t, err)
	a := post(t, h, generations, string(body))
	require.Len(t, a.Notices, 1)
	assert.Less(t, len(a.Notices[0]), 300)
	assert.Contains(t, a.Notices[0], "980 more")
}

func TestFormats(t *testing.T) {
	h := New(&fake{texts: []vision.Text{{Keyword: "parameters", Value: "a cat"}}}, Options{})
	sizes := map[string]int{}
	for _, c := range []struct{ params, format, magic string }{
		{``, "png", "\x89PNG"}, {`, "output_format": "jpeg"`, "jpeg", "\xff\xd8"}, {`, "output_format": "jpeg", "output_compression": 10`, "jpeg", "\xff\xd8"},
		{`, "output_format": "webp"`, "webp", "RIFF"},
	} {
		a := post(t, h, generations, `{"prompt": "a", "size": "256x256"`+c.params+`}`)
		require.Equal(t, 200, a.status, "%s", a.body)
		assert.Equal(t, c.format, a.OutputFormat)
		data := a.Data[0].B64JSON
		assert.True(t, bytes.HasPrefix(data, []byte(c.magic)), c.params)
		texts, err := vision.ReadTexts(bytes.NewReader(data))
		require.NoError(t, err)
		require.NotEmpty(t, texts, c.params)
		assert.Equal(t, "a cat", texts[0].Value)
		sizes[c.params] = len(data)
	}
	assert.Less(t, sizes[`, "output_format": "jpeg", "output_compression": 10`], sizes[`, "output_format": "jpeg"`])
	// Settings that a format cannot hold do not cost the image.
	h = New(&fake{texts: []vision.Text{{Keyword: "parameters", Value: strings.Repeat("long ", 10000)}}}, Options{})
	a := post(t, h, generations, `{"prompt": "a", "output_format": "jpeg"}`)
	require.Equal(t, 200, a.status)
	require.Len(t, a.Notices, 1)
	assert.Contains(t, a.Notices[0], "settings")
}

func TestURL(t *testing.T) {
	h := New(&fake{}, Options{FileLife: time.Hour})
	a := post(t, h, generations, `{"prompt": "a", "n": 2, "response_format": "url", "output_format": "webp"}`)
	require.Equal(t, 200, a.status)
	require.Len(t, a.Data, 2)
	assert.NotEqual(t, a.Data[0].URL, a.Data[1].URL)
	for _, d := range a.Data {
		assert.Nil(t, d.B64JSON)
		require.Regexp(t, `^http://example\.com/v1/files/[0-9a-f]{32}\.webp$`, d.URL)
		f := do(t, h, httptest.NewRequest(http.MethodGet, d.URL, nil))
		require.Equal(t, 200, f.status)
		assert.Equal(t, "image/webp", f.header.Get("Content-Type"))
		assert.Equal(t, "nosniff", f.header.Get("X-Content-Type-Options"))
		assert.Contains(t, f.header.Get("Cache-Control"), "private")
		_, err := vision.Decode(f.body)
		assert.NoError(t, err)
		head := do(t, h, httptest.NewRequest(http.MethodHead, d.URL, nil))
		assert.Equal(t, 200, head.status)
		assert.Empty(t, head.body)
	}
	missing := do(t, h, httptest.NewRequest(http.MethodGet, "/v1/files/"+strings.Repeat("0", 32)+".png", nil))
	assert.Equal(t, 404, missing.status)
	assert.Equal(t, "not_found", *missing.Error.Code)

	// Names of DALL·E have URLs by default, others do not.
	assert.NotEmpty(t, post(t, h, generations, `{"prompt": "a", "model": "dall-e-2"}`).Data[0].URL)
	assert.Empty(t, post(t, h, generations, `{"prompt": "a", "model": "gpt-image-1"}`).Data[0].URL)
	r := httptest.NewRequest(http.MethodPost, generations, strings.NewReader(`{"prompt": "a", "response_format": "url"}`))
	r.Header.Set("X-Forwarded-Proto", "https")
	assert.Regexp(t, `^https://example\.com/v1`, do(t, h, r).Data[0].URL)
	h = New(&fake{}, Options{BaseURL: "https://images.example.org/a/"})
	assert.Regexp(t, `^https://images\.example\.org/a/v1/files/`, post(t, h, generations, `{"prompt": "a", "response_format": "url"}`).Data[0].URL)
}

func TestFilesAreBounded(t *testing.T) {
	s := files{most: 100, life: time.Hour}
	var names []string
	for range 5 {
		names = append(names, s.put(make([]byte, 40), "png"))
	}
	for i, name := range names {
		assert.Equal(t, i >= 3, s.get(name) != nil, i)
	}
	big := s.put(make([]byte, 1000), "png") // the newest one stays
	assert.NotNil(t, s.get(big))
	assert.Nil(t, s.get(names[4]))
	assert.EqualValues(t, 1000, s.bytes)
	s = files{most: 100, life: time.Nanosecond}
	name := s.put(make([]byte, 40), "png")
	time.Sleep(time.Millisecond)
	assert.Nil(t, s.get(name))
	assert.Zero(t, s.bytes)
	assert.Empty(t, s.byName)
}

func TestEdit(t *testing.T) {
	e := &fake{}
	h := New(e, Options{})
	image1, mask := part{"image", "a.png", picture(t, 20, 10, false)}, part{"mask", "m.png", picture(t, 20, 10, true)}
	a := form(t, h, edits, value("prompt", "a hat"), image1, mask, value("n", "2"), value("strength", "0.75"), value("seed", "5"), value("size", ""))
	require.Equal(t, 200, a.status, "%s", a.body)
	is := e.request()
	assert.Equal(t, image.Pt(20, 10), is.Init.Bounds().Size())
	assert.Equal(t, color.RGBA{200, 100, 50, 255}, color.RGBAModel.Convert(is.Init.At(3, 3)))
	assert.Equal(t, color.Gray{255}, color.GrayModel.Convert(is.Mask.At(0, 0)), "transparent is repainted")
	assert.Equal(t, color.Gray{0}, color.GrayModel.Convert(is.Mask.At(1, 0)))
	assert.Equal(t, []any{"a hat", 2, 0.75, 20, 10}, []any{is.Prompt, is.N, is.Strength, is.Width, is.Height})
	assert.Empty(t, a.Notices)
	assert.Contains(t, string(a.body), `"notices":[]`, "clients of the openai package read it without asking whether it is there")
	assert.Len(t, a.Data, 2)

	// Several images, in both spellings, and a mask without transparency and of another size.
	a = form(t, h, edits, value("prompt", "a"), part{"image[]", "a.png", picture(t, 20, 10, false)}, part{"image[]", "b.png", picture(t, 4, 4, false)},
		part{"mask", "m.png", picture(t, 10, 10, false)}, value("size", "64x32"))
	require.Equal(t, 200, a.status, "%s", a.body)
	assert.Equal(t, []any{20, 64}, []any{e.request().Init.Bounds().Dx(), e.request().Width})
	assert.Equal(t, color.RGBA{200, 100, 50, 255}, color.RGBAModel.Convert(e.request().Mask.At(3, 3)))
	require.Len(t, a.Notices, 3)

	// JSON with images in base64.
	one := base64.StdEncoding.EncodeToString(picture(t, 6, 6, false))
	for _, image := range []string{
		`"` + one + `"`, `"data:image/png;base64,` + one + `"`, `["` + one + `"]`, `[{"image_url": "data:image/png;base64,` + one + `"}]`, `{"b64_json": "` + one + `"}`,
	} {
		a = post(t, h, edits, `{"prompt": "a", "image": `+image+`, "mask": "`+base64.StdEncoding.EncodeToString(picture(t, 6, 6, true))+`"}`)
		require.Equal(t, 200, a.status, "%s", a.body)
		assert.Equal(t, 6, e.request().Init.Bounds().Dx())
		assert.NotNil(t, e.request().Mask)
	}
	// A large image is reduced, with its mask.
	h = New(e, Options{MaxPixels: 100})
	a = form(t, h, edits, value("prompt", "a"), part{"image", "a.png", picture(t, 40, 10, false)}, part{"mask", "a.png", picture(t, 40, 10, true)})
	require.Equal(t, 200, a.status, "%s", a.body)
	assert.Equal(t, image.Pt(20, 5), e.request().Init.Bounds().Size())
	assert.Equal(t, image.Pt(20, 5), e.request().Mask.Bounds().Size())
	assert.Empty(t, a.Notices)
	// A transparent image is on white.
	form(t, h, edits, value("prompt", "a"), part{"image", "a.png", picture(t, 10, 10, true)})
	assert.Equal(t, color.RGBA{255, 255, 255, 255}, color.RGBAModel.Convert(e.request().Init.At(0, 0)))
}

func TestVariation(t *testing.T) {
	e := &fake{}
	h := New(e, Options{})
	a := form(t, h, variations, part{"image", "a.png", picture(t, 20, 10, false)}, value("n", "3"), value("size", "64x64"), value("response_format", "url"))
	require.Equal(t, 200, a.status, "%s", a.body)
	assert.Len(t, a.Data, 3)
	assert.Equal(t, []any{"", 3, 64}, []any{e.request().Prompt, e.request().N, e.request().Width})
	assert.NotEmpty(t, a.Data[0].URL)
}

func TestLoRAsOfForms(t *testing.T) {
	e := &fake{}
	h := New(e, Options{})
	file := part{"image", "a.png", picture(t, 2, 2, false)}
	want := []prompt.LoRA{{Name: "a", Weight: 0.5, Text: 0.5}, {Name: "b", Weight: 1, Text: 1}}
	for _, parts := range [][]part{
		{file, value("loras", `[{"name": "a", "weight": 0.5}, {"name": "b"}]`)},
		{file, value("loras[]", "a:0.5"), value("loras[]", "b")},
		{file, value("loras[][name]", "a"), value("loras[][weight]", "0.5"), value("loras[][name]", "b"), value("loras[][weight]", "1")},
	} {
		a := form(t, h, variations, parts...)
		require.Equal(t, 200, a.status, "%s", a.body)
		assert.Equal(t, want, e.request().LoRAs)
	}
	assert.Equal(t, 400, form(t, h, variations, file, value("loras[][name]", "a"), value("loras[][name]", "b"), value("loras[][weight]", "1")).status)
	assert.Equal(t, 200, form(t, h, variations, file, value("labels[]", "1"), value("labels[]", "0")).status)
	assert.Equal(t, []int{1, 0}, e.request().Labels)
	for range 10 { // maps have no order
		a := form(t, h, variations, file, value("labels[1]", "1"), value("labels[10]", "3"), value("labels[0]", "0"), value("labels[2]", "2"))
		require.Equal(t, 200, a.status, "%s", a.body)
		assert.Equal(t, []int{0, 1, 2, 3}, e.request().Labels)
		a = form(t, h, variations, file, value("loras[1]", "b"), value("loras[0]", "a:0.5"))
		require.Equal(t, 200, a.status, "%s", a.body)
		assert.Equal(t, want, e.request().LoRAs)
	}
}

// Labels are names of classes, too, in JSON and in forms.
func TestNamedLabels(t *testing.T) {
	e := &fake{}
	h := New(e, Options{})
	for body, want := range map[string][]string{
		`{"labels": "Flags"}`: {"Flags"}, `{"label": "Flags"}`: {"Flags"}, `{"labels": ["Flags", 2, "3"]}`: {"Flags", "2", "3"}, `{"labels": "[\"a b\"]"}`: {"a b"}, `{"labels": ["1", 2]}`: nil,
	} {
		a := post(t, h, generations, body)
		require.Equal(t, 200, a.status, "%s: %s", body, a.body)
		assert.Equal(t, want, e.request().Classes, body)
		assert.Equal(t, want == nil, len(e.request().Labels) == 2, body)
	}
	a := form(t, h, variations, part{"image", "a.png", picture(t, 2, 2, false)}, value("labels[]", "Flags"))
	require.Equal(t, 200, a.status, "%s", a.body)
	assert.Equal(t, []string{"Flags"}, e.request().Classes)
}

// What 0 stands for is said; steps and guidance have diffusers' names, too.
func TestZeros(t *testing.T) {
	e := &fake{}
	h := New(e, Options{})
	a := post(t, h, generations, `{"prompt": "a", "steps": 0, "guidance_scale": 0}`)
	require.Equal(t, 200, a.status, "%s", a.body)
	assert.Len(t, a.Notices, 2)
	a = post(t, h, generations, `{"prompt": "a", "num_inference_steps": 3, "guidance_scale": 2}`)
	require.Equal(t, 200, a.status, "%s", a.body)
	assert.Equal(t, []any{3, 2.0, 0}, []any{e.request().Steps, e.request().Guidance, len(a.Notices)})
}

func TestRefused(t *testing.T) {
	h := New(&fake{}, Options{MaxBody: 100_000, MaxImage: 50_000})
	for body, want := range map[string]struct {
		status      int
		param, code string
	}{
		`{"n": 1}`:               {400, "prompt", "missing_required_parameter"},
		`{"prompt": null}`:       {400, "prompt", "missing_required_parameter"},
		`{"prompt": 5}`:          {400, "prompt", "invalid_type"},
		`{"prompt": ["a"]}`:      {400, "prompt", "invalid_type"},
		`{"prompt": "a\u0000b"}`: {400, "prompt", "invalid_value"},
		`{"prompt": "` + strings.Repeat("é", 32001) + `"}`:                {400, "prompt", "invalid_value"},
		`{"prompt": "a", "n": 0}`:                                         {400, "n", "invalid_value"},
		`{"prompt": "a", "n": -1}`:                                        {400, "n", "invalid_value"},
		`{"prompt": "a", "n": 1.5}`:                                       {400, "n", "invalid_type"},
		`{"prompt": "a", "n": "two"}`:                                     {400, "n", "invalid_type"},
		`{"prompt": "a", "n": true}`:                                      {400, "n", "invalid_type"},
		`{"prompt": "a", "n": 1e999}`:                                     {400, "n", "invalid_value"},
		`{"prompt": "a", "n": [1]}`:                                       {400, "n", "invalid_type"},
		`{"prompt": "a", "size": "big"}`:                                  {400, "size", "invalid_value"},
		`{"prompt": "a", "size": "0x5"}`:                                  {400, "size", "invalid_value"},
		`{"prompt": "a", "size": "99999x5"}`:                              {400, "size", "invalid_value"},
		`{"prompt": "a", "size": 512}`:                                    {400, "size", "invalid_type"},
		`{"prompt": "a", "seed": 1.5}`:                                    {400, "seed", "invalid_type"},
		`{"prompt": "a", "seed": -2}`:                                     {400, "seed", "invalid_value"},
		`{"prompt": "a", "seed": 18446744073709551616}`:                   {400, "seed", "invalid_value"},
		`{"prompt": "a", "seed": "0x10"}`:                                 {400, "seed", "invalid_type"},
		`{"prompt": "a", "guidance": "NaN"}`:                              {400, "guidance", "invalid_type"},
		`{"prompt": "a", "guidance": -1}`:                                 {400, "guidance", "invalid_value"},
		`{"prompt": "a", "strength": 1.1}`:                                {400, "strength", "invalid_value"},
		`{"prompt": "a", "steps": 51}`:                                    {400, "steps", "invalid_value"}, // of the engine
		`{"prompt": "a", "response_format": "png"}`:                       {400, "response_format", "invalid_value"},
		`{"prompt": "a", "output_format": "gif"}`:                         {400, "output_format", "invalid_value"},
		`{"prompt": "a", "output_compression": 101}`:                      {400, "output_compression", "invalid_value"},
		`{"prompt": "a", "stream": "perhaps"}`:                            {400, "stream", "invalid_type"},
		`{"prompt": "a", "stream": 2}`:                                    {400, "stream", "invalid_type"},
		`{"prompt": "a", "partial_images": 4}`:                            {400, "partial_images", "invalid_value"},
		`{"prompt": "a", "loras": [5]}`:                                   {400, "loras", "invalid_type"},
		`{"prompt": "a", "loras": [{}]}`:                                  {400, "loras", "invalid_value"},
		`{"prompt": "a", "loras": ["a:b"]}`:                               {400, "loras", "invalid_type"},
		`{"prompt": "a", "loras": [{"name": "a", "weight": "1e9"}]}`:      {400, "loras", "invalid_value"},
		`{"prompt": "a", "labels": [null]}`:                               {400, "labels", "invalid_type"},
		`{"prompt": "a", "labels": ["cat", true]}`:                        {400, "labels", "invalid_type"},
		`{"prompt": "a", "labels": [{}]}`:                                 {400, "labels", "invalid_type"},
		`{"prompt": "a", "labels": [` + strings.Repeat("1,", 200) + `1]}`: {400, "labels", "invalid_value"},
		`{"prompt": "a", "model": "no-such"}`:                             {404, "model", "model_not_found"},
		`{"prompt": "a", "model": 5}`:                                     {400, "model", "invalid_type"},
		`{"prompt": "a", "mask": "aGVsbG8="}`:                             {400, "mask", "invalid_image"},
		`{"prompt": "a", "image": "http://127.0.0.1/a.png"}`:              {400, "image", "invalid_image"},
		`{"prompt": "a", "image": "/etc/passwd"}`:                         {400, "image", "invalid_image"},
		`{"prompt": "a", "image": 5}`:                                     {400, "image", "invalid_type"},
		`{"prompt": "a", "image": {"file_id": "x"}}`:                      {400, "image", "invalid_image"},
		`{"prompt": "a", "image": "` + strings.Repeat("A", 90_000) + `"}`: {413, "image", "too_large"},
		`{"prompt": "` + strings.Repeat("a", 100_000) + `"}`:              {413, "", "too_large"},
		``:                            {400, "", "invalid_body"},
		`[]`:                          {400, "", "invalid_body"},
		`null`:                        {400, "", "invalid_body"},
		`{"prompt": "a"`:              {400, "", "invalid_body"},
		`{"prompt": "a"} {}`:          {400, "", "invalid_body"},
		"{\"prompt\": \"\xff\"}":      {400, "", "invalid_body"},
		strings.Repeat(`{"a":`, 9000): {400, "", "invalid_body"},
		// Two bytes of JSON take a hundred and more in memory.
		`{"prompt": "a", "any": [` + strings.Repeat("0,", 10_000) + `0]}`:      {413, "", "too_large"},
		`{"prompt": "a", "labels": "[` + strings.Repeat("0,", 10_000) + `0]"}`: {413, "labels", "too_large"},
		`{"prompt": "a", "loras": "[` + strings.Repeat("0,", 10_000) + `0]"}`:  {413, "loras", "too_large"},
		`{"prompt": "a", "image": "[` + strings.Repeat("0,", 10_000) + `0]"}`:  {413, "image", "too_large"},
		strings.Repeat(`{"a":`, 20000):                                         {413, "", "too_large"},
	} {
		name := body[:min(len(body), 70)]
		a := post(t, h, generations, body)
		if !assert.Equal(t, want.status, a.status, "%s: %s", name, a.body) {
			continue
		}
		assert.Equal(t, "invalid_request_error", a.Error.Type, name)
		assert.NotEmpty(t, a.Error.Message, name)
		require.NotNil(t, a.Error.Code, name)
		assert.Equal(t, want.code, *a.Error.Code, name)
		param := ""
		if a.Error.Param != nil {
			param = *a.Error.Param
		}
		assert.Equal(t, want.param, param, name)
		assert.NotContains(t, a.Error.Message, "\x1b")
	}
}

func TestRefusedForms(t *testing.T) {
	h := New(&fake{}, Options{MaxBody: 100_000, MaxImage: 2000})
	file := part{"image", "a.png", picture(t, 8, 8, false)}
	for name, c := range map[string]struct {
		status int
		param  string
		parts  []part
	}{
		"no image":          {400, "image", []part{value("prompt", "a")}},
		"no prompt":         {400, "prompt", []part{file}},
		"not an image":      {400, "image", []part{value("prompt", "a"), {"image", "a.png", []byte("hello")}}},
		"image as text":     {400, "image", []part{value("prompt", "a"), value("image", "https://example.com/a.png")}},
		"gif":               {400, "image", []part{value("prompt", "a"), {"image", "a.png", []byte("GIF89a")}}},
		"large image":       {413, "image", []part{value("prompt", "a"), {"image", "a.png", make([]byte, 3000)}}},
		"large body":        {413, "", []part{value("prompt", "a"), file, {"other", "a", make([]byte, 100_000)}}},
		"two masks":         {400, "mask", []part{value("prompt", "a"), file, {"mask", "a", file.data}, {"mask", "a", file.data}}},
		"n twice":           {400, "n", []part{value("prompt", "a"), file, value("n", "1"), value("n", "2")}},
		"not UTF-8":         {400, "prompt", []part{value("prompt", "\xff"), file}},
		"n is not a number": {400, "n", []part{value("prompt", "a"), file, value("n", "one")}},
	} {
		a := form(t, h, edits, c.parts...)
		if assert.Equal(t, c.status, a.status, "%s: %s", name, a.body) && c.param != "" {
			assert.Equal(t, c.param, *a.Error.Param, name)
		}
	}
	many := []part{value("prompt", "a"), file}
	for i := range maxParts {
		many = append(many, value(fmt.Sprint("x", i), "1"))
	}
	assert.Equal(t, 413, form(t, New(&fake{}, Options{}), edits, many...).status)
	a := form(t, h, edits, value("prompt", "a"), file, part{"other", "x.bin", []byte("x")})
	require.Equal(t, 200, a.status)
	assert.Equal(t, []string{"not used: other"}, a.Notices)

	for _, c := range []struct{ kind, body string }{
		{"multipart/form-data", "x"}, {"multipart/form-data; boundary=", "x"}, {"text/plain", `{"prompt": "a"}`}, {"application/x-www-form-urlencoded", "prompt=a"},
		{"application/json; charset", `{}`}, {"image/png", "x"},
	} {
		for _, path := range []string{generations, edits} {
			r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(c.body))
			r.Header.Set("Content-Type", c.kind)
			a := do(t, h, r)
			assert.Equal(t, 415, a.status, c.kind)
			assert.Equal(t, "unsupported_media_type", *a.Error.Code)
		}
	}
	for _, body := range []string{"", "x", "--b", "--b\r\n", "--b\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\na", "--b\r\n\r\n\r\n--b--"} {
		r := httptest.NewRequest(http.MethodPost, edits, strings.NewReader(body))
		r.Header.Set("Content-Type", "multipart/form-data; boundary=b")
		assert.Equal(t, 400, do(t, h, r).status, "%q", body)
	}
	r := httptest.NewRequest(http.MethodPost, generations, strings.NewReader(`{"prompt": "a"}`)) // without Content-Type
	assert.Equal(t, 200, do(t, h, r).status)
}

func TestEngineErrors(t *testing.T) {
	e := &fake{}
	h := New(e, Options{})
	for _, c := range []struct {
		err          error
		status       int
		kind, code   string
		after, names bool
	}{
		{err: engine.ErrFull, status: 429, kind: "requests", code: "rate_limit_exceeded", after: true},
		{err: fmt.Errorf("x: %w", engine.ErrClosed), status: 503, kind: "server_error", code: "server_stopping", after: true},
		{err: context.DeadlineExceeded, status: 504, kind: "server_error", code: "timeout"},
		{err: errors.New("open /models/secret.safetensors: broken"), status: 500, kind: "server_error", code: "internal_error"},
		{err: &engine.RequestError{Field: "LoRAs", Msg: "there is no x"}, status: 400, kind: "invalid_request_error", code: "invalid_value"},
		{err: &engine.RequestError{Field: "Model", Msg: "there is no x"}, status: 404, kind: "invalid_request_error", code: "model_not_found"},
	} {
		e.err = c.err
		for _, body := range []string{`{"prompt": "a"}`, `{"prompt": "a", "stream": true}`} {
			a := post(t, h, generations, body)
			assert.Equal(t, c.status, a.status)
			assert.Equal(t, c.kind, a.Error.Type)
			assert.Equal(t, c.code, *a.Error.Code)
			assert.Equal(t, c.after, a.header.Get("Retry-After") != "")
			assert.NotContains(t, a.Error.Message, "secret")
		}
	}
}

// Each field of a request that can be refused has its parameter's name in the error.
func TestFieldsHaveNames(t *testing.T) {
	for _, field := range reflect.VisibleFields(reflect.TypeFor[engine.Request]()) {
		if field.IsExported() && field.Name != "Client" && field.Name != "Deadline" {
			assert.NotEmpty(t, fields[field.Name], field.Name)
		}
	}
}

// A client that is gone ends its request.
func TestClientGone(t *testing.T) {
	e := &fake{wait: true, begun: make(chan struct{}), ended: make(chan error, 1)}
	server := httptest.NewServer(New(e, Options{}))
	defer server.Close()
	ctx, cancel := context.WithCancel(context.Background())
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL+generations, strings.NewReader(`{"prompt": "a"}`))
	require.NoError(t, err)
	go func() {
		<-e.begun
		cancel()
	}()
	_, err = http.DefaultClient.Do(r)
	require.ErrorIs(t, err, context.Canceled)
	assert.ErrorIs(t, <-e.ended, context.Canceled)
}

func TestModels(t *testing.T) {
	h := New(&fake{}, Options{})
	a := do(t, h, httptest.NewRequest(http.MethodGet, "/v1/models", nil))
	require.Equal(t, 200, a.status)
	var list struct {
		Object string
		Data   []modelInfo
	}
	require.NoError(t, json.Unmarshal(a.body, &list))
	require.Len(t, list.Data, 2)
	assert.Equal(t, "list", list.Object)
	assert.Equal(t, []any{"emoji", "model", "onestep", "32x32", []string{"smileys", "animals"}, true, false},
		[]any{list.Data[0].ID, list.Data[0].Object, list.Data[0].OwnedBy, list.Data[0].Size, list.Data[0].Classes, *list.Data[0].Images, *list.Data[0].Guided})
	assert.Contains(t, string(a.body), `"prompts":false`)
	if second := list.Data[1]; second.Kind == "" { // what is not known before a model is open is left out
		assert.Equal(t, []*bool{nil, nil, nil}, []*bool{second.Prompts, second.Images, second.Guided})
	}
	for _, path := range []string{"/v1/models/org/sd-turbo", "/v1/models/org%2Fsd-turbo"} {
		a = do(t, h, httptest.NewRequest(http.MethodGet, path, nil))
		require.Equal(t, 200, a.status)
		assert.Contains(t, string(a.body), `"org/sd-turbo"`)
	}
	for _, path := range []string{"/v1/models/emojis", "/v1/models/"} {
		a = do(t, h, httptest.NewRequest(http.MethodGet, path, nil))
		assert.Equal(t, 404, a.status)
		assert.Equal(t, "model_not_found", *a.Error.Code)
	}
	a = do(t, h, httptest.NewRequest(http.MethodGet, "/v1/chat/completions", nil))
	assert.Equal(t, 404, a.status)
	a = do(t, h, httptest.NewRequest(http.MethodGet, generations, nil))
	assert.Equal(t, 405, a.status)
	assert.Equal(t, "POST", a.header.Get("Allow"))
}

// No body is an error of the server.
func FuzzJSON(f *testing.F) {
	for _, seed := range []string{
		`{"prompt": "a", "n": 2, "size": "8x8", "seed": 1}`, `{"prompt": "a", "loras": [{"name": "b", "weight": "1"}, "c:2"], "labels": "[1, 2]"}`,
		`{"prompt": "a", "image": ["data:image/png;base64,iVBORw0KGgo="], "mask": {"image_url": null}}`, `{"prompt": "a", "stream": 1, "partial_images": "3"}`,
	} {
		f.Add(seed)
	}
	h := New(&frugal{}, Options{MaxBody: 1 << 16})
	f.Fuzz(func(t *testing.T, body string) {
		for _, path := range []string{generations, edits} {
			if a := post(t, h, path, body); a.status >= 500 {
				t.Errorf("%d: %s", a.status, a.body)
			}
		}
	})
}

func FuzzForm(f *testing.F) {
	const head = "Content-Disposition: form-data; name="
	for _, seed := range []string{
		"--b\r\n" + head + "\"prompt\"\r\n\r\na\r\n--b\r\n" + head + "\"image[]\"; filename=\"a\"\r\n\r\n\x89PNG\r\n--b--\r\n",
		"--b\r\n" + head + "\"loras[][name]\"\r\n\r\na\r\n--b\r\n" + head + "\"labels[\"\r\n\r\n1\r\n--b--\r\n",
	} {
		f.Add(seed)
	}
	h := New(&frugal{}, Options{MaxBody: 1 << 16})
	f.Fuzz(func(t *testing.T, body string) {
		r := httptest.NewRequest(http.MethodPost, variations, strings.NewReader(body))
		r.Header.Set("Content-Type", "multipart/form-data; boundary=b")
		if a := do(t, h, r); a.status >= 500 {
			t.Errorf("%d: %s", a.status, a.body)
		}
	})
}
