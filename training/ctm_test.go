package training

import (
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	perceptron "github.com/onestep-go/onestep/models/mlp"
	"github.com/onestep-go/onestep/models/modelstest"
	"github.com/onestep-go/onestep/sampling"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/optim"
)

// reference is a file of scripts/golden/training/ctm.py.
type reference map[string]*torch.Tensor

func readReference(t *testing.T, s *torch.Scope, name string) reference {
	t.Helper()
	w, err := torch.OpenWeights(filepath.Join("testdata", name+".safetensors"))
	require.NoError(t, err)
	defer w.Close()
	r := reference{}
	for k, v := range w.All(s) {
		r[k] = v.Clone(s)
	}
	return r
}

// net returns the network whose weights have that prefix.
func (r reference) net(t *testing.T, prefix string, until bool) *perceptron.MLP {
	t.Helper()
	net := network(t, perceptron.Config{Width: 8, Depth: 2, Until: until}, torch.Float64, 1)
	require.NoError(t, net.Load(func(yield func(string, *torch.Tensor) bool) {
		for k, v := range r {
			if name, ok := strings.CutPrefix(k, prefix+"."); ok && !yield(name, v) {
				return
			}
		}
	}))
	return net
}

func (r reference) batch() Batch { return Batch{X: r["x"]} }

func (r reference) numbers(name string) []float64 { return torch.ToSlice[float64](r[name]) }

// require compares a loss and its gradients with the file's. Both sides compute in float64, and differ in the order of operations.
func (r reference) require(t *testing.T, s *torch.Scope, name string, loss *torch.Tensor, net *perceptron.MLP) {
	t.Helper()
	const tolerance = 1e-9
	require.InEpsilon(t, r.numbers(name)[0], loss.Item(), tolerance, name)
	for _, p := range net.Parameters() {
		p.ZeroGrad()
	}
	loss.Backward()
	n := 0
	for key, p := range net.Parameters() {
		want := r[name+":"+key]
		require.NotNil(t, want, key)
		n++
		off := p.Grad(s).Sub(s, want).Norm(s).Item() / (want.Norm(s).Item() + 1e-300)
		require.Less(t, off, tolerance, "%s: gradient of %s", name, key)
	}
	require.GreaterOrEqual(t, n, 6)
}

// Both terms, their sum by the ratio of gradients, and all gradients are those of PyTorch, with a target and without.
func TestTrajectoryLossGolden(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		r := readReference(t, s, "ctm")
		net, target := r.net(t, "model", true), r.net(t, "target", true)
		path := make([][]float64, 3)
		for i := range path {
			path[i] = torch.ToSlice[float64](r["path"].Select(s, 0, i).Contiguous(s))
		}
		for name, frozen := range map[string]*models.Trajectory{"own": nil, "other": {Net: target}} {
			c := &CTM{Model: &models.Trajectory{Net: net}, Target: frozen, Teacher: gaussian, Solver: sampling.Heun{}}
			jumps := func() *torch.Tensor { return c.LossAt(s, r.batch(), path, r.numbers("end"), r["z"], 1) }
			denoising := func() *torch.Tensor {
				return c.DenoisingLossAt(s, r.batch(), r.numbers("levels"), r["noise"], 1)
			}
			r.require(t, s, name+".jumps", jumps(), net)
			r.require(t, s, name+".denoising", denoising(), net)
			c.Denoising = 3
			for key, p := range net.Parameters() {
				if key == "out.weight" {
					c.Last = p
				}
			}
			r.require(t, s, name+".adaptive", c.sum(s, jumps(), denoising()), net)
			for _, p := range target.Parameters() {
				require.False(t, p.HasGrad(), "the target collects no gradients")
			}
			require.NoError(t, s.NoGrad(func(s *torch.Scope) error {
				require.InEpsilon(t, r.numbers(name + ".jumps")[0], c.LossAt(s, r.batch(), path, r.numbers("end"), r["z"], 1).Item(), 1e-9)
				return nil
			}))
		}
		return nil
	}))
}

