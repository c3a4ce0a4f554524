package captioned

import (
	"encoding/json"
	"errors"
	"image"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/training/dataset"
)

// The table, the assignment and the scaled sizes are those of the rule that kohya's scripts publish, computed in Python: exactly, since both
// compute in IEEE doubles.
func TestBucketsGolden(t *testing.T) {
	data, err := os.ReadFile("testdata/buckets.json")
	require.NoError(t, err)
	var golden struct {
		Cases []struct {
			Resolution           [2]int
			Min, Max, Step       int
			Table, Images        [][2]int
			Enlarging, Shrinking [][4]int
		}
	}
	require.NoError(t, json.Unmarshal(data, &golden))
	require.Len(t, golden.Cases, 5)
	for _, c := range golden.Cases {
		for _, noUpscale := range []bool{false, true} {
			x := sizes{c.Resolution[0], c.Resolution[1], Buckets{Enable: true, Min: c.Min, Max: c.Max, Step: c.Step, NoUpscale: noUpscale}}
			require.NoError(t, x.Buckets.defaults())
			changed, err := x.check()
			require.NoError(t, err)
			require.False(t, changed)
			table, want := x.table(), c.Shrinking
			if !noUpscale {
				var got [][2]int
				for _, p := range table {
					got = append(got, [2]int{p.X, p.Y})
				}
				assert.Equal(t, c.Table, got)
				want = c.Enlarging
			}
			require.GreaterOrEqual(t, len(want), 30)
			for i, at := range c.Images {
				bucket, scaled, err := x.choose(table, at[0], at[1])
				require.NoError(t, err)
				assert.Equal(t, want[i], [4]int{bucket.X, bucket.Y, scaled.X, scaled.Y}, "%v of %v, no upscale %v", at, c.Resolution, noUpscale)
			}
		}
	}
}

func TestBucketLimits(t *testing.T) {
	// Limits are brought to multiples of the step, and sizes that no bucket has are refused.
	x := sizes{512, 512, Buckets{Enable: true, Min: 200, Max: 1000, Step: 64}}
	changed, err := x.check()
	require.NoError(t, err)
	assert.True(t, changed)
	assert.Equal(t, [2]int{192, 1024}, [2]int{x.Min, x.Max})
	for _, b := range []Buckets{{Enable: true, Min: 640, Max: 1024, Step: 64}, {Enable: true, Min: 64, Max: 448, Step: 64}, {Enable: true, Min: 64, Max: 1024, Step: 576}} {
		x := sizes{512, 512, b}
		_, err := x.check()
		assert.Error(t, err, b)
	}
	// An image below one step has no bucket unless it is enlarged.
	x = sizes{512, 512, Buckets{Enable: true, Min: 256, Max: 1024, Step: 64, NoUpscale: true}}
	_, _, err = x.choose(nil, 300, 63)
	assert.ErrorContains(t, err, "300×63")
	_, _, err = x.choose(nil, 1<<20, 1)
	assert.Error(t, err)
	files := tree(t, "a.png", gradient(300, 63, 0), "a.txt", "a", "b.png", gradient(64, 64, 0), "b.txt", "b")
	o := Options{Resolution: 128, Buckets: Buckets{Enable: true, NoUpscale: true}}
	err = refused(t, files, o)
	assert.ErrorContains(t, err, "a.png")
	var corrupt *dataset.CorruptError
	assert.False(t, errors.As(err, &corrupt), "it is not damaged")
	o.SkipCorrupt = true
	s := opened(t, files, o)
	assert.Equal(t, []BucketCount{{64, 64, 1, 1}}, s.Summary().Buckets)
	assert.Len(t, s.Notices(), 1)
	require.NoError(t, os.Remove(filepath.Join(files, "b.png")))
	assert.ErrorContains(t, refused(t, files, o), "300×63")
	x.NoUpscale = false
	at, _, err := x.choose(x.table(), 300, 63)
	require.NoError(t, err)
	assert.Equal(t, image.Pt(1024, 256), at)
}
