package latents

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
	"github.com/onestep-go/onestep/training/captioned"
)

// Batches are what diffusers' training scripts encode: see scripts/golden/training/latents.py. 1e-5 of the largest value: float32 here,
// float64 there.
func TestAsDiffusers(t *testing.T) {
	dir := t.TempDir()
	captions := []string{"a photo of a cat", strings.Repeat("Two dogs, in the snow! ", 12)}
	for i, c := range captions {
		path := filepath.Join(dir, fmt.Sprint(i))
		paint(t, path+".png", 32, 32, i)
		require.NoError(t, os.WriteFile(path+".txt", []byte(c), 0o644))
	}
	set := open(t, dir, captioned.Options{})
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	golden, _ := torchtest.Golden(t, s, "testdata/encode.safetensors")
	for _, kind := range []string{"sd15", "sdxl"} {
		m, err := sd.Open(filepath.Join("../../tests/testdata/sd", kind), sd.Options{})
		require.NoError(t, err)
		defer func() { require.NoError(t, m.Close()) }()
		src := source(t, Config{Set: set, Model: m, Batch: 2, Seed: 11, Cache: t.TempDir()})
		require.NoError(t, s.NoGrad(func(s *torch.Scope) error {
			var order []int64 // which image is at which position
			for items := range set.Order(captioned.OrderOptions{Seed: 11, Batch: 2}).From(0) {
				for _, it := range items {
					order = append(order, int64(it.Image))
				}
				break
			}
			require.Equal(t, []int64{0, 1}, order, "the seed is one with which images are in their order")
			for batch, err := range src.Batches(t.Context(), 0) {
				require.NoError(t, err)
				b := batch(s)
				near := func(name string, got *torch.Tensor) {
					want := golden[kind+"."+name]
					require.Equal(t, want.Shape(), got.Shape(), name)
					require.LessOrEqual(t, got.Sub(s, want).Abs(s).Max(s).Item(), 1e-5*want.Abs(s).Max(s).Item(), name)
				}
				near("latents", b.X)
				near("text", b.Cond.Text)
				if kind == "sdxl" {
					near("pooled", b.Cond.Pooled)
					near("sizes", b.Cond.Sizes)
				}
				break
			}
			return nil
		}))
	}
}