// gaussianJumps is a network of two times that knows the jumps of the Gaussian data, in the form that a Trajectory wants:
//
//	g(x, t, u) = m + (x - m)·s²·(t + u)/(S(t)·(S(u)·t + S(t)·u))        S(t) = √(s² + t²)
//
// heun above 0 makes it the answer of Heun's method instead, between the levels of a grid of that many.
type gaussianJumps struct {
	recorder
	heun int
}

func (n *gaussianJumps) Forward(s *torch.Scope, x, noise *torch.Tensor, c models.Cond) *torch.Tensor {
	from, until := torch.ToSlice[float64](noise), torch.ToSlice[float64](c.Until)
	scale, shift := make([]float64, len(from)), make([]float64, len(from))
	for i := range from {
		t, u := math.Exp(4*from[i]), math.Exp(4*until[i])
		a := gaussianInner(t, u)
		if n.heun > 0 && math.Abs(t-u) > 1e-9*t {
			a = (heunFactor(n.heun, t, u) - u/t) / (1 - u/t)
		}
		v := t*t + 0.25
		out, in := 0.5*t/math.Sqrt(v), 1/math.Sqrt(v)
		// c_skip·x + c_out·F is m + a·(x - m), and F sees c_in·x.
		scale[i], shift[i] = (a-0.25/v)/(out*in), gaussian.Mean*(1-a)/out
	}
	column := func(v []float64) *torch.Tensor { return torch.FromSlice(s, v).PerSample(s, x.NDim()) }
	return x.Mul(s, column(scale)).Add(s, column(shift))
}

func gaussianInner(t, u float64) float64 {
	v := gaussian.Std * gaussian.Std
	a, b := math.Hypot(gaussian.Std, t), math.Hypot(gaussian.Std, u)
	return v * (t + u) / (a * (b*t + a*u))
}

// heunFactor is what Heun's method multiplies x - m by on the way from level t to level u of a grid of n.
func heunFactor(n int, t, u float64) float64 {
	levels := grid(n)
	a := heunPoint(levels)
	index := func(t float64) int {
		return slices.IndexFunc(levels, func(l float64) bool { return math.Abs(l/t-1) < 1e-9 })
	}
	return a[index(t)] / a[index(u)]
}

// jumpExactly is a solver that makes no error.
type jumpExactly struct{}

func (jumpExactly) Step(s *torch.Scope, _ models.Denoiser, x, t, next *torch.Tensor, c models.Cond) *torch.Tensor {
	return (&models.Trajectory{Net: &gaussianJumps{}}).Jump(s, x, t, next, c)
}

// With exact jumps and a solver without error both sides agree, from any level to any other; with Heun's they do not, but they do
// where the jumps are those that his steps make: what training reaches. The denoising term of exact jumps is the data's variance
// given the noisy point, weighted.
func TestTrajectoryLossOfExactJumps(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		const n = 400
		b := Batch{X: gaussian.Sample(s, torch.NewGenerator(s, 1), torch.Float64, n, 2)}
		for _, c := range []struct {
			name   string
			heun   int
			solver Solver
			zero   bool
		}{
			{"exact", 0, jumpExactly{}, true},
			{"exact jumps, heun's steps", 0, sampling.Heun{}, false},
			{"heun's jumps and steps", 18, sampling.Heun{}, true},
		} {
			m := &CTM{Model: &models.Trajectory{Net: &gaussianJumps{heun: c.heun}}, Teacher: gaussian, Solver: c.solver, Distance: L2{}}
			require.NoError(t, s.NoGrad(func(s *torch.Scope) error {
				for k := range 10 {
					d := drawn(1, k, b)
					path, end := m.draw(k, b, d)
					loss := m.LossAt(s, b, path, end, d.Noise(s, b.X), 1).Item()
					if c.zero {
						require.Less(t, loss, 1e-18, c.name)
					} else {
						require.Greater(t, loss, 1e-6, c.name)
					}
				}
				return nil
			}))
		}
		m := &CTM{Model: &models.Trajectory{Net: &gaussianJumps{}}}
		levels := slices.Repeat([]float64{0.5}, n)
		got := m.DenoisingLossAt(s, b, levels, torch.Randn(s, torch.NewGenerator(s, 2), torch.Float64, n, 2), 1).Item()
		v := gaussian.Std * gaussian.Std
		want := (0.25 + 0.25) / (0.25 * 0.25) * v * 0.25 / (v + 0.25)
		require.InEpsilon(t, want, got, 5*math.Sqrt(2.0/(2*n)), "five standard errors")
		return nil
	}))
}

