package page_test

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"image"
	"image/color"
	"image/draw"
	"iter"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/onestep-go/onestep/serve/engine"
	"github.com/onestep-go/onestep/serve/openai"
	"github.com/onestep-go/onestep/serve/page"
	"github.com/onestep-go/onestep/serve/webui"
	"github.com/onestep-go/onestep/torch/vision"
)

// fake is an engine whose images have one colour, that of the prompt and the seed. A prompt with "slow" takes long.
type fake struct {
	models  []engine.Info
	notices []string
	takes   time.Duration // of each request

	mu        sync.Mutex
	requests  []engine.Request
	cancelled []string // prompts
	refuse    error    // of the next request
}

func (f *fake) Models() []engine.Info       { return f.models }
func (f *fake) Adapters() ([]string, error) { return []string{"ink", "lcm"}, nil }

var diffusion = engine.Info{Name: "tiny-sd", Kind: "Stable Diffusion 1", Prompts: true, Images: true, Guided: true, Negative: true, Guidance: 7.5,
	Samplers: []string{"euler_a", "lcm"}, Steps: 4, InputSteps: 4, MaskSteps: 4, Width: 512, Height: 512, Loaded: true}

var emoji = engine.Info{Name: "emoji", Kind: "consistency model", Images: true, Classes: []string{"Faces", "Animals", "Food", "Flags"}, Samplers: []string{"multistep"}, Steps: 1, InputSteps: 2, MaskSteps: 40, Width: 32, Height: 32, Loaded: true}

// of is the colour of a prompt.
func of(prompt string, seed uint64) color.NRGBA {
	h := fnv.New32a()
	fmt.Fprint(h, prompt, seed)
	sum := h.Sum32()
	return color.NRGBA{byte(sum), byte(sum >> 8), byte(sum >> 16), 255}
}

func (f *fake) Images(ctx context.Context, r engine.Request) iter.Seq2[engine.Event, error] {
	return func(yield func(engine.Event, error) bool) {
		f.mu.Lock()
		f.requests = append(f.requests, r)
		refuse := f.refuse
		f.refuse = nil
		f.mu.Unlock()
		if refuse != nil {
			yield(engine.Event{}, refuse)
			return
		}
		is := engine.Resolved{Model: r.Model, Steps: r.Steps, Seed: *r.Seed, Width: r.Width, Height: r.Height, Notices: f.notices}
		if is.Steps == 0 {
			is.Steps = f.models[max(slices.IndexFunc(f.models, func(m engine.Info) bool { return m.Name == r.Model }), 0)].Steps
		}
		if is.Width == 0 {
			is.Width, is.Height = 64, 64
			if r.Model == emoji.Name {
				is.Width, is.Height = 32, 32
			}
		}
		if !yield(engine.Event{Queued: 2}, nil) || !yield(engine.Event{Resolved: &is}, nil) {
			return
		}
		if f.takes > 0 && !done(ctx, f.takes) {
			yield(engine.Event{}, ctx.Err())
			return
		}
		if strings.Contains(r.Prompt, "slow") {
			select {
			case <-ctx.Done():
				f.mu.Lock()
				f.cancelled = append(f.cancelled, r.Prompt)
				f.mu.Unlock()
				yield(engine.Event{}, ctx.Err())
				return
			case <-time.After(20 * time.Second):
			}
		}
		for i := range max(r.N, 1) {
			seed := *r.Seed + uint64(i)
			img := image.NewNRGBA(image.Rect(0, 0, is.Width, is.Height))
			draw.Draw(img, img.Bounds(), image.NewUniform(of(r.Prompt, seed)), image.Point{}, draw.Src)
			texts := []vision.Text{{Keyword: vision.Parameters, Value: fmt.Sprintf("%s\nSteps: %d, CFG scale: 2.5, Seed: %d, Size: %dx%d, Model: %s", r.Prompt, is.Steps, seed, is.Width, is.Height, r.Model)}}
			if !yield(engine.Event{Step: 1, Steps: 1}, nil) || !yield(engine.Event{Image: &engine.Image{Image: img, Seed: seed, Label: -1, Texts: texts}}, nil) {
				return
			}
		}
	}
}

// done waits, and reports whether the request was not cancelled meanwhile.
func done(ctx context.Context, after time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(after):
		return true
	}
}

// last waits until a request came for which a condition holds, and returns it.
func (f *fake) last(t *testing.T, ok func(r engine.Request) bool) engine.Request {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		f.mu.Lock()
		all := slices.Clone(f.requests)
		f.mu.Unlock()
		for _, r := range slices.Backward(all) {
			if ok(r) {
				return r
			}
		}
		if time.Now().After(end) {
			t.Fatalf("no such request among %d", len(all))
		}
	}
}

func (f *fake) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.requests)
}

// ended are the prompts of cancelled requests.
func (f *fake) ended() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.cancelled)
}

func (f *fake) next(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refuse = err
}

// server serves the page and OpenAI's API over an engine, as the whole server does.
type server struct {
	*httptest.Server
	mu   sync.Mutex
	key  string // "": none is wanted
	gone bool   // connections are cut without an answer
}

func serve(t *testing.T, f *fake) *server {
	t.Helper()
	s := &server{}
	mux := http.NewServeMux()
	mux.Handle("/", page.New(f, page.Options{}))
	mux.Handle("/v1/", openai.New(f, openai.Options{}))
	mux.Handle("/sdapi/", webui.New(f, webui.Options{}))
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		key, gone := s.key, s.gone
		s.mu.Unlock()
		open := r.URL.Path == "/" || strings.HasPrefix(r.URL.Path, "/static/")
		switch {
		case gone:
			panic(http.ErrAbortHandler)
		case key != "" && !open && r.Header.Get("Authorization") != "Bearer "+key:
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"error": {"message": "wrong key"}}`)
		default:
			mux.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *server) set(key string, gone bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.key, s.gone = key, gone
}

var errTest = errors.New("the model is broken")
