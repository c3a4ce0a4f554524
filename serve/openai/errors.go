package openai

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/serve/engine"
	"github.com/onestep-go/onestep/serve/internal/jsonsize"
	"github.com/onestep-go/onestep/serve/internal/upload"
)

// Error is an error in OpenAI's form.
type Error struct {
	Status int
	Param  string // of the request; "": none
	Code   string
	Msg    string
	after  int // seconds; 0: not said
}

// Error returns the message.
func (e *Error) Error() string { return e.Msg }

// MarshalJSON returns the object {"error": {…}}.
func (e *Error) MarshalJSON() ([]byte, error) {
	is := map[string]any{"message": e.Msg, "type": "invalid_request_error", "param": nil, "code": e.Code}
	switch {
	case e.Status == http.StatusTooManyRequests:
		is["type"] = "requests"
	case e.Status >= 500:
		is["type"] = "server_error"
	}
	if e.Param != "" {
		is["param"] = e.Param
	}
	return json.Marshal(map[string]any{"error": is})
}

// invalid is an error of a parameter's value.
func invalid(param, format string, args ...any) error {
	return &Error{Status: http.StatusBadRequest, Param: param, Code: "invalid_value", Msg: quote.Text(param) + ": " + fmt.Sprintf(format, args...)}
}

// wrongType is an error of a parameter's type.
func wrongType(param, want string, got []byte) error {
	return &Error{Status: http.StatusBadRequest, Param: param, Code: "invalid_type", Msg: fmt.Sprintf("%s: want %s, got %s", quote.Text(param), want, quote.Text(got))}
}

// fields are the parameters of the fields of [engine.Request].
var fields = map[string]string{
	"Model": "model", "Prompt": "prompt", "Negative": "negative_prompt", "Labels": "labels", "Classes": "labels", "N": "n", "Seed": "seed", "Steps": "steps",
	"Guidance": "guidance", "Sampler": "sampler", "Width": "size", "Height": "size", "Init": "image", "Mask": "mask", "Strength": "strength",
	"LoRAs": "loras", "Previews": "partial_images",
}

// fail writes an error, unless the client is gone.
func (h *handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	e := h.explain(r.Context(), err)
	if e == nil {
		return
	}
	if e.after > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(e.after))
	}
	write(w, e.Status, e)
}

// explain returns an error in OpenAI's form; nil if the client is gone.
func (h *handler) explain(ctx context.Context, err error) *Error {
	var (
		is      *Error
		request *engine.RequestError
		tooMuch *http.MaxBytesError
	)
	switch {
	case errors.As(err, &is):
		return is
	case errors.Is(ctx.Err(), context.Canceled):
		return nil
	case errors.As(err, &request):
		param := fields[request.Field]
		e := &Error{Status: http.StatusBadRequest, Param: param, Code: "invalid_value", Msg: request.Msg}
		if param != "" {
			e.Msg = param + ": " + request.Msg
		}
		if param == "model" {
			e.Status, e.Code = http.StatusNotFound, "model_not_found"
		}
		return e
	case errors.Is(err, engine.ErrFull), errors.Is(err, upload.ErrBusy):
		return &Error{Status: http.StatusTooManyRequests, Code: "rate_limit_exceeded", Msg: err.Error() + ": try again later", after: h.times.seconds()}
	case errors.Is(err, engine.ErrClosed):
		return &Error{Status: http.StatusServiceUnavailable, Code: "server_stopping", Msg: err.Error(), after: 5}
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{Status: http.StatusGatewayTimeout, Code: "timeout", Msg: "the images were not finished in time: ask for fewer steps, images or pixels"}
	case errors.As(err, &tooMuch):
		return tooLarge("body", fmt.Sprintf("the request has more than %d bytes", tooMuch.Limit))
	}
	h.Log.ErrorContext(ctx, "images were not generated", "error", err)
	return &Error{Status: http.StatusInternalServerError, Code: "internal_error", Msg: "the images could not be generated; the server's log says why"}
}

// tooLarge is an error of the body or of a part of it.
func tooLarge(param, msg string) *Error {
	e := &Error{Status: http.StatusRequestEntityTooLarge, Param: param, Code: "too_large", Msg: msg}
	if param == "body" {
		e.Param = ""
	}
	return e
}

// tooMany is an error of JSON with too many values, in the body or in a string.
func tooMany(param string) *Error {
	return tooLarge(param, fmt.Sprintf("%s: want JSON with at most %d values, got more", param, jsonsize.Most))
}

// write writes a value as JSON.
func write(w http.ResponseWriter, status int, v any) {
	data, err := json.Marshal(v)
	if err != nil { // no value here fails
		panic(err)
	}
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Content-Length", strconv.Itoa(len(data)+1))
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n')) // a client that is gone needs no reply
}

// quoted makes a client's text safe to repeat.
func quoted(s string) string { return quote.Quoted(s) }
