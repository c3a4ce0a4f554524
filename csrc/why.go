//go:build cgo

package csrc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/onestep-go/onestep/internal/libtorch"
)

// noLayer is the error of a missing layer.
func (p place) noLayer(searched []string) *OpenError {
	e := &OpenError{Want: strings.Join(Supported(), " or "), Searched: searched, Remedy: p.setUp(Supported()[0])}
	if p.source == "" {
		e.Remedy = fmt.Sprintf("run `%s` where this program was built, and copy ~/.cache/onestep/layers/%s from there into %s",
			libtorch.SetUp, libtorch.LayerFile("VERSION", p.sum, "*"), searched[0])
	}
	if p.given != "" {
		e.Reason = fmt.Sprintf("ONESTEP_LAYER=%s: there is no such file", p.given)
		if dir := barred(p.given); dir != "" {
			e.Reason = fmt.Sprintf("ONESTEP_LAYER=%s: this user may not read %s", p.given, dir)
		}
		e.Remedy = "unset ONESTEP_LAYER"
		return e
	}
	e.Reason = fmt.Sprintf("libtorch is not set up: there is no %s in %s", libtorch.LayerFile("VERSION", p.sum, "*"), strings.Join(searched, ", "))
	for _, path := range searched {
		if dir := barred(path); dir != "" {
			e.Reason += fmt.Sprintf("; this user may not read %s", dir)
			break
		}
	}
	return e
}

// about starts an error about a layer.
func about(l Layer) *OpenError {
	return &OpenError{Layer: l.Path, Want: l.Version, Library: l.Library, Searched: l.searched}
}

// damaged is the error of a layer that is not a whole file. The set-up compiles such a one anew.
func (p place) damaged(l Layer, damage error) *OpenError {
	e := about(l)
	e.Reason = fmt.Sprintf("the layer over libtorch %s is damaged: %v", l.Path, damage)
	if e.Want == "" { // the file is not called like a layer
		e.Want = strings.Join(Supported(), " or ")
	}
	e.Remedy = p.setUp(l.Version)
	switch {
	case p.source == "":
		e.Remedy = fmt.Sprintf("run `%s` where this program was built, and copy ~/.cache/onestep/layers/%s from there into %s",
			libtorch.SetUp, libtorch.LayerFile("VERSION", p.sum, "*"), shell(filepath.Dir(l.Path)))
	case p.given != "":
		e.Remedy = "unset ONESTEP_LAYER && " + e.Remedy
	}
	return e
}

// otherSources is the error of a layer of another version of onestep.
func (p place) otherSources(l Layer) *OpenError {
	e := about(l)
	e.Reason = fmt.Sprintf("%s belongs to another version of onestep", l.Path)
	e.Remedy = p.setUp(l.Version)
	return e
}

// otherVersion is the error of a libtorch of another version than the layer's.
func (p place) otherVersion(l Layer, version string) *OpenError {
	e := about(l)
	e.Reason = fmt.Sprintf("%s is libtorch %s, expected %s", l.Library, version, l.Version)
	e.Remedy = p.provide(l)
	return e
}

var (
	missingFile = regexp.MustCompile(`^(\S+): cannot open shared object file: No such file or directory$`)
	damagedFile = regexp.MustCompile(`file too short|invalid ELF header|not a dynamic|not a regular file|cannot read file data|wrong ELF class|ELF file|failed to map segment`)
	noAddresses = regexp.MustCompile(`failed to map segment|cannot allocate memory|Cannot allocate memory`)
	oldSystem   = regexp.MustCompile("version `(GLIBC_|GLIBCXX_|CXXABI_|GCC_)[^']*' not found")
)

// packages are the Debian packages of the system libraries that libtorch needs.
var packages = map[string]string{"libgomp.so.1": "libgomp1", "libstdc++.so.6": "libstdc++6", "libgcc_s.so.1": "libgcc-s1"}

// explain is the error of a layer that the loader did not open, by the loader's message and the files.
func (p place) explain(l Layer, message string) *OpenError {
	e := about(l)
	if e.Library == "" {
		for _, dir := range l.searched {
			if _, err := os.ReadDir(dir); errors.Is(err, fs.ErrPermission) {
				return p.unreadable(e, dir)
			}
		}
		e.Reason = fmt.Sprintf("libtorch %s is missing: there is no %s in %s", l.Version, libtorch.Library, strings.Join(l.searched, ", "))
		e.Remedy = p.provide(l)
		return e
	}
	for _, file := range []string{l.Path, l.Library} {
		f, err := os.Open(file)
		if errors.Is(err, fs.ErrPermission) {
			return p.unreadable(e, file)
		}
		if err == nil {
			f.Close()
		}
	}
	e.Reason = fmt.Sprintf("libtorch %s did not load: %s", l.Version, message)
	switch m := missingFile.FindStringSubmatch(message); {
	case m != nil && m[1] == libtorch.Library:
		e.Reason = fmt.Sprintf("%s is not for this kind of machine (%s)", l.Library, runtime.GOARCH)
		e.Remedy = p.provide(l)
	case m != nil:
		e.Reason = fmt.Sprintf("libtorch %s did not load: %s, which it needs, is missing", l.Version, m[1])
		e.Remedy = p.provide(l)
		if pkg, ok := packages[m[1]]; ok {
			e.Remedy = "apt-get install " + pkg
		}
	case oldSystem.MatchString(message):
		e.Reason = fmt.Sprintf("this system's libraries are older than libtorch %s needs: %s", l.Version, message)
		e.Remedy = "apt-get install libc6 libstdc++6, or a newer release of the system"
	case noAddresses.MatchString(message) && p.limit != "":
		e.Reason += "; its memory is limited by " + p.limit
		e.Remedy = "ulimit -v unlimited, or a higher limit"
	case damagedFile.MatchString(message):
		e.Remedy = p.provide(l)
		if dir := filepath.Dir(filepath.Dir(filepath.Dir(l.Library))); p.ours(dir) && p.source != "" {
			e.Remedy = "rm -r " + shell(dir) + " && " + p.setUp(l.Version) // otherwise setup takes it for complete
		}
	default:
		e.Remedy = p.provide(l)
	}
	return e
}

