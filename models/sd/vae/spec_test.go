package vae

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// A config.json of either class is read as it was written, with the same autoencoder from its weights, of a tiny one also the decoder alone.
func TestSpec(t *testing.T) {
	kl := Config{Channels: []int{8, 8}, Layers: 1, Groups: 2, ScalingFactor: 0.5}.WithDefaults()
	tiny, pool := TinyConfig{ScalingFactor: 0.5, EncoderWidths: []int{4, 4}, DecoderWidths: []int{4, 4}, EncoderBlocks: []int{1, 1}, DecoderBlocks: []int{1, 1}}.WithDefaults(), TinyConfig{}
	pool = tiny
	pool.Pool = true
	for class, want := range map[string]Spec{klClass: {KL: &kl}, TinyClass: {Tiny: &tiny}, PoolClass: {Tiny: &pool}} {
		data, err := json.Marshal(want)
		require.NoError(t, err)
		require.Equal(t, class, ClassOf(data))
		require.Equal(t, class != klClass, IsTiny(data))
		got, err := ParseSpec(data)
		require.NoError(t, err)
		require.Equal(t, want, got)
		require.Equal(t, []int{2, 4}, []int{got.Factor(), got.Channels()})
		require.Positive(t, got.Activations(16, 16, 0))
		require.Equal(t, map[bool]torch.DType{true: torch.Float32, false: torch.Float16}[class == klClass], got.DType(torch.Float16))

		var a Autoencoder
		if want.KL != nil {
			a, err = New(*want.KL, torch.CPU, torch.Float32, 1)
		} else {
			a, err = NewTiny(*want.Tiny, torch.CPU, torch.Float32, 1)
		}
		require.NoError(t, err)
		spec, st, err := SpecOf(a)
		require.NoError(t, err)
		require.Equal(t, want, spec)
		again, err := spec.From(nn.Stored{Store: st}, torch.CPU, torch.Float32, 0)
		require.NoError(t, err)
		require.NoError(t, nn.Fits(nn.Stored{Store: st}, spec.Shapes(nn.Stored{Store: st})))
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			x := torch.Rand(s, torch.NewGenerator(s, 1), torch.Float32, 4, 3, 16, 16).MulScalar(s, 2).SubScalar(s, 1)
			require.LessOrEqual(t, a.Encode(s, x, nil).Sub(s, again.Encode(s, x, nil)).Abs(s).Max(s).Item(), 1e-5)
			// With the measured factor, latents have a standard deviation of 1.
			factor, err := MeasureScaling(s, a, x)
			require.NoError(t, err)
			require.NoError(t, Rescale(a, factor))
			require.InDelta(t, 1, a.Encode(s, x, nil).Std(s, 0).Item(), 1e-5)
			again, err := MeasureScaling(s, a, x)
			require.NoError(t, err)
			require.InEpsilon(t, factor, again, 1e-5)
			return nil
		}))
		require.Error(t, Rescale(a, 0))
		a.Close()
		again.Close()
	}
	for _, text := range []string{`{`, `{"_class_name": "VQModel"}`, `{"_class_name": "AutoencoderTiny", "act_fn": "silu"}`} {
		_, err := ParseSpec([]byte(text))
		require.Error(t, err)
	}
}
