package training

import (
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	perceptron "github.com/onestep-go/onestep/models/mlp"
	"github.com/onestep-go/onestep/models/modelstest"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/optim"
)

// fewSteps is a problem to learn: a few-step model of plain data, and data of a style, which are the same modes elsewhere.
type fewSteps struct {
	chain         *noise.Chain
	plain, styled modelstest.Mixture
	steps         []int
}

func newFewSteps(t *testing.T) fewSteps {
	axis := func(by float64) modelstest.Axis {
		return modelstest.Axis{{Mean: by - 0.4, Std: 0.25}, {Mean: by + 0.4, Std: 0.25}}
	}
	return fewSteps{stable(t), modelstest.Mixture{Axes: []modelstest.Axis{axis(0)}}, modelstest.Mixture{Axes: []modelstest.Axis{axis(0.5)}}, []int{999, 759, 499, 259}}
}

func (p fewSteps) model(net models.Network) *models.Latent {
	return &models.Latent{Model: &models.DDPM{Net: net, Chain: p.chain, Predict: noise.Velocity}}
}

// learn minimises a loss with batches of data.
func (p fewSteps) learn(t *testing.T, net *perceptron.MLP, data modelstest.Mixture, steps int, lr float64, loss func(*torch.Scope, int, Batch, Draws) *torch.Tensor) {
	t.Helper()
	opt, err := optim.Adam{LR: lr}.New(net.Parameters())
	require.NoError(t, err)
	defer opt.Close()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		stream := torch.NewGenerator(s, 1)
		for k := range steps {
			if err := s.Run(func(s *torch.Scope) error {
				opt.SetLR(lr * (1 - float64(k)/float64(steps)))
				opt.ZeroGrad()
				b := Batch{X: data.Sample(s, stream, torch.Float32, 256, 2)}
				loss(s, k, b, drawn(1, k, b)).Backward()
				opt.Step(s)
				return nil
			}); err != nil {
				return err
			}
		}
		return nil
	}))
}

// base is a network that has learned the exact consistency function of the plain data at the sampler's timesteps.
func (p fewSteps) base(t *testing.T) *perceptron.MLP {
	t.Helper()
	net := network(t, perceptron.Config{NoiseScale: 0.003}, torch.Float32, 1)
	f := p.model(net)
	p.learn(t, net, p.plain, 1500, 3e-3, func(s *torch.Scope, _ int, b Batch, d Draws) *torch.Tensor {
		steps := make([]int, b.X.Dim(0))
		for i := range steps {
			steps[i] = p.steps[d.Samples[i].IntN(len(p.steps))]
		}
		y := p.chain.Noisy(s, b.X, d.Noise(s, b.X), steps)
		signal, off := p.chain.Signal(s, y, steps)
		want := p.plain.Origin(s, y.To(s, torch.Float64).MulPerSample(s, signal.Reciprocal(s)), off.Div(s, signal), models.Cond{})
		return L2{}.Distance(s, f.Forward(s, y, steps, models.Cond{}), want.To(s, torch.Float32)).Mean(s)
	})
	return net
}

// sample is how far samples in four steps are from data, as the first Wasserstein distance of the axes, and their deviation.
func (p fewSteps) sample(t *testing.T, net models.Network, data modelstest.Mixture) (distance, deviation float64) {
	t.Helper()
	const n = 4000
	f := p.model(net)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			stream := torch.NewGenerator(s, 5)
			y, x := torch.Randn(s, stream, torch.Float32, n, 2), (*torch.Tensor)(nil)
			for i, step := range p.steps {
				x = f.Forward(s, y, slices.Repeat([]int{step}, n), models.Cond{})
				if i+1 < len(p.steps) {
					y = p.chain.Noisy(s, x, torch.Randn(s, stream, torch.Float32, n, 2), slices.Repeat([]int{p.steps[i+1]}, n))
				}
			}
			got, want := torch.ToSlice[float32](x.Flatten(s, 0, -1)), torch.ToSlice[float32](data.Sample(s, stream, torch.Float32, 2*n))
			slices.Sort(got)
			slices.Sort(want)
			for i := range got {
				distance += math.Abs(float64(got[i]-want[i])) / float64(len(got))
			}
			deviation = x.Std(s, 0).Item()
			return nil
		})
	}))
	return distance, deviation
}

