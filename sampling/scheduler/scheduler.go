// Package scheduler has the samplers of latent diffusion: methods that take a network's predictions at discrete timesteps to
// the next latents, number for number as diffusers' schedulers do.
//
// A [Method] is a value. Started for a model's [noise.Config] it becomes a [Schedule], which says at which timesteps the network is to be
// called:
//
//	x := noise · run.InitSigma()
//	for i, t := range run.Timesteps() {
//		x, _ = run.Step(s, i, x, network(run.Input(s, x, i), t), draw)
//	}
package scheduler

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
)

// Method is a way to take noise away.
type Method interface {
	// Start plans a run; what cannot be done is an error.
	Start(c noise.Config, o Options) (Schedule, error)
}

// Options are what one run is to be like.
type Options struct {
	Steps     int   // 0: as many as Timesteps
	Timesteps []int // the network's timesteps, from the noisiest, in place of the method's own; nil: its own

	OriginalSteps int // of LCM and TCD: the grid that timesteps are taken from; 0: the configuration's

	// Strength is how much of an image is to change, above 0 to 1: the run starts at latents with noise, [Schedule.AddNoise], and leaves
	// out its first steps, all but Steps·Strength. With Shorten, LCM and TCD do all steps instead, on the lower part of their grid.
	// 0: 1.
	Strength float64
	Shorten  bool

	levels string // the spacing of noise levels, of a Spaced
}

// Noise draws the next standard normal noise for all latents. Randomness is the caller's: one stream for each image, or one for
// all.
type Noise func(s *torch.Scope) *torch.Tensor

// Schedule is a method that was started: its timesteps, and what it does in each step, as diffusers' schedulers after set_timesteps. It is
// for one pass over its steps, from the first to the last; [Schedule.Again] is for more.
type Schedule interface {
	// Again returns the same schedule before its first step. It costs nothing, and leaves the one that it is called on as it is: what was
	// started once can be gone through many times, by several goroutines at once where each has a schedule of its own.
	Again() Schedule
	// Timesteps are what the network is told in each step.
	Timesteps() []float64
	// InitSigma is the deviation of the noise that a run without an image starts from.
	InitSigma() float64
	// AddNoise returns latents x0 with noise z as they are before step i.
	AddNoise(s *torch.Scope, x0, z *torch.Tensor, i int) *torch.Tensor
	// Input returns what the network is given for latents x in step i; it may be x itself.
	Input(s *torch.Scope, x *torch.Tensor, i int) *torch.Tensor
	// Step returns the latents after step i, from those before it and the network's output, and what the clean ones are predicted to
	// be. Both are owned by s, as is what a method keeps of earlier steps: it has to be the same in all of them.
	Step(s *torch.Scope, i int, x, out *torch.Tensor, noise Noise) (next, clean *torch.Tensor)
	// Notices are remarks on options that are unlike what the model was trained for.
	Notices() []string
}

// methods are the ones known by name.
var methods = map[string]Method{
	"lcm":             LCM{},
	"tcd":             TCD{Eta: 0.3},
	"ddim":            DDIM{},
	"euler":           Euler{},
	"euler_karras":    Euler{Karras: true},
	"euler_a":         EulerAncestral{},
	"heun":            Heun{},
	"heun_karras":     Heun{Karras: true},
	"dpmpp_2m":        DPMPP2M{},
	"dpmpp_2m_karras": DPMPP2M{Karras: true},
	"unipc":           UniPC{},
	"unipc_karras":    UniPC{Karras: true},
	"pndm":            PNDM{},
	"ddpm":            DDPM{},
	"lms":             LMS{},
	"deis":            DEIS{},
	"dpm2":            DPM2{},
	"dpm2_a":          DPM2Ancestral{},
	"dpmpp_2s_a":      DPMPP2SAncestral{},
	"dpmpp_sde":       DPMPPSDE{},
	"dpmpp_2m_sde":    DPMPP2MSDE{},

	"dpmpp_3m":          DPMPP3M{},
	"dpmpp_2m_sde_heun": DPMPP2MSDE{Heun: true},
	"unipc_bh1":         UniPC{B1: true},
	"dpmpp_3m_sde":      DPMPP3MSDE{},
}

