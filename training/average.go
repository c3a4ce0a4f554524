package training

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"strconv"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// Average is the EMA weights of a model, which are used for sampling. Their length is set by one of Decay, HalfLife and Width; without
// any they equal the model's weights.
type Average struct {
	Into Module // the copy, of the same architecture, with weights of its own
	// Decay is the EMA decay per step, such as 0.999.
	Decay float64
	// HalfLife is the EMA half-life in images, such as 500,000; see [models.HalfLife].
	HalfLife float64
	// Width is the width of a power-function EMA relative to the run so far, such as 0.05; see [models.PowerWidth]. With EMA weights of
	// two widths, others can be computed after training; see [CombineAverages].
	Width float64
	// RampUp shortens the EMA early in training, so that the first, random weights are forgotten. With Decay, the decay at step k is
	// min(Decay, (1+k)/(RampUp+k)), and 0 stands for 10. With HalfLife, the half-life is at most this fraction of the images seen, and 0
	// stands for 0.05. With Width there is none.
	RampUp float64
}

// DecayAt returns the decay at step k, from 0, of a run with the given batch size.
func (a Average) DecayAt(k, batch int) float64 {
	ramp := a.RampUp
	switch {
	case a.HalfLife > 0:
		if ramp == 0 {
			ramp = 0.05
		}
		return models.HalfLife{Images: a.HalfLife, RampUp: ramp}.Decay(int64(k)*int64(batch), batch)
	case a.Width > 0:
		gamma, _ := models.PowerExponent(a.Width) // validate has checked the width
		return models.PowerDecay(gamma, k)
	}
	if ramp == 0 {
		ramp = 10
	}
	return math.Min(a.Decay, (1+float64(k))/(ramp+float64(k)))
}

// Name identifies the EMA weights in checkpoints and file names: "decay-0.999", "half-life-500k" or "width-0.05".
func (a Average) Name() string {
	switch {
	case a.HalfLife > 0:
		n, unit := a.HalfLife, ""
		for _, next := range []string{"k", "M"} {
			if math.Mod(n, 1000) == 0 {
				n, unit = n/1000, next
			}
		}
		return "half-life-" + decimal(n) + unit
	case a.Width > 0:
		return "width-" + decimal(a.Width)
	}
	return "decay-" + decimal(a.Decay)
}

func decimal(x float64) string { return strconv.FormatFloat(x, 'f', -1, 64) }

func (a Average) validate() error {
	rules := 0
	for _, x := range []float64{a.Decay, a.HalfLife, a.Width} {
		if x != 0 {
			rules++
		}
	}
	switch {
	case a.Into == nil:
		return errors.New("no Into: want a copy of the model")
	case rules > 1:
		return fmt.Errorf("want only one of Decay, HalfLife and Width, got %g, %g and %g", a.Decay, a.HalfLife, a.Width)
	case !(a.Decay >= 0 && a.Decay < 1):
		return fmt.Errorf("want a decay in [0, 1), got %g", a.Decay)
	case !(a.HalfLife >= 0 && a.HalfLife <= 1e15):
		return fmt.Errorf("want a half-life from 0 to 1e15 images, got %g", a.HalfLife)
	case !(a.RampUp >= 0) || a.Width != 0 && a.RampUp != 0:
		return fmt.Errorf("want a ramp-up of at least 0, and none with a width, got %g", a.RampUp)
	case a.Width != 0:
		_, err := models.PowerExponent(a.Width)
		return err
	}
	return nil
}

// follow pairs all EMA weights with the model. Each needs weights of its own and a different rule.
func (t *Trainer) follow() (all []*models.EMA, err error) {
	owner := map[*torch.Tensor]string{}
	for _, w := range t.Model.Parameters() {
		owner[w] = "the model"
	}
	named := map[string]bool{}
	for i, a := range t.Averages {
		if err := a.validate(); err != nil {
			return nil, fmt.Errorf("EMA weights %d: %w", i, err)
		}
		name := a.Name()
		if named[name] {
			return nil, fmt.Errorf("EMA weights %d: %s is there twice: want a different Decay, HalfLife or Width for each", i, name)
		}
		named[name] = true
		e, err := models.NewEMA(a.Into.Parameters(), t.Model.Parameters())
		if err != nil {
			return nil, fmt.Errorf("EMA weights %d, %s: %w", i, name, err)
		}
		for weight, w := range a.Into.Parameters() {
			if other, taken := owner[w]; taken {
				return nil, fmt.Errorf("EMA weights %d, %s: the weight %s is shared with %s: want a copy of the model", i, name, weight, other)
			}
			owner[w] = name
		}
		all = append(all, e)
	}
	return all, nil
}

func (t *Trainer) averageNames() (names []string) {
	for _, a := range t.Averages {
		names = append(names, a.Name())
	}
	return names
}

// averageKey is the metadata key of a snapshot's averageHead, as JSON.
const averageKey = "onestep_average"

// averageHead describes the EMA weights in a snapshot.
type averageHead struct {
	Decay    float64 `json:"decay,omitempty"`
	HalfLife float64 `json:"half_life,omitempty"` // in images
	Width    float64 `json:"width,omitempty"`     // relative to step
	Step     int     `json:"step"`                // optimizer steps so far
	Combined bool    `json:"combined,omitempty"`  // computed from others, after training
}

// addTo returns a copy of a file's metadata with h added.
func (h averageHead) addTo(metadata map[string]string) (map[string]string, error) {
	text, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	maps.Copy(all, metadata)
	all[averageKey] = string(text)
	return all, nil
}
