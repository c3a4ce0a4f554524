package main

import (
	"fmt"
	"go/doc"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// overview is how many words a package's comment has at least: what it is for, its main types, and how they go together.
const overview = 60

// documented returns a line for each package of a library that lacks an overview, or an example that runs and whose output is compared.
func documented(tree fs.FS) (bad []string, err error) {
	files := map[string][]string{} // by directory
	err = fs.WalkDir(tree, ".", func(file string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		layer, _, _ := strings.Cut(file, "/")
		if _, ruled := below[layer]; e.IsDir() && file != "." && (!ruled || !public(file)) {
			return fs.SkipDir
		}
		if !e.IsDir() && path.Ext(file) == ".go" {
			files[path.Dir(file)] = append(files[path.Dir(file)], file)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for dir, names := range files {
		words, examples := 0, 0
		for _, name := range names {
			text, err := fs.ReadFile(tree, name)
			if err != nil {
				return nil, err
			}
			f, err := parser.ParseFile(token.NewFileSet(), name, text, parser.ParseComments)
			if err != nil {
				return nil, err
			}
			if !strings.HasSuffix(name, "_test.go") {
				words += len(strings.Fields(f.Doc.Text()))
				continue
			}
			for _, x := range doc.Examples(f) {
				if x.Output != "" {
					examples++
				}
			}
		}
		if words < overview {
			bad = append(bad, fmt.Sprintf("%s: the package's overview has %d words: say what it is for, its main types and how they go together, shapes and units (at least %d)", dir, words, overview))
		}
		if examples == 0 {
			bad = append(bad, fmt.Sprintf("%s: has no Example with an Output", dir))
		}
	}
	slices.Sort(bad)
	return bad, nil
}

// public tells whether users may import a package of a layer and tests do not alone.
func public(dir string) bool {
	return !helper(dir) && !slices.ContainsFunc(strings.Split(dir, "/"), func(name string) bool { return name == "internal" || name == "testdata" || name == "csrc" })
}
