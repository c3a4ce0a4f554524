package serve

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/serve/engine"
)

// requestID is the header of a request's id.
const requestID = "X-Request-Id"

// record is what is known of a request, for its line in the log.
type record struct {
	id     string
	client string

	// Of the images that its handler asks for.
	model     string
	images    int
	queued    time.Duration
	generated time.Duration
	notices   []string
	err       error
}

type recordKey struct{}

func recordOf(ctx context.Context) *record {
	if r, ok := ctx.Value(recordKey{}).(*record); ok {
		return r
	}
	return &record{}
}

// idOf returns the id that a client gave to its request, if it is a plain word, or a new one.
func idOf(r *http.Request) string {
	id := r.Header.Get(requestID)
	if id == "" || len(id) > 128 || strings.ContainsFunc(id, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("-_.:", c)
	}) {
		return rand.Text()
	}
	return id
}

// observe gives a request an id, passes it on, and logs and counts it. A panic is an answer with the status 500.
func (s *Server) observe(w http.ResponseWriter, r *http.Request, next http.HandlerFunc) {
	began := time.Now()
	rec := &record{id: idOf(r)}
	out := &writer{ResponseWriter: w, conn: http.NewResponseController(w), pace: s.writing}
	out.Header().Set(requestID, rec.id)
	defer func() {
		broken := recover()
		if broken != nil && broken != http.ErrAbortHandler { //nolint:errorlint // net/http compares so
			s.o.Log.Error("panic", "id", rec.id, "value", quote.Text(fmt.Sprint(broken)), "stack", string(debug.Stack()))
			if out.status == 0 {
				fail(out, r, &statusError{http.StatusInternalServerError, "internal error: see the server's log for the request with the id " + quote.Text(rec.id)})
				broken = nil
			}
		}
		out.extend(0) // for what is buffered
		s.done(r, rec, out, time.Since(began))
		if broken != nil {
			panic(http.ErrAbortHandler)
		}
	}()
	next(out, r.WithContext(context.WithValue(r.Context(), recordKey{}, rec)))
}

// done logs and counts a request.
func (s *Server) done(r *http.Request, rec *record, out *writer, took time.Duration) {
	status := out.status
	if status == 0 {
		status = http.StatusOK
	}
	if r.Context().Err() != nil && (out.status == 0 || out.failed || errors.Is(rec.err, context.Canceled)) {
		status = 499 // the client has gone before the whole answer; nginx's number
	}
	path := s.api.pattern(r.URL.Path)
	s.metrics.requests.WithLabelValues(path, fmt.Sprint(status)).Inc()
	var broken *engine.PanicError
	if errors.As(rec.err, &broken) {
		s.o.Log.Error("panic", "id", rec.id, "value", quote.Text(fmt.Sprint(broken.Value)), "stack", string(broken.Stack))
	}
	level := slog.LevelInfo
	if isProbe(r.URL.Path) || strings.HasPrefix(r.URL.Path, "/static/") {
		level = slog.LevelDebug
	}
	if !s.o.Log.Enabled(r.Context(), level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("id", rec.id), slog.String("client", rec.client), slog.String("method", quote.Text(r.Method)), slog.String("path", quote.Text(r.URL.Path)),
		slog.Int("status", status), slog.Float64("seconds", seconds(took)),
	}
	if rec.model != "" {
		attrs = append(attrs, slog.String("model", rec.model), slog.Int("images", rec.images), slog.Float64("queued", seconds(rec.queued)),
			slog.Float64("generating", seconds(rec.generated)))
	}
	if len(rec.notices) > 0 {
		attrs = append(attrs, slog.Any("notices", rec.notices))
	}
	if rec.err != nil && !errors.Is(rec.err, context.Canceled) {
		attrs = append(attrs, slog.String("error", quote.Error(rec.err).Error()))
	}
	s.o.Log.LogAttrs(r.Context(), level, "request", attrs...)
}

func seconds(d time.Duration) float64 { return float64(d.Milliseconds()) / 1000 }

// writer is a response whose status is kept, and each part of which the client has to read in time.
type writer struct {
	http.ResponseWriter
	conn   *http.ResponseController
	pace   pace
	status int
	failed bool // a part could not be written
}

// extend gives the client time to read n more bytes.
func (w *writer) extend(n int) {
	_ = w.conn.SetWriteDeadline(w.pace.until(time.Now(), int64(n))) // not supported by writers of tests
}

// WriteHeader implements http.ResponseWriter.
func (w *writer) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
	}
	w.extend(0)
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *writer) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	const part = 128 << 10 // of a large answer, so that a client that stops reading is given up long before it had time for all of it
	n := 0
	for {
		next := b[n:min(n+part, len(b))]
		w.extend(len(next))
		done, err := w.ResponseWriter.Write(next)
		if n += done; err != nil || n >= len(b) {
			w.failed = w.failed || err != nil
			return n, err
		}
	}
}

// Flush implements http.Flusher.
func (w *writer) Flush() { _ = w.FlushError() }

// FlushError is Flush for http.ResponseController.
func (w *writer) FlushError() error {
	w.extend(0)
	return w.conn.Flush()
}

// Unwrap lets http.ResponseController find the connection.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// observed is an engine whose requests are logged and counted.
type observed struct {
	Engine
	metrics *metrics
}

// Images implements Engine.
func (o *observed) Images(ctx context.Context, r engine.Request) iter.Seq2[engine.Event, error] {
	return func(yield func(engine.Event, error) bool) {
		rec, began := recordOf(ctx), time.Now()
		var started time.Time
		model := ""
		defer func() {
			if model == "" { // it was not served
				return
			}
			took := time.Since(started)
			rec.generated += took
			o.metrics.generating.WithLabelValues(model).Observe(took.Seconds())
		}()
		for ev, err := range o.Engine.Images(ctx, r) {
			if as := ev.Resolved; as != nil {
				started, model = time.Now(), as.Model
				waited := started.Sub(began)
				rec.model, rec.notices, rec.queued = model, append(rec.notices, as.Notices...), rec.queued+waited
				o.metrics.queued.WithLabelValues(model).Observe(waited.Seconds())
			}
			if ev.Image != nil {
				rec.images++
				o.metrics.images.WithLabelValues(model).Inc()
			}
			if err != nil {
				rec.err = err
			}
			if !yield(ev, err) {
				return
			}
		}
	}
}

// identified is a log handler that adds the id of the request to what is logged of it.
type identified struct{ slog.Handler }

// Handle implements slog.Handler.
func (h identified) Handle(ctx context.Context, r slog.Record) error {
	if rec, ok := ctx.Value(recordKey{}).(*record); ok {
		r.AddAttrs(slog.String("id", rec.id))
	}
	return h.Handler.Handle(ctx, r)
}
