package scheduler

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/internal/suggest"
	"github.com/onestep-go/onestep/models/noise"
)

// Spaced is a method with another spacing of noise levels or timesteps than in the model's configuration.
type Spaced struct {
	Method
	Spacing string // one of [Spacings]
}

// The spacings: noise levels uniform in σ^(1/7) (Karras et al. 2022, eq. 5), in log σ, or in the quantiles of Beta(0.6, 0.6) (Lee et al.
// 2024); and timesteps as in Lin et al. (2024), table 2.
const (
	karrasLevels = "karras"
	exponentials = "exponential"
	betaLevels   = "beta"
	trailingOnes = "trailing"
	leadingOnes  = "leading"
	linspaceOnes = "linspace"
)

// Spacings returns the names of the spacings. Other programs' sgm_uniform is trailing.
func Spacings() []string {
	return []string{karrasLevels, exponentials, betaLevels, trailingOnes, leadingOnes, linspaceOnes}
}

// SpacingNamed returns a spacing by its name here or in other programs.
func SpacingNamed(name string) (string, error) {
	plain := strings.ReplaceAll(strings.ToLower(strings.TrimSpace(name)), " ", "_")
	switch plain {
	case "sgm_uniform":
		plain = trailingOnes
	case "linear":
		plain = linspaceOnes
	}
	if !slices.Contains(Spacings(), plain) {
		return "", fmt.Errorf("there is no spacing %s: want one of %s%s", quote.Quoted(name), strings.Join(Spacings(), ", "), suggest.Hint(plain, Spacings()))
	}
	return plain, nil
}

// Start implements Method.
func (m Spaced) Start(c noise.Config, o Options) (Schedule, error) {
	if err := Spaces(m.Method, m.Spacing); err != nil {
		return nil, err
	}
	switch m.Spacing {
	case trailingOnes, leadingOnes, linspaceOnes:
		c.Spacing = m.Spacing
		c.Karras, c.Exponential, c.BetaSigmas, c.LuLambdas = false, false, false, false
	default:
		o.levels = m.Spacing
	}
	return m.Method.Start(c, o)
}

// Spaces returns an error if a method does not support a spacing.
func Spaces(m Method, spacing string) error {
	want := Spacings()
	switch v := m.(type) {
	case LCM, TCD:
		return refuse("Spacing", "the sampler %s uses the timesteps that the model was distilled at and takes no spacing, got %s", quote.Text(NameOf(m)), quote.Quoted(spacing))
	case DDIM, PNDM, DDPM:
		want = []string{trailingOnes, leadingOnes, linspaceOnes}
	case Euler, Heun, DPMPP2M, UniPC:
		if v == (Euler{Karras: true}) || v == (Heun{Karras: true}) || v == (DPMPP2M{Karras: true}) || v == (UniPC{Karras: true}) {
			want = []string{karrasLevels}
		}
	case Spaced:
		want = []string{v.Spacing}
	}
	if !slices.Contains(want, spacing) {
		return refuse("Spacing", "the sampler %s does not support the spacing %s: want one of %s", quote.Text(NameOf(m)), quote.Quoted(spacing), strings.Join(quote.Texts(want), ", "))
	}
	return nil
}

// levelSpacing returns the spacing of noise levels; "": those of the timesteps. karras is the method's setting.
func levelSpacing(c noise.Config, karras bool, o Options) (string, error) {
	switch {
	case o.levels != "":
		return o.levels, nil
	case karras:
		return karrasLevels, nil
	}
	var set []string
	for _, k := range []struct {
		set  bool
		name string
	}{{c.Karras, karrasLevels}, {c.Exponential, exponentials}, {c.BetaSigmas, betaLevels}} {
		if k.set {
			set = append(set, k.name)
		}
	}
	switch {
	case c.LuLambdas && len(set) == 0:
		return "", fmt.Errorf("scheduler config: use_lu_lambdas is true, which is not supported: choose another spacing, or a sampler that does " +
			"not space levels, such as ddim")
	case len(set) > 1:
		return "", fmt.Errorf("scheduler config: %s are set: want only one spacing of noise levels", strings.Join(set, " and "))
	case len(set) == 1:
		return set[0], nil
	}
	return "", nil
}

// spacedLevels returns n levels from hi to lo.
func spacedLevels(spacing string, hi, lo float64, n int) []float64 {
	out := make([]float64, n)
	for i := range out {
		ramp := 0.0 // numpy.linspace(0, 1, n)
		if n > 1 {
			ramp = float64(i) * (1 / float64(n-1))
			if i == n-1 {
				ramp = 1
			}
		}
		switch spacing {
		case exponentials:
			out[i] = math.Exp(math.Log(hi) + float64(ramp*(math.Log(lo)-math.Log(hi))))
		case betaLevels:
			out[i] = lo + float64(betaQuantile(1-ramp, 0.6, 0.6)*(hi-lo))
		default:
			const rho = 7
			first, last := math.Pow(hi, 1.0/rho), math.Pow(lo, 1.0/rho)
			out[i] = math.Pow(first+float64(ramp*(last-first)), rho)
		}
	}
	return out
}

// betaQuantile returns the p-quantile of the distribution Beta(a, b).
func betaQuantile(p, a, b float64) float64 {
	if p <= 0 || p >= 1 {
		return min(max(p, 0), 1)
	}
	if p > 0.5 { // near 1, the distance from 1 is more accurate
		return 1 - betaQuantile(1-p, b, a)
	}
	lo, hi := 0.0, 1.0
	for range 200 {
		mid := (lo + hi) / 2
		if mid <= lo || mid >= hi {
			break
		}
		if betaPart(mid, a, b) < p {
			lo = mid
		} else {
			hi = mid
		}
	}
	return (lo + hi) / 2
}

// betaPart returns the regularized incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22).
func betaPart(x, a, b float64) float64 {
	if x > (a+1)/(a+b+2) {
		return 1 - betaPart(1-x, b, a)
	}
	lg := func(v float64) float64 { g, _ := math.Lgamma(v); return g }
	front := math.Exp(lg(a+b)-lg(a)-lg(b)+a*math.Log(x)+b*math.Log1p(-x)) / a
	f := 1.0
	for m := 60; m > 0; m-- { // backwards; it converges fast for these x
		k := float64(m)
		odd := -(a + k - 1) * (a + b + k - 1) * x / ((a + 2*k - 2) * (a + 2*k - 1))
		even := k * (b - k) * x / ((a + 2*k - 1) * (a + 2*k))
		f = 1 + odd/(1+even/f)
	}
	return front / f
}
