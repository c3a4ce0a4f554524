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

// Sampler carries noise to images with a denoiser, down a list of noise levels. [Multistep] and [Jumps] have the same
// methods, for consistency functions and for models of jumps.
type Sampler interface {
	// Sample returns where x [B, ...], which is at noise level o.Levels[0], comes to at the last of them. The result has
	// x's type and is owned by s. It stops between steps when ctx is done, with ctx's error.
	Sample(ctx context.Context, s *torch.Scope, d models.Denoiser, x *torch.Tensor, o Options) (*torch.Tensor, error)
	// Evaluations is how often Sample calls the denoiser for these noise levels.
	Evaluations(levels []float64) int
}

// Options are what every Sample takes besides the model and the noise to start from.
type Options struct {
	Levels  []float64     // noise levels, largest first; where the last one is 0, sampling ends at a prediction of x_0
	Streams noise.Streams // one for each image; only samplers that add noise need them
	Cond    models.Cond   // class, text features and other conditions for the network
	// OnStep is called after each step, unless it is nil: for progress and previews. The scope and the tensors it gets are
	// gone when it returns. Its error ends sampling and is returned as it is.
	OnStep func(s *torch.Scope, p Step) error
}

// Step is the state after a step of sampling.
type Step struct {
	Index, Count int           // this step, from 0, of so many
	Level        float64       // the noise level of X
	X            *torch.Tensor // [B, ...]
	Origin       *torch.Tensor // [B, ...], the prediction of x_0 that the step was made with, its first if it made two
}

// Stepwise samples with a one-step solver. With Eta 0 it follows the probability-flow ODE. Otherwise it is ancestral: each
// step from t to u goes down further, to √(u² - a²), and then adds noise of deviation
//
//	a = η·u·√(t² - u²)/t
//
// With Euler and η = 1 this has the law of [Posterior], whose posterior variance a² is, for the prediction in x_0's place.
type Stepwise struct {
	Solver Solver  // nil: Euler
	Eta    float64 // η, from 0 to 1
}

// Sample takes one of the solver's steps for each pair of neighbouring levels.
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

// Evaluations is the solver's for each step, and 1 for a step to level 0.
func (p Stepwise) Evaluations(levels []float64) int {
	return evaluations(levels, p.solver().Evaluations())
}

func (p Stepwise) solver() Solver {
	if p.Solver == nil {
		return Euler{}
	}
	return p.Solver
}

// evaluations is each for every step, but 1 for a step to level 0.
func evaluations(levels []float64, each int) int {
	steps := max(len(levels)-1, 0)
	if steps > 0 && levels[steps] == 0 {
		return (steps-1)*each + 1
	}
	return steps * each
}

// walk goes down the levels with a sampler's steps.
type walk struct {
	Options
	noisy  bool // the steps add noise
	memory int  // how many earlier predictions they look at
	// step goes from x at Levels[i] to Levels[i+1] and also returns the prediction of x_0 that it was made with. past has
	// the predictions of the steps before, the last one first.
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

// predict is D(x; t) with all images at one noise level.
func (o Options) predict(s *torch.Scope, d models.Denoiser, x *torch.Tensor, t float64) *torch.Tensor {
	return d.Denoise(s, x, torch.Full(s, t, x.DType(), x.Dim(0)), o.Cond)
}

// solve takes one step of a solver with all images at the same noise levels, and also returns the denoiser's first
// prediction. Level 0 is reached in one evaluation, whatever the solver, and without a difference of large numbers.
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

// witness is a denoiser that keeps its first prediction, in s, for the time of a solver's step.
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

// addNoise adds noise of that standard deviation to x, each image's from its own stream. Deviation 0 draws none.
func (o Options) addNoise(s *torch.Scope, x *torch.Tensor, std float64) *torch.Tensor {
	if std == 0 {
		return x
	}
	return x.Add(s, o.Streams.Randn(s, x.DType(), x.Shape()[1:]...).MulScalar(s, std))
}

// fraction reports a setting that is not from 0 to 1.
func fraction(name string, v float64) error {
	if !(v >= 0 && v <= 1) {
		return fmt.Errorf("%s: want 0 to 1, got %g", name, v)
	}
	return nil
}

// named has the samplers with their usual settings, under the names that other tools give them.
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

// Names lists what Named knows.
func Names() []string {
	names := make([]string, len(named))
	for i, n := range named {
		names[i] = n.name
	}
	return names
}

// Named returns the sampler of that name with its usual settings. The names are k-diffusion's, without sample_, where it
// has the sampler; _a is an ancestral sampler.
func Named(name string) (Sampler, error) {
	for _, n := range named {
		if n.name == name {
			return n.sampler, nil
		}
	}
	return nil, fmt.Errorf("sampler: %s", suggest.OneOf(name, Names()))
}
