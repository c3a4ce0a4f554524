package scheduler

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
)

// LCM is multistep sampling from a latent consistency model (Luo et al. 2023, algorithm 3): each step predicts the clean latents, and all
// but the last add noise again. It draws noise once in each step but the last. diffusers: LCMScheduler.
type LCM struct{}

// TCD is strategic stochastic sampling (Zheng et al. 2024, trajectory consistency distillation, algorithm 4). It draws noise once in each
// step but the last if Eta is above 0. diffusers: TCDScheduler.
type TCD struct {
	Eta float64 // γ of the paper: the stochasticity of each step, 0 to 1
}

// grid is a run whose timesteps are a subset of those that the model was distilled at.
type grid struct {
	*chain
	at      []int
	notices []string
}

// start selects the timesteps.
func start(c noise.Config, o Options) (grid, error) {
	ch, err := newChain(c, latentClass)
	if err != nil {
		return grid{}, err
	}
	g := grid{chain: ch}
	original := cmp.Or(o.OriginalSteps, ch.OriginalSteps)
	if original < 1 || original > ch.TrainSteps {
		return grid{}, refuse("OriginalSteps", "original steps: want 1 to %d, the number of training timesteps, got %d", ch.TrainSteps, original)
	}
	n, err := o.steps(ch.TrainSteps)
	if err != nil {
		return grid{}, err
	}
	k := ch.TrainSteps / original
	if o.Timesteps != nil {
		skip, err := o.skip(n)
		if err != nil {
			return grid{}, err
		}
		g.remark(o.Timesteps, original, k, cmp.Or(o.Strength, 1) == 1)
		g.at = slices.Clone(o.Timesteps[skip:])
		return g, nil
	}
	size, skip := original, 0
	if o.Shorten {
		if err := o.checkStrength(); err != nil {
			return grid{}, err
		}
		size = int(float64(original) * cmp.Or(o.Strength, 1))
	} else if skip, err = o.skip(n); err != nil {
		return grid{}, err
	}
	if n > size {
		return grid{}, refuse("Steps", "%d steps: the model was distilled at %d timesteps, of which %d are available: "+
			"want at most that many steps", n, original, size)
	}
	g.at = noise.OfGrid(k, size, n)[skip:]
	return g, nil
}

// remark adds notices about custom timesteps that the model was not distilled at.
func (g *grid) remark(at []int, original, k int, whole bool) {
	if whole && at[0] != g.TrainSteps-1 {
		g.notices = append(g.notices, fmt.Sprintf("the first timestep is %d and not %d: "+
			"the model may not have learned to start there", at[0], g.TrainSteps-1))
	}
	var off []int
	for _, t := range at {
		if (t+1)%k != 0 || (t+1)/k > original {
			off = append(off, t)
		}
	}
	if off != nil {
		g.notices = append(g.notices, fmt.Sprintf("timesteps %v are not among the %d that the model was distilled at", off, original))
	}
}

// Timesteps implements Schedule.
func (g *grid) Timesteps() []float64 {
	out := make([]float64, len(g.at))
	for i, t := range g.at {
		out[i] = float64(t)
	}
	return out
}

// InitSigma implements Schedule.
func (g *grid) InitSigma() float64 { return 1 }

// Input implements Schedule.
func (g *grid) Input(_ *torch.Scope, x *torch.Tensor, _ int) *torch.Tensor { return x }

// Notices implements Schedule.
func (g *grid) Notices() []string { return g.notices }

// AddNoise implements Schedule.
func (g *grid) AddNoise(s *torch.Scope, x0, z *torch.Tensor, i int) *torch.Tensor {
	return noised(s, x0, z, g.alphas[g.at[i]])
}

type lcmRun struct{ grid }

// Start implements Method.
func (LCM) Start(c noise.Config, o Options) (Schedule, error) {
	g, err := start(c, o)
	if err != nil {
		return nil, err
	}
	return &lcmRun{g}, nil
}

// scalings returns c_skip and c_out of the boundary condition at a timestep; see [models.Latent].
func (c *chain) scalings(t int) (skip, out float32) {
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	a, b := models.LatentScalings(s, torch.Full(s, float64(t), torch.Float32, 1), c.Scaling)
	return float32(a.Item()), float32(b.Item())
}

// Again implements Schedule.
func (r *lcmRun) Again() Schedule { return r } // it has no state between steps

func (r *lcmRun) Step(s *torch.Scope, i int, x, out *torch.Tensor, noise Noise) (next, clean *torch.Tensor) {
	t, last := r.at[i], i == len(r.at)-1
	a := r.alphas[t]
	cSkip, cOut := r.scalings(t)
	f := s.Tidy(func(s *torch.Scope) *torch.Tensor {
		x0, _ := r.predicted(s, x, out, root(a), root(1-a), false)
		return r.bound(s, x0).MulScalar(s, float64(cOut)).Add(s, x.MulScalar(s, float64(cSkip)))
	})
	if last {
		return f, f
	}
	to := r.alphas[r.at[i+1]]
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		return f.MulScalar(s, float64(root(to))).Add(s, noise(s).MulScalar(s, float64(root(1-to))))
	}), f
}

type tcdRun struct {
	grid
	eta float64
}

// Start implements Method. OriginalSteps is the size of the grid, as for LCM; in diffusers, any value given by the caller makes all
// timesteps the grid.
func (m TCD) Start(c noise.Config, o Options) (Schedule, error) {
	if !(m.Eta >= 0 && m.Eta <= 1) {
		return nil, refuse("Eta", "tcd: want an eta from 0 to 1, got %g", m.Eta)
	}
	g, err := start(c, o)
	if err != nil {
		return nil, err
	}
	return &tcdRun{g, m.Eta}, nil
}

// Again implements Schedule.
func (r *tcdRun) Again() Schedule { return r } // it has no state between steps

func (r *tcdRun) Step(s *torch.Scope, i int, x, out *torch.Tensor, noise Noise) (next, clean *torch.Tensor) {
	last, prev := i == len(r.at)-1, 0
	if !last {
		prev = r.at[i+1]
	}
	a, to := r.alphas[r.at[i]], r.alphas[prev]
	mid := r.alphas[int(float32(1-r.eta)*float32(prev))]
	next = s.Tidy(func(s *torch.Scope) *torch.Tensor {
		x0, eps := r.predicted(s, x, out, root(a), root(1-a), true)
		clean = s.Keep(x0.Share(s))
		xs := x0.MulScalar(s, float64(root(mid))).Add(s, eps.MulScalar(s, float64(root(1-mid))))
		if r.eta == 0 || last {
			return xs
		}
		up := root(to / mid)
		return xs.MulScalar(s, float64(up)).Add(s, noise(s).MulScalar(s, float64(root(1-to/mid))))
	})
	return next, clean
}
