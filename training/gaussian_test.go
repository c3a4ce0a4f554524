package training

import (
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/modelstest"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/torch/optim"
)

// mlp is a network for points, x [B, D]: three layers on the point and on sines and cosines of the noise label.
type mlp struct {
	*nn.Store
	layers  []nn.Linear
	dropout float64
	own     *masks // if set, masks come from here, whatever the caller wants
}

func newMLP(t *testing.T, dim, width int, dropout float64) *mlp {
	t.Helper()
	st, err := nn.NewStore(torch.CPU, torch.Float32, 1)
	require.NoError(t, err)
	t.Cleanup(st.Close)
	m := &mlp{Store: st, dropout: dropout}
	for i, n := range [][2]int{{dim + 5, width}, {width, width}, {width, dim}} {
		m.layers = append(m.layers, nn.NewLinear(st.Root().Sub("layers", i), n[0], n[1]))
	}
	return m
}

func (m *mlp) Forward(s *torch.Scope, x, noise *torch.Tensor, c models.Cond) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		label := noise.Unsqueeze(s, 1)
		features := []*torch.Tensor{x, label}
		for _, f := range []float64{1.5, 3} {
			a := label.MulScalar(s, f)
			features = append(features, a.Sin(s), a.Cos(s))
		}
		c.Dropout = m.own.instead(c.Dropout)
		h := torch.Cat(s, features, 1)
		for i, l := range m.layers {
			if i > 0 {
				h = c.Dropout.Apply(s, h.SiLU(s), m.dropout, i)
			}
			h = l.Forward(s, h)
		}
		return h
	})
}

// gaussian is data whose deviation is not σ_data, so that the best network is not 0: F ≠ 0 has to be learned.
var gaussian = modelstest.Gaussian{Mean: 0.3, Std: 0.4}

// run is one training on that data, in two dimensions.
type run struct {
	method  CT // without networks
	steps   int
	lr      float64 // falls to 0 in the second half
	dropout float64
	own     bool                                                               // networks draw their own masks
	loss    func(s *torch.Scope, c *CT, k int, b Batch, d Draws) *torch.Tensor // nil: the method's
}

// train minimises the loss as the trainer does, from fixed seeds, and returns an average of the weights.
func (r run) train(t *testing.T) *models.Consistency {
	t.Helper()
	net, average := newMLP(t, 2, 64, r.dropout), newMLP(t, 2, 64, r.dropout)
	c := r.method
	c.Model = &models.Consistency{Net: net}
	if _, decay := c.Schedule.At(0); decay > 0 {
		target := newMLP(t, 2, 64, r.dropout)
		if c.Target = (&models.Consistency{Net: target}); r.own {
			net.own, target.own = &masks{11}, &masks{12}
		}
	}
	require.NoError(t, c.Validate())
	loss := c.Loss
	if r.loss != nil {
		loss = func(s *torch.Scope, k int, b Batch, d Draws) *torch.Tensor { return r.loss(s, &c, k, b, d) }
	}
	learn(t, net, average, r.steps, r.lr, loss, c.Update)
	return &models.Consistency{Net: average}
}

// learn minimises a loss on the Gaussian data as the trainer does, from fixed seeds. The average follows the network.
func learn(t *testing.T, net, average *mlp, steps int, lr float64, loss func(*torch.Scope, int, Batch, Draws) *torch.Tensor, update func(*torch.Scope, int)) {
	t.Helper()
	opt, err := optim.RAdam{LR: lr, Beta2: 0.99}.New(net.Parameters())
	require.NoError(t, err)
	defer opt.Close()
	follow, err := models.NewEMA(average.Parameters(), net.Parameters())
	require.NoError(t, err)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		stream := torch.NewGenerator(s, 1)
		for k := range steps {
			err := s.Run(func(s *torch.Scope) error {
				opt.SetLR(lr * math.Min(1, 2*(1-float64(k)/float64(steps))))
				opt.ZeroGrad()
				b := Batch{X: gaussian.Sample(s, stream, torch.Float32, 256, 2)}
				loss(s, k, b, drawn(1, k, b)).Backward()
				opt.Step(s)
				update(s, k)
				follow.Update(s, math.Min(0.99, (1+float64(k))/(10+float64(k))))
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	}))
}

