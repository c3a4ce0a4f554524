package training

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
)

// LCD is latent consistency distillation (Luo et al. 2023, algorithm 1): the model is trained to give the same output at a point and
// after one DDIM step of a guided teacher from it, k timesteps of the chain further down:
//
//	i ~ U{0, …, N/k - 1}        n = k·(i+1) - 1        n' = max(n - k, 0)        w ~ U[WMin, WMax]
//	y = √ᾱ_n·z + √(1-ᾱ_n)·ε        for clean latents z and noise ε
//	x̂_0 = x̂_0(y; c) + w·(x̂_0(y; c) - x̂_0(y; ∅))        ε̂ = ε̂(y; c) + w·(ε̂(y; c) - ε̂(y; ∅))        of the teacher at n
//	ŷ = √ᾱ_n'·x̂_0 + √(1-ᾱ_n')·ε̂
//	L = d( f_θ(y, n, c, w), f_θ⁻(ŷ, n', c, w) )
//
// w = 0 is no guidance: it is the guidance scale minus 1. At n' = 0, f is the identity ([models.Latent]), so that the lowest pair is where
// the data enters. The optimum is the guided teacher's own result with one DDIM step per k timesteps.
//
// A full latent consistency model has a network of its own, which starts from the teacher's weights and takes the guidance scale
// (WithGuidance of a Stable Diffusion U-Net makes one), with GuidanceInput set and an EMA of it as Target. For LCM-LoRA (Luo et al. 2023b) the student's
// network is a [models.Adapted] over the teacher's own network, which is thus held once, and neither is set: the adapter learns the mean
// over w.
//
// Phases and Trajectory are variants whose outputs are points of the trajectory instead of its clean end: the network's own DDIM step
// from n to a timestep e ≤ n', without the boundary function of [models.Latent]. At n = e it is the identity.
//
//	G_θ(y, n → e) = √ᾱ_e·x̂_0 + √(1-ᾱ_e)·ε̂        of the student at y and n
//	L = d( G_θ(y, n → e), G_θ⁻(ŷ, n' → e) )
//
// In σ coordinates this is [CD] with Euler's step and a [models.Guided] teacher. LCD computes in the chain's own coordinates instead:
// with whole timesteps the networks' inputs are exactly those of the chain and the boundary at timestep 0 is exact in float32 too, where
// levels that are rounded come out as timesteps that are not whole, and student and teacher need not have the same conditioning.
type LCD struct {
	Model   *models.Latent // trained model, the student
	Target  *models.Latent // target network, EMA of the model; nil: the model itself without gradients
	Teacher *models.DDPM   // with the student's chain. Its network has no adapters but those in a batch's Cond
	// Null is the unconditional input of the teacher, with one row for all samples or one for each: see [models.Cond.Twice]. For
	// Stable Diffusion it is the text features of the empty prompt, and for SDXL also the pooled ones; a field that is nil is the
	// sample's own. Empty: a teacher without guidance. The caller keeps its tensors open.
	Null models.Cond

	Skip int // k; 0: 20

	// WMin and WMax are the range of w; nil: 5 and 15. Equal ones are a fixed w, and new(0.0) for both is no guidance. The paper uses 2 and 14.
	WMin, WMax *float64
	// GuidanceInput passes the guidance scale w + 1 to the student's network, as Cond.Guidance.
	GuidanceInput bool

	// Phases divides the pairs of timesteps into that many phases: e is the lower end of the phase that n is in (phased consistency models,
	// Wang et al. 2024, section 3), so that as many DDIM steps, one per phase, follow the teacher without noise between them. 0: none.
	Phases int
	// Trajectory draws e among the lower ends of the pairs from i downwards (trajectory consistency distillation, Zheng et al. 2024, with the
	// first-order function), for samplers that go to any timestep, such as TCD's. One prediction serves all e, so that the optimum is a
	// compromise of all jumps from a point.
	Trajectory bool

	Distance Distance // nil: ElementHuber; the paper's experiments use L2
	Decay    float64  // of the target's EMA, each optimizer step; 0: 0.95

	target target // updates Target
}

func (c *LCD) withDefaults() LCD {
	d := *c
	if d.Skip == 0 {
		d.Skip = 20
	}
	if d.WMin == nil {
		d.WMin = new(5.0)
	}
	if d.WMax == nil {
		d.WMax = new(15.0)
	}
	if d.Distance == nil {
		d.Distance = ElementHuber{}
	}
	if d.Decay == 0 {
		d.Decay = 0.95
	}
	return d
}

