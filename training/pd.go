package training

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
)

// PD is progressive distillation (Salimans & Ho 2022, algorithm 2): a student learns to match two Euler (DDIM) steps of its teacher in
// one step. It then becomes the teacher of the next stage, and the number of steps halves. In a stage of N steps over the noise levels
// t_0 > … > t_N, for i from 0 to N-1 and x_t = x + t·z,
//
//	t = t_i        t' between        t'' = t_{i+1}
//	x' = D_φ(x_t; t) + t'/t·(x_t - D_φ(x_t; t))        x'' = D_φ(x'; t') + t''/t'·(x' - D_φ(x'; t'))
//	L = max(1/t², 1)·‖D_θ(x_t; t) - D*‖²/D        D* = (x'' - t''/t·x_t)/(1 - t''/t)
//
// D* is the prediction whose step from t ends at x”. x_t cancels, and the remaining formula is accurate for short steps, too:
//
//	D* = (1-w)·D_φ(x_t; t) + w·D_φ(x'; t')        w = (1 - t''/t')/(1 - t''/t)
//
// The grid of N steps has Karras's N+1 levels, the last of them replaced by 0, where samplers end: the grid of N/2 steps is then
// every other level of it. There D* is the teacher's second prediction itself. The published code for this grid (Song et al.
// 2023) ends at SigmaMin instead. Sampling from the student takes Euler's steps along Levels.
//
// The optimum is the first teacher's result with 2·First Euler steps, not the exact solution. With a guided teacher and a guidance scale
// for each sample (Batch.Cond.Guidance) the student is guidance-distilled (Meng et al. 2023).
type PD struct {
	Model   *models.EDM     // trained model, the student
	Teacher models.Denoiser // of the first stage
	Copy    *models.EDM     // of Model's architecture: the teacher after the first stage; nil with only one stage

	First int // steps of the first stage's student, a power of two; 0: 16
	Last  int // steps of the last stage's student, a power of two; 0: 1
	Steps int // length of the run. Its stages take equal parts, those of 1 and 2 steps twice as much, as published

	Distance Distance // nil: L2

	SigmaMin float64 // the smallest noise level before 0; 0: 0.002
	SigmaMax float64 // the largest noise level; 0: 80
	Rho      float64 // the spacing of the levels; 0: 7

	target target // updates Copy
}

func (p *PD) withDefaults() PD {
	c := *p
	c.SigmaMin = cmp.Or(c.SigmaMin, 0.002)
	c.SigmaMax = cmp.Or(c.SigmaMax, 80)
	c.Rho = cmp.Or(c.Rho, 7)
	c.First = cmp.Or(c.First, 16)
	c.Last = cmp.Or(c.Last, 1)
	c.Distance = cmp.Or[Distance](c.Distance, L2{})
	return c
}

// share is the number of parts of a run that a stage of n steps takes.
func share(n int) int {
	if n <= 2 {
		return 2
	}
	return 1
}

// parts is the total number of parts of a run.
func (p *PD) parts() (sum int) {
	for n := p.First; n >= p.Last; n /= 2 {
		sum += share(n)
	}
	return sum
}

// stage returns the number of sampling steps of the student at training step k, and the training steps [from, to) of its stage.
func (p *PD) stage(k int) (n, from, to int) {
	c := p.withDefaults()
	passed, parts := 0, c.parts()
	for n = c.First; ; n /= 2 {
		from = c.Steps * passed / parts
		passed += share(n)
		to = c.Steps * passed / parts
		if k < to || n == c.Last {
			return n, from, to
		}
	}
}

// Left returns the remaining fraction of training step k's stage, from 1 at its first step down to nearly 0: the factor of the
// published learning rate.
func (p *PD) Left(k int) float64 {
	_, from, to := p.stage(k)
	return math.Max(0, float64(to-k)/float64(to-from))
}

// Levels returns the noise levels for sampling the student of training step k with Euler's method, largest first and ending with 0.
func (p *PD) Levels(k int) []float64 {
	n, _, _ := p.stage(k)
	return p.levels(n)
}

// levels is the grid of n steps.
func (p *PD) levels(n int) []float64 {
	c := p.withDefaults()
	levels := noise.Karras(n+1, c.SigmaMin, c.SigmaMax, c.Rho)
	slices.Reverse(levels)
	levels[n] = 0
	return levels
}

// Loss draws one of the student's steps and a noise for each sample and returns the mean weighted distance.
func (p *PD) Loss(s *torch.Scope, k int, b Batch, d Draws) *torch.Tensor {
	n, from, _ := p.stage(k)
	if k == from {
		p.promote(s, k) // Update did not run if the last step was skipped
	}
	steps := make([]int, b.X.Dim(0))
	for i := range steps {
		steps[i] = d.Samples[i].IntN(n)
	}
	return p.LossAt(s, k, b, steps, d.Noise(s, b.X), d.Dropout)
}

