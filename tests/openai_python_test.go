package tests

import (
	"context"
	"iter"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

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

// The Python package openai, as it is, against onestep serve with the built-in model and a tiny Stable Diffusion with adapters, and against handlers
// that refuse: the script asserts what its users see.
func TestOpenAIClientInPython(t *testing.T) {
	python := torchtest.Python(t, "openai", "PIL")
	dir := t.TempDir()
	ink, err := os.ReadFile(filepath.Join(loraFolder, "both-kohya.safetensors"))
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "loras"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "loras/ink.safetensors"), ink, 0o600))
	tiny, err := filepath.Abs(filepath.Join(sdFolder, "sd15"))
	require.NoError(t, err)
	const key = "the-key-of-this-test"
	require.NoError(t, os.WriteFile(filepath.Join(dir, "keys"), []byte(key+"\n"), 0o600))
	s := startServe(t, dir, "--model", "builtin", "--model", "tiny-sd="+tiny, "--lora-dir", "loras", "--addr", "127.0.0.1:0", "--threads", "1",
		"--api-key-file", "keys")

	mux := http.NewServeMux()
	mux.Handle("/full/", http.StripPrefix("/full", openai.New(refusing{engine.ErrFull}, openai.Options{})))
	mux.Handle("/stopping/", http.StripPrefix("/stopping", openai.New(refusing{engine.ErrClosed}, openai.Options{})))
	refuses := httptest.NewServer(mux)
	defer refuses.Close()

	cmd := exec.Command(python, "testdata/openai_client.py", s.url, key, refuses.URL)
	cmd.WaitDelay = time.Minute
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s\n%s", out, s.errs)
	require.Contains(t, string(out), "every check passed")
	require.Zero(t, s.end(syscall.SIGTERM), "%s", s.errs)
}
