package training

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"math"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
)

// CTM trains a consistency trajectory model by distillation, without the paper's adversarial term (Kim et al. 2024, algorithm 1, eq. 10
// and 11). Its jumps G go from any noise level to any lower one. For levels t > u ≥ s, a jump from t to s, and a jump to s from the
// solver's point at u, have to end at the same point. Points at s are compared after a further jump to ε:
//
//	x_est = G_θ⁻(G_θ(x_t, t, s), s, ε)        x_target = G_θ⁻(G_θ⁻(Solver(x_t; t → u), u, s), s, ε)
//	L = d(x_est, x_target) + λ·(t'² + σ_d²)/(t'·σ_d)²·‖g_θ(x + t'·z', t', t') - x‖²/D
//
// The optimum is the solver's own result, from every level of the grid to every lower one.
//
// The levels are Karras's. As in the published code, the number of solver steps from t to u is drawn once for the whole batch, n steps
// with a probability proportional to n, and then t and s uniformly from the possible levels. The denoising term draws its own levels and
// noise, as the EDM objective does. The published code draws half of these levels uniformly from the upper 70% of the grid; here they are
// log-uniform over [1, SigmaMax].
type CTM struct {
	Model    *models.Trajectory // trained model
	Target   *models.Trajectory // target network, EMA of the model with the schedule's decay; nil: the model itself without gradients
	Teacher  models.Denoiser
	Solver   Solver   // of the teacher's steps, such as sampling.Heun{}
	Schedule Schedule // N(k), μ(k); nil: Fixed{}, which has 18 levels. The paper's is Fixed{18, 0.999}
	Distance Distance // nil: PseudoHuber; the paper's is LPIPS

	MaxSteps int // maximum number of solver steps from t to u; 0: as many as the levels allow, as published

	// Denoising is λ, the weight of the denoising term; 0: 1. With Last, the weight of the model's last layer, λ is multiplied
	// by the ratio of the two terms' gradients there, ‖∂L_1/∂w‖/(‖∂L_2/∂w‖ + 10⁻⁴), at most 10⁴: the paper's adaptive weight.
	Denoising float64
	Last      *torch.Tensor // nil: the ratio is 1

	Mean, Std float64 // of the denoising term's ln t'; both 0: -1.2 and 1.2
	High      float64 // fraction of them that is log-uniform over [1, SigmaMax]; 0: 0.5

	SigmaMax float64 // the largest noise level; 0: 80
	Rho      float64 // the spacing of the levels; 0: 7

	target target // updates Target
}

func (c *CTM) withDefaults() CTM {
	d := *c
	d.Denoising = cmp.Or(d.Denoising, 1)
	d.High = cmp.Or(d.High, 0.5)
	d.SigmaMax = cmp.Or(d.SigmaMax, 80)
	d.Rho = cmp.Or(d.Rho, 7)
	if d.Schedule == nil {
		d.Schedule = Fixed{}
	}
	d.Distance = cmp.Or[Distance](d.Distance, PseudoHuber{})
	return d
}

// Loss draws levels and noise for each sample and returns the sum of both terms' means.
func (c *CTM) Loss(s *torch.Scope, k int, b Batch, d Draws) *torch.Tensor {
	path, end := c.draw(k, b, d)
	jumps := c.LossAt(s, b, path, end, d.Noise(s, b.X), d.Dropout)
	return c.sum(s, jumps, c.denoising().Loss(s, k, b, d))
}

// draw returns the levels that the solver visits, path[0] = t > path[1] > … > u, and the jumps' ends s ≤ u, each of them [B].
func (c *CTM) draw(k int, b Batch, d Draws) (path [][]float64, end []float64) {
	o := c.withDefaults()
	n, _ := o.Schedule.At(k)
	levels := noise.Karras(n, o.Model.SigmaMinimum(), o.SigmaMax, o.Rho)
	most := n - 1
	if o.MaxSteps > 0 {
		most = min(most, o.MaxSteps)
	}
	steps := 1
	for u := d.Step.IntN(most * (most + 1) / 2); u >= steps; steps++ {
		u -= steps
	}
	end = make([]float64, b.X.Dim(0))
	for range steps + 1 {
		path = append(path, make([]float64, len(end)))
	}
	for i := range end {
		host := d.Samples[i]
		top := steps + host.IntN(n-steps)
		for j := range path {
			path[j][i] = levels[top-j]
		}
		end[i] = levels[host.IntN(top-steps+1)]
	}
	return path, end
}

// LossAt is the first term for given levels: path[0] is t, the others those that the solver goes through down to u, and end is s,
// each of them [B]. The noise z has the images' shape. All jumps draw the same dropout masks, from that seed; the
// teacher draws none.
func (c *CTM) LossAt(s *torch.Scope, b Batch, path [][]float64, end []float64, z *torch.Tensor, dropout uint64) *torch.Tensor {
	o := c.withDefaults()
	frozen := o.Target
	if frozen == nil {
		frozen = o.Model
	}
	at := func(levels []float64) *torch.Tensor { return torch.FromSlice(s, levels).To(s, b.X.DType()) }
	t, until := at(path[0]), at(end)
	x := noisy(s, b.X, z, t)
	target := s.NoGradTidy(func(s *torch.Scope) *torch.Tensor {
		u, y := t, x
		for _, levels := range path[1:] {
			next := torch.FromSlice(s, levels).To(s, b.X.DType())
			y = o.Solver.Step(s, o.Teacher, y, u, next, b.Cond)
			u = next
		}
		return frozen.Origin(s, frozen.Jump(s, y, u, until, b.masked(dropout)), until, b.masked(dropout))
	})
	estimate := o.Model.Jump(s, x, t, until, b.masked(dropout))
	if !s.GradEnabled() {
		return b.mean(s, o.Distance.Distance(s, frozen.Origin(s, estimate, until, b.masked(dropout)), target))
	}
	// The gradient passes through the second jump's point and not through its weights, which can be the model's own. It is taken
	// with respect to the point, and the model's jump then gets it by a product whose value is 0.
	point := estimate.Detach(s)
	point.SetRequiresGrad(true)
	whole := b
	whole.Cond.Checkpointing = false // which torch.Grad does not pass
	d := b.mean(s, o.Distance.Distance(s, frozen.Origin(s, point, until, whole.masked(dropout)), target))
	scale := 1.0
	if b.Cond.Precision == torch.Float16 { // the trainer's loss scaling comes later, and float16 rounds what a mean passes back to zero
		scale = math.Exp2(math.Floor(math.Log2(float64(x.NumEl()))))
	}
	slope := torch.Grad(s, []*torch.Tensor{d.MulScalar(s, scale)}, []*torch.Tensor{point}, torch.BackwardOptions{})[0].MulScalar(s, 1/scale)
	return d.Detach(s).Add(s, estimate.Sub(s, point.Detach(s)).Mul(s, slope).Sum(s))
}

