package safetensors

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// python runs a program with the first Python that has safetensors: $ONESTEP_PYTHON, then python3. It decodes the JSON
// that the program prints. Without such a Python the test is skipped.
func python(t *testing.T, program string, result any, args ...string) {
	t.Helper()
	reason := ""
	for _, name := range []string{os.Getenv("ONESTEP_PYTHON"), "python3"} {
		if name == "" {
			continue
		}
		run := func(program string, args ...string) ([]byte, error) {
			cmd := exec.Command(name, append([]string{"-c", program}, args...)...)
			cmd.Dir = t.TempDir() // Python imports from the folder it runs in
			cmd.Stderr = nil
			return cmd.Output()
		}
		if _, err := run("import safetensors"); err != nil {
			reason += fmt.Sprintf(" %s: %v;", name, err)
			continue
		}
		out, err := run(program, args...)
		if e := new(exec.ExitError); err != nil {
			if ok := assert.ErrorAs(t, err, &e); ok {
				t.Fatalf("%s: %v\n%s", name, err, e.Stderr)
			}
		}
		require.NoError(t, json.Unmarshal(out, result), "%s", out)
		return
	}
	t.Skipf("no Python that imports safetensors (set ONESTEP_PYTHON to one):%s", reason)
}

// Python's safetensors loads what we write: every type, scalars and empty tensors. Through torch when it is there, which
// alone knows bfloat16.
func TestPythonLoads(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.safetensors")
	metadata := map[string]string{"format": "pt", "a": "\x01\"\\/é😀\u2028", "": "x"}
	tensors := types()
	require.NoError(t, Write(path, tensors, Options{Metadata: metadata}))

	var got struct {
		Metadata map[string]string
		Tensors  map[string]struct {
			DType string
			Shape []int
			Data  string
		}
		Loaded map[string]string
	}
	python(t, `
import base64, json, sys
import safetensors
path = sys.argv[1]
text = lambda b: base64.b64encode(bytes(b)).decode()
out = {"Tensors": {name: {"DType": v["dtype"], "Shape": v["shape"], "Data": text(v["data"])}
                   for name, v in safetensors.deserialize(open(path, "rb").read())}}
try:
    import torch
except ImportError:
    torch = None
with safetensors.safe_open(path, framework="pt" if torch else "np") as f:
    out["Metadata"] = f.metadata()
    if torch:
        import safetensors.torch
        out["Loaded"] = {name: text(v.reshape(-1).view(torch.uint8).numpy().tobytes())
                         for name, v in safetensors.torch.load_file(path).items()}
json.dump(out, sys.stdout)
`, &got, path)

	assert.Equal(t, metadata, got.Metadata)
	assert.Len(t, got.Tensors, len(tensors))
	for _, w := range tensors {
		data, err := w.Data()
		require.NoError(t, err)
		want := base64.StdEncoding.EncodeToString(data)
		v := got.Tensors[w.Name]
		assert.Equal(t, string(w.DType), v.DType, w.Name)
		assert.Equal(t, fmt.Sprint(w.Shape), fmt.Sprint(v.Shape), w.Name)
		assert.Equal(t, want, v.Data, w.Name)
		if got.Loaded != nil {
			assert.Equal(t, want, got.Loaded[w.Name], w.Name)
		}
	}
	t.Logf("loaded through torch: %v", got.Loaded != nil)
}

// What Python's safetensors refuses, we refuse: no file means one thing here and nothing there.
func TestPythonAgrees(t *testing.T) {
	dir := t.TempDir()
	accepted := map[string]bool{}
	add := func(data []byte) string {
		name := fmt.Sprintf("%04d", len(accepted))
		_, err := Parse(name, data)
		accepted[name] = err == nil
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o644))
		return name
	}
	labels := map[string]string{}
	for _, c := range hostile {
		labels[add(c.data)] = c.name
	}
	golden, err := os.ReadFile("testdata/types.safetensors")
	require.NoError(t, err)
	for i := range golden {
		changed := append([]byte(nil), golden...)
		changed[i] ^= 1 << (i % 8)
		labels[add(changed)] = fmt.Sprintf("golden with byte %d changed to %#02x", i, changed[i])
	}

	var refused map[string]string
	python(t, `
import json, os, sys
import safetensors
refused = {}
for name in os.listdir(sys.argv[1]):
    try:
        safetensors.deserialize(open(os.path.join(sys.argv[1], name), "rb").read())
    except Exception as e:
        refused[name] = str(e)
json.dump(refused, sys.stdout)
`, &refused, dir)

	both := 0
	for name, ok := range accepted {
		why, no := refused[name]
		assert.False(t, ok && no, "%s: accepted here, but Python says %s", labels[name], why)
		if ok && !no {
			both++
		}
	}
	t.Logf("%d files: both accept %d, Python refuses %d", len(accepted), both, len(refused))
	assert.NotZero(t, both)
}
