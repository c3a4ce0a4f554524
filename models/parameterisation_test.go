package models

import (
	"fmt"
	"iter"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
)

// tangle is a fixed network of x [B, n] that depends on everything it is given, nonlinearly: two layers of random weights. It
// computes in x's type.
type tangle struct{ n int }

func (k tangle) Forward(s *torch.Scope, x, noise *torch.Tensor, c Cond) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		g := torch.NewGenerator(s, 3)
		weight := func(rows, columns int) *torch.Tensor {
			return torch.Randn(s, g, torch.Float64, rows, columns).DivScalar(s, math.Sqrt(float64(rows))).To(s, x.DType())
		}
		h := x.MatMul(s, weight(k.n, 8))
		for _, label := range []*torch.Tensor{noise, c.Until} {
			w := weight(1, 8)
			if label != nil {
				h = h.Add(s, label.To(s, x.DType()).Unsqueeze(s, 1).Mul(s, w))
			}
		}
		return h.Tanh(s).MatMul(s, weight(8, k.n))
	})
}

func (tangle) Parameters() iter.Seq2[string, *torch.Tensor] {
	return func(func(string, *torch.Tensor) bool) {}
}

// chained is the network of a variance-preserving chain that makes the same denoiser as another one.
type chained struct {
	d       Denoiser
	chain   *noise.Chain
	predict noise.Prediction
}

func (k chained) Forward(s *torch.Scope, y, label *torch.Tensor, c Cond) *torch.Tensor {
	index := torch.ToSlice[float64](label.To(s, torch.Float64))
	sigma := make([]float64, len(index))
	for i, at := range index {
		below := min(int(at), k.chain.Steps()-2)
		low, high := math.Log(k.chain.Sigma(below)), math.Log(k.chain.Sigma(below+1))
		sigma[i] = math.Exp(low + (at-float64(below))*(high-low))
	}
	return predicted(s, k.d, k.predict, y, torch.FromSlice(s, sigma), levelType(label), c)
}

func (chained) Parameters() iter.Seq2[string, *torch.Tensor] { return tangle{}.Parameters() }

// predicted is what a variance-preserving network has to say of y at levels t, float64, for its denoiser to be d.
func predicted(s *torch.Scope, d Denoiser, predict noise.Prediction, y, t *torch.Tensor, level torch.DType, c Cond) *torch.Tensor {
	root := t.Square(s).AddScalar(s, 1).Sqrt(s)
	x := y.MulPerSample(s, root)
	D := d.Denoise(s, x, t.To(s, level), c)
	switch predict {
	case noise.Epsilon:
		return x.Sub(s, D).MulPerSample(s, t.Reciprocal(s))
	case noise.Velocity: // (z - σ·x_0)/√(1+σ²), with z = (x - D)/σ
		z := x.Sub(s, D).MulPerSample(s, t.Reciprocal(s))
		return z.Sub(s, D.MulPerSample(s, t)).MulPerSample(s, root.Reciprocal(s))
	}
	return D
}

// timed is the same for the continuous process with Karras's constants.
type timed struct {
	d       Denoiser
	predict noise.Prediction
}

func (k timed) Forward(s *torch.Scope, y, label *torch.Tensor, c Cond) *torch.Tensor {
	tau := label.To(s, torch.Float64).DivScalar(s, 999)
	t := tau.Square(s).MulScalar(s, 19.9/2).Add(s, tau.MulScalar(s, 0.1)).Expm1(s).Sqrt(s)
	return predicted(s, k.d, k.predict, y, t, levelType(label), c)
}

func (timed) Parameters() iter.Seq2[string, *torch.Tensor] { return tangle{}.Parameters() }

// flowing is a velocity network that makes the same denoiser as another one.
type flowing struct {
	d        Denoiser
	scale    float64
	reversed bool
}

func (k flowing) Forward(s *torch.Scope, y, label *torch.Tensor, c Cond) *torch.Tensor {
	tau := label.To(s, torch.Float64).DivScalar(s, k.scale)
	sign := 1.0
	if k.reversed {
		tau, sign = tau.Neg(s).AddScalar(s, 1), -1
	}
	alpha := tau.Neg(s).AddScalar(s, 1)
	D := k.d.Denoise(s, y.MulPerSample(s, alpha.Reciprocal(s)), tau.Div(s, alpha).To(s, levelType(label)), c)
	return y.Sub(s, D).MulPerSample(s, tau.Reciprocal(s)).MulScalar(s, sign)
}

