package main

import (
	"image"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch/vision"
)

// Paths that are not UTF-8 are repeated by --from, byte by byte, and the image's text is still Unicode.
func TestPathsThatAreNotUTF8(t *testing.T) {
	dir := t.TempDir()
	latin := func(name, from string) string {
		path := filepath.Join(dir, name+"\xe9\xff"+filepath.Ext(from))
		from, err := filepath.Abs(from)
		require.NoError(t, err)
		require.NoError(t, os.Symlink(from, path))
		return path
	}
	const files = "../../tests/testdata/"
	model := latin("model", files+"sd/sd15")
	adapter := latin("adapter", files+"lora/both-kohya.safetensors")
	embedding := latin("word", files+"embeddings/kohya.safetensors")
	require.NoError(t, vision.Write(filepath.Join(dir, "i.png"), image.NewNRGBA(image.Rect(0, 0, 64, 64)), vision.WriteOptions{}))
	start := latin("start", filepath.Join(dir, "i.png"))
	for _, ext := range []string{".png", ".jpg", ".webp"} {
		first, again := filepath.Join(dir, "first\xe8"+ext), filepath.Join(dir, "again"+ext)
		code, _, errs := try("generate", "--model", model, "--prompt", "a kohya cat", "--steps", "4", "--seed", "3", "--threads", "1", "--init-image", start,
			"--lora", adapter+"=0.5", "--embedding", embedding+"=kohya", "--embedding-dir", files+"embeddings", "--out", first)
		require.Zero(t, code, errs)
		code, _, errs = try("generate", "--from", first, "--threads", "1", "--out", again)
		require.Zero(t, code, errs)
		a, err := os.ReadFile(first)
		require.NoError(t, err)
		b, err := os.ReadFile(again)
		require.NoError(t, err)
		require.Equal(t, a, b)

		code, text, errs := try("info", first)
		require.Zero(t, code, errs)
		inert(t, text)
		f, err := os.Open(first)
		require.NoError(t, err)
		texts, err := vision.ReadTexts(f)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		for i, v := range texts {
			require.True(t, utf8.ValidString(v.Value), "%q", v)
			if v.Keyword == "onestep" { // what is shown is what is opened
				texts[i].Value = strings.Replace(v.Value, `"model":"`, `"model":"/other`, 1)
			}
		}
		forged := filepath.Join(dir, "forged"+ext)
		require.NoError(t, vision.Write(forged, image.NewNRGBA(image.Rect(0, 0, 64, 64)), vision.WriteOptions{Texts: texts}))
		code, _, errs = try("generate", "--from", forged, "--threads", "1", "--out", filepath.Join(dir, "none"+ext))
		require.NotZero(t, code)
		require.Contains(t, errs, "raw_paths")
	}
}
