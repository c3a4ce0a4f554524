package tests

import (
	"image"
	"image/color"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	tinysd "github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// Models that onestep writes, folders and single files in every type, load in diffusers and give the same picture there.
func TestDiffusersReadsOurModels(t *testing.T) {
	python := torchtest.Python(t, "torch", "diffusers", "transformers", "safetensors")
	script, err := filepath.Abs("testdata/diffusers_draw.py")
	require.NoError(t, err)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, tinysd.Write(at("folder")))
	onestep := tool(t)
	run := func(args ...string) {
		t.Helper()
		cmd, _, errs := command(onestep, args...)
		require.NoError(t, cmd.Run(), errs)
	}
	run("convert", "--model", at("folder"), "--out", at("single.safetensors"))
	run("convert", "--model", at("single.safetensors"), "--out", at("back"))
	run("convert", "--model", at("folder"), "--dtype", "f16", "--out", at("half"))
	run("convert", "--model", at("folder"), "--dtype", "f16", "--out", at("half.safetensors"))
	names := []string{"folder", "single.safetensors", "back", "half", "half.safetensors"}
	args := []string{script, at("folder")}
	for _, name := range names {
		run("generate", "--model", at(name), "--sampler", "lcm", "--prompt", "a red cat", "--plain", "--steps", "3", "--seed", "11", "--threads", "1", "--out", at(name+".ours.png"))
		args = append(args, at(name), at(name+".theirs.png"))
	}
	cmd := exec.Command(python, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	for _, name := range names {
		same(t, name, at(name+".ours.png"), at(name+".theirs.png"))
	}
}

// same tells whether two pictures differ by one level at most, in one of a thousand values: both sides compute in float32, in orders
// that differ, and round.
func same(t *testing.T, what, a, b string) {
	t.Helper()
	x, y := readPNG(t, a), readPNG(t, b)
	require.Equal(t, x.Bounds(), y.Bounds(), what)
	off, n := 0, 0
	for i := range x.Bounds().Dx() {
		for j := range x.Bounds().Dy() {
			p, q := color.NRGBAModel.Convert(x.At(i, j)).(color.NRGBA), color.NRGBAModel.Convert(y.At(i, j)).(color.NRGBA)
			for _, d := range []int{int(p.R) - int(q.R), int(p.G) - int(q.G), int(p.B) - int(q.B)} {
				require.LessOrEqual(t, max(d, -d), 1, "%s at %d, %d", what, i, j)
				n++
				if d != 0 {
					off++
				}
			}
		}
	}
	require.LessOrEqual(t, off, n/1000, what)
}

func readPNG(t *testing.T, path string) image.Image {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	m, err := png.Decode(f)
	require.NoError(t, err)
	return m
}
