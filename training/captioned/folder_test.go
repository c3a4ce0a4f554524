package captioned

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/training/dataset"
)

func TestDirectory(t *testing.T) {
	dir := tree(t, "a.png", gradient(40, 30, 1), "a.txt", "\ufeffa cat\r\non a mat\n", "sub/b.png", gradient(30, 40, 2), "sub/b.caption", "a dog",
		"c.png", gradient(32, 32, 3), "c.txt", "first", "c.caption", "second", "d.heic", "x", "alone.txt", "nobody's", ".hidden.png", "x")
	s := opened(t, dir, Options{Resolution: 32})
	var keys, captions []string
	for _, x := range s.Images() {
		keys, captions = append(keys, x.Key), append(captions, x.Captions...)
		assert.True(t, x.Captioned)
	}
	assert.Equal(t, []string{"a.png", "c.png", "sub/b.png"}, keys)
	assert.Equal(t, []string{"a cat on a mat", "first", "a dog"}, captions)
	got := s.Summary()
	assert.Equal(t, 3, got.Images)
	assert.Equal(t, []BucketCount{{32, 32, 3, 3}}, got.Buckets)
	assert.Equal(t, map[string]int{".heic": 1}, got.LeftOut)
	assert.Len(t, s.Notices(), 3, "two caption files, one without an image, one image enlarged: %q", s.Notices())

	// Where it lies does not count, and what it holds does.
	other := tree(t)
	require.NoError(t, os.CopyFS(other, os.DirFS(dir)))
	assert.Equal(t, s.Identity(), opened(t, other, Options{Resolution: 32}).Identity())
	write(t, other, "a.txt", "a tiger")
	assert.NotEqual(t, s.Identity(), opened(t, other, Options{Resolution: 32}).Identity())
}

func TestRead(t *testing.T) {
	s := opened(t, tree(t, "a.png", gradient(40, 32, 7), "a.txt", "x"), Options{Resolution: 32, Settings: Settings{Flip: true, RandomCrop: true}})
	flips, lefts := map[bool]int{}, map[int]int{}
	for _, b := range batches(s.Order(OrderOptions{}), 0, 200) {
		it := b[0]
		img, err := s.Read(it)
		require.NoError(t, err)
		require.Equal(t, 32, img.Rect.Dx())
		require.Equal(t, 32, img.Rect.Dy())
		left := img.NRGBAAt(0, 3)
		if it.Flip {
			left = img.NRGBAAt(31, 3)
		}
		require.Equal(t, [3]byte{byte(it.Crop.Min.X), 3, 7}, [3]byte{left.R, left.G, left.B})
		flips[it.Flip]++
		lefts[it.Crop.Min.X]++
	}
	assert.InDelta(t, 100, flips[true], 30)
	assert.Len(t, lefts, 9)

	plain := opened(t, tree(t, "a.png", gradient(40, 32, 7), "a.txt", "x"), Options{Resolution: 32})
	for _, b := range batches(plain.Order(OrderOptions{}), 0, 20) {
		assert.Equal(t, 4, b[0].Crop.Min.X)
		assert.False(t, b[0].Flip)
		assert.Equal(t, "x", b[0].Caption)
		assert.Equal(t, 1.0, b[0].Weight)
	}
	_, err := plain.Read(Item{Image: 0})
	assert.Error(t, err)
	_, err = plain.Read(Item{Image: 1})
	assert.Error(t, err)
}

func TestUncaptioned(t *testing.T) {
	dir := tree(t, "a.png", gradient(8, 8, 0), "b.png", gradient(8, 8, 0), "b.txt", "x")
	err := refused(t, dir, Options{Resolution: 8})
	require.ErrorIs(t, err, ErrUncaptioned)
	assert.Contains(t, err.Error(), "a.png")
	s := opened(t, dir, Options{Resolution: 8, Uncaptioned: true})
	assert.Equal(t, 1, s.Summary().Uncaptioned)
	assert.Equal(t, []string{""}, s.Images()[0].Captions)
	s = opened(t, dir, Options{Resolution: 8, Settings: Settings{ClassTokens: "sks dog"}})
	assert.Equal(t, []string{"sks dog"}, s.Images()[0].Captions)
	assert.Equal(t, 1, s.Summary().ClassTokens)
}

