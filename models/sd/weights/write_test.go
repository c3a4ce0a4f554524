package weights

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// open reads a golden case with diffusers' configurations.
func (c golden) open(t testing.TB) (m *Model, path string) {
	t.Helper()
	dir := t.TempDir()
	path = filepath.Join(dir, "model.safetensors")
	c.write(t, path)
	for part, data := range c.Configs {
		put(t, filepath.Join(dir, "configs", part, "config.json"), string(data))
	}
	m, err := Open(path, Options{Config: filepath.Join(dir, "configs")})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m, path
}

// dropped are the tensors of the cases that are not written: those of training, and what the model does not use.
func dropped(name string) bool {
	return name == "betas" || strings.HasPrefix(name, "model_ema.") || strings.HasSuffix(name, "position_ids") || strings.HasSuffix(name, "logit_scale") ||
		strings.HasPrefix(name, sd2Text) && (strings.Contains(name, "resblocks.2.") || strings.HasSuffix(name, theirProjection))
}

// tinyTokenizer writes a vocabulary.
func tinyTokenizer(t testing.TB) func(dir string, second bool) error {
	return func(dir string, second bool) error {
		vocab := map[string]int{}
		words := strings.Fields("a b c d e f g h i a</w> b</w> c</w> d</w> e</w> f</w> g</w> h</w> ab</w> <|startoftext|> <|endoftext|>")
		for i, w := range words {
			vocab[w] = i
		}
		put(t, filepath.Join(dir, "vocab.json"), vocab)
		put(t, filepath.Join(dir, "merges.txt"), "#version: 0.2\na b</w>\n")
		put(t, filepath.Join(dir, "tokenizer_config.json"), `{"model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}`)
		return nil
	}
}

// What is written in the layout of single files has the names and values of the file it was read from, and is read again.
func TestWriteSingle(t *testing.T) {
	for name, c := range singles(t) {
		t.Run(name, func(t *testing.T) {
			m, from := c.open(t)
			if m.UNet != nil {
				m.UNet.Guidance = Scales{1.5, 4}
			}
			path := filepath.Join(t.TempDir(), "out.safetensors")
			require.NoError(t, WriteSingle(path, m, WriteOptions{}))
			require.ErrorIs(t, WriteSingle(path, m, WriteOptions{}), fs.ErrExist)
			require.NoError(t, WriteSingle(path, m, WriteOptions{Overwrite: true}))

			want, err := torch.OpenWeights(from)
			require.NoError(t, err)
			got, err := torch.OpenWeights(path)
			require.NoError(t, err)
			n := 0
			require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
				for name := range want.Names() {
					if dropped(name) {
						continue
					}
					n++
					a, err := want.Get(s, name)
					require.NoError(t, err)
					b, err := got.Get(s, name)
					require.NoError(t, err)
					require.Equal(t, a.Shape(), b.Shape(), name)
					require.Equal(t, a.Bytes(), b.Bytes(), name)
				}
				return nil
			}))
			for _, name := range telling(m.Scheduler) {
				_, ok := got.File().Tensor(name)
				assert.True(t, ok, name)
				n++
			}
			assert.Equal(t, n, got.File().Len())
			require.NoError(t, want.Close())
			require.NoError(t, got.Close())

			again, err := Open(path, Options{})
			require.NoError(t, err)
			assert.Equal(t, m.Kind, again.Kind)
			assert.Equal(t, m.ZeroNegative, again.ZeroNegative)
			if m.UNet != nil {
				assert.Equal(t, m.UNet.Guidance, again.UNet.Guidance)
			}
			if m.Scheduler != nil {
				assert.JSONEq(t, string(m.Scheduler), string(again.Scheduler))
			}
			for name, part := range again.parts() {
				assert.JSONEq(t, string(m.parts()[name].Config), string(part.Config))
				same(t, m.parts()[name], part)
			}
			build(t, again)
			require.NoError(t, again.Close())
		})
	}
}

