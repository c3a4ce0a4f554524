package training

import (
	"fmt"
	"math"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// Weights of min-SNR and the loss with them are those of diffusers' signal-to-noise ratios, and noise of several resolutions is that of
// PyTorch, see scripts/golden/training/ddpm.py. 1e-6: diffusers computes the ratios in float32.
func TestDDPMGolden(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		golden, _ := torchtest.Golden(t, s, filepath.Join("testdata", "ddpm.safetensors"))
		steps := []int{0, 60, 300, 999}
		for _, predict := range []noise.Prediction{noise.Epsilon, noise.Velocity, noise.Sample} {
			d := &DDPM{Model: &models.DDPM{Net: &spy{}, Chain: stable(t), Predict: predict}, MinSNR: 5}
			require.NoError(t, d.Validate())
			for i, w := range torch.ToSlice[float64](golden[predict.Diffusers()+"/weights"]) {
				require.InEpsilon(t, w, d.weight(steps[i]), 1e-6, "%v at %d", predict, steps[i])
			}
			b := Batch{X: lcdDraw(s, "x", torch.Float64, 4, 2, 3)}
			loss := d.LossAt(s, b, steps, lcdDraw(s, "z", torch.Float64, 4, 2, 3), 1)
			require.InEpsilon(t, torch.ToSlice[float64](golden[predict.Diffusers()+"/loss"])[0], loss.Item(), 1e-6)
			plain := &DDPM{Model: d.Model}
			require.NotEqual(t, loss.Item(), plain.LossAt(s, b, steps, lcdDraw(s, "z", torch.Float64, 4, 2, 3), 1).Item())
		}
		ratios, made := torch.ToSlice[float64](golden["ratios"]), 0
		d := &DDPM{Multires: len(ratios), Discount: 0.4}
		got := d.pyramid(s, lcdDraw(s, "fine", torch.Float64, 1, 3, 12, 9), func() float64 { made++; return ratios[made-1] },
			func(h, w int) *torch.Tensor {
				return lcdDraw(s, fmt.Sprintf("coarse.%d", made-1), torch.Float64, 1, 3, h, w)
			})
		require.Equal(t, 3, made)
		torchtest.Close(t, "pyramid", got, golden["pyramid"], 1e-12, 0)
		return nil
	}))
}

// An offset is shared by all positions of a sample's channel and by nothing else: the covariance of two positions is its variance, and that
// of two channels 0. With noise of several resolutions positions vary together, the nearer the more, at unit variance. Each sample's noise
// follows from its own stream alone.
func TestDDPMNoise(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		const n, channels, side = 1500, 2, 8
		b := Batch{X: torch.Zeros(s, torch.Float64, n, channels, side, side)}
		covariance := func(z *torch.Tensor, c, y, x int) float64 { // with the first channel's first position
			at := func(c, y, x int) *torch.Tensor {
				return z.Narrow(s, 1, c, 1).Narrow(s, 2, y, 1).Narrow(s, 3, x, 1)
			}
			return at(0, 0, 0).Mul(s, at(c, y, x)).Mean(s).Item()
		}
		of := func(d *DDPM) *torch.Tensor { return d.noise(s, b.X, drawn(1, 0, b)) }
		require.Equal(t, torch.ToSlice[float64](drawn(1, 0, b).Noise(s, b.X)), torch.ToSlice[float64](of(&DDPM{})), "plain noise")
		z := of(&DDPM{NoiseOffset: 0.7})
		require.InDelta(t, 1.49, covariance(z, 0, 0, 0), 0.2)
		require.InDelta(t, 0.49, covariance(z, 0, 0, 1), 0.15)
		require.InDelta(t, 0.49, covariance(z, 0, 7, 7), 0.15)
		require.InDelta(t, 0, covariance(z, 1, 0, 0), 0.15)

		d := &DDPM{Multires: 4, Discount: 0.8}
		z = of(d)
		near, far := covariance(z, 0, 0, 1), covariance(z, 0, 7, 7)
		t.Logf("covariance of neighbours %.2f, of corners %.2f", near, far)
		for i := range 5 {
			require.InDelta(t, 1, z.Narrow(s, 0, i, 1).Std(s, 1).Item(), 1e-12)
		}
		require.Greater(t, near, 0.3)
		require.Less(t, far, near-0.15)

		two := Batch{X: b.X.Narrow(s, 0, 0, 2)}
		alone := d.noise(s, two.X, drawn(1, 0, two))
		require.Equal(t, torch.ToSlice[float64](z.Narrow(s, 0, 0, 2).Contiguous(s)), torch.ToSlice[float64](alone))
		return nil
	}))
}

func TestDDPMRefuses(t *testing.T) {
	model := &models.DDPM{Net: &spy{}}
	for want, d := range map[string]*DDPM{
		"no model": {}, "min-SNR": {Model: model, MinSNR: -1}, "noise offset": {Model: model, NoiseOffset: math.NaN()},
		"at least 1 noise": {Model: model, Multires: -1}, "from 0 to 1": {Model: model, Multires: 1, Discount: 2}, "there are none": {Model: model, Discount: 0.5},
	} {
		require.ErrorContains(t, d.Validate(), want)
	}
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		b := Batch{X: torch.Zeros(s, torch.Float32, 1, 2)}
		for want, d := range map[string]*DDPM{"[B, C, H, W]": {Model: model, Multires: 2}, "[B, C, ...]": {Model: model, NoiseOffset: 0.1}} {
			require.NoError(t, d.Validate())
			require.ErrorContains(t, torch.Catch(func() { d.Try(s, b, drawn(1, 0, b)) }), want)
		}
		return nil
	}))
}
