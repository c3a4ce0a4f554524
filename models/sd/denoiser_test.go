package sd_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/torch"
)

// A model's denoiser is its network in σ coordinates, with noise and prediction of its scheduler config.
func TestDenoiser(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, tiny.Write(dir, "sd15"))
	m, err := sd.Open(dir, sd.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, m.Close()) }()
	published := m.Scheduler
	for text, predicts := range map[string]noise.Prediction{
		string(published): noise.Epsilon,
		`{"beta_schedule": "scaled_linear", "prediction_type": "sample"}`:                                     noise.Sample,
		`{"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": true, "prediction_type": "v_prediction"}`: noise.Velocity,
		"": noise.Epsilon,
	} {
		m.Scheduler = []byte(text)
		if text == "" {
			m.Scheduler = nil
		}
		d, err := m.Denoiser()
		require.NoError(t, err, text)
		require.NoError(t, d.Validate())
		require.Equal(t, predicts, d.Predict)
		if text == "" || text == string(published) {
			want, err := noise.Betas{Schedule: noise.ScaledLinear}.Chain()
			require.NoError(t, err)
			require.Equal(t, want, d.Chain)
		}
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			return s.NoGrad(func(s *torch.Scope) error {
				const step = 500
				g := torch.NewGenerator(s, 1)
				c := models.Cond{Text: torch.Randn(s, g, torch.Float32, 2, 77, m.UNet.Config().CrossAttentionDim[0])}
				y := torch.Randn(s, g, torch.Float32, 2, 4, 8, 8)
				F := m.UNet.Forward(s, y, torch.Full(s, step, torch.Float32, 1), c)
				alpha, sigma := d.Chain.Signal(s, y.Narrow(s, 0, 0, 1), []int{step})
				a, b := alpha.Item(), sigma.Item()
				want := y.Sub(s, F.MulScalar(s, b)).DivScalar(s, a)
				switch predicts {
				case noise.Velocity:
					want = y.MulScalar(s, a).Sub(s, F.MulScalar(s, b))
				case noise.Sample:
					want = F
				}
				got := d.Denoise(s, y.DivScalar(s, a), torch.Full(s, d.Chain.Sigma(step), torch.Float32, 1), c)
				// Roundings of float32, of the step among them, which through the network are some more.
				require.LessOrEqual(t, got.Sub(s, want).Abs(s).Max(s).Item(), 1e-4*want.Abs(s).Max(s).Item(), text)
				return nil
			})
		}))
	}
	for _, text := range []string{`{`, `{"rescale_betas_zero_snr": true}`} {
		m.Scheduler = []byte(text)
		_, err := m.Denoiser()
		require.ErrorContains(t, err, "scheduler config: ")
	}
	_, err = (&sd.Model{}).Denoiser()
	require.Error(t, err)
}
