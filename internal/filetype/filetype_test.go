package filetype

import (
	"bytes"
	"encoding/binary"
	"image"
	"image/gif"
	"image/jpeg"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/image/bmp"
)

func encoded(t *testing.T, encode func(b *bytes.Buffer) error) string {
	var b bytes.Buffer
	require.NoError(t, encode(&b))
	return b.String()
}

func TestOf(t *testing.T) {
	img := image.NewGray(image.Rect(0, 0, 4, 4))
	header := `{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`
	long := strings.Repeat("ä", Head) // its 512 bytes are whole characters
	for _, c := range []struct{ name, content, want string }{
		{"png", encoded(t, func(b *bytes.Buffer) error { return png.Encode(b, img) }), "png"},
		{"jpeg", encoded(t, func(b *bytes.Buffer) error { return jpeg.Encode(b, img, nil) }), "jpeg"},
		{"gif", encoded(t, func(b *bytes.Buffer) error { return gif.Encode(b, img, nil) }), "gif"},
		{"bmp", encoded(t, func(b *bytes.Buffer) error { return bmp.Encode(b, img) }), "bmp"},
		{"webp", "RIFF\x24\x00\x00\x00WEBPVP8 ", "webp"},
		{"wav", "RIFF\x24\x00\x00\x00WAVEfmt ", "wav"},
		{"avif", "\x00\x00\x00\x20ftypavif\x00\x00\x00\x00", "avif"},
		{"heic", "\x00\x00\x00\x20ftypheic\x00\x00\x00\x00", "heic"},
		{"mp4", "\x00\x00\x00\x20ftypisom\x00\x00\x02\x00", "mp4"},
		{"tar", strings.Repeat("\x00", 257) + "ustar\x0000", "tar"},
		{"gguf", "GGUF\x03\x00\x00\x00", "gguf"},
		{"pickle", "\x80\x02}q\x00.", "pickle"},
		{"safetensors", string(binary.LittleEndian.AppendUint64(nil, uint64(len(header)))) + header + "\x00\x00\x00\x00", "safetensors"},
		{"safetensors whose length begins like a pickle", "\x80\x04\x00\x00\x00\x00\x00\x00{\"a\":{}}", "safetensors"},
		{"empty", "", "empty"},
		{"html", "\n <!DOCTYPE HTML>\n<html>", "html"},
		{"html without a doctype", "<html lang=en>", "html"},
		{"json", "\xef\xbb\xbf{\"a\": 1}", "json"},
		{"xml", "<?xml version=\"1.0\"?>\n<Error>", "xml"},
		{"python", "#!/usr/bin/env python3\nprint(1)\n", "python"},
		{"python without a shebang", "import torch\n", "python"},
		{"shell", "#!/bin/sh\n", "script"},
		{"log", "time=2026-01-01 level=INFO msg=training\n", "text"},
		{"colours", "\x1b[31mred\x1b[0m\n", "text"},
		{"cut", "x" + long, "text"},
		{"latin 1", "Gr\xfc\xdfe", ""},
		{"utf-16", "\xff\xfeh\x00i\x00", "text"},
		{"events", "\x18\x00\x00\x00\x00\x00\x00\x00\xa3\x7fK\"\tabcdefghi\x1a\rbrain.Event:2", "events"},
		{"onnx", "\x08\x08\x12\x07pytorch\x1a\x05", "onnx"},
		{"noise", "\x01\x02\x03\x04\x05\x06\x07\x08", ""},
		{"BM alone", "BM", "text"},
		{"BM in a text", "BMW makes cars", "text"},
	} {
		got := Of([]byte(c.content))
		require.Equal(t, c.want, got.ID, c.name)
		require.NotEmpty(t, got.Name, c.name)
		require.Equal(t, c.want != "", got.Known(), c.name)
	}
}

// What torch.save writes is a zip archive, too, and is told from others.
func TestTorchSave(t *testing.T) {
	got := Of([]byte("PK\x03\x04\x00\x00\x08\x08\x00\x00archive/data.pkl"))
	require.Equal(t, "zip", got.ID)
	require.Contains(t, got.String(), ".ckpt")
	require.NotContains(t, Of([]byte("PK\x03\x04\x00\x00\x08\x08\x00\x00images/1.png")).String(), ".ckpt")
}

func TestPointer(t *testing.T) {
	const pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4265146304\n"
	require.Contains(t, Of([]byte(pointer)).String(), "4.27 GB")
	require.Equal(t, "lfs", Of([]byte(pointer[:50])).ID)
	require.NotContains(t, Of([]byte("version https://git-lfs\nsize much\n")).String(), "(")
}

// A pipe is not opened, which would wait for its other end.
func TestRead(t *testing.T) {
	dir := t.TempDir()
	pipe, file := filepath.Join(dir, "pipe"), filepath.Join(dir, "file")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	require.NoError(t, os.WriteFile(file, []byte("GGUF"), 0o600))
	_, err := Read(pipe)
	require.ErrorContains(t, err, "named pipe")
	_, err = Read(filepath.Join(dir, "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
	got, err := Read(file)
	require.NoError(t, err)
	require.Equal(t, "gguf", got.ID)
}

func TestBytes(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 bytes", 1: "1 byte", 999: "999 bytes", 1000: "1.00 kB", 12_345: "12.3 kB", 123_456: "123 kB", 999_499: "999 kB", 999_500: "1.00 MB", 9_996_000: "10.0 MB",
		4_265_146_304: "4.27 GB", 1 << 62: "4.61 EB",
	} {
		require.Equal(t, want, Bytes(n))
	}
}

func FuzzOf(f *testing.F) {
	for _, seed := range []string{"", "BM", "RIFF", "version https://git-lfs\nsize 1", "\xff\xfe"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, head []byte) {
		if got := Of(head); got.Name == "" {
			t.Fatalf("no name for %q", head)
		}
	})
}