// A style's loss alone makes a few-step model lose its few steps: the deviation of its samples halves. With the match they are near the
// style's data and keep it. Plain matches find a compromise only: those of weights from 0.3 to 3 came to 0.19, 0.21 and 0.35.
func TestFewStepKeepsItsSteps(t *testing.T) {
	long(t)
	p := newFewSteps(t)
	base := p.base(t)
	before, own := p.sample(t, base, p.plain)
	unstyled, _ := p.sample(t, base, p.styled)
	t.Logf("the model: %.3f from its data, deviation %.3f; %.3f from the style", before, own, unstyled)
	require.Less(t, before, 0.03)
	trained := func(f *FewStep) (distance, deviation float64) {
		net, err := base.Clone()
		require.NoError(t, err)
		defer net.Close()
		net.Store().SetRequiresGrad(true)
		f.Model, f.Frozen = p.model(net), p.model(base)
		require.NoError(t, f.Validate())
		p.learn(t, net, p.styled, 1000, 1e-3, f.Loss)
		distance, deviation = p.sample(t, net, p.styled)
		t.Logf("match %g, anchor %g: %.3f from the style, deviation %.3f", f.Match, f.Anchor, distance, deviation)
		return distance, deviation
	}
	alone, shrunk := trained(&FewStep{Match: 1e-9})
	require.Less(t, shrunk, 0.6*own)
	kept, deviation := trained(&FewStep{})
	require.Less(t, kept, 0.13)
	require.Less(t, kept, 0.6*alone)
	require.Greater(t, deviation, 0.8*own)
	plain, _ := trained(&FewStep{Match: 1, Anchor: 1})
	require.Greater(t, plain, 1.4*kept)
}

