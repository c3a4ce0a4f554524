package openai

import (
	"context"
	"iter"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/serve/engine"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// frugal is a fake engine that takes any request, and generates one small image.
type frugal struct{ fake }

func (f *frugal) Images(ctx context.Context, r engine.Request) iter.Seq2[engine.Event, error] {
	r.N, r.Steps, r.Width, r.Height = 1, 1, min(r.Width, 8), min(r.Height, 8)
	return f.fake.Images(ctx, r)
}

// Requests that schemathesis makes of the document: no reply is an error of the server or one that the document does not have, what the document
// allows is accepted, and what it forbids is refused.
func TestSchemathesis(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	python := torchtest.Python(t, "schemathesis")
	mux := http.NewServeMux()
	mux.Handle("/", New(&frugal{}, Options{}))
	mux.HandleFunc("GET /openapi.yaml", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(OpenAPI()) })
	server := httptest.NewServer(mux)
	defer server.Close()
	config, err := filepath.Abs("testdata/schemathesis.toml")
	require.NoError(t, err)
	cmd := exec.Command(python, "-m", "schemathesis.cli", "--config-file", config, "run", server.URL+"/openapi.yaml",
		"--phases", "examples,coverage,fuzzing", "--max-examples", "2", "--seed", "1", "--suppress-health-check", "all", "--continue-on-failure")
	cmd.Dir = t.TempDir() // where it writes a cache
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}
