package training

import (
	"context"
	"hash/crc32"
	"iter"
	"os"
	"path/filepath"
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
	"github.com/onestep-go/onestep/torch/optim"
)

// newLatentModel makes a small text-to-image model of random weights.
func newLatentModel(t *testing.T, captions ...string) *sd.Model {
	t.Helper()
	a, err := vae.NewTiny(vae.TinyConfig{LatentChannels: 2, EncoderWidths: []int{4, 4}, DecoderWidths: []int{4, 4}, EncoderBlocks: []int{1, 1}, DecoderBlocks: []int{1, 1}},
		torch.CPU, torch.Float32, 3)
	require.NoError(t, err)
	defer a.Close()
	config, err := a.Config().MarshalJSON()
	require.NoError(t, err)
	dir := filepath.Join(t.TempDir(), "vae")
	w := &weights.Model{VAE: &weights.Component{Config: config, Source: nn.Stored{Store: a.Store()}}}
	require.NoError(t, weights.WriteFolder(dir, w, weights.WriteOptions{}))

	tokens, err := prompt.Default().First(0, captions...)
	require.NoError(t, err)
	tokens, err = tokens.WithMax(8)
	require.NoError(t, err)
	net := unet.Config{SampleSize: unet.Ints{4}}
	net.BlockOutChannels, net.NormNumGroups, net.LayersPerBlock, net.AttentionHeadDim = unet.Ints{16}, 4, unet.Ints{1}, unet.Ints{2}
	net.DownBlockTypes, net.UpBlockTypes = []string{"CrossAttnDownBlock2D"}, []string{"CrossAttnUpBlock2D"}
	m, err := sd.New(sd.NewConfig{UNet: net, Text: clip.Config{Width: 16, MLPWidth: 32, Depth: 1, Heads: 2}, Tokenizer: tokens, Autoencoder: dir,
		Predict: noise.Velocity, ZeroSNR: true, Seed: 4})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m
}

// captioned has latents that the caption decides: 1 for the first caption and -1 for the second.
func captioned(captions [2]string) SourceFunc {
	return func(s *torch.Scope, start int64) Batch {
		const n = 8
		var b Batch
		x := make([]float32, n)
		for i := range n {
			of := (start + int64(i)) % 2
			x[i] = float32(1 - 2*of)
			b.Captions = append(b.Captions, captions[of])
		}
		b.X = torch.FromSlice(s, x, n, 1, 1, 1).Expand(s, n, 2, 4, 4).Contiguous(s)
		return b
	}
}

// encoded encodes captions in each step, so that the text encoder is trained, and drops a part of them.
func encoded(m *sd.Model, drop float64) func(s *torch.Scope, b Batch, d Draws) Batch {
	return func(s *torch.Scope, b Batch, d Draws) Batch {
		texts := make([]sd.Text, len(b.Captions))
		for i, c := range b.Captions {
			if d.Samples[i].Float64() < drop {
				c = ""
			}
			texts[i] = sd.Text{Prompt: c, Plain: true}
		}
		b.Cond.Text, b.Captions = m.EmbedTogether(s, nil, texts...).Text, nil
		return b
	}
}

// latentRun trains a new model in a directory, in sessions that are cancelled after these steps, but for the last, which ends the run.
func latentRun(t *testing.T, dir string, sessions ...int) (m, average *sd.Model, last Result) {
	t.Helper()
	captions := [2]string{"a red square", "a blue square"}
	for _, until := range sessions {
		m = newLatentModel(t, captions[:]...)
		ema, err := m.Copy()
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, ema.Close()) })
		average = ema
		d, err := m.Denoiser()
		require.NoError(t, err)
		opt, err := optim.AdamW{LR: 3e-3}.New(m.Parameters())
		require.NoError(t, err)
		defer opt.Close()
		trainer := Trainer{Objective: &DDPM{Model: d}, Model: m, Optimizer: opt, Averages: []Average{{Into: average, Decay: 0.9}}, Data: captioned(captions),
			Prepare: encoded(m, 0.1), Dir: dir, Seed: 2, Steps: sessions[len(sessions)-1], Clip: 1}
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		trainer.Progress = func(p Progress) {
			if p.Step == until {
				cancel()
			}
		}
		last, err = trainer.Train(ctx)
		if until != trainer.Steps {
			require.ErrorIs(t, err, context.Canceled)
			require.Equal(t, until, last.Step)
		}
	}
	return m, average, last
}

// checksum is that of tensors with their names.
func checksum(all iter.Seq2[string, *torch.Tensor]) uint32 {
	h := crc32.NewIEEE()
	for name, x := range all {
		_, _ = h.Write(append([]byte(name), x.Bytes()...))
	}
	return h.Sum32()
}

// A U-Net and a text encoder are trained together from scratch: the model learns what captions mean, of which the text encoder knew nothing.
func TestLatentModelFromNothing(t *testing.T) {
	long(t)
	start := newLatentModel(t, "a red square", "a blue square")
	m, average, last := latentRun(t, "", 250)
	require.Less(t, last.Loss, 0.35) // 1 at the start
	before := map[string]*torch.Tensor{}
	for name, p := range start.Parameters() {
		before[name] = p
	}
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			moved := 0
			for name, p := range m.Parameters() {
				if p.Sub(s, before[name]).Abs(s).Max(s).Item() > 0 {
					moved++
				}
			}
			require.Equal(t, len(before), moved, "all weights of both networks are trained")
			d, err := average.Denoiser()
			if err != nil {
				return err
			}
			noise := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float32, 1, 2, 4, 4).MulScalar(s, 20)
			for caption, want := range map[string]float64{"a red square": 1, "a blue square": -1} {
				c := models.Cond{Text: average.Embed(s, nil, sd.Text{Prompt: caption, Plain: true})[0].Text}
				got := d.Denoise(s, noise, torch.Full(s, 20, torch.Float32, 1), c).Mean(s).Item()
				require.InDelta(t, want, got, 0.35, caption)
			}
			return nil
		})
	}))
}

// A resumed run is the uninterrupted one to the bit, and its snapshot becomes a directory that opens with the same weights.
func TestLatentModelResumes(t *testing.T) {
	whole, average, last := latentRun(t, t.TempDir(), 6)
	again, averageAgain, resumed := latentRun(t, t.TempDir(), 3, 6)
	require.Equal(t, checksum(whole.Parameters()), checksum(again.Parameters()))
	require.Equal(t, checksum(average.Parameters()), checksum(averageAgain.Parameters()))
	require.Equal(t, last.Loss, resumed.Loss)

	// The snapshot holds the EMA weights of both networks.
	fresh := newLatentModel(t, "a red square", "a blue square")
	w, err := torch.OpenWeights(last.Snapshot)
	require.NoError(t, err)
	defer w.Close()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error { return fresh.Load(w.All(s)) }))
	require.Equal(t, checksum(average.Parameters()), checksum(fresh.Parameters()))
	dir := filepath.Join(t.TempDir(), "model")
	_, err = fresh.Write(dir, weights.WriteOptions{})
	require.NoError(t, err)
	opened, err := sd.Open(dir, sd.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, opened.Close()) }()
	require.Equal(t, checksum(average.Parameters()), checksum(opened.Parameters()))
	_, err = os.Stat(filepath.Join(dir, "scheduler", "scheduler_config.json"))
	require.NoError(t, err)
}