// What is drawn: n steps with a probability proportional to n, along neighbouring levels, then the top and the end uniformly.
func TestTrajectoryDraws(t *testing.T) {
	levels := grid(18)
	index := map[float64]int{}
	for i, level := range levels {
		index[level] = i
	}
	for _, most := range []int{0, 3} {
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			const draws, samples = 3000, 50
			b := Batch{X: torch.Zeros(s, torch.Float64, samples, 1)}
			c := &CTM{Model: &models.Trajectory{Net: &gaussianJumps{}}, MaxSteps: most}
			if most == 0 {
				most = 17
			}
			count := make([]float64, most+1)
			tops, ends, wrong := map[int]int{}, map[int]int{}, 0
			for k := range draws {
				path, end := c.draw(k, b, drawn(5, k, b))
				count[len(path)-1]++
				for i := range end {
					top, found := index[path[0][i]]
					last, also := index[end[i]]
					right := found && also && end[i] <= path[len(path)-1][i]
					for j := range path {
						right = right && path[j][i] == levels[top-j]
					}
					if !right {
						wrong++
					}
					if len(path) == 2 {
						tops[top]++
						ends[last]++
					}
				}
			}
			require.Zero(t, wrong, "neighbours of the grid, and an end that is no higher")
			for n := 1; n <= most; n++ {
				p := float64(n) / float64(most*(most+1)/2)
				require.InDelta(t, p, count[n]/draws, 5*math.Sqrt(p/draws), "%d steps", n)
			}
			require.Len(t, tops, 17, "from every level but the lowest")
			one, all := float64(tops[17]), samples*count[1]
			require.InDelta(t, all/17, one, 5*math.Sqrt(all/17))
			// The lowest level is the end of one in i of the samples whose solver ends at the i-th level, from i = 1 to 17.
			lowest := 0.0
			for i := 1; i <= 17; i++ {
				lowest += all / 17 / float64(i)
			}
			require.InDelta(t, lowest, ends[0], 5*math.Sqrt(lowest))
			return nil
		}))
	}
}

// A step's loss is the first term plus λ times what the EDM objective draws, half of it at high levels, on the class labels too.
func TestTrajectoryLossHasBothTerms(t *testing.T) {
	net := network(t, perceptron.Config{Width: 8, Until: true, Classes: 2}, torch.Float64, 1)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := &models.Trajectory{Net: net, SigmaData: 0.7, Noise: models.ScaledLog}
		m := &CTM{Model: g, Teacher: gaussian, Solver: sampling.Heun{}, Denoising: 2}
		b := Batch{X: gaussian.Sample(s, torch.NewGenerator(s, 1), torch.Float64, 6, 2), Cond: models.Cond{Class: torch.FromSlice(s, []int64{0, 1, 2, 0, 1, 2})}}
		d := drawn(3, 5, b)
		path, end := m.draw(5, b, d)
		jumps := m.LossAt(s, b, path, end, d.Noise(s, b.X), d.Dropout).Item()
		edm := &EDM{Model: &models.EDM{Net: shortJumps{net}, SigmaData: 0.7, Noise: models.ScaledLog}, High: 0.5}
		require.InEpsilon(t, jumps+2*edm.Loss(s, 5, b, d).Item(), m.Loss(s, 5, b, drawn(3, 5, b)).Item(), 1e-12)
		return nil
	}))
}

