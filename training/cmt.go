package training

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/solver"
	"github.com/onestep-go/onestep/torch"
)

// CMT is consistency mid-training (Hu et al. 2025), a stage between a denoiser and [ECT] or [MeanFlow]: the model learns to map the points of
// its teacher's solver trajectories to their ends, by plain regression. Its targets are fixed and have gradients of no network:
//
//	x_0 = x + σ_max·z, x_1, …, x_M: DPM-Solver++ at M+1 levels t_0 > … > t_M, ln t evenly spaced
//	L = d(f_θ(x_i, t_i), x_M)                                          for ECT, with Model
//	L = ‖u_θ(y_i, τ_j, τ_i) - (y_i - y_j)/(τ_i - τ_j)‖²/D, j > i       for MeanFlow, with Jumps: y = x/(1+t), τ = t/(1+t)
//
// The optimum is the solver's result in M steps, from every level.
//
// The paper uses 16 steps, LPIPS for images, and squared errors for MeanFlow. It trains on all points of a trajectory at once, each of which then
// costs the teacher one evaluation; with fewer Points a batch takes less memory. The last level is 0, as in samplers, where the published
// code ends at 0.002. Its solver is of third order, this one of second.
type CMT struct {
	fixed
	Model   ConsistencyModel // trained consistency function, its boundary at zero: see models.AtZero; nil: Jumps
	Jumps   *models.MeanFlow // trained average velocities; nil: Model
	Teacher models.Denoiser

	Steps    int      // M; 0: 16
	Points   int      // of each trajectory, drawn without repetition; 0: all M
	Distance Distance // of a consistency function; nil: PseudoHuber

	SigmaMin float64 // sets the spacing: the last level, which is 0, is where this one would be; 0: 0.002
	SigmaMax float64 // the largest noise level; 0: 80
}

func (c *CMT) withDefaults() CMT {
	d := *c
	d.Steps = cmp.Or(d.Steps, 16)
	d.Points = cmp.Or(d.Points, d.Steps)
	d.SigmaMin = cmp.Or(d.SigmaMin, 0.002)
	d.SigmaMax = cmp.Or(d.SigmaMax, 80)
	d.Distance = cmp.Or[Distance](d.Distance, PseudoHuber{})
	return d
}

// Levels are those of a trajectory, from the largest to 0.
func (c *CMT) Levels() []float64 {
	o := c.withDefaults()
	levels := make([]float64, o.Steps+1)
	for i := range o.Steps {
		levels[i] = o.SigmaMax * math.Pow(o.SigmaMin/o.SigmaMax, float64(i)/float64(o.Steps))
	}
	return levels
}

// Loss draws a noise and points for each sample and returns the mean distance.
func (c *CMT) Loss(s *torch.Scope, _ int, b Batch, d Draws) *torch.Tensor {
	o := c.withDefaults()
	from, to := make([][]int, b.X.Dim(0)), make([][]int, b.X.Dim(0))
	for i, host := range d.Samples {
		from[i] = host.Perm(o.Steps)[:o.Points]
		to[i] = ends(host, from[i], o.Steps, c.Jumps != nil)
	}
	return c.LossAt(s, b, from, to, d.Noise(s, b.X), d.Dropout)
}

// ends draws where jumps from the points of a trajectory end: anywhere below, or at its last point.
func ends(host *rand.Rand, from []int, last int, anywhere bool) []int {
	to := make([]int, len(from))
	for i, j := range from {
		if to[i] = last; anywhere {
			to[i] = j + 1 + host.IntN(last-j)
		}
	}
	return to
}

// LossAt is the loss for given points, from[i] of the trajectory of sample i to the points to[i] below them, and noise z, of the images'
// shape. All samples have the same number of points. The teacher runs without dropout.
func (c *CMT) LossAt(s *torch.Scope, b Batch, from, to [][]int, z *torch.Tensor, dropout uint64) *torch.Tensor {
	o := c.withDefaults()
	levels := c.Levels()
	n := b.X.Dim(0)
	var rows, start, end []int64
	var t, next []float64
	for i := range from {
		for j := range from[i] {
			a, b := from[i][j], to[i][j]
			rows, start, end = append(rows, int64(i)), append(start, int64(a*n+i)), append(end, int64(b*n+i))
			t, next = append(t, levels[a]), append(next, levels[b])
		}
	}
	path := s.NoGradTidy(func(s *torch.Scope) *torch.Tensor {
		first := b.X.Add(s, z.MulScalar(s, levels[0]))
		return torch.Cat(s, solver.Path(s, o.Teacher, first, levels, b.Cond), 0) // point a of sample i is row a·n + i
	})
	points := func(rows []int64) *torch.Tensor { return path.IndexSelect(s, 0, torch.FromSlice(s, rows)) }
	x, target := points(start), points(end)
	places := torch.FromSlice(s, rows)
	cond := Batch{Cond: b.Cond.Rows(s, places)}.masked(dropout)
	if b.Weight != nil {
		b.Weight = b.Weight.IndexSelect(s, 0, places)
	}
	at := func(v []float64) *torch.Tensor { return torch.FromSlice(s, v) }
	if o.Jumps == nil {
		return b.mean(s, o.Distance.Distance(s, o.Model.Origin(s, x, at(t).To(s, x.DType()), cond), target))
	}
	flow := func(x, t *torch.Tensor) (y, tau *torch.Tensor) {
		return x.MulPerSample(s, t.AddScalar(s, 1).Reciprocal(s)), models.FlowTime(s, t)
	}
	y, tau := flow(x, at(t))
	below, r := flow(target, at(next))
	velocity := y.Sub(s, below).MulPerSample(s, tau.Sub(s, r).Reciprocal(s))
	u := o.Jumps.AverageVelocity(s, y, r.To(s, x.DType()), tau.To(s, x.DType()), cond)
	return b.mean(s, L2{}.Distance(s, u, velocity))
}

// Metadata describes a snapshot's model, so that package checkpoint can read it; nothing for a network of the user's own.
func (c *CMT) Metadata(step int, images int64) (map[string]string, error) {
	var f any = c.Model
	if c.Jumps != nil {
		f = c.Jumps
	}
	return metadata(f, "cmt", c.withDefaults().SigmaMax, step, images)
}

// Validate reports missing parts and values out of range. The trainer calls it before the first step.
func (c *CMT) Validate() error {
	o := c.withDefaults()
	switch {
	case (o.Model == nil) == (o.Jumps == nil):
		return errors.New("consistency mid-training: want a consistency function (Model) or average velocities (Jumps), and not both")
	case o.Model != nil && !atZero(o.Model):
		return errors.New("consistency mid-training: want a model with its boundary at zero (models.AtZero), since trajectories end at level 0")
	case o.Teacher == nil:
		return errors.New("consistency mid-training: no teacher: want a denoiser, such as one that was trained with the EDM objective")
	case o.Steps < 1 || o.Steps > 1000:
		return fmt.Errorf("consistency mid-training: want 1 to 1000 steps of the solver, or 0 for 16, got %d", o.Steps)
	case o.Points < 1 || o.Points > o.Steps:
		return fmt.Errorf("consistency mid-training: want 1 to %d points of each trajectory, or 0 for all, got %d", o.Steps, o.Points)
	case !(o.SigmaMin > 0) || !(o.SigmaMax > o.SigmaMin) || math.IsInf(o.SigmaMax, 1):
		return fmt.Errorf("consistency mid-training: want a smallest level above 0 and a larger largest one, got %g and %g", o.SigmaMin, o.SigmaMax)
	}
	if o.Jumps != nil {
		return o.Jumps.Validate()
	}
	return nil
}
