// Package scheduler has the samplers of latent diffusion over discrete timesteps, with the same numbers as diffusers' schedulers.
//
// A [Method] is a sampler's settings. Start returns a [Schedule] for a model's [noise.Config], which has the timesteps and the update of each
// step:
//
//	x := noise · run.InitSigma()
//	for i, t := range run.Timesteps() {
//		x, _ = run.Step(s, i, x, network(run.Input(s, x, i), t), draw)
//	}
package scheduler

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
)

// Method is a sampler.
type Method interface {
	// Start plans a run. Unsupported options or configurations are errors.
	Start(c noise.Config, o Options) (Schedule, error)
}

// Options are the options of a run.
type Options struct {
	Steps     int   // 0: the number of Timesteps
	Timesteps []int // custom timesteps of the network, descending; nil: the method's

	OriginalSteps int // of LCM and TCD: the size of the grid of timesteps (diffusers' original_inference_steps); 0: the configuration's

	// Strength is that of img2img, above 0 to 1: the run starts from noised latents, [Schedule.AddNoise], and skips its first steps, so that
	// Steps·Strength remain. With Shorten, LCM and TCD instead take all steps, on the lower part of their grid. 0: 1.
	Strength float64
	Shorten  bool

	levels string // set by Spaced
}

// Noise draws the next standard normal noise for all latents. The caller chooses the random streams: one for each image, or one for all.
type Noise func(s *torch.Scope) *torch.Tensor

// Schedule is a started method: its timesteps and the update of each step, like a scheduler of diffusers after set_timesteps. It is for one
// pass over its steps, from the first to the last; [Schedule.Again] returns a fresh one.
type Schedule interface {
	// Again returns the same schedule before its first step. It is cheap and does not change the receiver: one schedule can be used many
	// times, also by several goroutines at once if each has its own copy.
	Again() Schedule
	// Timesteps returns the network's timestep in each step.
	Timesteps() []float64
	// InitSigma returns the standard deviation of the initial noise (diffusers' init_noise_sigma).
	InitSigma() float64
	// AddNoise returns latents x0 with noise z at the noise level before step i.
	AddNoise(s *torch.Scope, x0, z *torch.Tensor, i int) *torch.Tensor
	// Input returns the network's input for latents x in step i (diffusers' scale_model_input); it may be x itself.
	Input(s *torch.Scope, x *torch.Tensor, i int) *torch.Tensor
	// Step returns the latents after step i, from those before it and the network's output, and the predicted clean latents. Both are owned
	// by s, as is the state that a method keeps: s has to be the same in all steps.
	Step(s *torch.Scope, i int, x, out *torch.Tensor, noise Noise) (next, clean *torch.Tensor)
	// Notices returns notices about options that the model was not trained for.
	Notices() []string
}

// methods are the methods by name.
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

// Names returns the methods' names, without spacings.
func Names() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(methods)), func(name string) bool { return strings.HasSuffix(name, "_karras") })
}

// classes maps diffusers' classes to methods.
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

// Default returns the name of the method in a model's scheduler configuration. exact is false if the class is not supported, and the name
// is then dpmpp_2m, or if its variant is not supported (algorithm_type dpmsolver or sde-dpmsolver), and the name is then that of the
// default variant.
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
		return name, c.Algorithm == "" || c.Algorithm == "dpmsolver++" || c.Algorithm == "deis" // deis as in diffusers
	case name == "unipc" && c.Solver == bh1Solver:
		name = "unipc_bh1"
	}
	return name, true
}

func (o Options) checkStrength() error {
	if v := cmp.Or(o.Strength, 1); !(v > 0 && v <= 1) {
		return refuse("Strength", "strength: want a number above 0 and up to 1, got %g", o.Strength)
	}
	return nil
}

// skip returns the number of steps to skip, of n.
func (o Options) skip(n int) (int, error) {
	if err := o.checkStrength(); err != nil {
		return 0, err
	}
	v := cmp.Or(o.Strength, 1)
	left := min(int(float64(n)*v), n)
	if left < 1 {
		return 0, refuse("Strength", "strength %g of %s leaves no steps: want a strength of at least %.3g, or more steps", o.Strength, plural.N(n, "step"), 1/float64(n))
	}
	return n - left, nil
}

