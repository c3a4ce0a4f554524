package weights

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
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

// plan is a file's names and shapes.
type plan struct {
	order  []string
	shapes map[string][]int
}

func planOf(list []nn.Shape) *plan {
	p := &plan{shapes: map[string][]int{}}
	for _, t := range list {
		p.add(t.Name, t.Dims...)
	}
	return p
}

func (p *plan) add(name string, shape ...int) {
	if _, ok := p.shapes[name]; !ok {
		p.order = append(p.order, name)
	}
	p.shapes[name] = shape
}

func (p *plan) Info(name string) ([]int, torch.DType, bool) {
	shape, ok := p.shapes[name]
	return shape, torch.Float32, ok
}
func (p *plan) Names() iter.Seq[string] { return slices.Values(p.order) }
func (p *plan) Get(*torch.Scope, string) (*torch.Tensor, error) {
	return nil, errors.New("a plan has no elements")
}
func (p *plan) Release(string) {}
func (p *plan) Close() error   { return nil }

// published makes a plan of a single file of the published sizes.
func published(t testing.TB, m *Model) *plan {
	t.Helper()
	p := planOf(nil)
	for _, s := range slots {
		c := *s.in(m)
		if c == nil {
			continue
		}
		src, err := m.theirs(s.name, c)
		require.NoError(t, err)
		for name := range src.Names() {
			shape, _, _ := src.Info(name)
			p.add(name, shape...)
		}
	}
	return p
}

func componentOf(t testing.TB, config any, shapes []nn.Shape) *Component {
	t.Helper()
	data, err := json.Marshal(config)
	require.NoError(t, err)
	return &Component{Config: data, Source: planOf(shapes)}
}

// full is a model of the published sizes, without elements.
func full(t testing.TB, kind Kind) *Model {
	m := &Model{Kind: kind}
	network := func(c unet.Config) { m.UNet = componentOf(t, c, unet.Shapes(c)) }
	text := func(c clip.Config) *Component { return componentOf(t, c, clip.Shapes(c)) }
	m.VAE = componentOf(t, vae.SD15(), vae.Shapes(vae.SD15()))
	m.Text = text(clip.L())
	switch kind {
	case SD15:
		network(unet.SD15())
	case Inpaint15:
		network(unet.Inpaint15())
	case LCM15:
		network(unet.LCM15())
	case SD2:
		network(unet.SD21())
		m.Text = text(clip.H())
	case SDXL:
		network(unet.SDXL())
		m.Text2, m.VAE = text(clip.BigG()), componentOf(t, vae.SDXL(), vae.Shapes(vae.SDXL()))
	case SSD1B:
		network(unet.SSD1B())
		m.Text2, m.VAE = text(clip.BigG()), componentOf(t, vae.SDXL(), vae.Shapes(vae.SDXL()))
	}
	return m
}

// Files of the published sizes are recognised, and get the published configurations.
func TestPublished(t *testing.T) {
	for _, kind := range []Kind{SD15, Inpaint15, LCM15, SD2, SDXL, SSD1B} {
		t.Run(kind.String(), func(t *testing.T) {
			want := full(t, kind)
			file := published(t, want)
			if kind == SD2 { // published files have more of the text encoder than is used
				const last = sd2Text + "transformer.resblocks.23."
				file.add(last+"ln_1.weight", 1024)
				file.add(last+"attn.in_proj_weight", 3072, 1024)
				file.add(sd2Text+theirProjection, 1024, 1024)
				file.add(sd2Text + "logit_scale")
			}
			file.add("alphas_cumprod", 1000)
			l, err := sniff(file)
			require.NoError(t, err)
			assert.Equal(t, kind, l.kind)
			got := &Model{Kind: l.kind}
			require.NoError(t, got.fill(file, l, Options{}))
			assert.Len(t, got.parts(), len(want.parts()))
			for name, part := range got.parts() {
				assert.JSONEq(t, string(want.parts()[name].Config), string(part.Config), name)
				assert.True(t, part.Inferred)
				var shapes []nn.Shape
				for n := range part.Names() {
					dims, _, _ := part.Info(n)
					shapes = append(shapes, nn.Shape{Name: n, Dims: dims})
				}
				assert.True(t, hasAll(want.parts()[name], shapes), name)
			}
			assert.Equal(t, []string{"alphas_cumprod"}, got.Ignored)
			c, err := noise.ParseConfig(got.Scheduler)
			require.NoError(t, err)
			assert.Equal(t, map[bool]noise.Prediction{true: noise.Velocity}[kind == SD2], c.Predicts)
			assert.Len(t, got.Notices, map[bool]int{true: 1}[kind == SD2], "2-base has the same tensors and predicts something else")
			require.NoError(t, got.fill(file, l, Options{Prediction: "sample"}))
			assert.Contains(t, string(got.Scheduler), `"prediction_type": "sample"`)
		})
	}
}

