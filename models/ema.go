package models

import (
	"fmt"
	"iter"
	"math"
	"slices"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch"
)

// EMA updates one network's parameters as an exponential moving average of another's: EMA weights to sample from, or the target
// network of consistency training.
//
//	into ← decay·into + (1 - decay)·from
//
// It owns neither network.
type EMA struct {
	into, from []*torch.Tensor
}

// NewEMA pairs the parameters of two networks, which need the same names, shapes and types in the same order. The error lists all
// that differ.
func NewEMA(into, from iter.Seq2[string, *torch.Tensor]) (*EMA, error) {
	next, stop := iter.Pull2(from)
	defer stop()
	e := &EMA{}
	describe := func(name string, p *torch.Tensor, ok bool) string {
		if !ok {
			return "none"
		}
		return fmt.Sprintf("%s %v", quote.Text(name), p.Shape())
	}
	var bad []string
	freed := false
	compare := func(a string, p *torch.Tensor, okP bool) bool {
		b, q, okQ := next()
		freed = freed || okP && p.Freed() || okQ && q.Freed()
		if freed {
			return false
		}
		if !okP && !okQ {
			return false
		}
		switch {
		case !okP || !okQ || a != b || !slices.Equal(p.Shape(), q.Shape()):
			bad = append(bad, fmt.Sprintf("%s and %s", describe(a, p, okP), describe(b, q, okQ)))
			return true
		case p.DType() != q.DType():
			bad = append(bad, fmt.Sprintf("%s in %s and in %s", quote.Text(a), p.DType(), q.DType()))
			return true
		}
		e.into, e.from = append(e.into, p), append(e.from, q)
		return true
	}
	for name, p := range into {
		compare(name, p, true)
	}
	for compare("", nil, false) {
	}
	if freed {
		return nil, fmt.Errorf("EMA weights: a network was closed (%w): close it only after its last use", torch.ErrFreed)
	}
	if len(bad) > 0 {
		shown := bad[:min(len(bad), 8)]
		return nil, fmt.Errorf("EMA weights: the networks differ in %d parameters: %q", len(bad), shown)
	}
	return e, nil
}

// Update takes one step with the given decay: 0 copies the parameters, 1 keeps the average unchanged.
func (e *EMA) Update(s *torch.Scope, decay float64) {
	_ = s.NoGradTidy(func(s *torch.Scope) *torch.Tensor {
		if decay == 0 {
			torch.ForeachCopyInPlace(s, e.into, e.from)
		} else {
			torch.ForeachLerpInPlace(s, e.into, e.from, 1-decay)
		}
		return nil
	})
}

// HalfLife is the half-life of an EMA, in images, so that it does not depend on the batch size: weights from Images images ago
// count half as much as the current ones (Karras et al. 2022, section F.2).
type HalfLife struct {
	Images float64
	// RampUp limits the half-life to this fraction of the images seen, so that the random initial weights lose their influence
	// early; 0: no limit. The EDM paper uses 0.05.
	RampUp float64
}

// Decay returns the decay of a step with batch images, after seen images: 2^(-batch/half-life).
func (h HalfLife) Decay(seen int64, batch int) float64 {
	life := h.Images
	if h.RampUp > 0 {
		life = min(life, h.RampUp*float64(seen))
	}
	if life <= 0 {
		return 0
	}
	return math.Exp2(-float64(batch) / life)
}

// PowerDecay returns the decay of step k (from 0) for a power-function EMA with exponent gamma (Karras et al. 2024, eq.
// 127): (1 - 1/(k+1))^(gamma+1). It weights step τ of t by τ^gamma, so that its length grows with the run and the initial
// weights lose their influence without a ramp-up.
func PowerDecay(gamma float64, k int) float64 {
	return math.Pow(1-1/float64(k+1), gamma+1)
}

// PowerWidth returns the width of a power-function EMA: the standard deviation of its profile over a run of length
// 1 (Karras et al. 2024, eq. 123, σ_rel). γ = 16.97 has width 0.05, γ = 6.94 has 0.10.
func PowerWidth(gamma float64) float64 {
	return math.Sqrt((gamma + 1) / ((gamma + 2) * (gamma + 2) * (gamma + 3)))
}

// PowerExponent is the inverse of [PowerWidth], for widths in (0, 0.288): the exponent γ > 0 of
//
//	γ³ + 7γ² + (16 - w⁻²)·γ + (12 - w⁻²) = 0
func PowerExponent(width float64) (float64, error) {
	if !(width > 1e-3 && width < PowerWidth(0)) {
		return 0, fmt.Errorf("EMA width: want a number between 0.001 and %.3f, got %g", PowerWidth(0), width)
	}
	lo, hi := 0.0, 1e7
	for range 200 { // the width falls as γ grows
		if mid := (lo + hi) / 2; PowerWidth(mid) > width {
			lo = mid
		} else {
			hi = mid
		}
	}
	return (lo + hi) / 2, nil
}

// PowerAverage is a snapshot of a power-function EMA: its exponent, and the step at which it was saved.
type PowerAverage struct {
	Gamma float64 // γ, the exponent
	Step  int     // number of optimizer steps until the snapshot
}

// dot is the inner product of the profiles of two EMAs over the steps of a run (Karras et al. 2024, algorithm 3).
func (a PowerAverage) dot(b PowerAverage) float64 {
	if a.Step > b.Step {
		a, b = b, a
	}
	return (a.Gamma + 1) * (b.Gamma + 1) * math.Pow(float64(a.Step)/float64(b.Step), b.Gamma) / ((a.Gamma + b.Gamma + 1) * float64(b.Step))
}

// Combine reconstructs an EMA of any width after training (post-hoc EMA, Karras et al. 2024, section 3.2). It returns factors, one
// for each saved average, whose weighted sum is the best least-squares fit of the EMA want of the same run. distance is the error of
// the fitted profile, relative to that of want. With EMAs of two widths saved ten times or more it is small, unless want is wider
// than both.
func Combine(averages []PowerAverage, want PowerAverage) (factors []float64, distance float64, err error) {
	if len(averages) == 0 {
		return nil, 0, fmt.Errorf("combine EMA weights: want at least one snapshot, got none")
	}
	for _, a := range append(slices.Clone(averages), want) {
		if a.Step < 1 || !(a.Gamma > 0) {
			return nil, 0, fmt.Errorf("combine EMA weights: want exponents above 0 and at least one step, got %g and %d", a.Gamma, a.Step)
		}
	}
	n := len(averages)
	gram, right := make([]float64, n*n), make([]float64, n)
	for i, a := range averages {
		right[i] = a.dot(want)
		for j, b := range averages {
			gram[i*n+j] = a.dot(b)
		}
	}
	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		// The profiles are nearly linearly dependent. The pseudo-inverse drops the components that rounding would dominate.
		a := torch.FromSlice(s, gram, n, n)
		inverse, err := torch.Call(s, "aten::linalg_pinv.atol_rtol_float", a, nil, 1e-13, true)
		if err != nil {
			return err
		}
		factors = torch.ToSlice[float64](inverse[0].(*torch.Tensor).MatMul(s, torch.FromSlice(s, right, n, 1)).Flatten(s, 0, -1))
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	square := want.dot(want)
	whole := square
	for i, f := range factors {
		square -= 2 * f * right[i]
		for j, g := range factors {
			square += f * g * gram[i*n+j]
		}
	}
	return factors, math.Sqrt(math.Max(0, square) / whole), nil
}
