package dataset

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	imagejpeg "image/jpeg"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func examined(t *testing.T, spec string, o Options, how SurveyOptions) Survey {
	v, err := Examine(t.Context(), spec, o, how)
	require.NoError(t, err)
	return v
}

// Of a folder: sizes as the images are meant to be seen, formats by content, classes, captions, what is corrupt and what is not read.
func TestExamineFolder(t *testing.T) {
	dir := t.TempDir()
	var jpeg bytes.Buffer
	require.NoError(t, imagejpeg.Encode(&jpeg, image.NewGray(image.Rect(0, 0, 12, 6)), nil))
	rotated := append([]byte("\xff\xd8\xff\xe1\x00\x22Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00\x00"), jpeg.Bytes()[2:]...)
	whole := plain(grey(9), 8, 8)
	for name, data := range map[string][]byte{
		"cat/a.png": whole, "cat/b.png": whole, "cat/c.png": plain(grey(1), 16, 4), "cat/a.txt": []byte("a cat\n"), "cat/b.txt": []byte(" \n"),
		"dog/named.png": jpeg.Bytes(), "dog/rotated.jpg": rotated, "dog/short.png": whole[:len(whole)-20], "dog/none.jpg": []byte("<html>"), "dog/short.txt": []byte("a dog"),
		"dog/x.heic": {1}, "dog/notes.md": {1}, "dog/README": {1},
	} {
		write(t, dir, name, data)
	}
	require.NoError(t, os.Symlink("nowhere", filepath.Join(dir, "dog", "dangling.png")))
	v := examined(t, dir, Options{}, SurveyOptions{Decode: 100})
	require.Equal(t, "image files", v.Format)
	require.Equal(t, 8, v.Images)
	require.Equal(t, 2, v.Folders)
	require.Equal(t, []ClassCount{{"cat", 3}, {"dog", 5}}, v.Classes)
	require.Equal(t, 2, v.Captions, "an empty one is none")
	require.Equal(t, map[string]int{"png": 4, "jpeg": 2, "html": 1}, v.Encoded)
	require.Equal(t, []SizeCount{{8, 8, 2}, {6, 12, 1}, {12, 6, 1}, {16, 4, 1}}, v.Sizes)
	least, most := v.Range()
	require.Equal(t, SizeCount{6, 4, 0}, least)
	require.Equal(t, SizeCount{16, 12, 0}, most)
	require.True(t, v.Decoded)
	require.Equal(t, 3, v.Corrupt)
	require.Len(t, v.Damage, 3)
	for i, name := range []string{"dangling.png", "none.jpg", "short.png"} {
		var damaged *CorruptError
		require.ErrorAs(t, v.Damage[i], &damaged)
		require.Equal(t, filepath.Join(dir, "dog", name), damaged.Name)
	}
	require.Equal(t, map[string]int{".heic": 1}, v.LeftOut)
	require.Equal(t, map[string]int{".md": 1, "": 1}, v.Others)

	// A larger set is not decoded: a file that ends too early has a sound header.
	v = examined(t, dir, Options{}, SurveyOptions{Decode: 7})
	require.False(t, v.Decoded)
	require.Equal(t, 2, v.Corrupt)
	require.Equal(t, SizeCount{8, 8, 3}, v.Sizes[0])

	caption, err := opened(t, filepath.Join(dir, "cat"), Options{Resolution: 4}).Caption(0)
	require.NoError(t, err)
	require.Equal(t, "a cat", caption)
}

// What a survey keeps of corrupt images is limited, and is the first of them.
func TestExamineDamage(t *testing.T) {
	dir := t.TempDir()
	for i := range 3 * maxDamage {
		write(t, dir, fmt.Sprintf("%04d.png", i), []byte("no image"))
	}
	v := examined(t, dir, Options{}, SurveyOptions{})
	require.Equal(t, 3*maxDamage, v.Corrupt)
	require.Len(t, v.Damage, maxDamage)
	require.ErrorContains(t, v.Damage[maxDamage-1], fmt.Sprintf("%04d.png", maxDamage-1))
	require.Empty(t, v.Sizes)
	least, most := v.Range()
	require.Zero(t, least)
	require.Zero(t, most)
}

func TestExamineOthers(t *testing.T) {
	dir := t.TempDir()
	small, large := plain(grey(1), 4, 4), plain(grey(2), 6, 6)
	shard := write(t, dir, "0.tar", tarOf(t, "a.png", small, "a.cls", "1", "a.txt", "one", "b.png", large, "b.json", `{"label": 0, "caption": "two"}`, "c.cls", "1"))
	v := examined(t, shard, Options{}, SurveyOptions{Decode: 10})
	require.Equal(t, "tar shards", v.Format)
	require.Equal(t, 3, v.Images)
	require.Equal(t, 2, v.Captions)
	require.Equal(t, []ClassCount{{"0", 1}, {"1", 2}}, v.Classes)
	require.Equal(t, []SizeCount{{4, 4, 1}, {6, 6, 1}}, v.Sizes)
	require.Equal(t, 1, v.Corrupt, "a sample without an image")

	idx := binary.BigEndian.AppendUint32(nil, 0x803)
	for _, n := range []uint32{3, 5, 7} {
		idx = binary.BigEndian.AppendUint32(idx, n)
	}
	path := write(t, dir, "train-images-idx3-ubyte", append(idx, make([]byte, 3*5*7)...))
	write(t, dir, "train-labels-idx1-ubyte", []byte{0, 0, 8, 1, 0, 0, 0, 3, 2, 0, 2})
	v = examined(t, path, Options{}, SurveyOptions{})
	require.Equal(t, "IDX", v.Format)
	require.Equal(t, 1, v.Channels)
	require.Equal(t, []SizeCount{{7, 5, 3}}, v.Sizes)
	require.Equal(t, []ClassCount{{"0", 1}, {"1", 0}, {"2", 2}}, v.Classes)

	v = examined(t, write(t, dir, "data_batch_1.bin", cifarOf(1, 2)), Options{}, SurveyOptions{})
	require.Equal(t, "CIFAR-10, binary version", v.Format)
	require.Equal(t, []SizeCount{{32, 32, 2}}, v.Sizes)
	require.Len(t, v.Classes, 10)

	v = examined(t, "emoji", Options{}, SurveyOptions{})
	require.Equal(t, "emoji", v.Format)
	require.Equal(t, v.Images, v.Captions)

	_, err := Examine(t.Context(), t.TempDir(), Options{}, SurveyOptions{})
	require.ErrorContains(t, err, "no images")
}

// A survey can be interrupted, and counts up to the end otherwise.
func TestExamineProgress(t *testing.T) {
	dir := t.TempDir()
	for i := range 20 {
		write(t, dir, fmt.Sprintf("%d.png", i), plain(grey(1), 4, 4))
	}
	last := 0
	examined(t, dir, Options{}, SurveyOptions{Progress: func(done, all int) {
		require.Equal(t, last+1, done)
		require.Equal(t, 20, all)
		last = done
	}})
	require.Equal(t, 20, last)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := Examine(ctx, dir, Options{}, SurveyOptions{Progress: func(int, int) { cancel() }})
	require.True(t, errors.Is(err, context.Canceled), "%v", err)
}
