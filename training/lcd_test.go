package training

import (
	"fmt"
	"iter"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	perceptron "github.com/onestep-go/onestep/models/mlp"
	"github.com/onestep-go/onestep/models/modelstest"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/solver"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/optim"
)

// stable is Stable Diffusion's chain.
func stable(t *testing.T) *noise.Chain {
	t.Helper()
	chain, err := noise.Betas{Schedule: noise.ScaledLinear}.Chain()
	require.NoError(t, err)
	return chain
}

// class is a condition, one label for all.
func class(s *torch.Scope, label ...int64) models.Cond {
	return models.Cond{Class: torch.FromSlice(s, label)}
}

// In the σ coordinates of CD, LCD is that with Euler's step and a guided teacher: another way of computing the same loss, here for
// teachers that predict ε, v and x_0, with the boundary and the last timestep among the samples. 1e-9: CD's timesteps are looked up by
// levels.
func TestLCDIsCD(t *testing.T) {
	chain := stable(t)
	for _, predict := range []noise.Prediction{noise.Epsilon, noise.Velocity, noise.Sample} {
		teacher := network(t, perceptron.Config{Width: 16, NoiseScale: 0.005, Classes: 3}, torch.Float64, 1)
		student := network(t, perceptron.Config{Width: 16, NoiseScale: 0.005, Classes: 3, Guidance: true}, torch.Float64, 2)
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			of := func(net models.Network) *models.DDPM {
				return &models.DDPM{Net: net, Chain: chain, Predict: predict, Nearest: true}
			}
			const k = 50
			index, w := []int{0, 19, 7, 1}, []float64{5, 15, 7.5, 0}
			l := &LCD{Model: &models.Latent{Model: of(student)}, Teacher: of(teacher), Null: class(s, 3), Skip: k, GuidanceInput: true}
			require.NoError(t, l.Validate())
			stream := torch.NewGenerator(s, 1)
			x, z := torch.Randn(s, stream, torch.Float64, 4, 2), torch.Randn(s, stream, torch.Float64, 4, 2)
			b := Batch{X: x, Cond: class(s, 0, 1, 2, 3)}
			got := l.LossAt(s, b, index, w, z, 1)

			low, high, scales := make([]float64, 4), make([]float64, 4), make([]float64, 4)
			for i, at := range index {
				high[i], low[i], scales[i] = chain.Sigma(k*(at+1)-1), chain.Sigma(max(0, k*at-1)), w[i]+1
			}
			b.Cond.Guidance = torch.FromSlice(s, scales)
			c := &CD{CT: CT{Model: l.Model, Schedule: Fixed{}, Distance: ElementHuber{}},
				Teacher: &models.Guided{Model: l.Teacher, Null: l.Null}, Solver: solver.Euler{}}
			want := c.LossAt(s, b, low, high, z, 1)
			require.InEpsilon(t, want.Item(), got.Item(), 1e-9, "%v", predict)
			require.Greater(t, got.Item(), 1e-5)

			grads := func(loss *torch.Tensor) (out []float64) {
				for _, p := range student.Parameters() {
					p.ZeroGrad()
				}
				loss.Backward()
				for _, p := range student.Parameters() {
					out = append(out, torch.ToSlice[float64](p.Grad(s))...)
				}
				return out
			}
			mine, theirs := grads(got), grads(want)
			for i := range mine {
				require.InDelta(t, theirs[i], mine[i], 1e-9)
			}
			return nil
		}))
	}
}

// spy is a network that notes its calls.
type spy struct {
	models.Network
	calls []call
}

type call struct {
	steps   []float64
	dropout models.Dropout
	classes []int64
	guide   []float64 // nil: none
}

func (n *spy) Forward(s *torch.Scope, x, noise *torch.Tensor, c models.Cond) *torch.Tensor {
	made := call{steps: torch.ToSlice[float64](noise.To(s, torch.Float64)), dropout: c.Dropout}
	if c.Class != nil {
		made.classes = torch.ToSlice[int64](c.Class)
	}
	if c.Guidance != nil {
		made.guide = torch.ToSlice[float64](c.Guidance.To(s, torch.Float64))
	}
	n.calls = append(n.calls, made)
	return x.MulScalar(s, 0.5)
}