// exploding is the network of a variance-exploding process that makes the same denoiser as another one.
type exploding struct {
	d     Denoiser
	scale float64
}

func (k exploding) Forward(s *torch.Scope, x, label *torch.Tensor, c Cond) *torch.Tensor {
	t := label.To(s, torch.Float64).Exp(s).DivScalar(s, k.scale)
	return k.d.Denoise(s, x, t.To(s, levelType(label)), c).Sub(s, x).MulPerSample(s, t.Reciprocal(s))
}

func (exploding) Parameters() iter.Seq2[string, *torch.Tensor] { return tangle{}.Parameters() }

func (flowing) Parameters() iter.Seq2[string, *torch.Tensor] { return tangle{}.Parameters() }

// One network in every parameterisation is the same denoiser, and from each of them the way back to EDM's and TrigFlow's network
// is exact. In float32 it is so to 1e-6 of what is added up, when levels are float64; labels in float32 carry less: the angle near
// π/2 and the time near 1 tell noise levels apart to 2e-5.
func TestParameterisationsAgree(t *testing.T) {
	const n = 5
	const sd = 0.7
	chain, err := noise.Betas{Schedule: noise.Cosine, Steps: 50}.Chain()
	require.NoError(t, err)
	base := &EDM{Net: tangle{n}, SigmaData: sd}
	all := map[string]Parameterisation{
		"edm, other σ_d":        &EDM{Net: &Preconditioned{Model: base}},
		"edm, other label":      &EDM{Net: &Preconditioned{Model: base, Noise: ScaledLog, SigmaData: sd}, Noise: ScaledLog, SigmaData: sd},
		"trigflow":              &TrigFlow{Net: &TrigNetwork{Model: base, SigmaData: sd}, SigmaData: sd},
		"trigflow, other σ_d":   &TrigFlow{Net: &TrigNetwork{Model: base}},
		"flow":                  &Flow{Net: flowing{base, 1, false}},
		"flow, 1000 τ":          &Flow{Net: flowing{base, 1000, false}, Scale: 1000},
		"flow, reversed":        &Flow{Net: flowing{base, 10, true}, Scale: 10, Reversed: true},
		"ve":                    &VE{Net: exploding{base, 1}},
		"ve of half σ":          &VE{Net: exploding{base, 0.5}, Scale: 0.5},
		"ve, then edm":          &EDM{Net: &Preconditioned{Model: &VE{Net: exploding{base, 1}}}},
		"flow, then trigflow":   &TrigFlow{Net: &TrigNetwork{Model: &Flow{Net: flowing{base, 1, false}}, SigmaData: sd}, SigmaData: sd},
		"flow, then edm":        &EDM{Net: &Preconditioned{Model: &Flow{Net: flowing{base, 1, false}}}},
		"trigflow, then edm":    &EDM{Net: &Preconditioned{Model: &TrigFlow{Net: &TrigNetwork{Model: base}}}},
		"chain, v, then edm":    &EDM{Net: &Preconditioned{Model: &DDPM{Net: chained{base, chain, noise.Velocity}, Chain: chain, Predict: noise.Velocity}}},
		"chain, ε, then edm":    &EDM{Net: &Preconditioned{Model: &DDPM{Net: chained{base, chain, noise.Epsilon}, Chain: chain}}},
		"chain, x_0, then trig": &TrigFlow{Net: &TrigNetwork{Model: &DDPM{Net: chained{base, chain, noise.Sample}, Chain: chain, Predict: noise.Sample}}},
		"vp, v, then trigflow":  &TrigFlow{Net: &TrigNetwork{Model: &VP{Net: timed{base, noise.Velocity}, Predict: noise.Velocity}}},
	}
	for name, predict := range map[string]noise.Prediction{"ε": noise.Epsilon, "v": noise.Velocity, "x_0": noise.Sample} {
		all["chain, "+name] = &DDPM{Net: chained{base, chain, predict}, Chain: chain, Predict: predict}
		all["ddpm, "+name] = &DDPM{Net: chained{base, (&DDPM{}).Process(), predict}, Predict: predict}
		all["vp, "+name] = &VP{Net: timed{base, predict}, Predict: predict}
	}
	values := []float64{0.06, 0.4, 0.821, 5.315, 80} // inside both chains
	for name, d := range all {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
				at := torch.FromSlice(s, values)
				x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float64, len(values), n).MulPerSample(s, at.AddScalar(s, 0.5))
				for _, c := range []struct {
					image, level torch.DType
					tolerance    float64
				}{
					{torch.Float64, torch.Float64, 1e-12},
					{torch.Float32, torch.Float64, 1e-6},
					{torch.Float32, torch.Float32, 2e-5},
				} {
					x, at := x.To(s, c.image), at.To(s, c.level)
					want := base.Denoise(s, x, at, Cond{})
					got := d.Denoise(s, x, at, Cond{})
					require.Equal(t, c.image, got.DType())
					// An ε network's denoiser is a difference of numbers as large as x.
					size := x.Abs(s).MaxDim(s, true, 1).AddScalar(s, 1)
					worst := got.Sub(s, want).Abs(s).Div(s, size).Max(s).Item()
					require.LessOrEqual(t, worst, c.tolerance, "%v images, %v levels", c.image, c.level)
				}
				return nil
			}))
		})
	}
}