// The header of v1-5-pruned-emaonly.safetensors follows from our names, types and shapes, with what is in the file besides the model, to
// the byte: it has 1145 tensors, and its SHA-256 is the one that has been recorded of the published file (of revision 451f4fe1 in
// stable-diffusion-v1-5/stable-diffusion-v1-5), as is the size of the whole.
func TestRecordedFile(t *testing.T) {
	file := published(t, full(t, SD15))
	assert.Len(t, file.order, 686+248+196)
	for _, name := range []string{
		"alphas_cumprod", "alphas_cumprod_prev", "betas", "log_one_minus_alphas_cumprod", "posterior_log_variance_clipped", "posterior_mean_coef1",
		"posterior_mean_coef2", "posterior_variance", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod",
		"sqrt_recipm1_alphas_cumprod",
	} {
		file.add(name, 1000)
	}
	const positions = "cond_stage_model.transformer.text_model.embeddings.position_ids"
	file.add(positions, 1, 77)
	file.add("model_ema.decay")
	file.add("model_ema.num_updates")
	assert.Len(t, file.order, 1145)

	types := map[string]string{positions: "I64", "model_ema.num_updates": "I32"}
	slices.SortFunc(file.order, func(a, b string) int {
		rank := func(name string) int { return slices.Index([]string{"I64", "", "I32"}, types[name]) }
		return cmp.Or(rank(a)-rank(b), cmp.Compare(a, b))
	})
	header, at := `{"__metadata__":{"format":"pt"}`, 0
	for _, name := range file.order {
		n := map[string]int{"I64": 8}[types[name]]
		n = max(n, 4)
		for _, d := range file.shapes[name] {
			n *= d
		}
		shape, err := json.Marshal(append([]int{}, file.shapes[name]...))
		require.NoError(t, err)
		header += fmt.Sprintf(`,"%s":{"dtype":"%s","shape":%s,"data_offsets":[%d,%d]}`, name, cmp.Or(types[name], "F32"), shape, at, at+n)
		at += n
	}
	header += "}      " // padded by the writer of that time
	assert.Equal(t, "ed6e1a1f33ba3a02193e599f6441e213f973f2949dedcfafefd570da536eae9e", fmt.Sprintf("%x", sha256.Sum256([]byte(header))))
	assert.Equal(t, 4_265_146_304, 8+len(header)+at)

	l, err := sniff(file)
	require.NoError(t, err)
	m := &Model{Kind: l.kind}
	require.NoError(t, m.fill(file, l, Options{}))
	assert.Len(t, m.Ignored, 14)
}

// Known constants hinder no file, wherever they are.
func TestConstants(t *testing.T) {
	for _, kind := range []Kind{SD15, Inpaint15, LCM15, SD2, SDXL, SSD1B} {
		t.Run(kind.String(), func(t *testing.T) {
			want := full(t, kind)
			file := published(t, want)
			prefixes := []string{"", "model.", "denoiser.", "model_sampling.", "model.diffusion_model.", "first_stage_model."}
			for _, text := range []string{
				"cond_stage_model.", "cond_stage_model.model.", "cond_stage_model.transformer.", "conditioner.embedders.0.",
				"conditioner.embedders.0.transformer.", "conditioner.embedders.1.", "conditioner.embedders.1.model.",
			} {
				prefixes = append(prefixes, text, text+"text_model.embeddings.", text+"transformer.text_model.embeddings.")
			}
			for name := range constants {
				for _, prefix := range prefixes {
					file.add(prefix+name, 1, 77)
				}
			}
			l, err := sniff(file)
			require.NoError(t, err)
			require.Equal(t, kind, l.kind)
			got := &Model{Kind: l.kind}
			require.NoError(t, got.fill(file, l, Options{Prediction: "epsilon"}))
			for name, part := range got.parts() {
				assert.ElementsMatch(t, slices.Collect(want.parts()[name].Names()), slices.Collect(part.Names()), name)
			}

			for name, part := range want.parts() { // folders
				p := planOf(nil)
				for n := range part.Names() {
					dims, _, _ := part.Info(n)
					p.add(n, dims...)
				}
				for c := range constants {
					p.add(c, 1)
					p.add("text_model.embeddings."+c, 1)
				}
				assert.ElementsMatch(t, slices.Collect(part.Names()), slices.Collect(today(p, true).Names()), name)
			}
		})
	}
}