func (*spy) Parameters() iter.Seq2[string, *torch.Tensor] {
	return func(func(string, *torch.Tensor) bool) {}
}

// A step asks the teacher once, for both conditions and without dropout, then the target at n' and the student at n, with the same masks
// and, for a full model, the scale w + 1. Loss draws pairs and w evenly from their ranges, of each sample's own stream.
func TestLCDAsks(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		for _, full := range []bool{true, false} {
			chain, teacher, student := stable(t), &spy{}, &spy{}
			l := &LCD{Model: &models.Latent{Model: &models.DDPM{Net: student, Chain: chain}}, Teacher: &models.DDPM{Net: teacher, Chain: chain},
				Null: class(s, 9), GuidanceInput: full, WMin: new(3.0), WMax: new(4.0)}
			require.NoError(t, l.Validate())
			b := Batch{X: torch.Zeros(s, torch.Float32, 3, 2), Cond: class(s, 1, 2, 3)}
			l.LossAt(s, b, []int{0, 1, 49}, []float64{3, 3.5, 4}, b.X, 7)
			require.Len(t, teacher.calls, 1)
			require.Equal(t, []float64{19, 39, 999, 19, 39, 999}, teacher.calls[0].steps)
			require.Equal(t, []int64{9, 9, 9, 1, 2, 3}, teacher.calls[0].classes)
			require.Zero(t, teacher.calls[0].dropout)
			require.Nil(t, teacher.calls[0].guide)
			require.Len(t, student.calls, 2)
			require.Equal(t, []float64{0, 19, 979}, student.calls[0].steps, "the target")
			require.Equal(t, []float64{19, 39, 999}, student.calls[1].steps, "the student")
			for _, c := range student.calls {
				require.Equal(t, models.DropoutFrom(7), c.dropout)
				require.Equal(t, []int64{1, 2, 3}, c.classes)
				if full {
					require.Equal(t, []float64{4, 4.5, 5}, c.guide)
				} else {
					require.Nil(t, c.guide)
				}
			}

			b.Cond.Guidance = torch.Ones(s, torch.Float32, 3)
			require.ErrorContains(t, torch.Catch(func() { l.Loss(s, 0, b, drawn(1, 0, b)) }), "Cond.Guidance")
		}

		const n = 6000
		l := &LCD{Teacher: &models.DDPM{Net: &spy{}, Chain: stable(t)}}
		b := Batch{X: torch.Zeros(s, torch.Float32, n, 1)}
		index, w := l.draw(b, drawn(3, 5, b))
		count := make([]int, 50)
		for i, at := range index {
			count[at]++
			require.True(t, w[i] >= 5 && w[i] < 15)
		}
		require.Greater(t, slices.Min(count), n/50*6/10)
		require.Less(t, slices.Min(w), 5.05)
		require.Greater(t, slices.Max(w), 14.95)
		again, _ := l.draw(b, drawn(3, 5, b))
		other, _ := l.draw(b, drawn(3, 6, b))
		require.Equal(t, index, again)
		require.NotEqual(t, index, other)
		l.WMin, l.WMax = new(0.0), new(0.0)
		_, none := l.draw(b, drawn(3, 5, b))
		require.Equal(t, make([]float64, n), none, "0 is no guidance, not the default")
		return nil
	}))
}

