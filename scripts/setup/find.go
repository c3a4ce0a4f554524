package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/onestep-go/onestep/internal/libtorch"
)

// found is a libtorch.
type found struct {
	Version string `json:"version"`
	Path    string `json:"path"`   // the directory with include and lib
	Source  string `json:"source"` // LIBTORCH, a Python, or PyPI
}

// finder looks for a libtorch.
type finder struct {
	wanted []libtorch.Release // what will do, the first to be fetched
	cache  string
	cuda   string // $ONESTEP_CUDA
}

func (f finder) find(ctx context.Context) (found, error) {
	if dir := os.Getenv("LIBTORCH"); dir != "" {
		return f.given(ctx, dir)
	}
	if lib, ok := f.ofPython(ctx); ok {
		return lib, nil
	}
	// What was fetched, of what will do; with CUDA if that is asked for, found, or there already.
	cuda := f.cuda == "1" || f.cuda == "" && hasGPU()
	i := installer{release: f.wanted[0], cache: f.cache, cuda: cuda}
	if !i.cuda && f.cuda != "0" && complete(i.with(true).site(), i.release.Version) {
		i.cuda = true // what has more is preferred
	}
	if !whole(ctx, i.site(), i.release.Version) {
		if err := i.install(ctx); err != nil {
			return found{}, err
		}
	}
	return found{i.release.Version, filepath.Join(i.site(), "torch"), "PyPI"}, nil
}

// given checks the libtorch of $LIBTORCH.
func (f finder) given(ctx context.Context, name string) (found, error) {
	if !exists(filepath.Join(name, "lib", libtorch.Library)) {
		return found{}, fmt.Errorf("LIBTORCH=%s is not a libtorch: want a directory with lib/%s in it (an unpacked libtorch, or the directory of a Python's torch package)", name, libtorch.Library)
	}
	dir, err := filepath.Abs(name)
	if err != nil {
		return found{}, err
	}
	version := libtorch.HeaderVersion(dir)
	switch {
	case version == "":
		return found{}, fmt.Errorf("LIBTORCH=%s has no headers (include/torch/headeronly/version.h): want a libtorch to compile against", name)
	case only(f.wanted, version) == nil:
		return found{}, fmt.Errorf("LIBTORCH=%s is libtorch %s: use %s, or unset LIBTORCH to have it fetched", name, version, list(f.wanted, " or "))
	}
	if lib := lacks(ctx, dir); lib != "" {
		return found{}, fmt.Errorf("LIBTORCH=%s does not load: %s is missing; pip install what its torch asks for (at least %s)",
			name, lib, strings.Join(only(f.wanted, version)[0].Wheels, " "))
	}
	return found{version, dir, "LIBTORCH"}, nil
}

// ofPython finds the torch that the active Python would import, without importing it, which would take seconds.
func (f finder) ofPython(ctx context.Context) (found, bool) {
	python := findPython(ctx)
	if python == "" {
		return found{}, false
	}
	cmd := exec.CommandContext(ctx, python, "-c", "import importlib.util as u; s = u.find_spec('torch'); print(*(s.submodule_search_locations if s and s.origin else []))")
	cmd.Dir = "/" // where no directory is called torch
	out, _ := cmd.Output()
	dir := strings.TrimSpace(string(out))
	if dir == "" || !exists(filepath.Join(dir, "lib", libtorch.Library)) {
		return found{}, false
	}
	version := libtorch.HeaderVersion(dir)
	lib := lacks(ctx, dir)
	switch {
	case version == "":
		note("the torch of %s has no headers: looking for %s", python, list(f.wanted, " or "))
	case only(f.wanted, version) == nil:
		note("the torch of %s is %s: looking for %s", python, version, list(f.wanted, " or "))
	case lib != "":
		note("the torch of %s does not load (%s is missing): not using it", python, lib)
	case f.cuda == "1" && !exists(filepath.Join(dir, "lib", "libtorch_cuda.so")):
		note("the torch of %s has no CUDA: not using it", python)
	default:
		path, err := exec.LookPath(python)
		if err != nil {
			path = python
		}
		return found{version, dir, path}, true
	}
	return found{}, false
}

// findPython finds a Python 3 that runs: version managers leave commands behind that only print an error.
func findPython(ctx context.Context) string {
	for _, name := range []string{"python3", "python"} {
		if exec.CommandContext(ctx, name, "-c", "import sys; sys.exit(sys.version_info < (3, 8))").Run() == nil {
			return name
		}
	}
	return ""
}

func hasGPU() bool {
	_, err := exec.LookPath("nvidia-smi")
	return err == nil || exists("/dev/nvidiactl")
}

// complete tells whether a directory of wheels holds a libtorch; whole, whether that also finds all it needs.
func complete(site, version string) bool {
	dir := filepath.Join(site, "torch")
	return libtorch.Whole(filepath.Join(dir, "lib", libtorch.Library)) == nil && libtorch.HeaderVersion(dir) == version
}

func whole(ctx context.Context, site, version string) bool {
	return complete(site, version) && lacks(ctx, filepath.Join(site, "torch")) == ""
}

// lacks is the first library that a libtorch asks for and does not find; empty when it will load.
func lacks(ctx context.Context, dir string) string {
	// Where there is no ldd, or it does not understand the file, the compiler will say what is wrong.
	out, _ := exec.CommandContext(ctx, "ldd", filepath.Join(dir, "lib", libtorch.Library)).Output()
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		if strings.Contains(lines.Text(), "not found") {
			return strings.Fields(lines.Text())[0]
		}
	}
	return ""
}
