package webui

import (
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"io"
	"iter"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/serve/engine"
	"github.com/onestep-go/onestep/serve/internal/client"
	"github.com/onestep-go/onestep/serve/internal/notice"
	"github.com/onestep-go/onestep/serve/internal/upload"
)

// Engine is what the handler needs of an [engine.Engine].
type Engine interface {
	Models() []engine.Info
	Adapters() ([]string, error)
	Images(ctx context.Context, r engine.Request) iter.Seq2[engine.Event, error]
}

// Options configure a handler. Zero fields have the defaults given.
type Options struct {
	MaxBody   int64        // bytes of a request; 0: 64 MiB
	MaxPixels int          // of an input image; 0: 16·1024²
	Clients   int          // whose choices are remembered; 0: 1000
	Log       *slog.Logger // notices and errors; nil: none
}

// openapi describes the paths of the handler.
//
//go:embed openapi.yaml
var openapi []byte

// OpenAPI returns the paths and components of an OpenAPI 3.1 document for the handler, in YAML.
func OpenAPI() []byte { return slices.Clone(openapi) }

// New returns a handler for the paths of /sdapi/v1 and /internal/ping.
func New(e Engine, o Options) http.Handler {
	o.MaxBody = cmp.Or(o.MaxBody, 64<<20)
	o.Clients = cmp.Or(o.Clients, 1000)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &server{engine: e, o: o, choices: choices{most: o.Clients}, limits: upload.Limits{Bytes: int(o.MaxBody), Pixels: o.MaxPixels}}
	s.decoder = upload.NewDecoder(s.limits, 4<<20)
	s.routes = s.table()
	return s
}

type server struct {
	engine  Engine
	o       Options
	routes  map[string]methods
	choices choices
	jobs    jobs
	limits  upload.Limits // of an input image
	decoder *upload.Decoder
}

// methods are the handlers of a path by the request's method.
type methods map[string]func(http.ResponseWriter, *http.Request) error

const root = "/sdapi/v1/"

// table returns the handlers by path.
func (s *server) table() map[string]methods {
	get := func(reply func(r *http.Request) (any, error)) methods { return methods{"GET": answer(reply)} }
	post := func(reply func(r *http.Request) (any, error)) methods { return methods{"POST": answer(reply)} }
	always := func(v any) func(*http.Request) (any, error) {
		return func(*http.Request) (any, error) { return v, nil }
	}
	none, object := []any{}, map[string]any{}
	return map[string]methods{
		"/internal/ping": get(always(object)),

		root + "txt2img": {"POST": s.textToImage},
		root + "img2img": {"POST": s.imageToImage},

		root + "options":   {"GET": answer(s.getOptions), "POST": s.setOptions},
		root + "progress":  get(s.progress),
		root + "interrupt": post(s.interrupt),
		root + "skip":      post(s.skip),
		root + "png-info":  {"POST": s.pngInfo},
		root + "memory":    get(memory),

		root + "sd-models":  get(s.models),
		root + "samplers":   get(s.samplers),
		root + "schedulers": get(schedulers),
		root + "loras":      get(s.loras),

		// What clients ask when they connect, of parts that are not here.
		root + "upscalers":            get(upscalers),
		root + "latent-upscale-modes": get(always(none)),
		root + "sd-vae":               get(always(none)),
		root + "embeddings":           get(always(map[string]any{"loaded": object, "skipped": object})),
		root + "hypernetworks":        get(always(none)),
		root + "face-restorers":       get(always(none)),
		root + "realesrgan-models":    get(always(none)),
		root + "prompt-styles":        get(always(none)),
		root + "scripts":              get(always(map[string]any{"txt2img": none, "img2img": none})),
		root + "script-info":          get(always(none)),
		root + "extensions":           get(always(none)),
		root + "cmd-flags":            get(always(object)),

		// Models are opened when they are asked for and adapters are looked up each time, so these have nothing to do.
		root + "refresh-checkpoints": post(always(nil)),
		root + "refresh-vae":         post(always(nil)),
		root + "refresh-loras":       post(always(nil)),
		root + "unload-checkpoint":   post(s.leftToServer),
		root + "reload-checkpoint":   post(always(object)),
	}
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, ok := s.routes[r.URL.Path]
	if !ok {
		writeJSON(w, http.StatusNotFound, map[string]string{"detail": "Not Found"})
		return
	}
	handle := path[r.Method]
	if handle == nil {
		w.Header().Set("Allow", strings.Join(slices.Sorted(maps.Keys(path)), ", "))
		writeJSON(w, http.StatusMethodNotAllowed, map[string]string{"detail": "Method Not Allowed"})
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, s.o.MaxBody)
	if err := handle(w, r); err != nil {
		s.fail(w, r, err)
	}
}

// answer makes a handler of a function that returns what is sent as JSON.
func answer(reply func(r *http.Request) (any, error)) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		v, err := reply(r)
		if err == nil {
			writeJSON(w, http.StatusOK, v)
		}
		return err
	}
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = encodeJSON(w, v) // fails only if the client has gone
}

// encodeJSON writes a value as JSON, with < and & in texts as they are.
func encodeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// who names the client of a request: by package serve, which knows keys, or else by its address.
func who(r *http.Request) string {
	if name := client.From(r.Context()); name != "" {
		return name
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// note logs what a client did not get, and says it in a header of replies whose body has no place for it.
func (s *server) note(w http.ResponseWriter, r *http.Request, notices []string) {
	if len(notices) == 0 {
		return
	}
	s.o.Log.InfoContext(r.Context(), "notices", "path", r.URL.Path, "client", who(r), "notices", notices)
	if w != nil {
		notice.Add(w.Header(), notices)
	}
}