func TestHostileDirectories(t *testing.T) {
	good := gradient(8, 8, 0)
	loop := t.TempDir()
	require.NoError(t, os.Symlink(".", filepath.Join(loop, "again")))
	for name, one := range map[string]struct{ dir, want string }{
		"nothing":       {filepath.Join(t.TempDir(), "nowhere"), "nowhere"},
		"empty":         {t.TempDir(), "no images"},
		"circle":        {loop, "cycle"},
		"formats":       {tree(t, "a.heic", "x"), ".heic"},
		"parquet":       {tree(t, "a.parquet", "x"), ".parquet"},
		"an image":      {write(t, t.TempDir(), "a.png", good), "a.png"},
		"damaged":       {tree(t, "a.png", good[:20], "a.txt", "x"), "a.png"},
		"empty image":   {tree(t, "a.png", "", "a.txt", "x"), "a.png"},
		"not UTF-8":     {tree(t, "a.png", good, "a.txt", "\xff\xfe"), "a.txt"},
		"NUL":           {tree(t, "a.png", good, "a.txt", "x\x00"), "a.txt"},
		"long caption":  {tree(t, "a.png", good, "a.txt", strings.Repeat("x", 1<<22)), "a.txt"},
		"huge":          {tree(t, "a.png", hugePNG(), "a.txt", "x"), "a.png"},
		"aspect ratio":  {tree(t, "a.png", gradient(10000, 1, 0), "a.txt", "x"), "10000×1"},
		"caption a dir": {tree(t, "a.png", good, "a.txt/x", "x"), "a.txt"},
	} {
		if name == "caption a dir" {
			assert.ErrorIs(t, refused(t, one.dir, Options{Resolution: 8}), ErrUncaptioned, name)
			continue
		}
		assert.Contains(t, refused(t, one.dir, Options{Resolution: 8}).Error(), one.want, name)
	}
	for _, o := range []Options{
		{Resolution: -1}, {Resolution: 1 << 20}, {PriorWeight: -1}, {PriorWeight: nan}, {Settings: Settings{Dropout: nan}}, {Settings: Settings{Dropout: 2}},
		{Settings: Settings{Repeats: -1}}, {Settings: Settings{KeepTokens: -1}}, {Settings: Settings{ClassTokens: "\xff"}}, {Buckets: Buckets{Step: 8}},
		{Buckets: Buckets{Enable: true, Step: -1}}, {Buckets: Buckets{Enable: true, Min: 1024, Max: 2048}},
	} {
		refused(t, tree(t, "a.png", good, "a.txt", "x"), o)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := Open(ctx, tree(t, "a.png", good, "a.txt", "x"), Options{})
	require.ErrorIs(t, err, context.Canceled)
}

// Corrupt images are left out and counted if that is asked for, when a set is opened, and are errors of their own type when it is read.
func TestCorrupt(t *testing.T) {
	half := gradient(64, 64, 1)
	half = half[:len(half)/2] // with a good header
	dir := tree(t, "a.png", "x", "a.txt", "x", "b.png", half, "b.txt", "x", "c.png", gradient(8, 8, 1), "c.txt", "x")
	var corrupt *dataset.CorruptError
	require.ErrorAs(t, refused(t, dir, Options{Resolution: 8}), &corrupt)
	assert.Equal(t, filepath.Join(dir, "a.png"), corrupt.Name)

	s := opened(t, dir, Options{Resolution: 8, SkipCorrupt: true})
	require.Equal(t, 2, s.Len())
	require.Len(t, s.Summary().Corrupt, 1)
	r := s.Order(OrderOptions{})
	for b := range r.From(0) {
		it := b[0]
		if it.Image != 0 {
			continue
		}
		_, err := s.Read(it)
		require.ErrorAs(t, err, &corrupt)
		require.Equal(t, filepath.Join(dir, "b.png"), corrupt.Name)
		for it.Image == 0 {
			next := r.Next(it)
			require.Equal(t, it.Position, next.Position)
			it = next
		}
		_, err = s.Read(it)
		require.NoError(t, err)
		break
	}
	assert.Len(t, s.Corrupt(), 1)
}
