package scheduler

import (
	"fmt"

	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
)

// DDIM goes to the next timestep with the predicted noise, of which a part may be replaced by new noise (Song et al. 2021, eq. 12 and 16).
// It draws noise once per step if Eta is above 0. diffusers: DDIMScheduler.
type DDIM struct {
	Eta float64 // η: 0 is deterministic, 1 is DDPM
}

type ddimRun struct {
	*chain
	at   []int
	next []int // the timestep at which each step ends; below 0: the clean sample
	eta  float64
}

// Start implements Method. As in diffusers, the distance between timesteps is an integer; with custom timesteps, which that class does not
// support, a step ends at the next one.
func (m DDIM) Start(c noise.Config, o Options) (Schedule, error) {
	if !(m.Eta >= 0 && m.Eta <= 1) {
		return nil, refuse("Eta", "ddim: want an eta from 0 to 1, got %g", m.Eta)
	}
	ch, n, skip, err := begun(c, o, ddimClass)
	if err != nil {
		return nil, err
	}
	r := &ddimRun{chain: ch, eta: m.Eta}
	if o.Timesteps != nil {
		r.at = o.Timesteps
		r.next = append(append(r.next, o.Timesteps[1:]...), -1)
	} else {
		for _, t := range ch.spaced(n, true) {
			r.at = append(r.at, int(t))
			r.next = append(r.next, int(t)-ch.TrainSteps/n)
		}
	}
	r.at, r.next = r.at[skip:], r.next[skip:]
	return r, inside(r.at, ch.TrainSteps)
}

// inside reports timesteps outside the training range, which an offset may produce.
func inside(at []int, n int) error {
	for _, t := range at {
		if t < 0 || t >= n {
			return fmt.Errorf("scheduler config: steps_offset gives timestep %d: want 0 to %d; use fewer steps or a smaller offset", t, n-1)
		}
	}
	return nil
}

func (r *ddimRun) Timesteps() []float64 { return (&grid{at: r.at}).Timesteps() }

func (r *ddimRun) InitSigma() float64 { return 1 }

func (r *ddimRun) Input(_ *torch.Scope, x *torch.Tensor, _ int) *torch.Tensor { return x }

func (r *ddimRun) Notices() []string { return nil }

func (r *ddimRun) AddNoise(s *torch.Scope, x0, z *torch.Tensor, i int) *torch.Tensor {
	return noised(s, x0, z, r.alphas[r.at[i]])
}

// Again implements Schedule.
func (r *ddimRun) Again() Schedule { return r } // it has no state between steps

func (r *ddimRun) Step(s *torch.Scope, i int, x, out *torch.Tensor, noise Noise) (next, clean *torch.Tensor) {
	a, to := r.alphas[r.at[i]], float32(1)
	if p := r.next[i]; p >= 0 {
		to = r.alphas[p]
	} else if !is(r.AlphaToOne, true) {
		to = r.alphas[0]
	}
	variance := float32((1-to)/(1-a)) * (1 - a/to)
	sd := float32(r.eta) * root(variance)
	next = s.Tidy(func(s *torch.Scope) *torch.Tensor {
		x0, eps := r.predicted(s, x, out, root(a), root(1-a), true)
		x0 = r.bound(s, x0)
		clean = s.Keep(x0.Share(s))
		rest := max(1-to-float32(sd*sd), 0) // rounding may make it negative at η = 1, where diffusers' latents become NaN
		direction := eps.MulScalar(s, float64(root(rest)))
		y := x0.MulScalar(s, float64(root(to))).Add(s, direction)
		if r.eta > 0 {
			y = y.Add(s, noise(s).MulScalar(s, float64(sd)))
		}
		return y
	})
	return next, clean
}
