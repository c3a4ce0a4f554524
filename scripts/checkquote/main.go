// Command checkquote finds text that reaches an error or a message as it came: from a file, a name in a directory, a configuration or the
// command line, and not through internal/quote. It type-checks the module and follows strings backwards from what makes errors and from
// what prints: a constant is safe, and what package quote returns, and what is made of these alone.
//
//	go run ./scripts/checkquote ./...
//
// It follows no pointers and no interfaces: what it cannot follow counts as text from outside. A line that is right for a reason that it
// cannot see says so in a comment, //quote: reason.
package main

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	found, err := run(".", os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "checkquote:", err)
		os.Exit(1)
	}
	for _, f := range found {
		fmt.Fprintln(os.Stderr, f)
	}
	if len(found) > 0 {
		os.Exit(1)
	}
}

// listed is what go list tells of a package.
type listed struct {
	ImportPath, Dir, Export string
	CompiledGoFiles         []string
	Module                  *struct{ Main bool }
	DepOnly                 bool
}

// run returns a line for each finding in the packages that the patterns name, in a folder of the module.
func run(dir string, patterns []string) ([]string, error) {
	cmd := exec.Command("go", append([]string{"list", "-export", "-compiled", "-deps", "-json=ImportPath,Dir,Export,CompiledGoFiles,Module,DepOnly"}, patterns...)...)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	p := newProgram()
	exports, asked := map[string]string{}, map[string]bool{}
	other := importer.ForCompiler(p.fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
	ours := map[string]*types.Package{}
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for { // dependencies come first
		var l listed
		if err := dec.Decode(&l); err == io.EOF {
			break
		} else if err != nil {
			return nil, err
		}
		exports[l.ImportPath] = l.Export
		if l.Module == nil || !l.Module.Main {
			continue
		}
		asked[l.ImportPath] = !l.DepOnly
		var files []*ast.File
		for _, name := range l.CompiledGoFiles {
			if !filepath.IsAbs(name) {
				name = filepath.Join(l.Dir, name)
			}
			f, err := parser.ParseFile(p.fset, name, nil, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				return nil, err
			}
			files = append(files, f)
		}
		config := types.Config{Importer: importing(func(path string) (*types.Package, error) {
			if pkg := ours[path]; pkg != nil {
				return pkg, nil
			}
			return other.Import(path)
		}), FakeImportC: true}
		pkg, err := config.Check(l.ImportPath, p.fset, files, p.info)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", l.ImportPath, err)
		}
		ours[l.ImportPath] = pkg
		p.add(pkg, files)
	}
	wd, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	var lines []string
	place := func(pos token.Pos) string {
		at := p.fset.Position(pos)
		if rel, err := filepath.Rel(wd, at.Filename); err == nil {
			at.Filename = rel
		}
		return fmt.Sprintf("%s:%d", at.Filename, at.Line)
	}
	for _, f := range p.check() {
		if !asked[p.packageOf(f.site)] { // a package that is only imported
			continue
		}
		site, from := place(f.site), place(f.pos)
		line := site + ": prints " + f.what
		if from != site {
			line += ", of " + from + ","
		}
		lines = append(lines, line+" which may be text from outside: want it through internal/quote")
	}
	slices.Sort(lines)
	return slices.Compact(lines), nil
}

type importing func(path string) (*types.Package, error)

func (f importing) Import(path string) (*types.Package, error) { return f(path) }