// Loss draws a pair of timesteps, a guidance and a noise for each sample and returns the mean distance.
func (c *LCD) Loss(s *torch.Scope, _ int, b Batch, d Draws) *torch.Tensor {
	index, w := c.draw(b, d)
	end := c.ends(index)
	if c.Trajectory {
		end = make([]int, len(index))
		for i, at := range index {
			end[i] = c.lower(d.Samples[i].IntN(at + 1))
		}
	}
	return c.loss(s, b, index, end, w, d.Noise(s, b.X), d)
}

// lower is the lower timestep n' of pair i.
func (c *LCD) lower(i int) int { return max(c.withDefaults().Skip*i-1, 0) }

// ends returns e for each pair, with Phases; nil: the clean end.
func (c *LCD) ends(index []int) []int {
	if c.Phases == 0 {
		return nil
	}
	end := make([]int, len(index))
	for i, at := range index {
		phase := 0
		for phase+1 < c.Phases && (phase+1)*c.pairs()/c.Phases <= at {
			phase++
		}
		end[i] = c.lower(phase * c.pairs() / c.Phases)
	}
	return end
}

// draw returns i and w for each sample.
func (c *LCD) draw(b Batch, d Draws) (index []int, w []float64) {
	o := c.withDefaults()
	index, w = make([]int, b.X.Dim(0)), make([]float64, b.X.Dim(0))
	for i := range index {
		index[i] = d.Samples[i].IntN(c.pairs())
		w[i] = *o.WMin + (*o.WMax-*o.WMin)*d.Samples[i].Float64()
	}
	return index, w
}

// pairs is the number of pairs of timesteps, N/k.
func (c *LCD) pairs() int { return c.Teacher.Process().Steps() / c.withDefaults().Skip }

// LossAt is the loss for given pairs of timesteps, index i from 0 to N/k - 1 [B], the guidance w [B] and noise z, of the latents' shape.
// Model and target use the same dropout masks, drawn from the seed; the teacher runs without dropout.
func (c *LCD) LossAt(s *torch.Scope, b Batch, index []int, w []float64, z *torch.Tensor, dropout uint64) *torch.Tensor {
	return c.loss(s, b, index, c.ends(index), w, z, Draws{Dropout: dropout})
}

// JumpLossAt is LossAt with the ends e of the jumps, timesteps [B] of at most n'.
func (c *LCD) JumpLossAt(s *torch.Scope, b Batch, index, end []int, w []float64, z *torch.Tensor, dropout uint64) *torch.Tensor {
	return c.loss(s, b, index, end, w, z, Draws{Dropout: dropout})
}

func (c *LCD) loss(s *torch.Scope, b Batch, index, end []int, w []float64, z *torch.Tensor, draws Draws) *torch.Tensor {
	if b.Cond.Guidance != nil {
		panic(&torch.Error{Op: lcdName, Msg: "the batch has guidance scales (Cond.Guidance), but the objective draws them itself"})
	}
	o, chain := c.withDefaults(), c.Teacher.Process()
	from, to := make([]int, len(index)), make([]int, len(index))
	for i, at := range index {
		from[i] = o.Skip*(at+1) - 1
		to[i] = c.lower(at)
	}
	cond := b.masked(draws.Dropout)
	if c.GuidanceInput {
		scales := make([]float64, len(w))
		for i := range w {
			scales[i] = w[i] + 1
		}
		cond.Guidance = torch.FromSlice(s, scales)
	}
	y := chain.Noisy(s, b.X, z, from)
	target := s.NoGradTidy(func(s *torch.Scope) *torch.Tensor {
		f := c.Target
		if f == nil {
			f = c.Model
		}
		x0, eps := c.Teacher.Parts(s, y, c.guided(s, y, from, w, b.Cond), from)
		return answer(s, f, chain.Noisy(s, x0, eps, to), to, end, cond)
	})
	d := o.Distance.Distance(s, answer(s, c.Model, y, from, end, cond), target)
	if draws.Observe != nil {
		levels := make([]float64, len(from))
		for i, n := range from {
			levels[i] = chain.Sigma(n)
		}
		draws.Observe(levels, d)
	}
	return b.mean(s, d)
}

// answer is f(y, n), or G(y, n → e) with ends of jumps.
func answer(s *torch.Scope, f *models.Latent, y *torch.Tensor, steps, end []int, cond models.Cond) *torch.Tensor {
	if end == nil {
		return f.Forward(s, y, steps, cond)
	}
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		x0, eps := f.Model.Parts(s, y, f.Model.Forward(s, y, steps, cond), steps)
		return f.Model.Process().Noisy(s, x0, eps, end)
	})
}

