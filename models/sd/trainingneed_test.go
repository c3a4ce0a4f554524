package sd_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/clip"
	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// The presets have the sizes that their documentation states. What training one takes is estimated within 30%.
func TestTrainingNeed(t *testing.T) {
	if !torchtest.Alone(t) {
		return
	}
	tokens, err := prompt.Default().First(4096 - 514)
	require.NoError(t, err)
	tokens, err = tokens.WithMax(24)
	require.NoError(t, err)
	kl := klVAE(t)
	for _, preset := range []struct {
		net      unet.Config
		text     clip.Config
		millions [2]float64
	}{{unet.Mini(), clip.Mini(), [2]float64{7.2, 0.9}}, {unet.Small(), clip.Small(), [2]float64{7.7, 4.2}}} {
		m, err := sd.New(sd.NewConfig{UNet: preset.net, Text: preset.text, Tokenizer: tokens, Autoencoder: kl, Predict: noise.Velocity, ZeroSNR: true})
		require.NoError(t, err)
		parameters := m.UNet.Store().Count() + m.Texts[0].Store().Count()
		require.InDelta(t, preset.millions[0], float64(m.UNet.Store().Count())/1e6, 0.1)
		require.InDelta(t, preset.millions[1], float64(m.Texts[0].Store().Count())/1e6, 0.1)
		const batch = 32
		size := preset.net.SampleSize[0]
		need := m.TrainingNeed(batch, 1)
		require.Equal(t, 5*4*float64(parameters), need.Weights)
		require.Equal(t, need.Weights+need.Activations, need.Peak())

		before, err := torch.CPU.Memory()
		require.NoError(t, err)
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			texts := make([]sd.Text, batch)
			for i := range texts {
				texts[i] = sd.Text{Prompt: "a hedgehog", Plain: true}
			}
			x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float32, batch, 4, size, size)
			c := models.Cond{Text: m.EmbedTogether(s, nil, texts...).Text}
			m.UNet.Forward(s, x, torch.Full(s, 500, torch.Float32, batch), c).Square(s).Mean(s).Backward()
			return nil
		}))
		after, err := torch.CPU.Memory()
		require.NoError(t, err)
		got, want := float64(after.PeakAllocated-before.Allocated), need.Activations+4*float64(parameters)
		t.Logf("%.1f MB, estimate %.1f MB, factor %.2f", got/1e6, want/1e6, want/got)
		require.InDelta(t, 1, want/got, 0.3)
		require.NoError(t, m.Close())
	}
}