// The identity of TrigFlow and EDM in numbers: only the sign and the label differ.
func TestTrigFlowIsEDMWithAnotherSign(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		u := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float64, len(levels), 4)
		sigma := torch.FromSlice(s, levels)
		a := Trig{}.Angle(s, sigma)
		label := sigma.Log(s).MulScalar(s, 0.25)
		want := tangle{4}.Forward(s, u, label, Cond{})
		got := (&TrigNetwork{Model: &EDM{Net: tangle{4}}}).Forward(s, u, a, Cond{})
		requireClose(t, want.Neg(s), got, 1e-12)
		back := (&Preconditioned{Model: &TrigFlow{Net: &TrigNetwork{Model: &EDM{Net: tangle{4}}}}}).Forward(s, u, label, Cond{})
		requireClose(t, want, back, 1e-12)
		return nil
	}))
}

func requireClose(t *testing.T, want, got *torch.Tensor, tolerance float64, what ...any) {
	t.Helper()
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	require.Equal(t, want.Shape(), got.Shape(), what...)
	worst := got.To(s, torch.Float64).Sub(s, want.To(s, torch.Float64)).Abs(s).Max(s).Item()
	require.LessOrEqual(t, worst, tolerance, what...)
}

// Every form written out in Go's float64, for a network that can be computed by hand, from 0 to huge levels.
func TestForms(t *testing.T) {
	const x, a = -1.25, 0.75
	chain := (&DDPM{}).Process()
	index := func(t float64) float64 { // by search, another way than Index
		switch {
		case t <= chain.Sigma(0):
			return 0
		case t >= chain.Sigma(999):
			return 999
		}
		i := 0
		for chain.Sigma(i+1) <= t {
			i++
		}
		return float64(i) + math.Log(t/chain.Sigma(i))/math.Log(chain.Sigma(i+1)/chain.Sigma(i))
	}
	time := func(t float64) float64 { return 999 * (math.Sqrt(0.01+2*19.9*math.Log1p(t*t)) - 0.1) / 19.9 }
	vp := func(t float64) float64 { return 1 / math.Sqrt(1+t*t) }
	for _, c := range []struct {
		name string
		d    Denoiser
		want func(t float64) float64
	}{
		{"ddpm, ε", &DDPM{Net: linear{a}}, func(t float64) float64 { return x - t*(a*x*vp(t)+index(t)) }},
		{"ddpm, v", &DDPM{Net: linear{a}, Predict: noise.Velocity}, func(t float64) float64 {
			return x*vp(t)*vp(t) - t*vp(t)*(a*x*vp(t)+index(t))
		}},
		{"ddpm, x_0", &DDPM{Net: linear{a}, Predict: noise.Sample}, func(t float64) float64 { return a*x*vp(t) + index(t) }},
		{"ddpm, nearest", &DDPM{Net: linear{a}, Nearest: true}, func(t float64) float64 { return x - t*(a*x*vp(t)+math.Round(index(t))) }},
		{"vp, ε", &VP{Net: linear{a}}, func(t float64) float64 { return x - t*(a*x*vp(t)+time(t)) }},
		{"vp, x_0, another process", &VP{Net: linear{a}, Predict: noise.Sample, BetaD: 5, BetaMin: 0.3, Scale: 1}, func(t float64) float64 {
			return a*x*vp(t) + (math.Sqrt(0.09+10*math.Log1p(t*t))-0.3)/5
		}},
		{"ve", &VE{Net: linear{a}}, func(t float64) float64 { return x + t*(a*x+math.Log(max(t, leastLevel))) }},
		{"ve of half σ", &VE{Net: linear{a}, Scale: 0.5}, func(t float64) float64 { return x + t*(a*x+math.Log(max(t/2, leastLevel))) }},
		{"flow", &Flow{Net: linear{a}}, func(t float64) float64 { return x/(1+t) - t/(1+t)*(a*x/(1+t)+t/(1+t)) }},
		{"flow, 1000 τ", &Flow{Net: linear{a}, Scale: 1000}, func(t float64) float64 { return x/(1+t) - t/(1+t)*(a*x/(1+t)+1000*t/(1+t)) }},
		{"flow, reversed", &Flow{Net: linear{a}, Reversed: true}, func(t float64) float64 { return x/(1+t) + t/(1+t)*(a*x/(1+t)+1/(1+t)) }},
		{"trigflow", &TrigFlow{Net: linear{a}}, func(t float64) float64 {
			angle := math.Atan(t / 0.5)
			return math.Cos(angle)*math.Cos(angle)*x - math.Sin(angle)*0.5*(a*math.Cos(angle)*x/0.5+angle)
		}},
		{"trigflow, another σ_d", &TrigFlow{Net: linear{a}, SigmaData: 1}, func(t float64) float64 {
			angle := math.Atan(t)
			return math.Cos(angle)*math.Cos(angle)*x - math.Sin(angle)*(a*math.Cos(angle)*x+angle)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			at := []float64{0, 1e-9, 0.002, 0.0075, 0.4, 0.821, 5.315, 80, 500, 1e6}
			require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
				run := func(image, level torch.DType) []float64 {
					in := torch.Full(s, x, image, len(at), 2, 3, 1)
					sigma := torch.FromSlice(s, at).To(s, level)
					before := torch.Live()
					got := c.d.Denoise(s, in, sigma, Cond{})
					require.Equal(t, before+1, torch.Live(), "the result is all that is left")
					require.Equal(t, image, got.DType())
					require.Equal(t, in.Shape(), got.Shape())
					return torch.ToSlice[float64](got.Select(s, 1, 1).Select(s, 1, 2).Select(s, 1, 0).To(s, torch.Float64))
				}
				double, mixed, single := run(torch.Float64, torch.Float64), run(torch.Float32, torch.Float64), run(torch.Float32, torch.Float32)
				for i, level := range at {
					want := c.want(level)
					size := 1 + math.Abs(want)
					require.InDelta(t, want, double[i], 1e-11*size, "at %g", level)
					require.InDelta(t, want, mixed[i], 1e-6*size, "at %g", level)
					require.InDelta(t, want, single[i], 1e-6*size, "at %g", level)
				}
				return nil
			}))
		})
	}
}

