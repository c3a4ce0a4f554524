package serve

import (
	"encoding/json"
	"net/http"
	"strings"
)

// statusError is an error of this package's own that a client sees.
type statusError struct {
	status int
	msg    string
}

func (e *statusError) Error() string { return e.msg }

// kinds are OpenAI's types of errors by status.
var kinds = map[int]string{
	http.StatusUnauthorized: "authentication_error", http.StatusForbidden: "permission_error",
	http.StatusInternalServerError: "server_error", http.StatusServiceUnavailable: "server_error",
}

// fail answers with an error in the form of the interface that the path belongs to: OpenAI's, or A1111's.
func fail(w http.ResponseWriter, r *http.Request, e *statusError) {
	kind := kinds[e.status]
	if kind == "" {
		kind = "invalid_request_error"
	}
	var body any = map[string]any{"error": map[string]any{"message": e.msg, "type": kind, "param": nil, "code": nil}}
	if strings.HasPrefix(r.URL.Path, "/sdapi/") {
		body = map[string]any{"error": http.StatusText(e.status), "detail": e.msg, "body": "", "errors": e.msg}
	}
	h := w.Header()
	switch e.status {
	case http.StatusServiceUnavailable:
		h.Set("Retry-After", "5")
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Bearer realm="onestep"`) // not Basic, for which browsers would show a dialog of their own
	case http.StatusRequestTimeout, http.StatusRequestEntityTooLarge:
		h.Set("Connection", "close")
	}
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(e.status)
	_ = json.NewEncoder(w).Encode(body) // the client has gone
}