// The target follows with a decay of 0.95 a step, and is part of the state; a student without one has none. Losses are reported with the
// noise levels of the upper points.
func TestLCDTarget(t *testing.T) {
	chain := stable(t)
	student, target := network(t, perceptron.Config{Width: 4, Depth: 1}, torch.Float32, 1), network(t, perceptron.Config{Width: 4, Depth: 1}, torch.Float32, 2)
	of := func(net models.Network) *models.DDPM { return &models.DDPM{Net: net, Chain: chain} }
	l := &LCD{Model: &models.Latent{Model: of(student)}, Target: &models.Latent{Model: of(target)}, Teacher: of(student)}
	require.NoError(t, l.Validate())
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		was, to := values(target.Parameters()), values(student.Parameters())
		require.NoError(t, s.NoGrad(func(s *torch.Scope) error { l.Update(s, 0); return nil }))
		for i, v := range values(target.Parameters()) {
			require.InDelta(t, 0.95*was[i]+0.05*to[i], v, 1e-6)
		}
		state := 0
		for name := range l.State() {
			require.Contains(t, name, "target.")
			state++
		}
		require.Equal(t, len(slices.Collect(keys(target.Parameters()))), state)
		for range (&LCD{}).State() {
			t.Fatal("a state without a target")
		}
		b := Batch{X: torch.Ones(s, torch.Float32, 3, 2)}
		d := drawn(1, 0, b)
		index, _ := l.draw(b, drawn(1, 0, b))
		var seen []float64
		d.Observe = func(levels []float64, each *torch.Tensor) {
			seen = levels
			require.Equal(t, []int{3}, each.Shape())
		}
		l.Loss(s, 0, b, d)
		for i, at := range index {
			require.Equal(t, chain.Sigma(20*at+19), seen[i])
		}
		return nil
	}))
}

func keys(tensors iter.Seq2[string, *torch.Tensor]) iter.Seq[string] {
	return func(yield func(string) bool) {
		for name := range tensors {
			if !yield(name) {
				return
			}
		}
	}
}

func values(tensors iter.Seq2[string, *torch.Tensor]) (out []float64) {
	for _, p := range tensors {
		for _, v := range torch.ToSlice[float32](p) {
			out = append(out, float64(v))
		}
	}
	return out
}

func TestLCDRefuses(t *testing.T) {
	net := func() models.Network { return network(t, perceptron.Config{Width: 4, Depth: 1}, torch.Float32, 1) }
	other, err := noise.Betas{Steps: 500}.Chain()
	require.NoError(t, err)
	null := models.Cond{Class: &torch.Tensor{}}
	for want, change := range map[string]func(l *LCD){
		"no model":                  func(l *LCD) { l.Model = nil },
		"no teacher":                func(l *LCD) { l.Teacher = nil },
		"no network":                func(l *LCD) { l.Teacher = &models.DDPM{} },
		"timestep scaling":          func(l *LCD) { l.Model.Scaling = -1 },
		"different noise schedules": func(l *LCD) { l.Teacher.Chain = other },
		"skipping step":             func(l *LCD) { l.Skip = 1001 },
		"range of w":                func(l *LCD) { l.WMin, l.WMax = new(5.0), new(4.0) },
		"set Null":                  func(l *LCD) { l.Null, l.GuidanceInput = models.Cond{}, true },
		"leave WMin":                func(l *LCD) { l.Null, l.WMin, l.WMax = models.Cond{}, new(1.0), new(1.0) },
		"1 to 50 phases":            func(l *LCD) { l.Phases = 51 },
		"Phases and Trajectory":     func(l *LCD) { l.Phases, l.Trajectory = 2, true },
		"no Target":                 func(l *LCD) { l.Decay = 0.9 },
		"in [0, 1]":                 func(l *LCD) { l.Decay = 1.5 },
		"target: ddpm":              func(l *LCD) { l.Target = &models.Latent{Model: &models.DDPM{}} },
		"target: ":                  func(l *LCD) { l.Target = &models.Latent{Model: &models.DDPM{Net: &spy{}, Chain: l.Teacher.Chain}} },
	} {
		chain := stable(t)
		l := &LCD{Model: &models.Latent{Model: &models.DDPM{Net: net(), Chain: chain}}, Teacher: &models.DDPM{Net: net(), Chain: chain}, Null: null}
		require.NoError(t, l.Validate())
		change(l)
		require.ErrorContains(t, l.Validate(), want)
	}
}

// guidedLatents is a teacher whose ε is exact: that of the mixture of each sample's class, the last of which is the null class.
type guidedLatents struct {
	spy
	chain *noise.Chain
	data  []modelstest.Mixture
}

