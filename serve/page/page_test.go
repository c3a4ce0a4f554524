package page_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/onestep-go/onestep/serve/page"
	"github.com/stretchr/testify/require"
)

func get(h http.Handler, method, path string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// Every file has its type and a policy that allows nothing from elsewhere, and is sent once.
func TestFiles(t *testing.T) {
	h := page.New(models{{Name: "emoji"}}, page.Options{})
	types := map[string]string{"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}
	files, err := fs.Glob(os.DirFS("static"), "*")
	require.NoError(t, err)
	require.Greater(t, len(files), 10)
	for _, name := range files {
		path := "/static/" + name
		if name == "index.html" {
			path = "/"
		}
		w := get(h, "GET", path)
		require.Equal(t, http.StatusOK, w.Code, path)
		require.Equal(t, types[name[strings.LastIndex(name, ".")+1:]], w.Header().Get("Content-Type"), path)
		require.Contains(t, w.Header().Get("Content-Security-Policy"), "default-src 'self'")
		require.NotContains(t, w.Header().Get("Content-Security-Policy"), "unsafe")
		require.Equal(t, "nosniff", w.Header().Get("X-Content-Type-Options"))
		want, err := os.ReadFile("static/" + name)
		require.NoError(t, err)
		require.Equal(t, string(want), w.Body.String(), path)

		tag := w.Header().Get("ETag")
		require.NotEmpty(t, tag)
		w = get(h, "GET", path, "If-None-Match", tag)
		require.Equal(t, http.StatusNotModified, w.Code, path)
		require.Zero(t, w.Body.Len())
	}
	for path, want := range map[string]int{"/static/": 404, "/static/index.html": 404, "/nothing": 404, "/static/none.js": 404} {
		require.Equal(t, want, get(h, "GET", path).Code, path)
	}
	require.Equal(t, http.StatusMethodNotAllowed, get(h, "POST", "/").Code)
	require.Equal(t, http.StatusOK, get(h, "HEAD", "/").Code)
}

// The sources have no script or style in line, which the policy refuses, and name nothing on other machines.
func TestSources(t *testing.T) {
	files, err := fs.Glob(os.DirFS("static"), "*")
	require.NoError(t, err)
	for _, name := range files {
		data, err := os.ReadFile("static/" + name)
		require.NoError(t, err)
		text := strings.ReplaceAll(string(data), "http://www.w3.org/2000/svg", "")
		require.NotRegexp(t, regexp.MustCompile(`https?://|["'(]//`), text, name)
		require.NotContains(t, text, "innerHTML", name)
		if strings.HasSuffix(name, ".html") {
			require.NotRegexp(t, regexp.MustCompile(`<style|\sstyle=|\son[a-z]+=|<script[^>]*>[^<]`), text, name)
		}
	}
}

func TestModels(t *testing.T) {
	h := page.New(models{{Name: "emoji", Kind: "consistency model", Classes: []string{"faces", "flags"}, Width: 32, Height: 32, Steps: 1, InputSteps: 2, MaskSteps: 40, Images: true, Guided: true, Guidance: 2,
		Samplers: []string{"dpmpp_2m_sde", "multistep"}, Loaded: true}, {Name: "sd15", File: "model"}},
		page.Options{MaxSteps: 20})
	w := get(h, "GET", "/api/models")
	require.Equal(t, http.StatusOK, w.Code)
	require.Equal(t, "application/json", w.Header().Get("Content-Type"))
	require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
	var got page.Models
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &got))
	require.Equal(t, page.Limits{Steps: 20, Pixels: 1 << 20, Images: 16}, got.Limits)
	require.Equal(t, page.Model{
		Name: "emoji", Kind: "consistency model", Classes: []string{"faces", "flags"}, Samplers: []page.Sampler{{Name: "dpmpp_2m_sde", Title: "DPM++ 2M SDE"}, {Name: "multistep", Title: "multistep"}},
		Abilities: &page.Abilities{Images: true, Guided: true, Guidance: 2}, Steps: 1, InputSteps: 2, MaskSteps: 40, Width: 32, Height: 32, Loaded: true,
	}, got.Models[0])
	require.Equal(t, page.Model{Name: "sd15", File: "model", Classes: []string{}, Samplers: []page.Sampler{}}, got.Models[1]) // what is not known is not said
	require.NotContains(t, w.Body.String(), "null")                                                                           // which scripts would have to expect
}

// broken is an engine whose adapters cannot be listed.
type broken struct{ models }

func (broken) Adapters() ([]string, error) { return nil, errors.New("open loras: \x1b[31mno") }

func TestAdapters(t *testing.T) {
	w := get(page.New(models{}, page.Options{}), "GET", "/api/adapters")
	require.JSONEq(t, `{"adapters": ["ink"]}`, w.Body.String())

	w = get(page.New(broken{}, page.Options{}), "GET", "/api/adapters")
	require.Equal(t, http.StatusInternalServerError, w.Code)
	var got struct {
		Error struct{ Message, Type string }
	}
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &got))
	require.Contains(t, got.Error.Message, "open loras")
	require.NotContains(t, got.Error.Message, "\x1b")
	require.Equal(t, "server_error", got.Error.Type)
}
