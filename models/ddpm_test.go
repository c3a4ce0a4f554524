package models

import (
	"iter"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// told is a network that gives the same answer whatever it is asked, and keeps what it was asked.
type told struct {
	constant
	answer   *torch.Tensor
	x, noise []float64
}

func (k *told) Forward(s *torch.Scope, x, noise *torch.Tensor, _ Cond) *torch.Tensor {
	k.x, k.noise = torch.ToSlice[float64](x.Contiguous(s)), torch.ToSlice[float64](noise)
	return k.answer.MulScalar(s, 1)
}

func wholes(t *torch.Tensor) []int {
	var out []int
	for _, v := range torch.ToSlice[int64](t) {
		out = append(out, int(v))
	}
	return out
}

// Against diffusers' schedulers, computed in float64 on both sides: tables, the steps that levels between them are told as, noisy
// data, targets and predictions. 1e-11: they take 1 - ᾱ as a difference, which near the data loses four digits of sixteen.
func TestDDPMAgainstDiffusers(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		golden, _ := torchtest.Golden(t, s, "testdata/parameterisations.safetensors")
		floats := func(name string) []float64 {
			require.Contains(t, golden, name)
			return torch.ToSlice[float64](golden[name])
		}
		for name, betas := range map[string]noise.Betas{
			"linear.1000.":            {},
			"linear.20.":              {Steps: 20},
			"scaled_linear.1000.":     {Schedule: noise.ScaledLinear},
			"scaled_linear.20.":       {Schedule: noise.ScaledLinear, Steps: 20},
			"squaredcos_cap_v2.1000.": {Schedule: noise.Cosine},
			"squaredcos_cap_v2.20.":   {Schedule: noise.Cosine, Steps: 20},
		} {
			chain, err := betas.Chain()
			require.NoError(t, err)
			bars := floats(name + "alphas_cumprod")
			for i, want := range bars {
				at := i
				if chain.Steps() == 1000 {
					at = min(7*i, 999)
				}
				require.InEpsilon(t, want, chain.AlphaBar(at), 1e-12, "%s%d", name, at)
				require.InEpsilon(t, math.Sqrt((1-want)/want), chain.Sigma(at), 1e-11, "%s%d", name, at)
			}
			for _, level := range []torch.DType{torch.Float64, torch.Float32} {
				tolerance := 1e-8
				if level == torch.Float32 {
					tolerance = 1e-4 // one part in 2^24 of σ, where steps are 1% apart
				}
				sigmas := golden["sigmas"].To(s, level)
				require.InDeltaSlice(t, floats(name+"index"), torch.ToSlice[float64](chain.Index(s, sigmas, false)), tolerance, name)
				require.Equal(t, floats(name+"nearest"), torch.ToSlice[float64](chain.Index(s, sigmas, true)), name)
			}
		}

		steps := wholes(golden["steps"])
		x, z, y := golden["x"], golden["z"], golden["y"]
		chain := (&DDPM{}).Process()
		torchtest.Close(t, "noisy", chain.Noisy(s, x, z, steps), golden["ddpm.noisy"], 1e-11, 1e-11)
		torchtest.Close(t, "velocity", (&DDPM{Predict: noise.Velocity}).Target(s, x, z, steps), golden["ddpm.velocity"], 1e-11, 1e-11)
		require.Same(t, z, (&DDPM{}).Target(s, x, z, steps))
		require.Same(t, x, (&DDPM{Predict: noise.Sample}).Target(s, x, z, steps))

		sigmas, asked := make([]float64, len(steps)), make([]float64, len(steps))
		for i, step := range steps {
			sigmas[i], asked[i] = chain.Sigma(step), float64(step)
		}
		levels := torch.FromSlice(s, sigmas)
		inSigma := y.MulPerSample(s, levels.Square(s).AddScalar(s, 1).Sqrt(s)) // y/√ᾱ
		for name, predict := range map[string]noise.Prediction{"epsilon": noise.Epsilon, "v_prediction": noise.Velocity, "sample": noise.Sample} {
			net := &told{answer: golden["net"]}
			d := &DDPM{Net: net, Predict: predict}
			// Of x_0 from ε at step 999, 157 times the noise is subtracted.
			torchtest.Close(t, name, d.Denoise(s, inSigma, levels, Cond{}), golden["ddpm."+name], 1e-10, 1e-10)
			require.InDeltaSlice(t, asked, net.noise, 1e-9)
			require.InDeltaSlice(t, torch.ToSlice[float64](y), net.x, 1e-13)
			d.Forward(s, y, steps, Cond{})
			require.Equal(t, asked, net.noise)
			require.Equal(t, torch.ToSlice[float64](y), net.x)
		}
		return nil
	}))
}

