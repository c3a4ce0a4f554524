package sd_test

import (
	"errors"
	"hash/crc32"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/clip"
	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// tinyVAE writes a tiny autoencoder of random weights as a file of both halves, or of one.
func tinyVAE(t *testing.T, c vae.TinyConfig, halves ...string) string {
	t.Helper()
	a, err := vae.NewTiny(c, torch.CPU, torch.Float32, 3)
	require.NoError(t, err)
	defer a.Close()
	dir := t.TempDir()
	for _, half := range []string{"encoder", "decoder"} {
		if len(halves) > 0 && half != halves[0] {
			continue
		}
		// The author's names: the decoder's layers begin with 1.
		path := filepath.Join(dir, "taef2_"+half+".safetensors")
		require.NoError(t, torch.SaveSafetensors(path, func(yield func(string, *torch.Tensor) bool) {
			for name, x := range a.Tensors() {
				rest, ok := strings.CutPrefix(name, half+".layers.")
				if !ok {
					continue
				}
				if half == "decoder" {
					number, tail, _ := strings.Cut(rest, ".")
					n, err := strconv.Atoi(number)
					require.NoError(t, err)
					rest = strconv.Itoa(n+1) + "." + tail
				}
				if !yield(rest, x) {
					return
				}
			}
		}, torch.SaveOptions{}))
	}
	return dir
}

// klVAE writes a KL autoencoder of random weights as a directory.
func klVAE(t *testing.T) string {
	t.Helper()
	c := vae.Config{Channels: []int{8, 8, 8, 8}, Layers: 1, Groups: 2, SampleSize: 64}.WithDefaults()
	a, err := vae.New(c, torch.CPU, torch.Float32, 3)
	require.NoError(t, err)
	defer a.Close()
	dir := filepath.Join(t.TempDir(), "vae")
	data, err := c.MarshalJSON()
	require.NoError(t, err)
	require.NoError(t, weights.WriteFolder(dir, &weights.Model{VAE: &weights.Component{Config: data, Source: nn.Stored{Store: a.Store()}}}, weights.WriteOptions{}))
	return dir
}

// small is a new model of small networks.
func small(t *testing.T, autoencoder string) sd.NewConfig {
	t.Helper()
	tokens, err := prompt.Default().First(486, "a hedgehog")
	require.NoError(t, err)
	tokens, err = tokens.WithMax(16)
	require.NoError(t, err)
	net := unet.Config{SampleSize: unet.Ints{8}}
	net.BlockOutChannels, net.NormNumGroups, net.LayersPerBlock, net.AttentionHeadDim = unet.Ints{16, 32}, 4, unet.Ints{1}, unet.Ints{2}
	net.DownBlockTypes, net.UpBlockTypes = []string{"CrossAttnDownBlock2D", "DownBlock2D"}, []string{"UpBlock2D", "CrossAttnUpBlock2D"}
	return sd.NewConfig{UNet: net, Text: clip.Config{Width: 16, MLPWidth: 32, Depth: 2, Heads: 2}, Tokenizer: tokens, Autoencoder: autoencoder,
		Predict: noise.Velocity, ZeroSNR: true, Seed: 5}
}

// prediction is what a model's parts compute: the network's prediction for a prompt, and the decoded image.
func prediction(t *testing.T, m *sd.Model) (out [][]float32) {
	t.Helper()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			d, err := m.Denoiser()
			if err != nil {
				return err
			}
			z := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float32, 1, m.VAE.Channels(), 8, 8)
			e := m.Embed(s, nil, sd.Text{Prompt: "a hedgehog, flat"})[0]
			v := d.Net.Forward(s, z.To(s, m.DType()), torch.Full(s, 500, torch.Float32, 1), models.Cond{Text: e.Text})
			image := m.VAE.Decode(s, z.To(s, m.VAE.DType()))
			for _, x := range []*torch.Tensor{e.Text, v, image} {
				out = append(out, torch.ToSlice[float32](x.To(s, torch.Float32)))
			}
			return nil
		})
	}))
	return out
}

// near checks predictions, elementwise.
func near(t *testing.T, want, got [][]float32, most float64) {
	t.Helper()
	for i := range want {
		require.InDeltaSlice(t, want[i], got[i], most)
	}
}

