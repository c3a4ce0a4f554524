package training

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	perceptron "github.com/onestep-go/onestep/models/mlp"
	"github.com/onestep-go/onestep/sampling"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/optim"
	"github.com/onestep-go/onestep/training/dataset"
)

// Losses and gradients are those of PyTorch, in the first stage, whose teacher is given, and in the second, whose teacher is the
// copy. The generator computes the target as published, from the point that two of Euler's steps reach.
func TestProgressiveLossGolden(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		r := readReference(t, s, "pd")
		net, twin := r.net(t, "model", false), r.net(t, "copy", false)
		p := &PD{Model: &models.EDM{Net: net}, Teacher: gaussian, Copy: &models.EDM{Net: twin}, First: 8, Steps: 60}
		r.require(t, s, "first", p.LossAt(s, 0, r.batch(), []int{0, 2, 5, 7}, r["z"], 1), net)
		r.require(t, s, "second", p.LossAt(s, 10, r.batch(), []int{0, 1, 2, 3}, r["z"], 1), net)
		for _, w := range twin.Parameters() {
			require.False(t, w.HasGrad())
		}
		return nil
	}))
}

// Stages take equal parts of a run, and those of two steps and of one twice as much.
func TestProgressiveStages(t *testing.T) {
	p := &PD{Steps: 800}
	require.NoError(t, withNetworks(t, p).Validate())
	for _, c := range []struct{ k, steps int }{
		{0, 16}, {113, 16}, {114, 8}, {227, 8}, {228, 4}, {341, 4}, {342, 2}, {570, 2}, {571, 1}, {799, 1}, {5000, 1},
	} {
		require.Equal(t, map[string]float64{"steps": float64(c.steps)}, p.Stats(c.k), "step %d", c.k)
		require.Len(t, p.Levels(c.k), c.steps+1)
	}
	require.Equal(t, 1.0, p.Left(0))
	require.InDelta(t, 1.0/114, p.Left(113), 1e-12)
	require.Equal(t, 1.0, p.Left(114))
	require.InDelta(t, 0.5, p.Left(456), 0.01)
	require.Zero(t, p.Left(800))

	short := &PD{First: 64, Last: 8, Steps: 4}
	require.NoError(t, withNetworks(t, short).Validate())
	for k, steps := range []int{64, 32, 16, 8} {
		require.Equal(t, steps, len(short.Levels(k))-1)
	}
}

// A student's levels are every other one of its teacher's, from the largest down to 0.
func TestProgressiveLevels(t *testing.T) {
	p := &PD{}
	require.Equal(t, []float64{80, 0}, p.levels(1))
	for n := 1; n < 256; n *= 2 {
		few, many := p.levels(n), p.levels(2*n)
		for i, level := range few {
			require.InEpsilon(t, level+1, many[2*i]+1, 1e-13)
		}
	}
	karras := grid(9)
	slices.Reverse(karras)
	require.Equal(t, karras[:8], p.levels(8)[:8])
}

// withNetworks gives p what it learns with, tiny.
func withNetworks(t *testing.T, p *PD) *PD {
	t.Helper()
	net := func(seed uint64) *models.EDM {
		return &models.EDM{Net: network(t, perceptron.Config{Width: 4, Depth: 1}, torch.Float32, seed)}
	}
	p.Model, p.Copy, p.Teacher = net(1), net(2), gaussian
	return p
}

// chain is what the method reaches: the denoiser of the stage of n steps multiplies x - m by d[i] at its i-th level, where the
// teacher's two steps multiply it by a·b in all, and its own one by t”/t + (1 - t”/t)·d.
func (p *PD) chain(n int) (d []float64) {
	levels := p.levels(2 * n)
	teacher := func(i int) float64 { return gaussianShrink(levels[i]) }
	if 2*n <= p.withDefaults().First {
		before := p.chain(2 * n)
		teacher = func(i int) float64 { return before[i] }
	}
	for i := range n {
		step := func(j int) float64 {
			r := levels[j+1] / levels[j]
			return r + (1-r)*teacher(j)
		}
		r := levels[2*i+2] / levels[2*i]
		d = append(d, (step(2*i)*step(2*i+1)-r)/(1-r))
	}
	return d
}

