package builtintext

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/onestep-go/onestep/internal/atomicfile"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd"
)

// Name is the name of the model, in the tool and at the beginning of the directory's name.
const Name = "builtin-text"

//go:embed model
var files embed.FS

// FS returns the files of the model, a diffusers directory.
func FS() fs.FS {
	model, err := fs.Sub(files, "model")
	if err != nil {
		panic(err) // only for invalid names
	}
	return model
}

// sum identifies the files: directories of different versions of the model have different names.
var sum = sync.OnceValues(func() (string, error) {
	h := sha256.New()
	err := each(func(name string, data []byte) error {
		_, err := h.Write(binary.LittleEndian.AppendUint64([]byte(name+"\x00"), uint64(len(data))))
		_, err2 := h.Write(data)
		return errors.Join(err, err2)
	})
	return hex.EncodeToString(h.Sum(nil))[:8], err
})

// each calls do with each file, by its path with slashes, in lexical order.
func each(do func(name string, data []byte) error) error {
	model := FS()
	return fs.WalkDir(model, ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := fs.ReadFile(model, name)
		return errors.Join(err, do(name, data))
	})
}

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
	id, err := sum()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, Name+"-"+id)
	if whole(dir) {
		return dir, nil
	}
	if err := os.MkdirAll(cache, 0o777); err != nil {
		return "", fmt.Errorf("unpacking the built-in model: %w", quote.Error(err))
	}
	err = atomicfile.WriteFolder(dir, atomicfile.Options{}, fill)
	if errors.Is(err, fs.ErrExist) && !whole(dir) {
		err = atomicfile.WriteFolder(dir, atomicfile.Options{Overwrite: true}, fill)
	}
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
	return each(func(name string, data []byte) error {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			return err
		}
		return atomicfile.WriteBytes(path, atomicfile.Options{}, data)
	})
}

// whole reports whether dir has all files as they are here.
func whole(dir string) bool {
	return each(func(name string, data []byte) error {
		f, err := os.Open(filepath.Join(dir, filepath.FromSlash(name)))
		if err != nil {
			return err
		}
		defer f.Close()
		got := make([]byte, len(data)+1) // of a longer file, too
		if n, err := io.ReadFull(f, got); !bytes.Equal(got[:n], data) {
			return errors.Join(err, errors.New("it differs"))
		}
		return nil
	}) == nil
}
