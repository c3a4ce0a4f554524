package weights

import (
	"compress/gzip"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/sd/clip"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// golden is a case of scripts/golden/models/sd/weights/weights.py: a file whose elements are numbered, and by part and name what diffusers makes of
// it: shape, and the first, second and last element.
type golden struct {
	File    []named                       `json:"file"`
	Configs map[string]json.RawMessage    `json:"configs"`
	Parts   map[string]map[string]outcome `json:"parts"`
}

type named struct {
	name  string
	shape []int
}

func (n *named) UnmarshalJSON(b []byte) error { return json.Unmarshal(b, &[]any{&n.name, &n.shape}) }

type outcome struct {
	shape  []int
	values [3]float32
}

func (o *outcome) UnmarshalJSON(b []byte) error {
	return json.Unmarshal(b, &[]any{&o.shape, &o.values[0], &o.values[1], &o.values[2]})
}

// kinds are the cases, in an order of their own.
var kinds = []Kind{SD15, Inpaint15, LCM15, VAE, ControlNet, SD2, SDXL, SSD1B}

func singles(t testing.TB) map[string]golden {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", "single.json.gz"))
	require.NoError(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	var raw map[string]json.RawMessage
	require.NoError(t, json.NewDecoder(z).Decode(&raw))
	all := map[string]golden{}
	for _, k := range kinds {
		var c golden
		require.NoError(t, json.Unmarshal(raw[k.String()], &c))
		require.NotEmpty(t, c.File)
		all[k.String()] = c
	}
	return all
}

// write makes the file.
func (c golden) write(t testing.TB, path string) {
	t.Helper()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		tensors, n := map[string]*torch.Tensor{}, 0
		for _, f := range c.File {
			size := 1
			for _, d := range f.shape {
				size *= d
			}
			tensors[f.name] = torch.Arange(s, size, torch.Float32).AddScalar(s, float64(n)).View(s, f.shape...)
			n += size
		}
		return torch.SaveSafetensors(path, maps.All(tensors), torch.SaveOptions{Metadata: map[string]string{"format": "pt"}})
	}))
}

// check compares a part with what diffusers made.
func check(t *testing.T, want map[string]outcome, src nn.Source) {
	t.Helper()
	theirs := map[string]outcome{}
	_, text := src.(*mapping).parts[textModel+textTokens]
	for name, o := range want {
		if text && name != textProjected && name[:5] != "text_" {
			name = textModel + name
		}
		theirs[name] = o
	}
	assert.ElementsMatch(t, slices.Collect(maps.Keys(theirs)), slices.Collect(src.Names()))
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		for name, o := range theirs {
			x, err := src.Get(s, name)
			require.NoError(t, err)
			require.Equal(t, o.shape, x.Shape(), name)
			dims, _, _ := src.Info(name)
			require.Equal(t, o.shape, dims, name)
			v := torch.ToSlice[float32](x)
			require.Equal(t, o.values, [3]float32{v[0], v[min(1, len(v)-1)], v[len(v)-1]}, name)
		}
		return nil
	}))
}

func TestSingleFiles(t *testing.T) {
	all := singles(t)
	for _, kind := range kinds {
		t.Run(kind.String(), func(t *testing.T) {
			c := all[kind.String()]
			dir := t.TempDir()
			path := filepath.Join(dir, "model.safetensors")
			c.write(t, path)
			config := filepath.Join(dir, "configs")
			for part, data := range c.Configs {
				put(t, filepath.Join(config, part, "config.json"), string(data))
			}
			m, err := Open(path, Options{Config: config})
			require.NoError(t, err)
			defer func() { require.NoError(t, m.Close()) }()
			assert.Equal(t, kind, m.Kind)
			parts := m.parts()
			assert.ElementsMatch(t, slices.Collect(maps.Keys(c.Parts)), slices.Collect(maps.Keys(parts)))
			for name, want := range c.Parts {
				check(t, want, parts[name].Source)
				assert.False(t, parts[name].Inferred)
			}
			if kind == SD15 {
				assert.Equal(t, []string{"betas", "model_ema.decay", "model_ema.diffusion_modelinput_blocks00weight"}, sorted(m.Ignored))
			} else {
				assert.Empty(t, m.Ignored)
			}
			if m.UNet != nil {
				sc, err := noise.ParseConfig(m.Scheduler)
				require.NoError(t, err)
				assert.Equal(t, map[Kind]string{SD2: "v_prediction"}[kind] == "v_prediction", sc.Predicts == noise.Velocity)
				assert.Equal(t, kind == SDXL || kind == SSD1B, m.ZeroNegative)
			}
			// The networks take all of it, and nothing else.
			build(t, m)
		})
	}
}