// All jumps draw the same dropout masks: where the solver takes no step both sides are one number, bit by bit.
func TestTrajectoryDropoutIsShared(t *testing.T) {
	c := perceptron.Config{Width: 16, Until: true, Dropout: 0.3}
	net := network(t, c, torch.Float32, 1)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		require.NoError(t, s.NoGrad(func(s *torch.Scope) error {
			for _, p := range net.Parameters() {
				p.NormalInPlace(s, 0, 0.3, torch.NewGenerator(s, 3))
			}
			return nil
		}))
		b := Batch{X: gaussian.Sample(s, torch.NewGenerator(s, 1), torch.Float32, 4, 2)}
		z := torch.Randn(s, torch.NewGenerator(s, 2), torch.Float32, 4, 2)
		m := &CTM{Model: &models.Trajectory{Net: net}, Teacher: gaussian, Solver: sampling.Heun{}}
		from, end := []float64{80, 5, 1, 0.1}, []float64{3, 0.5, 0.002, 0.05}
		require.Zero(t, m.LossAt(s, b, [][]float64{from}, end, z, 7).Item())
		one := m.LossAt(s, b, [][]float64{from, end}, end, z, 7).Item()
		require.NotZero(t, one)
		require.Equal(t, one, m.LossAt(s, b, [][]float64{from, end}, end, z, 7).Item())
		require.NotEqual(t, one, m.LossAt(s, b, [][]float64{from, end}, end, z, 8).Item())
		return nil
	}))
}

// The target follows as the schedule says, and is all of the state.
func TestTrajectoryTargetFollows(t *testing.T) {
	c := perceptron.Config{Width: 4, Depth: 1, Until: true}
	net, target := network(t, c, torch.Float64, 1), network(t, c, torch.Float64, 2)
	m := &CTM{
		Model: &models.Trajectory{Net: net}, Target: &models.Trajectory{Net: target}, Teacher: gaussian, Solver: sampling.Heun{},
		Schedule: Fixed{18, 0.75},
	}
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		require.ErrorContains(t, torch.Catch(func() { m.Update(s, 0) }), "before Validate")
		require.NoError(t, m.Validate())
		var want []*torch.Tensor
		next := map[string]*torch.Tensor{}
		for name, p := range net.Parameters() {
			next[name] = p
		}
		for name, p := range target.Parameters() {
			want = append(want, p.Detach(s).MulScalar(s, 0.75).Add(s, next[name].Detach(s).MulScalar(s, 0.25)))
		}
		m.Update(s, 0)
		i := 0
		for name, p := range m.State() {
			require.True(t, strings.HasPrefix(name, "target."))
			require.Less(t, p.Sub(s, want[i]).Norm(s).Item(), 1e-14)
			i++
		}
		require.Len(t, want, i)
		require.Equal(t, map[string]float64{"levels": 18, "decay": 0.75}, m.Stats(0))
		return nil
	}))
}

func TestTrajectoryRefuses(t *testing.T) {
	g := &models.Trajectory{Net: &gaussianJumps{}}
	good := CTM{Model: g, Teacher: gaussian, Solver: sampling.Heun{}}
	require.NoError(t, good.Validate())
	for want, change := range map[string]func(c *CTM){
		"no model":                func(c *CTM) { c.Model = nil },
		"no network":              func(c *CTM) { c.Model = &models.Trajectory{} },
		"no teacher":              func(c *CTM) { c.Teacher = nil },
		"no solver":               func(c *CTM) { c.Solver = nil },
		"at least 1 step":         func(c *CTM) { c.MaxSteps = -1 },
		"weight of the denoising": func(c *CTM) { c.Denoising = -1 },
		"largest level above":     func(c *CTM) { c.SigmaMax = 0.001 },
		"at least 2 levels":       func(c *CTM) { c.Schedule = Fixed{Levels: 1} },
		"standard deviation":      func(c *CTM) { c.Mean = 1 },
		"differ in":               func(c *CTM) { c.Target = &models.Trajectory{Net: newMLP(t, 2, 4, 0)} },
	} {
		c := good
		change(&c)
		require.ErrorContains(t, c.Validate(), want)
	}
}

