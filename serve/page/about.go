package page

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/sampling/texttoimage/infotext"
	"github.com/onestep-go/onestep/serve/engine"
)

// Engine is what the page asks about; *[engine.Engine] has it.
type Engine interface {
	Models() []engine.Info       // the first is the default
	Adapters() ([]string, error) // names
}

// Options are the limits of requests, by which the page sets its controls. Zero fields are the engine's defaults.
type Options struct {
	MaxSteps  int // per image; 0: 50
	MaxPixels int // per image; 0: 1024²
	MaxImages int // per request; 0: 16
}

// Models is the answer of GET /api/models.
type Models struct {
	Models []Model `json:"models"` // the first is the default
	Limits Limits  `json:"limits"`
}

// Model is a model. What is not known before the model was opened has its zero value.
type Model struct {
	Name       string    `json:"name"`
	File       string    `json:"file,omitempty"` // name of its file or directory, as settings of images may have it
	Kind       string    `json:"kind"`           // such as "consistency model"; "": not known yet
	*Abilities           // nil: not known yet
	Classes    []string  `json:"classes"` // names of its classes, in order; empty if it has none
	Samplers   []Sampler `json:"samplers"`
	Steps      int       `json:"steps"`       // by default
	InputSteps int       `json:"input_steps"` // by default, from an input image without a mask
	MaskSteps  int       `json:"mask_steps"`  // by default, with a mask
	Width      int       `json:"width"`       // of its images by default, in pixels
	Height     int       `json:"height"`      // likewise
	Loaded     bool      `json:"loaded"`      // is in memory
}

// Abilities are what a model uses of a request.
type Abilities struct {
	Prompts  bool `json:"prompts"`  // takes prompts
	Images   bool `json:"images"`   // takes input images
	Guided   bool `json:"guided"`   // uses a guidance scale
	Negative bool `json:"negative"` // uses a negative prompt, with a guidance scale above 1

	Guidance    float64 `json:"guidance"`     // scale by default; 1: none
	MinGuidance float64 `json:"min_guidance"` // the smallest scale that the model is for; 0: not known
	MaxGuidance float64 `json:"max_guidance"` // likewise, the largest
}

// Sampler is a sampler of a model.
type Sampler struct {
	Name  string `json:"name"`  // in requests
	Title string `json:"title"` // as A1111 calls it, with the schedule type
}

// Limits are the largest values that requests may have.
type Limits struct {
	Steps  int `json:"steps"`  // per image
	Pixels int `json:"pixels"` // per image
	Images int `json:"images"` // per request
}

// Adapters is the answer of GET /api/adapters.
type Adapters struct {
	Adapters []string `json:"adapters"` // names, for loras in requests
}

func models(e Engine, o Options) http.HandlerFunc {
	limits := Limits{
		Steps: cmp.Or(o.MaxSteps, engine.DefaultMaxSteps), Pixels: cmp.Or(o.MaxPixels, engine.DefaultMaxPixels), Images: cmp.Or(o.MaxImages, engine.DefaultMaxImages),
	}
	return func(w http.ResponseWriter, r *http.Request) {
		out := Models{Models: []Model{}, Limits: limits}
		for _, m := range e.Models() {
			is := Model{
				Name: m.Name, File: m.File, Kind: m.Kind, Classes: append([]string{}, m.Classes...), Samplers: []Sampler{},
				Steps: m.Steps, InputSteps: m.InputSteps, MaskSteps: m.MaskSteps, Width: m.Width, Height: m.Height, Loaded: m.Loaded,
			}
			if m.Kind != "" {
				is.Abilities = &Abilities{
					Prompts: m.Prompts, Images: m.Images, Guided: m.Guided, Negative: m.Negative,
					Guidance: m.Guidance, MinGuidance: m.MinGuidance, MaxGuidance: m.MaxGuidance,
				}
			}
			for _, name := range m.Samplers {
				title := samplerTitle(name)
				if slices.ContainsFunc(is.Samplers, func(s Sampler) bool { return s.Title == title }) {
					title += " (" + name + ")"
				}
				is.Samplers = append(is.Samplers, Sampler{name, title})
			}
			out.Models = append(out.Models, is)
		}
		reply(w, http.StatusOK, out)
	}
}

// samplerTitle is A1111's name of a sampler with its schedule type; the sampler's own where A1111 has none.
func samplerTitle(name string) string {
	var t infotext.Text
	t.AddSampler(name)
	title := t.Get("Sampler")
	if schedule := t.Get("Schedule type"); schedule != "" && schedule != "Automatic" {
		title += " " + schedule
	}
	return cmp.Or(title, name)
}

func adapters(e Engine) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		names, err := e.Adapters()
		if err != nil {
			type message struct {
				Message string `json:"message"`
				Type    string `json:"type"`
			}
			reply(w, http.StatusInternalServerError, map[string]message{"error": {quote.Error(err).Error(), "server_error"}})
			return
		}
		reply(w, http.StatusOK, Adapters{append([]string{}, names...)})
	}
}

// reply writes JSON. An error of writing is the client's going away, which needs no answer.
func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}
