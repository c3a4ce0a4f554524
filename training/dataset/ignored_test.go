package dataset

import (
	"bytes"
	"context"
	"errors"
	"image"
	imagejpeg "image/jpeg"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/onestep-go/onestep/training/internal/imagefile"
)

// Files of image formats that are not read are counted; what systems leave beside them is not; .jfif, .jpe and .apng are read.
func TestFolderLeavesOut(t *testing.T) {
	dir := t.TempDir()
	jpeg, png := new(bytes.Buffer), plain(grey(9), 8, 8)
	require.NoError(t, imagejpeg.Encode(jpeg, image.NewGray(image.Rect(0, 0, 8, 8)), nil))
	for name, data := range map[string][]byte{
		"0.jpg": jpeg.Bytes(), "a.jfif": jpeg.Bytes(), "d.JPE": jpeg.Bytes(), "f.apng": png,
		"b.avif": {1}, "B2.AVIF": {1}, "c.tif": {1}, "e.heic": {1},
		".DS_Store": {1}, "._0.jpg": {1}, "Thumbs.db": {1}, "desktop.ini": {1}, "0.txt": {1},
		"@eaDir/0.jpg/thumb.jpg": {1}, "__MACOSX/._0.jpg": {1}, "__MACOSX/0.jpg": {1}, "__MACOSX/x.heic": {1},
	} {
		write(t, dir, name, data)
	}
	s, err := Open(dir, Options{})
	require.NoError(t, err)
	defer s.Close()
	require.Equal(t, 4, s.Len())
	require.Empty(t, s.Classes(), "folders of a system are no classes")
	require.Equal(t, "2 .avif, 1 .heic, 1 .tif", s.LeftOut())
	require.Equal(t, 1, s.Folders())
	dst := make([]byte, s.size())
	for i := range s.Len() {
		_, err := s.Read(i, dst)
		require.NoError(t, err)
	}

	only := t.TempDir()
	write(t, only, "a.heic", []byte{1})
	_, err = Open(only, Options{})
	require.ErrorContains(t, err, "1 .heic")
}

// A file that cannot be read is an image like a corrupt one: links to nothing, files of others, pipes, links in a circle.
func TestUnreadableImagesAreSkipped(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "0.png", plain(grey(9), 8, 8))
	require.NoError(t, os.Symlink("nowhere", filepath.Join(dir, "1.png")))
	require.NoError(t, unix.Mkfifo(filepath.Join(dir, "2.png"), 0o666))
	require.NoError(t, os.Symlink("3.png", filepath.Join(dir, "3.png")))
	bad := 3
	if os.Getuid() != 0 { // whom no permission stops
		write(t, dir, "4.png", plain(grey(9), 8, 8))
		require.NoError(t, os.Chmod(filepath.Join(dir, "4.png"), 0))
		bad++
	}
	s, err := Open(dir, Options{})
	require.NoError(t, err)
	defer s.Close()
	require.Equal(t, 1+bad, s.Len())

	next := func(skip bool) error {
		l := Loader{Dataset: s, Batch: 8, Workers: 1, SkipCorrupt: skip}
		for b, err := range l.Batches(context.Background()) {
			if err == nil {
				require.Positive(t, b.Skipped)
			}
			return err
		}
		return nil
	}
	require.NoError(t, next(true))
	require.Len(t, s.Corrupt(), bad)
	var corrupt *CorruptError
	require.ErrorAs(t, next(false), &corrupt)
	require.ErrorIs(t, imagefile.Unreadable(&os.PathError{Err: unix.EACCES}), imagefile.ErrNone)
	require.False(t, errors.Is(imagefile.Unreadable(&os.PathError{Err: unix.EIO}), imagefile.ErrNone), "a disk that fails is no corrupt image")
}

// Images are counted by class.
func TestCounts(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a/0.png", "a/1.png", "b/0.png"} {
		write(t, dir, name, plain(grey(9), 8, 8))
	}
	s := opened(t, dir, Options{})
	require.Equal(t, []int{2, 1}, s.Counts())
	require.Equal(t, 2, s.Folders())
}
