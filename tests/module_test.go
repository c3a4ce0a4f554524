package tests

import (
	"bytes"
	"fmt"
	"image"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch/safetensors"
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
	for _, name := range []string{"train", "sample", "trainParts", "sampleParts", "withAdapter"} {
		_, rest, ok := strings.Cut(string(text), "// README: "+name+"\n")
		require.True(t, ok, name)
		body, _, ok := strings.Cut(rest, "\n}\n")
		require.True(t, ok, name)
		program += "\n" + body + "\n}\n"
	}
	program += `
func main() {
	ctx := context.Background()
	err := trainParts(ctx, torch.CPU, os.Args[1], 2)
	if err == nil {
		err = sampleParts(ctx, os.Args[1], os.Stdout)
	}
	if len(os.Args) > 2 {
		err = train(ctx, os.Args[2], 2)
	}
	if len(os.Args) > 3 {
		err = sample(ctx, os.Args[2], os.Args[3:]...)
	}
	if len(os.Args) > 100 { // not here: it wants a model that is open
		_, err = withAdapter(ctx, nil, "", "")
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
	module(t, dir, root)

	runIn(t, dir, "go", "run", "-mod=mod", "github.com/onestep-go/onestep/scripts/setup")
	runIn(t, dir, "go", "build", "-mod=mod", "-o", "user", ".")
	picture, stderr := runIn(t, dir, filepath.Join(dir, "user"), filepath.Join(dir, "run"))
	img, err := png.Decode(bytes.NewReader(picture))
	require.NoError(t, err)
	require.Equal(t, 2*(16+2)+2, img.Bounds().Dx())
	t.Log(strings.TrimSpace(stderr))

	// Before the set-up, its one line names the command.
	program2, err := os.ReadFile(filepath.Join(dir, "user"))
	require.NoError(t, err)
	write("before", strings.ReplaceAll(string(program2), `{"layer":"/`, `{"layer":"!`))
	require.NoError(t, os.Chmod(filepath.Join(dir, "before"), 0o755))
	cmd := exec.Command(filepath.Join(dir, "before"), filepath.Join(dir, "other"))
	cmd.Dir, cmd.Env = dir, []string{"HOME=" + dir}
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	require.Regexp(t, `^[^\n]*go run github\.com/onestep-go/onestep/scripts/setup\n$`, string(out))

	// A program must not need libtorch to start.
	if _, err := exec.LookPath("readelf"); err == nil {
		dynamic, _ := runIn(t, dir, "readelf", "-d", "user")
		require.Contains(t, string(dynamic), "libc.so")
		require.NotContains(t, string(dynamic), "torch")
		require.NotContains(t, string(dynamic), "c10")
	}
}

// runIn runs a program as somebody would who has set up libtorch and nothing else.
func runIn(t *testing.T, dir, name string, args ...string) (stdout []byte, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &errs
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH=", "PKG_CONFIG=", "OMP_NUM_THREADS=1", "GOPROXY=off", "GOSUMDB=off", "GOFLAGS=", "GOWORK=off")
	require.NoError(t, cmd.Run(), "%s %v: %s", name, args, &errs)
	return out.Bytes(), errs.String()
}

// The README's first program, with its commands in their order.
func TestReadmeProgram(t *testing.T) {
	root := source(t)
	text, err := os.ReadFile(filepath.Join(root, "README.md"))
	require.NoError(t, err)
	_, section, ok := strings.Cut(string(text), "\n## In Go\n")
	require.True(t, ok)
	program, section, ok := strings.Cut(section[strings.Index(section, "```go\n")+len("```go\n"):], "```\n")
	require.True(t, ok)
	section, _, _ = strings.Cut(section, "```")
	commands := regexp.MustCompile(`(?m)^    (.*)$`).FindAllStringSubmatch(section, -1)
	require.NotEmpty(t, commands)

	beside := t.TempDir()
	dir := filepath.Join(beside, "mine")
	require.NoError(t, os.Symlink(root, filepath.Join(beside, "onestep")))
	require.NoError(t, os.Mkdir(dir, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte(program), 0o644))
	var out []byte
	for _, c := range commands {
		out, _ = runIn(t, dir, "sh", "-c", c[1])
	}
	require.Regexp(t, `prints `+strings.TrimSpace(string(out))+`\b`, section)
	mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	require.NoError(t, err)
	require.Contains(t, string(mod), "require github.com/onestep-go/onestep ")
}

// A program of another module trains by the name of a method, samples in one step, and serves images of a Stable Diffusion model, with an adapter and
// without, to clients that ask at once: each gets, to the bit, what it gets alone.
func TestUserProgram(t *testing.T) {
	root := source(t)
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS(filepath.Join("testdata", "user"))))
	module(t, dir, root)
	runIn(t, dir, "go", "build", "-mod=mod", "-o", "user", ".")
	adapters, err := filepath.Abs(loraFolder)
	require.NoError(t, err)
	model, err := filepath.Abs(filepath.Join(sdFolder, "sd15"))
	require.NoError(t, err)
	runIn(t, dir, filepath.Join(dir, "user"), dir, model, adapters)

	read := func(name string) []byte {
		text, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		return text
	}
	snapshots, err := filepath.Glob(filepath.Join(dir, "run", "model-*.safetensors"))
	require.NoError(t, err)
	require.Len(t, snapshots, 1)
	tools := filepath.Join(t.TempDir(), "run")
	cmd, _, errs := command(tool(t), "train", "--method", "ict", "--data", "emoji", "--resolution", "8", "--channels", "8", "--mult", "1,2",
		"--blocks", "1", "--batch", "4", "--seed", "5", "--steps", "2", "--threads", "1", "--out", tools)
	require.NoError(t, cmd.Run(), errs)
	require.Equal(t, weightsOf(t, filepath.Join(tools, filepath.Base(snapshots[0]))), weightsOf(t, snapshots[0]), "the tool's run has the same bits")
	for _, seed := range []string{"7", "8"} {
		img, err := png.Decode(bytes.NewReader(read("samples/" + seed + ".png")))
		require.NoError(t, err)
		require.Equal(t, image.Rect(0, 0, 8, 8), img.Bounds())
	}
	img, err := png.Decode(bytes.NewReader(read("served/adapted.png")))
	require.NoError(t, err)
	require.Equal(t, image.Rect(0, 0, 64, 64), img.Bounds())
	require.NotEqual(t, read("served/plain.png"), read("served/adapted.png"))
	for _, i := range []string{"0", "2"} {
		require.Equal(t, read("served/plain.png"), read("served/plain-"+i+".png"))
	}
	for _, i := range []string{"1", "3"} {
		require.Equal(t, read("served/adapted.png"), read("served/adapted-"+i+".png"))
	}
}

// weightsOf reads a file's tensors.
func weightsOf(t *testing.T, path string) map[string][]byte {
	t.Helper()
	f, err := safetensors.Open(path)
	require.NoError(t, err)
	defer f.Close()
	all := map[string][]byte{}
	for v := range f.Tensors() {
		all[v.Name] = bytes.Clone(v.Data)
	}
	require.NotEmpty(t, all)
	return all
}

// module makes a directory a module of its own that uses the source tree.
func module(t *testing.T, dir, root string) {
	t.Helper()
	mod := fmt.Sprintf("module example.com/user\n\ngo %s\n\nrequire github.com/onestep-go/onestep v0.0.0\n\nreplace github.com/onestep-go/onestep => %s\n",
		strings.TrimPrefix(goEnv(t, "GOVERSION"), "go"), root)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.mod"), []byte(mod), 0o644))
	sums, err := os.ReadFile(filepath.Join(root, "go.sum"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.sum"), sums, 0o644))
}