// DenoisingLossAt is the second term without λ, for given levels [B] and noise z, of the images' shape.
func (c *CTM) DenoisingLossAt(s *torch.Scope, b Batch, levels []float64, z *torch.Tensor, dropout uint64) *torch.Tensor {
	return c.denoising().LossAt(s, b, levels, z, dropout)
}

// denoising is the objective of the model's own denoiser.
func (c *CTM) denoising() *EDM {
	o := c.withDefaults()
	g := &models.EDM{Net: shortJumps{o.Model.Net}, Noise: o.Model.Noise, SigmaData: o.Model.SigmaData}
	return &EDM{Model: g, Mean: o.Mean, Std: o.Std, High: o.High, SigmaMax: o.SigmaMax}
}

// shortJumps is a network of two times that is told that jumps end where they start: g(x, t, t).
type shortJumps struct{ models.Network }

func (n shortJumps) Forward(s *torch.Scope, x, noise *torch.Tensor, c models.Cond) *torch.Tensor {
	c.Until = noise
	return models.Forward(s, n.Network, x, noise, c)
}

// sum is the weighted sum of the terms.
func (c *CTM) sum(s *torch.Scope, jumps, denoising *torch.Tensor) *torch.Tensor {
	o := c.withDefaults()
	weighted := denoising.MulScalar(s, o.Denoising)
	if o.Last != nil && s.GradEnabled() {
		norm := func(loss *torch.Tensor) *torch.Tensor {
			return torch.Grad(s, []*torch.Tensor{loss}, []*torch.Tensor{o.Last}, torch.BackwardOptions{RetainGraph: true})[0].Norm(s)
		}
		weighted = weighted.Mul(s, norm(jumps).Div(s, norm(denoising).AddScalar(s, 1e-4)).Clamp(s, 0, 1e4))
	}
	return jumps.Add(s, weighted)
}

// Update updates the target: θ⁻ ← μ(k)·θ⁻ + (1-μ(k))·θ. Validate has to be called before.
func (c *CTM) Update(s *torch.Scope, k int) {
	if c.Target == nil {
		return
	}
	_, decay := c.withDefaults().Schedule.At(k)
	c.target.move(s, "consistency trajectory", decay)
}

// State yields the target's weights.
func (c *CTM) State() iter.Seq2[string, *torch.Tensor] {
	if c.Target == nil {
		return fixed{}.State()
	}
	return prefixed("target.", c.Target.Parameters())
}

// Stats returns N(k) as "levels" and μ(k) as "decay".
func (c *CTM) Stats(k int) map[string]float64 {
	n, decay := c.withDefaults().Schedule.At(k)
	return map[string]float64{"levels": float64(n), "decay": decay}
}

// Validate reports missing parts and values out of range. The trainer calls it before the first step.
func (c *CTM) Validate() error {
	o := c.withDefaults()
	switch {
	case o.Model == nil:
		return errors.New("consistency trajectory: no model")
	case o.Teacher == nil:
		return errors.New("consistency trajectory: no teacher: want a denoiser, such as one that was trained with the EDM objective")
	case o.Solver == nil:
		return errors.New("consistency trajectory: no solver for the teacher's steps: use sampling.Heun{}")
	case o.MaxSteps < 0:
		return fmt.Errorf("consistency trajectory: want at least 1 step of the solver, or 0 for all, got %d", o.MaxSteps)
	case !(o.Denoising > 0) || math.IsInf(o.Denoising, 1):
		return fmt.Errorf("consistency trajectory: want a weight of the denoising term above 0, got %g", o.Denoising)
	case !(o.SigmaMax > o.Model.SigmaMinimum()) || !(o.Rho > 0):
		return fmt.Errorf("consistency trajectory: want a largest level above the smallest, %g, and ρ above 0, got %g and %g",
			o.Model.SigmaMinimum(), o.SigmaMax, o.Rho)
	}
	for _, k := range []int{0, math.MaxInt} {
		if n, decay := o.Schedule.At(k); n < 2 || !(decay >= 0 && decay <= 1) {
			return fmt.Errorf("consistency trajectory: the schedule has %d levels and decay %g at step %d: want at least 2 levels and a decay in [0, 1]",
				n, decay, k)
		}
	}
	if err := o.Model.Validate(); err != nil {
		return fmt.Errorf("consistency trajectory: %w", err)
	}
	if err := c.denoising().Validate(); err != nil {
		return fmt.Errorf("consistency trajectory: %w", err)
	}
	if c.Target == nil {
		return nil
	}
	return c.target.bind("consistency trajectory", c.Target, c.Model)
}