// A chain's noisy data is x + σ·z in σ coordinates, and its targets are what makes the denoiser exact.
func TestDDPMTargets(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := torch.NewGenerator(s, 1)
		x, z := torch.Randn(s, g, torch.Float64, 4, 2, 3), torch.Randn(s, g, torch.Float64, 4, 2, 3)
		steps := []int{0, 3, 500, 999}
		for _, predict := range []noise.Prediction{noise.Epsilon, noise.Velocity, noise.Sample} {
			net := &told{}
			d := &DDPM{Net: net, Predict: predict}
			chain := d.Process()
			var sigmas []float64
			for _, i := range steps {
				sigmas = append(sigmas, chain.Sigma(i))
				require.InDelta(t, 1, chain.AlphaBar(i)*(1+chain.Sigma(i)*chain.Sigma(i)), 1e-14)
			}
			at := torch.FromSlice(s, sigmas)
			noisy := x.Add(s, z.MulPerSample(s, at))
			requireClose(t, noisy.MulPerSample(s, at.Square(s).AddScalar(s, 1).Rsqrt(s)), chain.Noisy(s, x, z, steps), 1e-14)
			net.answer = d.Target(s, x, z, steps)
			requireClose(t, x, d.Denoise(s, noisy, at, Cond{}), 1e-12)
		}
		require.Equal(t, torch.Float32, (&DDPM{}).Process().Noisy(s, x.To(s, torch.Float32), z.To(s, torch.Float32), steps).DType())
		for _, bad := range [][]int{{0, 1, 2}, {0, 1, 2, 1000}, {0, 1, 2, -1}} {
			require.Error(t, torch.Catch(func() { (&DDPM{}).Process().Noisy(s, x, z, bad) }), "%v", bad)
		}
		return nil
	}))
}

// The continuous process: Sigma and the label are each other's inverse, and the discrete linear chain is close to it.
func TestVP(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		for _, d := range []*VP{{}, {BetaD: 3, BetaMin: 0.5, Scale: 7}, {BetaMin: 2}} {
			net := &told{answer: torch.Zeros(s, torch.Float64, 4, 1)}
			d.Net = net
			times := []float64{1e-5, 0.001, 0.5, 1}
			var sigmas, want []float64
			for _, tau := range times {
				sigmas = append(sigmas, d.Sigma(tau))
				want = append(want, tau*map[bool]float64{true: 999, false: 7}[d.Scale == 0])
			}
			d.Denoise(s, torch.Ones(s, torch.Float64, 4, 1), torch.FromSlice(s, sigmas), Cond{})
			require.InDeltaSlice(t, want, net.noise, 1e-11)
		}
		require.InDelta(t, 152.17, (&VP{}).Sigma(1), 0.01)
		require.InEpsilon(t, (&DDPM{}).Process().Sigma(499), (&VP{}).Sigma(0.5), 0.01)
		return nil
	}))
}

// A prediction's x_0 and ε add up to the noisy point, one is the denoiser's, and where the prediction is that of known data and noise, they
// are these.
func TestDDPMParts(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		chain, err := noise.Betas{Schedule: noise.ScaledLinear}.Chain()
		require.NoError(t, err)
		x := torch.Randn(s, torch.NewGenerator(s, 3), torch.Float64, 3, 2)
		z := torch.Randn(s, torch.NewGenerator(s, 4), torch.Float64, 3, 2)
		F := torch.Randn(s, torch.NewGenerator(s, 5), torch.Float64, 3, 2)
		steps := []int{0, 500, 999}
		for _, predicts := range []noise.Prediction{noise.Epsilon, noise.Velocity, noise.Sample} {
			d := &DDPM{Net: &told{answer: F}, Chain: chain, Predict: predicts, Nearest: true}
			y := chain.Noisy(s, x, z, steps)
			clean, eps := d.Parts(s, y, d.Target(s, x, z, steps), steps)
			torchtest.Close(t, "x_0", clean, x, 1e-11, 0)
			torchtest.Close(t, "noise", eps, z, 1e-11, 0)

			clean, eps = d.Parts(s, y, F, steps)
			torchtest.Close(t, "sum", chain.Noisy(s, clean, eps, steps), y, 1e-11, 0)
			signal, _ := chain.Signal(s, x, steps)
			levels := torch.FromSlice(s, []float64{chain.Sigma(0), chain.Sigma(500), chain.Sigma(999)})
			torchtest.Close(t, "denoiser", clean, d.Denoise(s, y.MulPerSample(s, signal.Reciprocal(s)), levels, Cond{}), 1e-11, 1e-11)
			switch predicts {
			case noise.Epsilon:
				require.Equal(t, torch.ToSlice[float64](F), torch.ToSlice[float64](eps))
			case noise.Sample:
				require.Equal(t, torch.ToSlice[float64](F), torch.ToSlice[float64](clean))
			}
		}
		require.ErrorContains(t, torch.Catch(func() { (&DDPM{Chain: chain}).Parts(s, x, F, []int{0, 1, 1000}) }), "999")
		return nil
	}))
}

// A network with a learned variance has twice as many output channels; others are refused.
func TestLearnedVariance(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x, at := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float32, 2, 3, 4, 4), torch.FromSlice(s, []float32{0.5, 20})
		plain := (&DDPM{Net: doubled{1}}).Denoise(s, x, at, Cond{})
		require.Equal(t, torch.ToSlice[float32](plain), torch.ToSlice[float32]((&DDPM{Net: doubled{2}, LearnedVariance: true}).Denoise(s, x, at, Cond{})))
		err := torch.Catch(func() { (&DDPM{Net: doubled{1}, LearnedVariance: true}).Denoise(s, x, at, Cond{}) })
		require.ErrorContains(t, err, "6 output channels")
		return nil
	}))
}

// doubled is a network that predicts its input, n times.
type doubled struct{ n int }

func (d doubled) Forward(s *torch.Scope, x, _ *torch.Tensor, _ Cond) *torch.Tensor {
	return torch.Cat(s, slices.Repeat([]*torch.Tensor{x}, d.n), 1)
}
func (doubled) Parameters() iter.Seq2[string, *torch.Tensor] {
	return func(func(string, *torch.Tensor) bool) {}
}
