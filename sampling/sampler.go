package sampling

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/onestep-go/onestep/internal/suggest"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
)

// Sampler samples from a denoiser along a list of descending noise levels. [Multistep] and [Jumps] have the same methods, for consistency
// functions and jump models.
type Sampler interface {
	// Sample takes x [B, ...] at noise level o.Levels[0] to the last level. The result has x's data type and is owned by s. It stops
	// between steps when ctx is done, with ctx's error.
	Sample(ctx context.Context, s *torch.Scope, d models.Denoiser, x *torch.Tensor, o Options) (*torch.Tensor, error)
	// Evaluations returns the number of calls of the denoiser for these noise levels.
	Evaluations(levels []float64) int
}

// Options are the common arguments of all samplers, besides the model and the initial noise.
type Options struct {
	Levels  []float64     // noise levels, largest first; if the last one is 0, sampling ends with a prediction of x_0
	Streams noise.Streams // one for each image; only samplers that add noise need them
	Cond    models.Cond   // class, text features and other conditions for the network
	// OnStep, if not nil, is called after each step, for progress and previews. Its scope and tensors are only valid until it returns. If
	// it returns an error, sampling stops and returns the error unchanged.
	OnStep func(s *torch.Scope, p Step) error
}

// Step is the state after a step of sampling.
type Step struct {
	Index, Count int           // index of the step, from 0, and number of steps
	Level        float64       // the noise level of X
	X            *torch.Tensor // [B, ...]
	Origin       *torch.Tensor // [B, ...], the step's prediction of x_0, the first one if it made two
}

// Stepwise samples with a one-step solver. With Eta 0 it follows the probability-flow ODE. Otherwise it is ancestral: each step from t to u
// denoises further, to √(u² - a²), and then adds noise of standard deviation
//
//	a = η·u·√(t² - u²)/t
//
// With Euler and η = 1 it has the distribution of [Posterior], whose variance is a².
type Stepwise struct {
	Solver Solver  // nil: Euler
	Eta    float64 // η, from 0 to 1
}

// Sample takes one solver step for each pair of consecutive levels.
func (p Stepwise) Sample(ctx context.Context, s *torch.Scope, d models.Denoiser, x *torch.Tensor, o Options) (*torch.Tensor, error) {
	if err := fraction("eta", p.Eta); err != nil {
		return nil, err
	}
	return walk{Options: o, noisy: p.Eta > 0, step: func(s *torch.Scope, i int, x *torch.Tensor, _ []*torch.Tensor) (next, origin *torch.Tensor) {
		t, u := o.Levels[i], o.Levels[i+1]
		down, up := u, 0.0
		if p.Eta > 0 {
			up = p.Eta * u * math.Sqrt((t-u)*(t+u)) / t
			down = math.Sqrt((u - up) * (u + up))
		}
		x, origin = o.solve(s, d, p.solver(), x, t, down)
		return o.addNoise(s, x, up), origin
	}}.from(ctx, s, x)
}

// Evaluations returns the solver's evaluations per step, and 1 for a step to level 0.
func (p Stepwise) Evaluations(levels []float64) int {
	return evaluations(levels, p.solver().Evaluations())
}

func (p Stepwise) solver() Solver {
	if p.Solver == nil {
		return Euler{}
	}
	return p.Solver
}

// evaluations returns each per step, and 1 for a step to level 0.
func evaluations(levels []float64, each int) int {
	steps := max(len(levels)-1, 0)
	if steps > 0 && levels[steps] == 0 {
		return (steps-1)*each + 1
	}
	return steps * each
}

// walk applies a sampler's steps along the levels.
type walk struct {
	Options
	noisy  bool // the steps add noise
	memory int  // the number of earlier predictions that they use
	// step takes x from Levels[i] to Levels[i+1] and also returns its prediction of x_0. past has the predictions of earlier steps, latest
	// first.
	step func(s *torch.Scope, i int, x *torch.Tensor, past []*torch.Tensor) (next, origin *torch.Tensor)
}

