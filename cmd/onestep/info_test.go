package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"image"
	"image/gif"
	"image/jpeg"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/onestep-go/onestep/torch/vision"
)

// A file of another kind is named for what it is, with what info reads, in one line.
func TestInfoOfOtherFiles(t *testing.T) {
	dir := t.TempDir()
	var archive bytes.Buffer
	z := zip.NewWriter(&archive)
	_, err := z.Create("hello.txt")
	require.NoError(t, err)
	require.NoError(t, z.Close())
	header := `{"a":{"dtype":"F32","shape":[100],"data_offsets":[0,400]}}`
	weights := string(binary.LittleEndian.AppendUint64(nil, uint64(len(header)))) + header
	for name, c := range map[string]struct {
		content string
		want    []string
	}{
		"train.log":           {"time=2026-01-01 level=INFO msg=training\n", []string{"a text file", "info reads a model"}},
		"a.zip":               {archive.String(), []string{"a zip archive", "info reads"}},
		"torch.safetensors":   {"PK\x03\x04\x00\x00\x08\x08\x00\x00archive/data.pkl", []string{"torch.save", "rename it to .ckpt", "info reads"}},
		"m.gguf":              {"GGUF\x03\x00\x00\x00\x00\x00\x00\x00", []string{"GGUF", "not supported", "info reads"}},
		"v.mp4":               {"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00isom", []string{"video", "info reads"}},
		"s.py":                {"#!/usr/bin/env python3\nimport torch\n", []string{"a Python script", "info reads"}},
		"page.safetensors":    {"<!DOCTYPE html>\n<html><body>404</body></html>\n", []string{"a web page", "info reads"}},
		"lfs.safetensors":     {"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4265146304\n", []string{"Git LFS pointer", "4.27 GB", "git lfs pull"}},
		"lfs.ckpt":            {"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4265146304\n", []string{"Git LFS pointer", "git lfs pull"}},
		"empty.safetensors":   {"", []string{"an empty file", "info reads"}},
		"empty":               {"", []string{"an empty file", "info reads"}},
		"half.safetensors":    {weights + strings.Repeat("\x00", 100), []string{"truncated"}},
		"quarter.safetensors": {weights[:20], []string{"truncated"}},
		"photo.tif":           {"II*\x00\x08\x00\x00\x00", []string{"a TIFF image", "info reads"}},
		"photo.heic":          {"\x00\x00\x00\x20ftypheic\x00\x00\x00\x00", []string{"a HEIC image", "info reads"}},
		"some.json":           {`{"a": 1}`, []string{"a JSON file", "info reads"}},
		"model_index.json":    {`{"_class_name": "StableDiffusionPipeline"}`, []string{"pass the directory, " + dir}},
		"x.gz":                {"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", []string{"gzip", "info reads"}},
		"noise.bin":           {strings.Repeat("\x01\x02\x03\x04", 100), []string{"unknown format", "info reads"}},
		"noise":               {strings.Repeat("\x01\x02\x03\x04", 100), []string{"unknown format", "info reads"}},
		"events.out.tfevents": {"\x18\x00\x00\x00\x00\x00\x00\x00\xa3\x7fK\"\tabcdefghi\x1a\rbrain.Event:2", []string{"event file of TensorBoard", "info reads"}},
		"train-labels-idx1":   {"\x00\x00\x08\x01\x00\x00\x00\x01\x00", []string{"IDX file of labels", "info reads"}},
		"old.pt":              {"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.", []string{"before PyTorch 1.6"}},
	} {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(c.content), 0o600))
		code, stdout, stderr := try("info", path)
		require.Equal(t, exitFailure, code, name)
		require.Empty(t, stdout, name)
		require.Contains(t, stderr, path, name)
		for _, want := range c.want {
			require.Contains(t, stderr, want, name)
		}
		require.Equal(t, 1, strings.Count(stderr, "\n"), "%s: %s", name, stderr)
	}
	pipe := filepath.Join(dir, "pipe")
	require.NoError(t, unix.Mkfifo(pipe, 0o600))
	code, _, stderr := try("info", pipe)
	require.Equal(t, exitFailure, code)
	require.Contains(t, stderr, "neither a regular file nor a directory")
}

