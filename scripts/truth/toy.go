package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/mlp"
	"github.com/onestep-go/onestep/models/modelstest"
	"github.com/onestep-go/onestep/sampling"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/optim"
	"github.com/onestep-go/onestep/training"
)

// data is a mixture of nine narrow Gaussians on a grid in two dimensions, whose denoiser and consistency function are known: along each axis
// the means are -0.6, 0 and 0.6 with standard deviation 0.1, so that of the data is 0.5.
var data = modelstest.Mixture{}

const dim = 2

// budget is the length of training.
type budget struct {
	steps, batch int
	lr           float64 // with linear decay to 0 over the second half
	ema          float64 // decay
	double       bool    // in float64, not in float32
}

func (b budget) dtype() torch.DType {
	if b.double {
		return torch.Float64
	}
	return torch.Float32
}

// toy trains methods with a budget and a seed. It owns their networks.
type toy struct {
	budget
	seed    uint64
	learned map[string]learned // by method name
	closers []func()
}

// learned is a trained method: its function and network, with EMA weights.
type learned struct {
	f   any
	net *mlp.MLP
}

func newToy(b budget, seed uint64) *toy {
	return &toy{budget: b, seed: seed, learned: map[string]learned{}}
}

func (t *toy) own(closer func()) { t.closers = append(t.closers, closer) }

func (t *toy) close() {
	for _, c := range slices.Backward(t.closers) {
		c()
	}
}

// method is a training method and what it is compared with.
type method struct {
	name, about string
	net         mlp.Config
	dropout     float64
	init        string                       // the method whose weights it starts from; "": none
	function    func(net models.Network) any // the denoiser or consistency function of a network
	objective   func(ctx context.Context, l *lesson) (training.Objective, error)
	// solver returns the denoiser, solver and noise levels that a perfect student would reproduce; nil: the exact function.
	solver      func(ctx context.Context, t *toy) (models.Denoiser, sampling.Solver, []float64, error)
	worse       string  // for a control, which is known to be wrong: the method that must be better
	apart       bool    // whether its trajectories differ from the data's, so that there is no exact function
	only80      bool    // whether its function is defined at the largest noise level only
	evaluations int     // with only80: the function's network evaluations; 0: 1
	part        float64 // the fraction of the budget's steps that it takes, after another method's; 0: all
}

// lesson is a method in training.
type lesson struct {
	*toy
	method
	net   *mlp.MLP
	learn any // function(net)
	steps int // of the method, which may be a part of the budget's
}

// copy returns the method's function for a copy of the network.
func (l *lesson) copy() (any, error) {
	c, err := l.net.Clone()
	if err != nil {
		return nil, err
	}
	l.own(c.Close)
	return l.function(c), nil
}

// taught returns a method trained with the toy's seed, and trains it if necessary.
func (t *toy) taught(ctx context.Context, name string) (learned, error) {
	if f, ok := t.learned[name]; ok {
		return f, nil
	}
	m, err := named(name)
	if err != nil {
		return learned{}, err
	}
	f, err := t.train(ctx, m)
	if err == nil {
		t.learned[name] = f
	}
	return f, err
}

// train trains a method.
func (t *toy) train(ctx context.Context, m method) (learned, error) {
	var none learned
	m.net.Dropout = m.dropout
	net, err := mlp.New(m.net, torch.CPU, t.dtype(), t.seed)
	if err != nil {
		return none, err
	}
	defer net.Close()
	if m.init != "" {
		from, err := t.taught(ctx, m.init)
		if err != nil {
			return none, err
		}
		if err := net.Load(from.net.Tensors()); err != nil {
			return none, err
		}
	}
	average, err := net.Clone()
	if err != nil {
		return none, err
	}
	t.own(average.Close)
	l := &lesson{t, m, net, m.function(net), t.steps}
	if m.part > 0 {
		l.steps = int(m.part * float64(t.steps))
	}
	objective, err := m.objective(ctx, l)
	if err != nil {
		return none, err
	}
	opt, err := optim.RAdam{LR: t.lr, Beta2: 0.99}.New(func(yield func(string, *torch.Tensor) bool) {
		for name, p := range net.Parameters() {
			if !yield(name, p) {
				return
			}
		}
		if more, ok := objective.(training.Module); ok {
			for name, p := range more.Parameters() {
				if !yield("objective."+name, p) {
					return
				}
			}
		}
	})
	if err != nil {
		return none, err
	}
	defer opt.Close()
	rate := func(k int) float64 { return math.Min(1, 2*(1-float64(k)/float64(l.steps))) }
	if stages, ok := objective.(training.Staged); ok {
		rate = stages.Left
	}
	samples := func(s *torch.Scope, start int64) training.Batch {
		stream := torch.NewGenerator(s, t.seed<<32+uint64(start)) // for these samples only
		return training.Batch{X: data.Sample(s, stream, t.dtype(), t.batch, dim)}
	}
	_, err = (&training.Trainer{
		Objective: objective, Model: net, Optimizer: opt, Averages: []training.Average{{Into: average, Decay: t.ema}},
		Data: training.SourceFunc(samples), Seed: t.seed, Steps: l.steps, LR: func(k int) float64 { return t.lr * rate(k) },
	}).Train(ctx)
	if err != nil {
		return none, fmt.Errorf("%s, seed %d: %w", m.name, t.seed, err)
	}
	return learned{m.function(average), average}, nil
}

