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

// Settings are the settings of a run before it was extended.
type Settings struct {
	Until   int     `json:"until"` // the step of the extension
	Steps   int     `json:"steps"`
	LR      float64 `json:"lr"`
	LRDecay float64 `json:"lr_decay"`
}

// extendable are the entries of options.json that may change when a run is extended.
var extendable = []string{"steps", "lr", "lr_decay", "history"}

// extend reads the history of a resumed run, and with Extend adds the settings that change now.
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
		return false, nil // rundir returns the error
	}
	if err := soundHistory(was.History); err != nil {
		return false, fmt.Errorf("%s: %w", quote.Path(filepath.Join(r.Out, "options.json")), err)
	}
	r.history = was.History
	if !r.Extend || r.Steps == was.Steps && r.LR == was.LR && *r.LRDecay == was.LRDecay {
		return false, nil
	}
	if p.spec.Stages {
		return false, usage("extend", "%s: the method %s divides the whole run into stages, so it cannot be extended: start a new run from its snapshot with %s", name("extend"), p.spec.Name, name("init"))
	}
	done, err := r.done()
	if err != nil {
		return false, err
	}
	if r.Steps <= done {
		return false, usage("steps", "%s: the run has already done %d steps: want more than that, got %d", name("steps"), done, r.Steps)
	}
	r.history = append(slices.Clone(was.History), Settings{done, was.Steps, was.LR, was.LRDecay})
	return true, nil
}

// soundHistory checks the entry history of options.json.
func soundHistory(all []Settings) error {
	before := -1
	for i, s := range all {
		if s.Until < before || s.Steps < s.Until || !(s.LR > 0 && s.LR < 10) || !(s.LRDecay >= 0 && s.LRDecay <= 1) {
			return fmt.Errorf("history: entry %d is damaged: %+v", i, s)
		}
		before = s.Until
	}
	return nil
}

// done returns the step of the last checkpoint in Out.
func (r *Run) done() (int, error) {
	steps, err := rundir.Steps(r.Out, "state")
	if err != nil || len(steps) == 0 {
		return 0, err
	}
	return slices.Max(steps), nil
}

// complete returns a notice if a resumed run has no steps left to do, with or without Duration; "" otherwise.
func (r *Run) complete() string {
	if done, err := r.done(); !r.Resume || err != nil || done < r.Steps {
		return ""
	}
	return fmt.Sprintf("the run has already done all of its %d steps; the option extend allows more", r.Steps)
}

// mayResume checks whether a run with these options may start or resume in its directory. begun reports whether there is a run.
func (r *Run) mayResume(options map[string]any, may []string) (begun bool, err error) {
	begun, err = rundir.Check(r.Out, options, r.Resume, may...)
	if err == nil || !r.Resume {
		return begun, err
	}
	// Options that follow from others are not listed if one of those differs.
	if _, first := rundir.Check(r.Out, options, r.Resume, slices.Concat(may, r.derived(options))...); first != nil {
		err = first
	}
	if r.Extend {
		return begun, err
	}
	if _, other := rundir.Check(r.Out, options, r.Resume, slices.Concat(may, extendable)...); other == nil {
		return begun, &OptionError{Option: "extend", Err: fmt.Errorf("%w; %s to continue the run with another number of steps or learning rate", err, set("extend", ""))}
	}
	return begun, err
}

// derived lists the entries of options that Resolve and Plan filled in.
func (r *Run) derived(options map[string]any) (names []string) {
	for k := range options {
		if option := dashed(k); !slices.Contains(r.chosen, option) && !slices.Contains(told, option) {
			if o, ok := r.declares(option); ok && o.Default == "" && !o.unsaidJSON(options[k]) {
				names = append(names, k)
			}
		}
	}
	return names
}

// past describes the run's extensions for the card.
func (r *Run) past() string {
	var b strings.Builder
	for _, s := range r.history {
		fmt.Fprintf(&b, "\nExtended at step %d: before, the run had %d steps, and a learning rate of %s that falls to 0 over the last %s of them. After it, the schedules are those of %d steps.\n",
			s.Until, s.Steps, number.Short(s.LR), number.Short(s.LRDecay), r.Steps)
	}
	return b.String()
}