// masks are dropout masks that differ at every call of a network; nil: those that the caller wants.
type masks struct{ seed uint64 }

func (m *masks) instead(d models.Dropout) models.Dropout {
	if m == nil || d == (models.Dropout{}) {
		return d
	}
	m.seed += 1000
	return models.DropoutFrom(m.seed)
}

// long leaves a test out of short runs.
func long(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("trains networks for some seconds")
	}
}

// grid is Karras's grid of n levels.
func grid(n int) []float64 { return noise.Karras(n, 0.002, 80, 7) }

// fixedPoint is where consistency training with these levels ends on Gaussian data, with any distance that is symmetric:
// f(x, t_n) = m + a_n·(x - m),
//
//	a_1 = 1        a_{n+1} = a_n·(s² + t_n·t_{n+1})/(s² + t_{n+1}²)
//
// because the best answer at t_{n+1} is the mean (and the median) of f(x0 + t_n·z, t_n) given x0 + t_{n+1}·z. Euler's
// solver with the exact denoiser ends there too.
func fixedPoint(levels []float64) []float64 {
	v := gaussian.Std * gaussian.Std
	a := []float64{1}
	for n, t := range levels[:len(levels)-1] {
		u := levels[n+1]
		a = append(a, a[n]*(v+t*u)/(v+u*u))
	}
	return a
}

// exact is the consistency function of the data in the same form: a_n = √((s² + ε²)/(s² + t_n²)).
func exact(levels []float64) []float64 {
	var a []float64
	for _, t := range levels {
		a = append(a, gaussian.Move(gaussian.Mean+1, t, 0.002)-gaussian.Mean)
	}
	return a
}

// apart is how far f is from m + a_n·(x - m): at each level, the root mean square over 4,000 points of the data with noise
// of that level, in units of s.
func apart(t *testing.T, f *models.Consistency, levels, a []float64) []float64 {
	t.Helper()
	var out []float64
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		stream := torch.NewGenerator(s, 99)
		return s.NoGrad(func(s *torch.Scope) error {
			for n, level := range levels {
				x := torch.Randn(s, stream, torch.Float32, 4000, 2).MulScalar(s, math.Hypot(gaussian.Std, level)).AddScalar(s, gaussian.Mean)
				got := f.Origin(s, x, torch.Full(s, level, torch.Float32, 4000), models.Cond{})
				want := x.SubScalar(s, gaussian.Mean).MulScalar(s, a[n]).AddScalar(s, gaussian.Mean)
				out = append(out, math.Sqrt(got.Sub(s, want).Square(s).Mean(s).Item())/gaussian.Std)
			}
			return nil
		})
	}))
	return out
}

// Consistency training ends where its levels let it: at the fixed point above, whatever the distance. What is left is the
// training's error; what separates the fixed point from the exact function is the levels', 16% of the data's deviation with
// 18 of them. The bounds on the first are 1.5 times what two seeds measured.
func TestConsistencyTrainingReachesItsFixedPoint(t *testing.T) {
	long(t)
	for _, c := range []struct {
		name   string
		run    run
		levels int
		bound  float64
	}{
		{"18 levels", run{method: CT{Schedule: Fixed{18, 0.9}, Distance: L2{}}, steps: 1500, lr: 5e-3}, 18, 0.05},
		{"published schedule to 21 levels", run{method: CT{Schedule: Progressive{S1: 20, Steps: 3000}, Distance: L2{}}, steps: 3000, lr: 5e-3}, 21, 0.06},
		{"L1", run{method: CT{Schedule: Fixed{18, 0.9}, Distance: L1{}}, steps: 6000, lr: 5e-4}, 18, 0.08},
	} {
		t.Run(c.name, func(t *testing.T) {
			levels := grid(c.levels)
			f := c.run.train(t)
			training := apart(t, f, levels, fixedPoint(levels))
			whole := apart(t, f, levels, exact(levels))
			discretisation := math.Abs(fixedPoint(levels)[c.levels-1]/exact(levels)[c.levels-1] - 1)
			t.Logf("training error at most %.3f, of one step %.3f; discretisation %.3f; both %.3f",
				slices.Max(training), training[c.levels-1], discretisation, whole[c.levels-1])
			require.Less(t, slices.Max(training), c.bound)
			require.InDelta(t, discretisation, whole[c.levels-1], c.bound)
			require.Less(t, training[c.levels-1], whole[c.levels-1]/2, "nearer to the fixed point than to the exact function")
		})
	}
}

