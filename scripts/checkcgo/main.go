// Command checkcgo checks the rules of imports: import "C" only in csrc and torch, layers only downwards, siblings never.
package main

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const module = "github.com/onestep-go/onestep/"

// below lists what each layer may import of the project.
var below = map[string][]string{
	"csrc":     {},
	"torch":    {"csrc", "torch"},
	"models":   {"torch", "models"},
	"sampling": {"torch", "models", "sampling"},
	"training": {"torch", "models", "training"},
	"lora":     {"torch", "models", "lora"},
}

func main() {
	bad := 0
	err := filepath.WalkDir(".", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() && path != "." && (strings.HasPrefix(e.Name(), ".") || e.Name() == "build" || e.Name() == "dist") {
			return fs.SkipDir
		}
		if e.IsDir() || filepath.Ext(path) != ".go" {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		layer := strings.SplitN(filepath.ToSlash(path), "/", 2)[0]
		for _, spec := range f.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if why := forbidden(layer, filepath.Dir(path), name); why != "" && !strings.HasSuffix(path, "_test.go") {
				fmt.Fprintf(os.Stderr, "%s: imports %q: %s\n", path, name, why)
				bad++
			}
		}
		return nil
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "checkcgo:", err)
		os.Exit(1)
	}
	if bad > 0 {
		os.Exit(1)
	}
}

func forbidden(layer, dir, name string) string {
	if name == "C" {
		if dir == "csrc" || dir == "torch" {
			return ""
		}
		return "cgo belongs in csrc and torch"
	}
	rest, ok := strings.CutPrefix(name, module)
	if !ok {
		return ""
	}
	allowed, known := below[layer]
	if !known {
		return ""
	}
	to := strings.SplitN(rest, "/", 2)[0]
	for _, a := range allowed {
		if a == to {
			return ""
		}
	}
	return layer + " must not know " + to
}
