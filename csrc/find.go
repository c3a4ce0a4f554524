package csrc

import (
	"bytes"
	"debug/elf"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"
)

// layerPrefix begins the name of a layer's file: libonestep-torch-VERSION-SOURCES-KEY.so, where VERSION is libtorch's and
// SOURCES the sum of the sources.
const layerPrefix = "libonestep-torch-"

const library = "libtorch_cpu.so"

// Layer is a compiled layer.
type Layer struct {
	Path    string
	Version string // of the libtorch that it was compiled for
	Library string // the libtorch_cpu that the loader takes with it; empty when it finds none

	searched []string // the folders where the loader looks for libtorch
}

// Find returns the layer that [Open] takes, without opening it. The error is an [*OpenError].
func Find() (Layer, error) { return here().find() }

// place is where a program runs, as far as finding a layer depends on it.
type place struct {
	given   string   // $ONESTEP_LAYER: this layer and no other
	found   string   // the layer that was the last to be made from the program's sources when it was built
	folders []string // of the program
	cache   string   // where scripts/libtorch.sh puts layers; empty when there is no home
	sum     string   // of the program's sources
	source  string   // the tree of its sources, if it is here
	path    []string // $LD_LIBRARY_PATH
	torches []string // folders in which a libtorch may lie, for advice
}

func here() place {
	p := place{given: os.Getenv("ONESTEP_LAYER"), found: found(), sum: sourceSum()}
	if exe, err := os.Executable(); err == nil {
		if real, err := filepath.EvalSymlinks(exe); err == nil {
			exe = real
		}
		dir := filepath.Dir(exe)
		p.folders = []string{dir, filepath.Join(filepath.Dir(dir), "lib")}
	}
	if dir, err := os.UserCacheDir(); err == nil {
		p.cache = filepath.Join(dir, "onestep")
	}
	if _, file, _, ok := runtime.Caller(0); ok && filepath.IsAbs(file) { // not where paths were trimmed
		if dir := filepath.Dir(filepath.Dir(file)); exists(filepath.Join(dir, "scripts", "libtorch.sh")) {
			p.source = dir
		}
	}
	if list := os.Getenv("LD_LIBRARY_PATH"); list != "" {
		p.path = strings.FieldsFunc(list, func(r rune) bool { return r == ':' || r == ';' })
	}
	if dir := os.Getenv("LIBTORCH"); dir != "" {
		p.torches = append(p.torches, dir)
	}
	for _, python := range []string{os.Getenv("VIRTUAL_ENV"), os.Getenv("CONDA_PREFIX")} {
		if python != "" {
			dirs, _ := filepath.Glob(filepath.Join(python, "lib", "python3*", "site-packages", "torch"))
			p.torches = append(p.torches, dirs...)
		}
	}
	if p.cache != "" {
		dirs, _ := filepath.Glob(filepath.Join(p.cache, "libtorch-*", "torch"))
		p.torches = append(p.torches, dirs...)
	}
	return p
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// find returns the first layer whose libtorch is there, in its version, or else the first one.
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
		if exists(p.found) {
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
	return Layer{}, p.noLayer(searched)
}

// layersIn returns the layers in a folder that were made from the program's sources, the last one first.
func (p place) layersIn(dir string) []string {
	paths, _ := filepath.Glob(filepath.Join(dir, layerPrefix+"*-"+p.sum+"-*.so"))
	made := func(path string) (t time.Time) {
		if st, err := os.Stat(path); err == nil {
			t = st.ModTime()
		}
		return t
	}
	slices.SortStableFunc(paths, func(a, b string) int { return made(b).Compare(made(a)) })
	return paths
}

// layer looks where the loader would find libtorch: $LD_LIBRARY_PATH goes before the folder that was built in.
func (p place) layer(path string) Layer {
	l := Layer{Path: path}
	if name, ok := strings.CutPrefix(filepath.Base(path), layerPrefix); ok {
		l.Version, _, _ = strings.Cut(name, "-")
	}
	l.searched = append(l.searched, p.path...)
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
		if file := filepath.Join(dir, library); exists(file) {
			l.Library = file
			break
		}
	}
	return l
}

// libraryVersion is the version of the libtorch that the loader takes; empty where its folder does not tell.
func (l Layer) libraryVersion() string {
	if l.Library == "" {
		return ""
	}
	return versionOf(filepath.Dir(filepath.Dir(l.Library)))
}

var (
	headerVersion = regexp.MustCompile(`(?m)^#define TORCH_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)\s*$`)
	pythonVersion = regexp.MustCompile(`(?m)^__version__ = '(\d+\.\d+\.\d+)`)
)

// versionOf reads the version of a libtorch, or of the folder of a Python's torch.
func versionOf(dir string) string {
	for _, file := range []string{"include/torch/headeronly/version.h", "include/torch/csrc/api/include/torch/version.h"} {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			continue
		}
		if m := headerVersion.FindAllSubmatch(text, -1); len(m) == 3 {
			return string(bytes.Join([][]byte{m[0][1], m[1][1], m[2][1]}, []byte(".")))
		}
	}
	if text, err := os.ReadFile(filepath.Join(dir, "version.py")); err == nil {
		if m := pythonVersion.FindSubmatch(text); m != nil {
			return string(m[1])
		}
	}
	return ""
}
