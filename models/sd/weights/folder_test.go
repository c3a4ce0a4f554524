package weights

import (
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd/clip"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Networks that are small and have every layer.
var (
	tinyText = clip.Config{Vocab: 100, Width: 16, MLPWidth: 24, Depth: 2, Heads: 2, ProjectionDim: 12}
	tinyUNet = unet.Config{Encoder: unet.Encoder{
		BlockOutChannels: unet.Ints{8, 16}, NormNumGroups: 4, LayersPerBlock: unet.Ints{1}, CrossAttentionDim: unet.Ints{16},
		AttentionHeadDim: unet.Ints{2}, DownBlockTypes: []string{"CrossAttnDownBlock2D", "DownBlock2D"},
	}, UpBlockTypes: []string{"UpBlock2D", "CrossAttnUpBlock2D"}}
	tinyVAE = vae.Config{Channels: []int{8, 16}, Layers: 1, Groups: 4, SampleSize: 16}
)

// drawn is a source with a plan's tensors, whose elements are drawn by their names.
type drawn []nn.Shape

func (f drawn) Info(name string) ([]int, torch.DType, bool) { return planOf(f).Info(name) }
func (f drawn) Names() iter.Seq[string]                     { return planOf(f).Names() }
func (f drawn) Release(string)                              {}

func (f drawn) Get(s *torch.Scope, name string) (*torch.Tensor, error) {
	shape, _, ok := f.Info(name)
	if !ok {
		return nil, fmt.Errorf("there is no tensor %q", name)
	}
	g := torch.NewGeneratorOn(s, torch.CPU, uint64(crc32.ChecksumIEEE([]byte(name))))
	return torch.Randn(s, g, torch.Float32, shape...), nil
}

// put writes a file.
func put(t testing.TB, path string, what any) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	data, ok := what.(string)
	if !ok {
		b, err := json.Marshal(what)
		require.NoError(t, err)
		data = string(b)
	}
	require.NoError(t, os.WriteFile(path, []byte(data), 0o644))
}

// save writes the tensors of a source, with names that rename gives: "" leaves one out.
func save(t testing.TB, path string, src nn.Source, rename func(name string) string, more map[string][]int) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		tensors := map[string]*torch.Tensor{}
		for name := range src.Names() {
			x, err := src.Get(s, name)
			require.NoError(t, err)
			if rename != nil {
				name = rename(name)
			}
			if name != "" {
				tensors[name] = x
			}
		}
		for name, shape := range more {
			tensors[name] = torch.Zeros(s, torch.Float32, shape...)
		}
		return torch.SaveSafetensors(path, maps.All(tensors), torch.SaveOptions{Metadata: map[string]string{"format": "pt"}, Overwrite: true})
	}))
}

// same checks that got has exactly the tensors of want.
func same(t testing.TB, want, got nn.Source) {
	t.Helper()
	assert.ElementsMatch(t, slices.Collect(want.Names()), slices.Collect(got.Names()))
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		for name := range want.Names() {
			a, err := want.Get(s, name)
			require.NoError(t, err)
			b, err := got.Get(s, name)
			require.NoError(t, err, name)
			require.Equal(t, a.Shape(), b.Shape(), name)
			shape, d, ok := got.Info(name)
			require.True(t, ok)
			require.Equal(t, a.Shape(), append([]int{}, shape...), name)
			require.Equal(t, b.DType(), d)
			require.Equal(t, a.To(s, torch.Float64).Bytes(), b.To(s, torch.Float64).Bytes(), name)
		}
		return nil
	}))
}

const tinyIndex = `{"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.35.0", "force_zeros_for_empty_prompt": true,
	"feature_extractor": [null, null], "safety_checker": [null, null], "scheduler": ["diffusers", "DDIMScheduler"],
	"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
	"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"], "requires_safety_checker": false}`

// tinyFolder writes a model without weights.
func tinyFolder(t testing.TB) string {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "model_index.json"), tinyIndex)
	put(t, filepath.Join(dir, "text_encoder", "config.json"), tinyText)
	put(t, filepath.Join(dir, "unet", "config.json"), tinyUNet)
	put(t, filepath.Join(dir, "vae", "config.json"), tinyVAE)
	put(t, filepath.Join(dir, "scheduler", "scheduler_config.json"), `{"num_train_timesteps": 1000}`)
	return dir
}

