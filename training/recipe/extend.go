package recipe

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/number"
	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/training/rundir"
)

// Settings are what a run had until it was extended.
type Settings struct {
	Until   int     `json:"until"` // the step from which others hold
	Steps   int     `json:"steps"`
	LR      float64 `json:"lr"`
	LRDecay float64 `json:"lr_decay"`
}

// extendable are the entries of options.json that may change when a run is extended.
var extendable = []string{"steps", "lr", "lr_decay", "history"}

// extend carries on the history of the run that is resumed, and with Extend adds to it what changes now.
func (p *Plan) extend() (changed bool, err error) {
	r := &p.Run
	if !r.Resume {
		return false, nil
	}
	text, err := plainfile.Read(filepath.Join(r.Out, "options.json"), 1<<20)
	if errors.Is(err, fs.ErrNotExist) && r.Extend {
		return false, usage("extend", "%s: there is no run in %s", name("extend"), quote.Path(r.Out))
	}
	var was struct {
		Settings
		History []Settings `json:"history"`
	}
	if err != nil || json.Unmarshal(text, &was) != nil {
		return false, nil // rundir says what is wrong
	}
	r.history = was.History
	if !r.Extend || r.Steps == was.Steps && r.LR == was.LR && *r.LRDecay == was.LRDecay {
		return false, nil
	}
	if p.spec.Stages {
		return false, usage("extend", "%s: the stages of the method %s divide the whole run: start a new run from its snapshot with %s", name("extend"), p.spec.Name, name("init"))
	}
	done, err := r.done()
	if err != nil {
		return false, err
	}
	if r.Steps <= done {
		return false, usage("steps", "%s: the run has done %d steps: want more, got %d", name("steps"), done, r.Steps)
	}
	r.history = append(slices.Clone(was.History), Settings{done, was.Steps, was.LR, was.LRDecay})
	return true, nil
}

// done is how many steps the run in Out has saved.
func (r *Run) done() (int, error) {
	steps, err := rundir.Steps(r.Out, "state")
	if err != nil || len(steps) == 0 {
		return 0, err
	}
	return slices.Max(steps), nil
}

// complete says that a run which is resumed has nothing left to do, which Duration does not change; "" where it has.
func (r *Run) complete() string {
	if done, err := r.done(); !r.Resume || err != nil || done < r.Steps {
		return ""
	}
	return fmt.Sprintf("the run has done all of its %d steps: nothing is left to do; it can be extended to more steps", r.Steps)
}

// mayGoOn reports whether the run may start in its directory, or resume there, with these options.
func (r *Run) mayGoOn(options map[string]any, may []string) (begun bool, err error) {
	begun, err = rundir.Check(r.Out, options, r.Resume, may...)
	if err == nil || !r.Resume || r.Extend {
		return begun, err
	}
	if _, other := rundir.Check(r.Out, options, r.Resume, slices.Concat(may, extendable)...); other == nil {
		return begun, &OptionError{Option: "extend", err: fmt.Errorf("%w; %s to continue this one with another number of steps or learning rate", err, set("extend", ""))}
	}
	return begun, err
}

// past tells a card's reader what the run had before.
func (r *Run) past() string {
	var b strings.Builder
	for _, s := range r.history {
		fmt.Fprintf(&b, "\nExtended at step %d: until then the run was of %d steps, with a learning rate of %s that falls over the last %s of them. From there on the schedules are those of %d steps.\n",
			s.Until, s.Steps, number.Short(s.LR), number.Short(s.LRDecay), r.Steps)
	}
	return b.String()
}
