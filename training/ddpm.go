package training

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
)

// DDPM trains a network on a discrete chain, for any prediction type (Ho et al. 2020, eq. 14):
//
//	i ~ U{0, …, N-1}        L = w_i·‖F_θ(√ᾱ_i·x + √(1-ᾱ_i)·z, i) - target‖²/D
//
// w_i is 1, or by MinSNR (Hang et al. 2023, section 3.4), where SNR = ᾱ_i/(1-ᾱ_i),
//
//	ε: min(SNR, γ)/SNR        v: min(SNR, γ)/(SNR + 1)        x_0: min(SNR, γ)
//
// which is the same weight of the error of x_0 in all three cases. The noise z is white and of unit variance, or as NoiseOffset and
// Multires say; ε and v are then those of that noise.
type DDPM struct {
	fixed
	Model *models.DDPM

	MinSNR float64 // γ, the paper's is 5; 0: no weighting
	// NoiseOffset is the deviation of a number that is added to all of a channel's noise in a sample, so that a model learns to make
	// images that are dark or bright as a whole (Guttenberg 2023); 0: none. 0.05 to 0.1 is usual.
	NoiseOffset float64
	// Multires is the number of noises of lower and lower resolution that are added to the noise (Whitaker 2023), enlarged, the i-th with
	// the factor Discount^i and at a scale of r_i^-i with r_i ~ U[2, 4], for i from 0 and until one has a side of a single pixel. The sum
	// is scaled to unit variance in each sample. 0: none. As in kohya's scripts, except that these draw r_i and scale for whole batches.
	Multires int
	Discount float64 // 0: 0.3
}

// Loss draws a timestep and a noise for each sample and returns the mean squared error of the prediction.
func (d *DDPM) Loss(s *torch.Scope, _ int, b Batch, draws Draws) *torch.Tensor {
	steps := make([]int, b.X.Dim(0))
	for i := range steps {
		steps[i] = draws.Samples[i].IntN(d.Model.Process().Steps())
	}
	return d.loss(s, b, steps, d.noise(s, b.X, draws), draws)
}

// LossAt is the loss for given timesteps of the chain [B] and noise z, of the images' shape.
func (d *DDPM) LossAt(s *torch.Scope, b Batch, steps []int, z *torch.Tensor, dropout uint64) *torch.Tensor {
	return d.loss(s, b, steps, z, Draws{Dropout: dropout})
}

func (d *DDPM) loss(s *torch.Scope, b Batch, steps []int, z *torch.Tensor, draws Draws) *torch.Tensor {
	chain := d.Model.Process()
	got := d.Model.Forward(s, chain.Noisy(s, b.X, z, steps), steps, b.masked(draws.Dropout))
	each := L2{}.Distance(s, got, d.Model.Target(s, b.X, z, steps))
	if draws.Observe != nil {
		levels := make([]float64, len(steps))
		for i, n := range steps {
			levels[i] = chain.Sigma(n)
		}
		draws.Observe(levels, each)
	}
	if d.MinSNR > 0 {
		w := make([]float64, len(steps))
		for i, n := range steps {
			w[i] = d.weight(n)
		}
		each = each.MulPerSample(s, torch.FromSlice(s, w))
	}
	return b.mean(s, each)
}

// weight is w_i with MinSNR.
func (d *DDPM) weight(step int) float64 {
	sigma := d.Model.Process().Sigma(step)
	snr := 1 / (sigma * sigma)
	switch w := math.Min(snr, d.MinSNR); d.Model.Predict {
	case noise.Epsilon:
		return w / snr
	case noise.Velocity:
		return w / (snr + 1)
	default:
		return w
	}
}

