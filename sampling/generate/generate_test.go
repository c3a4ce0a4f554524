package generate_test

import (
	"context"
	"errors"
	"image"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/builtin"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/dit"
	"github.com/onestep-go/onestep/models/mlp"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/sampling"
	"github.com/onestep-go/onestep/sampling/generate"
	"github.com/onestep-go/onestep/sampling/texttoimage"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/vision"
)

var ctx = context.Background()

const tests = "../../tests/testdata"

// saved writes a model of a network, with weights that matter, and returns its path and what it is.
func saved(t *testing.T, c network.Config, f func(net network.Network) any) string {
	t.Helper()
	net, err := network.New(c.WithDefaults(), torch.CPU, torch.Float32, 3)
	require.NoError(t, err)
	defer net.Close()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := torch.NewGenerator(s, 1)
		return s.NoGrad(func(s *torch.Scope) error {
			for _, p := range net.Parameters() {
				p.AddInPlace(s, torch.Randn(s, g, torch.Float32, p.Shape()...).MulScalar(s, 0.1))
			}
			return nil
		})
	}))
	d, err := checkpoint.Describe(f(net))
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "model-0000001.safetensors")
	require.NoError(t, checkpoint.Save(path, d, net.Tensors(), checkpoint.SaveOptions{}))
	return path
}

func denoiser(t *testing.T) string {
	return saved(t, network.Config{Net: dit.Config{Resolution: 8, Width: 16, Depth: 1, Classes: 3}}, func(net network.Network) any { return &models.EDM{Net: net} })
}

func jumps(t *testing.T) string {
	return saved(t, network.Config{Net: mlp.Config{Shape: []int{3, 8, 8}, Width: 16, Depth: 1, Until: true}}, func(net network.Network) any {
		return &models.Trajectory{Net: net}
	})
}