// Labels are float32 at least, and float64 for float64 levels, whatever the images are.
func TestLabelTypes(t *testing.T) {
	var got torch.DType
	net := typed{told: &got}
	for name, f := range map[string]func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor{
		"ddpm": func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
			return (&DDPM{Net: net}).Denoise(s, x, t, Cond{})
		},
		"vp": func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
			return (&VP{Net: net}).Denoise(s, x, t, Cond{})
		},
		"flow": func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
			return (&Flow{Net: net}).Denoise(s, x, t, Cond{})
		},
		"trigflow": func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
			return (&TrigFlow{Net: net}).Denoise(s, x, t, Cond{})
		},
		"trig network": func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
			return (&TrigNetwork{Model: &Flow{Net: net}}).Forward(s, x, t, Cond{})
		},
		"preconditioned": func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
			return (&Preconditioned{Model: &Flow{Net: net}}).Forward(s, x, t, Cond{})
		},
		"trajectory": func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
			return (&Trajectory{Net: net}).Origin(s, x, t, Cond{})
		},
		"mean flow": func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
			return (&MeanFlow{Net: net}).Origin(s, x, t, Cond{})
		},
		"velocity": func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
			return (&Flow{Net: net}).Velocity(s, x, t, Cond{})
		},
	} {
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			for level, want := range map[torch.DType]torch.DType{torch.BFloat16: torch.Float32, torch.Float32: torch.Float32, torch.Float64: torch.Float64} {
				for _, image := range []torch.DType{torch.BFloat16, torch.Float32, torch.Float64} {
					y := f(s, torch.Ones(s, image, 2, 3), torch.Full(s, 0.5, level, 2))
					require.Equal(t, want, got, "%s: %v levels", name, level)
					require.Equal(t, image, y.DType(), name)
				}
			}
			return nil
		}))
	}
}