// With many levels the fixed point is the exact function. The improved method gets to 1,281 of them, whose discretisation
// is 0.3%, and its f is within 8% of the data's deviation (root mean square) of the exact one at every level; below noise
// of deviation 20 within 5%. What one step makes from noise has the data's mean and deviation within 8%.
func TestImprovedConsistencyTrainingReachesTheExactFunction(t *testing.T) {
	long(t)
	const steps = 4000
	f := run{method: CT{Schedule: Doubling{Steps: steps}, Index: LogNormal{}, Weight: InverseGap}, steps: steps, lr: 3e-3}.train(t)
	levels := grid(40)
	errors := apart(t, f, levels, exact(levels))
	t.Logf("%.3f", errors)
	for n, level := range levels {
		bound := 0.08
		if level < 20 {
			bound = 0.05
		}
		require.Less(t, errors[n], bound, "at level %g", level)
	}
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			z := torch.Randn(s, torch.NewGenerator(s, 5), torch.Float32, 20_000, 2)
			x := f.Origin(s, z.MulScalar(s, 80), torch.Full(s, 80, torch.Float32, 20_000), models.Cond{})
			require.InDelta(t, gaussian.Mean, x.Mean(s).Item(), 0.08*gaussian.Std)
			require.InDelta(t, gaussian.Std, x.Std(s, 0).Item(), 0.08*gaussian.Std)
			return nil
		})
	}))
}

// What the method needs, left out: the result must be at least twice as far from the fixed point. A test that passed
// without these would show nothing.
func TestNegativeControls(t *testing.T) {
	long(t)
	levels := grid(18)
	oneStep := func(r run) float64 { return apart(t, r.train(t), levels, fixedPoint(levels))[17] }
	plain := run{method: CT{Schedule: Fixed{18, 0.9}, Distance: L2{}}, steps: 1500, lr: 5e-3}

	dropped := plain
	dropped.dropout = 0.2
	good := oneStep(dropped)
	require.Less(t, good, 0.05, "dropout with shared masks")
	dropped.own = true
	bad := oneStep(dropped)
	t.Logf("dropout: %.3f with shared masks, %.3f with masks of their own", good, bad)
	require.Greater(t, bad, 2*good)

	leaky := plain
	leaky.loss = func(s *torch.Scope, c *CT, k int, b Batch, d Draws) *torch.Tensor {
		n := b.X.Dim(0)
		low, high := make([]float64, n), make([]float64, n)
		for i := range low {
			j := d.Samples[i].IntN(len(levels) - 1)
			low[i], high[i] = levels[j], levels[j+1]
		}
		z := d.Noise(s, b.X)
		f := func(times []float64) *torch.Tensor {
			t := torch.FromSlice(s, times).To(s, torch.Float32)
			return c.Model.Origin(s, b.X.Add(s, z.Mul(s, t.PerSample(s, 2))), t, models.Cond{})
		}
		return L2{}.Distance(s, f(high), f(low)).Mean(s)
	}
	bad = oneStep(leaky)
	t.Logf("gradients through the target: %.3f", bad)
	require.Greater(t, bad, 0.1)
}