// A ControlNet's file may have the model that it belongs to, as the first ones that were published.
func TestControlNetWithModel(t *testing.T) {
	all := singles(t)
	both := all["controlnet"]
	_, path := both.open(t)
	o := Options{Config: filepath.Join(filepath.Dir(path), "configs")}
	want, err := OpenComponent(path, o)
	require.NoError(t, err)
	defer func() { require.NoError(t, want.Close()) }()
	for part, data := range all["sd15"].Configs {
		put(t, filepath.Join(o.Config, part, "config.json"), string(data))
	}
	both.File = slices.Concat(both.File, all["sd15"].File)
	path = filepath.Join(t.TempDir(), "model.safetensors")
	both.write(t, path)
	got, err := OpenComponent(path, o)
	require.NoError(t, err)
	same(t, want, got)
	require.NoError(t, got.Close())
}

// Tensors that cannot be divided or turned are errors, also where nothing compares shapes before.
func TestMisshapen(t *testing.T) {
	for _, c := range []struct {
		name, want string
		shape      []int
	}{
		{"transformer.resblocks.0.attn.in_proj_weight", "want a first dimension divisible by 3, got shape []", nil},
		{"transformer.resblocks.0.attn.in_proj_bias", "want a first dimension divisible by 3, got shape [37]", []int{37}},
		{"text_projection", "want 2 dimensions, got shape [6]", []int{6}},
	} {
		bad := singles(t)["sdxl"]
		bad.File = slices.Clone(bad.File)
		i := slices.IndexFunc(bad.File, func(f named) bool { return f.name == "conditioner.embedders.1.model."+c.name })
		bad.File[i].shape = c.shape
		m, _ := bad.open(t)
		dir := filepath.Join(t.TempDir(), "out")
		require.ErrorContains(t, WriteFolder(dir, m, WriteOptions{Tokenizer: tinyTokenizer(t)}), c.want)
		require.NoDirExists(t, dir)
	}
}

// Averages of training are the network's weights if they are asked for.
func TestAverages(t *testing.T) {
	c := singles(t)["sd15"]
	all, path := c.open(t)
	o := Options{Config: filepath.Join(filepath.Dir(path), "configs"), EMA: true}
	_, err := Open(path, o)
	require.ErrorContains(t, err, "want EMA weights (model_ema.)")
	_, other := singles(t)["vae"].open(t)
	_, err = Open(other, Options{EMA: true})
	require.ErrorContains(t, err, "the file is a vae without a U-Net")

	more := c
	more.File = slices.Clone(c.File)
	n := 0
	for _, f := range c.File {
		if name, ok := strings.CutPrefix(f.name, "model.diffusion_model."); ok {
			more.File = append(more.File, named{"model_ema.diffusion_model" + strings.ReplaceAll(name, ".", ""), f.shape})
			n++
		}
	}
	// The case has one of them, of another shape.
	more.File = slices.DeleteFunc(more.File, func(f named) bool {
		return f.name == "model_ema.diffusion_modelinput_blocks00weight" && len(f.shape) == 1
	})
	path = filepath.Join(t.TempDir(), "model.safetensors")
	more.write(t, path)
	m, err := Open(path, o)
	require.NoError(t, err)
	defer func() { require.NoError(t, m.Close()) }()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		file, err := openWeights(path)
		require.NoError(t, err)
		for _, x := range [][2]string{
			{"conv_in.weight", "model_ema.diffusion_modelinput_blocks00weight"},
			{"down_blocks.0.attentions.1.norm.bias", "model_ema.diffusion_modelinput_blocks21normbias"},
		} {
			got, err := m.UNet.Get(s, x[0])
			require.NoError(t, err)
			want, err := file.Get(s, x[1])
			require.NoError(t, err)
			require.Equal(t, want.Bytes(), got.Bytes())
		}
		return nil
	}))
	assert.ElementsMatch(t, slices.Collect(all.UNet.Names()), slices.Collect(m.UNet.Names()))
	assert.Len(t, m.Ignored, n+2, "the last weights, betas and decay")
	build(t, m)
}

func sorted(list []string) []string { slices.Sort(list); return list }

// build makes the networks of a model.
func build(t testing.TB, m *Model) {
	t.Helper()
	closing := func(err error, close func()) {
		require.NoError(t, err)
		close()
	}
	if m.UNet != nil {
		c, err := unet.ParseConfig(m.UNet.Config)
		require.NoError(t, err)
		n, err := unet.From(c, m.UNet, torch.CPU, torch.Float32)
		closing(err, func() { n.Close() })
	}
	if m.ControlNet != nil {
		c, err := unet.ParseControlNetConfig(m.ControlNet.Config)
		require.NoError(t, err)
		n, err := unet.ControlNetFrom(c, m.ControlNet, torch.CPU, torch.Float32)
		closing(err, func() { n.Close() })
	}
	if m.VAE != nil {
		c, err := vae.ParseConfig(m.VAE.Config)
		require.NoError(t, err)
		n, err := vae.From(c, m.VAE, torch.CPU, torch.Float32)
		closing(err, func() { n.Close() })
	}
	for _, part := range []*Component{m.Text, m.Text2} {
		if part == nil {
			continue
		}
		c, err := clip.ParseConfig(part.Config)
		require.NoError(t, err)
		n, err := clip.From(c, part, torch.CPU, torch.Float32)
		closing(err, func() { n.Close() })
	}
}
