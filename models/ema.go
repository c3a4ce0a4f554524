package models

import (
	"fmt"
	"iter"
	"math"
	"slices"

	"github.com/onestep-go/onestep/torch"
)

// EMA moves one network's parameters towards another's: an exponential moving average to sample from, or the target of
// consistency training.
//
//	into ← decay·into + (1 - decay)·from
//
// It owns neither network.
type EMA struct {
	into, from []*torch.Tensor
}

// NewEMA pairs the parameters of two networks, which need the same names and shapes in the same order; what differs is
// reported at once.
func NewEMA(into, from iter.Seq2[string, *torch.Tensor]) (*EMA, error) {
	next, stop := iter.Pull2(from)
	defer stop()
	e := &EMA{}
	describe := func(name string, p *torch.Tensor, ok bool) string {
		if !ok {
			return "none"
		}
		return fmt.Sprintf("%s %v", name, p.Shape())
	}
	var bad []string
	compare := func(a string, p *torch.Tensor, okP bool) bool {
		b, q, okQ := next()
		if !okP && !okQ {
			return false
		}
		if !okP || !okQ || a != b || !slices.Equal(p.Shape(), q.Shape()) {
			bad = append(bad, fmt.Sprintf("%s and %s", describe(a, p, okP), describe(b, q, okQ)))
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
	if len(bad) > 0 {
		shown := bad[:min(len(bad), 8)]
		return nil, fmt.Errorf("average of weights: the networks differ in %d parameters: %q", len(bad), shown)
	}
	return e, nil
}

// Update takes one step with that decay: 0 copies, 1 leaves the average as it is.
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

// HalfLife is an average's memory, in images, so that it does not depend on the batch size: what came Images images ago
// counts half of what comes now (Karras et al. 2022, section F.2).
type HalfLife struct {
	Images float64
	// RampUp limits the half-life to this fraction of the images seen, so that the first, random weights are soon
	// forgotten; 0: no limit. The EDM paper's is 0.05.
	RampUp float64
}

// Decay returns the decay of a step with that many images, after seen images: 2^(-batch/half-life).
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