func open(t *testing.T, path string) *generate.Model {
	t.Helper()
	m, err := generate.Open(path, sd.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m
}

func shipped(t *testing.T) *generate.Model {
	t.Helper()
	file, err := builtin.Open(torch.CPU)
	require.NoError(t, err)
	t.Cleanup(file.Close)
	m, err := generate.FromFile(file.File)
	require.NoError(t, err)
	return m
}

func all(t *testing.T, m *generate.Model, r generate.Request) (out []generate.Image) {
	t.Helper()
	for img, err := range m.Images(ctx, r) {
		require.NoError(t, err)
		out = append(out, img)
	}
	return out
}

func pictures(images []generate.Image) (out []image.Image) {
	for _, img := range images {
		out = append(out, img.Image)
	}
	return out
}

// What is generated is what package sampling samples from the model of the same file, by each kind's own sampler and by others.
func TestImages(t *testing.T) {
	for _, c := range []struct {
		name        string
		path        string
		r           generate.Request
		sampler     string
		times       []float64
		evaluations int
		sample      func(s *torch.Scope, f any, x *torch.Tensor, o sampling.Options) (*torch.Tensor, error)
	}{
		{"heun", denoiser(t), generate.Request{}, "heun", noise.Karras(18, 80, 0.002, 7), 35,
			func(s *torch.Scope, f any, x *torch.Tensor, o sampling.Options) (*torch.Tensor, error) {
				o.Levels = append(noise.Karras(18, 80, 0.002, 7), 0)
				return sampling.StochasticHeun{}.Sample(ctx, s, f.(models.Denoiser), x, o)
			}},
		{"guided", denoiser(t), generate.Request{Sampler: "euler", Steps: 3, Guidance: 2}, "euler", noise.Karras(3, 80, 0.002, 7), 6,
			func(s *torch.Scope, f any, x *torch.Tensor, o sampling.Options) (*torch.Tensor, error) {
				o.Levels = append(noise.Karras(3, 80, 0.002, 7), 0)
				guided := &models.Guided{Model: f.(models.Denoiser), Null: models.Cond{Class: torch.FromSlice(s, []int64{3})}, Scale: 2}
				return sampling.Stepwise{}.Sample(ctx, s, guided, x, o)
			}},
		{"jumps", jumps(t), generate.Request{Times: []float64{70, 5, 1}, Gamma: 0.5}, "ctm", []float64{70, 5, 1}, 3,
			func(s *torch.Scope, f any, x *torch.Tensor, o sampling.Options) (*torch.Tensor, error) {
				o.Levels = []float64{70, 5, 1, 0.002}
				return sampling.Jumps{Gamma: 0.5}.Sample(ctx, s, f.(models.Jumper), x, o)
			}},
		{"few steps", saved(t, network.Config{Net: unet.Config{Resolution: 8, Channels: 8, Mult: []int{1}, Blocks: 1, Classes: 3}},
			func(net network.Network) any { return &models.Consistency{Net: net} }), generate.Request{Steps: 2}, "multistep", []float64{80, 0.8}, 2,
			func(s *torch.Scope, f any, x *torch.Tensor, o sampling.Options) (*torch.Tensor, error) {
				o.Levels = sampling.Levels(80, 2)
				return sampling.Multistep{}.Sample(ctx, s, f.(models.ConsistencyFunction), x, o)
			}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := open(t, c.path)
			require.Contains(t, m.Samplers(), c.sampler)
			c.r.N, c.r.Seed = 3, 40
			plan, err := m.Plan(ctx, c.r)
			require.NoError(t, err)
			defer plan.Close()
			require.Equal(t, c.sampler, plan.Sampler)
			require.Equal(t, len(c.times), plan.Steps)
			require.Equal(t, c.times, plan.Times)
			require.Equal(t, c.evaluations, plan.Evaluations)
			require.Equal(t, []int{8, 8}, []int{plan.Width, plan.Height})

			f, err := checkpoint.OpenFile(c.path, torch.CPU)
			require.NoError(t, err)
			defer f.Close()
			var want []image.Image
			require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
				streams := noise.NewStreams(s, 40, 41, 42)
				first := c.times[0]
				x := streams.Randn(s, torch.Float32, 3, 8, 8).MulScalar(s, first)
				o := sampling.Options{Streams: streams}
				if f.Description.Network.Classes() > 0 {
					o.Cond.Class = torch.FromSlice(s, []int64{1, 2, 0}) // the seeds, modulo 3
				}
				x, err := c.sample(s, f.Function(), x, o)
				if err != nil {
					return err
				}
				want, err = vision.ToImages(x)
				return err
			}))
			got := all(t, m, c.r)
			require.Equal(t, want, pictures(got))
			for i, img := range got {
				require.Equal(t, uint64(40+i), img.Seed)
				wantLabel := -1
				if o, _ := m.Description(); o.Network.Classes() > 0 {
					wantLabel = (40 + i) % 3
				}
				require.Equal(t, wantLabel, img.Label)
			}
		})
	}
}

// Labels come in turn, and settings say what an image is generated by again.
func TestLabels(t *testing.T) {
	m := open(t, filepath.Dir(denoiser(t))) // a run directory
	r := generate.Request{N: 3, Batch: 2, Seed: 5, Sampler: "euler", Steps: 2, Labels: []int{2, 0}}
	got := all(t, m, r)
	for i, label := range []int{2, 0, 2} {
		require.Equal(t, label, got[i].Label)
		require.Equal(t, "onestep", got[i].Texts[1].Keyword)
		require.Contains(t, got[i].Texts[1].Value, `"model":"model-0000001.safetensors","sampler":"euler","steps":2,"times":[80,`)
	}
	require.Contains(t, got[1].Texts[1].Value, `"label":0,"n":1,"seed":6}`)
	plan, err := m.Plan(ctx, r)
	require.NoError(t, err)
	texts, err := plan.Texts()
	require.NoError(t, err)
	require.Contains(t, texts[1].Value, `"label":-1,"labels":[2,0],"n":3,"seed":5}`)
}

