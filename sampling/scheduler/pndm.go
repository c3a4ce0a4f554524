package scheduler

import (
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
)

// PNDM is the pseudo linear multistep method (Liu et al. 2022, algorithm 2): it averages the last four predictions of the noise. It is the
// published sampler of Stable Diffusion 1. With skip_prk_steps, as there, the first step is of second order, and n steps call the network n
// + 1 times; without, the first three steps are Runge-Kutta steps and call it twelve times. diffusers: PNDMScheduler; PLMS in other
// programs.
//
// With a strength below 1 it uses diffusers' timesteps, where the second call is one step further than it should be.
type PNDM struct{}

type pndmRun struct {
	*chain
	at      []int
	ratio   int             // timesteps between steps
	prk     int             // network calls of the Runge-Kutta steps
	counter int             // network calls so far
	ets     []*torch.Tensor // the last outputs, at most four
	sum     *torch.Tensor   // of outputs in a Runge-Kutta step
	from    *torch.Tensor   // latents at the start of such a step, or of the first step
	notices []string
}

// Start implements Method.
func (PNDM) Start(c noise.Config, o Options) (Schedule, error) {
	if o.Timesteps != nil {
		return nil, refuse("Timesteps", "custom timesteps are not supported by pndm: remove them or choose another sampler")
	}
	c.ZeroSNR = false // not supported by the class
	ch, n, skip, err := begun(c, o, pndmClass)
	if err != nil {
		return nil, err
	}
	r := &pndmRun{chain: ch, ratio: ch.TrainSteps / n}
	d := make([]int, n) // descending
	for i, t := range ch.spaced(n, true) {
		d[i] = int(t)
	}
	switch {
	case !ch.SkipPRK && skip == 0 && n >= 4:
		half := r.ratio / 2
		r.at = append(r.at, d[0])
		for _, t := range d[1:3] {
			r.at = append(r.at, t+half, t+half, t, t)
		}
		r.at = append(append(r.at, d[3]+half, d[3]+half, d[3]), d[3:]...)
		r.prk = 12
	default:
		if !ch.SkipPRK {
			r.notices = append(r.notices, "pndm skips the Runge-Kutta steps of the model's configuration (skip_prk_steps false): "+
				"they need 4 or more steps from pure noise")
		}
		r.at = append(r.at, d[0])
		if n > 1 {
			r.at = append(append(r.at, d[1]), d[1:]...)
		}
		r.at = r.at[skip:]
	}
	return r, inside(r.at, ch.TrainSteps)
}

func (r *pndmRun) Timesteps() []float64 { return (&grid{at: r.at}).Timesteps() }

func (r *pndmRun) InitSigma() float64 { return 1 }

func (r *pndmRun) Input(_ *torch.Scope, x *torch.Tensor, _ int) *torch.Tensor { return x }

func (r *pndmRun) Notices() []string { return r.notices }

func (r *pndmRun) AddNoise(s *torch.Scope, x0, z *torch.Tensor, i int) *torch.Tensor {
	return noised(s, x0, z, r.alphas[r.at[i]])
}

// Again implements Schedule.
func (r *pndmRun) Again() Schedule {
	again := *r
	again.counter, again.ets, again.sum, again.from = 0, nil, nil, nil
	return &again
}

func (r *pndmRun) Step(s *torch.Scope, i int, x, out *torch.Tensor, _ Noise) (next, clean *torch.Tensor) {
	a := r.alphas[r.at[i]]
	clean = s.Tidy(func(s *torch.Scope) *torch.Tensor {
		clean, _ := r.predicted(s, x, out, root(a), root(1-a), false)
		if clean == out {
			clean = out.Share(s)
		}
		return clean
	})
	if r.counter < r.prk {
		next = r.rungeKutta(s, i, x, out)
	} else {
		next = r.multistep(s, i, x, out)
	}
	r.counter++
	return next, clean
}

// rungeKutta is one of the four calls in a classical Runge-Kutta step, except that latents move by move.
func (r *pndmRun) rungeKutta(s *torch.Scope, i int, x, out *torch.Tensor) *torch.Tensor {
	to := r.at[i]
	if i%2 == 0 {
		to -= r.ratio / 2
	}
	weight := []float64{1.0 / 6, 1.0 / 3, 1.0 / 3, 1.0 / 6}[i%4]
	sum := out.MulScalar(s, weight)
	if i%4 == 0 {
		r.from.Free()
		r.from = x.Share(s)
		r.keep(s, out)
	} else {
		was := r.sum
		added := was.Add(s, sum)
		sum.Free()
		was.Free()
		sum = added
	}
	r.sum = sum
	slope := out
	if i%4 == 3 {
		slope = sum
	}
	return r.move(s, r.from, slope, r.at[i/4*4], to)
}

// keep appends the output to ets.
func (r *pndmRun) keep(s *torch.Scope, out *torch.Tensor) {
	if len(r.ets) == 4 {
		r.ets[0].Free()
		r.ets = r.ets[1:]
	}
	r.ets = append(r.ets, out.Share(s))
}

// adamsBashforth are the weights of the last outputs, latest first, by their number.
var adamsBashforth = [][]float64{{1}, {3.0 / 2, -1.0 / 2}, {23.0 / 12, -16.0 / 12, 5.0 / 12}, {55.0 / 24, -59.0 / 24, 37.0 / 24, -9.0 / 24}}

func (r *pndmRun) multistep(s *torch.Scope, i int, x, out *torch.Tensor) *torch.Tensor {
	at := r.at[i]
	if r.counter == 1 { // repeat the first step with the mean of the slopes at its ends
		from := r.from
		r.from = nil
		defer from.Free()
		return s.Tidy(func(s *torch.Scope) *torch.Tensor {
			return r.move(s, from, out.Add(s, r.ets[0]).DivScalar(s, 2), at+r.ratio, at)
		})
	}
	if r.counter == 0 {
		r.from = x.Share(s)
	}
	r.keep(s, out)
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		var slope *torch.Tensor
		for j, w := range adamsBashforth[len(r.ets)-1] {
			if e := r.ets[len(r.ets)-1-j].MulScalar(s, w); slope == nil {
				slope = e
			} else {
				slope = slope.Add(s, e)
			}
		}
		return r.move(s, x, slope, at, at-r.ratio)
	})
}

// move takes latents from one timestep to another with the predicted noise of an output (eq. 11 of the paper).
func (r *pndmRun) move(s *torch.Scope, x, out *torch.Tensor, from, to int) *torch.Tensor {
	a := r.alphas[min(from, r.TrainSteps-1)]
	b := r.alphas[0]
	if to >= 0 {
		b = r.alphas[to]
	} else if is(r.AlphaToOne, false) {
		b = 1
	}
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		_, eps := r.predicted(s, x, out, root(a), root(1-a), true)
		below := a*root(1-b) + root(float32(a*(1-a))*b)
		return x.MulScalar(s, float64(root(b/a))).Sub(s, eps.MulScalar(s, float64(b-a)).DivScalar(s, float64(below)))
	})
}
