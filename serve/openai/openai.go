package openai

import (
	"cmp"
	"context"
	_ "embed" // openapi.yaml
	"iter"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/onestep-go/onestep/serve/engine"
	"github.com/onestep-go/onestep/serve/internal/upload"
)

// Engine generates images; [engine.Engine] does.
type Engine interface {
	Models() []engine.Info
	Images(ctx context.Context, r engine.Request) iter.Seq2[engine.Event, error]
}

// Options configure a handler. Zero fields have the defaults given.
type Options struct {
	MaxBody  int64 // bytes of a request; 0: 64 MiB
	MaxImage int   // bytes of an input image's file; 0: 32 MiB
	// MaxPixels is the number of pixels of the largest image that is generated; input images are reduced to it; 0: 1024².
	MaxPixels int

	FileBytes int64         // memory of the images that are served by URL; the oldest ones are dropped; 0: 64 MiB
	FileLife  time.Duration // for which they are served; 0: 1 hour
	BaseURL   string        // of their URLs, such as https://example.com/images; "": of the request

	Log *slog.Logger // gets what replies with status 500 do not say; nil: nothing is logged
}

//go:embed openapi.yaml
var document []byte

// OpenAPI returns the OpenAPI 3.1 document of the handler's paths, in YAML. The names of its components begin with OpenAI.
func OpenAPI() []byte { return slices.Clone(document) }

type handler struct {
	Options
	engine  Engine
	mux     *http.ServeMux
	files   files
	times   times
	decoder *upload.Decoder
	started time.Time
}

// New returns a handler of the paths below /v1 that generates with an engine.
func New(e Engine, o Options) http.Handler {
	o.MaxBody = cmp.Or(o.MaxBody, 64<<20)
	o.MaxImage = cmp.Or(o.MaxImage, 32<<20)
	o.MaxPixels = cmp.Or(o.MaxPixels, engine.DefaultMaxPixels)
	o.FileBytes = cmp.Or(o.FileBytes, 64<<20)
	o.FileLife = cmp.Or(o.FileLife, time.Hour)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	h := &handler{
		Options: o, engine: e, mux: http.NewServeMux(), started: time.Now(),
		decoder: upload.NewDecoder(upload.Limits{Bytes: o.MaxImage}, o.MaxPixels),
		files:   files{most: o.FileBytes, life: o.FileLife},
	}
	h.route("/v1/images/generations", h.images(generation), http.MethodPost)
	h.route("/v1/images/edits", h.images(edit), http.MethodPost)
	h.route("/v1/images/variations", h.images(variation), http.MethodPost)
	h.route("/v1/models", h.models, http.MethodGet, http.MethodHead)
	h.route("/v1/models/{id...}", h.model, http.MethodGet, http.MethodHead)
	h.route("/v1/files/{name}", h.file, http.MethodGet, http.MethodHead)
	h.route("/", func(_ http.ResponseWriter, r *http.Request) error {
		return &Error{Status: http.StatusNotFound, Code: "not_found", Msg: "there is no " + quoted(r.URL.Path) + " here"}
	})
	return h
}

// route serves a path with some methods; other methods are an error in OpenAI's form.
func (h *handler) route(path string, serve func(http.ResponseWriter, *http.Request) error, methods ...string) {
	h.mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		if methods != nil && !slices.Contains(methods, r.Method) {
			w.Header().Set("Allow", strings.Join(methods, ", "))
			h.fail(w, r, &Error{Status: http.StatusMethodNotAllowed, Code: "method_not_allowed", Msg: "want " + methods[0] + ", got " + quoted(r.Method)})
			return
		}
		if err := serve(w, r); err != nil {
			h.fail(w, r, err)
		}
	})
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.mux.ServeHTTP(w, r) }
