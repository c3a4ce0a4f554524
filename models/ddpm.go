package models

import (
	"fmt"
	"iter"
	"math"
	"sync"

	"github.com/onestep-go/onestep/torch"
)

// BetaSchedule is how the noise variances β of a discrete variance-preserving chain follow each other.
type BetaSchedule int

const (
	// LinearBetas are evenly spaced (Ho et al. 2020, section 4).
	LinearBetas BetaSchedule = iota
	// ScaledLinearBetas have evenly spaced square roots (Rombach et al. 2022).
	ScaledLinearBetas
	// CosineBetas make ᾱ a squared cosine of the step (Nichol & Dhariwal 2021, eq. 17).
	CosineBetas
)

var betaSchedules = names[BetaSchedule]{"schedule of betas", []string{"linear", "scaled_linear", "cosine"}}

// MarshalText returns "linear", "scaled_linear" or "cosine".
func (b BetaSchedule) MarshalText() ([]byte, error) { return betaSchedules.text(b) }

// UnmarshalText is the reverse of MarshalText.
func (b *BetaSchedule) UnmarshalText(text []byte) error { return betaSchedules.parse(text, b) }

// Betas describes a chain by its schedule. The zero value is that of Ho et al. 2020.
type Betas struct {
	Schedule BetaSchedule `json:"schedule"`
	Steps    int          `json:"steps"` // 0: 1000
	// First and Last are the ends of LinearBetas and ScaledLinearBetas; both 0: 0.0001 and 0.02 of the former, 0.00085 and 0.012
	// of the latter, which are Stable Diffusion's.
	First float64 `json:"first,omitempty"`
	Last  float64 `json:"last,omitempty"`
}

func (b Betas) withDefaults() Betas {
	if b.Steps == 0 {
		b.Steps = 1000
	}
	if b.First == 0 && b.Last == 0 {
		b.First, b.Last = 1e-4, 0.02
		if b.Schedule == ScaledLinearBetas {
			b.First, b.Last = 0.00085, 0.012
		}
	}
	return b
}

// Validate reports what cannot work.
func (b Betas) Validate() error {
	b = b.withDefaults()
	switch {
	case b.Schedule < LinearBetas || b.Schedule > CosineBetas:
		return fmt.Errorf("betas: there is no schedule %d: want %d to %d", b.Schedule, LinearBetas, CosineBetas)
	case b.Steps < 2 || b.Steps > 1e6:
		return fmt.Errorf("betas: want 2 to 1000000 steps, or 0 for 1000, got %d", b.Steps)
	case b.Schedule != CosineBetas && !(b.First > 0 && b.First <= b.Last && b.Last < 1):
		return fmt.Errorf("betas: want 0 < first ≤ last < 1, got %g and %g", b.First, b.Last)
	}
	return nil
}

// Values returns β for every step, lowest noise first.
func (b Betas) Values() ([]float64, error) {
	if err := b.Validate(); err != nil {
		return nil, err
	}
	b = b.withDefaults()
	betas := make([]float64, b.Steps)
	n := float64(b.Steps)
	for i := range betas {
		at := float64(i) / (n - 1)
		switch b.Schedule {
		case LinearBetas:
			betas[i] = b.First + at*(b.Last-b.First)
		case ScaledLinearBetas:
			root := math.Sqrt(b.First) + at*(math.Sqrt(b.Last)-math.Sqrt(b.First))
			betas[i] = root * root
		case CosineBetas:
			bar := func(at float64) float64 {
				root := math.Cos((at + 0.008) / 1.008 * math.Pi / 2)
				return root * root
			}
			betas[i] = min(1-bar(float64(i+1)/n)/bar(float64(i)/n), 0.999)
		}
	}
	return betas, nil
}

// Chain returns the chain with these variances.
func (b Betas) Chain() (*Chain, error) {
	betas, err := b.Values()
	if err != nil {
		return nil, err
	}
	c, err := NewChain(betas)
	if err == nil {
		c.made = b.withDefaults()
	}
	return c, err
}

