package main

import (
	"strings"
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
		"models/noise/chain.go":     file(`import ("github.com/onestep-go/onestep/models/noise/x"; "github.com/onestep-go/onestep/torch"; "github.com/onestep-go/onestep/models")`),
		"sampling/noise.go":         file(`import ("github.com/onestep-go/onestep/models/noise"; "github.com/onestep-go/onestep/models/modelstest")`),
		"models/xtest/tiny/t.go":    file(`import "github.com/onestep-go/onestep/torch/torchtest"`),
		"lora/testdata/small.bin":   {Data: make([]byte, largest)},
		"lora/testdata/a/large.bin": {Data: make([]byte, largest+1)},
		"tests/testdata/sd/x.bin":   {Data: make([]byte, largest+1)},
		"tests/testdata/sd/y.bin":   {Data: make([]byte, 2<<20)},
		"docs/large.png":            {Data: make([]byte, 2<<20)},
		"README.md":                 {Data: []byte(`import "C"`)},
	}
	tree["sampling/b.go"] = file(`import "github.com/onestep-go/onestep/models/join"`)
	tree["sampling/sd_test.go"] = file(`import "github.com/onestep-go/onestep/models/sd/clip"`)
	tree["sampling/text/a.go"] = file(`import "github.com/onestep-go/onestep/models/sd/clip"`)
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
		`models/noise/chain.go: imports "github.com/onestep-go/onestep/models": models/noise must not know the rest of models`,
		`sampling/noise.go: imports "github.com/onestep-go/onestep/models/modelstest": only tests may import helpers of tests`,
		"lora/testdata/a/large.bin: has 102401 bytes, the limit of files in testdata is 102400: cut it, or argue it in CONTRIBUTING.md",
		"tests/testdata/sd/y.bin: has 2097152 bytes, the limit of files in testdata is 870400: cut it, or argue it in CONTRIBUTING.md",
		`cmd/onestep/c.go: imports "C": cgo belongs in csrc and torch`,
	}, got)

	tree["models/join/join.go"] = file(`import "github.com/onestep-go/onestep/models/sd/unet"`)
	got, err = check(tree)
	require.NoError(t, err)
	require.Contains(t, got, "sampling: depends on models/sd (sampling → models/join → models/sd/unet): it must do without")

	tree["models/network/table.go"] = file(`import ("github.com/onestep-go/onestep/models"; "github.com/onestep-go/onestep/models/unet")`)
	tree["cmd/onestep/network.go"] = file(`import ("github.com/onestep-go/onestep/models"; "github.com/onestep-go/onestep/models/unet")`)
	tree["cmd/onestep/network_test.go"], tree["scripts/x.go"] = tree["cmd/onestep/network.go"], tree["cmd/onestep/network.go"]
	got, err = check(tree)
	require.NoError(t, err)
	line := "cmd/onestep: imports models/unet, a registered network: use models/network, which has them all"
	require.Contains(t, got, line)
	require.Equal(t, 1, strings.Count(strings.Join(got, "\n"), "a registered network"))

	_, err = check(fstest.MapFS{"a.go": {Data: []byte("not Go")}})
	require.ErrorContains(t, err, "a.go")
}
func TestDocumented(t *testing.T) {
	words := "// Package p has " + strings.Repeat("words ", overview) + "\n"
	tree := fstest.MapFS{
		"models/good/doc.go":        {Data: []byte(words + "package p\n")},
		"models/good/p_test.go":     {Data: []byte("package p_test\n\nfunc Example() {\n\t// Output: 1\n}\n")},
		"models/short/p.go":         {Data: []byte("// Package p is short.\npackage p\n")},
		"models/short/p_test.go":    {Data: []byte("package p_test\n\nfunc Example() {\n\t// Output: 1\n}\n")},
		"models/silent/doc.go":      {Data: []byte(words + "package p\n")},
		"models/silent/p_test.go":   {Data: []byte("package p_test\n\nfunc Example() {}\n\nfunc ExampleX() {\n\t// Output:\n}\n")},
		"models/internal/x/x.go":    {Data: []byte("package x\n")},
		"models/xtest/x.go":         {Data: []byte("package x\n")},
		"models/good/testdata/x.go": {Data: []byte("not Go")},
		"cmd/onestep/main.go":       {Data: []byte("package main\n")},
		"internal/x/x.go":           {Data: []byte("package x\n")},
	}
	bad, err := documented(tree)
	require.NoError(t, err)
	require.Equal(t, []string{
		"models/short: the package's overview has 4 words: say what it is for, its main types and how they go together, shapes and units (at least 60)",
		"models/silent: has no Example with an Output",
	}, bad)
}
