package builtintext

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/onestep-go/onestep/internal/atomicfile"
	"github.com/onestep-go/onestep/internal/halves"
	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd"
)

// Name is the name of the model, in the tool and at the beginning of the directory's name.
const Name = "builtin-text"

// The files are written by scripts/packmodel (docs/results/emoji-text.md).
//
//go:embed model
var embedded embed.FS

// packed is the end of the names of files that are embedded compressed.
const packed = ".halves"

// file is a file of the model as it is unpacked.
type file struct {
	sum  string // SHA-256, in hexadecimal digits
	size int64
	name string // its path, with slashes
}

// files returns the model's files, and an identifier: directories of different versions of the model have different names.
var files = sync.OnceValues(func() ([]file, string) {
	list, err := embedded.ReadFile("model/files.txt")
	if err != nil {
		panic(err) // it is embedded
	}
	var all []file
	for line := range strings.Lines(string(list)) {
		sum, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		size, name, _ := strings.Cut(rest, " ")
		n, err := strconv.ParseInt(size, 10, 64)
		if err != nil {
			panic(err)
		}
		all = append(all, file{sum, n, name})
	}
	id := sha256.Sum256(list)
	return all, hex.EncodeToString(id[:])[:8]
})

// Dir returns the path of a directory with the model. It is in cache, by default onestep's in the user's cache directory, and is written
// there if it is missing or damaged; several processes may share it.
func Dir(cache string) (string, error) {
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("the built-in model needs a cache directory: %w", err)
		}
		cache = filepath.Join(user, "onestep")
	}
	_, id := files()
	dir := filepath.Join(cache, Name+"-"+id)
	if whole(dir) {
		return dir, nil
	}
	if err := os.MkdirAll(cache, 0o777); err != nil {
		return "", fmt.Errorf("unpacking the built-in model: %w", quote.Error(err))
	}
	_, err := os.Lstat(dir)
	err = atomicfile.WriteFolder(dir, atomicfile.Options{Overwrite: err == nil}, fill)
	if err != nil && !whole(dir) { // another process may have written it
		return "", fmt.Errorf("unpacking the built-in model: %w", err)
	}
	return dir, nil
}

// Open opens the model, whose files are in cache as for [Dir]. The zero value of the options is f32 on the CPU.
func Open(cache string, o sd.Options) (*sd.Model, error) {
	dir, err := Dir(cache)
	if err != nil {
		return nil, err
	}
	return sd.Open(dir, o)
}

// fill writes the files.
func fill(dir string) error {
	all, _ := files()
	for _, f := range all {
		path := filepath.Join(dir, filepath.FromSlash(f.name))
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			return quote.Error(err)
		}
		if err := atomicfile.Write(path, atomicfile.Options{}, f.write); err != nil {
			return err
		}
	}
	return nil
}

// write writes the unpacked file.
func (f file) write(w io.Writer) error {
	data, err := embedded.ReadFile("model/" + f.name)
	if err == nil {
		_, err = w.Write(data)
		return err
	}
	if data, err = embedded.ReadFile("model/" + f.name + packed); err != nil {
		return err
	}
	return halves.Unpack(w, data, f.size)
}

// whole reports whether dir has all files, unchanged.
func whole(dir string) bool {
	all, _ := files()
	return !slices.ContainsFunc(all, func(f file) bool { return !f.unchanged(dir) })
}

// unchanged reports whether dir has the file with the right content.
func (f file) unchanged(dir string) bool {
	got, size, err := plainfile.Open(filepath.Join(dir, filepath.FromSlash(f.name)))
	if err != nil {
		return false
	}
	defer got.Close()
	if size != f.size {
		return false
	}
	h := sha256.New()
	_, err = io.CopyBuffer(h, io.LimitReader(got, f.size), make([]byte, 1<<18))
	return err == nil && hex.EncodeToString(h.Sum(nil)) == f.sum
}
