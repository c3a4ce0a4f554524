// Command checkcgo checks the rules of imports, in the folder it runs in: import "C" only in csrc and torch, layers only
// downwards, siblings never.
package main

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
)

const module = "github.com/onestep-go/onestep/"

// below lists what each layer may import of the project. What is not listed, cmd and scripts and tests, may import all.
var below = map[string][]string{
	"internal": {"internal"}, // the floor: packages that know no layer
	"csrc":     {},
	"torch":    {"internal", "csrc", "torch"},
	"models":   {"internal", "torch", "models"},
	"sampling": {"internal", "torch", "models", "sampling"},
	"training": {"internal", "torch", "models", "training"},
	"lora":     {"internal", "torch", "models", "lora"},
}

func main() {
	bad, err := check(os.DirFS("."))
	if err != nil {
		fmt.Fprintln(os.Stderr, "checkcgo:", err)
		os.Exit(1)
	}
	for _, b := range bad {
		fmt.Fprintln(os.Stderr, b)
	}
	if len(bad) > 0 {
		os.Exit(1)
	}
}

// check returns a line for each import in a source tree that breaks the rules.
func check(tree fs.FS) ([]string, error) {
	var bad []string
	err := fs.WalkDir(tree, ".", func(file string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			if name := e.Name(); file != "." && (name[0] == '.' || name == "testdata" || file == "build" || file == "dist") {
				return fs.SkipDir
			}
			return nil
		}
		if path.Ext(file) != ".go" {
			return nil
		}
		text, err := fs.ReadFile(tree, file)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, text, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range f.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			if why := forbidden(file, name); why != "" {
				bad = append(bad, fmt.Sprintf("%s: imports %q: %s", file, name, why))
			}
		}
		return nil
	})
	return bad, err
}

// forbidden says why a file may not import a package; empty when it may.
func forbidden(file, name string) string {
	dir := path.Dir(file)
	if name == "C" {
		if dir == "csrc" || dir == "torch" {
			return ""
		}
		return "cgo belongs in csrc and torch"
	}
	rest, ours := strings.CutPrefix(name, module)
	layer, _, _ := strings.Cut(dir, "/")
	allowed, ruled := below[layer]
	if !ours || !ruled || strings.HasSuffix(file, "_test.go") { // a test may use what its package must not
		return ""
	}
	if to, _, _ := strings.Cut(rest, "/"); !slices.Contains(allowed, to) {
		return layer + " must not know " + to
	}
	return ""
}