// sum is a checksum of all weights of a model, with their names.
func sum(t *testing.T, m *sd.Model) uint32 {
	t.Helper()
	h := crc32.NewIEEE()
	for _, all := range []iter.Seq2[string, *torch.Tensor]{m.Parameters(), m.VAE.(interface {
		Tensors() iter.Seq2[string, *torch.Tensor]
	}).Tensors()} {
		for name, x := range all {
			_, _ = h.Write(append([]byte(name), x.Bytes()...))
		}
	}
	return h.Sum32()
}

// A new model with any kind of autoencoder is written as a directory, which opens with the same weights to the bit.
func TestNew(t *testing.T) {
	autoencoders := map[string]string{
		"KL": klVAE(t), "TAESD": tinyVAE(t, vae.TinyConfig{}), "TAEF2": tinyVAE(t, vae.TAEF2()), "TAEF2 decoder": tinyVAE(t, vae.TAEF2(), "decoder"),
	}
	for name, path := range autoencoders {
		c := small(t, path)
		c.ScalingFactor = 0.75
		m, err := sd.New(c)
		require.NoError(t, err, name)
		require.Equal(t, m.VAE.Channels(), m.UNet.Config().InChannels)
		require.Equal(t, m.VAE.Channels(), m.UNet.Config().OutChannels)
		text := m.Texts[0].Config()
		require.Equal(t, []int{c.Tokenizer.Vocab(), 16, c.Tokenizer.EOS()}, []int{text.Vocab, text.Positions, text.EOS})
		chain, predicts, err := m.Noise()
		require.NoError(t, err)
		require.Equal(t, noise.Velocity, predicts)
		require.InDelta(t, 0, chain.AlphaBar(chain.Steps()-1), 1e-7)

		dir := filepath.Join(t.TempDir(), "model")
		notices, err := m.Write(dir, weights.WriteOptions{})
		require.NoError(t, err)
		require.Len(t, notices, map[string]int{"KL": 0, "TAESD": 0, "TAEF2": 1, "TAEF2 decoder": 2}[name], "%s: %v", name, notices)
		_, err = m.Write(dir, weights.WriteOptions{})
		require.ErrorIs(t, err, fs.ErrExist)
		_, err = m.Write(dir, weights.WriteOptions{Overwrite: true})
		require.NoError(t, err)

		again, err := sd.Open(dir, sd.Options{})
		require.NoError(t, err, name)
		require.Equal(t, m.Scheduler, again.Scheduler)
		require.Equal(t, sum(t, m), sum(t, again), name)
		near(t, prediction(t, m), prediction(t, again), 1e-5) // with packed weights, and other alignment in memory
		require.Equal(t, c.Tokenizer.Encode("a hedgehog"), again.Texts[0].Tokenizer.Encode("a hedgehog"))
		require.NoError(t, again.Close())

		// A directory that was written is an autoencoder for the next model, and its scaling factor stays.
		c.Autoencoder, c.ScalingFactor = dir, 0
		other, err := sd.New(c)
		require.NoError(t, err, name)
		require.Equal(t, sum(t, m), sum(t, other), name)
		near(t, prediction(t, m), prediction(t, other), 1e-5)
		require.NoError(t, other.Close())

		small := filepath.Join(t.TempDir(), "small")
		_, err = m.Write(small, weights.WriteOptions{DecoderOnly: true})
		if name == "KL" {
			require.ErrorContains(t, err, "tiny autoencoder")
			require.NoDirExists(t, small)
		} else {
			require.NoError(t, err)
			again, err = sd.Open(small, sd.Options{})
			require.NoError(t, err)
			require.False(t, again.VAE.(*vae.Tiny).Encodes())
			near(t, prediction(t, m), prediction(t, again), 1e-5)
			require.NoError(t, again.Close())
		}

		half := filepath.Join(t.TempDir(), "half")
		_, err = m.Write(half, weights.WriteOptions{DType: new(torch.Float16)})
		require.NoError(t, err)
		again, err = sd.Open(half, sd.Options{})
		require.NoError(t, err)
		near(t, prediction(t, m), prediction(t, again), 0.02)
		files, err := weights.Open(half, weights.Options{})
		require.NoError(t, err)
		need, err := sd.EstimateNeed(files, sd.Options{}, sd.Drawing{})
		require.NoError(t, err)
		require.Equal(t, 64, need.Width)
		single := filepath.Join(t.TempDir(), "single.safetensors")
		if err := weights.WriteSingle(single, files, weights.WriteOptions{}); name == "KL" {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, "tiny autoencoder")
			require.NoFileExists(t, single)
		}
		require.NoError(t, files.Close())
		require.NoError(t, again.Close())
		require.NoError(t, m.Close())
	}
}