func filled(t testing.TB, dir, variant string) {
	t.Helper()
	save(t, filepath.Join(dir, "text_encoder", "model"+variant+".safetensors"), drawn(clip.Shapes(tinyText)), nil, nil)
	save(t, filepath.Join(dir, "unet", "diffusion_pytorch_model"+variant+".safetensors"), drawn(unet.Shapes(tinyUNet)), nil, nil)
	save(t, filepath.Join(dir, "vae", "diffusion_pytorch_model"+variant+".safetensors"), drawn(vae.Shapes(tinyVAE)), nil, nil)
}

func TestFolder(t *testing.T) {
	dir := tinyFolder(t)
	filled(t, dir, "")
	m, err := Open(dir, Options{})
	require.NoError(t, err)
	assert.Equal(t, SD15, m.Kind)
	assert.True(t, m.ZeroNegative)
	assert.Equal(t, filepath.Join(dir, "tokenizer"), m.Tokenizer)
	assert.Empty(t, m.Tokenizer2)
	assert.JSONEq(t, `{"num_train_timesteps": 1000}`, string(m.Scheduler))
	assert.Nil(t, m.Text2)
	assert.Nil(t, m.ControlNet)
	same(t, drawn(clip.Shapes(tinyText)), m.Text)
	same(t, drawn(unet.Shapes(tinyUNet)), m.UNet)
	same(t, drawn(vae.Shapes(tinyVAE)), m.VAE)

	c, err := unet.ParseConfig(m.UNet.Config)
	require.NoError(t, err)
	net, err := unet.From(c, m.UNet, torch.CPU, torch.Float32)
	require.NoError(t, err)
	require.ErrorIs(t, m.Close(), torch.ErrInUse, "the network's weights are views of the file")
	net.Close()
	require.NoError(t, m.Close())
	require.NoError(t, m.Close())
}

func TestVariants(t *testing.T) {
	dir := tinyFolder(t)
	filled(t, dir, ".fp16")
	_, err := OpenFolder(dir, Options{})
	require.ErrorIs(t, err, fs.ErrNotExist)
	assert.ErrorContains(t, err, "found model.fp16.safetensors")
	_, err = OpenFolder(dir, Options{Variant: "ema"})
	require.ErrorIs(t, err, fs.ErrNotExist)
	assert.ErrorContains(t, err, `want weights of the variant "ema", such as diffusion_pytorch_model.ema.safetensors; `+
		`found diffusion_pytorch_model.fp16.safetensors`)
	_, err = OpenFolder(dir, Options{Variant: "../x"})
	assert.ErrorContains(t, err, "variant: want a name such as fp16")

	// A part without the variant is read as it is if that is asked for and others have the variant.
	unets := filepath.Join(dir, "unet", "diffusion_pytorch_model")
	require.NoError(t, os.Rename(unets+".fp16.safetensors", unets+".safetensors"))
	_, err = OpenFolder(dir, Options{Variant: "fp16"})
	require.ErrorIs(t, err, fs.ErrNotExist)
	assert.ErrorContains(t, err, `unet: want weights of the variant "fp16"`)
	assert.ErrorContains(t, err, "found diffusion_pytorch_model.safetensors")
	m, err := OpenFolder(dir, Options{Variant: "fp16", Mixed: true})
	require.NoError(t, err)
	same(t, drawn(unet.Shapes(tinyUNet)), m.UNet)
	require.NoError(t, m.Close())
	_, err = OpenFolder(dir, Options{Variant: "ema", Mixed: true})
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = OpenComponent(filepath.Dir(unets), Options{Variant: "fp16"})
	require.ErrorIs(t, err, fs.ErrNotExist)
	c, err := OpenComponent(filepath.Dir(unets), Options{Variant: "fp16", Mixed: true})
	require.NoError(t, err)
	require.NoError(t, c.Close())
}