// Names returns the methods' names, without those that end in a spacing.
func Names() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(methods)), func(name string) bool { return strings.HasSuffix(name, "_karras") })
}

// classes are the methods of diffusers' classes.
var classes = map[string]string{
	"LCMScheduler":                    "lcm",
	"TCDScheduler":                    "tcd",
	"DDIMScheduler":                   "ddim",
	"EulerDiscreteScheduler":          "euler",
	"EulerAncestralDiscreteScheduler": "euler_a",
	"HeunDiscreteScheduler":           "heun",
	"DPMSolverMultistepScheduler":     "dpmpp_2m",
	"UniPCMultistepScheduler":         "unipc",
	"PNDMScheduler":                   "pndm",
	"DDPMScheduler":                   "ddpm",
	"LMSDiscreteScheduler":            "lms",
	"DEISMultistepScheduler":          "deis",
	"KDPM2DiscreteScheduler":          "dpm2",
	"KDPM2AncestralDiscreteScheduler": "dpm2_a",
	"DPMSolverSDEScheduler":           "dpmpp_sde",
}

// Default returns the name of the method that a model was published with. exact is false where that is not among them, and the
// name is dpmpp_2m; and where it is a variant that is not supported (algorithm_type dpmsolver or sde-dpmsolver), and the name is that of the
// plain one.
func Default(c noise.Config) (name string, exact bool) {
	name, ok := classes[c.Class]
	switch {
	case !ok:
		return "dpmpp_2m", false
	case name == "dpmpp_2m" && c.Algorithm == "sde-dpmsolver++":
		switch name = "dpmpp_2m_sde"; {
		case c.Order == 3:
			name = "dpmpp_3m_sde"
		case c.Solver == heunSolver:
			name = "dpmpp_2m_sde_heun"
		}
	case name == "dpmpp_2m":
		if c.Order == 3 {
			name = "dpmpp_3m"
		}
		return name, c.Algorithm == "" || c.Algorithm == "dpmsolver++" || c.Algorithm == "deis" // as diffusers reads the files of DEIS
	case name == "unipc" && c.Solver == bh1Solver:
		name = "unipc_bh1"
	}
	return name, true
}

func (o Options) checkStrength() error {
	if v := cmp.Or(o.Strength, 1); !(v > 0 && v <= 1) {
		return fmt.Errorf("strength: want a number above 0 and up to 1, got %g", o.Strength)
	}
	return nil
}

// skip returns how many of n steps are left out.
func (o Options) skip(n int) (int, error) {
	if err := o.checkStrength(); err != nil {
		return 0, err
	}
	v := cmp.Or(o.Strength, 1)
	left := min(int(float64(n)*v), n)
	if left < 1 {
		return 0, fmt.Errorf("strength %g of %s leaves none: want at least %.3g, or more steps", o.Strength, plural.N(n, "step"), 1/float64(n))
	}
	return n - left, nil
}

// steps returns how many steps are asked for, of at most that many.
func (o Options) steps(most int) (int, error) {
	n := o.Steps
	if o.Timesteps != nil {
		if n != 0 && n != len(o.Timesteps) {
			return 0, fmt.Errorf("%s and %s were given: want one of them, or as many timesteps as steps", plural.N(n, "step"), plural.N(len(o.Timesteps), "timestep"))
		}
		n = len(o.Timesteps)
		for i, t := range o.Timesteps {
			if t < 0 || t >= most {
				return 0, fmt.Errorf("timestep %d: want 0 to %d", t, most-1)
			}
			if i > 0 && t >= o.Timesteps[i-1] {
				return 0, fmt.Errorf("timesteps %v: want each below the one before it", o.Timesteps)
			}
		}
	}
	if n < 1 || n > most {
		return 0, fmt.Errorf("want 1 to %d steps, got %d", most, n)
	}
	return n, nil
}