// Every request that a model cannot do is refused by the field that is wrong, before anything is computed.
func TestRefuses(t *testing.T) {
	emoji, many, jump, diffusion := shipped(t), open(t, denoiser(t)), open(t, jumps(t)), open(t, tests+"/sd/sd15")
	for _, c := range []struct {
		m     *generate.Model
		field string
		want  string
		r     generate.Request
	}{
		{emoji, "N", "-1", generate.Request{N: -1}},
		{emoji, "Seed", "18446744073709551615", generate.Request{N: 2, Seed: 1<<64 - 1}},
		{emoji, "Batch", "-1", generate.Request{Batch: -1}},
		{emoji, "Steps", "1001", generate.Request{Steps: 1001}},
		{emoji, "Guidance", "-1", generate.Request{Guidance: -1}},
		{emoji, "Guidance", "distil", generate.Request{Guidance: 2}},
		{emoji, "Gamma", "ctm", generate.Request{Gamma: 0.5}},
		{emoji, "Gamma", "0 to 1", generate.Request{Gamma: 1.5}},
		{emoji, "Labels", "-1", generate.Request{Labels: []int{-1}}},
		{emoji, "Labels", "9", generate.Request{Labels: []int{0, 9}}},
		{jump, "Labels", "not class-conditional", generate.Request{Labels: []int{0}}},
		{emoji, "Times", "at least one", generate.Request{Times: []float64{}}},
		{emoji, "Times", "2 noise levels for 3 steps", generate.Request{Times: []float64{2, 1}, Steps: 3}},
		{emoji, "Times", "80", generate.Request{Times: []float64{81}}},
		{emoji, "Times", "", generate.Request{Times: []float64{1, 2}}},
		{emoji, "Sampler", "multistep", generate.Request{Sampler: "heun"}},
		{emoji, "Sampler", `"x"`, generate.Request{Sampler: "x"}},
		{many, "Sampler", "heun", generate.Request{Sampler: "multistep"}},
		{jump, "Gamma", "2 or more steps", generate.Request{Sampler: "ctm", Gamma: 0.5}},
		{jump, "Guidance", "heun", generate.Request{Sampler: "ctm", Guidance: 3}},
		{emoji, "Prompts", "Stable Diffusion", generate.Request{Prompts: []string{"a cat"}}},
		{emoji, "Width", "Stable Diffusion", generate.Request{Width: 64}},
		{emoji, "LoRAs", "Stable Diffusion", generate.Request{LoRAs: []prompt.LoRA{{Name: "x"}}}},
		{diffusion, "Prompts", "none", generate.Request{}},
		{diffusion, "Times", "pixel-space", generate.Request{Prompts: []string{""}, Times: []float64{80}}},
		{diffusion, "Labels", "pixel-space", generate.Request{Prompts: []string{""}, Labels: []int{1}}},
		{diffusion, "Gamma", "pixel-space", generate.Request{Prompts: []string{""}, Gamma: 0.5}},
		{diffusion, "Sampler", `"x"`, generate.Request{Prompts: []string{""}, Sampler: "x"}},
		{diffusion, "LoRAs", `"x": want weights from -1000 to 1000, got NaN`, generate.Request{Prompts: []string{""}, LoRAs: []prompt.LoRA{{Name: "x", Text: math.NaN()}}}},
		{diffusion, "LoRAs", "1e+300", generate.Request{Prompts: []string{""}, LoRAs: []prompt.LoRA{{Name: "x", Weight: 1e300}}}},
		{diffusion, "LoRAs", "Adapters", generate.Request{Prompts: []string{""}, LoRAs: []prompt.LoRA{{Name: "x"}}}},
	} {
		_, err := c.m.Plan(ctx, c.r)
		var wrong *generate.RequestError
		require.ErrorAs(t, err, &wrong, "%+v", c.r)
		require.Equal(t, c.field, wrong.Field)
		require.Contains(t, wrong.Msg, c.want)
		require.Contains(t, wrong.Error(), c.field)
		for _, got := range c.m.Images(ctx, c.r) {
			require.Equal(t, err.Error(), got.Error())
		}
	}
}

