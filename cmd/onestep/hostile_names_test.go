package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/models/builtin"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/sampling/texttoimage/infotext"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/safetensors"
	"github.com/onestep-go/onestep/training/dataset"
	"github.com/onestep-go/onestep/training/rundir"
)

// Every loader names what it refuses, escaped and cut: an error that left the name out would be inert, too.
func TestHostileNamesAreNamed(t *testing.T) {
	const name = "\x1b[2J\u202e\u009b" // and more, so that it is cut
	const escaped = `[2J\u202e\u009b`  // after the escape sequence's beginning, which is another one in a JSON value
	long := name + strings.Repeat("y", 3_000_000)
	middle := name + strings.Repeat("y", 2000) // where names may not be that long
	dir := t.TempDir()
	write := func(path, text string) string {
		path = filepath.Join(dir, path)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
		return path
	}
	tensors := func(path string, meta map[string]string, names ...string) string {
		path = filepath.Join(dir, path)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		var all []safetensors.Source
		for _, n := range names {
			all = append(all, safetensors.Source{Name: n, DType: safetensors.F32, Shape: []int{1}, Data: safetensors.Bytes(make([]byte, 4))})
		}
		require.NoError(t, safetensors.Write(path, all, safetensors.Options{Metadata: meta}))
		return path
	}
	object := func(pairs ...any) string { return string(jsonOf(t, pairs...)) }
	text := func(keyword, value string) func(string) (string, bool) {
		return func(k string) (string, bool) { return value, k == keyword }
	}
	own, err := builtin.File()
	require.NoError(t, err)
	vocabulary := object("<|startoftext|>", 0, "<|endoftext|>", 1, long, 7)
	_, model := tinyModel(t)
	part := func(name, config string) string {
		to := filepath.Join(dir, "model-"+name)
		require.NoError(t, os.CopyFS(to, os.DirFS(model)))
		write("model-"+name+"/"+name, config)
		return to
	}
	image := func(path string) string { return write(path, "not an image") }
	graph := func(inputs map[string]any) string {
		return object("1", map[string]any{"class_type": "KSampler", "inputs": inputs}, "2", map[string]any{"class_type": long, "inputs": map[string]any{}})
	}
	for what, open := range map[string]func() error{
		"a tensor of a model": func() error {
			all := []safetensors.Source{{Name: long, DType: safetensors.F32, Shape: []int{1}, Data: safetensors.Bytes(make([]byte, 4))}}
			for v := range own.Tensors() {
				all = append(all, safetensors.Source{Name: v.Name, DType: v.DType, Shape: v.Shape, Data: safetensors.Bytes(v.Data)})
			}
			path := filepath.Join(dir, "described.safetensors")
			require.NoError(t, safetensors.Write(path, all, safetensors.Options{Metadata: own.Metadata()}))
			_, err := checkpoint.OpenFile(path, torch.CPU)
			return err
		},
		"a module of an adapter": func() error {
			_, err := lora.Open(tensors("adapter.safetensors", nil, long+".lora_down.weight"))
			return err
		},
		"a token of a vocabulary": func() error {
			write("tok/merges.txt", "")
			write("tok/vocab.json", vocabulary)
			_, err := prompt.Open(filepath.Join(dir, "tok"))
			return err
		},
		"a padding token": func() error {
			write("pad/merges.txt", "")
			write("pad/vocab.json", object("<|startoftext|>", 0, "<|endoftext|>", 1))
			write("pad/tokenizer_config.json", object("pad_token", long))
			_, err := prompt.Open(filepath.Join(dir, "pad"))
			return err
		},
		"a class of model_index.json": func() error { return openModel(part("model_index.json", object("_class_name", middle))) },
		"a scheduler": func() error {
			return openModel(part("scheduler/scheduler_config.json", object("beta_schedule", middle)))
		},
		"an activation of the U-Net": func() error { return openModel(part("unet/config.json", object("act_fn", middle))) },
		"an activation of the VAE":   func() error { return openModel(part("vae/config.json", object("act_fn", middle))) },
		"an activation of the text encoder": func() error {
			return openModel(part("text_encoder/config.json", object("hidden_act", middle)))
		},
		"a node of a workflow": func() error {
			_, _, err := infotext.From(text("prompt", graph(map[string]any{"positive": []any{"2", 0}})))
			return err
		},
		"a class's name": func() error {
			_, err := dataset.Open(filepath.Dir(filepath.Dir(image("classes/"+name+"/a.png"))), dataset.Options{})
			return err
		},
		"an option of a run": func() error {
			write("run/options.json", object("steps", middle))
			write("run/stats.jsonl", "{}\n")
			write("run/model-0000001.safetensors", "")
			d, err := rundir.Open(filepath.Join(dir, "run"), map[string]any{"steps": 1}, true)
			return closed(d, err)
		},
	} {
		t.Run(what, func(t *testing.T) {
			err := open()
			require.Error(t, err)
			inert(t, err.Error())
			require.Contains(t, err.Error(), escaped)
		})
	}
}

// openModel opens a model and builds it.
func openModel(path string) error {
	files, err := weights.Open(path, weights.Options{})
	if err != nil {
		return err
	}
	_, err = noise.ParseConfig(files.Scheduler)
	if err := errors.Join(err, files.Close()); err != nil {
		return err
	}
	m, err := sd.Open(path, sd.Options{})
	if err != nil {
		return err
	}
	return m.Close()
}
