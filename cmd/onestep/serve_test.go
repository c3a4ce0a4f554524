package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"image"
	"image/png"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/torch"
)

// synced is a buffer that a server writes while a test reads.
type synced struct {
	sync.Mutex
	bytes.Buffer
}

func (s *synced) Write(p []byte) (int, error) {
	s.Lock()
	defer s.Unlock()
	return s.Buffer.Write(p)
}

func (s *synced) String() string {
	s.Lock()
	defer s.Unlock()
	return s.Buffer.String()
}

// served runs onestep serve on a free port until stop, which returns its exit code. line is what it prints when it listens.
func served(t *testing.T, args ...string) (line string, errs *synced, stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	errs = &synced{}
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, append([]string{"serve", "--addr", "127.0.0.1:0", "--threads", "1"}, args...), w, errs)
		_ = w.Close()
	}()
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		cancel()
		t.Fatalf("it does not listen: exit code %d, %s", <-code, errs)
	}
	stop = sync.OnceValue(func() int {
		cancel()
		http.DefaultClient.CloseIdleConnections()
		return <-code
	})
	t.Cleanup(func() { stop() })
	return line, errs, stop
}

func post(t *testing.T, url, body string, headers ...string) (int, string) {
	t.Helper()
	r, err := http.NewRequest("POST", url, strings.NewReader(body))
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/json")
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	res, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(text)
}

// Models of every kind, by their names.
func TestServe(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, tiny.Write(at("tiny"), "sd15"))
	snapshotOf(t, at("mine.v2.safetensors"), 8)
	require.NoError(t, os.WriteFile(at("keys.txt"), []byte("0123456789abcdef\n"), 0o644))
	line, errs, stop := served(t, "--model", "builtin", "--model", at("tiny"), "--model", at("mine.v2.safetensors"), "--model", "again="+at("mine.v2.safetensors"),
		"--api-key-file", at("keys.txt"), "--json", "--max-steps", "3")
	var is struct {
		URL    string
		Models []string
	}
	require.NoError(t, json.Unmarshal([]byte(line), &is))
	assert.Equal(t, []string{"builtin", "tiny", "mine.v2", "again"}, is.Models)
	assert.Contains(t, errs.String(), "chmod 600") // others can read the keys
	code, _ := post(t, is.URL+"/v1/images/generations", `{"prompt": "cat"}`)
	assert.Equal(t, 401, code)
	for _, model := range is.Models {
		body, err := json.Marshal(map[string]any{"prompt": "0", "model": model, "seed": 1, "steps": 1, "response_format": "b64_json"})
		require.NoError(t, err)
		code, text := post(t, is.URL+"/v1/images/generations", string(body), "X-Api-Key: 0123456789abcdef")
		assert.Equal(t, 200, code, "%s: %s", model, text)
		assert.Contains(t, text, "b64_json")
	}
	assert.Zero(t, stop(), errs)
	assert.Contains(t, errs.String(), "model=mine.v2")
	assert.NotContains(t, errs.String(), "0123456789abcdef")
}

// taesd is a tiny autoencoder for Stable Diffusion.
const taesd = "../../models/sd/testdata/taesd_decoder.pth"

// A tiny autoencoder decodes the previews of the models that it is for, and not their images. One that is for no model is said to have no effect.
func TestServePreviews(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tiny")
	require.NoError(t, tiny.Write(dir, "sd15"))
	line, errs, _ := served(t, "--model", dir, "--model", "again="+dir, "--model", "builtin", "--preview-vae", "again="+taesd, "--preview-vae", "builtin="+taesd, "--json")
	assert.Contains(t, errs.String(), "model builtin has no latents")
	var is struct{ URL string }
	require.NoError(t, json.Unmarshal([]byte(line), &is))
	images := func(model string) (all []string) {
		code, text := post(t, is.URL+"/v1/images/generations", `{"prompt": "a cat", "seed": 1, "steps": 3, "stream": true, "partial_images": 2, "model": "`+model+`"}`)
		require.Equal(t, 200, code, text)
		for line := range strings.Lines(text) {
			if data, ok := strings.CutPrefix(line, "data: "); ok {
				var event struct {
					Type string
					B64  string `json:"b64_json"`
				}
				require.NoError(t, json.Unmarshal([]byte(data), &event))
				file, err := base64.StdEncoding.DecodeString(event.B64)
				require.NoError(t, err)
				img, err := png.Decode(bytes.NewReader(file))
				require.NoError(t, err)
				assert.Equal(t, image.Pt(64, 64), img.Bounds().Size())
				all = append(all, fmt.Sprint(event.Type, img))
			}
		}
		require.Len(t, all, 3)
		return all
	}
	own, other := images("tiny"), images("again")
	assert.NotEqual(t, own[0], other[0])
	assert.NotEqual(t, own[1], other[1])
	assert.Equal(t, own[2], other[2])
}