// steps returns the number of steps, at most most.
func (o Options) steps(most int) (int, error) {
	n := o.Steps
	if o.Timesteps != nil {
		if n != 0 && n != len(o.Timesteps) {
			return 0, refuse("Timesteps", "%s and %s: want only one of them, or as many timesteps as steps", plural.N(n, "step"), plural.N(len(o.Timesteps), "timestep"))
		}
		n = len(o.Timesteps)
		for i, t := range o.Timesteps {
			if t < 0 || t >= most {
				return 0, refuse("Timesteps", "timestep %d: want 0 to %d", t, most-1)
			}
			if i > 0 && t >= o.Timesteps[i-1] {
				return 0, refuse("Timesteps", "timesteps %v: want descending timesteps", o.Timesteps)
			}
		}
	}
	if n < 1 || n > most {
		return 0, refuse("Steps", "want 1 to %d steps, got %d", most, n)
	}
	return n, nil
}

// predicted returns the clean latents and the noise that follow from the network's output at latents x = α·clean + σ·noise. The noise is
// computed only if both is set.
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

// bound clamps predicted clean latents if the configuration has clip_sample or thresholding.
func (c *chain) bound(s *torch.Scope, clean *torch.Tensor) *torch.Tensor {
	switch {
	case c.Threshold:
		return s.Tidy(func(s *torch.Scope) *torch.Tensor { return c.threshold(s, clean) })
	case c.clip:
		return clean.Clamp(s, -c.ClipRange, c.ClipRange)
	}
	return clean
}

// threshold is dynamic thresholding: it clamps each sample to ±q, a quantile of its absolute values of at least 1, and divides it by q.
func (c *chain) threshold(s *torch.Scope, clean *torch.Tensor) *torch.Tensor {
	v := clean
	if v.DType() != torch.Float64 {
		v = v.To(s, torch.Float32)
	}
	v = v.Flatten(s, 1, -1)
	q := v.Abs(s).Quantile(s, c.Quantile, 1, true).Clamp(s, 1, c.SampleMax)
	return v.Minimum(s, q).Maximum(s, q.Neg(s)).Div(s, q).Reshape(s, clean.Shape()...).To(s, clean.DType())
}

// noised returns √ᾱ·x0 + √(1-ᾱ)·z, with ᾱ first rounded to the latents' data type, as in diffusers.
func noised(s *torch.Scope, x0, z *torch.Tensor, alpha float32) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		a := torch.Full(s, float64(alpha), torch.Float32, 1).ToDevice(s, x0.Device()).To(s, x0.DType())
		return x0.Mul(s, a.Sqrt(s)).Add(s, z.Mul(s, a.Neg(s).AddScalar(s, 1).Sqrt(s)))
	})
}

// exactly evaluates a function in float32 as PyTorch does on the CPU; package math differs in the last bit.
func exactly(f func(t *torch.Tensor, s *torch.Scope) *torch.Tensor, v float32) float32 {
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	return float32(f(torch.Full(s, float64(v), torch.Float32), s).Item())
}

// root returns √v.
func root(v float32) float32 { return exactly((*torch.Tensor).Sqrt, v) }

// spaced returns n descending timesteps as diffusers' classes do; ints rounds them as in classes with integer timesteps.
func (c *chain) spaced(n int, ints bool) []float64 {
	out := make([]float64, n)
	all := c.TrainSteps
	switch c.Spacing {
	case "linspace":
		for i := range out {
			v := 0.0 // numpy.linspace(0, all-1, n), reversed
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

// trailing returns numpy.arange(all, 0, -all/n), rounded, minus 1; without the extra -1 that rounding errors append for some n (63 of
// 1000).
func trailing(all, n int) []float64 {
	start, step := float64(all), -float64(all)/float64(n)
	delta := (start + step) - start
	var out []float64
	for i := range min(int(math.Ceil((0-start)/step)), n) {
		out = append(out, math.RoundToEven(start+float64(i)*delta)-1)
	}
	return out
}
