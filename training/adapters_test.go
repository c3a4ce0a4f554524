package training

import (
	"log/slog"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/sd/sdtest"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/optim"
)

// tinyBase is the golden files' network without gradients.
func tinyBase(t *testing.T, g lcdGolden, d torch.DType) *unet.UNet {
	t.Helper()
	base, err := unet.From(g.config, sdtest.Filled(unet.Shapes(g.config)), torch.CPU, d)
	require.NoError(t, err)
	t.Cleanup(base.Close)
	return base
}

// newAdapter is an adapter whose factors are both drawn, so that it has an effect.
func newAdapter(t *testing.T, s *torch.Scope, base *unet.UNet, seed uint64) *lora.Adapter {
	t.Helper()
	a, err := lora.New(lora.Networks{"unet": base.Store()}, lora.Config{Rank: 2, Seed: seed})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, a.Close()) })
	stream := torch.NewGenerator(s, seed)
	require.NoError(t, s.NoGrad(func(s *torch.Scope) error {
		for name, p := range a.Parameters() {
			if strings.Contains(name, ".lora_B.") {
				p.CopyFrom(s, torch.Randn(s, stream, torch.Float32, p.Shape()...).MulScalar(s, 0.1))
			}
		}
		return nil
	}))
	return a
}

// gradient is the norm of an adapter's gradients, which are float32.
func gradient(t *testing.T, s *torch.Scope, a *lora.Adapter) float64 {
	t.Helper()
	sum := 0.0
	for name, p := range a.Parameters() {
		if g := p.Grad(s); g != nil {
			require.Equal(t, torch.Float32, g.DType(), name)
			sum += g.Square(s).Sum(s).Item()
		}
		p.ZeroGrad()
	}
	return math.Sqrt(sum)
}

// LCM-LoRA beside a base in bfloat16: samples, loss and adapter are float32, and loss and gradients are those of the base in float32 but for
// its rounding.
func TestLCDBesideHalfPrecision(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := readLCD(t, s, "sd-epsilon")
		var losses, norms []float64
		for _, d := range []torch.DType{torch.Float32, torch.BFloat16} {
			base := tinyBase(t, g, d)
			adapter := newAdapter(t, s, base, 1)
			chain := stable(t)
			b, z, null := g.conditions(s, 0, torch.Float32)
			l := &LCD{Model: &models.Latent{Model: &models.DDPM{Net: &models.Adapted{Net: base, Adapters: adapter.At(1), Learned: adapter}, Chain: chain}},
				Teacher: &models.DDPM{Net: base, Chain: chain}, Null: null}
			require.NoError(t, l.Validate())
			loss := l.LossAt(s, b, g.index[0], g.w[0], z, 1)
			require.Equal(t, torch.Float32, loss.DType())
			loss.Backward()
			losses, norms = append(losses, loss.Item()), append(norms, gradient(t, s, adapter))
		}
		t.Logf("losses %.5g, norms of gradients %.5g", losses, norms)
		require.InEpsilon(t, losses[0], losses[1], 0.05)
		require.InEpsilon(t, norms[0], norms[1], 0.1)
		return nil
	}))
}