// What cannot work is one line before the server listens.
func TestServeRefuses(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, tiny.Write(at("tiny"), "sd15"))
	require.NoError(t, os.MkdirAll(at("other/tiny"), 0o777))
	require.NoError(t, tiny.Write(at("other/tiny"), "sd15"))
	require.NoError(t, os.Mkdir(at("empty"), 0o777))
	require.NoError(t, os.WriteFile(at("note.txt"), []byte("hello"), 0o666))
	require.NoError(t, os.WriteFile(at("none.txt"), []byte("# no key\n"), 0o600))
	require.NoError(t, os.WriteFile(at("weak.txt"), []byte("password\n"), 0o600))
	taef, err := vae.NewTiny(vae.TinyConfig{LatentChannels: 16, EncoderWidths: []int{4, 4}, DecoderWidths: []int{4, 4}, EncoderBlocks: []int{1, 1}, DecoderBlocks: []int{1, 1}},
		torch.CPU, torch.Float32, 1)
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(at("taef"), 0o777))
	require.NoError(t, torch.SaveSafetensors(at("taef/diffusion_pytorch_model.safetensors"), taef.Tensors(), torch.SaveOptions{}))
	config, err := json.Marshal(taef.Config())
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(at("taef/config.json"), config, 0o666))
	taef.Close()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	for _, c := range []struct {
		args string
		code int
		want []string
	}{
		{"--addr 7860", exitUsage, []string{"--addr", "HOST:PORT"}},
		{"--addr :http", exitUsage, []string{"--addr"}},
		{"--addr :0", exitUsage, []string{"--api-key-file", "--without-keys"}},
		{"--addr 0.0.0.0:0", exitUsage, []string{"0.0.0.0:0", "--without-keys"}},
		{"--addr " + taken.Addr().String(), exitFailure, []string{taken.Addr().String(), "another program"}},
		{"--addr 192.0.2.1:0 --without-keys", exitFailure, []string{"192.0.2.1"}},
		{"--api-key-file DIR/nothing", exitFailure, []string{"--api-key-file", "no such file"}},
		{"--api-key-file DIR/none.txt", exitFailure, []string{"none.txt"}},
		{"--api-key-file DIR/weak.txt", exitFailure, []string{"weak.txt", "line 1", "16"}},
		{"--api-key-file DIR/none.txt --without-keys", exitUsage, []string{"--api-key-file", "--without-keys"}},
		{"--model DIR/nothing", exitFailure, []string{"--model", "nothing", "no such file"}},
		{"--model DIR/note.txt", exitFailure, []string{"--model", "note.txt"}},
		{"--model DIR/empty", exitFailure, []string{"--model", "empty"}},
		{"--model DIR/tiny/vae", exitUsage, []string{"--model", "vae"}},
		{"--model =DIR/tiny", exitUsage, []string{"NAME=PATH"}},
		{"--model a=", exitUsage, []string{"NAME=PATH"}},
		{"--model DIR/tiny --model DIR/other/tiny", exitUsage, []string{"\"tiny\"", "NAME=PATH"}},
		{"--model builtin --model builtin", exitUsage, []string{"\"builtin\""}},
		{"--lora-dir DIR/nothing", exitFailure, []string{"--lora-dir"}},
		{"--lora-dir DIR/note.txt", exitFailure, []string{"--lora-dir", "a file"}},
		{"--preview-vae DIR/nothing", exitFailure, []string{"--preview-vae", "nothing", "no such file"}},
		{"--preview-vae DIR/note.txt", exitFailure, []string{"--preview-vae", "note.txt"}},
		{"--preview-vae =TAESD", exitUsage, []string{"--preview-vae", "NAME=PATH"}},
		{"--model DIR/tiny --preview-vae TAESD --preview-vae TAESD", exitUsage, []string{"--preview-vae", "taesd"}},
		{"--model DIR/tiny --preview-vae tyni=TAESD", exitUsage, []string{"--preview-vae", "\"tyni\"", "tiny"}},
		{"--model DIR/tiny --preview-vae DIR/taef", exitFailure, []string{"--preview-vae", "taef", "16", "tiny", "4"}},
		{"--host-name a.example:80", exitUsage, []string{"--host-name", "a.example:80"}},
		{"--allow-origin *", exitUsage, []string{"--allow-origin", "*"}},
		{"--base-url a.example", exitUsage, []string{"--base-url"}},
		{"--device cude", exitUsage, []string{"--device"}},
		{"--cuda-graphs", exitUsage, []string{"--cuda-graphs", "the device is cpu"}},
		{"--threads 5000", exitUsage, []string{"--threads"}},
		{"--queue 0", exitUsage, []string{"--queue"}},
		{"--deadline 0s", exitUsage, []string{"--deadline"}},
		{"--deadline -1s", exitUsage, []string{"--deadline"}},
		{"--log xml", exitUsage, []string{"--log"}},
		{"--model DIR/tiny --memory 0.0001", exitMemory, []string{"tiny", "--memory"}},
		{"nonsense", exitUsage, []string{"nonsense"}},
	} {
		args := append([]string{"serve"}, strings.Fields(strings.NewReplacer("DIR", dir, "TAESD", taesd).Replace(c.args))...)
		if !strings.Contains(c.args, "--addr") {
			args = append(args, "--addr", "127.0.0.1:0")
		}
		code, out, errs := try(args...)
		assert.Equal(t, c.code, code, "%s: %s", c.args, errs)
		assert.Empty(t, out)
		assert.Equal(t, 1, strings.Count(errs, "\n"), errs)
		for _, want := range c.want {
			assert.Contains(t, errs, want, c.args)
		}
	}
}

// An address of all interfaces is printed as one that can be opened, here and from other machines.
func TestServeAddress(t *testing.T) {
	dir := t.TempDir()
	keys := filepath.Join(dir, "keys.txt")
	require.NoError(t, os.WriteFile(keys, []byte("0123456789abcdef\n"), 0o600))
	line, errs, stop := served(t, "--model", "builtin", "--addr", ":0", "--api-key-file", keys, "--json")
	var is struct{ URL, Others string }
	require.NoError(t, json.Unmarshal([]byte(line), &is))
	assert.Regexp(t, `^http://127\.0\.0\.1:\d+$`, is.URL)
	if name, err := os.Hostname(); err == nil {
		assert.Equal(t, "http://"+name+strings.TrimPrefix(is.URL, "http://127.0.0.1"), is.Others)
	}
	res, err := http.Get(is.URL + "/healthz")
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	assert.Equal(t, 200, res.StatusCode)
	assert.Zero(t, stop(), errs)
}
