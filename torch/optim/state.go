package optim

import (
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch"
)

// stepKey is the name of the step counts in the state.
const stepKey = "step"

// State yields the optimizer state of a checkpoint, by stable names: "step", an int64 tensor that counts each parameter's
// updates, sorted by parameter name; and the moments of each parameter that was updated, such as "exp_avg.conv_in.weight".
// Moments are the optimizer's own tensors: copy or write them before the next step. "step" is owned by s. Learning rates are
// settings, not state: set them again from the schedule.
//
// A run that resumes from this state takes the same steps, bit for bit, as if it had not stopped, on the same machine with
// the same number of threads.
func (o *Optimizer) State(s *torch.Scope) iter.Seq2[string, *torch.Tensor] {
	return func(yield func(string, *torch.Tensor) bool) {
		params := o.byName()
		steps := make([]int64, len(params))
		for i, p := range params {
			steps[i] = int64(p.steps)
		}
		if !yield(stepKey, torch.FromSlice(s, steps)) {
			return
		}
		for i, slot := range o.rule.slots() {
			for _, p := range params {
				if p.steps > 0 && !yield(slot+"."+p.name, p.state[i]) {
					return
				}
			}
		}
	}
}

// LoadState restores a state of [Optimizer.State], for the same parameters in any groups. Values are copied and converted to
// the parameters' dtypes and devices. All missing and unexpected tensors and shape mismatches are reported together, and the
// optimizer is then unchanged.
func (o *Optimizer) LoadState(state iter.Seq2[string, *torch.Tensor]) error {
	params, slots := o.byName(), o.rule.slots()
	type place struct {
		p    *param
		slot int
	}
	places := make(map[string]place, len(params)*len(slots))
	for i, slot := range slots {
		for _, p := range params {
			places[slot+"."+p.name] = place{p, i}
		}
	}

	var wrong problems
	var steps []int64
	given := map[string]*torch.Tensor{}
	for name, t := range state {
		at, known := places[name]
		switch {
		case name == stepKey:
			steps = wrong.steps(t, len(params))
			given[name] = t
		case !known:
			wrong.unexpected = append(wrong.unexpected, quote.Text(name))
		default:
			given[name] = t
			if got := t.Shape(); !slices.Equal(got, at.p.shape) {
				wrong.misshapen = append(wrong.misshapen, fmt.Sprintf("%s (want %v, got %v)", quote.Text(name), at.p.shape, got))
			}
		}
	}
	if given[stepKey] == nil {
		wrong.missing = append(wrong.missing, stepKey)
	}
	for i, p := range params {
		if steps == nil { // which parameters have state is unknown
			break
		}
		for _, slot := range slots {
			name := slot + "." + p.name
			switch {
			case steps[i] > 0 && given[name] == nil:
				wrong.missing = append(wrong.missing, quote.Text(name))
			case steps[i] == 0 && given[name] != nil:
				wrong.unexpected = append(wrong.unexpected, quote.Text(name)+" (of 0 steps)")
			}
		}
	}
	if err := wrong.err(o.name); err != nil {
		return err
	}

	return torch.Run(o.scope.Device(), func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			for i, p := range params {
				if steps[i] > 0 && p.state == nil {
					p.state = o.newState(p)
				}
			}
			for i, p := range params {
				p.steps = int(steps[i])
				if p.steps == 0 {
					for _, t := range p.state {
						t.Free()
					}
					p.state = nil
				}
			}
			for name, at := range places {
				if t := given[name]; t != nil {
					at.p.state[at.slot].CopyFrom(s, t)
				}
			}
			return nil
		})
	})
}

// problems collects the mismatches of a state.
type problems struct{ missing, unexpected, misshapen, broken []string }

// steps reads the step counts, n of them, or returns nil.
func (p *problems) steps(t *torch.Tensor, n int) []int64 {
	if got := t.Shape(); !slices.Equal(got, []int{n}) {
		p.misshapen = append(p.misshapen, fmt.Sprintf("%s (want %v, one count for each parameter; got %v)", stepKey, []int{n}, got))
		return nil
	}
	if d := t.DType(); d != torch.Int64 {
		p.broken = append(p.broken, fmt.Sprintf("%s is %s, want int64", stepKey, d))
		return nil
	}
	steps := torch.ToSlice[int64](t)
	for _, v := range steps {
		if v < 0 {
			p.broken = append(p.broken, fmt.Sprintf("%s holds the count %d, want 0 or more", stepKey, v))
			return nil
		}
	}
	return steps
}

// err returns one error of all problems, or nil.
func (p *problems) err(rule string) error {
	parts := slices.Clone(p.broken)
	for _, kind := range []struct {
		what  string
		names []string
	}{{"missing", p.missing}, {"unexpected", p.unexpected}, {"shape mismatch", p.misshapen}} {
		n := len(kind.names)
		if n == 0 {
			continue
		}
		slices.Sort(kind.names)
		shown := kind.names[:min(n, 12)]
		text := fmt.Sprintf("%d %s: %s", n, kind.what, strings.Join(shown, ", "))
		if n > len(shown) {
			text += fmt.Sprintf(", and %d more", n-len(shown))
		}
		parts = append(parts, text)
	}
	if parts == nil {
		return nil
	}
	return fmt.Errorf("the state does not fit this %s optimizer: %s", rule, strings.Join(parts, "; "))
}
