package tests

import (
	"image"
	"image/color"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch/vision"
)

// The commands of docs/editing.md, as they are written, make the images that it shows. Of other processors than that which made these, results
// of 40 steps differ in the last bits of numbers, which clamping and rounding hide but for a few levels.
func TestEditingCommands(t *testing.T) {
	if testing.Short() {
		t.Skip("runs eight commands")
	}
	onestep := tool(t)
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "bin"), 0o777))
	require.NoError(t, os.Symlink(onestep, filepath.Join(dir, "bin/onestep")))
	require.NoError(t, os.CopyFS(filepath.Join(dir, "docs/editing"), os.DirFS("../docs/editing")))
	text, err := os.ReadFile("../docs/editing.md")
	require.NoError(t, err)
	shown := map[string]bool{}
	for _, m := range regexp.MustCompile(`\(editing/([a-z]+\.png)\)`).FindAllStringSubmatch(string(text), -1) {
		shown[m[1]] = true
	}
	ran := 0
	for line := range strings.Lines(strings.ReplaceAll(string(text), "\\\n", " ")) {
		line, ok := strings.CutPrefix(strings.TrimRight(line, "\n"), "    bin/onestep ")
		if !ok {
			continue
		}
		ran++
		cmd := exec.Command("sh", "-c", "bin/onestep "+line)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "OMP_NUM_THREADS=1")
		got, err := cmd.CombinedOutput()
		require.NoError(t, err, string(got))
		name := outOf.FindStringSubmatch(line)[1]
		require.True(t, shown[name], "%s is not shown", name)
		delete(shown, name)
		want, err := vision.Read("../docs/editing/" + name)
		require.NoError(t, err)
		made, err := vision.Read(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Less(t, away(t, made, want), 1.0, "%s: of another built-in model? Run the commands in docs/editing.md and copy what they write", name)
	}
	require.Equal(t, 8, ran)
	require.Empty(t, shown, "images without a command")
}

// away is the mean difference of two images' levels.
func away(t *testing.T, a, b image.Image) float64 {
	t.Helper()
	require.Equal(t, b.Bounds().Size(), a.Bounds().Size())
	sum, size := 0, b.Bounds().Size()
	for i := range size.X * size.Y {
		x, y := i%size.X, i/size.X
		p, q := color.RGBAModel.Convert(a.At(x, y)).(color.RGBA), color.RGBAModel.Convert(b.At(x, y)).(color.RGBA)
		for _, d := range []int{int(p.R) - int(q.R), int(p.G) - int(q.G), int(p.B) - int(q.B)} {
			sum += max(d, -d)
		}
	}
	return float64(sum) / float64(3*size.X*size.Y)
}