// An image's size and format are told, its settings a line each, and what is damaged.
func TestInfoOfImages(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	img := image.NewGray(image.Rect(0, 0, 40, 30))
	write := func(name string, encode func(b *bytes.Buffer) error) {
		var b bytes.Buffer
		require.NoError(t, encode(&b))
		require.NoError(t, os.WriteFile(at(name), b.Bytes(), 0o600))
	}
	write("a.jpg", func(b *bytes.Buffer) error { return jpeg.Encode(b, img, nil) })
	write("a.gif", func(b *bytes.Buffer) error { return gif.Encode(b, img, nil) })
	write("wrong.jpg", func(b *bytes.Buffer) error { return png.Encode(b, img) })
	write("settings.png", func(b *bytes.Buffer) error {
		return vision.EncodePNG(b, img, []vision.Text{{Keyword: "parameters", Value: "a cat\nNegative prompt: blurry\nSteps: 4, Seed: 5"},
			{Keyword: "onestep", Value: `{"prompt":"a cat","steps":4}`}, {Keyword: "Comment", Value: "\x1b[2J"}})
	})
	for name, want := range map[string]string{"a.jpg": "a JPEG image, 40×30", "a.gif": "a GIF image, 40×30", "wrong.jpg": "a PNG image, 40×30"} {
		code, stdout, stderr := try("info", at(name))
		require.Zero(t, code, stderr)
		require.Contains(t, stdout, want)
		require.Contains(t, stdout, "no settings")
	}
	code, stdout, stderr := try("info", at("settings.png"))
	require.Zero(t, code, stderr)
	require.Contains(t, stdout, "parameters:\n  a cat\n  Negative prompt: blurry\n  Steps: 4, Seed: 5\n")
	require.Regexp(t, `onestep:\n  prompt +"a cat"\n  steps +4\n`, stdout)
	require.NotContains(t, stdout, "\x1b")
	code, stdout, stderr = try("info", "--json", at("settings.png"))
	require.Zero(t, code, stderr)
	var got imageInfo
	require.NoError(t, json.Unmarshal([]byte(stdout), &got))
	require.Equal(t, []any{"image", "png", 40, 30}, []any{got.Kind, got.Format, got.Width, got.Height})
	require.Equal(t, "a cat", got.Text["onestep"].(map[string]any)["prompt"])

	data, err := os.ReadFile(at("settings.png"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(at("cut.png"), data[:len(data)-30], 0o600))
	code, stdout, stderr = try("info", at("cut.png"))
	require.Equal(t, exitFailure, code)
	require.Contains(t, stdout, "40×30")
	require.Contains(t, stdout, "corrupt: ")
	require.Contains(t, stderr, "truncated")

	// Of every format, whatever is missing of it; damage in the middle is none of the end.
	var encoded bytes.Buffer
	require.NoError(t, jpeg.Encode(&encoded, img, nil))
	require.NoError(t, os.WriteFile(at("a.jpg"), encoded.Bytes(), 0o600))
	encoded.Reset()
	require.NoError(t, gif.Encode(&encoded, img, nil))
	require.NoError(t, os.WriteFile(at("a.gif"), encoded.Bytes(), 0o600))
	for _, name := range []string{"settings.png", "a.jpg", "a.gif"} {
		whole, err := os.ReadFile(at(name))
		require.NoError(t, err)
		for _, n := range []int{len(whole) - 20, len(whole) / 2, 30} {
			require.NoError(t, os.WriteFile(at("cut-"+name), whole[:n], 0o600))
			for _, args := range [][]string{{"info", at("cut-" + name)}, {"info", "--json", at("cut-" + name)}} {
				code, stdout, stderr := try(args...)
				require.Equal(t, exitFailure, code, "%s: %d bytes", name, n)
				require.NotEmpty(t, stdout)
				require.Contains(t, stderr, "truncated", "%s: %d bytes", name, n)
			}
		}
	}
	data[len(data)-20] ^= 0xff
	require.NoError(t, os.WriteFile(at("damaged.png"), data, 0o600))
	code, _, stderr = try("info", at("damaged.png"))
	require.Equal(t, exitFailure, code)
	require.NotContains(t, stderr, "truncated")

	write("sample.png", func(b *bytes.Buffer) error {
		return vision.EncodePNG(b, img, []vision.Text{{Keyword: "onestep", Value: `{"label":-1,"seed":3}`}})
	})
	_, stdout, _ = try("info", at("sample.png"))
	require.Contains(t, stdout, "seed")
	require.NotContains(t, stdout, "label")

	long := strings.Repeat("word\n", 2*longest)
	write("long.png", func(b *bytes.Buffer) error {
		return vision.EncodePNG(b, img, []vision.Text{{Keyword: "parameters", Value: long}})
	})
	code, stdout, stderr = try("info", at("long.png"))
	require.Zero(t, code, stderr)
	require.Less(t, len(stdout), 3*longest)
	require.Contains(t, stdout, "lines more")
}

// Training data: what dataset.Examine finds, as text and as JSON.
func TestInfoOfData(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, w, h int) {
		var b bytes.Buffer
		require.NoError(t, png.Encode(&b, image.NewGray(image.Rect(0, 0, w, h))))
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, b.Bytes(), 0o600))
	}
	for i := range 3 {
		write(fmt.Sprintf("cat/%d.png", i), 20, 10)
	}
	write("dog/0.png", 8, 8)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "cat", "0.txt"), []byte("a cat"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "dog", "\x1b[2Jbad.png"), []byte("x"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "dog", "x.heic"), []byte("x"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "dog", "notes.md"), []byte("x"), 0o600))
	code, stdout, stderr := try("info", dir)
	require.Zero(t, code, stderr)
	for _, want := range []string{`in 2 directories`, `images +5 \(4 png, 1 text\)`, `20×10 \(3\), 8×8 \(1\); widths 8 to 20, heights 8 to 10`, `classes +2: cat \(3\), dog \(2\)`, `captions +1`,
		`corrupt +1,`, `bad\.png`, `not read +1 \.heic`, `ignored .*1 \.md`} {
		require.Regexp(t, want, stdout)
	}
	require.NotContains(t, stdout, "\x1b")
	code, stdout, stderr = try("info", "--json", dir)
	require.Zero(t, code, stderr)
	var got dataInfo
	require.NoError(t, json.Unmarshal([]byte(stdout), &got))
	require.Equal(t, "data", got.Kind)
	require.Equal(t, 5, got.Images)
	require.Equal(t, 1, got.Corrupt)
	require.Len(t, got.Damage, 1)
	require.True(t, got.Decoded)
	require.Equal(t, 20, got.Sizes[0].Width)
	require.Equal(t, "cat", got.Classes[0].Name)

	// Captions in metadata are counted, and the repeats of directories N_name are those of training with captions.
	require.NoError(t, os.WriteFile(filepath.Join(dir, "metadata.jsonl"), []byte(`{"file_name": "cat/1.png", "text": "a cat"}`+"\n"+`{"file_name": "cat/2.png", "text": "two"}`), 0o600))
	code, stdout, stderr = try("info", dir)
	require.Zero(t, code, stderr)
	require.Regexp(t, `captions +3\b`, stdout)
	require.NotContains(t, stdout, ".jsonl")
	kohya := filepath.Join(t.TempDir(), "kohya")
	require.NoError(t, os.CopyFS(filepath.Join(kohya, "10_sks cat"), os.DirFS(filepath.Join(dir, "cat"))))
	code, stdout, stderr = try("info", kohya)
	require.Zero(t, code, stderr)
	require.Regexp(t, `repeats .*10_sks cat.* \(10 × 3 images\)`, stdout)
	require.Regexp(t, `captions +1\b`, stdout)

	code, stdout, stderr = try("info", "emoji")
	require.Zero(t, code, stderr)
	require.Contains(t, stdout, "1906")

	var b bytes.Buffer
	w := tar.NewWriter(&b)
	image, err := os.ReadFile(filepath.Join(dir, "dog", "0.png"))
	require.NoError(t, err)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: "a.png", Size: int64(len(image)), Mode: 0o644}))
	_, err = w.Write(image)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	shard := filepath.Join(t.TempDir(), "0.tar")
	require.NoError(t, os.WriteFile(shard, b.Bytes(), 0o600))
	for _, path := range []string{shard, filepath.Dir(shard), filepath.Dir(shard) + "/*.tar"} {
		code, stdout, stderr = try("info", path)
		require.Zero(t, code, stderr)
		require.Contains(t, stdout, "tar shards")
		require.Contains(t, stdout, "8×8 pixels")
	}
	code, _, stderr = try("info", t.TempDir())
	require.Equal(t, exitFailure, code)
	require.Contains(t, stderr, "nor training images")
}

