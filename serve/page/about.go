package page

import (
	"cmp"
	"encoding/json"
	"net/http"

	"github.com/onestep-go/onestep/internal/quote"
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
	Name     string   `json:"name"`
	Kind     string   `json:"kind"`    // such as "consistency model"; "": not known yet
	Prompts  bool     `json:"prompts"` // takes prompts
	Images   bool     `json:"images"`  // takes input images
	Guided   bool     `json:"guided"`  // uses a guidance scale
	Classes  []string `json:"classes"` // names of its classes, in order; empty if it has none
	Samplers []string `json:"samplers"`
	Steps    int      `json:"steps"`  // by default
	Width    int      `json:"width"`  // of its images by default, in pixels
	Height   int      `json:"height"` // likewise
	Loaded   bool     `json:"loaded"` // is in memory
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
			out.Models = append(out.Models, Model{
				Name: m.Name, Kind: m.Kind, Prompts: m.Prompts, Images: m.Images, Guided: m.Guided, Classes: append([]string{}, m.Classes...), Samplers: append([]string{}, m.Samplers...),
				Steps: m.Steps, Width: m.Width, Height: m.Height, Loaded: m.Loaded,
			})
		}
		reply(w, http.StatusOK, out)
	}
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
