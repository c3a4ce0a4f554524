package webui

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/serve/engine"
)

// Fields of the wrong type or value are reported as FastAPI does, all at once.
func TestInvalidFields(t *testing.T) {
	f, h := newFake()
	for _, c := range []struct {
		body   string
		fields []string
	}{
		{`{"steps": "many", "seed": "x", "width": 1.5, "cfg_scale": [1], "prompt": 3, "tiling": 0}`, []string{"prompt", "steps", "width", "cfg_scale", "seed"}},
		{`{"steps": 0}`, []string{"steps"}},
		{`{"steps": -1}`, []string{"steps"}},
		{`{"steps": 1e300}`, []string{"steps"}},
		{`{"batch_size": 0}`, []string{"batch_size"}},
		{`{"batch_size": 1000000000000, "n_iter": 1000000000000}`, []string{"batch_size", "n_iter"}},
		{`{"cfg_scale": 1e999}`, []string{"cfg_scale"}},
		{`{"cfg_scale": "NaN"}`, []string{"cfg_scale"}},
		{`{"seed": -2}`, []string{"seed"}},
		{`{"seed": true}`, []string{"seed"}},
		{`{"seed": 99999999999999999999999}`, []string{"seed"}},
		{`{"send_images": "perhaps"}`, []string{"send_images"}},
		{`{"styles": "x"}`, []string{"styles"}},
		{`{"override_settings": 1}`, []string{"override_settings"}},
		{`{"override_settings": {"samples_format": "gif"}}`, []string{"samples_format"}},
		{`{"alwayson_scripts": []}`, []string{"alwayson_scripts"}},
	} {
		status, body, _ := call(t, h, "a", "POST", "/sdapi/v1/txt2img", c.body)
		require.Equal(t, 422, status, "%s: %s", c.body, body)
		var e struct{ Detail invalid }
		require.NoError(t, json.Unmarshal(body, &e), c.body)
		var names []string
		for _, p := range e.Detail {
			require.Equal(t, "body", p.Loc[0])
			require.NotEmpty(t, p.Msg)
			require.NotEmpty(t, p.Type)
			names = append(names, fmt.Sprint(p.Loc[len(p.Loc)-1]))
		}
		require.ElementsMatch(t, c.fields, names, c.body)
	}
	for _, body := range []string{``, ` `, `{`, `[]`, `null`, `"x"`, `5`, "\x00", strings.Repeat("[", 9_000), `{"a":1}{"b":2}`} {
		status, reply, _ := call(t, h, "a", "POST", "/sdapi/v1/txt2img", body)
		require.Equal(t, 422, status, "%.20q: %s", body, reply)
	}
	// Two bytes of JSON take a hundred and more in memory.
	for _, body := range []string{strings.Repeat("[", 20_000), `{"alwayson_scripts": {"a": {"args": [` + strings.Repeat("{},", 10_000) + `0]}}}`} {
		for _, path := range []string{"txt2img", "img2img", "options", "png-info"} {
			status, reply, _ := call(t, h, "a", "POST", "/sdapi/v1/"+path, body)
			require.Equal(t, 413, status, "%s", reply)
			require.Contains(t, string(reply), "at most 10000 values")
		}
	}
	require.Empty(t, f.seen)
}

// Other errors have A1111's form and the status that says whether to try again.
func TestErrors(t *testing.T) {
	var log bytes.Buffer
	f, _ := newFake()
	h := New(f, Options{Log: slog.New(slog.NewTextHandler(&log, nil)), MaxBody: 1000})
	for _, c := range []struct {
		err    error
		status int
		detail string
		logged bool
	}{
		{&engine.RequestError{Field: "N", Msg: "want 1 to 16 images, got 20"}, 400, "batch_size * n_iter: want 1 to 16 images, got 20", false},
		{&engine.RequestError{Field: "Strength", Msg: "no"}, 400, "denoising_strength: no", false},
		{fmt.Errorf("wrapped: %w", engine.ErrFull), 429, "full", false},
		{engine.ErrClosed, 503, "stopping", false},
		{context.DeadlineExceeded, 504, "longer", false},
		{errors.New("/home/me/model.safetensors is damaged"), 500, "log", true},
	} {
		f.err = c.err
		log.Reset()
		status, body, header := call(t, h, "a", "POST", "/sdapi/v1/txt2img", `{}`)
		require.Equal(t, c.status, status)
		var e map[string]string
		require.NoError(t, json.Unmarshal(body, &e))
		require.Contains(t, e["detail"], c.detail)
		require.Equal(t, e["detail"], e["errors"])
		require.NotEmpty(t, e["error"])
		require.Contains(t, e, "body")
		require.Equal(t, c.status == 429, header.Get("Retry-After") != "")
		require.Equal(t, c.logged, strings.Contains(log.String(), "damaged"))
		require.NotContains(t, string(body), "/home/me")
	}
	status, body, _ := call(t, h, "a", "POST", "/sdapi/v1/txt2img", `{"prompt": "`+strings.Repeat("x", 1000)+`"}`)
	require.Equal(t, 413, status, string(body))
	f.err = nil
	status, body, _ = call(t, h, "a", "POST", "/sdapi/v1/txt2img", `{"script_name": "X/Y/Z plot"}`)
	require.Equal(t, 422, status)
	require.Contains(t, string(body), "not found")
	status, _, header := call(t, h, "a", "GET", "/sdapi/v1/txt2img", "")
	require.Equal(t, 405, status)
	require.Equal(t, "POST", header.Get("Allow"))
	for _, path := range []string{"/sdapi/v1/nothing", "/sdapi/v1/", "/sdapi/v1/txt2img/", "/internal/x"} {
		status, body, _ := call(t, h, "a", "GET", path, "")
		require.Equal(t, 404, status)
		require.JSONEq(t, `{"detail": "Not Found"}`, string(body))
	}
}

// Notices are logged with the client and the path.
func TestLog(t *testing.T) {
	var log bytes.Buffer
	f, _ := newFake()
	h := New(f, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	post(t, h, "key 3", "/sdapi/v1/txt2img", `{"prompt": "secret prompt", "tiling": true}`)
	require.Contains(t, log.String(), "tiling")
	require.Contains(t, log.String(), "key 3")
	require.Contains(t, log.String(), "txt2img")
	require.NotContains(t, log.String(), "secret prompt")
	log.Reset()
	f.notices = []string{"of the engine"}
	requireNotices(t, post(t, h, "key 3", "/sdapi/v1/txt2img", `{}`), "of the engine")
	require.Empty(t, log.String(), "package serve logs it")
}