// Chain is a discrete variance-preserving diffusion (Ho et al. 2020): step i is y = √ᾱ_i·x_0 + √(1-ᾱ_i)·z with ᾱ_i the product
// of 1-β_0 to 1-β_i. Steps count from 0, as networks are told them. In σ coordinates step i is the noise level
//
//	σ_i = √((1-ᾱ_i)/ᾱ_i)        x = y/√ᾱ_i
type Chain struct {
	betas, sigmas, logs []float64 // β, σ and ln σ; σ ascends
	made                Betas     // what it was made from; Steps 0: bare numbers
}

// NewChain returns the chain with the variances β, each between 0 and 1, lowest noise first.
func NewChain(betas []float64) (*Chain, error) {
	if len(betas) < 2 {
		return nil, fmt.Errorf("chain: want at least 2 betas, got %d", len(betas))
	}
	c := &Chain{betas: append([]float64(nil), betas...), sigmas: make([]float64, len(betas)), logs: make([]float64, len(betas))}
	sum := 0.0 // ln ᾱ: 1 - ᾱ itself would lose digits where there is little noise
	for i, beta := range betas {
		if !(beta > 0 && beta < 1) {
			return nil, fmt.Errorf("chain: want betas between 0 and 1, got %g at %d", beta, i)
		}
		sum += math.Log1p(-beta)
		c.sigmas[i] = math.Sqrt(math.Expm1(-sum))
		c.logs[i] = math.Log(c.sigmas[i])
		if i > 0 && !(c.logs[i] > c.logs[i-1]) || math.IsInf(c.logs[i], 0) {
			return nil, fmt.Errorf("chain: want finite noise levels that grow, got %g after %g at %d: betas are too small or too large",
				c.sigmas[i], c.sigmas[max(i-1, 0)], i)
		}
	}
	return c, nil
}

// defaultChain is Betas{}'s, which is valid.
var defaultChain = sync.OnceValue(func() *Chain {
	c, _ := Betas{}.Chain()
	return c
})

// Made returns what the chain was made from; false for one that NewChain made of bare numbers.
func (c *Chain) Made() (Betas, bool) { return c.made, c.made.Steps != 0 }

// Steps returns the number of steps.
func (c *Chain) Steps() int { return len(c.sigmas) }

// Betas returns the variances, lowest noise first.
func (c *Chain) Betas() []float64 { return append([]float64(nil), c.betas...) }

// AlphaBar returns ᾱ of step i, from 0 on.
func (c *Chain) AlphaBar(i int) float64 { return 1 / (1 + c.sigmas[i]*c.sigmas[i]) }

// Sigma returns the noise level of step i, from 0 on.
func (c *Chain) Sigma(i int) float64 { return c.sigmas[i] }

// Index returns where noise levels t [B] are among the steps, as float64 [B]: between steps linearly in ln σ, beyond the ends
// the ends. nearest rounds to whole steps instead; no derivative passes through that.
func (c *Chain) Index(s *torch.Scope, t *torch.Tensor, nearest bool) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		last := len(c.sigmas) - 1
		table := torch.FromSlice(s, c.logs)
		at := t.To(s, torch.Float64).Clamp(s, c.sigmas[0], c.sigmas[last]).Log(s)
		above := table.SearchSorted(s, at.Detach(s), true).Clamp(s, 1, float64(last))
		below := above.SubScalar(s, 1)
		low, high := table.IndexSelect(s, 0, below), table.IndexSelect(s, 0, above)
		index := at.Sub(s, low).Div(s, high.Sub(s, low)).Add(s, below.To(s, torch.Float64)).Clamp(s, 0, float64(last))
		if nearest {
			index = index.Round(s)
		}
		return index
	})
}

