package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/onestep-go/onestep/internal/libtorch"
)

// -z now: a libtorch that lacks a function is an error when it is opened, not a crash when it is called.
const (
	compileFlags = "-std=c++20 -O2 -fPIC -fvisibility=hidden -Wall -Wno-unknown-pragmas -Wno-deprecated-declarations -Wno-maybe-uninitialized"
	linkFlags    = "-Wl,--enable-new-dtags -Wl,-z,now -Wl,-z,relro -Wl,--no-undefined"
)

// kept is how long a layer that is not used stays.
const kept = 90 * 24 * time.Hour

// compile makes the layer over a libtorch in a directory, unless it is there, and returns its path.
func compile(ctx context.Context, t tools, root, into string, lib found) (string, error) {
	// They go into the linker's -rpath, where a colon ends a directory and a comma an argument; $ORIGIN is the loader's.
	if strings.ContainsAny(lib.Path, ":,$\n") {
		return "", fmt.Errorf("the path %q holds a character that cannot go through the linker (one of : , $): move libtorch to another directory", lib.Path)
	}
	sum, err := libtorch.Sum(os.DirFS(filepath.Join(root, "csrc")))
	if err != nil {
		return "", err
	}
	key, err := t.key(ctx, lib)
	if err != nil {
		return "", err
	}
	if err := writable(into); err != nil {
		return "", fmt.Errorf("cannot write to %s: %v", into, err)
	}
	layer := filepath.Join(into, libtorch.LayerFile(lib.Version, sum, key))
	unlock, err := lock(ctx, filepath.Join(into, ".lock"), "another run is compiling the layer into "+into+": waiting for it")
	if err != nil {
		return "", err
	}
	defer unlock()
	broken := libtorch.WholeLayer(layer, sum)
	if damage := libtorch.Damaged(""); errors.As(broken, &damage) {
		note("%s is damaged (%v): compiling it anew", layer, damage)
	}
	if broken == nil {
		now := time.Now()
		if err := os.Chtimes(layer, now, now); err != nil { // the last one goes first
			return "", err
		}
	} else if err := t.build(ctx, root, layer, sum, lib); err != nil {
		return "", err
	}
	return layer, clean(into)
}

// key tells apart what is compiled from the same sources: by the compiler, its flags, and the libtorch.
func (t tools) key(ctx context.Context, lib found) (string, error) {
	version, err := exec.CommandContext(ctx, t.cxx[0], append(t.cxx[1:len(t.cxx):len(t.cxx)], "--version")...).Output()
	if err != nil {
		return "", fmt.Errorf("the C++ compiler %s does not run: %v", strings.Join(t.cxx, " "), err)
	}
	info, err := os.Stat(filepath.Join(lib.Path, "lib", libtorch.Library))
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintln(h, strings.Join(t.cxx, " "), compileFlags, linkFlags, strings.Join(t.flags, " "), lib.Path)
	fmt.Fprintf(h, "%s%d %d\n", version, info.Size(), info.ModTime().Unix())
	return hex.EncodeToString(h.Sum(nil))[:8], nil
}

var compilerError = regexp.MustCompile(`(?m)^.*(?:error|undefined).*$`)

// build compiles every source, as many at a time as there are processors, and links them.
func (t tools) build(ctx context.Context, root, layer, sum string, lib found) error {
	note("compiling the layer over libtorch %s (a minute, once)", lib.Version)
	part := filepath.Join(filepath.Dir(layer), fmt.Sprintf(".part.%d", os.Getpid()))
	for _, dir := range libtorch.Match(filepath.Dir(layer), ".part.*") { // of a run that was killed
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	defer os.RemoveAll(part)
	if err := os.Mkdir(part, 0o755); err != nil {
		return err
	}
	sources, err := layerSources(root)
	if err != nil {
		return err
	}

	flags := strings.Fields(compileFlags)
	flags = append(flags, "-I"+lib.Path+"/include", "-I"+lib.Path+"/include/torch/csrc/api/include", `-DONESTEP_SOURCE="`+sum+`"`)
	flags = append(flags, t.flags...)
	var (
		objects []string
		said    = make([]string, len(sources))
		failed  = make([]error, len(sources))
		wait    sync.WaitGroup
		turns   = make(chan struct{}, runtime.NumCPU())
	)
	for n, source := range sources {
		object := filepath.Join(part, filepath.Base(source)+".o")
		objects = append(objects, object)
		wait.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			said[n], failed[n] = t.run(ctx, append(flags[:len(flags):len(flags)], "-c", source, "-o", object))
		})
	}
	wait.Wait()
	for n, err := range failed {
		if err != nil {
			return t.failed(ctx, lib, said[n], err)
		}
	}
	made := filepath.Join(part, "layer.so")
	args := append([]string{"-shared"}, t.flags...)
	args = append(append(args, "-o", made), objects...)
	args = append(append(args, "-L"+lib.Path+"/lib", "-Wl,-rpath,"+lib.Path+"/lib"), strings.Fields(linkFlags)...)
	if said, err := t.run(ctx, append(args, "-ltorch_cpu", "-lc10")); err != nil {
		return t.failed(ctx, lib, said, err)
	}
	if err := libtorch.WholeLayer(made, sum); err != nil {
		return fmt.Errorf("%s made a library that cannot be used: %v: run this again, with another CXX if that does not help", strings.Join(t.cxx, " "), err)
	}
	if err := flush(made); err != nil {
		return err
	}
	return os.Rename(made, layer)
}

// layerSources are the files to compile.
func layerSources(root string) ([]string, error) {
	dir := filepath.Join(root, "csrc", "layer")
	sources := libtorch.Match(dir, "*.cpp")
	if len(sources) == 0 {
		return nil, fmt.Errorf("there are no sources of the layer (*.cpp) to read in %s: get onestep's sources anew", dir)
	}
	return sources, nil
}

// flush waits until a file is on the disk: a crash must not leave a name without all of its bytes.
func flush(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// run runs the compiler and returns what it wrote.
func (t tools) run(ctx context.Context, args []string) (string, error) {
	out, err := exec.CommandContext(ctx, t.cxx[0], append(t.cxx[1:len(t.cxx):len(t.cxx)], args...)...).CombinedOutput()
	return string(out), err
}

// failed shows what a compiler wrote, and makes an error of the line of it that matters.
func (t tools) failed(ctx context.Context, lib found, said string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	fmt.Fprint(os.Stderr, said)
	why := compilerError.FindString(said)
	if why == "" {
		why = err.Error()
	}
	return fmt.Errorf("the layer over libtorch %s does not compile with %s: %s", lib.Version, strings.Join(t.cxx, " "), why)
}

// clean removes the layers that nothing has used for long.
func clean(dir string) error {
	for _, path := range libtorch.Match(dir, libtorch.LayerPrefix+"*.so") {
		if info, err := os.Stat(path); err == nil && time.Since(info.ModTime()) > kept {
			if err := os.Remove(path); err != nil {
				return err
			}
		}
	}
	return nil
}
