// Package libtorch is shared by the setup (scripts/setup) and the programs that load its results (csrc): the supported versions of
// libtorch, the version of a libtorch in a directory, the sources of the layer over libtorch, and the name of the layer's file.
package libtorch

import (
	"bytes"
	"crypto/sha256"
	_ "embed" // for versions
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Library is the file of libtorch that a layer is linked against, in the directory lib of a libtorch.
const Library = "libtorch_cpu.so"

// SetUp is the command that fetches libtorch and compiles the layer, run in a module that requires onestep.
const SetUp = "go run github.com/onestep-go/onestep/scripts/setup"

//go:embed versions
var versions string

// Release is a version of libtorch that onestep is tested with.
type Release struct {
	Version string
	Wheels  []string // Python packages, as name==version, that PyPI's torch library needs to load
}

// Supported returns the releases that the layer can be compiled for; setup fetches the first.
func Supported() []Release {
	var list []Release
	for line := range strings.Lines(versions) {
		if words := strings.Fields(line); len(words) > 0 && words[0] != "#" {
			list = append(list, Release{words[0], words[1:]})
		}
	}
	return list
}

// Sum is the checksum of the layer's sources, in a file system laid out like csrc: a layer from other sources may have other functions.
func Sum(sources fs.FS) (string, error) {
	names := []string{"ct.h", "functions.h", "table.h"}
	for _, pattern := range []string{"layer/*.cpp", "layer/*.h"} {
		files, err := fs.Glob(sources, pattern)
		if err != nil {
			return "", err
		}
		names = append(names, files...)
	}
	h := sha256.New()
	for _, name := range names {
		text, err := fs.ReadFile(sources, name)
		if err != nil {
			return "", err
		}
		h.Write(text)
	}
	return hex.EncodeToString(h.Sum(nil))[:12], nil
}

// LayerPrefix is the prefix of a layer's file name.
const LayerPrefix = "libonestep-torch-"

// LayerFile is a layer's file name: the version of its libtorch, the checksum of its sources, and a key of the compiler and its flags. The
// key may be a pattern of package filepath.
func LayerFile(version, sum, key string) string {
	return fmt.Sprintf("%s%s-%s-%s.so", LayerPrefix, version, sum, key)
}

// LayerVersion is the version of libtorch that a layer was compiled for, by its file name; empty for any other file name.
func LayerVersion(path string) string {
	name, ok := strings.CutPrefix(filepath.Base(path), LayerPrefix)
	if !ok {
		return ""
	}
	version, _, _ := strings.Cut(name, "-")
	return version
}

// CacheDir is the user's cache directory for setup.
func CacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	return filepath.Join(dir, "onestep"), err
}

var (
	headerVersion = regexp.MustCompile(`(?m)^#define TORCH_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)\s*$`)
	pythonVersion = regexp.MustCompile(`(?m)^__version__ = '(\d+\.\d+\.\d+)`)
)

// HeaderVersion is the version of the libtorch in a directory, by its headers; empty without headers.
func HeaderVersion(dir string) string {
	for _, file := range []string{"include/torch/headeronly/version.h", "include/torch/csrc/api/include/torch/version.h"} {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			continue
		}
		if m := headerVersion.FindAllSubmatch(text, -1); len(m) == 3 {
			return string(bytes.Join([][]byte{m[0][1], m[1][1], m[2][1]}, []byte(".")))
		}
	}
	return ""
}

// VersionOf is the version of the libtorch in a directory, which may also be a Python package torch without headers; empty if it is unknown.
func VersionOf(dir string) string {
	if v := HeaderVersion(dir); v != "" {
		return v
	}
	if text, err := os.ReadFile(filepath.Join(dir, "version.py")); err == nil {
		if m := pythonVersion.FindSubmatch(text); m != nil {
			return string(m[1])
		}
	}
	return ""
}
