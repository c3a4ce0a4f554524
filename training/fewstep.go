package training

import (
	"errors"
	"fmt"
	"math"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// FewStep trains a style on a model that samples in few steps, such as a latent consistency model, and keeps its few steps. With the style's
// loss alone the model becomes a denoiser: the optimum is the mean of all images that a noisy point can come from, which is blurred. A
// match to the frozen model without the style, on the same batch, prevents that:
//
//	n ~ U(Steps)        y = √ᾱ_n·x + √(1-ᾱ_n)·z        y' = √ᾱ_n·x + √(1-ᾱ_n)·z'
//	style = (‖f_θ(y, n) - x‖² + ‖f_θ(y', n) - x‖²)/2D
//	e = f_θ(y, n) - f(y, n)        e' = f_θ(y', n) - f(y', n)        f: the frozen model
//	match = (‖(e - e')/2‖² + Anchor·‖(e + e')/2‖²)/D
//	L = style + Match·match
//
// The timesteps are those that the sampler visits: the model is evaluated at no others. Errors are of x̂_0, which the sampler goes on from; in
// terms of ε those at high noise, where a few-step sampler starts, would hardly count.
//
// A few-step model differs from a denoiser in how its output varies with the noise: a denoiser's hardly does. So the match is mainly of
// the variation, between two noises of an image. What both noises have in common is left to the style, and Match does not weaken it. With an
// Anchor of 1 the match is the plain mean squared difference of the two models, for one noise per image and half the time. Its optimum is
// (E[x|y] + Match·f(y))/(1 + Match) at every point: between the style's blurred mean and the unstyled image.
//
// Model and Frozen are one network with and without the style's adapter. For LCM-LoRA they are
//
//	&models.Adapted{Net: base, Adapters: style.At(1).And(lcm.At(1)), Learned: style}
//	&models.Adapted{Net: base, Adapters: lcm.At(1)}
//
// and the base can learn the style without the few-step adapter, as Style over &models.Adapted{Net: base, Adapters: style.At(1), Learned: style}.
// The loss of Style, at all timesteps, then takes the place of the style term, and the few-step model has to match only.
type FewStep struct {
	fixed
	Model  *models.Latent // the few-step model with the style's adapter, trained
	Frozen *models.Latent // the same without it; runs without dropout
	// Style is the style's loss on another network with the same trained adapter, such as the base without the few-step adapter; nil: the
	// formula's, of Model.
	Style *DDPM

	Steps  []int   // timesteps that the sampler visits; nil: 999, 759, 499 and 259, those of latent consistency models in 4 steps
	Match  float64 // weight of the match; 0: 30
	Anchor float64 // from 0 to 1; see above
}

func (f *FewStep) withDefaults() FewStep {
	c := *f
	if c.Steps == nil {
		c.Steps = []int{999, 759, 499, 259}
	}
	if c.Match == 0 {
		c.Match = 30
	}
	return c
}

// Loss draws a timestep and the noises for each sample and returns the sum of both terms.
func (f *FewStep) Loss(s *torch.Scope, k int, b Batch, d Draws) *torch.Tensor {
	c := f.withDefaults()
	steps := make([]int, b.X.Dim(0))
	for i := range steps {
		steps[i] = c.Steps[d.Samples[i].IntN(len(c.Steps))]
	}
	z := []*torch.Tensor{d.Noise(s, b.X)}
	if c.Anchor < 1 {
		z = append(z, d.Noise(s, b.X))
	}
	loss := f.loss(s, b, steps, z, d)
	if f.Style == nil {
		return loss
	}
	d.Observe = nil
	return loss.Add(s, f.Style.Loss(s, k, b, d))
}

// LossAt is the loss for given timesteps [B] and noises z, of the images' shape: two of them, or one with an Anchor of 1. With Style, it is
// the match alone, with its weight.
func (f *FewStep) LossAt(s *torch.Scope, b Batch, steps []int, z []*torch.Tensor, dropout uint64) *torch.Tensor {
	return f.loss(s, b, steps, z, Draws{Dropout: dropout})
}

func (f *FewStep) loss(s *torch.Scope, b Batch, steps []int, z []*torch.Tensor, draws Draws) *torch.Tensor {
	c, chain := f.withDefaults(), f.Model.Model.Process()
	var points []*torch.Tensor
	var all []int
	var rows []int64
	for _, z := range z {
		points, all = append(points, chain.Noisy(s, b.X, z, steps)), append(all, steps...)
		for i := range steps {
			rows = append(rows, int64(i))
		}
	}
	// Both noises of an image are one batch.
	y, cond := torch.Cat(s, points, 0), b.Cond.Rows(s, torch.FromSlice(s, rows))
	want := s.NoGradTidy(func(s *torch.Scope) *torch.Tensor { return f.Frozen.Forward(s, y, all, cond) })
	cond.Dropout = models.DropoutFrom(draws.Dropout)
	got := f.Model.Forward(s, y, all, cond)
	square := func(x *torch.Tensor) *torch.Tensor { return x.Square(s).Flatten(s, 1, -1).MeanDim(s, false, 1) }
	e := got.Sub(s, want).Chunk(s, len(z), 0)
	var match *torch.Tensor
	if len(z) == 1 {
		match = square(e[0])
	} else {
		match = square(e[0].Sub(s, e[1])).MulScalar(s, 0.25)
		if c.Anchor > 0 {
			match = match.Add(s, square(e[0].Add(s, e[1])).MulScalar(s, 0.25*c.Anchor))
		}
	}
	each := match.MulScalar(s, c.Match)
	if draws.Observe != nil {
		levels := make([]float64, len(steps))
		for i, n := range steps {
			levels[i] = chain.Sigma(n)
		}
		draws.Observe(levels, match)
	}
	if f.Style != nil {
		return b.mean(s, each)
	}
	for _, x := range got.Chunk(s, len(z), 0) {
		each = each.Add(s, square(x.Sub(s, b.X)).DivScalar(s, float64(len(z))))
	}
	return b.mean(s, each)
}

// Try computes a loss, in which the networks check their conditions. The trainer calls it before a run.
func (f *FewStep) Try(s *torch.Scope, b Batch, d Draws) {
	f.Loss(s, 0, b, d)
	if f.Style != nil {
		f.Style.Try(s, b, d)
	}
}

// Validate reports missing parts and values out of range. The trainer calls it before the first step.
func (f *FewStep) Validate() error {
	refuse := func(format string, args ...any) error { return fmt.Errorf("few-step style: "+format, args...) }
	switch {
	case f.Model == nil:
		return errors.New("few-step style: no model: want the few-step model with the style's adapter")
	case f.Frozen == nil:
		return errors.New("few-step style: no frozen model: want the few-step model without the style's adapter")
	}
	for _, v := range []Validator{f.Model, f.Frozen} {
		if err := v.Validate(); err != nil {
			return refuse("%w", err)
		}
	}
	c, chain := f.withDefaults(), f.Model.Model.Process()
	if !equalChains(chain, f.Frozen.Model.Process()) {
		return refuse("the model and the frozen one have different noise schedules; want the same chain")
	}
	for _, n := range c.Steps {
		if n < 1 || n >= chain.Steps() {
			return refuse("want timesteps from 1 to %d, got %d", chain.Steps()-1, n)
		}
	}
	switch {
	case len(c.Steps) == 0:
		return refuse("want at least one timestep that the sampler visits, or nil for those of latent consistency models in 4 steps")
	case !(c.Match > 0) || math.IsInf(c.Match, 1):
		return refuse("want a weight of the match above 0, or 0 for 30, got %g", f.Match)
	case !(c.Anchor >= 0 && c.Anchor <= 1):
		return refuse("want an anchor from 0 to 1, got %g", f.Anchor)
	case f.Style == nil:
		return nil
	}
	if err := f.Style.Validate(); err != nil {
		return refuse("style: %w", err)
	}
	return nil
}