// jumpError is how far jumps of the Gaussian data are from factor·(x - m): the root mean square over the data's noisy points, in
// units of the factor and the points' own deviation, which is that of the points where the jump ends.
func jumpError(t *testing.T, f models.Jumper, from, to, factor float64) (off float64) {
	t.Helper()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			spread := math.Hypot(gaussian.Std, from)
			x := torch.Randn(s, torch.NewGenerator(s, 3), torch.Float32, 4000, 2).MulScalar(s, spread).AddScalar(s, gaussian.Mean)
			at := func(t float64) *torch.Tensor { return torch.Full(s, t, torch.Float32, 4000) }
			want := x.SubScalar(s, gaussian.Mean).MulScalar(s, factor).AddScalar(s, gaussian.Mean)
			off = math.Sqrt(f.Jump(s, x, at(from), at(to), models.Cond{}).Sub(s, want).Square(s).Mean(s).Item()) / (factor * spread)
			return nil
		})
	}))
	return off
}

// course is a training on data in two dimensions, as the trainer does it, from fixed seeds.
type course struct {
	data interface {
		Sample(s *torch.Scope, stream *torch.Generator, d torch.DType, shape ...int) *torch.Tensor
	}
	steps, batch int
	lr           func(k int) float64
}

// halving is a learning rate that falls to 0 in the second half of a run.
func halving(lr float64, steps int) func(k int) float64 {
	return func(k int) float64 { return lr * math.Min(1, 2*(1-float64(k)/float64(steps))) }
}

// take lets net learn. The average follows it.
func (c course) take(t *testing.T, o Objective, net, average *perceptron.MLP) {
	t.Helper()
	opt, err := optim.RAdam{Beta2: 0.99}.New(net.Parameters())
	require.NoError(t, err)
	defer opt.Close()
	follow, err := models.NewEMA(average.Parameters(), net.Parameters())
	require.NoError(t, err)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		stream := torch.NewGenerator(s, 1)
		for k := range c.steps {
			err := s.Run(func(s *torch.Scope) error {
				opt.SetLR(c.lr(k))
				opt.ZeroGrad()
				b := Batch{X: c.data.Sample(s, stream, torch.Float32, c.batch, 2)}
				o.Loss(s, k, b, drawn(1, k, b)).Backward()
				return s.NoGrad(func(s *torch.Scope) error {
					opt.Step(s)
					o.Update(s, k)
					follow.Update(s, math.Min(0.99, (1+float64(k))/(10+float64(k))))
					return nil
				})
			})
			if err != nil {
				return err
			}
		}
		return nil
	}))
}

// Trained on Gaussian data, jumps go where the solver's steps go, from any level to any other: with few levels that is far from
// the exact points.
func TestTrajectoryReachesItsSolver(t *testing.T) {
	const n, steps = 9, 600
	c := perceptron.Config{Width: 48, Until: true}
	net, target, average := network(t, c, torch.Float32, 1), network(t, c, torch.Float32, 1), network(t, c, torch.Float32, 1)
	m := &CTM{
		Model: &models.Trajectory{Net: net}, Target: &models.Trajectory{Net: target}, Teacher: gaussian, Solver: sampling.Heun{},
		Schedule: Fixed{n, 0.9}, MaxSteps: 3, Denoising: 0.1,
	}
	require.NoError(t, m.Validate())
	course{gaussian, steps, 256, halving(5e-3, steps)}.take(t, m, net, average)
	levels, g := grid(n), &models.Trajectory{Net: average}
	for _, jump := range [][2]int{{8, 0}, {8, 4}, {6, 0}, {6, 3}, {4, 0}} {
		from, to := levels[jump[0]], levels[jump[1]]
		training, whole := jumpError(t, g, from, to, heunFactor(n, from, to)), jumpError(t, g, from, to, exactFactor(from, to))
		t.Logf("%.3g to %.3g: training error %.3f, distance from the exact jump %.3f", from, to, training, whole)
		require.Less(t, training, 0.06)
		if jump[1] == 0 {
			require.InDelta(t, heunFactor(n, from, to)/exactFactor(from, to)-1, whole, 0.06, "the solver's own distance from it")
		}
	}
}

// exactFactor is what the exact trajectories of the Gaussian data multiply x - m by.
func exactFactor(from, to float64) float64 {
	return gaussian.Move(gaussian.Mean+1, from, to) - gaussian.Mean
}