// gaussianShrink is the exact denoiser of the Gaussian data: m + (x - m)·s²/(s² + t²).
func gaussianShrink(t float64) float64 {
	v := gaussian.Std * gaussian.Std
	return v / (v + t*t)
}

// chained is the network of a denoiser that multiplies x - m by such factors at the levels of a grid.
type chained struct {
	recorder
	levels, factors []float64
}

func (c *chained) Forward(s *torch.Scope, x, noise *torch.Tensor, _ models.Cond) *torch.Tensor {
	scale, shift := make([]float64, noise.Dim(0)), make([]float64, noise.Dim(0))
	for i, label := range torch.ToSlice[float64](noise) {
		t := math.Exp(4 * label)
		j := slices.IndexFunc(c.levels, func(l float64) bool { return math.Abs(l/t-1) < 1e-9 })
		v := t*t + 0.25
		out, in := 0.5*t/math.Sqrt(v), 1/math.Sqrt(v)
		scale[i], shift[i] = (c.factors[j]-0.25/v)/(out*in), gaussian.Mean*(1-c.factors[j])/out
	}
	column := func(v []float64) *torch.Tensor { return torch.FromSlice(s, v).PerSample(s, x.NDim()) }
	return x.Mul(s, column(scale)).Add(s, column(shift))
}

// A student that has learned all has no loss, in every stage, and its N steps lead where 2·First steps of the first teacher do: the
// last one's single step, too. With the teacher's answer in place of its own it has one.
func TestProgressiveLossOfPerfectStudents(t *testing.T) {
	const first, samples = 16, 300
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		b := Batch{X: gaussian.Sample(s, torch.NewGenerator(s, 1), torch.Float64, samples, 2)}
		z := torch.Randn(s, torch.NewGenerator(s, 2), torch.Float64, samples, 2)
		x := z.MulScalar(s, 80).Narrow(s, 0, 0, 5)
		p := &PD{Teacher: gaussian, First: first, Steps: 700}
		want, err := sampling.ODE(t.Context(), s, gaussian, sampling.Euler{}, x, p.levels(2*first), models.Cond{})
		require.NoError(t, err)
		for k := range 7 {
			n, _, _ := p.stage(100 * k)
			p.Model = &models.EDM{Net: &chained{levels: p.levels(n)[:n], factors: p.chain(n)}}
			if n < first {
				p.Copy = &models.EDM{Net: &chained{levels: p.levels(2 * n)[:2*n], factors: p.chain(2 * n)}}
			}
			require.NoError(t, s.NoGrad(func(s *torch.Scope) error {
				steps := make([]int, samples)
				for i := range steps {
					steps[i] = i % n
				}
				require.Less(t, p.LossAt(s, 100*k, b, steps, z, 1).Item(), 1e-18, "%d steps", n)
				got, err := sampling.ODE(t.Context(), s, p.Model, sampling.Euler{}, x, p.Levels(100*k), models.Cond{})
				require.NoError(t, err)
				require.Less(t, got.Sub(s, want).Norm(s).Item(), 1e-9*want.Norm(s).Item(), "%d steps", n)

				untaught := make([]float64, n)
				for i := range untaught {
					untaught[i] = gaussianShrink(p.levels(n)[i])
				}
				p.Model = &models.EDM{Net: &chained{levels: p.levels(n)[:n], factors: untaught}}
				require.Greater(t, p.LossAt(s, 100*k, b, steps, z, 1).Item(), 1e-4, "%d steps", n)
				return nil
			}))
		}
		return nil
	}))
}