func TestOpen(t *testing.T) {
	pixels := denoiser(t)
	_, err := generate.Open(pixels, sd.Options{DType: torch.BFloat16})
	require.ErrorContains(t, err, "float32")
	_, err = generate.Open(filepath.Join(t.TempDir(), "none"), sd.Options{})
	require.ErrorContains(t, err, "none")
	empty := t.TempDir()
	_, err = generate.Open(empty, sd.Options{})
	require.ErrorContains(t, err, filepath.Base(empty))
	require.ErrorContains(t, err, "model-STEP.safetensors")
	require.ErrorContains(t, err, "model_index.json")
	text := filepath.Join(t.TempDir(), "text.safetensors")
	require.NoError(t, os.WriteFile(text, []byte("no tensors"), 0o644))
	_, err = generate.Open(text, sd.Options{})
	require.ErrorContains(t, err, "text.safetensors")
	_, err = generate.FromFunction(3, checkpoint.Description{}, nil, "x")
	require.ErrorContains(t, err, "got int")
	toy := saved(t, network.Config{Net: mlp.Config{Width: 8, Depth: 1}}, func(net network.Network) any { return &models.EDM{Net: net} })
	_, err = generate.Open(toy, sd.Options{})
	require.ErrorContains(t, err, "[2]")

	m, err := generate.Open(pixels, sd.Options{})
	require.NoError(t, err)
	plan, err := m.Plan(ctx, generate.Request{})
	require.NoError(t, err)
	require.NoError(t, m.Close())
	for _, err := range plan.Images(ctx) {
		require.ErrorIs(t, err, torch.ErrFreed)
	}
}

// Stable Diffusion's images are package texttoimage's; adapters are those of a lora.Cache, which it holds while the plan is open.
func TestDiffusion(t *testing.T) {
	m := open(t, tests+"/sd/sd15")
	pipeline := texttoimage.Pipeline{Model: m.Diffusion(), Steps: 2, Seed: 5, N: 2, Guidance: 3, Negative: "bad"}
	r := generate.Request{Steps: 2, Seed: 5, N: 2, Guidance: 3, Negative: "bad", Prompts: []string{"a cat", "a dog"}}
	var want []image.Image
	for img, err := range pipeline.Images(ctx, r.Prompts...) {
		require.NoError(t, err)
		want = append(want, img)
	}
	got := all(t, m, r)
	require.Equal(t, want, pictures(got))
	require.Equal(t, 1, got[3].Prompt)
	require.Equal(t, uint64(6), got[3].Seed)
	require.Equal(t, -1, got[3].Label)
	require.True(t, strings.HasPrefix(got[3].Texts[0].Value, "a dog\nNegative prompt: bad\nSteps: 2"))
	_, pixels := m.Description()
	require.False(t, pixels)

	// From a single file of the same weights it is the same.
	files, err := weights.Open(tests+"/sd/sd15", weights.Options{})
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "sd15.safetensors")
	require.NoError(t, errors.Join(weights.WriteSingle(file, files, weights.WriteOptions{}), files.Close()))
	single, err := generate.Open(file, sd.Options{Config: tests + "/sd/sd15"}) // for the tiny tokenizer
	require.NoError(t, err)
	defer func() { require.NoError(t, single.Close()) }()
	for i, img := range pictures(all(t, single, r)) { // its weights lie elsewhere in memory, where sums may be rounded in another order
		for k, v := range img.(*image.NRGBA).Pix {
			require.InDelta(t, want[i].(*image.NRGBA).Pix[k], v, 1)
		}
	}

	cache := lora.NewCache(m.Diffusion(), lora.CacheOptions{Dir: tests + "/lora"})
	defer func() { require.NoError(t, cache.Close()) }()
	held := &holder{Adapters: cache}
	r.Adapters, r.LoRAs = held, []prompt.LoRA{{Name: "attn-peft", Weight: 1, Text: 1}}
	adapted := all(t, m, r)
	require.NotEqual(t, pictures(got), pictures(adapted))
	require.Equal(t, []int{1, 0}, []int{held.taken, held.held})
	require.True(t, strings.HasPrefix(adapted[0].Texts[0].Value, r.Prompts[0]+" <lora:attn-peft:1>\n"), "%s", adapted[0].Texts[0].Value)
	r.LoRAs, r.Prompts = nil, []string{"a cat <lora:attn-peft:1>"}
	require.Equal(t, pictures(adapted)[:2], pictures(all(t, m, r)))
	require.Zero(t, held.held)
	r.LoRAs = []prompt.LoRA{{Name: "attn-peft", Weight: 1}, {Name: "none"}}
	_, err = m.Plan(ctx, r)
	require.ErrorContains(t, err, "none")
	require.Zero(t, held.held)

	r = generate.Request{Steps: 2, Prompts: []string{""}, More: func(p *texttoimage.Pipeline) { p.Width, p.Height = 64, 32 }}
	plan, err := m.Plan(ctx, r)
	require.NoError(t, err)
	require.Equal(t, []int{64, 32}, []int{plan.Width, plan.Height})
	require.NotNil(t, plan.Diffusion)
	texts, err := plan.Texts()
	require.NoError(t, err)
	require.Nil(t, texts)
}