// noise draws each sample's noise, with its offset and its parts of lower resolution.
func (d *DDPM) noise(s *torch.Scope, x *torch.Tensor, draws Draws) *torch.Tensor {
	z := draws.Noise(s, x)
	if d.NoiseOffset > 0 {
		shape := x.Shape()
		var offsets []float64
		for _, r := range draws.Samples {
			for range shape[1] {
				offsets = append(offsets, d.NoiseOffset*r.NormFloat64())
			}
		}
		for i := range shape[2:] {
			shape[2+i] = 1
		}
		z = z.Add(s, torch.FromSlice(s, offsets, shape...).To(s, z.DType()))
	}
	if d.Multires == 0 {
		return z
	}
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		each := make([]*torch.Tensor, len(draws.Samples))
		for i, r := range draws.Samples {
			coarse := func(h, w int) *torch.Tensor {
				small := torch.Empty(s, z.DType(), 1, z.Dim(1), h, w)
				return Draws{Samples: []*rand.Rand{r}}.Noise(s, small)
			}
			each[i] = d.pyramid(s, z.Narrow(s, 0, i, 1), func() float64 { return 2 + 2*r.Float64() }, coarse)
		}
		return torch.Cat(s, each, 0)
	})
}

// pyramid adds noises of lower resolution to the noise z [1, C, H, W] of a sample. ratio draws r, and coarse a noise [1, C, h, w].
func (d *DDPM) pyramid(s *torch.Scope, z *torch.Tensor, ratio func() float64, coarse func(h, w int) *torch.Tensor) *torch.Tensor {
	discount := d.Discount
	if discount == 0 {
		discount = 0.3
	}
	height, width := z.Dim(2), z.Dim(3)
	for i := range d.Multires {
		by := math.Pow(ratio(), float64(i))
		h, w := max(1, int(float64(height)/by)), max(1, int(float64(width)/by))
		more := coarse(h, w).Interpolate(s, height, width, torch.Bilinear)
		z = z.Add(s, more.MulScalar(s, math.Pow(discount, float64(i))))
		if h == 1 || w == 1 {
			break
		}
	}
	return z.Div(s, z.Std(s, 1))
}

// Metadata describes a snapshot's model, so that package checkpoint can read it; nothing for a network of the user's own.
func (d *DDPM) Metadata(step int, images int64) (map[string]string, error) {
	c := d.Model.Process()
	return metadata(d.Model, "ddpm", min(c.Sigma(c.Steps()-1), 80), step, images)
}

// Try draws noise of the samples' shape, which Multires needs images for, and computes a loss. The trainer calls it before a run.
func (d *DDPM) Try(s *torch.Scope, b Batch, draws Draws) {
	switch n := b.X.NDim(); {
	case d.Multires > 0 && n != 4:
		panic(&torch.Error{Op: "ddpm", Msg: fmt.Sprintf("noise of several resolutions is for images [B, C, H, W], got samples of shape %v", b.X.Shape())})
	case d.NoiseOffset > 0 && n < 3:
		panic(&torch.Error{Op: "ddpm", Msg: fmt.Sprintf("a noise offset is for samples with channels and positions, [B, C, ...], got shape %v", b.X.Shape())})
	}
	d.Loss(s, 0, b, draws)
}

// Validate reports missing parts and values out of range. The trainer calls it before the first step.
func (d *DDPM) Validate() error {
	if d.Model == nil {
		return errors.New("ddpm: no model")
	}
	if err := d.Model.Validate(); err != nil {
		return err
	}
	finite := func(v float64) bool { return v >= 0 && !math.IsInf(v, 1) }
	switch {
	case !finite(d.MinSNR):
		return fmt.Errorf("ddpm: want a γ of min-SNR weighting above 0, or 0 for none, got %g", d.MinSNR)
	case !finite(d.NoiseOffset):
		return fmt.Errorf("ddpm: want a noise offset above 0, or 0 for none, got %g", d.NoiseOffset)
	case d.Multires < 0:
		return fmt.Errorf("ddpm: want at least 1 noise of lower resolution, or 0 for none, got %d", d.Multires)
	case !finite(d.Discount) || d.Discount > 1:
		return fmt.Errorf("ddpm: want a discount of noises of lower resolution from 0 to 1, or 0 for 0.3, got %g", d.Discount)
	case d.Discount > 0 && d.Multires == 0:
		return fmt.Errorf("ddpm: a discount of %g of noises of lower resolution, but there are none: set Multires", d.Discount)
	}
	return nil
}
