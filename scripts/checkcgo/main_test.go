package main

import (
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

func TestCheck(t *testing.T) {
	file := func(imports string) *fstest.MapFile {
		return &fstest.MapFile{Data: []byte("package p\n" + imports + "\nfunc f() {}\n")}
	}
	tree := fstest.MapFS{
		"csrc/csrc.go":              file(`import "C"`),
		"torch/tensor.go":           file(`import "C"` + "\n" + `import _ "github.com/onestep-go/onestep/csrc"`),
		"torch/nn/nn.go":            file(`import "github.com/onestep-go/onestep/torch"`),
		"torch/nn/c.go":             file(`import "C"`),
		"torch/up.go":               file(`import "github.com/onestep-go/onestep/models/unet"`),
		"models/unet/unet.go":       file(`import ("fmt"; "github.com/onestep-go/onestep/torch/nn"; "github.com/onestep-go/onestep/models")`),
		"models/down.go":            file(`import "github.com/onestep-go/onestep/csrc"`),
		"sampling/a.go":             file(`import "github.com/onestep-go/onestep/training"`),
		"sampling/a_test.go":        file(`import "github.com/onestep-go/onestep/training"`),
		"training/a.go":             file(`import x "github.com/onestep-go/onestep/lora"`),
		"lora/a.go":                 file(`import ("github.com/onestep-go/onestep/models"; "github.com/onestep-go/onestep/internal/quote")`),
		"internal/quote/quote.go":   file(`import "github.com/onestep-go/onestep/torch"`),
		"cmd/onestep/main.go":       file(`import ("github.com/onestep-go/onestep/training"; "github.com/onestep-go/onestep/sampling")`),
		"cmd/onestep/c.go":          file(`import "C"`),
		"models/testdata/broken.go": {Data: []byte("not Go")},
		"build/x.go":                file(`import "C"`),
		"torch/flags.go":            file("const a, b = \"want x by --x-y\", `--z`\nconst c = \"a--b, tar with --dereference\" // --q"),
		"torch/flags_test.go":       file(`const d = "--x"`),
		"cmd/onestep/flags.go":      file(`const d = "--x"`),
		"README.md":                 {Data: []byte(`import "C"`)},
	}
	got, err := check(tree)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{
		`torch/nn/c.go: imports "C": cgo belongs in csrc and torch`,
		`torch/up.go: imports "github.com/onestep-go/onestep/models/unet": torch must not know models`,
		"torch/flags.go:2:14: names the flag --x-y: only cmd may",
		"torch/flags.go:2:33: names the flag --z: only cmd may",
		`models/down.go: imports "github.com/onestep-go/onestep/csrc": models must not know csrc`,
		`sampling/a.go: imports "github.com/onestep-go/onestep/training": sampling must not know training`,
		`training/a.go: imports "github.com/onestep-go/onestep/lora": training must not know lora`,
		`internal/quote/quote.go: imports "github.com/onestep-go/onestep/torch": internal must not know torch`,
		`cmd/onestep/c.go: imports "C": cgo belongs in csrc and torch`,
	}, got)

	_, err = check(fstest.MapFS{"a.go": {Data: []byte("not Go")}})
	require.ErrorContains(t, err, "a.go")
}
