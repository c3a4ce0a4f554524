package noise

import (
	"cmp"
	"errors"
	"fmt"
	"math"

	"github.com/onestep-go/onestep/torch"
)

// schedulesOf maps beta_schedule of diffusers to schedules.
var schedulesOf = map[string]Schedule{"linear": Linear, "scaled_linear": ScaledLinear, "squaredcos_cap_v2": Cosine}

// ClassBetas returns the default betas of a scheduler class of diffusers. LCM and TCD have those of Stable Diffusion; the classes based
// on k-diffusion's Heun and DPM2 have the same first and last beta on a linear schedule; all others have those of Ho et al. 2020.
func ClassBetas(class string) Betas {
	switch class {
	case "LCMScheduler", "TCDScheduler":
		return Betas{Schedule: ScaledLinear, First: 0.00085, Last: 0.012}
	case "HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "DPMSolverSDEScheduler":
		return Betas{Schedule: Linear, First: 0.00085, Last: 0.012}
	}
	return Betas{Schedule: Linear, First: 1e-4, Last: 0.02}
}

// WithBetas returns c with its missing betas filled in from b, whose Steps is ignored. diffusers uses the defaults of the class that
// samples a model. [Config.Alphas] and [Config.Chain] use those of the class that the model was published with.
func (c Config) WithBetas(b Betas) Config {
	b = b.withDefaults()
	c.TrainSteps = c.Steps()
	c.BetaStart, c.BetaEnd = cmp.Or(c.BetaStart, b.First), cmp.Or(c.BetaEnd, b.Last)
	for word, schedule := range schedulesOf {
		if c.BetaSchedule == "" && schedule == b.Schedule {
			c.BetaSchedule = word
		}
	}
	return c
}

// noise returns c with its betas filled in, and validates it.
func (c Config) noise() (Config, error) {
	c = c.WithBetas(ClassBetas(c.Class))
	if err := c.Validate(); err != nil {
		return c, err
	}
	if c.ZeroSNR && c.Predicts == Epsilon {
		return c, errors.New("scheduler config: rescale_betas_zero_snr is incompatible with prediction_type epsilon: " +
			"at the last timestep x_0 does not follow from the noise; want v_prediction or sample")
	}
	return c, nil
}

// Alphas returns ᾱ of each timestep (alphas_cumprod of diffusers), in float32 and by exactly the operations of diffusers. With ZeroSNR
// the last is 0.
func (c Config) Alphas() ([]float32, error) {
	c, err := c.noise()
	if err != nil {
		return nil, err
	}
	var alphas []float32
	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		bar := c.float32Betas(s).Neg(s).AddScalar(s, 1).CumProd(s, 0)
		if c.ZeroSNR {
			bar = zeroTerminal(s, bar)
		}
		alphas = torch.ToSlice[float32](bar)
		return nil
	})
	if err != nil {
		return nil, err
	}
	before := float32(1)
	for t, a := range alphas {
		end := c.ZeroSNR && t == len(alphas)-1
		if !(a < before && (a > 1e-12 || end)) {
			return nil, fmt.Errorf("scheduler config: its betas give alphas_cumprod %g at timestep %d, after %g: "+
				"want values that decrease at each timestep and stay above 0", a, t, before)
		}
		before = a
	}
	return alphas, nil
}

// float32Betas are the betas of all timesteps, [TrainSteps].
func (c Config) float32Betas(s *torch.Scope) *torch.Tensor {
	n := c.TrainSteps
	switch {
	case c.TrainedBetas != nil:
		return torch.FromSlice(s, c.TrainedBetas, n).To(s, torch.Float32)
	case c.BetaSchedule == "linear":
		return torch.Linspace(s, c.BetaStart, c.BetaEnd, n, torch.Float32)
	case c.BetaSchedule == "scaled_linear":
		return torch.Linspace(s, math.Sqrt(c.BetaStart), math.Sqrt(c.BetaEnd), n, torch.Float32).Square(s)
	}
	return torch.FromSlice(s, c.betas().values(), n).To(s, torch.Float32)
}