// Of Stable Diffusion, as a folder and as a single file: what it predicts, scheduler, size of images, types and parameters.
func TestInfoOfDiffusion(t *testing.T) {
	dir := t.TempDir()
	for kind, want := range map[string]struct{ prediction, scheduler, sampler string }{
		"sd15":         {"epsilon", "PNDMScheduler", "pndm"},
		"sd2":          {"v_prediction", "DDIMScheduler", "ddim"},
		"lcm":          {"epsilon", "LCMScheduler", "lcm"},
		"sd15-inpaint": {"epsilon", "", ""},
		"sdxl":         {"epsilon", "EulerDiscreteScheduler", "euler"},
	} {
		folder, single := "../../tests/testdata/sd/"+kind, filepath.Join(dir, kind+".safetensors")
		code, _, stderr := try("convert", "--model", folder, "--out", single, "--dtype", "bf16")
		require.Zero(t, code, stderr)
		var all []int
		for _, path := range []string{folder, single} {
			code, stdout, stderr := try("info", "--json", path)
			require.Zero(t, code, stderr)
			var got sdInfo
			require.NoError(t, json.Unmarshal([]byte(stdout), &got))
			require.Equal(t, want.prediction, got.Prediction, path)
			if want.scheduler != "" {
				require.Equal(t, want.scheduler, got.Scheduler, path)
				require.Equal(t, want.sampler, got.Sampler, path)
			}
			require.NotZero(t, got.Width, path)
			require.Equal(t, got.Width, got.Height, path)
			require.Equal(t, kind == "sd15-inpaint", got.Inpainting, path)
			require.Equal(t, kind == "lcm", got.GuidanceEmbedding, path)
			sum := 0
			for _, p := range got.Parts {
				sum += p.Elements
			}
			require.Equal(t, sum, got.Parameters, path)
			all = append(all, got.Parameters)

			code, text, stderr := try("info", path)
			require.Zero(t, code, stderr)
			require.Regexp(t, `prediction +`+want.prediction, text)
			require.Regexp(t, `scheduler +.*`+want.scheduler, text)
			require.Regexp(t, fmt.Sprintf(`image size +%d×%d`, got.Width, got.Height), text)
			require.Regexp(t, `unet +.* parameters \(`, text)
			require.Equal(t, path == single, strings.Contains(text, " bf16)"), text)
		}
		require.Equal(t, all[0], all[1], "%s: a single file has the parameters of its folder", kind)
	}
}

func TestShortCount(t *testing.T) {
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1.0 k", 813_652: "813.7 k", 999_960: "1.0 M", 859_520_964: "859.5 M", 2_567_463_684: "2.6 G", 5e15: "5000000.0 G"} {
		require.Equal(t, want, shortCount(n))
	}
}
