package serve

import (
	"io"
	"log/slog"
	"net/http"

	"github.com/onestep-go/onestep/serve/openai"
	"github.com/onestep-go/onestep/serve/page"
	"github.com/onestep-go/onestep/serve/webui"
)

// routes returns the handler of all paths.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	o, log := s.o, slog.New(identified{s.o.Log.Handler()})
	mux.Handle("/v1/", openai.New(s.engine, openai.Options{MaxBody: o.MaxBody, MaxPixels: o.MaxPixels, BaseURL: o.BaseURL, Log: log}))
	a1111 := webui.New(s.engine, webui.Options{MaxBody: o.MaxBody, Log: log})
	mux.Handle("/sdapi/", a1111)
	mux.Handle("/internal/", a1111)
	mux.Handle("/", page.New(s.engine, page.Options{MaxSteps: o.MaxSteps, MaxPixels: o.MaxPixels, MaxImages: o.MaxImages}))
	mux.Handle("GET /openapi.json", s.api)
	mux.Handle("GET /metrics", s.metrics.handler())
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := s.ready(); err != nil {
			say(w, http.StatusServiceUnavailable, err.Error())
			return
		}
		say(w, http.StatusOK, "ok")
	})
	return mux
}

// say answers a probe.
func say(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text+"\n") // the client has gone
}
