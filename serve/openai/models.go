package openai

import (
	"net/http"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/suggest"
	"github.com/onestep-go/onestep/serve/engine"
)

// modelInfo is a model in OpenAI's form, with what clients of this server may want to know.
type modelInfo struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`

	Kind     string   `json:"kind,omitempty"`
	Prompts  *bool    `json:"prompts,omitempty"` // nil, and so are the next two: not known before the model was open
	Images   *bool    `json:"images,omitempty"`
	Guided   *bool    `json:"guided,omitempty"`
	Classes  []string `json:"classes,omitempty"`
	Size     string   `json:"size,omitempty"`
	Samplers []string `json:"samplers,omitempty"`
	Steps    int      `json:"steps,omitempty"`
	Loaded   bool     `json:"loaded"`
}

func (h *handler) info(m engine.Info) modelInfo {
	is := modelInfo{
		ID: m.Name, Object: "model", Created: h.started.Unix(), OwnedBy: "onestep",
		Kind: m.Kind, Classes: m.Classes, Samplers: m.Samplers, Steps: m.Steps, Loaded: m.Loaded,
	}
	if m.Kind != "" {
		is.Prompts, is.Images, is.Guided = &m.Prompts, &m.Images, &m.Guided
	}
	if m.Width > 0 {
		is.Size = size(m.Width, m.Height)
	}
	return is
}

// models lists the models.
func (h *handler) models(w http.ResponseWriter, _ *http.Request) error {
	data := []modelInfo{}
	for _, m := range h.engine.Models() {
		data = append(data, h.info(m))
	}
	write(w, http.StatusOK, map[string]any{"object": "list", "data": data})
	return nil
}

// model describes one model.
func (h *handler) model(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	for _, m := range h.engine.Models() {
		if m.Name == id {
			write(w, http.StatusOK, h.info(m))
			return nil
		}
	}
	return h.noModel(id)
}

func (h *handler) noModel(name string) error {
	var names []string
	for _, m := range h.engine.Models() {
		names = append(names, m.Name)
	}
	return &Error{Status: http.StatusNotFound, Param: "model", Code: "model_not_found",
		Msg: "model: there is no " + quoted(name) + suggest.Hint(name, names) + "; GET /v1/models lists the models"}
}

// known returns the name by which the engine knows a model: its own, or "" for the first model in place of one of OpenAI's.
func (h *handler) known(name string) (known string, err error) {
	switch {
	case name == "" || slices.ContainsFunc(h.engine.Models(), func(m engine.Info) bool { return m.Name == name }):
		return name, nil
	case isDALLE(name) || strings.HasPrefix(name, "gpt-image-") || strings.HasPrefix(name, "chatgpt-image-"):
		return "", nil
	}
	return "", h.noModel(name)
}

// isDALLE tells the models of OpenAI whose replies had URLs by default.
func isDALLE(name string) bool { return strings.HasPrefix(name, "dall-e-") }
