// Packmodel writes the files that models/builtintext embeds from a diffusers directory in half precision: weights compressed (internal/halves),
// the other files as they are, and files.txt, which lists the SHA-256, the size and the path of each unpacked file.
//
//	go run ./scripts/packmodel DIR [OUT]
//
// OUT is models/builtintext/model by default; what is there is replaced.
package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/onestep-go/onestep/internal/atomicfile"
	"github.com/onestep-go/onestep/internal/halves"
	"github.com/onestep-go/onestep/internal/quote"
)

func main() {
	out := "models/builtintext/model"
	if len(os.Args) == 3 {
		out = os.Args[2]
	} else if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: go run ./scripts/packmodel DIR [OUT]")
		os.Exit(2)
	}
	if err := pack(os.Args[1], out); err != nil {
		fmt.Fprintln(os.Stderr, "packmodel:", err)
		os.Exit(1)
	}
}

// pack writes the files of the diffusers directory from to the directory to.
func pack(from, to string) error {
	if _, err := os.Stat(filepath.Join(from, "model_index.json")); err != nil {
		return fmt.Errorf("want a diffusers directory: %w", quote.Error(err))
	}
	return atomicfile.WriteFolder(to, atomicfile.Options{Overwrite: true}, func(dir string) error {
		model := os.DirFS(from)
		var list bytes.Buffer
		before, after := 0, 0
		err := fs.WalkDir(model, ".", func(name string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			data, err := fs.ReadFile(model, name)
			if err != nil {
				return err
			}
			fmt.Fprintf(&list, "%x %d %s\n", sha256.Sum256(data), len(data), name)
			path := filepath.Join(dir, filepath.FromSlash(name))
			before += len(data)
			if filepath.Ext(name) == ".safetensors" {
				path += ".halves"
				if data, err = halves.Pack(data); err != nil {
					return err
				}
			}
			after += len(data)
			return errors.Join(os.MkdirAll(filepath.Dir(path), 0o777), os.WriteFile(path, data, 0o666))
		})
		fmt.Printf("%s: %d bytes in place of %d\n", to, after+list.Len(), before)
		return errors.Join(err, os.WriteFile(filepath.Join(dir, "files.txt"), list.Bytes(), 0o666))
	})
}
