package scheduler

import (
	"math"

	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
)

// DPM2 is DPM-Solver-2 (Lu et al. 2022a, algorithm 1) in the form of Karras et al. (2022): a step to the geometric mean of two levels, and
// a full step with the slope there. All steps but the last call the network twice. diffusers: KDPM2DiscreteScheduler.
type DPM2 struct{}

// DPM2Ancestral removes more noise per step than DPM2 and adds new noise (k-diffusion's sample_dpm_2_ancestral). It draws noise once in
// each step but the last. diffusers: KDPM2AncestralDiscreteScheduler.
type DPM2Ancestral struct{}

// DPMPP2SAncestral is DPM-Solver++(2S) with ancestral noise (k-diffusion's sample_dpmpp_2s_ancestral with η = 1), DPM++ 2S a in A1111 and
// dpmpp_2s_ancestral in ComfyUI. All steps but the last call the network twice and draw noise once. diffusers has no such class: its
// DPMSolverSinglestepScheduler adds no noise.
type DPMPP2SAncestral struct{}

// DPMPPSDE is DPM-Solver++(SDE) (k-diffusion's sample_dpmpp_sde with η = 1 and r = ½). All steps but the last call the network twice. diffusers:
// DPMSolverSDEScheduler.
//
// Its noise is a Brownian motion in σ, which k-diffusion and diffusers take from torchsde's Brownian trees. Here each half step draws an
// independent increment from each image's stream, and a whole step adds the sum of its two: the distribution is the same, the values
// differ.
type DPMPPSDE struct{}

// halves are noise levels with intermediate levels, at which the network is called too: σ0, m0, σ1, m1, …, σ(n-1), 0. AddNoise supports all
// of them; in the middle of a step, diffusers' schedulers add the noise of the next whole level.
type halves struct {
	scaled
	first *torch.Tensor // in the middle of a step, the latents at its start; else nil
}

// newHalves sets the levels. middle returns the intermediate level of a step between two levels above 0. round rounds the timesteps of
// Karras's levels.
func newHalves(c noise.Config, o Options, round bool, middle func(from, to float32) float32) (halves, error) {
	c.FinalSigma, c.ZeroSNR, c.Threshold = "", false, false // not supported by the classes
	k := heunClass
	k.whole = round
	l, err := newLevels(c, o, k, false, false)
	if err != nil {
		return halves{}, err
	}
	logs := logarithms(l.sigmaTable())
	n := len(l.at)
	at, sigmas := make([]float64, 0, 2*n), make([]float32, 0, 2*n)
	for i := range n - 1 {
		m := middle(l.sigmas[i], l.sigmas[i+1])
		at = append(at, l.at[i], float64(float32(timestepOf(logs, float64(m)))))
		sigmas = append(sigmas, l.sigmas[i], m)
	}
	l.at, l.sigmas, l.begin = append(at, l.at[n-1]), append(sigmas, l.sigmas[n-1], 0), 2*l.begin
	return halves{scaled: scaled{l}}, nil
}

// mean is the geometric mean.
func mean(a, b float32) float32 { return float32(math.Sqrt(float64(a) * float64(b))) }

// ancestral returns the level to denoise to, and the standard deviation of the noise to add.
func ancestral(from, to float32) (down, up float32) {
	up = min(to, root(float32(float32(to*to)*(float32(from*from)-float32(to*to)))/float32(from*from)))
	return root(float32(to*to) - float32(up*up)), up
}

// exactAncestral is ancestral without the cancellation when to is far below from; ancestral keeps it to match diffusers.
func exactAncestral(from, to float32) (down, up float32) {
	a, b := float64(from), float64(to)
	return float32(b * b / a), float32(b * math.Sqrt((1-b/a)*(1+b/a)))
}

// step returns the latents after call i. whole is the rule for the second half of a step, from its start x and the clean latents predicted
// in the middle; half is the rule for the first half. The very last step is Euler's.
func (l *halves) step(s *torch.Scope, i int, x, out *torch.Tensor,
	half, whole func(s *torch.Scope, x, mid, clean *torch.Tensor, from, mean, to float32) *torch.Tensor) (next, clean *torch.Tensor) {
	i += l.begin
	sigma := l.sigmas[i]
	var first *torch.Tensor
	next = s.Tidy(func(s *torch.Scope) *torch.Tensor {
		x0 := l.clean(s, x, out, sigma)
		clean = s.Keep(x0.Share(s))
		switch {
		case l.first != nil:
			return whole(s, l.first, x, x0, l.sigmas[i-1], sigma, l.sigmas[i+1])
		case i == len(l.at)-1:
			return euler(s, x, x, x0, sigma, sigma, 0)
		}
		first = s.Keep(x.Share(s))
		return half(s, x, x, x0, sigma, l.sigmas[i+1], l.sigmas[i+2])
	})
	l.first.Free()
	l.first = first
	return next, clean
}

// euler takes x from level from to level to with the slope at mid, whose level is at.
func euler(s *torch.Scope, x, mid, clean *torch.Tensor, from, at, to float32) *torch.Tensor {
	return x.Add(s, mid.Sub(s, clean).DivScalar(s, float64(at)).MulScalar(s, float64(to-from)))
}