// LossAt is the loss of training step k for given steps of the student [B], 0 from the largest level and N-1 to 0, and noise z, of
// the images' shape. The teacher draws no dropout.
func (p *PD) LossAt(s *torch.Scope, k int, b Batch, steps []int, z *torch.Tensor, dropout uint64) *torch.Tensor {
	c := p.withDefaults()
	n, _, _ := p.stage(k)
	levels := p.levels(2 * n)
	of := func(f func(t, mid, next float64) float64) *torch.Tensor {
		v := make([]float64, len(steps))
		for i, j := range steps {
			v[i] = f(levels[2*j], levels[2*j+1], levels[2*j+2])
		}
		return torch.FromSlice(s, v).To(s, b.X.DType())
	}
	t := of(func(t, _, _ float64) float64 { return t })
	x := noisy(s, b.X, z, t)
	target := s.NoGradTidy(func(s *torch.Scope) *torch.Tensor {
		teacher := c.teacher(n)
		toMid := of(func(t, mid, _ float64) float64 { return mid / t }).PerSample(s, x.NDim())
		w := of(func(t, mid, next float64) float64 { return (1 - next/mid) / (1 - next/t) }).PerSample(s, x.NDim())
		cond := b.Cond
		first := teacher.Denoise(s, x, t, cond)
		y := first.Add(s, x.Sub(s, first).Mul(s, toMid))
		second := teacher.Denoise(s, y, of(func(_, mid, _ float64) float64 { return mid }), cond)
		return first.Add(s, second.Sub(s, first).Mul(s, w))
	})
	got := c.Model.Denoise(s, x, t, b.masked(dropout))
	weight := of(func(t, _, _ float64) float64 { return math.Max(1/(t*t), 1) })
	return b.mean(s, c.Distance.Distance(s, got, target).Mul(s, weight))
}

// teacher returns the teacher of the stage of n steps.
func (p *PD) teacher(n int) models.Denoiser {
	if n == p.First {
		return p.Teacher
	}
	return p.Copy
}

// promote makes the student the teacher of training step k.
func (p *PD) promote(s *torch.Scope, k int) {
	if n, _, _ := p.stage(k); n == p.withDefaults().First {
		return
	}
	p.target.move(s, "progressive distillation", 0)
}

// Update makes the student the next stage's teacher at the end of a stage. Validate has to be called before.
func (p *PD) Update(s *torch.Scope, k int) {
	if n, _, to := p.stage(k); k+1 == to && n > p.withDefaults().Last {
		p.promote(s, k+1)
	}
}

// State yields the copy's weights. The stage follows from the training step.
func (p *PD) State() iter.Seq2[string, *torch.Tensor] {
	if p.Copy == nil {
		return fixed{}.State()
	}
	return prefixed("copy.", p.Copy.Parameters())
}

// Stats returns the student's steps N at training step k as "steps".
func (p *PD) Stats(k int) map[string]float64 {
	n, _, _ := p.stage(k)
	return map[string]float64{"steps": float64(n)}
}

// LeastSteps returns the number of training steps below which there is not one for each part of the stages.
func (p *PD) LeastSteps() int {
	c := p.withDefaults()
	return c.parts()
}

// Validate reports missing parts and values out of range. The trainer calls it before the first step.
func (p *PD) Validate() error {
	c := p.withDefaults()
	power := func(n int) bool { return n > 0 && n <= 1<<20 && n&(n-1) == 0 }
	switch {
	case c.Model == nil:
		return errors.New("progressive distillation: no model")
	case c.Teacher == nil:
		return errors.New("progressive distillation: no teacher: want a denoiser, such as one that was trained with the EDM objective")
	case !power(c.First) || !power(c.Last) || c.Last > c.First:
		return fmt.Errorf("progressive distillation: want powers of two for the first stage's steps and the last's, from many to few, got %d and %d",
			c.First, c.Last)
	case c.Steps < c.parts():
		return fmt.Errorf("progressive distillation: want at least %d training steps for the stages from %d steps to %d, got %d",
			c.parts(), c.First, c.Last, c.Steps)
	case !(c.SigmaMin > 0) || !(c.SigmaMax > c.SigmaMin) || !(c.Rho > 0):
		return fmt.Errorf("progressive distillation: want a smallest level above 0, a larger largest one and ρ above 0, got %g, %g and %g",
			c.SigmaMin, c.SigmaMax, c.Rho)
	case c.First == c.Last:
		return nil
	case c.Copy == nil:
		return errors.New("progressive distillation: no copy: want a network of the model's architecture, the teacher after the first stage")
	}
	return p.target.bind("progressive distillation", p.Copy, p.Model)
}
