package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"encoding/json"
	"errors"
	"image"
	"image/png"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/internal/configjson"
	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/dit"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/sd/clip"
	sdunet "github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/safetensors"
	"github.com/onestep-go/onestep/torch/vision"
	"github.com/onestep-go/onestep/training/dataset"
	"github.com/onestep-go/onestep/training/rundir"
)

// evil is what files hold: it would set a terminal's title, clear its screen, turn the direction of writing, and be long.
var evil = "\x1b]0;owned\x07\x1b[2J\u202e\u009b31m" + strings.Repeat("y", 300_000)

// inert fails if text could steer a terminal, or is at length.
func inert(t *testing.T, text string) {
	t.Helper()
	require.True(t, utf8.ValidString(text), "not UTF-8: %.300q", text)
	at := strings.IndexFunc(text, func(r rune) bool {
		return r != '\n' && r != '\t' && (unicode.Is(unicode.C, r) || unicode.Is(unicode.Zl, r))
	})
	require.Negative(t, at, "a control character: %.300q", text)
	require.Less(t, len(text), 6000, "%.300q", text)
}

// jsonOf is an object with one more value.
func jsonOf(t *testing.T, pairs ...any) []byte {
	m := map[string]any{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i].(string)] = pairs[i+1]
	}
	out, err := json.Marshal(m)
	require.NoError(t, err)
	return out
}

// configurations are the readers of JSON.
var configurations = map[string]func([]byte) error{
	"scheduler":  func(b []byte) error { _, err := noise.ParseConfig(b); return err },
	"unet":       func(b []byte) error { _, err := sdunet.ParseConfig(b); return err },
	"controlnet": func(b []byte) error { _, err := sdunet.ParseControlNetConfig(b); return err },
	"clip":       func(b []byte) error { _, err := clip.ParseConfig(b); return err },
	"vae":        func(b []byte) error { _, err := vae.ParseConfig(b); return err },
	"tiny vae":   func(b []byte) error { _, err := vae.ParseTinyConfig(b); return err },
	"UNet2D":     func(b []byte) error { _, err := unet.FromDiffusers(b); return err },
	"DiT":        func(b []byte) error { _, err := dit.FromDiffusers(b); return err },
	"description": func(b []byte) error {
		_, err := checkpoint.ParseDescription(map[string]string{"onestep": string(b)})
		return err
	},
}

