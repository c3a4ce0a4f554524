// Command checkcgo checks two rules, in the folder it runs in: of imports, that import "C" is only in csrc and torch, that layers know
// only those below them, and siblings never each other; and of texts, that libraries name no flag of the command.
package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"regexp"
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

// check returns a line for each import and each text in a source tree that breaks the rules.
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
		layer, _, _ := strings.Cut(file, "/")
		_, ruled := below[layer]
		mode := parser.ImportsOnly
		if ruled = ruled && !strings.HasSuffix(file, "_test.go"); ruled {
			mode = 0
		}
		files := token.NewFileSet()
		f, err := parser.ParseFile(files, file, text, mode)
		if err != nil {
			return err
		}
		if ruled {
			bad = append(bad, flags(files, f)...)
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

// flag is a flag of a command in a text.
var flag = regexp.MustCompile(`(?:^|[\s("'])--[a-z][-a-z]*`)

// others are flags of other programs, which texts may name.
var others = []string{"--hard-dereference", "--dereference"} // tar's

// flags returns a line for each string in a library that names a flag: what a Go program cannot pass is no help to it.
func flags(files *token.FileSet, f *ast.File) (bad []string) {
	ast.Inspect(f, func(n ast.Node) bool {
		lit, ok := n.(*ast.BasicLit)
		if !ok || lit.Kind != token.STRING {
			return true
		}
		text, err := strconv.Unquote(lit.Value)
		if err != nil {
			return true
		}
		for _, name := range flag.FindAllString(text, -1) {
			if name = strings.TrimLeft(name, " \t\n('\""); !slices.Contains(others, name) {
				bad = append(bad, fmt.Sprintf("%s: names the flag %s: only cmd may", files.Position(lit.Pos()), name))
			}
		}
		return true
	})
	return bad
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