// measured is the errors of a trained function.
type measured struct {
	RMSE     []float64 // from the exact function or denoiser, at levels; -1 if it is not defined there
	Solver   *float64  `json:",omitempty"` // RMSE of the method's solver from the exact function, at 80: the discretisation error
	Training *float64  `json:",omitempty"` // RMSE of the function from that solver, at 80: the training error
	One, Two *law      `json:",omitempty"` // of samples in one and two steps
	Jumps    []jumps   `json:",omitempty"` // of jumps from 80 to 0 in as many parts as hops says
}

// jumps compares the ends of jumps along a trajectory, one after the other, with the exact function.
type jumps struct{ RMSE, W1 float64 }

// hops are numbers of jumps, between flow times τ = σ/(1+σ) at equal distances.
var hops = []int{1, 2, 4, 8}

// law compares the distribution of samples with that of the data, on average over both axes.
type law struct {
	W1  float64 // first Wasserstein distance
	Std float64 // standard deviation; that of the data is 0.5
}

// levels are the noise levels at which functions are compared, and tau is the second noise level of two-step sampling.
var levels = []float64{0.2, 1, 5, 80}

const tau = 0.821

// measure compares a function with the exact one. n is the number of points per noise level; a law takes five times as many.
func (t *toy) measure(ctx context.Context, m method, f any, n int) (measured, error) {
	var out measured
	toy := t
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.Inference(func(s *torch.Scope) error {
			stream := torch.NewGenerator(s, 77)
			at := func(t float64, n int) *torch.Tensor { return torch.Full(s, t, torch.Float64, n) }
			single := func(x, t *torch.Tensor, f func(s *torch.Scope, x, t *torch.Tensor, c models.Cond) *torch.Tensor) *torch.Tensor {
				return f(s, x.To(s, toy.dtype()), t.To(s, toy.dtype()), models.Cond{}).To(s, torch.Float64)
			}
			apart := func(a, b *torch.Tensor) float64 { return a.Sub(s, b).Square(s).Mean(s).Sqrt(s).Item() }
			origin, one := f.(models.ConsistencyFunction)
			denoiser, _ := f.(models.Denoiser)
			var top *torch.Tensor
			for _, level := range levels {
				x := data.Sample(s, stream, torch.Float64, n, dim).Add(s, torch.Randn(s, stream, torch.Float64, n, dim).MulScalar(s, level))
				top = x
				switch {
				case m.only80 && level != 80 || m.apart:
					out.RMSE = append(out.RMSE, -1)
				case one:
					out.RMSE = append(out.RMSE, apart(single(x, at(level, n), origin.Origin), data.Origin(s, x, at(level, n), models.Cond{})))
				case m.only80:
					out.RMSE = append(out.RMSE, apart(single(x, at(level, n), denoiser.Denoise), data.Origin(s, x, at(level, n), models.Cond{})))
				default:
					out.RMSE = append(out.RMSE, apart(single(x, at(level, n), denoiser.Denoise), data.Denoise(s, x, at(level, n), models.Cond{})))
				}
			}
			if m.solver != nil {
				d, solver, levels, err := m.solver(ctx, t)
				if err != nil {
					return err
				}
				if _, exact := d.(modelstest.Mixture); !exact {
					d = inSingle{d}
				}
				x := top
				for i := range len(levels) - 1 {
					x = solver.Step(s, d, x, at(levels[i], n), at(levels[i+1], n), models.Cond{})
				}
				ask := func(s *torch.Scope, x, t *torch.Tensor, c models.Cond) *torch.Tensor {
					if one {
						return origin.Origin(s, x, t, c)
					}
					return denoiser.Denoise(s, x, t, c)
				}
				left := apart(single(top, at(80, n), ask), x)
				off := apart(x, data.Origin(s, top, at(80, n), models.Cond{}))
				out.Training, out.Solver = &left, &off
			}
			if !one && !m.only80 {
				return nil
			}
			many := 5 * n
			z := torch.Randn(s, stream, torch.Float64, many, dim).MulScalar(s, 80)
			if m.only80 {
				ask := origin
				if !one {
					ask = asOrigin{denoiser}
				}
				law := lawOf(single(z, at(80, many), ask.Origin))
				switch m.evaluations {
				case 0, 1:
					out.One = law
				case 2:
					out.Two = law
				}
				return nil
			}
			if jumper, ok := f.(models.Jumper); ok {
				jump := func(x *torch.Tensor, n int) *torch.Tensor {
					return single(x, at(80, x.Dim(0)), func(s *torch.Scope, x, _ *torch.Tensor, c models.Cond) *torch.Tensor {
						return hop(s, jumper, x, n)
					})
				}
				exact := data.Origin(s, top, at(80, n), models.Cond{})
				for _, k := range hops {
					out.Jumps = append(out.Jumps, jumps{apart(jump(top, k), exact), lawOf(jump(z, k)).W1})
				}
			}
			x := single(z, at(80, many), origin.Origin)
			out.One = lawOf(x)
			x = x.Add(s, torch.Randn(s, stream, torch.Float64, many, dim).MulScalar(s, math.Sqrt(tau*tau-0.002*0.002)))
			out.Two = lawOf(single(x, at(tau, many), origin.Origin))
			return nil
		})
	})
	return out, err
}