// typed notes the type of the label that it is told; of two, it requires that they are the same.
type typed struct {
	constant
	told *torch.DType
}

func (k typed) Forward(s *torch.Scope, x, noise *torch.Tensor, c Cond) *torch.Tensor {
	*k.told = noise.DType()
	if c.Until != nil && c.Until.DType() != noise.DType() {
		panic(&torch.Error{Op: "typed", Msg: "two labels of two types"})
	}
	return x.MulScalar(s, 0.5)
}

// What should be x at level 0 is x in every bit there, and no level gives anything that is not finite.
func TestFormsAtTheEnds(t *testing.T) {
	for name, d := range map[string]Denoiser{
		"edm": &EDM{Net: linear{3}}, "ε": &DDPM{Net: linear{3}}, "v": &DDPM{Net: linear{3}, Predict: noise.Velocity},
		"vp": &VP{Net: linear{3}}, "flow": &Flow{Net: linear{3}}, "reversed": &Flow{Net: linear{3}, Reversed: true},
		"trigflow": &TrigFlow{Net: linear{3}, SigmaData: 0.7}, "preconditioned": &EDM{Net: &Preconditioned{Model: &Flow{Net: linear{3}}}},
		"trig network": &TrigFlow{Net: &TrigNetwork{Model: &DDPM{Net: linear{3}}}},
	} {
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			for _, image := range []torch.DType{torch.Float32, torch.Float64, torch.BFloat16} {
				for _, level := range []torch.DType{torch.Float32, torch.Float64, torch.BFloat16} {
					x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float32, 64, 3).To(s, image)
					y := d.Denoise(s, x, torch.Zeros(s, level, 64), Cond{})
					require.Equal(t, x.Bytes(), y.Bytes(), "%s, %v image, %v levels", name, image, level)
				}
			}
			for _, level := range []float64{1e-30, 80, 1e12} {
				x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float32, 8, 3).MulScalar(s, 1+level)
				y := d.Denoise(s, x, torch.Full(s, level, torch.Float32, 8), Cond{})
				require.Equal(t, 1, y.IsFinite(s).All(s).Int(), "%s at %g", name, level)
			}
			return nil
		}))
	}
}

// Derivatives with respect to the level, the angle and the point pass through every conversion: against central differences.
func TestDerivativesPass(t *testing.T) {
	const n, h = 3, 1e-5
	chain, err := noise.Betas{Steps: 40, Last: 0.3, First: 0.001}.Chain()
	require.NoError(t, err)
	trig := &TrigConsistency{Net: &TrigNetwork{Model: &EDM{Net: tangle{n}}}}
	for name, f := range map[string]func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor{
		"ddpm": func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
			return (&DDPM{Net: tangle{n}, Chain: chain}).Denoise(s, x, t, Cond{})
		},
		"vp": func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
			return (&VP{Net: tangle{n}, Scale: 1}).Denoise(s, x, t, Cond{})
		},
		"flow": func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
			return (&Flow{Net: tangle{n}}).Denoise(s, x, t, Cond{})
		},
		"flow velocity": func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
			return (&Flow{Net: tangle{n}}).Velocity(s, x, t, Cond{})
		},
		"trigflow":     func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor { return trig.Origin(s, x, t, Cond{}) },
		"trigflow at":  func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor { return trig.OriginAt(s, x, t, Cond{}) },
		"trig network": func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor { return trig.Forward(s, x, t, Cond{}) },
		"trig velocity": func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
			return Trig{}.Velocity(s, &EDM{Net: tangle{n}}, x, t, Cond{})
		},
		"preconditioned": func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
			return (&Preconditioned{Model: &Flow{Net: tangle{n}}}).Forward(s, x, t, Cond{})
		},
		"trajectory": func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
			return (&Trajectory{Net: tangle{n}}).Origin(s, x, t, Cond{})
		},
		"mean velocity": func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
			return (&MeanFlow{Net: tangle{n}, Interval: true}).AverageVelocity(s, x, t.MulScalar(s, 0.5), t, Cond{})
		},
	} {
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			g := torch.NewGenerator(s, 2)
			x, direction := torch.Randn(s, g, torch.Float64, 2, n), torch.Randn(s, g, torch.Float64, 2, n)
			at := torch.FromSlice(s, []float64{0.31, 0.77})
			along := func(step float64) *torch.Tensor {
				return f(s, x.Add(s, direction.MulScalar(s, step)), at.AddScalar(s, step))
			}
			want := along(h).Sub(s, along(-h)).DivScalar(s, 2*h).Sum(s).Item()
			x.SetRequiresGrad(true)
			at.SetRequiresGrad(true)
			f(s, x, at).Sum(s).Backward()
			got := x.Grad(s).Mul(s, direction).Sum(s).Item() + at.Grad(s).Sum(s).Item()
			require.InDelta(t, want, got, 1e-7, name)
			return nil
		}))
	}
}

