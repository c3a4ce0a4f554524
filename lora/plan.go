package lora

import (
	"slices"
	"strings"

	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/weights"
)

// targeted returns the layers that targets, suffixes of paths, name, and the targets that name none.
func (t *table) targeted(targets []string) (spots []*spot, unused []string) {
	used := map[string]bool{}
	for _, s := range t.spots {
		if len(s.shape) < 2 { // a norm's
			continue
		}
		for _, end := range targets {
			if s.path == end || strings.HasSuffix(s.path, "."+end) {
				spots = append(spots, s)
				used[end] = true
				break
			}
		}
	}
	return spots, slices.DeleteFunc(slices.Clone(targets), func(end string) bool { return used[end] })
}

// targetsOf are the target modules of an adapter for training.
func targetsOf(c sd.AdapterConfig) []string {
	switch {
	case c.Targets != nil:
		return c.Targets
	case c.Text:
		return slices.Concat(LCMTargets, TextTargets)
	}
	return LCMTargets
}

// Plan says which layers the adapter that New makes would have, for a model whose weights are not read.
func (Adapters) Plan(m *weights.Model, c sd.AdapterConfig) (sd.AdapterPlan, error) {
	var plan sd.AdapterPlan
	parts, err := plansOf(m)
	if err != nil {
		return plan, err
	}
	for part := range parts {
		if part != unetPart && !c.Text {
			delete(parts, part)
		}
	}
	spots, unused := tableOfPlan(parts).targeted(targetsOf(c))
	for _, s := range spots {
		plan.Layers = append(plan.Layers, sd.AdapterLayer{Name: s.name(), Out: s.shape[0], In: product(s.shape[1:])})
	}
	if plan.Unused = unused; c.Targets == nil { // not all networks have all of LCM-LoRA's
		plan.Unused = nil
	}
	return plan, nil
}