func TestShards(t *testing.T) {
	want := drawn(unet.Shapes(tinyUNet))
	for variant, index := range map[string]string{
		"":     "diffusion_pytorch_model.safetensors.index.json",
		"fp16": "diffusion_pytorch_model.safetensors.index.fp16.json",
		"bf16": "diffusion_pytorch_model.bf16.safetensors.index.json",
	} {
		dir := t.TempDir()
		put(t, filepath.Join(dir, "config.json"), tinyUNet)
		names := []string{"x." + variant + "-00001-of-00002.safetensors", "x." + variant + "-00002-of-00002.safetensors"}
		weights := map[string]string{}
		for i, file := range names {
			save(t, filepath.Join(dir, file), want[i*10:i*10+10+i*(len(want)-20)], nil, nil)
			for _, x := range want[i*10 : i*10+10+i*(len(want)-20)] {
				weights[x.Name] = file
			}
		}
		write := func() {
			put(t, filepath.Join(dir, index), map[string]any{"metadata": map[string]int{"total_size": 1}, "weight_map": weights})
		}
		write()
		c, err := OpenComponent(dir, Options{Variant: variant})
		require.NoError(t, err)
		same(t, want, c)
		require.NoError(t, c.Close())

		first := want[0].Name
		for file, msg := range map[string]string{
			names[1]:             "is in " + names[0] + ", but the index says " + names[1],
			"../x.safetensors":   "want the name of a file in the directory of the index",
			"/x.safetensors":     "want the name of a file in the directory of the index",
			"none.safetensors":   "no such file",
			"..":                 "want the name of a file in the directory of the index",
			"config.json":        "want the name of a file in the directory of the index",
			"a\x00b.safetensors": "want the name of a file in the directory of the index",
		} {
			weights[first] = file
			write()
			_, err := OpenComponent(dir, Options{Variant: variant})
			assert.ErrorContains(t, err, msg)
		}
		delete(weights, first)
		write()
		_, err = OpenComponent(dir, Options{Variant: variant})
		assert.ErrorContains(t, err, "but not in the index")
		weights[first], weights["more"] = names[0], names[0]
		write()
		_, err = OpenComponent(dir, Options{Variant: variant})
		assert.ErrorContains(t, err, `"more" is not in`)
	}
}

// What the text encoders of published files look like, and what is made of them.
func TestTextEncoders(t *testing.T) {
	projected := tinyText
	projected.Projection = true
	bare := func(name string) string { return name[len(textModel):] }
	for name, c := range map[string]struct {
		config clip.Config
		rename func(string) string
		more   map[string][]int
	}{
		"today":             {tinyText, nil, nil},
		"transformers 5":    {tinyText, bare, nil},
		"positions":         {tinyText, nil, map[string][]int{"text_model.embeddings.position_ids": {1, 77}}},
		"bare positions":    {tinyText, bare, map[string][]int{"embeddings.position_ids": {1, 77}}},
		"whole CLIP":        {tinyText, nil, map[string][]int{"vision_model.x": {2}, "visual_projection.weight": {2, 2}, "logit_scale": {}}},
		"unused projection": {tinyText, nil, map[string][]int{"text_projection.weight": {12, 16}}},
		"projection":        {projected, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			want := drawn(clip.Shapes(c.config))
			put(t, filepath.Join(dir, "config.json"), c.config)
			save(t, filepath.Join(dir, "model.safetensors"), want, c.rename, c.more)
			got, err := OpenComponent(dir, Options{})
			require.NoError(t, err)
			same(t, want, got)
			require.NoError(t, got.Close())
		})
	}
}

// Old autoencoders' attention: other names, and 1×1 convolutions.
func TestOldAutoencoder(t *testing.T) {
	dir := t.TempDir()
	want := drawn(vae.Shapes(tinyVAE))
	put(t, filepath.Join(dir, "config.json"), tinyVAE)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		tensors, n := map[string]*torch.Tensor{}, 0
		for name := range want.Names() {
			x, err := want.Get(s, name)
			require.NoError(t, err)
			for _, old := range [][2]string{{"to_q.", "query."}, {"to_k.", "key."}, {"to_v.", "value."}, {"to_out.0.", "proj_attn."}} {
				head, tail, ok := strings.Cut(name, old[0])
				if !ok {
					continue
				}
				name = head + old[1] + tail
				if len(x.Shape()) == 2 {
					x = x.View(s, 16, 16, 1, 1)
				}
				n++
			}
			tensors[name] = x
		}
		require.Equal(t, 16, n)
		return torch.SaveSafetensors(filepath.Join(dir, "diffusion_pytorch_model.safetensors"), maps.All(tensors), torch.SaveOptions{})
	}))
	got, err := OpenComponent(dir, Options{})
	require.NoError(t, err)
	same(t, want, got)
	require.NoError(t, got.Close())
}