// guided returns the teacher's prediction F(y; c) + w·(F(y; c) - F(y; ∅)), both from one call of its network. x̂_0 and ε̂ are linear in F
// and y, and the factors of y add up to 1: they are guided by w if F is.
func (c *LCD) guided(s *torch.Scope, y *torch.Tensor, steps []int, w []float64, cond models.Cond) *torch.Tensor {
	if c.Null.Empty() {
		return c.Teacher.Forward(s, y, steps, cond)
	}
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		twice := torch.Cat(s, []*torch.Tensor{y, y}, 0)
		both := c.Teacher.Forward(s, twice, slices.Concat(steps, steps), cond.Twice(s, c.Null, len(steps))).Chunk(s, 2, 0)
		return both[1].Add(s, both[1].Sub(s, both[0]).MulPerSample(s, torch.FromSlice(s, w)))
	})
}

// Try computes a loss, in which the networks check their conditions. The trainer calls it before a run.
func (c *LCD) Try(s *torch.Scope, b Batch, d Draws) { c.Loss(s, 0, b, d) }

// Update updates the target: θ⁻ ← μ·θ⁻ + (1-μ)·θ. Validate has to be called before.
func (c *LCD) Update(s *torch.Scope, _ int) {
	if c.Target != nil {
		c.target.move(s, lcdName, c.withDefaults().Decay)
	}
}

// State yields the target's weights.
func (c *LCD) State() iter.Seq2[string, *torch.Tensor] {
	if c.Target == nil {
		return fixed{}.State()
	}
	return prefixed("target.", c.Target.Parameters())
}

// Stats returns nothing: the objective has no schedule.
func (c *LCD) Stats(int) map[string]float64 { return nil }

const lcdName = "latent consistency distillation"

// Validate reports missing parts and values out of range. The trainer calls it before the first step.
func (c *LCD) Validate() error {
	refuse := func(format string, args ...any) error { return fmt.Errorf(lcdName+": "+format, args...) }
	switch {
	case c.Model == nil:
		return errors.New(lcdName + ": no model: want a *models.Latent")
	case c.Teacher == nil:
		return errors.New(lcdName + ": no teacher: want a *models.DDPM over the network that the student starts from")
	}
	for _, v := range []Validator{c.Model, c.Teacher} {
		if err := v.Validate(); err != nil {
			return refuse("%w", err)
		}
	}
	o := c.withDefaults()
	teacher, student := c.Teacher.Process(), c.Model.Model.Process()
	switch {
	case !equalChains(teacher, student):
		return refuse("student and teacher have different noise schedules: %d timesteps up to σ %.4g, and %d up to %.4g; want the same chain",
			student.Steps(), student.Sigma(student.Steps()-1), teacher.Steps(), teacher.Sigma(teacher.Steps()-1))
	case o.Skip < 1 || o.Skip > teacher.Steps():
		return refuse("want a skipping step from 1 to the chain's %d timesteps, or 0 for 20, got %d", teacher.Steps(), c.Skip)
	case !(*o.WMin >= 0 && *o.WMin <= *o.WMax) || math.IsInf(*o.WMax, 1):
		return refuse("want a range of w with 0 ≤ WMin ≤ WMax, by default from 5 to 15, got %g and %g", *o.WMin, *o.WMax)
	case c.Null.Empty() && (c.WMin != nil || c.WMax != nil || c.GuidanceInput):
		return refuse("a guidance needs the teacher's unconditional input: set Null, or leave WMin, WMax and GuidanceInput out")
	case c.Phases < 0 || c.Phases > c.pairs():
		return refuse("want 1 to %d phases, the number of pairs of timesteps, or 0 for none, got %d", c.pairs(), c.Phases)
	case c.Phases > 0 && c.Trajectory:
		return refuse("Phases and Trajectory are different methods: set one of them")
	case !(o.Decay >= 0 && o.Decay <= 1):
		return refuse("want a decay of the target's EMA in [0, 1], or 0 for 0.95, got %g", c.Decay)
	case c.Target == nil && c.Decay != 0:
		return refuse("a decay of %g, but no Target to apply it to", c.Decay)
	case c.Target == nil:
		return nil
	}
	if err := c.Target.Validate(); err != nil {
		return refuse("target: %w", err)
	}
	return c.target.bind(lcdName, c.Target, c.Model)
}

// equalChains reports whether two chains have the same noise levels.
func equalChains(a, b *noise.Chain) bool { return a == b || slices.Equal(a.Betas(), b.Betas()) }
