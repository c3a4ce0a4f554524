// Command setup makes plain `go build` work for programs that use onestep: it finds or fetches libtorch and compiles the layer over it
// (csrc/layer), which programs load when they make the first tensor. It needs no cgo itself.
//
//	go run github.com/onestep-go/onestep/scripts/setup [VERSION]    in a module that requires onestep
//	go run ./scripts/setup [VERSION]                                in onestep's own
//
// It takes the first of these: $LIBTORCH (a libtorch directory, or a Python's torch directory); the torch of the active Python, if its
// version is supported; the torch that it fetched before; else it fetches the first supported version from PyPI, through pip, which compares the
// files with the index's hashes, into a per-user cache directory, without root and without touching any Python's packages. With a
// VERSION only that version will do.
//
// It writes these, and prints the path of the last:
//
//   - libtorch.json: version, path and source, for people and scripts, into the cache directory and build/libtorch;
//   - csrc/layer/found.json: the layer's path, which goes into programs built from this tree (not in Go's module cache, which is read-only);
//   - layers/libonestep-torch-VERSION-SOURCES-KEY.so: the layer, in the cache directory, compiled once per libtorch, compiler and
//     state of the sources.
//
// With $ONESTEP_BUILD set, all goes into that directory and found.json is left alone; ONESTEP_LAYER=the layer's path then makes a
// program take it. Environment: LIBTORCH, ONESTEP_BUILD, ONESTEP_CUDA (1: with the CUDA libraries, 0: without; unset: with them when a
// GPU is here), XDG_CACHE_HOME, and CXX and CGO_CXXFLAGS as for Go.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/onestep-go/onestep/internal/libtorch"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	layer, err := setUp(ctx, os.Args[1:])
	interrupted := ctx.Err() != nil
	stop()
	switch {
	case interrupted && err != nil:
		note("interrupted")
		os.Exit(130)
	case err != nil:
		note("%v", err)
		os.Exit(1)
	}
	fmt.Println(layer)
}

func note(format string, args ...any) { fmt.Fprintf(os.Stderr, "onestep: "+format+"\n", args...) }

// setUp does all of it and returns the layer's path.
func setUp(ctx context.Context, args []string) (string, error) {
	if len(args) > 1 || len(args) == 1 && strings.HasPrefix(args[0], "-") {
		return "", fmt.Errorf("usage: %s [VERSION], where VERSION is %s", libtorch.SetUp, list(libtorch.Supported(), " or "))
	}
	tools, err := findTools(ctx)
	if err != nil {
		return "", err
	}
	root, err := sourceTree(ctx)
	if err != nil {
		return "", err
	}
	cache, err := libtorch.CacheDir()
	if err != nil {
		return "", fmt.Errorf("no directory to keep libtorch in: %v", err)
	}
	if err := writable(cache); err != nil {
		return "", fmt.Errorf("cannot write to %s: set XDG_CACHE_HOME to a directory of yours", cache)
	}
	wanted := libtorch.Supported()
	if len(args) == 1 {
		if wanted = only(wanted, args[0]); wanted == nil {
			return "", fmt.Errorf("libtorch %s is not supported: use %s", args[0], list(libtorch.Supported(), " or "))
		}
	}
	f := finder{wanted: wanted, cache: cache, cuda: os.Getenv("ONESTEP_CUDA")}
	if f.cuda != "" && f.cuda != "0" && f.cuda != "1" {
		return "", fmt.Errorf("ONESTEP_CUDA=%s: want 1 or 0", f.cuda)
	}
	lib, err := f.find(ctx)
	if err != nil {
		return "", err
	}
	build, private := os.LookupEnv("ONESTEP_BUILD")
	if private = private && build != ""; private {
		if build, err = filepath.Abs(build); err != nil {
			return "", err
		}
	}
	into := filepath.Join(cache, "layers")
	if private {
		into = build
	}
	layer, err := compile(ctx, tools, root, into, lib)
	if err != nil {
		return "", err
	}
	if err := record(root, cache, build, lib, layer); err != nil {
		return "", err
	}
	note("libtorch %s from %s: %s", lib.Version, lib.Source, lib.Path)
	return layer, nil
}

