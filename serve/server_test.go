package serve

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/serve/engine"
)

func TestProbes(t *testing.T) {
	var missing error
	s := start(t, &fake{}, Options{Ready: func() error { return missing }})
	status := func(path string) int {
		res, _ := s.do(t, "GET", path, "")
		return res.StatusCode
	}
	assert.Equal(t, []int{200, 200}, []int{status("/healthz"), status("/readyz")})
	missing = errors.New("model sd15: no such file")
	assert.Equal(t, []int{200, 503}, []int{status("/healthz"), status("/readyz")})
	res, body := s.do(t, "GET", "/readyz", "")
	assert.Contains(t, body, "sd15")
	assert.Equal(t, "no-store", res.Header.Get("Cache-Control"))
	assert.Equal(t, 404, status("/none"))
}

func TestLogAndMetrics(t *testing.T) {
	var log logged
	s := start(t, &fake{}, Options{Log: log.logger(), Version: "1.2.3"})
	res, body := s.do(t, "POST", generations, `{"prompt": "a secret wish", "n": 3}`)
	require.Equal(t, 200, res.StatusCode, body)
	for _, path := range []string{"/v1/none", "/v1/none-2", "/wp-login.php", "/v1/models"} {
		s.do(t, "GET", path, "")
	}
	line := log.String()
	for _, want := range []string{"client=127.0.0.1", "path=" + generations, "status=200", "model=grey", "images=3", "grey only", "queued=", "generating=", "method=POST", "id=" + res.Header.Get("X-Request-Id")} {
		assert.Contains(t, line, want)
	}
	assert.NotContains(t, line, "wish")
	_, text := s.do(t, "GET", "/metrics", "")
	assert.NotContains(t, log.String(), "/metrics")
	for _, want := range []string{
		`onestep_requests_total{code="200",path="/v1/images/generations"} 1`, `onestep_images_total{model="grey"} 3`, `onestep_queue_length 0`, `onestep_running 0`,
		`onestep_queue_seconds_count{model="grey"} 1`, `onestep_generating_seconds_count{model="grey"} 1`, `onestep_models_open 1`, `onestep_models_bytes 1234`,
		`onestep_requests_total{code="404",path="other"}`, `onestep_build_info{version="1.2.3"} 1`, "go_goroutines", "process_resident_memory_bytes",
	} {
		assert.Contains(t, text, want)
	}
	assert.NotContains(t, text, "wp-login")
}

func TestDocument(t *testing.T) {
	s := start(t, &fake{}, Options{Version: "1.2.3"})
	_, body := s.do(t, "GET", "/openapi.json", "")
	var doc struct {
		OpenAPI string
		Info    struct{ Title, Version string }
		Paths   map[string]map[string]any
	}
	require.NoError(t, json.Unmarshal([]byte(body), &doc))
	assert.True(t, strings.HasPrefix(doc.OpenAPI, "3.1"))
	assert.Equal(t, "1.2.3", doc.Info.Version)
	for _, path := range []string{generations, "/sdapi/v1/txt2img", "/healthz", "/api/models"} {
		assert.Contains(t, doc.Paths, path)
	}
	// Every reference leads somewhere.
	var all any
	require.NoError(t, json.Unmarshal([]byte(body), &all))
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if ref, ok := v["$ref"].(string); ok {
				at := all
				for _, key := range strings.Split(strings.TrimPrefix(ref, "#/"), "/") {
					m, _ := at.(map[string]any)
					at = m[strings.NewReplacer("~1", "/", "~0", "~").Replace(key)]
				}
				assert.NotNil(t, at, ref)
			}
			for _, e := range v {
				walk(e)
			}
		case []any:
			for _, e := range v {
				walk(e)
			}
		}
	}
	walk(all)
	for path, want := range map[string]string{generations: generations, "/v1/models/sd15": "/v1/models/{id}", "/": "/", "/v1/models/": "/v1/models/{id}", "/none": "other", "/healthz": "/healthz"} {
		assert.Equal(t, want, s.api.pattern(path), path)
	}
	assert.Error(t, merge(map[string]any{"paths": map[string]any{"/a": 1}}, map[string]any{"paths": map[string]any{"/a": 1}}, "paths"))
	same := func() map[string]any {
		return map[string]any{"components": map[string]any{"schemas": map[string]any{"A": 1}}}
	}
	assert.Error(t, merge(same(), same(), "components"))
}