// squares is what the long tests learn: three modes in each element, of deviation 0.5 in all.
var squares = modelstest.Mixture{}

// squaresAt is points of that data with noise of a level.
func squaresAt(s *torch.Scope, level float64) (x, t *torch.Tensor) {
	const n = 2000
	stream := torch.NewGenerator(s, 77)
	x = squares.Sample(s, stream, torch.Float64, n, 2)
	return x.Add(s, torch.Randn(s, stream, torch.Float64, n, 2).MulScalar(s, level)), torch.Full(s, level, torch.Float64, n)
}

// rms is the root mean square of a difference.
func rms(s *torch.Scope, a, b *torch.Tensor) float64 {
	return a.Sub(s, b).Square(s).Mean(s).Sqrt(s).Item()
}

// compare tells where the error of one jump on that data comes from, from level 80 to the last of a solver's levels: what training
// left, which is the distance from the solver's answer with the exact denoiser, and the solver's own distance from the exact
// point.
func compare(t *testing.T, f models.Jumper, solver sampling.Solver, levels []float64) (training, discretisation float64) {
	t.Helper()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			x, from := squaresAt(s, 80)
			to := torch.Full(s, levels[len(levels)-1], torch.Float64, x.Dim(0))
			solved, err := sampling.ODE(t.Context(), s, squares, solver, x, levels, models.Cond{})
			if err != nil {
				return err
			}
			got := f.Jump(s, x.To(s, torch.Float32), from.To(s, torch.Float32), to.To(s, torch.Float32), models.Cond{}).To(s, torch.Float64)
			training, discretisation = rms(s, got, solved), rms(s, solved, squares.Jump(s, x, from, to, models.Cond{}))
			return nil
		})
	}))
	return training, discretisation
}

// jumpRMS is how far jumps on that data are from the exact ones, whose points have a deviation of 0.5.
func jumpRMS(t *testing.T, f models.Jumper, from, to float64) (off float64) {
	t.Helper()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			x, at := squaresAt(s, from)
			next := torch.Full(s, to, torch.Float64, x.Dim(0))
			got := f.Jump(s, x.To(s, torch.Float32), at.To(s, torch.Float32), next.To(s, torch.Float32), models.Cond{}).To(s, torch.Float64)
			off = rms(s, got, squares.Jump(s, x, at, next, models.Cond{}))
			return nil
		})
	}))
	return off
}

// On data with modes what is left of the training is as large as the solver's own error, and a jump half of the way is better. The
// bounds are 1.5 times what was measured.
func TestTrajectoryLearnsModes(t *testing.T) {
	long(t)
	const steps = 2000
	c := perceptron.Config{Width: 96, Until: true}
	net, target, average := network(t, c, torch.Float32, 1), network(t, c, torch.Float32, 1), network(t, c, torch.Float32, 1)
	m := &CTM{
		Model: &models.Trajectory{Net: net}, Target: &models.Trajectory{Net: target}, Teacher: squares, Solver: sampling.Heun{},
		Schedule: Fixed{18, 0.9}, MaxSteps: 3, Denoising: 0.1,
	}
	require.NoError(t, m.Validate())
	course{squares, steps, 256, halving(5e-3, steps)}.take(t, m, net, average)
	g := &models.Trajectory{Net: average}
	levels := grid(18)
	slices.Reverse(levels)
	training, discretisation := compare(t, g, sampling.Heun{}, levels)
	t.Logf("at 80: training error %.4f, the solver's %.4f", training, discretisation)
	require.Less(t, training, 0.045)
	require.InDelta(t, 0.027, discretisation, 0.002)
	for _, level := range []float64{0.2, 1, 5, 80} {
		off := jumpRMS(t, g, level, 0.002)
		t.Logf("from %g to the end: %.4f", level, off)
		require.Less(t, off, 0.056)
	}
	half := jumpRMS(t, g, 80, 1)
	t.Logf("from 80 to 1: %.4f", half)
	require.Less(t, half, 0.03)
}
