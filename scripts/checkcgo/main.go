// Command checkcgo checks these rules, in the folder it runs in: of imports, that import "C" is only in csrc and torch, that layers know
// only those below them, siblings never each other, that only tests import helpers of tests, that some packages do without others
// altogether, and that registered networks are imported through their table; of texts, that libraries name no flag of the command; of files in testdata, that none is larger than 100 kB but those that
// are argued; and of documentation, that every library package has an overview and an example that runs.
package main

import (
	"cmp"
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
	"csrc":     {"internal"},
	"torch":    {"internal", "csrc", "torch"},
	"models":   {"internal", "torch", "models"},
	"sampling": {"internal", "torch", "models", "sampling"},
	"training": {"internal", "torch", "models", "training"},
	"lora":     {"internal", "torch", "models", "lora"},

	"evaluation": {"internal", "torch", "models", "evaluation"},

	"serve": {"internal", "torch", "models", "sampling", "lora", "serve"}, // over the siblings, below cmd
}

// rooms are packages that stand below the rest of their layer: what each may import of the project.
var rooms = map[string][]string{
	"models/noise": {"internal", "torch"}, // training and sampling stand on it, and so do the denoisers of models
}

// largest is how many bytes a file in testdata may have.
const largest = 100 << 10

// larger are files in testdata, or folders of them, that may have more, with how many; CONTRIBUTING.md says why.
var larger = map[string]int64{
	"tests/testdata/sd":                          850 << 10,
	"tests/testdata/sd/cases.safetensors":        330 << 10,
	"tests/testdata/lora/full-kohya.safetensors": 180 << 10,
}

// without lists what a package must not depend on, however far down: whoever imports it would compile that, too.
var without = map[string]string{
	"sampling":          "models/sd", // one-step generation needs no Stable Diffusion
	"models/checkpoint": "models/sd", // nor do model files
}

func main() {
	bad, err := check(os.DirFS("."))
	undocumented, err2 := documented(os.DirFS("."))
	bad = append(bad, undocumented...)
	if err = cmp.Or(err, err2); err != nil {
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
	imports := map[string][]string{} // of the project, by folder, tests left out
	err := fs.WalkDir(tree, ".", func(file string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			if name := e.Name(); file != "." && (name[0] == '.' || file == "build" || file == "dist") {
				return fs.SkipDir
			}
			return nil
		}
		if strings.Contains("/"+file, "/testdata/") {
			info, err := e.Info()
			if err != nil {
				return err
			}
			if limit := limit(file); info.Size() > limit {
				bad = append(bad, fmt.Sprintf("%s: has %d bytes, the limit of files in testdata is %d: cut it, or argue it in CONTRIBUTING.md", file, info.Size(), limit))
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
			if to, own := strings.CutPrefix(name, module); own && !strings.HasSuffix(file, "_test.go") {
				imports[path.Dir(file)] = append(imports[path.Dir(file)], to)
			}
		}
		return nil
	})
	for from, not := range without {
		if way := route(imports, []string{from}, not, map[string]bool{}); way != nil {
			bad = append(bad, fmt.Sprintf("%s: depends on %s (%s): it must do without", from, not, strings.Join(way, " → ")))
		}
	}
	return append(bad, byTable(imports)...), err
}

// table is the package that registers networks. What uses networks of any kind imports it in place of theirs.
const table = "models/network"

// byTable returns a line for each package that imports one of the registered networks though it uses all of them alike.
func byTable(imports map[string][]string) (bad []string) {
	for from, all := range imports {
		layer, _, _ := strings.Cut(from, "/")
		if layer == "models" && from != "models/checkpoint" || !slices.Contains([]string{"models", "training", "sampling", "lora", "cmd"}, layer) {
			continue
		}
		for _, to := range all {
			if strings.HasPrefix(to, "models/") && slices.Contains(imports[table], to) {
				bad = append(bad, fmt.Sprintf("%s: imports %s, a registered network: use %s, which has them all", from, to, table))
			}
		}
	}
	return bad
}

// limit returns how many bytes a file in testdata may have.
func limit(file string) int64 {
	for at := file; at != "."; at = path.Dir(at) {
		if n, ok := larger[at]; ok {
			return n
		}
	}
	return largest
}

// route returns the imports by which a package depends on another or on one below it, or nil.
func route(imports map[string][]string, way []string, to string, seen map[string]bool) []string {
	at := way[len(way)-1]
	if at == to || strings.HasPrefix(at, to+"/") {
		return way
	}
	if seen[at] {
		return nil
	}
	seen[at] = true
	for _, next := range imports[at] {
		if found := route(imports, append(slices.Clone(way), next), to, seen); found != nil {
			return found
		}
	}
	return nil
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
	to, _, _ := strings.Cut(rest, "/")
	if !slices.Contains(allowed, to) {
		return layer + " must not know " + to
	}
	for room, allowed := range rooms {
		if (dir == room || strings.HasPrefix(dir, room+"/")) && rest != room && !strings.HasPrefix(rest, room+"/") && !slices.Contains(allowed, to) {
			return room + " must not know the rest of " + to
		}
	}
	if helper(rest) && !helper(dir) {
		return "only tests may import helpers of tests"
	}
	return ""
}

// helper tells whether a package helps tests, by its name: torchtest, modelstest, and what lies below one.
func helper(dir string) bool {
	return slices.ContainsFunc(strings.Split(dir, "/"), func(name string) bool { return strings.HasSuffix(name, "test") })
}