// What libraries say of values of configurations is inert, without the tool's help.
func TestHostileConfigurations(t *testing.T) {
	number := json.RawMessage("1" + strings.Repeat("0", 50_000))
	for name, parse := range configurations {
		large := append([]byte("{}"), bytes.Repeat([]byte(" "), configjson.Most)...)
		require.ErrorContains(t, parse(large), strconv.Itoa(configjson.Most), name)
		failed := 0
		for _, key := range []string{
			evil, "_class_name", "prediction_type", "beta_schedule", "beta_start", "timestep_spacing", "num_train_timesteps", "rescale_betas_zero_snr", "final_sigmas_type",
			"act_fn", "sample_size", "down_block_types", "mid_block_type", "cross_attention_dim", "block_out_channels", "norm_num_groups", "addition_embed_type", "time_embedding_type",
			"hidden_act", "hidden_size", "architectures", "text_config", "scaling_factor", "in_channels", "format", "kind", "method", "network",
		} {
			for _, value := range []any{evil, number, []string{evil}, map[string]string{evil: evil}, []any{number}} {
				if err := parse(jsonOf(t, key, value)); err != nil {
					failed++
					inert(t, name+" "+key[:min(len(key), 20)*btoi(key != evil)]+": "+err.Error())
				}
			}
		}
		require.Positive(t, failed, "%s: nothing was refused", name)
		if err := parse([]byte(evil)); err != nil {
			inert(t, err.Error())
		}
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Every loader is fed files with such names, as a library and by the commands that read it, which show nothing that steers a terminal, and
// valid JSON.
func TestHostileNames(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(name string, data []byte) string {
		require.NoError(t, os.MkdirAll(filepath.Dir(at(name)), 0o755))
		require.NoError(t, os.WriteFile(at(name), data, 0o644))
		return at(name)
	}
	plain := func(names ...string) []safetensors.Source {
		var all []safetensors.Source
		for _, n := range names {
			all = append(all, safetensors.Source{Name: n, DType: safetensors.F32, Shape: []int{1}, Data: safetensors.Bytes(make([]byte, 4))})
		}
		return all
	}
	short := evil[:1000]
	put := func(name string, meta map[string]string, tensors ...string) string {
		require.NoError(t, safetensors.Write(at(name), plain(tensors...), safetensors.Options{Metadata: meta}))
		return at(name)
	}
	members := func(name string, list ...string) string { // pairs of a name and data
		var b bytes.Buffer
		z := zip.NewWriter(&b)
		for i := 0; i < len(list); i += 2 {
			w, err := z.CreateHeader(&zip.FileHeader{Name: list[i], Method: zip.Store})
			require.NoError(t, err)
			_, err = w.Write([]byte(list[i+1]))
			require.NoError(t, err)
		}
		require.NoError(t, z.Close())
		return write(name, b.Bytes())
	}
	shard := func(name string, list ...string) string {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for i := 0; i < len(list); i += 2 {
			require.NoError(t, w.WriteHeader(&tar.Header{Name: list[i], Size: int64(len(list[i+1])), Mode: 0o644, Format: tar.FormatPAX}))
			_, err := w.Write([]byte(list[i+1]))
			require.NoError(t, err)
		}
		require.NoError(t, w.Close())
		return write(name, b.Bytes())
	}
	title := "\x1b]0;owned\x07\x1b[2J\u202e\u009b"
	header := `{"` + strings.Repeat("z", 2_000_000) + "\u009b" + `":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}`
	var pngFile, img bytes.Buffer
	require.NoError(t, vision.EncodePNG(&pngFile, image.NewGray(image.Rect(0, 0, 8, 8)), []vision.Text{{Keyword: "parameters", Value: evil[:200_000]},
		{Keyword: "onestep", Value: `{"` + short[:40] + `":1}`}}))
	require.NoError(t, png.Encode(&img, image.NewGray(image.Rect(0, 0, 8, 8))))
	var editFile bytes.Buffer
	require.NoError(t, vision.EncodePNG(&editFile, image.NewGray(image.Rect(0, 0, 8, 8)), []vision.Text{{Keyword: "onestep",
		Value: string(jsonOf(t, "task", "stroke", "times", []int{1}, "model", evil[:100_000], "image", title, "mask", evil[:100_000], "sampler", title))}}))
	pickle := "\x80\x02c" + "os\u009b\x1b[2J" + strings.Repeat("m", 100_000) + "\nsystem\x1b[2J\n)R."
	description := `{"format":2,"kind":"` + strings.Repeat("k", 100_000) + `\u001b[2J","network":{},"` + `\u001b[2J` + `":1}`

	safetensorsOf := func(path string) error { f, err := safetensors.Open(path); return closed(f, err) }
	modelOf := func(path string) error { f, err := weights.Open(path, weights.Options{}); return closed(f, err) }
	tensorsOf := func(path string) error { f, err := weights.OpenTensors(path); return closed(f, err) }
	adapterOf := func(path string) error { f, err := lora.Open(path); return closed(f, err) }
	checkpointOf := func(path string) error {
		f, err := checkpoint.Open(path, torch.CPU)
		if err == nil {
			f.Close()
		}
		return err
	}
	dataOf := func(path string) error {
		f, err := dataset.Open(path, dataset.Options{})
		if err == nil {
			for i := range f.Len() {
				if _, caption := f.Caption(i); caption != nil {
					err = caption
				}
			}
			err = errors.Join(err, f.Close())
		}
		return err
	}
	small := "run"
	write(small+"/options.json", jsonOf(t, "\x1b[2J"+short, short))
	cases := []struct {
		name, path string
		open       func(path string) error
	}{
		{"tensor names", put("names.safetensors", nil, evil[:100_000], title), modelOf},
		{"metadata", put("meta.safetensors", map[string]string{evil[:1000]: evil[:100_000], "modelspec.title": title}, "a"), modelOf},
		{"an odd header", write("header.safetensors", append([]byte{byte(len(header)), byte(len(header) >> 8), byte(len(header) >> 16), 0, 0, 0, 0, 0}, header+"\x00\x00\x00\x00"...)), safetensorsOf},
		{"a description", put("described.safetensors", map[string]string{"onestep": description}, "a"), checkpointOf},
		{"an adapter's modules", put("adapter.safetensors", map[string]string{"ss_output_name": title}, title+".lora_down.weight", title+".lora_up.weight", evil[:100_000]+".alpha"), adapterOf},
		{"a pickle's classes", members("classes.ckpt", "archive/data.pkl", pickle, "archive/version", "3"), tensorsOf},
		{"an archive's members", members("members.ckpt", title+"/data.pkl", "\x80\x02}.", title+"/data.pkl", "x", title+"/"+evil[:60_000], "x"), tensorsOf},
		{"a byte order", members("order.ckpt", "archive/data.pkl", "\x80\x02}.", "archive/byteorder", evil[:100_000]), tensorsOf},
		{"a .bin", members("pytorch_model.bin", "archive/data.pkl", pickle), tensorsOf},
		{"an index of shards", write("model.safetensors.index.json", jsonOf(t, "weight_map", map[string]string{title: evil[:100_000]})), safetensorsOf},
		{"a model's parts", filepath.Dir(write("parts/model_index.json", jsonOf(t, "_class_name", evil, "unet", []string{"x", evil}, "vae", []string{"diffusers", title}))), modelOf},
		{"a model's class", filepath.Dir(write("class/model_index.json", jsonOf(t, "_class_name", []string{evil}))), modelOf},
		{"an adapter's config", filepath.Dir(write("peft/adapter_config.json", jsonOf(t, "r", 4, "rank_pattern", map[string]string{evil: title}))), adapterOf},
		{"a run's options", at(small), func(path string) error { _, err := rundir.ReadOptions(path); return err }},
		{"members of a shard", shard("s.tar", title+".png", img.String(), title+".cls", short, title+".json", "{"), dataOf},
		{"members twice", shard("twice.tar", title+".png", img.String(), title+".png", img.String()), dataOf},
		{"a link out of a shard", shard("out.tar", "../"+title+".png", img.String()), dataOf},
		{"texts of a PNG", write("text.png", pngFile.Bytes()), nil},
		{"settings of an edit", write("edit.png", editFile.Bytes()), nil},
	}
	put("peft/adapter_model.safetensors", nil, "base_model.model.x.lora_A.weight", "base_model.model.x.lora_B.weight")
	images := filepath.Dir(write("data/"+"\x1b[2Jclass/"+"\u202e\x1b]0;x\x07.png", img.Bytes()))
	write("data/\x1b[2Jclass/\x1b[31mbroken.png", img.Bytes()[:40])
	cases = append(cases, struct {
		name, path string
		open       func(path string) error
	}{"names of images", filepath.Dir(images), dataOf})
	_, model := tinyModel(t)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if c.open != nil {
				if err := c.open(c.path); err != nil {
					inert(t, err.Error())
				}
			}
			for _, args := range [][]string{
				{"info", c.path}, {"info", "--all", c.path}, {"lora", "info", c.path}, {"lora", "info", c.path, "--model", model}, {"convert", "--model", c.path, "--out", at("out.safetensors")},
				{"sample", "--model", c.path, "--out", at("out.png")}, {"generate", "--model", c.path, "--prompt", "x", "--out", at("out.png")},
				{"generate", "--model", model, "--prompt", "x", "--lora", c.path, "--steps", "1", "--out", at("out.png")},
				{"generate", "--model", model, "--from", c.path, "--prompt", "x", "--steps", "1", "--out", at("out.png")},
				{"edit", "--model", "builtin", "--task", "stroke", "--image", c.path, "--threads", "1", "--out", at("out.png")},
				{"edit", "--model", c.path, "--task", "interpolate", "--out", at("out.png")}, {"edit", "--from", c.path, "--out", at("out.png")},
				{"edit", "--from", c.path, "--model", "builtin", "--out", at("out.png")},
				{"train", "--data", c.path, "--method", "edm", "--out", at("new"), "--dry-run"},
			} {
				_, stdout, stderr := try(args...)
				inert(t, stdout)
				inert(t, stderr)
				require.NotContains(t, stderr, "panic")
				for _, f := range []string{"out.png", "out.safetensors"} {
					os.Remove(at(f))
				}
			}
			code, stdout, _ := try("info", "--json", c.path)
			if code == 0 {
				require.True(t, json.Valid([]byte(stdout)) && utf8.ValidString(stdout), "%.300q", stdout)
			}
		})
	}
}

func closed[F interface{ Close() error }](f F, err error) error {
	if err != nil {
		return err
	}
	return f.Close()
}