// A panic, of a handler or where images are made, is the answer of one request.
func TestPanic(t *testing.T) {
	var log logged
	f := &fake{broke: "tensor freed"}
	s := start(t, f, Options{Log: log.logger()})
	res, body := s.do(t, "POST", generations, `{"prompt": "cat"}`)
	assert.Equal(t, 500, res.StatusCode)
	assert.Contains(t, body, res.Header.Get("X-Request-Id"))
	assert.NotContains(t, body, "tensor freed")
	assert.Contains(t, log.String(), "tensor freed")
	assert.Contains(t, log.String(), "fake_test.go")
	f.broke = nil
	res, _ = s.do(t, "POST", generations, `{"prompt": "cat"}`)
	assert.Equal(t, 200, res.StatusCode)

	log.b.Reset()
	f.fails = &engine.PanicError{Value: "freed there", Stack: []byte("where")}
	res, _ = s.do(t, "POST", generations, `{"prompt": "cat"}`)
	assert.Equal(t, 500, res.StatusCode)
	assert.Contains(t, log.String(), "stack=where")
	for line := range strings.Lines(log.String()) {
		assert.Contains(t, line, "id="+res.Header.Get("X-Request-Id"))
	}

	// After a part of the answer, the connection ends.
	s2, err := New(&fake{}, Options{Log: log.logger()})
	require.NoError(t, err)
	s2.handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half")
		panic("later")
	})
	func() {
		defer func() { assert.Equal(t, http.ErrAbortHandler, recover()) }()
		r, _ := http.NewRequest("GET", "http://localhost/", nil)
		s2.ServeHTTP(discard{}, r)
	}()
}

type discard struct{}

func (discard) Header() http.Header         { return http.Header{} }
func (discard) Write(b []byte) (int, error) { return len(b), nil }
func (discard) WriteHeader(int)             {}

// A server that is stopped answers what it has begun, refuses the rest, and ends.
func TestDrain(t *testing.T) {
	f := &fake{gate: make(chan struct{}), began: make(chan struct{}, 1)}
	s := start(t, f, Options{})
	answer := make(chan int, 1)
	go func() {
		res, err := http.Post(s.url+generations, "application/json", strings.NewReader(`{"prompt": "cat", "n": 2}`))
		if err != nil {
			answer <- 0
			return
		}
		body, err := io.ReadAll(res.Body)
		if err != nil || strings.Count(string(body), "b64_json") != 2 {
			answer <- 1
			return
		}
		answer <- res.StatusCode
	}()
	<-f.began
	s.stop()
	require.Eventually(t, func() bool {
		res, _ := s.do(t, "GET", "/readyz", "")
		return res.StatusCode == 503
	}, 5*time.Second, 5*time.Millisecond)
	res, _ := s.do(t, "POST", generations, `{"prompt": "cat"}`)
	assert.Equal(t, 503, res.StatusCode)
	assert.NotEmpty(t, res.Header.Get("Retry-After"))
	res, _ = s.do(t, "GET", "/healthz", "")
	assert.Equal(t, 200, res.StatusCode)
	res, _ = s.do(t, "GET", "/metrics", "")
	assert.Equal(t, 200, res.StatusCode)
	f.gate <- struct{}{}
	f.gate <- struct{}{}
	assert.Equal(t, 200, <-answer)
	err := <-s.end
	require.NoError(t, err)
	s.end <- nil
	f.mu.Lock()
	assert.True(t, f.closed)
	f.mu.Unlock()

	s2, err := New(&fake{gate: make(chan struct{})}, Options{})
	require.NoError(t, err)
	require.True(t, s2.enter())
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	assert.ErrorIs(t, s2.Drain(ctx), context.DeadlineExceeded)
}

// What ends early is no error of the client's, and is not counted as an answer.
func TestClientGone(t *testing.T) {
	var log logged
	f := &fake{gate: make(chan struct{}), began: make(chan struct{}, 1)}
	s := start(t, f, Options{Log: log.logger()})
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, "POST", s.url+generations, strings.NewReader(`{"prompt": "cat"}`))
	require.NoError(t, err)
	go func() {
		<-f.began
		cancel()
	}()
	_, err = http.DefaultClient.Do(r)
	require.ErrorIs(t, err, context.Canceled)
	require.Eventually(t, func() bool { return strings.Contains(log.String(), "status=499") }, 5*time.Second, 5*time.Millisecond)
	assert.Zero(t, f.Status().Running)

	// A client that hangs up with the whole answer in its hands got it.
	ctx, cancel = context.WithCancel(t.Context())
	r = httptest.NewRequestWithContext(ctx, "POST", generations, nil)
	s.observe(httptest.NewRecorder(), r, func(w http.ResponseWriter, _ *http.Request) {
		_, err := w.Write([]byte("ok"))
		assert.NoError(t, err)
		cancel()
	})
	assert.Contains(t, log.String(), "path=/v1/images/generations status=200")
}
