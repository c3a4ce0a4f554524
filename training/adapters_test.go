package training

import (
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