// What does not go together is refused, and names what it is.
func TestNewRefuses(t *testing.T) {
	kl := klVAE(t)
	for want, change := range map[string]func(c *sd.NewConfig){
		"autoencoder":                   func(c *sd.NewConfig) { c.Autoencoder = "" },
		"zero terminal SNR":             func(c *sd.NewConfig) { c.Predict = noise.Epsilon },
		"4 latent channels":             func(c *sd.NewConfig) { c.UNet.InChannels = 3 },
		"width 8, the text encoder's":   func(c *sd.NewConfig) { c.UNet.CrossAttentionDim = unet.Ints{8} },
		"vocabulary of 100 tokens":      func(c *sd.NewConfig) { c.Text.Vocab = 100 },
		"positions":                     func(c *sd.NewConfig) { c.Text.Positions = 5 },
		"scaling_factor":                func(c *sd.NewConfig) { c.ScalingFactor = -1 },
		"norm_num_groups":               func(c *sd.NewConfig) { c.UNet.NormNumGroups = 7 },
		"num_attention_heads":           func(c *sd.NewConfig) { c.Text.Heads = 3 },
		"SDXL":                          func(c *sd.NewConfig) { c.UNet.AdditionEmbedType = "text_time" },
		"no such file":                  func(c *sd.NewConfig) { c.Autoencoder = filepath.Join(kl, "missing") },
		"NAME_encoder and NAME_decoder": func(c *sd.NewConfig) { c.Autoencoder = t.TempDir() },
	} {
		c := small(t, kl)
		change(&c)
		_, err := sd.New(c)
		require.ErrorContains(t, err, want)
	}
	c := small(t, filepath.Join(kl, "missing"))
	_, err := sd.New(c)
	require.True(t, errors.Is(err, os.ErrNotExist))
}

// A copy has weights of its own; those of another model are loaded exactly, or not at all.
func TestCopyAndLoad(t *testing.T) {
	c := small(t, klVAE(t))
	m, err := sd.New(c)
	require.NoError(t, err)
	defer func() { require.NoError(t, m.Close()) }()
	ema, err := m.Copy()
	require.NoError(t, err)
	defer func() { require.NoError(t, ema.Close()) }()
	before := prediction(t, m)
	near(t, before, prediction(t, ema), 1e-5)
	c.Seed = 6
	other, err := sd.New(c)
	require.NoError(t, err)
	defer func() { require.NoError(t, other.Close()) }()
	require.NotEqual(t, sum(t, m), sum(t, other))

	require.NoError(t, ema.Load(other.Parameters()))
	near(t, prediction(t, other), prediction(t, ema), 1e-5)
	near(t, before, prediction(t, m), 1e-5) // a copy has weights of its own

	lacking := func(without string) iter.Seq2[string, *torch.Tensor] {
		return func(yield func(string, *torch.Tensor) bool) {
			for name, p := range m.Parameters() {
				if name != without && !yield(name, p) {
					return
				}
			}
			if without == "" {
				yield("unet.more", nil)
			}
		}
	}
	for _, without := range []string{"unet.conv_in.bias", "text_encoder.text_model.final_layer_norm.bias"} {
		require.ErrorContains(t, ema.Load(lacking(without)), "missing "+without)
	}
	require.ErrorContains(t, ema.Load(lacking("")), "unexpected unet.more")
	near(t, prediction(t, other), prediction(t, ema), 1e-5) // nothing was changed
}

// Prompts that are encoded together have the features of prompts encoded alone, up to rounding.
func TestEmbedTogether(t *testing.T) {
	m, err := sd.New(small(t, klVAE(t)))
	require.NoError(t, err)
	defer func() { require.NoError(t, m.Close()) }()
	texts := []sd.Text{{Prompt: "a hedgehog", Plain: true}, {Plain: true}, {Prompt: "two", Plain: true}}
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			all := m.EmbedTogether(s, nil, texts...)
			require.Nil(t, all.Pooled)
			for i, one := range m.Embed(s, nil, texts...) {
				require.LessOrEqual(t, all.Text.Narrow(s, 0, i, 1).Sub(s, one.Text).Abs(s).Max(s).Item(), 1e-5)
			}
			return nil
		})
	}))
	require.ErrorContains(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		m.EmbedTogether(s, nil, sd.Text{Prompt: "a"}, texts[0])
		return nil
	}), "Plain")
}