func (g *guidedLatents) Forward(s *torch.Scope, y, label *torch.Tensor, c models.Cond) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		steps := torch.ToSlice[float64](label.To(s, torch.Float64))
		sigma, in := make([]float64, len(steps)), make([]float64, len(steps))
		for i, n := range steps {
			sigma[i] = g.chain.Sigma(int(n))
			in[i] = math.Sqrt(g.chain.AlphaBar(int(n)))
		}
		t := torch.FromSlice(s, sigma)
		x := y.To(s, torch.Float64).Div(s, torch.FromSlice(s, in).PerSample(s, y.NDim()))
		clean := torch.ZerosLike(s, x)
		for i, data := range g.data {
			own := c.Class.EqScalar(s, float64(i)).To(s, torch.Float64)
			clean = clean.Add(s, data.Denoise(s, x, t, models.Cond{}).MulPerSample(s, own))
		}
		return x.Sub(s, clean).Div(s, t.PerSample(s, y.NDim())).To(s, y.DType())
	})
}

// left and right are two classes of latents, each of two modes an axis, and the null class has all three modes of both.
func left() modelstest.Axis  { return modelstest.Axis{{Mean: -0.6, Std: 0.15}, {Std: 0.15}} }
func right() modelstest.Axis { return modelstest.Axis{{Std: 0.15}, {Mean: 0.6, Std: 0.15}} }

func classLatents(t *testing.T) *guidedLatents {
	of := func(a, b modelstest.Axis) modelstest.Mixture {
		return modelstest.Mixture{Axes: []modelstest.Axis{a, b}}
	}
	both := modelstest.Axis{{Mean: -0.6, Std: 0.15}, {Std: 0.15, Weight: 2}, {Mean: 0.6, Std: 0.15}}
	return &guidedLatents{chain: stable(t), data: []modelstest.Mixture{of(left(), left()), of(right(), right()), of(both, both)}}
}

// batch draws latents of both classes.
func (g *guidedLatents) batch(s *torch.Scope, stream *torch.Generator, n int) Batch {
	half := func(i int) *torch.Tensor { return g.data[i].Sample(s, stream, torch.Float32, n/2, 2) }
	labels := make([]int64, n)
	for i := n / 2; i < n; i++ {
		labels[i] = 1
	}
	return Batch{X: torch.Cat(s, []*torch.Tensor{half(0), half(1)}, 0), Cond: class(s, labels...)}
}

// follow is the exact guided consistency function of the grid: Euler's steps over σ with the guided exact denoiser, from the upper point
// of pair i to the lower one of pair last. For pair 0 it is at timestep 0, where the function is the identity.
func (g *guidedLatents) follow(s *torch.Scope, y *torch.Tensor, i, last, skip int, c models.Cond, w float64) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		d := &models.Guided{Model: &models.DDPM{Net: g, Chain: g.chain, Nearest: true}, Null: class(s, 2), Scale: w + 1}
		at := func(n int) *torch.Tensor { return torch.Full(s, g.chain.Sigma(n), torch.Float64, y.Dim(0)) }
		x := y.To(s, torch.Float64).DivScalar(s, math.Sqrt(g.chain.AlphaBar(skip*(i+1)-1)))
		for ; i >= last; i-- {
			x = solver.Euler{}.Step(s, d, x, at(skip*(i+1)-1), at(max(0, skip*i-1)), c)
		}
		return x.MulScalar(s, math.Sqrt(g.chain.AlphaBar(max(0, skip*last-1)))).To(s, y.DType())
	})
}