// hop returns the end of n jumps from x at noise level 80 down to 0, at equal distances of τ = σ/(1+σ).
func hop(s *torch.Scope, f models.Jumper, x *torch.Tensor, n int) *torch.Tensor {
	from, least := 80.0, 0.0
	if g, ok := f.(*models.Trajectory); ok { // its jumps end at ε
		least = g.SigmaMinimum()
	}
	for i := n - 1; i >= 0; i-- {
		tau := 80. / 81 * float64(i) / float64(n)
		to := math.Max(tau/(1-tau), least)
		at := func(v float64) *torch.Tensor { return torch.Full(s, v, x.DType(), x.Dim(0)) }
		x, from = f.Jump(s, x, at(from), at(to), models.Cond{}), to
	}
	return x
}

// asOrigin takes a denoiser's prediction for the end of a trajectory.
type asOrigin struct{ models.Denoiser }

func (d asOrigin) Origin(s *torch.Scope, x, t *torch.Tensor, c models.Cond) *torch.Tensor {
	return d.Denoise(s, x, t, c)
}

// inSegments takes Euler's steps with a denoiser along levels, from the largest on.
type inSegments struct {
	*models.EDM
	levels []float64
}

func (d inSegments) Origin(s *torch.Scope, x, _ *torch.Tensor, c models.Cond) *torch.Tensor {
	at := func(v float64) *torch.Tensor { return torch.Full(s, v, x.DType(), x.Dim(0)) }
	for i := range len(d.levels) - 1 {
		x = sampling.Euler{}.Step(s, d.EDM, x, at(d.levels[i]), at(d.levels[i+1]), c)
	}
	return x
}

// inSingle evaluates a denoiser in single precision and returns the type of x.
type inSingle struct{ models.Denoiser }

func (d inSingle) Denoise(s *torch.Scope, x, t *torch.Tensor, c models.Cond) *torch.Tensor {
	return d.Denoiser.Denoise(s, x.To(s, torch.Float32), t.To(s, torch.Float32), c).To(s, x.DType())
}

// lawOf compares the distribution of samples [n, dim] with that of the data.
func lawOf(x *torch.Tensor) *law {
	values := torch.ToSlice[float64](x)
	n := len(values) / dim
	want := quantiles(n)
	var out law
	for axis := range dim {
		line := make([]float64, n)
		sum, squares := 0.0, 0.0
		for i := range line {
			line[i] = values[i*dim+axis]
			sum, squares = sum+line[i], squares+line[i]*line[i]
		}
		slices.Sort(line)
		for i := range line {
			out.W1 += math.Abs(line[i]-want[i]) / float64(n) / dim
		}
		mean := sum / float64(n)
		out.Std += math.Sqrt(squares/float64(n)-mean*mean) / dim
	}
	return &out
}

// quantiles returns the data's quantiles at (i + ½)/n.
func quantiles(n int) []float64 {
	axis := modelstest.Grid()
	q := make([]float64, n)
	for i := range q {
		p := (float64(i) + 0.5) / float64(n)
		a, b := -2.0, 2.0
		for range 50 {
			if m := (a + b) / 2; axis.CDF(m, 0) < p {
				a = m
			} else {
				b = m
			}
		}
		q[i] = (a + b) / 2
	}
	return q
}

// own is a network that ignores the seed of dropout masks and uses random ones, which is known to be wrong.
type own struct {
	*mlp.MLP
	stream *rand.Rand
}

func (o own) Forward(s *torch.Scope, x, noise *torch.Tensor, c models.Cond) *torch.Tensor {
	if c.Dropout != (models.Dropout{}) {
		c.Dropout = models.DropoutFrom(o.stream.Uint64())
	}
	return o.MLP.Forward(s, x, noise, c)
}