// At a stage's end the student becomes the teacher, also when the stage's last step was left out, so that Update was not called;
// at no other time.
func TestProgressivePromotes(t *testing.T) {
	p := withNetworks(t, &PD{First: 4, Steps: 50})
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		require.ErrorContains(t, torch.Catch(func() { p.Update(s, 9) }), "before Validate")
		require.NoError(t, p.Validate())
		net, twin := p.Model.Net.(*perceptron.MLP), p.Copy.Net.(*perceptron.MLP)
		same := func() bool {
			equal := true
			next := twin.Parameters()
			weights := map[string]*torch.Tensor{}
			for name, w := range next {
				weights[name] = w
			}
			for name, w := range net.Parameters() {
				equal = equal && slices.Equal(torch.ToSlice[float32](w), torch.ToSlice[float32](weights[name]))
			}
			return equal
		}
		move := func() {
			require.NoError(t, s.NoGrad(func(s *torch.Scope) error {
				for _, w := range net.Parameters() {
					w.CopyFrom(s, w.AddScalar(s, 0.01))
				}
				return nil
			}))
		}
		b := Batch{X: gaussian.Sample(s, torch.NewGenerator(s, 1), torch.Float32, 4, 2)}
		for k := range 50 {
			move()
			p.Update(s, k)
			require.Equal(t, k == 9 || k == 29, same(), "after step %d", k)
			if k == 9 || k == 29 {
				move()
				p.Loss(s, k+1, b, drawn(1, k+1, b))
				require.True(t, same(), "in the next stage's first step")
			}
			p.Loss(s, k, b, drawn(1, k, b))
		}
		n := 0
		for name := range p.State() {
			require.Contains(t, name, "copy.")
			n++
		}
		require.Equal(t, 4, n)
		return nil
	}))
}

// Teacher and student are told the levels, the classes and the scales of guidance.
func TestProgressiveTells(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		b := Batch{X: torch.Ones(s, torch.Float64, 3, 2), Cond: models.Cond{Class: torch.FromSlice(s, []int64{0, 1, 2}), Guidance: torch.FromSlice(s, []float64{1, 2, 3})}}
		student, teacher := &recorder{}, &recorder{}
		p := &PD{Model: &models.EDM{Net: student}, Teacher: &models.EDM{Net: teacher}, Steps: 100}
		p.LossAt(s, 0, b, []int{0, 7, 15}, torch.Ones(s, torch.Float64, 3, 2), 1)
		levels := p.levels(32)
		require.InDeltaSlice(t, []float64{levels[0], levels[14], levels[30]}, student.levels[0], 1e-9)
		require.InDeltaSlice(t, student.levels[0], teacher.levels[0], 1e-12)
		require.InDeltaSlice(t, []float64{levels[1], levels[15], levels[31]}, teacher.levels[1], 1e-9)
		require.Equal(t, []*torch.Tensor{b.Cond.Class}, student.classes)
		require.Equal(t, []*torch.Tensor{b.Cond.Class, b.Cond.Class}, teacher.classes)
		require.Equal(t, []*torch.Tensor{b.Cond.Guidance}, student.guidance)
		require.Equal(t, []*torch.Tensor{b.Cond.Guidance, b.Cond.Guidance}, teacher.guidance)
		return nil
	}))
}

func TestProgressiveRefuses(t *testing.T) {
	for want, change := range map[string]func(p *PD){
		"no model":                   func(p *PD) { p.Model = nil },
		"no teacher":                 func(p *PD) { p.Teacher = nil },
		"no copy":                    func(p *PD) { p.Copy = nil },
		"powers of two":              func(p *PD) { p.First = 12 },
		"from many to few":           func(p *PD) { p.First, p.Last = 2, 4 },
		"at least 7 training steps":  func(p *PD) { p.Steps = 6 },
		"a smallest level above 0":   func(p *PD) { p.SigmaMin = -1 },
		"differ in":                  func(p *PD) { p.Copy = &models.EDM{Net: newMLP(t, 2, 4, 0)} },
		"at least 2 training steps ": func(p *PD) { p.First, p.Steps = 1, 1 },
	} {
		p := withNetworks(t, &PD{Steps: 100})
		change(p)
		require.ErrorContains(t, p.Validate(), want)
	}
	p := withNetworks(t, &PD{First: 4, Last: 4, Steps: 1})
	p.Copy = nil
	require.NoError(t, p.Validate(), "one stage needs no copy")
}

// denoised is a denoiser's one step from any level to 0.
type denoised struct{ models.Denoiser }

func (d denoised) Jump(s *torch.Scope, x, t, _ *torch.Tensor, c models.Cond) *torch.Tensor {
	return d.Denoise(s, x, t, c)
}

