//go:build cgo

package csrc

import (
	"debug/elf"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/onestep-go/onestep/internal/libtorch"
)

// module is the path of onestep's module.
const module = "github.com/onestep-go/onestep"

// Layer is a compiled layer.
type Layer struct {
	Path    string
	Version string // of libtorch, for which it was compiled
	Library string // the libtorch_cpu that the loader finds for it; empty if none

	searched []string // directories in which the loader looks for libtorch
}

// Find returns the layer that [Open] loads, without loading it. The error is an [*OpenError].
func Find() (Layer, error) { return here().find() }

// place is the environment of a program, as far as finding a layer depends on it.
type place struct {
	given   string   // $ONESTEP_LAYER: only this layer
	found   string   // the last layer made from the program's sources when it was built
	folders []string // directories of the program
	cache   string   // where setup puts layers; empty without a home directory
	sum     string   // checksum of the program's sources
	source  string   // the source tree of onestep that it was built from, if it exists
	user    bool     // it is a program of another module
	path    []string // $LD_LIBRARY_PATH
	torches []string // directories that may contain a libtorch, for the remedy
	limit   string   // of the process's addresses, into which libtorch is mapped; empty: there is none
}

// addresses describes the limit of the process's addresses; "": it has none. Programs that import this package need no module for it.
func addresses() string {
	var r syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_AS, &r) != nil || uint64(r.Cur) >= math.MaxInt64 {
		return ""
	}
	return fmt.Sprintf("ulimit -v %d", uint64(r.Cur)>>10)
}

func here() place {
	p := place{given: os.Getenv("ONESTEP_LAYER"), found: found(), sum: sourceSum(), limit: addresses()}
	if exe, err := os.Executable(); err == nil {
		if real, err := filepath.EvalSymlinks(exe); err == nil {
			exe = real
		}
		dir := filepath.Dir(exe)
		p.folders = []string{dir, filepath.Join(filepath.Dir(dir), "lib")}
	}
	if dir, err := libtorch.CacheDir(); err == nil {
		p.cache = dir
	}
	if _, file, _, ok := runtime.Caller(0); ok && filepath.IsAbs(file) { // not with trimmed paths
		if dir := filepath.Dir(filepath.Dir(file)); exists(filepath.Join(dir, "scripts", "setup")) {
			p.source = dir
		}
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		p.user = info.Main.Path != "" && info.Main.Path != module
	}
	if list := os.Getenv("LD_LIBRARY_PATH"); list != "" {
		p.path = strings.FieldsFunc(list, func(r rune) bool { return r == ':' || r == ';' })
	}
	if dir := os.Getenv("LIBTORCH"); dir != "" {
		p.torches = append(p.torches, dir)
	}
	for _, python := range []string{os.Getenv("VIRTUAL_ENV"), os.Getenv("CONDA_PREFIX")} {
		if python != "" {
			p.torches = append(p.torches, below(filepath.Join(python, "lib"), "python3*", "site-packages", "torch")...)
		}
	}
	if p.cache != "" {
		p.torches = append(p.torches, below(p.cache, "libtorch-*", "torch")...)
	}
	return p
}

// below returns the directories of a name that exist in those directories in dir that match a pattern.
func below(dir, pattern string, names ...string) []string {
	var dirs []string
	for _, d := range libtorch.Match(dir, pattern) {
		if d = filepath.Join(append([]string{d}, names...)...); exists(d) {
			dirs = append(dirs, d)
		}
	}
	return dirs
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// find returns the first layer whose libtorch is there in the right version, or else the first layer.
func (p place) find() (Layer, error) {
	if p.given != "" {
		if !exists(p.given) {
			return Layer{}, p.noLayer([]string{p.given})
		}
		return p.layer(p.given), nil
	}
	var searched, paths []string
	for _, dir := range p.folders {
		searched = append(searched, dir)
		paths = append(paths, p.layersIn(dir)...)
	}
	if p.found != "" {
		searched = append(searched, p.found)
		// A program that was built after its sources changed, and before the set-up ran again, names the layer of the sources before: that
		// which the set-up makes afterwards is in the cache.
		if own, _ := filepath.Match(libtorch.LayerFile("*", p.sum, "*"), filepath.Base(p.found)); own && exists(p.found) {
			paths = append(paths, p.found)
		}
	}
	if p.cache != "" {
		dir := filepath.Join(p.cache, "layers")
		searched = append(searched, dir)
		paths = append(paths, p.layersIn(dir)...)
	}
	for _, path := range paths {
		l := p.layer(path)
		if v := l.libraryVersion(); l.Library != "" && (v == l.Version || v == "") {
			return l, nil
		}
	}
	if len(paths) > 0 {
		return p.layer(paths[0]), nil
	}
	if p.found != "" && exists(p.found) { // of other sources, which the error of opening it says
		return p.layer(p.found), nil
	}
	return Layer{}, p.noLayer(searched)
}

// layersIn returns the layers in a directory that were made from the program's sources, the latest first.
func (p place) layersIn(dir string) []string {
	paths := libtorch.Match(dir, libtorch.LayerFile("*", p.sum, "*"))
	made := func(path string) (t time.Time) {
		if st, err := os.Stat(path); err == nil {
			t = st.ModTime()
		}
		return t
	}
	slices.SortStableFunc(paths, func(a, b string) int { return made(b).Compare(made(a)) })
	return paths
}

// layer finds libtorch like the loader: $LD_LIBRARY_PATH comes before the directory recorded in the layer.
func (p place) layer(path string) Layer {
	l := Layer{Path: path, Version: libtorch.LayerVersion(path)}
	l.searched = append(l.searched, p.path...)
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() { // to open a named pipe would wait for its writer
		return l
	}
	if f, err := elf.Open(path); err == nil {
		defer f.Close()
		runpath, _ := f.DynString(elf.DT_RUNPATH)
		for _, list := range runpath {
			for dir := range strings.SplitSeq(list, ":") {
				l.searched = append(l.searched, strings.ReplaceAll(dir, "$ORIGIN", filepath.Dir(path)))
			}
		}
	}
	for _, dir := range l.searched {
		if file := filepath.Join(dir, libtorch.Library); exists(file) {
			l.Library = file
			break
		}
	}
	return l
}

// libraryVersion is the version of the libtorch that the loader finds; empty if its directory does not show it.
func (l Layer) libraryVersion() string {
	if l.Library == "" {
		return ""
	}
	return libtorch.VersionOf(filepath.Dir(filepath.Dir(l.Library)))
}