// distil trains a student of the teacher's and returns an average of its weights. A student that takes the guidance scale has a target that
// follows it, and so has one with a decay.
func (g *guidedLatents) distil(t *testing.T, l *LCD, steps int, lr float64) *models.Latent {
	t.Helper()
	config := perceptron.Config{NoiseScale: 0.003, Classes: 2, Guidance: l.GuidanceInput}
	of := func(net models.Network) *models.Latent {
		return &models.Latent{Model: &models.DDPM{Net: net, Chain: g.chain, Predict: noise.Velocity}}
	}
	net, average := network(t, config, torch.Float32, 1), network(t, config, torch.Float32, 1)
	l.Model, l.Teacher = of(net), &models.DDPM{Net: g, Chain: g.chain}
	if l.GuidanceInput || l.Decay > 0 {
		l.Target = of(network(t, config, torch.Float32, 1))
	}
	opt, err := optim.RAdam{LR: lr, Beta2: 0.99}.New(net.Parameters())
	require.NoError(t, err)
	defer opt.Close()
	follow, err := models.NewEMA(average.Parameters(), net.Parameters())
	require.NoError(t, err)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		l.Null = class(s, 2)
		require.NoError(t, l.Validate())
		stream := torch.NewGenerator(s, 1)
		for k := range steps {
			if err := s.Run(func(s *torch.Scope) error {
				opt.SetLR(lr * math.Min(1, 2*(1-float64(k)/float64(steps))))
				opt.ZeroGrad()
				b := g.batch(s, stream, 256)
				l.Loss(s, k, b, drawn(1, k, b)).Backward()
				opt.Step(s)
				return s.NoGrad(func(s *torch.Scope) error {
					l.Update(s, k)
					follow.Update(s, math.Min(0.99, (1+float64(k))/(10+float64(k))))
					return nil
				})
			}); err != nil {
				return err
			}
		}
		return nil
	}))
	return of(average)
}

// apart is how far a student is from the exact function of the grid at the upper point of pair i, with a guidance w: the root mean square
// over noisy data of both classes, in units of the data's deviation. told is the w that the student gets, where it takes one.
func (g *guidedLatents) apart(t *testing.T, f *models.Latent, takes bool, i, skip int, w, told float64) (off float64) {
	t.Helper()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			b := g.batch(s, torch.NewGenerator(s, 99), 2000)
			steps := slices.Repeat([]int{skip*(i+1) - 1}, 2000)
			y := g.chain.Noisy(s, b.X, torch.Randn(s, torch.NewGenerator(s, 98), torch.Float32, 2000, 2), steps)
			want := g.follow(s, y, i, 0, skip, b.Cond, w)
			c := b.Cond
			if takes {
				c.Guidance = torch.Full(s, told+1, torch.Float64, 2000)
			}
			off = f.Forward(s, y, steps, c).Sub(s, want).Square(s).Mean(s).Sqrt(s).Item() / b.X.Std(s, 0).Item()
			return nil
		})
	}))
	return off
}

// On latents whose guided teacher is exact, the student reaches the exact guided consistency function of the grid, at every pair of
// timesteps and every w of its range, and not that of another w. The bounds are about twice what was measured.
func TestLCDReachesTheGuidedFunction(t *testing.T) {
	long(t)
	const skip, pairs = 100, 10
	g := classLatents(t)
	for _, c := range []struct {
		name  string
		lcd   *LCD
		lr    float64
		at    []float64 // w
		bound float64
	}{
		{"any guidance, target", &LCD{WMin: new(0.5), WMax: new(3.0), GuidanceInput: true, Distance: L2{}}, 4e-3, []float64{0.5, 1.5, 3}, 0.12},
		{"one guidance, pseudo-Huber", &LCD{WMin: new(2.0), WMax: new(2.0), Distance: ElementHuber{0.1}, Decay: 0.95}, 4e-3, []float64{2}, 0.1},
		// Without a target that follows, the learning rate has to be lower.
		{"one guidance, no target", &LCD{WMin: new(2.0), WMax: new(2.0), Distance: L2{}}, 1e-3, []float64{2}, 0.2},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.lcd.Skip = skip
			f := g.distil(t, c.lcd, 2500, c.lr)
			takes := c.lcd.GuidanceInput
			for _, w := range c.at {
				worst := 0.0
				for i := range pairs {
					worst = math.Max(worst, g.apart(t, f, takes, i, skip, w, w))
				}
				t.Logf("w = %g: %.3f", w, worst)
				require.Less(t, worst, c.bound, "w = %g", w)
			}
			another := g.apart(t, f, takes, pairs-1, skip, 0, c.at[len(c.at)-1])
			t.Logf("from w = 0: %.3f", another)
			require.Greater(t, another, 4*c.bound)
		})
	}
}

