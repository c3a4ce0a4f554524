package tests

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/csrc"
	tinysd "github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/models/sd/weights"
)

// isolated is the tool on a machine without libtorch: with an empty home, and without the layer that was built in.
type isolated struct {
	t    *testing.T
	dir  string
	path string
	env  []string
}

func newIsolated(t *testing.T) *isolated {
	b := &isolated{t: t, dir: t.TempDir()}
	program, err := os.ReadFile(tool(t))
	require.NoError(t, err)
	b.path = b.write("bin/onestep", strings.ReplaceAll(string(program), `{"layer":"/`, `{"layer":"!`))
	b.env = []string{"HOME=" + b.dir, "PATH=" + os.Getenv("PATH")}
	return b
}

func (b *isolated) write(rel, text string) string {
	b.t.Helper()
	path := filepath.Join(b.dir, rel)
	require.NoError(b.t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(b.t, os.WriteFile(path, []byte(text), 0o755))
	return path
}

func (b *isolated) run(env []string, args ...string) (code int, stdout, stderr string) {
	b.t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(b.path, args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = b.dir, append(b.env, env...), &out, &errs
	if err := cmd.Run(); err != nil {
		require.IsType(b.t, &exec.ExitError{}, err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// in is b for a subtest.
func (b *isolated) in(t *testing.T) *isolated { return &isolated{t, b.dir, b.path, b.env} }

// health is what doctor says with --json.
type health struct {
	Libtorch, Expected, Library, Layer, Error, Fix string
	Searched, Works                                []string
}

// sick runs doctor where something must be missing, and a command that needs libtorch, which must name the same remedy.
func (b *isolated) sick(env ...string) health {
	b.t.Helper()
	code, out, errs := b.run(env, "doctor", "--json")
	require.Equal(b.t, 1, code, errs)
	var h health
	require.NoError(b.t, json.Unmarshal([]byte(out), &h))
	require.Empty(b.t, h.Libtorch)
	require.Empty(b.t, h.Works)
	require.NotEmpty(b.t, h.Expected)
	require.NotEmpty(b.t, h.Error)
	require.NotEmpty(b.t, h.Fix)
	code, out, errs = b.run(env, "doctor")
	require.Equal(b.t, 1, code)
	for _, want := range append([]string{h.Expected, h.Error, h.Fix, h.Library, h.Layer}, h.Searched...) {
		require.Contains(b.t, out, want)
	}
	b.oneLine(errs, "libtorch")
	require.Equal(b.t, 1, strings.Count(out+errs, h.Fix), "once: %s%s", out, errs)

	code, out, errs = b.run(env, "sample", "--model", "builtin", "--out", "x.png")
	require.Equal(b.t, 1, code)
	require.Empty(b.t, out)
	b.oneLine(errs, h.Error, h.Fix, "onestep doctor")
	require.NoFileExists(b.t, filepath.Join(b.dir, "x.png"))
	return h
}

func (b *isolated) oneLine(text string, want ...string) {
	b.t.Helper()
	require.Equal(b.t, 1, strings.Count(text, "\n"), text)
	for _, w := range want {
		require.Contains(b.t, text, w)
	}
}

func TestToolWithoutLibtorch(t *testing.T) {
	picture := filepath.Join(source(t), "docs", "results", "emoji-1step.png")
	b := newIsolated(t)
	real, err := csrc.Find()
	require.NoError(t, err)
	lib := filepath.Dir(real.Library)

	// What needs no libtorch works.
	for _, c := range []struct{ args, want string }{
		{"--help", "Commands:"}, {"help train", "--method"}, {"generate --help", "--prompt"}, {"version", "libtorch missing"},
		{"version --json", `"libtorch":""`}, {"--version", "onestep"}, {"completion bash", "__start_onestep"}, {"completion zsh", "compdef"},
		{"__complete train --method c", "ctm"}, {"info " + picture, "onestep"},
	} {
		code, out, errs := b.run(nil, strings.Fields(c.args)...)
		require.Zero(t, code, "%s: %s", c.args, errs)
		require.Contains(t, out, c.want, c.args)
	}
	// Wrong use stays wrong use.
	code, _, errs := b.run(nil, "sample", "--no-such-flag")
	require.Equal(t, 2, code)
	b.oneLine(errs, "no-such-flag")

	// Whatever needs it ends with one line.
	require.NoError(t, tinysd.Write(filepath.Join(b.dir, "model"), "sd15"))
	for _, args := range []string{
		"sample --model builtin --out o.png", "train --method ict --data emoji --out o", "inspect --model builtin --out o.png",
		"train --method ict --data emoji --out o --threads 1", "generate --model model --prompt cat --steps 1 --out o.png",
		"convert --model model --out o",
	} {
		code, out, errs := b.run(nil, strings.Fields(args)...)
		require.Equal(t, 1, code, args)
		require.Empty(t, out, args)
		b.oneLine(errs, "onestep doctor", "libonestep-torch-")
		require.NoFileExists(t, filepath.Join(b.dir, "o.png"))
		require.NoDirExists(t, filepath.Join(b.dir, "o"))
	}

	t.Run("no layer", func(t *testing.T) {
		b := b.in(t)
		h := b.sick()
		for _, v := range csrc.Supported() {
			require.Contains(t, h.Expected, v)
		}
		require.Empty(t, h.Layer)
		for _, dir := range []string{"bin", "lib", ".cache/onestep/layers"} {
			require.Contains(t, h.Searched, filepath.Join(b.dir, dir))
		}
		require.Contains(t, h.Fix, "run ./scripts/setup")
	})

	// A layer whose folder of libtorch is not there: the name of the folder has another letter in it.
	text, err := os.ReadFile(real.Path)
	require.NoError(t, err)
	gone := strings.Replace(lib, "torch", "tarch", 1)
	if gone == lib {
		t.Skipf("libtorch in %s has a name without a letter to change", lib)
	}
	require.True(t, bytes.Contains(text, []byte(lib)))
	layer := b.write("lib/"+filepath.Base(real.Path), string(bytes.ReplaceAll(text, []byte(lib), []byte(gone))))

	t.Run("no libtorch", func(t *testing.T) {
		b := b.in(t)
		h := b.sick()
		require.Equal(t, real.Version, h.Expected)
		require.Equal(t, layer, h.Layer)
		require.Empty(t, h.Library)
		require.Equal(t, []string{gone}, h.Searched)
		require.Contains(t, h.Fix, "run ./scripts/setup")
		code, out, _ := b.run(nil, "version")
		require.Zero(t, code)
		require.Contains(t, out, "libtorch "+real.Version+" missing")
	})
	t.Run("another version", func(t *testing.T) {
		b := b.in(t)
		b.write("other/include/torch/headeronly/version.h", "#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR 9\n#define TORCH_VERSION_PATCH 1\n")
		file := b.write("other/lib/libtorch_cpu.so", "")
		h := b.sick("LD_LIBRARY_PATH=" + filepath.Dir(file))
		require.Equal(t, file, h.Library)
		require.Contains(t, h.Error, "2.9.1")
		require.Contains(t, h.Error, real.Version)
	})
	t.Run("damaged", func(t *testing.T) {
		b := b.in(t)
		file := b.write("damaged/lib/libtorch_cpu.so", "half a file")
		h := b.sick("LD_LIBRARY_PATH=" + filepath.Dir(file))
		require.Equal(t, file, h.Library)
		require.Contains(t, h.Error, file)
	})
	t.Run("a part is missing", func(t *testing.T) {
		b := b.in(t)
		cc, err := exec.LookPath("cc")
		if err != nil {
			t.Skip(err)
		}
		part := filepath.Join(b.dir, "libpart.so.7")
		file := b.write("part/lib/libtorch_cpu.so", "")
		for _, args := range [][]string{{"-o", part, "-Wl,-soname,libpart.so.7", "-x", "c", "/dev/null"}, {"-o", file, "-Wl,--no-as-needed", part, "-x", "c", "/dev/null"}} {
			out, err := exec.Command(cc, append([]string{"-shared"}, args...)...).CombinedOutput()
			require.NoError(t, err, "%s", out)
		}
		require.NoError(t, os.Remove(part))
		require.NoError(t, os.Symlink(filepath.Join(lib, "libc10.so"), filepath.Join(filepath.Dir(file), "libc10.so")))
		h := b.sick("LD_LIBRARY_PATH=" + filepath.Dir(file))
		require.Contains(t, h.Error, "libpart.so.7")
	})
	t.Run("a layer from other sources", func(t *testing.T) {
		b := b.in(t)
		other := b.write("other/"+filepath.Base(real.Path), strings.ReplaceAll(string(text), sum(real.Path), strings.Repeat("0", 12)))
		h := b.sick("ONESTEP_LAYER=" + other)
		require.Equal(t, other, h.Layer)
		require.Contains(t, h.Error, "another version of onestep")
	})
	t.Run("a layer that is cut off", func(t *testing.T) {
		b := b.in(t)
		cut := b.write("cut/"+filepath.Base(real.Path), string(text[:len(text)/2]))
		h := b.sick("ONESTEP_LAYER=" + cut)
		require.Equal(t, cut, h.Layer)
		require.Contains(t, h.Error, "is damaged")
		require.Contains(t, h.Fix, "scripts/setup")
	})
	t.Run("a layer that is a pipe", func(t *testing.T) {
		b := b.in(t)
		pipe := filepath.Join(b.dir, "pipe.so")
		require.NoError(t, syscall.Mkfifo(pipe, 0o644))
		h := b.sick("ONESTEP_LAYER=" + pipe)
		require.Contains(t, h.Error, "not a regular file")
	})
	t.Run("fixed", func(t *testing.T) {
		b := b.in(t)
		// The advice names a libtorch that is there; taking it helps.
		h := b.sick("LIBTORCH=" + filepath.Dir(lib))
		name, value, ok := strings.Cut(strings.TrimPrefix(h.Fix, "export "), "=")
		require.True(t, ok, h.Fix)
		require.Equal(t, lib, value)
		code, out, errs := b.run([]string{fmt.Sprintf("%s=%s", name, value)}, "doctor", "--json")
		require.Zero(t, code, errs)
		require.NoError(t, json.Unmarshal([]byte(out), &h))
		require.Equal(t, real.Version, h.Libtorch)
		require.Equal(t, []string{"cpu"}, h.Works[:1])
		code, _, errs = b.run([]string{fmt.Sprintf("%s=%s", name, value)}, "sample", "--model", "builtin", "--out", "x.png")
		require.Zero(t, code, errs)
		require.FileExists(t, filepath.Join(b.dir, "x.png"))
	})
}

// Everything that info reads it describes without libtorch, as with it.
func TestInfoWithoutLibtorch(t *testing.T) {
	b := newIsolated(t)
	at := func(rel string) string { return filepath.Join(b.dir, rel) }
	paths := []string{"builtin", "emoji", filepath.Join(source(t), "docs", "results", "emoji-1step.png"), filepath.Join(source(t), "torch", "saved", "testdata", "tiny.ckpt")}
	for _, pattern := range []string{"lora/alphas-*", "lora/attn-mixed.safetensors", "lora/bad-*.safetensors", "lora/cover-kohya.safetensors", "embeddings/*.*"} {
		files, err := filepath.Glob(filepath.Join("testdata", pattern))
		require.NoError(t, err)
		require.NotEmpty(t, files, pattern)
		for _, file := range files {
			path, err := filepath.Abs(file)
			require.NoError(t, err)
			paths = append(paths, path)
		}
	}
	for _, kind := range []string{"sd15", "sdxl"} {
		require.NoError(t, tinysd.Write(at(kind), kind))
		m, err := weights.Open(at(kind), weights.Options{})
		require.NoError(t, err)
		require.NoError(t, weights.WriteSingle(at(kind+".safetensors"), m, weights.WriteOptions{}))
		require.NoError(t, m.Close())
		paths = append(paths, at(kind), at(kind+".safetensors"), at(kind+"/unet"))
	}
	out, err := exec.Command(tool(t), "train", "--method", "ict", "--data", "emoji", "--resolution", "8", "--network", "mlp", "--channels", "8", "--blocks", "1", "--batch", "2",
		"--steps", "2", "--sample-every", "0", "--threads", "1", "--out", at("run")).CombinedOutput()
	require.NoError(t, err, "%s", out)
	paths = append(paths, at("run"), at("run/model-0000002.safetensors"), at("run/state-0000002.safetensors"))

	layer, err := csrc.Find()
	require.NoError(t, err)
	for _, path := range paths {
		for _, args := range [][]string{{"info", path}, {"info", path, "--json"}} {
			wantCode, want, wantErrs := b.run([]string{"ONESTEP_LAYER=" + layer.Path}, args...)
			code, got, errs := b.run(nil, args...)
			require.Equal(t, wantCode, code, "%s: %s", path, errs)
			require.Equal(t, want, got, path)
			require.Equal(t, wantErrs, errs, path)
			require.NotContains(t, errs, "libtorch", path)
		}
	}
}

// sum is the sum of a layer's sources, from its name.
func sum(layer string) string { return strings.Split(filepath.Base(layer), "-")[3] }
