package openai

import (
	"errors"
	"net/http"
	"time"

	"github.com/onestep-go/onestep/serve/engine"
	"github.com/onestep-go/onestep/serve/internal/client"
	"github.com/onestep-go/onestep/serve/internal/notice"
)

// reply is the reply of a request that is no stream.
type reply struct {
	Created      int64   `json:"created"`
	Background   string  `json:"background"`
	Data         []datum `json:"data"`
	OutputFormat string  `json:"output_format"`
	Size         string  `json:"size"`
	Usage        usage   `json:"usage"`
	settings
}

// datum is an image of a reply.
type datum struct {
	B64JSON       []byte `json:"b64_json,omitempty"`
	URL           string `json:"url,omitempty"`
	RevisedPrompt string `json:"revised_prompt,omitempty"`
	Seed          uint64 `json:"seed"`
	Label         *int   `json:"label,omitempty"`
}

// settings are those with which images were generated.
type settings struct {
	Model    string   `json:"model"`
	Sampler  string   `json:"sampler"`
	Steps    int      `json:"steps"`
	Guidance float64  `json:"guidance"`
	Notices  []string `json:"notices"` // never null: clients read it without asking whether it is there
}

// usage is in tokens, of which none are counted here.
type usage struct {
	InputTokens  int          `json:"input_tokens"`
	Details      usageDetails `json:"input_tokens_details"`
	OutputTokens int          `json:"output_tokens"`
	TotalTokens  int          `json:"total_tokens"`
}

type usageDetails struct {
	ImageTokens int `json:"image_tokens"`
	TextTokens  int `json:"text_tokens"`
}

// errNoImage is the error of an engine that ends without an image or an error.
var errNoImage = errors.New("the engine returned no image")

// images serves one of the paths that generate images.
func (h *handler) images(k kind) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		who := client.From(r.Context())
		work := h.decoder.For(r.Context(), who)
		defer work.Close()
		in, err := h.read(w, r, work, k.forms)
		if err != nil {
			return err
		}
		p, err := h.params(k, in)
		if err != nil {
			return err
		}
		p.request.Client = who
		start := time.Now()
		if p.stream {
			err = h.streamed(w, r, in, p)
		} else {
			err = h.whole(w, r, in, p)
		}
		if err == nil {
			h.times.add(time.Since(start))
		}
		return err
	}
}

// whole generates the images and replies with all of them.
func (h *handler) whole(w http.ResponseWriter, r *http.Request, in *input, p *params) error {
	var (
		is   engine.Resolved
		data []datum
	)
	for event, err := range h.engine.Images(r.Context(), p.request) {
		if err != nil {
			return err
		}
		if event.Resolved != nil {
			is = *event.Resolved
		}
		if event.Image == nil {
			continue
		}
		if err := h.keep(in, p, is, event.Image); err != nil {
			return err
		}
		file, err := p.encode(event.Image)
		if err != nil {
			return err
		}
		one := datum{RevisedPrompt: p.request.Prompt, Seed: event.Image.Seed, Label: label(event.Image)}
		if p.url {
			one.URL = h.url(r, h.files.put(file, p.format))
		} else {
			one.B64JSON = file
		}
		data = append(data, one)
	}
	if data == nil {
		return errNoImage
	}
	all := p.settings(is)
	notice.Add(w.Header(), all.Notices)
	write(w, http.StatusOK, reply{
		Created: time.Now().Unix(), Background: background, Data: data, OutputFormat: p.format, Size: size(is.Width, is.Height), settings: all,
	})
	return nil
}

func (p *params) settings(is engine.Resolved) settings {
	return settings{Model: is.Model, Sampler: is.Sampler, Steps: is.Steps, Guidance: is.Guidance, Notices: append(append([]string{}, p.notices...), is.Notices...)}
}

func label(img *engine.Image) *int {
	if img.Label < 0 {
		return nil
	}
	return &img.Label
}
