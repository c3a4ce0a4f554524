package captioned

import (
	"fmt"
	"image"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// mixed is a set of 3 square, 5 wide and 1 high image.
func mixed(t testing.TB, o Options) *Set {
	var files []string
	for i, at := range []image.Point{{64, 64}, {64, 64}, {64, 64}, {96, 48}, {96, 48}, {96, 48}, {96, 48}, {96, 48}, {48, 96}} {
		files = append(files, fmt.Sprintf("%d.png", i), gradient(at.X, at.Y, byte(i)), fmt.Sprintf("%d.txt", i), fmt.Sprintf("image %d, red, green, blue", i))
	}
	o.Resolution, o.Buckets = 64, Buckets{Enable: true, Min: 32, Max: 96, Step: 16}
	return opened(t, tree(t, files...), o)
}

// A run that is resumed at any batch continues with the items of an uninterrupted one.
func TestOrderResumes(t *testing.T) {
	s := mixed(t, Options{Settings: Settings{Repeats: 2, RandomCrop: true, Flip: true, Shuffle: true, KeepTokens: 1, Dropout: 0.2}})
	for _, size := range []int{1, 2, 3, 4, 7, 50} {
		r := s.Order(OrderOptions{Seed: 5, Batch: size})
		all := batches(r, 0, 60)
		for k := range all {
			require.Equal(t, all[k:min(k+2, 60)], batches(r, int64(k*size), min(2, 60-k)), "batch %d of %d", k, size)
			require.Len(t, all[k], size)
			for i, it := range all[k] {
				require.EqualValues(t, k*size+i, it.Position)
				require.Equal(t, [2]int{all[k][0].Width, all[k][0].Height}, [2]int{it.Width, it.Height}, "one bucket in a batch")
			}
		}
		assert.Equal(t, all, batches(s.Order(OrderOptions{Seed: 5, Batch: size}), 0, 60))
		assert.NotEqual(t, all, batches(s.Order(OrderOptions{Seed: 6, Batch: size}), 0, 60))
	}
	far := batches(s.Order(OrderOptions{Seed: 5, Batch: 4}), 1<<50, 1)[0]
	assert.EqualValues(t, 1<<50, far[0].Position)
}

// After any number of epochs every image has been used as often, but for less than a batch of each bucket.
func TestOrderEpochs(t *testing.T) {
	s := mixed(t, Options{Settings: Settings{Repeats: 2}})
	for _, size := range []int{1, 2, 4, 5} {
		r := s.Order(OrderOptions{Seed: 1, Batch: size})
		require.EqualValues(t, 18, r.Epoch())
		for epochs := range 12 {
			var n int64
			uses := map[int]int{}
			for b := range r.From(0) {
				if n == r.before(int64(epochs)) {
					break
				}
				n++
				for _, it := range b {
					uses[it.Image]++
				}
			}
			short := map[int]int{}
			for i, x := range s.Images() {
				short[x.bucket] += 2*epochs - uses[i]
				require.LessOrEqual(t, uses[i], 2*epochs)
			}
			for b, n := range short {
				require.Less(t, n, size, "bucket %d", b)
			}
		}
	}
}

// One image fills batches of any size.
func TestOrderOneImage(t *testing.T) {
	s := opened(t, tree(t, "a.png", gradient(8, 8, 0), "a.txt", "x"), Options{Resolution: 8})
	for _, b := range batches(s.Order(OrderOptions{Batch: 16}), 0, 3) {
		assert.Len(t, b, 16)
	}
}

// Draws of neighbouring positions are independent of each other, and have the probabilities asked for.
func TestOrderDraws(t *testing.T) {
	s := mixed(t, Options{Settings: Settings{Dropout: 0.25, Flip: true}})
	n := map[[3]bool]int{}
	last := false
	for _, b := range batches(s.Order(OrderOptions{Seed: 1, Batch: 4}), 0, 4000) {
		for _, it := range b {
			n[[3]bool{it.Caption == "", it.Flip, last}]++
			last = it.Caption == ""
		}
	}
	for draw, count := range n {
		want := 8000.0
		for _, dropped := range []bool{draw[0], draw[2]} {
			if want *= 0.75; dropped {
				want /= 3
			}
		}
		assert.InDelta(t, want, float64(count), 250, "%v", draw)
	}
	assert.Len(t, n, 8)
}