// betas is the schedule of a Config without TrainedBetas.
func (c Config) betas() Betas {
	b := Betas{Schedule: schedulesOf[c.BetaSchedule], Steps: c.TrainSteps}
	if b.Schedule != Cosine {
		b.First, b.Last = c.BetaStart, c.BetaEnd
	}
	return b
}

// zeroTerminal shifts and scales √ᾱ so that the last is 0 and the first is unchanged (Lin et al. 2024, algorithm 1). It converts to
// betas and back, as diffusers does.
func zeroTerminal(s *torch.Scope, alphas *torch.Tensor) *torch.Tensor {
	n := alphas.Dim(0)
	root := alphas.Sqrt(s)
	first, last := root.Narrow(s, 0, 0, 1), root.Narrow(s, 0, n-1, 1)
	root = root.Sub(s, last).Mul(s, first.Div(s, first.Sub(s, last)))
	bar := root.Square(s)
	ratios := bar.Narrow(s, 0, 1, n-1).Div(s, bar.Narrow(s, 0, 0, n-1))
	betas := torch.Cat(s, []*torch.Tensor{bar.Narrow(s, 0, 0, 1), ratios}, 0).Neg(s).AddScalar(s, 1)
	return betas.Neg(s).AddScalar(s, 1).CumProd(s, 0)
}

// LastAlpha replaces ᾱ = 0 where a noise level has to be finite, as in diffusers: σ = √(2^24 - 1), about 4096.
const LastAlpha = 1.0 / (1 << 24)

// Chain returns the chain in float64. It differs from [Config.Alphas] by the rounding of float32, and at the last timestep with ZeroSNR,
// where ᾱ is [LastAlpha] and not 0, as in diffusers' tables of noise levels. If ᾱ is already below LastAlpha one timestep earlier, as
// with linear betas, diffusers' levels decrease at the end; this chain's last level is about twice the one before.
func (c Config) Chain() (*Chain, error) {
	c, err := c.noise()
	if err != nil {
		return nil, err
	}
	wrap := func(chain *Chain, err error) (*Chain, error) {
		if err != nil {
			return nil, fmt.Errorf("scheduler config: %w", err)
		}
		return chain, nil
	}
	betas, b := c.TrainedBetas, c.betas()
	switch {
	case betas == nil && !c.ZeroSNR && b.Validate() == nil:
		return wrap(b.Chain())
	case betas == nil:
		betas = b.values()
	}
	if c.ZeroSNR {
		betas = endingInNoise(betas)
	}
	return wrap(NewChain(betas))
}

// endingInNoise is zeroTerminal in float64, from betas to betas, with LastAlpha at the end.
func endingInNoise(betas []float64) []float64 {
	bar, sum := make([]float64, len(betas)), 0.0
	for i, beta := range betas {
		sum += math.Log1p(-beta)
		bar[i] = math.Exp(sum / 2) // √ᾱ
	}
	first, last := bar[0], bar[len(bar)-1]
	out, before := make([]float64, len(betas)), 1.0
	for i, root := range bar {
		root = (root - last) * first / (first - last)
		alpha := root * root
		if i == len(bar)-1 {
			if alpha = LastAlpha; alpha >= before {
				alpha = before / 4
			}
		}
		out[i] = 1 - alpha/before
		before = alpha
	}
	return out
}

// OfBetas returns c with the betas of a schedule, under the keys of diffusers.
func (c Config) OfBetas(b Betas) Config {
	b = b.withDefaults()
	c.TrainSteps, c.TrainedBetas = b.Steps, nil
	for word, schedule := range schedulesOf {
		if schedule == b.Schedule {
			c.BetaSchedule = word
		}
	}
	if b.Schedule != Cosine {
		c.BetaStart, c.BetaEnd = b.First, b.Last
	}
	return c
}
