package webui

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/serve/engine"
	"github.com/onestep-go/onestep/serve/internal/upload"
)

// httpError is an error that the client can do something about, with its status.
type httpError struct {
	status int
	detail string
}

func (e *httpError) Error() string { return e.detail }

func refuse(status int, format string, args ...any) error {
	return &httpError{status, fmt.Sprintf(format, args...)}
}

// invalid are fields of the wrong type or value, as FastAPI reports them.
type invalid []problem

type problem struct {
	Loc  []any  `json:"loc"`
	Msg  string `json:"msg"`
	Type string `json:"type"`
}

func (e invalid) Error() string {
	var all []string
	for _, p := range e {
		all = append(all, quote.Text(fmt.Sprint(p.Loc[len(p.Loc)-1]))+": "+quote.Long(p.Msg, 1000))
	}
	return strings.Join(all, "; ")
}

// retryAfter is when a client may try again while the queue is full, in seconds.
const retryAfter = 2

// fail answers a request with an error: 422 in FastAPI's form, others in A1111's.
func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(r.Context().Err(), context.Canceled) {
		return // the client has gone
	}
	var fields invalid
	if errors.As(err, &fields) {
		writeJSON(w, http.StatusUnprocessableEntity, map[string]any{"detail": fields})
		return
	}
	status, kind, detail := http.StatusInternalServerError, "RuntimeError", "generating failed: the server's log has the reason"
	var (
		own     *httpError
		request *engine.RequestError
		large   *http.MaxBytesError
	)
	switch {
	case errors.As(err, &own):
		status, kind, detail = own.status, "HTTPException", own.detail
	case errors.As(err, &request):
		status, kind, detail = http.StatusBadRequest, "HTTPException", fieldName(request.Field)+": "+request.Msg
	case errors.As(err, &large):
		status, kind = http.StatusRequestEntityTooLarge, "HTTPException"
		detail = fmt.Sprintf("the request has more than %d bytes", large.Limit)
	case errors.Is(err, engine.ErrFull), errors.Is(err, upload.ErrBusy):
		w.Header().Set("Retry-After", strconv.Itoa(retryAfter))
		status, kind, detail = http.StatusTooManyRequests, "HTTPException", err.Error()+": try again later"
	case errors.Is(err, engine.ErrClosed):
		status, kind, detail = http.StatusServiceUnavailable, "HTTPException", err.Error()
	case errors.Is(err, context.DeadlineExceeded):
		status, kind, detail = http.StatusGatewayTimeout, "HTTPException", "the request took longer than the server allows"
	default:
		s.o.Log.ErrorContext(r.Context(), "request failed", "path", r.URL.Path, "client", who(r), "error", err)
	}
	writeJSON(w, status, map[string]string{"error": kind, "detail": detail, "body": "", "errors": detail})
}

// fieldName returns A1111's name of a field of [engine.Request].
func fieldName(field string) string {
	names := map[string]string{
		"Model": "sd_model_checkpoint", "Prompt": "prompt", "Negative": "negative_prompt", "Labels": "prompt", "Classes": "prompt", "LoRAs": "prompt",
		"N": "batch_size * n_iter", "Seed": "seed", "Steps": "steps", "Guidance": "cfg_scale", "Sampler": "sampler_name",
		"Width": "width", "Height": "height", "Init": "init_images", "Mask": "mask", "Strength": "denoising_strength",
	}
	if name, ok := names[field]; ok {
		return name
	}
	return field
}