func TestSniff(t *testing.T) {
	one := func(names ...string) *plan {
		p := planOf(nil)
		for _, name := range names {
			p.add(name, 8, 8)
		}
		return p
	}
	unets := unet.Shapes(tinyUNet)
	for _, c := range []struct {
		file *plan
		want Kind
		err  string
	}{
		{planOf(unets), SD15, ""},
		{planOf(clip.Shapes(tinyText)), TextModel, ""},
		{planOf(vae.Shapes(tinyVAE)), VAE, ""},
		{planOf(vae.TinyShapes(vae.TAESD())), TAESD, ""},
		{one("lora_unet_mid_block.lora_down.weight"), LoRA, ""},
		{one("unet.mid.to_q.lora_A.weight"), LoRA, ""},
		{one("transformer_blocks.0.attn.lora_linear_layer.down.weight"), LoRA, ""},
		{one("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"), Unknown, "it looks like Stable Diffusion 3"},
		{one("double_blocks.0.img_attn.norm.key_norm.scale"), Unknown, "it looks like Flux"},
		{one("lora_controlnet", "input_hint_block.0.weight"), Unknown, "it looks like a Control-LoRA"},
		{one("image_proj.norm.weight", "ip_adapter.1.to_k_ip.weight"), Unknown, "it looks like an IP-Adapter"},
		{one("model.diffusion_model.input_blocks.0.0.weight", "edm_vpred.sigma_max"), Unknown, "it looks like CosXL"},
		{one("a", "b", "c", "d", "e", "f", "g"), Unknown, "its 7 tensors are not recognized, among them a, b, c, d, e, f, ..."},
		{one(), Unknown, "it has no tensors"},
		{one("model.diffusion_model.input_blocks.0.0.weight", "conditioner.embedders.0.model.token_embedding.weight"), Refiner, ""},
	} {
		got, err := Sniff(c.file)
		if c.err != "" {
			assert.ErrorContains(t, err, c.err)
		} else {
			require.NoError(t, err)
		}
		assert.Equal(t, c.want, got, c.want)
	}
	assert.Equal(t, "kind(99)", Kind(99).String())
	assert.Len(t, kindNames, int(Inversion)+1)
}

func TestOpenFileRefuses(t *testing.T) {
	dir := t.TempDir()
	for want, name := range map[string]string{
		"it is a LoRA": "lora_unet_x.lora_down.weight", "it is a tiny autoencoder": "decoder.layers.0.weight", "not recognized": "a.b", "it is a textual inversion embedding": "x",
	} {
		path := filepath.Join(dir, strings.ReplaceAll(want, " ", "")+".safetensors")
		save(t, path, planSource{}, nil, map[string][]int{name: {4, 4}})
		_, err := Open(path, Options{})
		assert.ErrorContains(t, err, want)
		assert.ErrorContains(t, err, path)
		_, err = OpenComponent(path, Options{})
		assert.ErrorContains(t, err, want)
		kind, err := SniffFile(path)
		if name == "a.b" {
			assert.ErrorContains(t, err, path)
		} else {
			require.NoError(t, err)
			assert.Contains(t, []Kind{LoRA, TAESD, Inversion}, kind)
		}
	}
	_, err := SniffFile(filepath.Join(dir, "none.ckpt"))
	require.ErrorIs(t, err, fs.ErrNotExist)
	path := filepath.Join(dir, "vae.safetensors")
	save(t, path, planSource{}, nil, map[string][]int{"first_stage_model.encoder.mid.block_1.norm1.weight": {4}})
	_, err = Open(path, Options{})
	assert.ErrorContains(t, err, "no configuration can be inferred from these tensors")
	_, err = Open(path, Options{Prediction: "x"})
	assert.ErrorContains(t, err, "prediction: want one of")
	_, err = Open(path, Options{Config: dir})
	assert.ErrorContains(t, err, "want a diffusers directory with configurations")
	m, whole := singles(t)["sd15"].open(t)
	_, err = OpenComponent(whole, Options{Config: filepath.Join(filepath.Dir(whole), "configs")})
	assert.ErrorContains(t, err, "it is a complete model (sd15)")
	assert.NotNil(t, m)
}

// planSource is empty.
type planSource struct{ *plan }

func (planSource) Names() iter.Seq[string] { return slices.Values([]string(nil)) }