// record writes which libtorch was taken, and the layer's path into a tree of sources that may be written to.
func record(root, cache, build string, lib found, layer string) error {
	if build != "" {
		return put(filepath.Join(build, "libtorch.json"), lib)
	}
	if err := put(filepath.Join(cache, "libtorch.json"), lib); err != nil {
		return err
	}
	// The directories of Go's module cache are read-only, if not for root, and vendored sources belong to their user: programs
	// from there look into the directory of layers.
	sources := filepath.Join(root, "csrc", "layer")
	if info, err := os.Stat(sources); err != nil || info.Mode()&0o200 == 0 || writable(sources) != nil || !exists(filepath.Join(root, "go.mod")) {
		return nil
	}
	if err := put(filepath.Join(root, "build", "libtorch", "libtorch.json"), lib); err != nil {
		return err
	}
	return put(filepath.Join(sources, "found.json"), struct {
		Layer string `json:"layer"`
	}{layer})
}

// put writes a file of JSON in one step. A file that says the same stays as it is: Go would build anew whatever embeds it.
func put(path string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	text = append(text, '\n')
	if old, err := os.ReadFile(path); err == nil && string(old) == string(text) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	part := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.WriteFile(part, text, 0o644); err != nil {
		return err
	}
	return os.Rename(part, path)
}

// writable makes a directory if there is none and tells whether files can be put there.
func writable(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return syscall.Access(dir, 2) // W_OK
}

// sourceTree is the root of the sources that this program was built from, which may lie in Go's module cache or in a vendor directory.
func sourceTree(ctx context.Context) (string, error) {
	if _, file, _, ok := runtime.Caller(0); ok && filepath.IsAbs(file) {
		if root := filepath.Dir(filepath.Dir(filepath.Dir(file))); exists(filepath.Join(root, "csrc", "ct.h")) {
			return root, nil
		}
	}
	// Built with -trimpath: the module that the go command sees from here.
	const module = "github.com/onestep-go/onestep"
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if root := strings.TrimSpace(string(out)); err == nil && exists(filepath.Join(root, "csrc", "ct.h")) {
		return root, nil
	}
	return "", fmt.Errorf("the sources of onestep are not here: run `%s` in a module that requires %s", libtorch.SetUp, module)
}

// tools are the commands that compile.
type tools struct {
	cxx   []string // the C++ compiler and its arguments
	flags []string // CGO_CXXFLAGS
}

// findTools checks that there is what compiles the layer, and a Go that can build programs over it.
func findTools(ctx context.Context) (tools, error) {
	cmd := exec.CommandContext(ctx, "go", "env", "CGO_ENABLED", "CC", "CXX")
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return tools{}, errors.New("the go command is missing from PATH: see https://go.dev/doc/install")
	}
	if err != nil {
		return tools{}, fmt.Errorf("go env: %s", firstLine(errs.String()))
	}
	values := strings.Split(string(out), "\n")
	if len(values) < 3 {
		return tools{}, fmt.Errorf("go env printed %q", out)
	}
	cgo, cc, cxx := values[0], strings.Fields(values[1]), strings.Fields(values[2])
	if len(cc) == 0 || len(cxx) == 0 {
		return tools{}, fmt.Errorf("go env has CC=%q and CXX=%q: want compilers", values[1], values[2])
	}
	// Before cgo, which Go switches off itself where there is no compiler.
	if _, err := exec.LookPath(cxx[0]); err != nil {
		return tools{}, fmt.Errorf("a C++ compiler (%s) is missing: apt-get install g++", cxx[0])
	}
	if _, err := exec.LookPath(cc[0]); err != nil {
		return tools{}, fmt.Errorf("a C compiler (%s) is missing: apt-get install gcc", cc[0])
	}
	if cgo != "1" {
		return tools{}, errors.New("cgo is switched off, and onestep calls libtorch through it: unset CGO_ENABLED (or go env -u CGO_ENABLED)")
	}
	return tools{cxx, strings.Fields(os.Getenv("CGO_CXXFLAGS"))}, nil
}

// only keeps the release of a version.
func only(releases []libtorch.Release, version string) []libtorch.Release {
	for _, r := range releases {
		if r.Version == version {
			return []libtorch.Release{r}
		}
	}
	return nil
}

// list joins the versions of releases.
func list(releases []libtorch.Release, between string) string {
	var versions []string
	for _, r := range releases {
		versions = append(versions, r.Version)
	}
	return strings.Join(versions, between)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return line
}