// Variants: the outputs are the network's own DDIM steps to the ends of phases, which are the published ones, or to drawn timesteps, none
// of them above the pair's lower one. The loss is the formula's, computed here step by step in σ coordinates.
func TestLCDVariants(t *testing.T) {
	chain := stable(t)
	l := &LCD{Teacher: &models.DDPM{Net: &spy{}, Chain: chain}, Phases: 4}
	index := []int{0, 11, 12, 24, 25, 36, 37, 49}
	require.Equal(t, []int{0, 0, 239, 239, 499, 499, 739, 739}, l.ends(index), "floor(linspace(0, 50, 4)) is 0, 12, 25, 37")
	require.Nil(t, (&LCD{Teacher: l.Teacher}).ends(index))

	teacher, student := network(t, perceptron.Config{Width: 16, NoiseScale: 0.005}, torch.Float64, 1), network(t, perceptron.Config{Width: 16, NoiseScale: 0.005}, torch.Float64, 2)
	of := func(net models.Network) *models.DDPM {
		return &models.DDPM{Net: net, Chain: chain, Predict: noise.Velocity, Nearest: true}
	}
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		stream := torch.NewGenerator(s, 1)
		x, z := torch.Randn(s, stream, torch.Float64, 3, 2), torch.Randn(s, stream, torch.Float64, 3, 2)
		at := func(steps []int) *torch.Tensor {
			var levels []float64
			for _, n := range steps {
				levels = append(levels, chain.Sigma(n))
			}
			return torch.FromSlice(s, levels)
		}
		jump := func(net models.Network, x *torch.Tensor, from, to []int) *torch.Tensor {
			return solver.Euler{}.Step(s, of(net), x, at(from), at(to), models.Cond{})
		}
		index, from, to, end := []int{49, 30, 2}, []int{999, 619, 59}, []int{979, 599, 39}, []int{739, 499, 0}
		signal, _ := chain.Signal(s, x, end)
		high := noisy(s, x, z, at(from))
		want := L2{}.Distance(s, jump(student, high, from, end).MulPerSample(s, signal),
			jump(student, jump(teacher, high, from, to), to, end).MulPerSample(s, signal)).Mean(s).Item()
		p := &LCD{Model: &models.Latent{Model: of(student)}, Teacher: of(teacher), Phases: 4, Distance: L2{}}
		require.NoError(t, p.Validate())
		require.InEpsilon(t, want, p.LossAt(s, Batch{X: x}, index, []float64{1, 1, 1}, z, 1).Item(), 1e-9)
		p.Phases = 0
		require.InEpsilon(t, want, p.JumpLossAt(s, Batch{X: x}, index, end, []float64{1, 1, 1}, z, 1).Item(), 1e-9)
		require.NotEqual(t, want, p.LossAt(s, Batch{X: x}, index, []float64{1, 1, 1}, z, 1).Item())
		// A jump that ends where the pair does: the target is the teacher's step itself, whatever the student is.
		lower := p.JumpLossAt(s, Batch{X: x}, index, to, []float64{1, 1, 1}, z, 1).Item()
		signal, _ = chain.Signal(s, x, to)
		require.InEpsilon(t, L2{}.Distance(s, jump(student, high, from, to).MulPerSample(s, signal),
			jump(teacher, high, from, to).MulPerSample(s, signal)).Mean(s).Item(), lower, 1e-6)
		return nil
	}))
}

