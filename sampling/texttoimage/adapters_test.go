package texttoimage_test

import (
	"context"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/sampling/texttoimage"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// shift adds a number to a bias.
type shift float64

func (v shift) AddTo(s *torch.Scope, sum, _ *torch.Tensor) {
	sum.AddScaledInPlace(s, torch.Ones(s, sum.DType(), sum.Shape()...), float64(v))
}

// Adapters whose weights are another model's are an error before anything is drawn, those of tags, too.
func TestAdaptersOfAnotherModel(t *testing.T) {
	m1, m2 := openTiny(t, sd.Options{}), openTiny(t, sd.Options{})
	on := func(m *sd.Model) nn.Adapters {
		bias := maps.Collect(m.UNet.Store().Tensors())["conv_out.bias"]
		require.NotNil(t, bias)
		return nn.Adapters{bias: {shift(0.5)}}
	}
	d := texttoimage.Pipeline{Model: m2, Steps: 1, Seed: 5}
	bare := images(t, d, "a cat")[0]
	d.Adapters = on(m2)
	require.NotZero(t, off(bare, images(t, d, "a cat")[0]))
	d.Adapters = on(m1)
	_, err := d.Plan("a cat")
	require.ErrorContains(t, err, "do not belong to this model")
	next := slices.Collect(maps.Values(maps.Collect(d.Images(context.Background(), "a cat"))))
	require.Len(t, next, 1)
	require.ErrorContains(t, next[0], "do not belong to this model")
	d.Adapters, d.Tagged = nil, func([]prompt.LoRA) (sd.Adaptation, error) { return sd.Adaptation{Adapters: on(m1)}, nil }
	_, err = d.Plan("a cat <lora:one:1>")
	require.ErrorContains(t, err, "do not belong to this model")
}