// holder counts the adapters that are in use.
type holder struct {
	generate.Adapters
	taken, held int
}

func (h *holder) Tagged(ctx context.Context, tags []prompt.LoRA) (sd.Adaptation, func(), error) {
	all, release, err := h.Adapters.Tagged(ctx, tags)
	if err != nil {
		return sd.Adaptation{}, nil, err
	}
	h.taken++
	h.held++
	return all, func() { h.held--; release() }, nil
}

// Several goroutines generate with one model at once what each would alone.
func TestTwoAtOnce(t *testing.T) {
	diffusion := open(t, tests+"/sd/sd15")
	cache := lora.NewCache(diffusion.Diffusion(), lora.CacheOptions{Dir: tests + "/lora"})
	defer func() { require.NoError(t, cache.Close()) }()
	for name, c := range map[string]struct {
		m *generate.Model
		r generate.Request
	}{
		"consistency model": {shipped(t), generate.Request{N: 2, Steps: 2}},
		"denoiser":          {open(t, denoiser(t)), generate.Request{N: 2, Steps: 2, Guidance: 2}},
		"jumps":             {open(t, jumps(t)), generate.Request{N: 2, Steps: 2, Sampler: "ctm", Gamma: 0.5}},
		"stable diffusion":  {diffusion, generate.Request{Steps: 1, Prompts: []string{"a cat <lora:attn-peft:1>"}, Adapters: cache}},
	} {
		t.Run(name, func(t *testing.T) {
			requests := []generate.Request{c.r, c.r, c.r}
			requests[1].Seed = 9
			shared, err := c.m.Plan(ctx, c.r)
			require.NoError(t, err)
			defer shared.Close()
			var want [3][]image.Image
			for i, r := range requests {
				want[i] = pictures(all(t, c.m, r))
			}
			var got [3][]image.Image
			var errs [3]error
			var wait sync.WaitGroup
			for i, r := range requests {
				wait.Go(func() {
					images := c.m.Images(ctx, r)
					if i != 1 {
						images = shared.Images(ctx) // by two of them
					}
					for img, err := range images {
						got[i], errs[i] = append(got[i], img.Image), errors.Join(errs[i], err)
					}
				})
			}
			wait.Wait()
			require.NoError(t, errors.Join(errs[:]...))
			require.Equal(t, want, got)
		})
	}
}

// A loop that ends early, and a context that is done, end the work.
func TestStop(t *testing.T) {
	m := shipped(t)
	n := 0
	for _, err := range m.Images(ctx, generate.Request{N: 1_000_000, Batch: 1}) {
		require.NoError(t, err)
		if n++; n == 2 {
			break
		}
	}
	stopped, cancel := context.WithCancel(ctx)
	cancel()
	n = 0
	for _, err := range m.Images(stopped, generate.Request{N: 3}) {
		require.ErrorIs(t, err, context.Canceled)
		n++
	}
	require.Equal(t, 1, n)
}