// A phased student's jumps are those of the guided teacher through each phase, within 0.1 of the data's deviation. A trajectory student
// makes all jumps from a point by one prediction, which is a compromise of them. Jumps to the clean end are nearer to the teacher's
// trajectory than the teacher's own of the same length by far.
func TestLCDVariantsReachTheTrajectory(t *testing.T) {
	long(t)
	const skip, w, n = 100, 2.0, 2000
	for name, l := range map[string]*LCD{"phases": {Phases: 2}, "trajectory": {Trajectory: true}} {
		t.Run(name, func(t *testing.T) {
			g := classLatents(t)
			l.Skip, l.WMin, l.WMax, l.Distance, l.Decay = skip, new(w), new(w), L2{}, 0.95
			f := g.distil(t, l, 1500, 4e-3)
			for _, way := range [][2]int{{9, 5}, {6, 5}, {4, 0}, {2, 0}, {9, 0}, {8, 2}} { // from the upper point of a pair to the lower one of another
				if l.Phases > 0 && (way[0] >= 5) != (way[1] >= 5) {
					continue
				}
				require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
					return s.NoGrad(func(s *torch.Scope) error {
						b := g.batch(s, torch.NewGenerator(s, 99), n)
						from, to := slices.Repeat([]int{skip*(way[0]+1) - 1}, n), slices.Repeat([]int{l.lower(way[1])}, n)
						y := g.chain.Noisy(s, b.X, torch.Randn(s, torch.NewGenerator(s, 98), torch.Float32, n, 2), from)
						want := g.follow(s, y, way[0], way[1], skip, b.Cond, w)
						off := answer(s, f, y, from, to, b.Cond).Sub(s, want).Square(s).Mean(s).Sqrt(s).Item() / b.X.Std(s, 0).Item()
						l.Null = class(s, 2)
						x0, eps := l.Teacher.Parts(s, y, l.guided(s, y, from, slices.Repeat([]float64{w}, n), b.Cond), from)
						own := g.chain.Noisy(s, x0, eps, to).Sub(s, want).Square(s).Mean(s).Sqrt(s).Item() / b.X.Std(s, 0).Item()
						t.Logf("from %d to %d: %.3f; the teacher's own jump %.3f", from[0], to[0], off, own)
						if l.Phases > 0 {
							require.Less(t, off, 0.1)
						}
						if way[1] == 0 { // where trajectories bend
							require.Less(t, off, 0.6*own)
						}
						require.Less(t, off, 0.35)
						return nil
					})
				}))
			}
		})
	}
}

// A run that resumes from any of its checkpoints ends with the weights and the target of one that was never interrupted, to the bit.
func TestLCDResumes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	train := func() map[string][]float32 {
		chain := stable(t)
		of := func(net models.Network) *models.DDPM { return &models.DDPM{Net: net, Chain: chain} }
		teacher := network(t, perceptron.Config{Width: 8, Depth: 1, Classes: 2}, torch.Float32, 1)
		c := perceptron.Config{Width: 8, Depth: 1, Classes: 2, Guidance: true}
		net, target := network(t, c, torch.Float32, 2), network(t, c, torch.Float32, 2)
		l := &LCD{Model: &models.Latent{Model: of(net)}, Target: &models.Latent{Model: of(target)}, Teacher: of(teacher), GuidanceInput: true}
		opt, err := optim.AdamW{LR: 1e-2}.New(net.Parameters())
		require.NoError(t, err)
		defer opt.Close()
		weights := map[string][]float32{}
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			l.Null = class(s, 2)
			data := SourceFunc(func(s *torch.Scope, start int64) Batch {
				stream := torch.NewGenerator(s, uint64(start))
				return Batch{X: torch.Randn(s, stream, torch.Float32, 4, 2), Cond: class(s, 0, 1, 1, 2)}
			})
			r, err := (&Trainer{Objective: l, Model: net, Optimizer: opt, Data: data, Dir: dir, Seed: 1, Steps: 6, SaveEvery: 1, KeepStates: 20,
				Clip: 1}).Train(t.Context())
			require.NoError(t, err)
			require.True(t, r.Finished)
			return nil
		}))
		for name, w := range net.Parameters() {
			weights[name] = torch.ToSlice[float32](w)
		}
		for name, w := range l.State() {
			weights[name] = torch.ToSlice[float32](w)
		}
		return weights
	}
	want := train()
	require.NotEqual(t, want["out.weight"], want["target.out.weight"])
	for k := 5; k > 0; k-- {
		for step := k + 1; step <= 6; step++ {
			require.NoError(t, os.Remove(filepath.Join(dir, fmt.Sprintf("state-%07d.safetensors", step))))
		}
		require.Equal(t, want, train(), "from step %d", k)
	}
}