func TestWriteFolder(t *testing.T) {
	for name, c := range singles(t) {
		t.Run(name, func(t *testing.T) {
			m, _ := c.open(t)
			if m.UNet != nil {
				m.UNet.Guidance = Scales{1.5, 4}
			}
			dir := filepath.Join(t.TempDir(), "out")
			o := WriteOptions{Tokenizer: tinyTokenizer(t)}
			require.NoError(t, WriteFolder(dir, m, o))
			require.ErrorIs(t, WriteFolder(dir, m, o), fs.ErrExist)
			o.Overwrite = true
			require.NoError(t, WriteFolder(dir, m, o))
			entries, err := os.ReadDir(filepath.Dir(dir))
			require.NoError(t, err)
			assert.Len(t, entries, 1, "nothing else is left")
			for _, users := range []string{"notes.txt", "my style.safetensors", "pictures"} {
				mine := filepath.Join(dir, users)
				require.NoError(t, os.Mkdir(mine, 0o755))
				err := WriteFolder(dir, m, o)
				require.ErrorIs(t, err, fs.ErrExist)
				require.ErrorContains(t, err, users)
				require.NoError(t, os.Remove(mine), "it is still there")
			}
			if m.UNet == nil {
				for _, part := range m.parts() {
					got, err := OpenComponent(dir, Options{})
					require.NoError(t, err)
					assert.JSONEq(t, string(part.Config), string(got.Config))
					same(t, part, got)
					require.NoError(t, got.Close())
				}
				return
			}
			again, err := Open(dir, Options{})
			require.NoError(t, err)
			assert.Equal(t, m.Kind, again.Kind)
			assert.Equal(t, m.ZeroNegative, again.ZeroNegative)
			assert.Equal(t, m.UNet.Guidance, again.UNet.Guidance)
			assert.Len(t, again.parts(), len(m.parts()))
			for name, part := range again.parts() {
				same(t, m.parts()[name], part)
			}
			if m.Text != nil {
				assert.FileExists(t, filepath.Join(again.Tokenizer, "vocab.json"))
			}
			build(t, again)
			require.NoError(t, again.Close())
		})
	}
}

// Without a tokenizer of its own a model gets CLIP's.
func TestWriteTokenizers(t *testing.T) {
	m, _ := singles(t)["sdxl"].open(t)
	dir := filepath.Join(t.TempDir(), "out")
	require.NoError(t, WriteFolder(dir, m, WriteOptions{}))
	again, err := Open(dir, Options{})
	require.NoError(t, err)
	for path, pad := range map[string]int{again.Tokenizer: prompt.Default().EOS(), again.Tokenizer2: 0} {
		got, err := prompt.Open(path)
		require.NoError(t, err)
		assert.Equal(t, prompt.Default().Encode("a cat, 4k"), got.Encode("a cat, 4k"))
		assert.Equal(t, pad, got.Pad())
	}
	// A tokenizer.json as large as CLIP's, which is copied and not read.
	large := append([]byte(`{"x": "`), append(bytes.Repeat([]byte("x"), 3_642_074-9), `"}`...)...)
	require.NoError(t, os.WriteFile(filepath.Join(again.Tokenizer, "tokenizer.json"), large, 0o644))
	other := filepath.Join(t.TempDir(), "copy")
	require.NoError(t, WriteFolder(other, again, WriteOptions{Tokenizer: func(string, bool) error { return errors.New("not asked for") }}))
	copied, err := os.ReadFile(filepath.Join(other, "tokenizer", "tokenizer.json"))
	require.NoError(t, err)
	assert.Equal(t, large, copied)
	for _, name := range []string{"tokenizer/vocab.json", "tokenizer_2/special_tokens_map.json", "scheduler/scheduler_config.json"} {
		want, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		got, err := os.ReadFile(filepath.Join(other, name))
		require.NoError(t, err)
		assert.Equal(t, want, got, name)
	}
	require.NoError(t, again.Close())
}

func TestWriteTypes(t *testing.T) {
	m, _ := singles(t)["sd15"].open(t)
	for _, d := range []torch.DType{torch.Float32, torch.Float16, torch.BFloat16} {
		dir := filepath.Join(t.TempDir(), "out")
		require.NoError(t, WriteFolder(dir, m, WriteOptions{DType: &d, Variant: "x", Tokenizer: tinyTokenizer(t)}))
		again, err := Open(dir, Options{Variant: "x"})
		require.NoError(t, err)
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			for name := range m.UNet.Names() {
				a, err := m.UNet.Get(s, name)
				require.NoError(t, err)
				b, err := again.UNet.Get(s, name)
				require.NoError(t, err)
				require.Equal(t, d, b.DType())
				require.Equal(t, a.To(s, d).Bytes(), b.Bytes(), name)
			}
			return nil
		}))
		require.NoError(t, again.Close())
	}
	dir := filepath.Join(t.TempDir(), "shards")
	require.NoError(t, WriteFolder(dir, m, WriteOptions{MaxShard: 20000, Tokenizer: tinyTokenizer(t)}))
	assert.FileExists(t, filepath.Join(dir, "unet", "diffusion_pytorch_model.safetensors.index.json"))
	again, err := Open(dir, Options{})
	require.NoError(t, err)
	same(t, m.UNet, again.UNet)
	require.NoError(t, again.Close())
}

