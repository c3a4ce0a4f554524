package tests

import (
	"context"
	"iter"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/models/builtin"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/sampling/generate"
	"github.com/onestep-go/onestep/serve/engine"
	"github.com/onestep-go/onestep/serve/openai"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// refusing is an engine that takes no request.
type refusing struct{ err error }

func (refusing) Models() []engine.Info { return nil }

func (r refusing) Images(context.Context, engine.Request) iter.Seq2[engine.Event, error] {
	return func(yield func(engine.Event, error) bool) { yield(engine.Event{}, r.err) }
}

// imagesAPI returns a server of OpenAI's API with the built-in model and a tiny Stable Diffusion with adapters, and below /full and /stopping
// servers that refuse.
func imagesAPI(t *testing.T) *httptest.Server {
	t.Helper()
	dir := t.TempDir()
	file, adapters := filepath.Join(dir, "builtin.safetensors"), filepath.Join(dir, "adapters")
	require.NoError(t, os.WriteFile(file, builtin.Data(), 0o600))
	require.NoError(t, os.Mkdir(adapters, 0o700))
	ink, err := os.ReadFile(filepath.Join(loraFolder, "both-kohya.safetensors"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(adapters, "ink.safetensors"), ink, 0o600))
	open := func(path string) func() (*generate.Model, error) {
		return func() (*generate.Model, error) { return generate.Open(path, sd.Options{}) }
	}
	e, err := engine.New(engine.Options{
		Models: []engine.Model{{Name: "builtin", Open: open(file)}, {Name: "tiny-sd", Open: open(filepath.Join(sdFolder, "sd15"))}},
		LoRA:   lora.CacheOptions{Dir: adapters},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	mux := http.NewServeMux()
	mux.Handle("/v1/", openai.New(e, openai.Options{}))
	mux.Handle("/full/", http.StripPrefix("/full", openai.New(refusing{engine.ErrFull}, openai.Options{})))
	mux.Handle("/stopping/", http.StripPrefix("/stopping", openai.New(refusing{engine.ErrClosed}, openai.Options{})))
	mux.HandleFunc("GET /openapi.yaml", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(openai.OpenAPI()) })
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server
}

// The Python package openai, as it is, against a server: the script asserts what its users see.
func TestOpenAIClientInPython(t *testing.T) {
	python := torchtest.Python(t, "openai", "PIL")
	cmd := exec.Command(python, "testdata/openai_client.py", imagesAPI(t).URL)
	cmd.WaitDelay = time.Minute
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "every check passed")
}