// exponential goes to level to, exactly if the clean latents were constant (first-order DPM-Solver++).
func exponential(s *torch.Scope, x, clean *torch.Tensor, from, to float32) *torch.Tensor {
	v := float64(to) / float64(from)
	return x.MulScalar(s, v).Add(s, clean.MulScalar(s, 1-v))
}

type dpm2Run struct{ halves }

// Start implements Method.
func (DPM2) Start(c noise.Config, o Options) (Schedule, error) {
	h, err := newHalves(c, o, true, mean)
	return &dpm2Run{h}, err
}

// Again implements Schedule.
func (r *dpm2Run) Again() Schedule {
	again := *r
	again.first = nil
	return &again
}

func (r *dpm2Run) Step(s *torch.Scope, i int, x, out *torch.Tensor, _ Noise) (next, clean *torch.Tensor) {
	return r.step(s, i, x, out, func(s *torch.Scope, x, mid, clean *torch.Tensor, from, mean, _ float32) *torch.Tensor {
		return euler(s, x, mid, clean, from, from, mean)
	}, euler)
}

type dpm2AncestralRun struct{ halves }

// Start implements Method.
func (DPM2Ancestral) Start(c noise.Config, o Options) (Schedule, error) {
	h, err := newHalves(c, o, true, middleOfDown)
	return &dpm2AncestralRun{h}, err
}

// middleOfDown is the mean of a level and the level to which an ancestral step denoises.
func middleOfDown(from, to float32) float32 {
	down, _ := ancestral(from, to)
	return mean(from, down)
}

// Again implements Schedule.
func (r *dpm2AncestralRun) Again() Schedule {
	again := *r
	again.first = nil
	return &again
}

func (r *dpm2AncestralRun) Step(s *torch.Scope, i int, x, out *torch.Tensor, noise Noise) (next, clean *torch.Tensor) {
	return r.step(s, i, x, out, func(s *torch.Scope, x, mid, clean *torch.Tensor, from, mean, _ float32) *torch.Tensor {
		return euler(s, x, mid, clean, from, from, mean)
	}, func(s *torch.Scope, x, mid, clean *torch.Tensor, from, mean, to float32) *torch.Tensor {
		down, up := ancestral(from, to)
		return euler(s, x, mid, clean, from, mean, down).Add(s, noise(s).MulScalar(s, float64(up)))
	})
}

type singlestepRun struct{ halves }

// Start implements Method.
func (DPMPP2SAncestral) Start(c noise.Config, o Options) (Schedule, error) {
	h, err := newHalves(c, o, false, func(from, to float32) float32 {
		down, _ := exactAncestral(from, to)
		return mean(from, down)
	})
	return &singlestepRun{h}, err
}

// Again implements Schedule.
func (r *singlestepRun) Again() Schedule {
	again := *r
	again.first = nil
	return &again
}

func (r *singlestepRun) Step(s *torch.Scope, i int, x, out *torch.Tensor, noise Noise) (next, clean *torch.Tensor) {
	return r.step(s, i, x, out, func(s *torch.Scope, x, _, clean *torch.Tensor, from, mean, _ float32) *torch.Tensor {
		return exponential(s, x, clean, from, mean)
	}, func(s *torch.Scope, x, _, clean *torch.Tensor, from, _, to float32) *torch.Tensor {
		down, up := exactAncestral(from, to)
		return exponential(s, x, clean, from, down).Add(s, noise(s).MulScalar(s, float64(up)))
	})
}

type brownianRun struct {
	halves
	moved *torch.Tensor // the increment of the Brownian motion in the first half of a step, √Δσ·z; else nil
}

// Start implements Method.
func (DPMPPSDE) Start(c noise.Config, o Options) (Schedule, error) {
	h, err := newHalves(c, o, false, mean)
	return &brownianRun{halves: h}, err
}

// Again implements Schedule.
func (r *brownianRun) Again() Schedule {
	again := *r
	again.first, again.moved = nil, nil
	return &again
}

func (r *brownianRun) Step(s *torch.Scope, i int, x, out *torch.Tensor, noise Noise) (next, clean *torch.Tensor) {
	return r.step(s, i, x, out, func(s *torch.Scope, x, _, clean *torch.Tensor, from, mean, _ float32) *torch.Tensor {
		r.moved = s.Keep(noise(s).MulScalar(s, math.Sqrt(float64(from-mean))))
		return r.to(s, x, clean, r.moved, from, mean)
	}, func(s *torch.Scope, x, _, clean *torch.Tensor, from, mean, to float32) *torch.Tensor {
		all := r.moved.Add(s, noise(s).MulScalar(s, math.Sqrt(float64(mean-to))))
		r.moved.Free()
		r.moved = nil
		return r.to(s, x, clean, all, from, to)
	})
}

// to denoises to level to and adds noise in the direction of the increment moved.
func (r *brownianRun) to(s *torch.Scope, x, clean, moved *torch.Tensor, from, to float32) *torch.Tensor {
	down, up := ancestral(from, to)
	return exponential(s, x, clean, from, down).Add(s, moved.MulScalar(s, float64(up)/math.Sqrt(float64(from-to))))
}