// distil trains a denoiser of the data and then lets it take ever fewer steps.
func distil(t *testing.T, c perceptron.Config, data course, p *PD) models.Jumper {
	t.Helper()
	net, twin, average := network(t, c, torch.Float32, 1), network(t, c, torch.Float32, 1), network(t, c, torch.Float32, 1)
	p.Model, p.Copy = &models.EDM{Net: net}, &models.EDM{Net: twin}
	require.NoError(t, p.Validate())
	data.take(t, &EDM{Model: p.Model, High: 0.3}, net, average)
	require.NoError(t, net.Load(average.Tensors()))
	data.steps, data.lr = p.Steps, func(k int) float64 { return 5e-3 * p.Left(k) }
	data.take(t, p, net, average)
	return denoised{p.Model}
}

// Trained on Gaussian data, the last student's single step leads where 16 of Euler's steps with the first teacher lead, which is
// 17% from the exact point.
func TestProgressiveReachesItsTeacher(t *testing.T) {
	p := &PD{Teacher: gaussian, First: 8, Steps: 1200}
	f := distil(t, perceptron.Config{Width: 48}, course{gaussian, 500, 256, halving(5e-3, 500)}, p)
	solver, exact := p.chain(1)[0], gaussian.Std/math.Hypot(gaussian.Std, 80)
	training, whole := jumpError(t, f, 80, 0, solver), jumpError(t, f, 80, 0, exact)
	t.Logf("training error %.4f, distance from the exact function %.4f", training, whole)
	require.InDelta(t, 0.1676, 1-solver/exact, 1e-4)
	require.Less(t, training, 0.05)
	require.InDelta(t, 0.1676, whole, 0.05)
}

// On data with modes most of the last student's error is that of the 32 steps that it stands for, and not its training's, which is
// bounded by twice what was measured.
func TestProgressiveLearnsModes(t *testing.T) {
	long(t)
	p := &PD{Teacher: squares, Steps: 4200}
	f := distil(t, perceptron.Config{Width: 96}, course{squares, 1500, 256, halving(5e-3, 1500)}, p)
	training, discretisation := compare(t, f, sampling.Euler{}, p.levels(32))
	whole := jumpRMS(t, f, 80, 0)
	t.Logf("at 80: training error %.4f, the solver's %.4f, both %.4f", training, discretisation, whole)
	require.Less(t, training, 0.022)
	require.InDelta(t, 0.0454, discretisation, 0.002)
	require.InDelta(t, discretisation, whole, training)
}

// A run that goes on from any of its states, at the end of a stage or within one, ends with the weights of one that was never
// interrupted, bit by bit.
func TestProgressiveResumes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	train := func() map[string][]float32 {
		c := perceptron.Config{Shape: []int{1, 1, 2}, Width: 8, Depth: 1}
		net, twin := network(t, c, torch.Float32, 1), network(t, c, torch.Float32, 2)
		p := &PD{Model: &models.EDM{Net: net}, Teacher: gaussian, Copy: &models.EDM{Net: twin}, First: 4, Steps: 10}
		opt, err := optim.RAdam{LR: 1e-2}.New(net.Parameters())
		require.NoError(t, err)
		defer opt.Close()
		r, err := (&Trainer{Objective: p, Model: net, Optimizer: opt, Data: Images{Loader: &dataset.Loader{Dataset: pixels{}, Batch: 4, Seed: 1}},
			Dir: dir, Seed: 1, Steps: 10, SaveEvery: 1, KeepStates: 20}).Train(t.Context())
		require.NoError(t, err)
		require.True(t, r.Finished)
		weights := map[string][]float32{}
		for name, w := range net.Parameters() {
			weights[name] = torch.ToSlice[float32](w)
		}
		for name, w := range p.State() {
			weights[name] = torch.ToSlice[float32](w)
		}
		return weights
	}
	want := train()
	require.Len(t, want, 8)
	for k := 9; k > 0; k-- {
		for step := k + 1; step <= 10; step++ {
			require.NoError(t, os.Remove(filepath.Join(dir, fmt.Sprintf("state-%07d.safetensors", step))))
		}
		require.Equal(t, want, train(), "from step %d", k)
	}
}
