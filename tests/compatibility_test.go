package tests

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// testsOfModule are the names of the tests and fuzz targets in the module.
func testsOfModule(t *testing.T) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	require.NoError(t, filepath.WalkDir("..", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := e.Name(); e.IsDir() && path != ".." && (name[0] == '.' || name == "testdata" || name == "build" || name == "dist") {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && (strings.HasPrefix(fn.Name.Name, "Test") || strings.HasPrefix(fn.Name.Name, "Fuzz")) {
				found[fn.Name.Name] = true
			}
		}
		return nil
	}))
	return found
}

var testNamed = regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9]+)`")

// Each row of the table names a test that exists.
func TestCompatibilityNamesItsTests(t *testing.T) {
	known := testsOfModule(t)
	require.True(t, known["TestCompatibilityNamesItsTests"])
	text, err := os.ReadFile("../docs/compatibility.md")
	require.NoError(t, err)
	rows, head := 0, true
	for i, line := range strings.Split(string(text), "\n") {
		if !strings.HasPrefix(line, "|") {
			head = true // of the next table
			continue
		}
		if ruler := strings.Trim(line, "|- :") == ""; head || ruler {
			head = head && !ruler
			continue
		}
		rows++
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		assert.Len(t, cells, 3, "line %d", i+1)
		names := testNamed.FindAllStringSubmatch(cells[len(cells)-1], -1)
		assert.NotEmpty(t, names, "line %d names no test: %s", i+1, line)
		for _, name := range names {
			assert.True(t, known[name[1]], "line %d: there is no %s", i+1, name[1])
		}
		left := strings.Trim(testNamed.ReplaceAllString(cells[len(cells)-1], ""), " |,")
		assert.Empty(t, left, "line %d: the last column is for names of tests", i+1)
	}
	require.Greater(t, rows, 60)
}
