package noise

import (
	"fmt"
	"math"
	"sync"

	"github.com/onestep-go/onestep/torch"
)

// Chain is a discrete variance-preserving diffusion process (Ho et al. 2020): at timestep i, y = √ᾱ_i·x_0 + √(1-ᾱ_i)·z, where ᾱ_i is
// the product of 1-β_0 to 1-β_i. Timesteps count from 0, as in the networks' inputs. In σ coordinates timestep i is the noise level
//
//	σ_i = √((1-ᾱ_i)/ᾱ_i)        x = y/√ᾱ_i
type Chain struct {
	betas, sigmas, logs []float64 // β, σ and ln σ; σ ascends
	made                Betas     // the schedule it was built from; Steps 0: none, built by NewChain
}

// NewChain returns the chain with the given betas, each between 0 and 1, in ascending order of timesteps.
func NewChain(betas []float64) (*Chain, error) {
	if len(betas) < 2 {
		return nil, fmt.Errorf("chain: want at least 2 betas, got %d", len(betas))
	}
	c := &Chain{betas: append([]float64(nil), betas...), sigmas: make([]float64, len(betas)), logs: make([]float64, len(betas))}
	sum := 0.0 // ln ᾱ: 1 - ᾱ itself would lose digits at low noise
	for i, beta := range betas {
		if !(beta > 0 && beta < 1) {
			return nil, fmt.Errorf("chain: want betas between 0 and 1, got %g at timestep %d", beta, i)
		}
		sum += math.Log1p(-beta)
		c.sigmas[i] = math.Sqrt(math.Expm1(-sum))
		c.logs[i] = math.Log(c.sigmas[i])
		if i > 0 && !(c.logs[i] > c.logs[i-1]) || math.IsInf(c.logs[i], 0) {
			return nil, fmt.Errorf("chain: want finite, increasing noise levels, got %g after %g at timestep %d: its betas are too small or too large",
				c.sigmas[i], c.sigmas[max(i-1, 0)], i)
		}
	}
	return c, nil
}

// Default returns the chain of Betas{}, the one of Ho et al. 2020.
func Default() *Chain { return standard() }

var standard = sync.OnceValue(func() *Chain {
	c, _ := Betas{}.Chain()
	return c
})

// Made returns the schedule that the chain was built from; false for a chain of NewChain.
func (c *Chain) Made() (Betas, bool) { return c.made, c.made.Steps != 0 }

// Steps returns the number of timesteps.
func (c *Chain) Steps() int { return len(c.sigmas) }

// Betas returns β of every timestep, in ascending order of timesteps.
func (c *Chain) Betas() []float64 { return append([]float64(nil), c.betas...) }

// AlphaBar returns ᾱ at timestep i, from 0.
func (c *Chain) AlphaBar(i int) float64 { return 1 / (1 + c.sigmas[i]*c.sigmas[i]) }

// Sigma returns the noise level at timestep i, from 0.
func (c *Chain) Sigma(i int) float64 { return c.sigmas[i] }

// Index returns the fractional timesteps of noise levels t [B], as float64 [B]: interpolated linearly in ln σ, and clamped to the
// first and last timestep. nearest rounds to integers; no derivative passes through rounding.
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

// Signal returns √ᾱ and √(1-ᾱ) at timesteps steps, one for each sample of x [B, ...], as float64 [B].
func (c *Chain) Signal(s *torch.Scope, x *torch.Tensor, steps []int) (signal, noise *torch.Tensor) {
	if len(steps) != x.Dim(0) {
		panic(&torch.Error{Op: "chain", Msg: fmt.Sprintf("want one timestep for each of %d samples, got %d", x.Dim(0), len(steps))})
	}
	a, b := make([]float64, len(steps)), make([]float64, len(steps))
	for i, step := range steps {
		if step < 0 || step >= len(c.sigmas) {
			panic(&torch.Error{Op: "chain", Msg: fmt.Sprintf("want timesteps from 0 to %d, got %d", len(c.sigmas)-1, step)})
		}
		root := math.Hypot(1, c.sigmas[step])
		a[i], b[i] = 1/root, c.sigmas[step]/root
	}
	return torch.FromSlice(s, a), torch.FromSlice(s, b)
}

// Noisy returns y = √ᾱ·x + √(1-ᾱ)·z for data x and noise z [B, ...], each sample at its own timestep.
func (c *Chain) Noisy(s *torch.Scope, x, z *torch.Tensor, steps []int) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		a, b := c.Signal(s, x, steps)
		return x.MulPerSample(s, a).Add(s, z.MulPerSample(s, b))
	})
}

// Levels returns n of the chain's noise levels, largest first, with timestep_spacing "trailing" of diffusers: the last timestep, and
// the others evenly spaced below it. n is 1 to Steps; append 0 to end at a prediction of x_0.
func (c *Chain) Levels(n int) ([]float64, error) {
	all := len(c.sigmas)
	if n < 1 || n > all {
		return nil, fmt.Errorf("noise levels: want 1 to %d, the chain's number of timesteps, got %d", all, n)
	}
	levels := make([]float64, n)
	for i := range levels {
		levels[i] = c.sigmas[int(math.Round(float64(all*(n-i))/float64(n)))-1]
	}
	return levels, nil
}