// Gradients through a network in float16 without loss scaling are warned of, and nothing else is.
func TestFloat16WithoutLossScalingIsWarnedOf(t *testing.T) {
	chain := stable(t)
	for _, c := range []struct {
		dtype torch.DType
		scale *LossScale
		warns bool
	}{{torch.Float16, nil, true}, {torch.Float16, &LossScale{}, false}, {torch.BFloat16, nil, false}, {torch.Float32, nil, false}} {
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			g := readLCD(t, s, "sd-epsilon")
			base := tinyBase(t, g, c.dtype)
			adapter := newAdapter(t, s, base, 1)
			b, _, null := g.conditions(s, 0, torch.Float32)
			net := &models.Adapted{Net: base, Adapters: adapter.At(1), Learned: adapter}
			ddpm := &models.DDPM{Net: net, Chain: chain}
			opt, err := optim.SGD{LR: 1e-4}.New(adapter.Parameters())
			require.NoError(t, err)
			defer opt.Close()
			var log strings.Builder
			trainer := &Trainer{
				Objective: &LCD{Model: &models.Latent{Model: ddpm}, Teacher: &models.DDPM{Net: base, Chain: chain}, Null: null},
				Model:     adapter, Optimizer: opt, Steps: 1, LossScale: c.scale, Log: slog.New(slog.NewTextHandler(&log, nil)),
				Data: SourceFunc(func(*torch.Scope, int64) Batch { return b }),
			}
			_, err = trainer.Train(t.Context())
			require.NoError(t, err)
			require.Equal(t, c.warns, strings.Contains(log.String(), "LossScale"), "%v: %s", c.dtype, log.String())

			latent, edm := &models.Latent{Model: ddpm}, &models.EDM{Net: net}
			for _, o := range []Objective{
				&CT{Model: latent}, &CD{CT: CT{Model: &models.Consistency{Net: net}}}, &ECT{Model: latent}, &CTM{Model: &models.Trajectory{Net: net}},
				&DDPM{Model: ddpm}, &EDM{Model: edm}, &FewStep{Model: latent}, &Flow{Model: &models.Flow{Net: net}}, &MeanFlow{Model: &models.MeanFlow{Net: net}},
				&PD{Model: edm}, &SCM{Model: &models.TrigConsistency{Net: net}}, &StableECT{ECT{Model: latent}}, &SoFlow{Model: &models.MeanFlow{Net: net}},
				&AlphaFlow{MeanFlow: MeanFlow{Model: &models.MeanFlow{Net: net}}}, &IMF{MeanFlow: MeanFlow{Model: &models.MeanFlow{Net: net}}},
				&CMT{Model: latent}, &CMT{Jumps: &models.MeanFlow{Net: net}}, &MultistepCM{Model: edm},
			} {
				trainer.Objective = o
				require.Equal(t, c.warns, trainer.unscaled(), "%T", o)
			}
			return nil
		}))
	}
}

// A style's adapter is trained on a base with a few-step adapter, which is frozen, or also without it for the style's loss: only the style
// gets gradients, and where it has no effect yet there is nothing to match.
func TestFewStepOfAdapters(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := readLCD(t, s, "xl-epsilon")
		base, chain := tinyBase(t, g, torch.Float32), stable(t)
		lcm, style := newAdapter(t, s, base, 1), newAdapter(t, s, base, 2)
		lcm.Store().SetRequiresGrad(false)
		of := func(net models.Network) *models.DDPM {
			return &models.DDPM{Net: net, Chain: chain, Predict: noise.Epsilon}
		}
		few := &models.Adapted{Net: base, Adapters: lcm.At(1)}
		styled := &models.Adapted{Net: base, Adapters: style.At(1).And(lcm.At(1)), Learned: style}
		alone := &models.Adapted{Net: base, Adapters: style.At(1), Learned: style}
		b, z, _ := g.conditions(s, 0, torch.Float32)
		two := []*torch.Tensor{z, b.X}
		f := &FewStep{Model: &models.Latent{Model: of(styled)}, Frozen: &models.Latent{Model: of(few)}}
		for _, f.Style = range []*DDPM{nil, {Model: of(alone), MinSNR: 5}} {
			require.NoError(t, f.Validate())
			require.NoError(t, torch.Catch(func() { f.Try(s, b, drawn(1, 0, b)) }))
			loss := f.Loss(s, 0, b, drawn(1, 0, b))
			loss.Backward()
			require.NotZero(t, gradient(t, s, style))
			require.Zero(t, gradient(t, s, lcm))
		}
		match := f.LossAt(s, b, []int{999, 759, 499, 259}, two, 1)
		require.Greater(t, match.Item(), 1e-3)
		require.NoError(t, s.NoGrad(func(s *torch.Scope) error {
			for name, p := range style.Parameters() {
				if strings.Contains(name, ".lora_B.") {
					p.ZeroInPlace(s)
				}
			}
			return nil
		}))
		require.Less(t, f.LossAt(s, b, []int{999, 759, 499, 259}, two, 1).Item(), 1e-9*match.Item()+1e-12, "no effect, no match")
		return nil
	}))
}