func (w walk) from(ctx context.Context, s *torch.Scope, x *torch.Tensor) (*torch.Tensor, error) {
	if err := descending(w.Levels); err != nil {
		return nil, err
	}
	var out *torch.Tensor
	err := s.NoGrad(func(s *torch.Scope) error {
		if n := x.Dim(0); w.noisy && len(w.Streams) != n {
			return fmt.Errorf("sampling: the sampler adds noise: want a random stream for each of %d images, got %d", n, len(w.Streams))
		}
		out = x.Share(s)
		var past []*torch.Tensor
		steps := len(w.Levels) - 1
		for i := range steps {
			if err := ctx.Err(); err != nil {
				return err
			}
			outer := s
			err := s.Run(func(s *torch.Scope) error {
				next, origin := w.step(s, i, out, past)
				if w.OnStep != nil {
					if err := w.OnStep(s, Step{Index: i, Count: steps, Level: w.Levels[i+1], X: next, Origin: origin}); err != nil {
						return err
					}
				}
				out.Free()
				out = next.Share(outer)
				if w.memory > 0 {
					past = slices.Insert(past, 0, origin.Share(outer))
				}
				return nil
			})
			if err != nil {
				return err
			}
			if len(past) > w.memory {
				past[w.memory].Free()
				past = past[:w.memory]
			}
		}
		s.Keep(out)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// predict returns D(x; t) with all images at the same noise level.
func (o Options) predict(s *torch.Scope, d models.Denoiser, x *torch.Tensor, t float64) *torch.Tensor {
	return d.Denoise(s, x, torch.Full(s, t, x.DType(), x.Dim(0)), o.Cond)
}

// solve takes one solver step with all images at the same noise levels, and also returns the denoiser's first prediction. A step to level 0
// is one evaluation with any solver, and avoids a difference of large numbers.
func (o Options) solve(s *torch.Scope, d models.Denoiser, solver Solver, x *torch.Tensor, t, next float64) (y, origin *torch.Tensor) {
	if next == 0 {
		origin = o.predict(s, d, x, t)
		return origin, origin
	}
	at := func(level float64) *torch.Tensor { return torch.Full(s, level, x.DType(), x.Dim(0)) }
	w := witness{Denoiser: d, s: s}
	y = solver.Step(s, &w, x, at(t), at(next), o.Cond)
	return y, w.first
}

// witness is a denoiser that keeps its first prediction, in s, during a solver's step.
type witness struct {
	models.Denoiser
	s     *torch.Scope
	first *torch.Tensor
}

func (w *witness) Denoise(s *torch.Scope, x, t *torch.Tensor, c models.Cond) *torch.Tensor {
	y := w.Denoiser.Denoise(s, x, t, c)
	if w.first == nil {
		w.first = y.Share(w.s)
	}
	return y
}

// addNoise adds noise of standard deviation std to x, from each image's own stream. If std is 0 nothing is drawn.
func (o Options) addNoise(s *torch.Scope, x *torch.Tensor, std float64) *torch.Tensor {
	if std == 0 {
		return x
	}
	return x.Add(s, o.Streams.Randn(s, x.DType(), x.Shape()[1:]...).MulScalar(s, std))
}

// fraction returns an error for a setting outside [0, 1].
func fraction(name string, v float64) error {
	if !(v >= 0 && v <= 1) {
		return fmt.Errorf("%s: want 0 to 1, got %g", name, v)
	}
	return nil
}

// named has the samplers with their usual settings, by the names of other tools.
var named = []struct {
	name    string
	sampler Sampler
}{
	{"euler", Stepwise{}},
	{"heun", Stepwise{Solver: Heun{}}},
	{"edm", StochasticHeun{Churn: 40, Min: 0.05, Max: 50, Noise: 1.003}}, // Karras et al. 2022, table 5, ImageNet-64
	{"euler_a", Stepwise{Eta: 1}},
	{"ddpm", Posterior{}},
	{"ddim", DDIM{}},
	{"dpm2", Stepwise{Solver: DPM2{}}},
	{"dpm2_a", Stepwise{Solver: DPM2{}, Eta: 1}},
	{"dpmpp_2s", Stepwise{Solver: DPMpp2S{}}},
	{"dpmpp_2s_a", Stepwise{Solver: DPMpp2S{}, Eta: 1}},
	{"dpmpp_2m", DPMpp{}},
	{"dpmpp_3m", DPMpp{Order: 3}},
	{"flow_euler", Stepwise{Solver: FlowEuler{}}},
	{"flow_heun", Stepwise{Solver: FlowHeun{}}},
	{"flow_midpoint", Stepwise{Solver: FlowMidpoint{}}},
}

// Names returns the names that Named accepts.
func Names() []string {
	names := make([]string, len(named))
	for i, n := range named {
		names[i] = n.name
	}
	return names
}

// Named returns a sampler by name, with its usual settings. Names are k-diffusion's without sample_, if it has the sampler; the suffix _a
// means ancestral.
func Named(name string) (Sampler, error) {
	for _, n := range named {
		if n.name == name {
			return n.sampler, nil
		}
	}
	return nil, fmt.Errorf("sampler: %s", suggest.OneOf(name, Names()))
}
