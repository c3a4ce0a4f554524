package latents

import (
	"context"
	"iter"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/torch/optim"
	"github.com/onestep-go/onestep/training"
	"github.com/onestep-go/onestep/training/captioned"
)

// factors are low-rank adapters for all linear layers of a network.
type factors struct {
	store *nn.Store
	of    nn.Adapters
}

func (f factors) Parameters() iter.Seq2[string, *torch.Tensor] { return f.store.Parameters() }

func adapters(t testing.TB, network *nn.Store) factors {
	t.Helper()
	f := factors{of: nn.Adapters{}}
	var err error
	f.store, err = nn.Build(network.Device(), torch.Float32, 5, func(p nn.Path) {
		for path, l := range network.Layers() {
			if linear, ok := l.(nn.Linear); ok {
				out, in := linear.Weight.Dim(0), linear.Weight.Dim(1)
				f.of[linear.Weight] = []nn.Adapter{nn.LowRank{
					Down: nn.NewLinearInit(p.Sub(path, "down"), in, 2, nn.FanIn(in), nil), Up: nn.NewLinearInit(p.Sub(path, "up"), 2, out, nn.FanIn(2), nil), Scale: 0.5,
				}}
			}
		}
	})
	require.NoError(t, err)
	t.Cleanup(f.store.Close)
	return f
}

// Captions that are left for later become, by the function of Encode, the features that the source would have had, with gradients for the
// text encoders' adapters and weights.
func TestEncode(t *testing.T) {
	set := open(t, pictures(t, 4), captioned.Options{Settings: captioned.Settings{Dropout: 0.4}})
	for _, kind := range []string{"sd15", "sdxl"} {
		m := model(t, kind, sd.Options{})
		plain := source(t, Config{Set: set, Model: m, Batch: 4, ClipSkip: 1})
		later := source(t, Config{Set: set, Model: m, Batch: 4, ClipSkip: 1, Captions: true})
		want := values(t, plain, 0, 3)
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			k := 0
			for batch, err := range later.Batches(t.Context(), 0) {
				require.NoError(t, err)
				b := batch(s)
				require.Len(t, b.Captions, 4)
				require.Nil(t, b.Cond.Text)
				b = Encode(m, nil, 1)(s, b, training.Draws{})
				require.Nil(t, b.Captions)
				require.InDeltaSlice(t, want[k].text, torch.ToSlice[float32](b.Cond.Text), 1e-5) // encoded together, not one by one
				if kind == "sdxl" {
					require.InDeltaSlice(t, want[k].pooled, torch.ToSlice[float32](b.Cond.Pooled), 1e-5)
					require.Equal(t, want[k].sizes, torch.ToSlice[float32](b.Cond.Sizes))
				}
				if k++; k == 3 {
					break
				}
			}
			none := training.Batch{}
			require.Equal(t, none, Encode(m, nil, 0)(s, none, training.Draws{}))
			return nil
		}))
		for i, e := range m.Texts {
			a := adapters(t, e.Store())
			e.Store().SetRequiresGrad(true)
			require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
				b := Encode(m, a.of, 0)(s, training.Batch{Captions: []string{"a cat", "", "a dog"}}, training.Draws{})
				sum := b.Cond.Text.Square(s).Sum(s)
				if b.Cond.Pooled != nil {
					sum = sum.Add(s, b.Cond.Pooled.Square(s).Sum(s))
				}
				sum.Backward()
				learned := 0
				for _, list := range []iter.Seq2[string, *torch.Tensor]{a.Parameters(), e.Parameters()} {
					for _, p := range list {
						if g := p.Grad(s); g != nil && g.Abs(s).Max(s).Item() > 0 {
							learned++
						}
					}
				}
				// All but a last layer, or a final norm, that the features leave out.
				require.Greater(t, learned, 30, "%s, encoder %d", kind, i)
				return nil
			}))
			e.Store().SetRequiresGrad(false)
		}
	}
}

// A run with captions for later trains a text encoder's adapter through the U-Net.
func TestTrainTextEncoder(t *testing.T) {
	set := open(t, pictures(t, 4), captioned.Options{})
	m := model(t, "sd15", sd.Options{})
	a := adapters(t, m.Texts[0].Store())
	d, err := m.Denoiser()
	require.NoError(t, err)
	opt, err := optim.SGD{LR: 1e-2}.New(a.Parameters())
	require.NoError(t, err)
	defer opt.Close()
	before := sumOfParameters(a)
	tr := &training.Trainer{Objective: &training.DDPM{Model: d}, Model: a, Optimizer: opt, Seed: 2, Steps: 2, Prepare: Encode(m, a.of, 0),
		Data: source(t, Config{Set: set, Model: m, Batch: 2, Captions: true, Seed: 3})}
	r, err := tr.Train(t.Context())
	require.NoError(t, err)
	require.True(t, r.Finished)
	require.NotEqual(t, before, sumOfParameters(a))
}

func sumOfParameters(m training.Module) (sum float64) {
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	for _, p := range m.Parameters() {
		sum += p.Detach(s).Square(s).Sum(s).Item()
	}
	return sum
}

// Unconditional latents train a consistency model in EDM's form and a latent consistency function by consistency training, and a run that
// stops resumes with the samples that come next.
func TestConsistencyTrainingOnLatents(t *testing.T) {
	set := open(t, pictures(t, 5), captioned.Options{Settings: captioned.Settings{Flip: true}})
	cache := t.TempDir()
	auto := tinyAuto(t)
	train := func(dir string, latent bool, stop int) []float32 {
		net, err := unet.New(unet.Config{Resolution: 4, InChannels: 4, Channels: 8, Mult: []int{1}, Blocks: 1}, torch.CPU, torch.Float32, 1)
		require.NoError(t, err)
		defer net.Close()
		opt, err := optim.SGD{LR: 1e-3}.New(net.Parameters())
		require.NoError(t, err)
		defer opt.Close()
		var f training.ConsistencyModel = &models.Consistency{Net: net}
		if latent {
			f = &models.Latent{Model: &models.DDPM{Net: net}}
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		tr := &training.Trainer{Objective: &training.CT{Model: f, Schedule: training.Fixed{Levels: 10}}, Model: net, Optimizer: opt, Seed: 4, Steps: 6, Dir: dir,
			Data: source(t, Config{Set: set, Model: &sd.Model{VAE: auto}, Batch: 3, Unconditional: true, Cache: cache, Seed: 4})}
		tr.Progress = func(p training.Progress) {
			require.False(t, math.IsNaN(p.Loss))
			if p.Step == stop {
				cancel()
			}
		}
		_, err = tr.Train(ctx)
		if stop > 0 {
			require.ErrorIs(t, err, context.Canceled)
			return nil
		}
		require.NoError(t, err)
		var all []float32
		s := torch.NewScope(torch.CPU)
		defer s.Close()
		for _, p := range net.Parameters() {
			all = append(all, torch.ToSlice[float32](p.Detach(s))...)
		}
		return all
	}
	for _, latent := range []bool{false, true} {
		whole := train(t.TempDir(), latent, 0)
		dir := t.TempDir()
		train(dir, latent, 2)
		require.Equal(t, whole, train(dir, latent, 0))
	}
}
