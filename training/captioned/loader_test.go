package captioned

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch/vision"
	"github.com/onestep-go/onestep/training/dataset"
)

// loaded are copies of n batches from a position on.
func loaded(t testing.TB, l Loader, start int64, n int) (list []Batch) {
	l.Start = start
	for b, err := range l.Batches(context.Background()) {
		require.NoError(t, err)
		b.Items, b.Pixels = slices.Clone(b.Items), slices.Clone(b.Pixels)
		if list = append(list, b); len(list) == n {
			break
		}
	}
	return list
}

// A loader yields an order's items with the pixels that Read returns, the same with any number of workers and from any position.
func TestLoader(t *testing.T) {
	s := mixed(t, Options{Settings: Settings{RandomCrop: true, Flip: true, Shuffle: true}})
	r := s.Order(OrderOptions{Seed: 3, Batch: 3})
	want := loaded(t, Loader{Set: s, Order: r, Workers: 1}, 0, 12)
	items := batches(r, 0, 12)
	for k, b := range want {
		require.Equal(t, items[k], b.Items)
		size := 3 * b.Width * b.Height
		for i, it := range b.Items {
			img, err := s.Read(it)
			require.NoError(t, err)
			pixels := make([]byte, size)
			vision.Planes(pixels, img)
			require.Equal(t, pixels, b.Pixels[i*size:(i+1)*size])
		}
	}
	for _, workers := range []int{0, 3, 16} {
		for _, k := range []int{0, 1, 7} {
			require.Equal(t, want[k:], loaded(t, Loader{Set: s, Order: r, Workers: workers}, int64(3*k), 12-k))
		}
	}
	for _, l := range []Loader{{}, {Set: s}, {Set: s, Order: mixed(t, Options{}).Order(OrderOptions{})}} {
		for _, err := range l.Batches(context.Background()) {
			require.Error(t, err)
		}
	}
}

// No goroutine is left when a loop ends, in whatever way. synctest fails otherwise.
func TestLoaderEnds(t *testing.T) {
	s := mixed(t, Options{})
	synctest.Test(t, func(t *testing.T) {
		l := Loader{Set: s, Order: s.Order(OrderOptions{Batch: 2}), Workers: 4}
		for range l.Batches(t.Context()) {
			break
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		n := 0
		for _, err := range l.Batches(ctx) {
			if err != nil {
				require.ErrorIs(t, err, context.Canceled)
				n++
				continue
			}
			cancel()
		}
		require.Equal(t, 1, n)
	})
}

// A corrupt image is an error with its key, or is replaced by another of its bucket at the same position and counted.
func TestLoaderCorrupt(t *testing.T) {
	half := gradient(64, 64, 1)
	half = half[:len(half)/2]
	s := opened(t, tree(t, "bad.png", half, "bad.txt", "bad", "a.png", gradient(64, 64, 2), "a.txt", "a", "b.png", gradient(64, 64, 3), "b.txt", "b"), Options{Resolution: 64})
	r := s.Order(OrderOptions{Batch: 3})
	var corrupt *dataset.CorruptError
	for _, err := range (&Loader{Set: s, Order: r}).Batches(context.Background()) {
		require.ErrorAs(t, err, &corrupt)
		require.ErrorContains(t, err, "bad.png")
	}
	var told atomic.Int64
	l := Loader{Set: s, Order: r, SkipCorrupt: true, Corrupt: func(err error) { told.Add(1) }, Workers: 2}
	want := loaded(t, l, 0, 6)
	for k, b := range want {
		assert.Equal(t, 1, b.Skipped)
		for i, it := range b.Items {
			assert.NotEqual(t, "bad", it.Caption)
			assert.EqualValues(t, 3*k+i, it.Position)
		}
	}
	assert.GreaterOrEqual(t, told.Load(), int64(6))
	assert.Equal(t, want[2:], loaded(t, l, 6, 4))

	s = opened(t, tree(t, "bad.png", half, "bad.txt", "bad"), Options{Resolution: 64})
	l = Loader{Set: s, Order: s.Order(OrderOptions{}), SkipCorrupt: true}
	for _, err := range l.Batches(context.Background()) {
		require.True(t, errors.As(err, &corrupt))
	}
}
