package dataset

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/onestep-go/onestep/internal/plainfile"
)

// Names of shards' members as other programs write them, and shards by a pattern in braces.
func TestShardNames(t *testing.T) {
	dir := t.TempDir()
	img := func(v int) []byte { return plain(grey(v), 4, 4) }
	for _, c := range []struct {
		name string
		tar  []byte
		want []int
	}{
		{"compound", tarOf(t, "s0.input.png", img(1), "s0.outputs.txt", "a", "s1.input.png", img(2)), []int{1, 2}},
		{"dots", tarOf(t, "img_0.5_0.png", img(1), "img_0.5_1.png", img(2)), []int{1, 2}},
		{"mask first", tarOf(t, "0.seg.png", img(9), "0.png", img(1)), []int{1}},
		{"mask last", tarOf(t, "0.png", img(1), "0.seg.png", img(9)), []int{1}},
		{"absolute", tarOf(t, "/data/0.png", img(1)), []int{1}},
		{"macos", tarOf(t, "0.png", img(1), "__MACOSX/0.png", img(9), "._0.png", img(9)), []int{1}},
	} {
		s := opened(t, write(t, dir, c.name+".tar", c.tar), Options{})
		first, _ := values(t, s)
		require.Equal(t, c.want, first, c.name)
	}
	two := write(t, dir, "two.tar", tarOf(t, "0.in.png", img(1), "0.out.png", img(2)))
	_, err := Open(two, Options{})
	require.ErrorContains(t, err, "0.out.png")

	write(t, dir, "s-08.tar", tarOf(t, "0.png", img(1)))
	write(t, dir, "s-09.tar", tarOf(t, "1.png", img(2)))
	write(t, dir, "s-10.tar", tarOf(t, "2.png", img(3)))
	require.Equal(t, 3, opened(t, filepath.Join(dir, "s-{08..10}.tar"), Options{}).Len())
	require.Equal(t, 2, opened(t, filepath.Join(dir, "s-{08,10}.tar"), Options{}).Len())
	for _, bad := range []string{"s-{08..11}.tar", "s-{9..8}.tar", "s-{0..99999999}.tar", "s-{a..b}.tar", "{0..999}{0..999}.tar"} {
		_, err := Open(filepath.Join(dir, bad), Options{})
		require.Error(t, err, bad)
	}
}

// A pipe in a file's place is refused, and nobody waits for its other end.
func TestLabelsThatAreAPipe(t *testing.T) {
	dir := t.TempDir()
	images := write(t, dir, "train-images-idx3-ubyte", idxOf([]byte{1, 2, 3, 4}, 1, 2, 2))
	require.NoError(t, unix.Mkfifo(filepath.Join(dir, "train-labels-idx1-ubyte"), 0o666))
	_, err := Open(images, Options{})
	require.ErrorIs(t, err, plainfile.ErrNotRegular)
}
