package recipe

import (
	"github.com/onestep-go/onestep/models/lpips"
	"github.com/onestep-go/onestep/training"
)

// lpipsName is the distance that needs a file of weights.
const lpipsName = "lpips"

// distances are the formulas of the distances by name, for samples of D elements.
var distances = map[string]string{
	"l1": "Σ|a-b|/D", "l2": "‖a-b‖²/D", "norm": "‖a-b‖", "huber": "√(‖a-b‖² + c²) - c with c = 0.00054·√D", lpipsName: "LPIPS",
}

// distance returns the distance of that name. weights and resize apply to lpips only.
func (p *Parts) distance(name, weights, resize string) (training.Distance, error) {
	if name != lpipsName {
		return training.ParseDistance(name)
	}
	l, err := lpips.Open(weights, lpips.Config{Resize: lpips.Resize(resize)}, p.Device)
	if err != nil {
		return nil, failed("lpips", err)
	}
	p.Own(l.Close)
	return l, nil
}