// The loss is the formula's: the style's squared error at both noises, and the match of what differs with the noise and, by Anchor, of what
// does not. With an anchor of 1 it is the mean squared difference of both models, of one noise or two. The frozen model has no gradients
// and no dropout.
func TestFewStepLoss(t *testing.T) {
	chain := stable(t)
	model, frozen := network(t, perceptron.Config{Width: 8, Depth: 1, Dropout: 0.5}, torch.Float64, 1), network(t, perceptron.Config{Width: 8, Depth: 1, Dropout: 0.5}, torch.Float64, 2)
	of := func(net models.Network) *models.Latent {
		return &models.Latent{Model: &models.DDPM{Net: net, Chain: chain, Predict: noise.Velocity}}
	}
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		stream := torch.NewGenerator(s, 1)
		draw := func() *torch.Tensor { return torch.Randn(s, stream, torch.Float64, 2, 2) }
		x, z := draw(), []*torch.Tensor{draw(), draw()}
		steps, dropout := []int{999, 259}, models.DropoutFrom(4)
		b := Batch{X: x, Weight: torch.FromSlice(s, []float64{1, 3})}
		var got, style, e []float64 // of both noises, then samples, then elements
		both := torch.Cat(s, []*torch.Tensor{chain.Noisy(s, x, z[0], steps), chain.Noisy(s, x, z[1], steps)}, 0)
		all := append(slices.Clone(steps), steps...)
		got = torch.ToSlice[float64](of(model).Forward(s, both, all, models.Cond{Dropout: dropout}))
		want := torch.ToSlice[float64](of(frozen).Forward(s, both, all, models.Cond{}))
		clean := torch.ToSlice[float64](x)
		for i := range got {
			style, e = append(style, got[i]-clean[i%4]), append(e, got[i]-want[i])
		}
		for _, anchor := range []float64{0, 0.3, 1} {
			sum, plain := 0.0, 0.0
			for i := range 4 {
				weight := []float64{1, 3}[i/2]
				sum += weight * (style[i]*style[i] + style[i+4]*style[i+4]) / 2
				differ, common := (e[i]-e[i+4])/2, (e[i]+e[i+4])/2
				sum += weight * 7 * (differ*differ + anchor*common*common)
				plain += weight * (style[i]*style[i] + style[i+4]*style[i+4] + 7*(e[i]*e[i]+e[i+4]*e[i+4])) / 2
			}
			f := &FewStep{Model: of(model), Frozen: of(frozen), Match: 7, Anchor: anchor}
			require.NoError(t, f.Validate())
			loss := f.LossAt(s, b, steps, z, 4)
			require.InEpsilon(t, sum/4, loss.Item(), 1e-12)
			if anchor == 1 {
				require.InEpsilon(t, plain/4, loss.Item(), 1e-12)
			}
			loss.Backward()
			for name, p := range frozen.Parameters() {
				require.Nil(t, p.Grad(s), name)
			}
			f.Style = &DDPM{Model: of(model).Model}
			require.Less(t, f.LossAt(s, b, steps, z, 4).Item(), sum/4, "the match alone")
		}

		// With Style its loss is added, at the timesteps of the whole chain; the few-step model is asked at its own.
		asked, base, still := &spy{}, &spy{}, &spy{}
		f := &FewStep{Model: of(asked), Frozen: of(still), Style: &DDPM{Model: of(base).Model}, Steps: []int{999, 499}, Anchor: 1}
		require.NoError(t, f.Validate())
		many := Batch{X: torch.Randn(s, stream, torch.Float64, 200, 2)}
		loss := f.Loss(s, 0, many, drawn(1, 0, many))
		require.Len(t, asked.calls, 1)
		require.Len(t, base.calls, 1)
		require.Equal(t, asked.calls[0].steps, still.calls[0].steps)
		require.Len(t, asked.calls[0].steps, 200, "one noise")
		seen := slices.Compact(slices.Sorted(slices.Values(asked.calls[0].steps)))
		require.Equal(t, []float64{499, 999}, seen)
		require.Greater(t, len(slices.Compact(slices.Sorted(slices.Values(base.calls[0].steps)))), 150)
		require.Greater(t, loss.Item(), 0.1, "the two models are the same: it is the style's")
		f.Anchor = 0.5
		f.Loss(s, 0, many, drawn(1, 0, many))
		require.Len(t, asked.calls[1].steps, 400, "two noises")
		require.Zero(t, still.calls[1].dropout)
		require.NotZero(t, asked.calls[1].dropout)
		return nil
	}))
}

func TestFewStepRefuses(t *testing.T) {
	for want, change := range map[string]func(f *FewStep){
		"no model":          func(f *FewStep) { f.Model = nil },
		"no frozen model":   func(f *FewStep) { f.Frozen = nil },
		"no network":        func(f *FewStep) { f.Frozen.Model.Net = nil },
		"noise schedules":   func(f *FewStep) { f.Frozen.Model.Chain = stable(t) },
		"from 1 to 999":     func(f *FewStep) { f.Steps = []int{1000} },
		"at least one":      func(f *FewStep) { f.Steps = []int{} },
		"weight of the":     func(f *FewStep) { f.Match = -1 },
		"anchor from 0":     func(f *FewStep) { f.Anchor = 2 },
		"style: ddpm: no m": func(f *FewStep) { f.Style = &DDPM{} },
	} {
		of := func() *models.Latent { return &models.Latent{Model: &models.DDPM{Net: &spy{}}} }
		f := &FewStep{Model: of(), Frozen: of()}
		require.NoError(t, f.Validate())
		change(f)
		require.ErrorContains(t, f.Validate(), want)
	}
}
