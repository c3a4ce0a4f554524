package scheduler

import (
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
)

// LMS is the linear multistep method of the fourth order (Karras et al. 2022; k-diffusion's sample_lms). diffusers: LMSDiscreteScheduler.
// With a strength it starts at first order, as k-diffusion does; diffusers uses the weights of the skipped steps there.
type LMS struct{}

type lmsRun struct {
	scaled
	slopes []*torch.Tensor // latest first, at most four
}

// Start implements Method.
func (LMS) Start(c noise.Config, o Options) (Schedule, error) {
	c.FinalSigma, c.ZeroSNR, c.Threshold = "", false, false // not supported by the class
	l, err := newLevels(c, o, sigmaClass, false, false)
	if err != nil {
		return nil, err
	}
	return &lmsRun{scaled: scaled{l}}, nil
}

// Again implements Schedule.
func (r *lmsRun) Again() Schedule {
	again := *r
	again.slopes = nil
	return &again
}

func (r *lmsRun) Step(s *torch.Scope, i int, x, out *torch.Tensor, _ Noise) (next, clean *torch.Tensor) {
	i += r.begin
	var slope *torch.Tensor
	next = s.Tidy(func(s *torch.Scope) *torch.Tensor {
		x0 := r.clean(s, x, out, r.sigmas[i])
		clean = s.Keep(x0.Share(s))
		slope = s.Keep(x.Sub(s, x0).DivScalar(s, float64(r.sigmas[i])))
		all := append([]*torch.Tensor{slope}, r.slopes...)
		if len(all) > 4 {
			all[4].Free()
			all = all[:4]
		}
		r.slopes = all
		y := x
		for j, w := range lmsWeights(r.sigmas, i, len(all)) {
			y = y.Add(s, all[j].MulScalar(s, w))
		}
		return y
	})
	return next, clean
}

// lmsWeights integrates, from level i to the next, the polynomials that are 1 at one of the last order levels and 0 at the others.
func lmsWeights(sigmas []float32, i, order int) []float64 {
	from, to := float64(sigmas[i]), float64(sigmas[i+1])
	weights := make([]float64, order)
	// Two-point Gauss-Legendre quadrature is exact for polynomials of degree 3.
	const node = 0.57735026918962576450914878050195745565
	for j := range weights {
		for _, u := range []float64{-node, node} {
			tau, v := (from+to)/2+u*(to-from)/2, (to-from)/2
			for k := range order {
				if k != j {
					v *= (tau - float64(sigmas[i-k])) / (float64(sigmas[i-j]) - float64(sigmas[i-k]))
				}
			}
			weights[j] += v
		}
	}
	return weights
}
