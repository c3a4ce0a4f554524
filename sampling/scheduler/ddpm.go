package scheduler

import (
	"fmt"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
)

// DDPM is ancestral sampling (Ho et al. 2020, algorithm 2) with the variance of the configuration: the smaller one, β̃, by default. It draws
// noise in each step except from timestep 0. diffusers: DDPMScheduler with the variances fixed_small, fixed_small_log and fixed_large.
type DDPM struct{}

type ddpmRun struct{ ddimRun }

// Start implements Method.
func (DDPM) Start(c noise.Config, o Options) (Schedule, error) {
	switch c.Variance {
	case "", "fixed_small", "fixed_small_log", "fixed_large":
	default:
		return nil, fmt.Errorf("scheduler config: variance_type is %s, which is not supported: want fixed_small, fixed_small_log or fixed_large", quote.Text(c.Variance))
	}
	run, err := DDIM{}.Start(c, o)
	if err != nil {
		return nil, err
	}
	r := &ddpmRun{*run.(*ddimRun)}
	r.next = append(append([]int{}, r.at[1:]...), -1)
	return r, nil
}

// Again implements Schedule.
func (r *ddpmRun) Again() Schedule { return r } // it has no state between steps

func (r *ddpmRun) Step(s *torch.Scope, i int, x, out *torch.Tensor, noise Noise) (next, clean *torch.Tensor) {
	a, to := r.alphas[r.at[i]], float32(1)
	if p := r.next[i]; p >= 0 {
		to = r.alphas[p]
	}
	left := a / to
	beta := 1 - left
	next = s.Tidy(func(s *torch.Scope) *torch.Tensor {
		x0, _ := r.predicted(s, x, out, root(a), root(1-a), false)
		x0 = r.bound(s, x0)
		clean = s.Keep(x0.Share(s))
		y := x0.MulScalar(s, float64(float32(root(to)*beta)/(1-a))).Add(s, x.MulScalar(s, float64(float32(root(left)*(1-to))/(1-a))))
		if r.at[i] > 0 {
			y = y.Add(s, noise(s).MulScalar(s, float64(r.deviation(a, to, beta))))
		}
		return y
	})
	return next, clean
}

// deviation is the standard deviation of the noise of a step from ᾱ a to ᾱ to, rounded as in diffusers.
func (r *ddpmRun) deviation(a, to, beta float32) float32 {
	if r.Variance == "fixed_large" {
		return root(beta)
	}
	variance := max(float32((1-to)/(1-a))*beta, 1e-20)
	if r.Variance == "fixed_small_log" {
		return exactly((*torch.Tensor).Exp, 0.5*exactly((*torch.Tensor).Log, variance))
	}
	return root(variance)
}