// signal returns √ᾱ and √(1-ᾱ) of steps, one for each sample of x.
func (c *Chain) signal(s *torch.Scope, x *torch.Tensor, steps []int) (signal, noise *torch.Tensor) {
	if len(steps) != x.Dim(0) {
		panic(&torch.Error{Op: "chain", Msg: fmt.Sprintf("want a step for each of %d samples, got %d", x.Dim(0), len(steps))})
	}
	a, b := make([]float64, len(steps)), make([]float64, len(steps))
	for i, step := range steps {
		if step < 0 || step >= len(c.sigmas) {
			panic(&torch.Error{Op: "chain", Msg: fmt.Sprintf("want steps from 0 to %d, got %d", len(c.sigmas)-1, step)})
		}
		root := math.Hypot(1, c.sigmas[step])
		a[i], b[i] = 1/root, c.sigmas[step]/root
	}
	return torch.FromSlice(s, a), torch.FromSlice(s, b)
}

// Noisy returns y = √ᾱ·x + √(1-ᾱ)·z for data x and noise z [B, ...], each sample at its own step.
func (c *Chain) Noisy(s *torch.Scope, x, z *torch.Tensor, steps []int) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		a, b := c.signal(s, x, steps)
		return scale(s, x, a).Add(s, scale(s, z, b))
	})
}

// Prediction is what a variance-preserving network predicts.
type Prediction int

const (
	// PredictNoise is ε, the noise z (Ho et al. 2020).
	PredictNoise Prediction = iota
	// PredictVelocity is v = √ᾱ·z - √(1-ᾱ)·x_0 (Salimans & Ho 2022, appendix D).
	PredictVelocity
	// PredictData is x_0.
	PredictData
)

var predictions = names[Prediction]{"prediction", []string{"noise", "velocity", "data"}}

// MarshalText returns "noise", "velocity" or "data".
func (p Prediction) MarshalText() ([]byte, error) { return predictions.text(p) }

// UnmarshalText is the reverse of MarshalText.
func (p *Prediction) UnmarshalText(text []byte) error { return predictions.parse(text, p) }

func (p Prediction) validate(what string) error {
	if p < PredictNoise || p > PredictData {
		return fmt.Errorf("%s: there is no prediction %d: want %d to %d", what, p, PredictNoise, PredictData)
	}
	return nil
}

// vpForm is the form of a variance-preserving network in σ coordinates, where √ᾱ = 1/√(1+t²):
//
//	ε: D = x - t·F        v: D = x/(1+t²) - t/√(1+t²)·F        x_0: D = F
func (p Prediction) vpForm(s *torch.Scope, t, label *torch.Tensor) form {
	variance := t.Square(s).AddScalar(s, 1)
	k := form{in: variance.Rsqrt(s), label: label}
	switch p {
	case PredictNoise:
		k.skip, k.out = torch.Ones(s, torch.Float64, 1), t.Neg(s)
	case PredictVelocity:
		k.skip, k.out = variance.Reciprocal(s), t.Mul(s, k.in).Neg(s)
	case PredictData:
		k.skip, k.out = torch.Zeros(s, torch.Float64, 1), torch.Ones(s, torch.Float64, 1)
	default:
		panic(&torch.Error{Op: "denoise", Msg: p.validate("variance-preserving network").Error()})
	}
	return k
}

// DDPM turns a network of a discrete chain into a denoiser. Between the chain's noise levels it is told a fraction of a step,
// interpolated linearly in ln σ, as diffusers' samplers over σ do it; beyond its ends, the ends.
type DDPM struct {
	Net     Network
	Chain   *Chain // nil: that of Betas{}, 1000 steps
	Predict Prediction
	// Nearest tells the network the nearest whole step in ln σ, for networks that know no others.
	Nearest bool
}

// Parameters yields the network's parameters.
func (d *DDPM) Parameters() iter.Seq2[string, *torch.Tensor] { return d.Net.Parameters() }

func (d *DDPM) network() Network { return d.Net }

// Process returns the chain, with its default.
func (d *DDPM) Process() *Chain {
	if d.Chain == nil {
		return defaultChain()
	}
	return d.Chain
}

func (d *DDPM) form(s *torch.Scope, t *torch.Tensor) form {
	return d.Predict.vpForm(s, t, d.Process().Index(s, t, d.Nearest))
}

