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
	"github.com/onestep-go/onestep/sampling"
	"github.com/onestep-go/onestep/torch"
)

// points2D makes a network for points in two dimensions, told the ends of jumps or not.
func points2D(t *testing.T, c perceptron.Config, dtype torch.DType, seed uint64) *perceptron.MLP {
	t.Helper()
	net, err := perceptron.NewAs(c, torch.CPU, dtype, seed)
	require.NoError(t, err)
	t.Cleanup(net.Close)
	return net
}

// reference is a file of scripts/golden_ctm.py.
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
	net := points2D(t, perceptron.Config{Width: 8, Depth: 2, Until: until}, torch.Float64, 1)
	require.NoError(t, net.Load(func(yield func(string, *torch.Tensor) bool) {
		for k, v := range r {
			if name, ok := strings.CutPrefix(k, prefix+"."); ok && !yield(name, v) {
				return
			}
		}
	}))
	return net
}

func (r reference) batch() Batch { return Batch{Images: r["x"]} }

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
	require.Equal(t, 6, n)
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
// heun makes it the answer of Heun's method between the levels of grid(18) instead.
type gaussianJumps struct {
	recorder
	heun bool
}

func (n *gaussianJumps) Forward(s *torch.Scope, x, noise *torch.Tensor, c models.Cond) *torch.Tensor {
	from, until := torch.ToSlice[float64](noise), torch.ToSlice[float64](c.Until)
	scale, shift := make([]float64, len(from)), make([]float64, len(from))
	for i := range from {
		t, u := math.Exp(4*from[i]), math.Exp(4*until[i])
		a := gaussianInner(t, u)
		if n.heun && math.Abs(t-u) > 1e-9*t {
			a = (heunFactor(t, u) - u/t) / (1 - u/t)
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

// heunFactor is what Heun's method multiplies x - m by on the way from level t to level u of grid(18).
func heunFactor(t, u float64) float64 {
	levels := grid(18)
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
		b := Batch{Images: gaussian.Sample(s, torch.NewGenerator(s, 1), torch.Float64, n, 2)}
		for _, c := range []struct {
			name   string
			heun   bool
			solver Solver
			zero   bool
		}{
			{"exact", false, jumpExactly{}, true},
			{"exact jumps, heun's steps", false, sampling.Heun{}, false},
			{"heun's jumps and steps", true, sampling.Heun{}, true},
		} {
			m := &CTM{Model: &models.Trajectory{Net: &gaussianJumps{heun: c.heun}}, Teacher: gaussian, Solver: c.solver, Distance: L2{}}
			require.NoError(t, s.NoGrad(func(s *torch.Scope) error {
				for k := range 10 {
					d := Draw(s, 1, k)
					path, end := m.draw(k, b, d)
					loss := m.LossAt(s, b, path, end, noise(s, b, d), 1).Item()
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
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		levels := grid(18)
		b := Batch{Images: torch.Zeros(s, torch.Float64, 50, 1)}
		for _, most := range []int{0, 3} {
			c := &CTM{Model: &models.Trajectory{Net: &gaussianJumps{}}, MaxSteps: most}
			if most == 0 {
				most = 17
			}
			count := make([]float64, most+1)
			const draws = 3000
			tops, ends := map[int]int{}, map[int]int{}
			for k := range draws {
				path, end := c.draw(k, b, Draw(s, 5, k))
				count[len(path)-1]++
				for i := range end {
					top, found := slices.BinarySearch(levels, path[0][i])
					require.True(t, found)
					for j := range path {
						require.Equal(t, levels[top-j], path[j][i])
					}
					last, found := slices.BinarySearch(levels, end[i])
					require.True(t, found)
					require.LessOrEqual(t, end[i], path[len(path)-1][i])
					if len(path) == 2 {
						tops[top]++
						if top == 17 {
							ends[last]++
						}
					}
				}
			}
			for n := 1; n <= most; n++ {
				p := float64(n) / float64(most*(most+1)/2)
				require.InDelta(t, p, count[n]/draws, 5*math.Sqrt(p/draws), "%d steps", n)
			}
			require.Len(t, tops, 17, "from every level but the lowest")
			require.Len(t, ends, 17, "to every level below")
			one, all := float64(tops[17]), 50*count[1]
			require.InDelta(t, all/17, one, 5*math.Sqrt(all/17))
		}
		return nil
	}))
}

// All jumps draw the same dropout masks: where the solver takes no step both sides are one number, bit by bit.
func TestTrajectoryDropoutIsShared(t *testing.T) {
	c := perceptron.Config{Width: 16, Until: true, Dropout: 0.3}
	net := points2D(t, c, torch.Float32, 1)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		require.NoError(t, s.NoGrad(func(s *torch.Scope) error {
			for _, p := range net.Parameters() {
				p.NormalInPlace(s, 0, 0.3, torch.NewGenerator(s, 3))
			}
			return nil
		}))
		b := Batch{Images: gaussian.Sample(s, torch.NewGenerator(s, 1), torch.Float32, 4, 2)}
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
	net, target := points2D(t, c, torch.Float64, 1), points2D(t, c, torch.Float64, 2)
	m := &CTM{Model: &models.Trajectory{Net: net}, Target: &models.Trajectory{Net: target}, Teacher: gaussian, Solver: sampling.Heun{}, Schedule: Fixed{18, 0.75}}
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
		"differ in": func(c *CTM) {
			c.Target = &models.Trajectory{Net: newMLP(t, 2, 4, 0)}
			c.Model = &models.Trajectory{Net: newMLP(t, 2, 5, 0)}
		},
	} {
		c := good
		change(&c)
		require.ErrorContains(t, c.Validate(), want)
	}
}

// jumpError is how far jumps of the Gaussian data are from factor·(x - m): the root mean square over the data's noisy points, in
// units of the factor and the points' own deviation, which is that of the points where the jump ends.
func jumpError(t *testing.T, f sampling.Trajectory, from, to, factor float64) (off float64) {
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
