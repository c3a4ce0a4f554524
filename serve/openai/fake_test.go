package openai

import (
	"cmp"
	"context"
	"image"
	"image/color"
	"iter"
	"sync"

	"github.com/onestep-go/onestep/serve/engine"
	"github.com/onestep-go/onestep/torch/vision"
)

// fake is an engine without a model. Its images have one colour, by the seed.
type fake struct {
	mu       sync.Mutex
	last     engine.Request
	err      error // of the next requests
	late     error // after the first image
	wait     bool  // until the client is gone
	begun    chan struct{}
	ended    chan error
	notices  []string
	texts    []vision.Text
	previews int // events, if they are asked for
}

func (f *fake) request() engine.Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

func (f *fake) Models() []engine.Info {
	return []engine.Info{
		{Name: "emoji", Kind: "consistency model", Classes: []string{"smileys", "animals"}, Width: 32, Height: 32, Samplers: []string{"multistep"}, Steps: 1, Images: true, Loaded: true},
		{Name: "org/sd-turbo", Prompts: true},
	}
}

func (f *fake) Images(ctx context.Context, r engine.Request) iter.Seq2[engine.Event, error] {
	f.mu.Lock()
	f.last = r
	f.mu.Unlock()
	return func(yield func(engine.Event, error) bool) {
		if f.err != nil {
			yield(engine.Event{}, f.err)
			return
		}
		if r.Steps > 50 {
			yield(engine.Event{}, &engine.RequestError{Field: "Steps", Msg: "want 1 to 50, got more"})
			return
		}
		if f.wait {
			close(f.begun)
			<-ctx.Done()
			f.ended <- ctx.Err()
			yield(engine.Event{}, ctx.Err())
			return
		}
		is := engine.Resolved{Model: cmp.Or(r.Model, "emoji"), Sampler: cmp.Or(r.Sampler, "multistep"), Steps: max(r.Steps, 1), Guidance: r.Guidance, Seed: 1, Notices: f.notices}
		is.Width, is.Height = cmp.Or(r.Width, 32), cmp.Or(r.Height, 32)
		if r.Seed != nil {
			is.Seed = *r.Seed
		}
		if !yield(engine.Event{Queued: 2}, nil) || !yield(engine.Event{Resolved: &is}, nil) {
			return
		}
		n := max(r.N, 1)
		for i := range n {
			img := image.NewRGBA(image.Rect(0, 0, is.Width, is.Height))
			for at := range img.Pix {
				img.Pix[at] = 255
			}
			img.Set(0, 0, color.RGBA{R: uint8(is.Seed) + uint8(i), A: 255})
			for step := range f.previews {
				event := engine.Event{Step: step + 1, Steps: f.previews}
				if step < r.Previews {
					event.Previews = []image.Image{img}
				}
				if !yield(event, nil) {
					return
				}
			}
			if !yield(engine.Event{Image: &engine.Image{Image: img, Seed: is.Seed + uint64(i), Label: -1, Texts: f.texts}}, nil) {
				return
			}
			if f.late != nil {
				yield(engine.Event{}, f.late)
				return
			}
		}
	}
}
