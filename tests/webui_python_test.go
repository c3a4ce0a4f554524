package tests

import (
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/models/builtin"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/sampling/generate"
	"github.com/onestep-go/onestep/serve"
	"github.com/onestep-go/onestep/serve/engine"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// The Python package webuiapi, as it is, against a server with keys, the built-in model and a tiny Stable Diffusion with adapters: the script
// asserts what its users see.
func TestWebUIClientInPython(t *testing.T) {
	python := torchtest.Python(t, "webuiapi", "PIL")
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
		Models: []engine.Model{{Name: "tiny-sd", Open: open(filepath.Join(sdFolder, "sd15"))}, {Name: "builtin", Open: open(file)}},
		LoRA:   lora.CacheOptions{Dir: adapters},
	})
	require.NoError(t, err)
	defer func() { require.NoError(t, e.Close()) }()
	const key = "a-key-of-this-test"
	keys, err := serve.ReadKeys(strings.NewReader(key))
	require.NoError(t, err)
	handler, err := serve.New(e, serve.Options{Keys: keys})
	require.NoError(t, err)
	server := httptest.NewServer(handler)
	defer server.Close()
	cmd := exec.Command(python, "testdata/webui_client.py", server.URL, key)
	cmd.WaitDelay = time.Minute
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "every check passed")
}
