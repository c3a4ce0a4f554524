package webui

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/sampling/texttoimage/infotext"
	"github.com/onestep-go/onestep/serve/engine"
	"github.com/onestep-go/onestep/serve/internal/client"
	"github.com/onestep-go/onestep/torch/vision"
)

// fake generates grey images, of the shade of their seed, as the engine would.
type fake struct {
	models   []engine.Info
	adapters []string
	err      error // of every request
	notices  []string
	before   func(ctx context.Context, image int) error // called before each image; an error ends the request

	mu   sync.Mutex
	seen []engine.Request
}

var (
	diffusion = engine.Info{Name: "tiny-sd", Kind: "Stable Diffusion 1", Prompts: true, Width: 64, Height: 64, Samplers: scheduler.Names(), Steps: 4, Loaded: true}
	emoji     = engine.Info{Name: "emoji", Kind: "consistency model", Classes: []string{"cat", "dog"}, Width: 32, Height: 32, Samplers: []string{"multistep"}, Steps: 1}
)

// Models describes the models; what the engine knows of one only when it was open is not there before.
func (f *fake) Models() []engine.Info {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := slices.Clone(f.models)
	for i, m := range all {
		if !m.Loaded {
			all[i] = engine.Info{Name: m.Name}
		}
	}
	return all
}

func (f *fake) Adapters() ([]string, error) { return f.adapters, nil }

// last is the request that came last.
func (f *fake) last() engine.Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen[len(f.seen)-1]
}

func (f *fake) Images(ctx context.Context, r engine.Request) iter.Seq2[engine.Event, error] {
	f.mu.Lock()
	f.seen = append(f.seen, r)
	f.mu.Unlock()
	return func(yield func(engine.Event, error) bool) {
		if f.err != nil {
			yield(engine.Event{}, f.err)
			return
		}
		m := f.open(r.Model)
		as := engine.Resolved{Model: m.Name, N: min(max(r.N, 1), 16), Sampler: r.Sampler, Steps: r.Steps, Guidance: r.Guidance, Seed: *r.Seed, Width: r.Width, Height: r.Height,
			Notices: slices.Clone(f.notices)}
		if !m.Prompts && r.Sampler != "" && r.Sampler != m.Samplers[0] {
			as.Sampler, as.Notices = "", append(as.Notices, "the sampler "+r.Sampler+" is not for this model")
		}
		as.Sampler = cmp.Or(as.Sampler, m.Samplers[0])
		if as.Steps == 0 || as.Steps > 8 {
			as.Steps = m.Steps
		}
		as.Width, as.Height = cmp.Or(as.Width, m.Width), cmp.Or(as.Height, m.Height)
		n := as.N
		if !yield(engine.Event{Queued: 1}, nil) || !yield(engine.Event{Resolved: &as}, nil) {
			return
		}
		for i := range n {
			if f.before != nil {
				if err := f.before(ctx, i); err != nil {
					yield(engine.Event{}, err)
					return
				}
			}
			seed := *r.Seed + uint64(i)
			img := image.NewNRGBA(image.Rect(0, 0, as.Width, as.Height))
			for k := range img.Pix {
				img.Pix[k] = 255
				if k%4 < 3 {
					img.Pix[k] = byte(seed)
				}
			}
			step := engine.Event{Step: (i + 1) * as.Steps, Steps: n * as.Steps}
			if r.Previews > 0 {
				step.Previews = []image.Image{img}
			}
			out := &engine.Image{Image: img, Seed: seed, Label: -1}
			if m.Prompts {
				out.Texts = []vision.Text{{Keyword: vision.Parameters, Value: settings(r, as, seed)}}
			} else {
				out.Label = int(seed % 2)
			}
			if !yield(step, nil) || !yield(engine.Event{Image: out}, nil) {
				return
			}
		}
	}
}

// open returns a model, which is open from then on.
func (f *fake) open(name string) engine.Info {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := max(slices.IndexFunc(f.models, func(m engine.Info) bool { return m.Name == name }), 0)
	f.models[i].Loaded = true
	return f.models[i]
}

// settings are those that Stable Diffusion writes into images.
func settings(r engine.Request, as engine.Resolved, seed uint64) string {
	t := infotext.Text{Prompt: r.Prompt, Negative: r.Negative}
	t.Add("Steps", fmt.Sprint(as.Steps))
	t.AddSampler(as.Sampler)
	t.Add("CFG scale", fmt.Sprint(as.Guidance))
	t.Add("Seed", fmt.Sprint(seed))
	t.Add("Size", fmt.Sprintf("%dx%d", as.Width, as.Height))
	t.Add("Model", as.Model)
	return t.String()
}

// newFake returns an engine with both models and the handler over it.
func newFake() (*fake, http.Handler) {
	f := &fake{models: []engine.Info{diffusion, emoji}, adapters: []string{"ink", "style"}}
	return f, New(f, Options{})
}

// call sends a request of a client, and returns the status and the body.
func call(t *testing.T, h http.Handler, who, method, path, body string) (int, []byte, http.Header) {
	t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r = r.WithContext(client.With(r.Context(), who))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	data, err := io.ReadAll(w.Result().Body)
	require.NoError(t, err)
	return w.Code, data, w.Result().Header
}

// get returns the JSON of a path.
func get(t *testing.T, h http.Handler, who, path string) any {
	t.Helper()
	status, body, header := call(t, h, who, "GET", path, "")
	require.Equal(t, 200, status, string(body))
	require.Equal(t, "application/json", header.Get("Content-Type"))
	var v any
	require.NoError(t, json.Unmarshal(body, &v), path)
	return v
}

// parsed is what clients make of a reply.
type parsed struct {
	Images     []string       `json:"images"`
	Parameters map[string]any `json:"parameters"`
	Info       string         `json:"info"`

	info info
}

// post sends a txt2img or img2img that is to succeed.
func post(t *testing.T, h http.Handler, who, path, body string) parsed {
	t.Helper()
	status, data, _ := call(t, h, who, "POST", path, body)
	require.Equal(t, 200, status, string(data))
	return parse(t, data)
}

func parse(t *testing.T, data []byte) parsed {
	t.Helper()
	var p parsed
	require.NoError(t, json.Unmarshal(data, &p))
	require.NoError(t, json.Unmarshal([]byte(p.Info), &p.info))
	return p
}

// decode decodes an image of a reply, which is plain base64, and its texts.
func decode(t *testing.T, text string) (image.Image, []vision.Text) {
	t.Helper()
	data, err := base64.StdEncoding.DecodeString(text)
	require.NoError(t, err)
	m, err := vision.Decode(data)
	require.NoError(t, err)
	texts, err := vision.ReadTexts(bytes.NewReader(data))
	require.NoError(t, err)
	return m, texts
}

// grey is a PNG of one shade, in base64.
func grey(t *testing.T, w, h int, shade uint8) string {
	t.Helper()
	m := image.NewGray(image.Rect(0, 0, w, h))
	for i := range m.Pix {
		m.Pix[i] = shade
	}
	return pngOf(t, m)
}

func pngOf(t *testing.T, m image.Image) string {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, png.Encode(&b, m))
	return base64.StdEncoding.EncodeToString(b.Bytes())
}

// shade is the brightness of a pixel, from 0 to 255.
func shade(m image.Image, x, y int) int {
	b := m.Bounds()
	return int(color.GrayModel.Convert(m.At(b.Min.X+x, b.Min.Y+y)).(color.Gray).Y)
}