// predicted returns what the clean latents and the noise are, by the network's output at latents x = α·clean + σ·noise. The noise
// is worked out only if both are wanted.
func (c *chain) predicted(s *torch.Scope, x, out *torch.Tensor, alpha, sigma float32, both bool) (clean, eps *torch.Tensor) {
	a, b := float64(alpha), float64(sigma)
	switch c.Predicts {
	case noise.Sample:
		clean = out
		if both {
			eps = x.Sub(s, clean.MulScalar(s, a)).DivScalar(s, b)
		}
	case noise.Velocity:
		clean = x.MulScalar(s, a).Sub(s, out.MulScalar(s, b))
		if both {
			eps = out.MulScalar(s, a).Add(s, x.MulScalar(s, b))
		}
	default:
		clean, eps = x.Sub(s, out.MulScalar(s, b)).DivScalar(s, a), out
	}
	return clean, eps
}

// bound clamps a prediction of the clean latents, if it is to be.
func (c *chain) bound(s *torch.Scope, clean *torch.Tensor) *torch.Tensor {
	switch {
	case c.Threshold:
		return s.Tidy(func(s *torch.Scope) *torch.Tensor { return c.threshold(s, clean) })
	case c.clip:
		return clean.Clamp(s, -c.ClipRange, c.ClipRange)
	}
	return clean
}

// threshold clamps each sample to ±q, the quantile of its values' sizes, and divides it by q, which is at least 1.
func (c *chain) threshold(s *torch.Scope, clean *torch.Tensor) *torch.Tensor {
	v := clean
	if v.DType() != torch.Float64 {
		v = v.To(s, torch.Float32)
	}
	v = v.Flatten(s, 1, -1)
	q := v.Abs(s).Quantile(s, c.Quantile, 1, true).Clamp(s, 1, c.SampleMax)
	return v.Minimum(s, q).Maximum(s, q.Neg(s)).Div(s, q).Reshape(s, clean.Shape()...).To(s, clean.DType())
}

// noised returns √ᾱ·x0 + √(1-ᾱ)·z, with ᾱ rounded to the latents' type first, as diffusers does.
func noised(s *torch.Scope, x0, z *torch.Tensor, alpha float32) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		a := torch.Full(s, float64(alpha), torch.Float32, 1).ToDevice(s, x0.Device()).To(s, x0.DType())
		return x0.Mul(s, a.Sqrt(s)).Add(s, z.Mul(s, a.Neg(s).AddScalar(s, 1).Sqrt(s)))
	})
}

// exactly evaluates a function in float32 as PyTorch does on the CPU; package math differs from it in the last bit.
func exactly(f func(t *torch.Tensor, s *torch.Scope) *torch.Tensor, v float32) float32 {
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	return float32(f(torch.Full(s, float64(v), torch.Float32), s).Item())
}

// root is √v.
func root(v float32) float32 { return exactly((*torch.Tensor).Sqrt, v) }

// spaced returns n timesteps from the noisiest as diffusers' classes do; ints rounds them as those with whole ones do.
func (c *chain) spaced(n int, ints bool) []float64 {
	out := make([]float64, n)
	all := c.TrainSteps
	switch c.Spacing {
	case "linspace":
		for i := range out {
			v := 0.0 // numpy.linspace(0, all-1, n) from its end
			if n > 1 {
				v = float64(n-1-i) * (float64(all-1) / float64(n-1))
				if i == 0 {
					v = float64(all - 1)
				}
			}
			if ints {
				v = math.RoundToEven(v)
			}
			out[i] = float64(float32(v))
		}
	case "leading":
		for i := range out {
			out[i] = float64((n-1-i)*(all/n) + c.StepsOffset)
		}
	case "trailing":
		out = trailing(all, n)
	}
	return out
}

// trailing is numpy.arange(all, 0, -all/n), rounded, less 1; without the -1 that rounding errors append for some n (63 of 1000).
func trailing(all, n int) []float64 {
	start, step := float64(all), -float64(all)/float64(n)
	delta := (start + step) - start
	var out []float64
	for i := range min(int(math.Ceil((0-start)/step)), n) {
		out = append(out, math.RoundToEven(start+float64(i)*delta)-1)
	}
	return out
}