// What no configuration may be is refused by Validate, with a line that says what was wanted.
func TestValidate(t *testing.T) {
	net, nan, inf := linear{1}, math.NaN(), math.Inf(1)
	type validator interface{ Validate() error }
	for _, v := range []validator{
		&DDPM{Net: net}, &DDPM{Net: net, Predict: noise.Sample, Nearest: true}, &VP{Net: net}, &VP{Net: net, BetaMin: 1},
		&Flow{Net: net, Scale: 1000, Reversed: true}, &TrigFlow{Net: net, SigmaData: 1}, &TrigConsistency{Net: net}, &Trajectory{Net: net}, &MeanFlow{Net: net},
		&TrigNetwork{Model: &EDM{Net: net}}, &Preconditioned{Model: &Flow{Net: net}}, noise.Betas{}, noise.Betas{Schedule: noise.Cosine, Steps: 2},
		&Guided{Model: &EDM{Net: net}, Null: Cond{Text: &torch.Tensor{}}, Scale: 3},
	} {
		require.NoError(t, v.Validate(), "%+v", v)
	}
	for _, c := range []struct {
		v    validator
		want string
	}{
		{&DDPM{}, "ddpm: no network"},
		{&DDPM{Net: net, Predict: 3}, "prediction 3: want 0 to 2"},
		{&VP{}, "vp: no network"},
		{&VP{Net: net, Predict: -1}, "prediction -1"},
		{&VP{Net: net, BetaD: 19.9}, "got 19.9 and 0"},
		{&VP{Net: net, BetaD: nan, BetaMin: 1}, "got NaN and 1"},
		{&VP{Net: net, Scale: inf}, "0 for 999, got +Inf"},
		{&Flow{}, "flow: no network"},
		{&Flow{Net: net, Scale: -1}, "0 for 1, got -1"},
		{&TrigFlow{}, "trigflow: no network"},
		{&TrigFlow{Net: net, SigmaData: -0.5}, "trigflow: want a standard deviation of the data above 0, or 0 for 0.5, got -0.5"},
		{&TrigConsistency{}, "trigflow consistency function: no network"},
		{&TrigConsistency{Net: net, SigmaData: nan}, "got NaN"},
		{&TrigNetwork{}, "trigflow network: no model"},
		{&TrigNetwork{Model: &EDM{Net: net}, SigmaData: inf}, "got +Inf"},
		{&Preconditioned{}, "preconditioned network: no model"},
		{&Preconditioned{Model: &EDM{Net: net}, SigmaData: -1}, "got -1"},
		{&Trajectory{}, "trajectory: no network"},
		{&Trajectory{Net: net, SigmaMin: -1}, "trajectory: want a smallest noise level above 0, or 0 for 0.002, got -1"},
		{&Trajectory{Net: net, SigmaData: -1}, "trajectory: want a standard deviation"},
		{&MeanFlow{}, "mean flow: no network"},
		{&MeanFlow{Net: net, Scale: nan}, "0 for 1, got NaN"},
		{&Guided{}, "guidance: no model"},
		{&Guided{Model: &EDM{Net: net}, Scale: 3}, "guidance: the null condition is empty"},
		{&Guided{Model: &EDM{Net: net}, Null: Cond{Class: &torch.Tensor{}}, Scale: nan}, "got NaN"},
		{noise.Betas{Schedule: 7}, "schedule 7: want 0 to 2"},
		{noise.Betas{Steps: 1}, "betas: want 2 to 1000000 steps, or 0 for 1000, got 1"},
		{noise.Betas{Steps: -5}, "got -5"},
		{noise.Betas{First: 0.02, Last: 0.01}, "betas: want 0 < first ≤ last < 1, got 0.02 and 0.01"},
		{noise.Betas{First: 0.02}, "got 0.02 and 0"},
		{noise.Betas{Last: 1}, "got 0 and 1"},
		{noise.Betas{First: nan, Last: 0.1}, "got NaN and 0.1"},
	} {
		require.ErrorContains(t, c.v.Validate(), c.want, fmt.Sprintf("%+v", c.v))
	}
}