func TestModelIndex(t *testing.T) {
	for _, c := range []struct{ data, want string }{
		{`[]`, "want a JSON object"},
		{`{"_class_name": 3}`, "_class_name: want a class name"},
		{`{"force_zeros_for_empty_prompt": "x"}`, "want true or false"},
		{`{}`, "it has no unet"},
		{`{"_class_name": "KandinskyV22Pipeline", "unet": [null, null]}`, "it is a KandinskyV22Pipeline, which has no unet"},
		{`{"_class_name": "StableDiffusion3Pipeline", "transformer": ["diffusers", "SD3Transformer2DModel"]}`,
			"it is a StableDiffusion3Pipeline, which has a transformer (SD3Transformer2DModel): want a model of Stable Diffusion 1, 2 or XL"},
		{`{"_class_name": "IFPipeline", "unet": ["diffusers", "UNet2DConditionModel"], "text_encoder": ["transformers", "T5EncoderModel"]}`,
			"has a T5EncoderModel as text_encoder"},
		{`{"unet": ["diffusers", "UNetSpatioTemporalConditionModel"]}`, "has a UNetSpatioTemporalConditionModel as unet"},
		{`{"unet": ["diffusers", "UNet2DConditionModel"], "text_encoder": [null, null],
			"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]}`, "refiner"},
	} {
		_, err := parseModelIndex([]byte(c.data))
		assert.ErrorContains(t, err, c.want, c.data)
	}
	index, err := parseModelIndex([]byte(tinyIndex))
	require.NoError(t, err)
	assert.Equal(t, "AutoencoderKL", index.classes["vae"])
	assert.NotContains(t, index.classes, "safety_checker")
}

// What a directory lacks is named at once, by its place, unless it is replaced.
func TestIncompleteFolder(t *testing.T) {
	dir := tinyFolder(t)
	filled(t, dir, "")
	vae := filepath.Join(t.TempDir(), "vae")
	require.NoError(t, os.Rename(filepath.Join(dir, "vae"), vae))
	_, err := Open(dir, Options{})
	require.EqualError(t, err, dir+": the directory is incomplete: its model_index.json also wants vae; download or copy the model again")
	m, err := Open(dir, Options{Parts: Parts{VAE: vae}})
	require.NoError(t, err)
	require.NoError(t, m.Close())
	require.NoError(t, os.Remove(filepath.Join(dir, "unet", "config.json")))
	_, err = Open(dir, Options{})
	require.ErrorContains(t, err, "wants unet/config.json, vae;")
}

func TestOpenRefuses(t *testing.T) {
	dir := tinyFolder(t)
	_, err := Open(filepath.Join(dir, "none"), Options{})
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = Open(filepath.Join(dir, "unet"), Options{})
	require.ErrorContains(t, err, "want a diffusers directory with a model_index.json")
	_, err = OpenComponent(dir, Options{})
	require.ErrorContains(t, err, "the directory of a complete model")
	_, err = OpenComponent(filepath.Join(dir, "unet"), Options{})
	require.ErrorContains(t, err, "found no weights")
}

// A second text encoder has a projection, though its config.json names no class.
func TestParseText(t *testing.T) {
	for second, want := range map[bool]bool{false: false, true: true} {
		c, err := ParseText([]byte(`{"projection_dim": 24}`), second)
		require.NoError(t, err)
		require.Equal(t, want, c.Projection)
		require.Equal(t, 24, c.ProjectionDim)
	}
	_, err := ParseText([]byte(`{"projection_dim": -1}`), true)
	require.Error(t, err)
}

// A folder's weights may be torch.save's, with the names that diffusers and transformers give them.
func TestPickledFolder(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("..", "..", "..", "torch", "saved", "testdata", "tiny.ckpt"))
	require.NoError(t, err)
	for _, c := range []struct{ name, variant string }{
		{"diffusion_pytorch_model.bin", ""}, {"pytorch_model.fp16.bin", "fp16"}, {"pytorch_model-00001-of-00001.bin", ""},
	} {
		dir := t.TempDir()
		put(t, filepath.Join(dir, "config.json"), `{}`)
		put(t, filepath.Join(dir, c.name), string(data))
		want, err := openWeights(filepath.Join(dir, c.name))
		require.NoError(t, err)
		if strings.Contains(c.name, "-of-") {
			weights := map[string]string{}
			for name := range want.Names() {
				weights[name] = c.name
			}
			put(t, filepath.Join(dir, "pytorch_model.bin.index.json"), map[string]any{"weight_map": weights})
		}
		got, err := OpenComponent(dir, Options{Variant: c.variant})
		require.NoError(t, err)
		same(t, want, got)
		require.NoError(t, got.Close())
		require.NoError(t, want.Close())
	}
}
