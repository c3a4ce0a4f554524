package latents

import (
	"fmt"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
	"github.com/onestep-go/onestep/training"
	"github.com/onestep-go/onestep/training/captioned"
)

func TestMain(m *testing.M) { torchtest.Main(m) }

// paint writes an image of w×h pixels that is unlike those of other numbers.
func paint(t testing.TB, path string, w, h, number int) {
	t.Helper()
	img := image.NewNRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			img.SetNRGBA(x, y, color.NRGBA{byte(x * (number + 3)), byte(y*5 + 11*number), byte(x + y + 40*number), 255})
		}
	}
	f, err := os.Create(path)
	require.NoError(t, err)
	require.NoError(t, png.Encode(f, img))
	require.NoError(t, f.Close())
}

// pictures is a directory of n images of 40×32 pixels and more, with captions.
func pictures(t testing.TB, n int) string {
	t.Helper()
	dir := t.TempDir()
	for i := range n {
		path := filepath.Join(dir, fmt.Sprintf("%02d", i))
		paint(t, path+".png", 40+i, 32, i)
		require.NoError(t, os.WriteFile(path+".txt", fmt.Appendf(nil, "picture number %d", i), 0o644))
	}
	return dir
}

// open opens a set of 32×32 pixels.
func open(t testing.TB, dir string, o captioned.Options) *captioned.Set {
	t.Helper()
	if o.Resolution == 0 {
		o.Resolution = 32
	}
	set, err := captioned.Open(t.Context(), dir, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, set.Close()) })
	return set
}

// model opens a tiny model of a kind.
func model(t testing.TB, kind string, o sd.Options) *sd.Model {
	t.Helper()
	dir := filepath.Join(t.TempDir(), kind)
	require.NoError(t, tiny.Write(dir, kind))
	m, err := sd.Open(dir, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m
}

// source opens a source.
func source(t testing.TB, c Config) *Source {
	t.Helper()
	s, err := Open(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// numbers are a batch's values.
type numbers struct {
	x, text, pooled, sizes, weight []float32
	shape                          []int
	captions                       []string
}

// values returns n batches from a position on.
func values(t testing.TB, src training.Source, start int64, n int) (all []numbers) {
	t.Helper()
	list := func(s *torch.Scope, v *torch.Tensor) []float32 {
		if v == nil {
			return nil
		}
		return torch.ToSlice[float32](v.To(s, torch.Float32))
	}
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		for batch, err := range src.Batches(t.Context(), start) {
			if err != nil {
				return err
			}
			b := batch(s)
			all = append(all, numbers{list(s, b.X), list(s, b.Cond.Text), list(s, b.Cond.Pooled), list(s, b.Cond.Sizes), list(s, b.Weight), b.X.Shape(), b.Captions})
			if len(all) == n {
				break
			}
		}
		return nil
	})
	require.NoError(t, err)
	require.Len(t, all, n)
	return all
}

// entries are the files of a cache.
func entries(t testing.TB, dir string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "??", "*.safetensors"))
	require.NoError(t, err)
	return all
}