// Denoise returns D(x; t) for x [B, ...] at noise levels t [B].
func (d *DDPM) Denoise(s *torch.Scope, x, t *torch.Tensor, c Cond) *torch.Tensor {
	return denoise(s, d, x, t, c)
}

// Forward returns what the network predicts at y [B, ...], in the chain's own coordinates, for training.
func (d *DDPM) Forward(s *torch.Scope, y *torch.Tensor, steps []int, c Cond) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		labels := make([]float64, len(steps))
		for i, step := range steps {
			labels[i] = float64(step)
		}
		return d.Net.Forward(s, y, torch.FromSlice(s, labels).To(s, levelType(y)), c)
	})
}

// Target returns what the network should predict for data x and noise z [B, ...] at those steps: z, v or x.
func (d *DDPM) Target(s *torch.Scope, x, z *torch.Tensor, steps []int) *torch.Tensor {
	switch d.Predict {
	case PredictNoise:
		return z
	case PredictData:
		return x
	}
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		a, b := d.Process().signal(s, x, steps)
		return scale(s, z, a).Sub(s, scale(s, x, b))
	})
}

// Validate reports what cannot work.
func (d *DDPM) Validate() error {
	if err := validNetwork("ddpm", d.Net); err != nil {
		return err
	}
	return d.Predict.validate("ddpm")
}

// VP turns a network of the continuous variance-preserving process (Song et al. 2021, eq. 33) into a denoiser. The process and
// the label are those of Karras et al. 2022, table 1:
//
//	σ(τ) = √(e^(β_d·τ²/2 + β_min·τ) - 1)        label = Scale·τ
type VP struct {
	Net            Network
	Predict        Prediction
	BetaD, BetaMin float64 // both 0: 19.9 and 0.1
	Scale          float64 // the label at τ = 1; 0: 999
}

func (d *VP) betas() (betaD, betaMin float64) {
	if d.BetaD == 0 && d.BetaMin == 0 {
		return 19.9, 0.1
	}
	return d.BetaD, d.BetaMin
}

// Parameters yields the network's parameters.
func (d *VP) Parameters() iter.Seq2[string, *torch.Tensor] { return d.Net.Parameters() }

func (d *VP) network() Network { return d.Net }

// Sigma returns the noise level at time τ, from 0 to 1.
func (d *VP) Sigma(tau float64) float64 {
	betaD, betaMin := d.betas()
	return math.Sqrt(math.Expm1(betaD*tau*tau/2 + betaMin*tau))
}

func (d *VP) form(s *torch.Scope, t *torch.Tensor) form {
	betaD, betaMin := d.betas()
	// The root of β_d·τ²/2 + β_min·τ = h, without a difference.
	h := t.Square(s).Log1p(s)
	root := h.MulScalar(s, 2*betaD).AddScalar(s, betaMin*betaMin).Sqrt(s)
	tau := h.MulScalar(s, 2).Div(s, root.AddScalar(s, betaMin))
	last := d.Scale
	if last == 0 {
		last = 999
	}
	return d.Predict.vpForm(s, t, tau.MulScalar(s, last))
}

// Denoise returns D(x; t) for x [B, ...] at noise levels t [B].
func (d *VP) Denoise(s *torch.Scope, x, t *torch.Tensor, c Cond) *torch.Tensor {
	return denoise(s, d, x, t, c)
}

// Validate reports what cannot work.
func (d *VP) Validate() error {
	if err := validNetwork("vp", d.Net); err != nil {
		return err
	}
	if betaD, betaMin := d.betas(); !(betaD >= 0 && betaMin > 0) || math.IsInf(betaD+betaMin, 1) {
		return fmt.Errorf("vp: want a slope of β from 0 on and a smallest β above 0, got %g and %g", betaD, betaMin)
	}
	if !(d.Scale >= 0) || math.IsInf(d.Scale, 1) {
		return fmt.Errorf("vp: want a label at the end above 0, or 0 for 999, got %g", d.Scale)
	}
	return d.Predict.validate("vp")
}
