package tests

import (
	"bytes"
	"fmt"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A program of another module, outside this tree, is built with what `make` has set up and nothing else. It is made of the
// README's functions; it trains two steps and draws.
func TestAnotherModule(t *testing.T) {
	root := source(t)
	text, err := os.ReadFile("example_test.go")
	require.NoError(t, err)
	program := "package main\n\nimport (\n\t\"context\"\n\t\"fmt\"\n\t\"image\"\n\t\"image/png\"\n\t\"io\"\n\t\"os\"\n\n"
	for _, imported := range regexp.MustCompile(`(?m)^\t"github.com/onestep-go/.*"$`).FindAllString(string(text), -1) {
		program += imported + "\n"
	}
	program += ")\n"
	for _, name := range []string{"train", "draw", "paint", "paintFast"} {
		_, rest, ok := strings.Cut(string(text), "// README: "+name+"\n")
		require.True(t, ok, name)
		body, _, ok := strings.Cut(rest, "\n}\n")
		require.True(t, ok, name)
		program += "\n" + body + "\n}\n"
	}
	program += `
func main() {
	ctx := context.Background()
	err := train(ctx, torch.CPU, os.Args[1], 2)
	if err == nil {
		err = draw(ctx, os.Args[1], os.Stdout)
	}
	if len(os.Args) > 2 {
		err = paint(ctx, os.Args[2], os.Args[3:])
	}
	if len(os.Args) > 100 { // not here: it wants a model that is open
		_, err = paintFast(ctx, nil, "", "")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Fprintln(os.Stderr, "libtorch", torch.Version(), "from", torch.LibraryPath())
}
`
	dir := t.TempDir()
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	write("main.go", program)
	write("go.mod", fmt.Sprintf("module example.com/user\n\ngo %s\n\nrequire github.com/onestep-go/onestep v0.0.0\n\nreplace github.com/onestep-go/onestep => %s\n",
		strings.TrimPrefix(goEnv(t, "GOVERSION"), "go"), root))
	sums, err := os.ReadFile(filepath.Join(root, "go.sum"))
	require.NoError(t, err)
	write("go.sum", string(sums))

	run := func(name string, args ...string) (stdout []byte, stderr string) {
		t.Helper()
		var out, errs bytes.Buffer
		cmd := exec.Command(name, args...)
		cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &errs
		cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH=", "OMP_NUM_THREADS=1")
		require.NoError(t, cmd.Run(), "%s", &errs)
		return out.Bytes(), errs.String()
	}
	run("go", "build", "-mod=mod", "-o", "user", ".")
	picture, stderr := run(filepath.Join(dir, "user"), filepath.Join(dir, "run"))
	img, err := png.Decode(bytes.NewReader(picture))
	require.NoError(t, err)
	require.Equal(t, 2*(16+2)+2, img.Bounds().Dx())

	// RUNPATH, not RPATH, which would win over the LD_LIBRARY_PATH of another machine.
	t.Log(strings.TrimSpace(stderr))
	if _, err := exec.LookPath("readelf"); err == nil {
		dynamic, _ := run("readelf", "-d", "user")
		require.Contains(t, string(dynamic), "(RUNPATH)")
		require.NotContains(t, string(dynamic), "(RPATH)")
		require.NotContains(t, string(dynamic), "libtorch.so")
		require.NotContains(t, string(dynamic), "libtorch_cuda")
	}
}