// ours reports whether setup put a libtorch into a directory.
func (p place) ours(dir string) bool {
	return p.cache != "" && filepath.Dir(dir) == p.cache && strings.HasPrefix(filepath.Base(dir), "libtorch-")
}

// provide is the command that makes a layer's libtorch available.
func (p place) provide(l Layer) string {
	good := func(dir string) bool {
		return exists(filepath.Join(dir, libtorch.Library)) && libtorch.VersionOf(filepath.Dir(dir)) == l.Version
	}
	if l.Library != "" {
		bad := filepath.Dir(l.Library)
		i := slices.Index(l.searched, bad)
		for k, dir := range l.searched[i+1:] { // the right one is only hidden by $LD_LIBRARY_PATH
			if good(dir) && i+1+k >= len(p.path) {
				return "unset LD_LIBRARY_PATH"
			}
		}
	}
	for _, dir := range p.torches {
		if lib := filepath.Join(dir, "lib"); good(lib) && lib != filepath.Dir(l.Library) {
			return "export LD_LIBRARY_PATH=" + shell(lib)
		}
	}
	return p.setUp(l.Version)
}

// setUp is the command that installs libtorch and, with the sources, compiles a layer for it.
func (p place) setUp(version string) string {
	command := p.setUpBySource(version)
	if p.source != "" && p.cache != "" && !writable(p.cache) { // HOME belongs to another user, or does not exist
		command = "export XDG_CACHE_HOME=" + shell(filepath.Join(os.TempDir(), fmt.Sprintf("onestep-%d", os.Getuid()))) + " && " + command
	}
	return command
}

// setUpBySource is setUp with the user's usual cache.
func (p place) setUpBySource(version string) string {
	_, release, cached := strings.Cut(filepath.Base(p.source), "@")
	switch {
	case p.source == "":
		return fmt.Sprintf(`pip install torch==%s && export LD_LIBRARY_PATH=$(python3 -c 'import torch; print(torch.__path__[0])')/lib`, version)
	case p.user: // in the program's module
		return libtorch.SetUp
	case cached: // a program of onestep that `go install` built from the module cache
		return libtorch.SetUp + "@" + release
	}
	return "go -C " + shell(p.source) + " run ./scripts/setup"
}

// unreadable is the error of a file or directory, of a layer or a libtorch, without read permission.
func (p place) unreadable(e *OpenError, path string) *OpenError {
	e.Reason = fmt.Sprintf("this user may not read %s", path)
	top := filepath.Dir(path) // the layer's directory, or libtorch's lib
	if filepath.Base(path) == "lib" {
		top = path
	}
	if filepath.Base(top) == "lib" {
		top = filepath.Dir(top)
	}
	e.Remedy = "chmod -R a+rX " + shell(top)
	// Permissions in another user's home should not be changed: this user needs its own libtorch.
	if dir := closed(top); dir != "" && dir != top {
		e.Reason = fmt.Sprintf("this user may not read %s, which libtorch is in", dir)
		e.Remedy = p.setUp(e.Want)
	}
	return e
}

// barred is the file or directory without read permission: path or one of its parents; "" if path can be read or does not exist.
func barred(path string) string {
	if dir := closed(path); dir != "" {
		return dir
	}
	f, err := os.Open(path)
	if err == nil {
		f.Close()
	} else if errors.Is(err, fs.ErrPermission) {
		return path
	}
	return ""
}

// writable reports whether a directory can be made, or written to if it exists.
func writable(dir string) bool {
	if closed(dir) != "" {
		return false
	}
	for !exists(dir) && filepath.Dir(dir) != dir {
		dir = filepath.Dir(dir)
	}
	const w = 2 // W_OK
	return syscall.Access(dir, w) == nil
}

// closed is the first parent directory of a path that cannot be entered; "" if all can.
func closed(path string) string {
	dir := filepath.Dir(path)
	if dir != path {
		if c := closed(dir); c != "" {
			return c
		}
	}
	if _, err := os.Stat(filepath.Join(path, ".")); errors.Is(err, fs.ErrPermission) {
		return dir
	}
	return ""
}

var plain = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]+$`)

// shell quotes a path for a shell command.
func shell(path string) string {
	if plain.MatchString(path) {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}