func TestWriteRefuses(t *testing.T) {
	m, _ := singles(t)["sd15"].open(t)
	d := torch.Int64
	dir := t.TempDir()
	path := filepath.Join(dir, "x")
	require.ErrorContains(t, WriteSingle(path, m, WriteOptions{DType: &d}), "want a floating-point type for weights, got int64")
	require.ErrorContains(t, WriteSingle(path, &Model{}, WriteOptions{}), "no components")
	failing := func(string, bool) error { return errors.New("no words") }
	require.ErrorContains(t, WriteFolder(path, m, WriteOptions{Tokenizer: failing}), "no words")
	require.ErrorContains(t, WriteFolder(path, &Model{Text: m.Text, VAE: m.VAE}, WriteOptions{}), "want a model with a unet")
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Empty(t, entries, "nothing is left of what failed")

	put(t, filepath.Join(path, "letters.txt"), "dear")
	require.ErrorContains(t, WriteFolder(path, m, WriteOptions{Overwrite: true, Tokenizer: tinyTokenizer(t)}), "not replaced, since it has no model_index.json")
	require.ErrorContains(t, WriteFolder(filepath.Join(path, "letters.txt"), m, WriteOptions{}), "it is a file")
	assert.FileExists(t, filepath.Join(path, "letters.txt"))
}

// loads reads folders and single files by turns, and prints a line for each pair.
const loads = `
import json, sys, torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
for folder, single in zip(sys.argv[1::2], sys.argv[2::2]):
    a = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    b = type(a).from_single_file(single, config=folder, local_files_only=True)
    out = {}
    for name in ["unet", "vae", "text_encoder"] + (["text_encoder_2"] if isinstance(a, StableDiffusionXLPipeline) else []):
        x, y = getattr(a, name).state_dict(), getattr(b, name).state_dict()
        assert set(x) == set(y), set(x) ^ set(y)
        for k in x:
            assert not x[k].is_meta and torch.equal(x[k], y[k]), (name, k)
        out[name] = {k.removeprefix("text_model."): x[k].double().sum().item() for k in x}
    print(json.dumps({"sums": out, "prediction": a.scheduler.config["prediction_type"], "tokens": a.tokenizer("ab").input_ids}))
`

// diffusers reads both, and finds the same weights in them that we have.
func TestDiffusersReads(t *testing.T) {
	if testing.Short() {
		t.Skip("starts Python, which takes ten seconds and more")
	}
	python := torchtest.Python(t, "diffusers", "transformers", "safetensors", "torch")
	all := singles(t)
	kl, _ := all["vae"].open(t)
	xl, _ := all["sdxl"].open(t)
	dir := t.TempDir()
	args := []string{"-c", loads}
	var models []*Model
	for _, name := range []string{"sd15", "sd2", "sdxl", "ssd1b"} {
		m, _ := all[name].open(t)
		m.VAE = kl.VAE
		if m.Kind == SSD1B { // it has SDXL's text encoders
			m.Text, m.Text2 = xl.Text, xl.Text2
		}
		folder, single := filepath.Join(dir, name), filepath.Join(dir, name+".safetensors")
		require.NoError(t, WriteFolder(folder, m, WriteOptions{Tokenizer: tinyTokenizer(t)}))
		require.NoError(t, WriteSingle(single, m, WriteOptions{}))
		args = append(args, folder, single)
		models = append(models, m)
	}
	cmd := exec.Command(python, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HF_HUB_OFFLINE=1", "TRANSFORMERS_OFFLINE=1")
	var problems strings.Builder
	cmd.Stderr = &problems
	data, err := cmd.Output()
	require.NoError(t, err, &problems)
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	require.Len(t, lines, len(models))
	for i, m := range models {
		var got struct {
			Sums       map[string]map[string]float64 `json:"sums"`
			Prediction string                        `json:"prediction"`
			Tokens     []int                         `json:"tokens"`
		}
		require.NoError(t, json.Unmarshal([]byte(lines[i]), &got))
		assert.Equal(t, map[bool]string{true: "v_prediction", false: "epsilon"}[m.Kind == SD2], got.Prediction)
		assert.Equal(t, []int{18, 17, 19}, got.Tokens)
		for part, c := range m.parts() {
			assert.Equal(t, sums(t, c), got.Sums[part], "%s of %s", part, m.Kind)
		}
	}
}

// sums returns the sums of a part's tensors, which are whole numbers and exact, by name; whether text encoders' have text_model before
// them depends on the version of transformers.
func sums(t testing.TB, c *Component) map[string]float64 {
	t.Helper()
	all := map[string]float64{}
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		for name := range c.Names() {
			x, err := c.Get(s, name)
			require.NoError(t, err)
			all[strings.TrimPrefix(name, textModel)] = x.To(s, torch.Float64).Sum(s).Item()
		}
		return nil
	}))
	return all
}
