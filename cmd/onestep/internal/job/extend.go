package job

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
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

// extendable are the options that may change when a run is extended.
var extendable = []string{"steps", "lr", "lr_decay", "history"}

// ReadRun takes the options of the run in Out, if there is one.
func (o *Train) ReadRun() (found bool, err error) {
	path := filepath.Join(o.Out, "options.json")
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	options, err := rundir.ReadOptions(o.Out) // which says what is wrong with such a file
	if err != nil {
		return false, err
	}
	if _, ours := options["method"]; !ours {
		return false, fmt.Errorf("%s was started by a Go program and not by this command: resume it with that program; its snapshots work here as any model, also for --init",
			quote.Path(o.Out))
	}
	return true, o.ReadConfig(path)
}

// extend carries on the history of the run that is resumed, and with Extend adds to it what changes now.
func (o *Train) extend() (changed bool, err error) {
	if o.Extend && !o.Resume {
		return false, usage("--extend continues a run: pass --resume, too")
	}
	if !o.Resume {
		return false, nil
	}
	text, err := plainfile.Read(filepath.Join(o.Out, "options.json"), 1<<20)
	if errors.Is(err, fs.ErrNotExist) && o.Extend {
		return false, usage("--extend: there is no run in %s", quote.Text(o.Out))
	}
	var was Train
	if err != nil || json.Unmarshal(text, &was) != nil {
		return false, nil // rundir says what is wrong
	}
	o.History = was.History
	if !o.Extend || o.Steps == was.Steps && o.LR == was.LR && o.LRDecay == was.LRDecay {
		return false, nil
	}
	if m, err := methodNamed(o.Method); err != nil || m.stages {
		return false, errors.Join(err, usage("--extend: the stages of the method %s divide the whole run: start a new run from its snapshot with --init", quote.Text(o.Method)))
	}
	done, err := o.done()
	if err != nil {
		return false, err
	}
	if o.Steps <= done {
		return false, usage("--steps: the run has done %d steps: want more, got %d", done, o.Steps)
	}
	o.History = append(slices.Clone(was.History), Settings{done, was.Steps, was.LR, was.LRDecay})
	return true, nil
}

// done is how many steps the run in Out has saved.
func (o Train) done() (int, error) {
	steps, err := rundir.Steps(o.Out, "state")
	if err != nil || len(steps) == 0 {
		return 0, err
	}
	return slices.Max(steps), nil
}

// complete says that a run which is resumed has nothing left to do, which --duration does not change; "" where it has.
func (o Train) complete() string {
	if done, err := o.done(); !o.Resume || err != nil || done < o.Steps {
		return ""
	}
	return fmt.Sprintf("the run has done all of its %d steps: nothing is left to do; pass --extend with more --steps to continue it", o.Steps)
}

// check asks whether the run may start in its folder, or go on there, with these options.
func (o Train) check(options map[string]any, may []string) (begun bool, err error) {
	begun, err = rundir.Check(o.Out, options, o.Resume, may...)
	err = hinted(err)
	if err == nil || !o.Resume || o.Extend {
		return begun, err
	}
	if _, other := rundir.Check(o.Out, options, o.Resume, slices.Concat(may, extendable)...); other == nil {
		return begun, fmt.Errorf("%w; pass --extend to continue this one with another number of steps or learning rate", err)
	}
	return begun, err
}

// past tells a card's reader what the run had before.
func (o Train) past() string {
	var b strings.Builder
	for _, s := range o.History {
		fmt.Fprintf(&b, "\nExtended at step %d: until then the run was of %d steps, with a learning rate of %s that falls over the last %s of them. From there on the schedules are those of %d steps.\n",
			s.Until, s.Steps, number.Short(s.LR), number.Short(s.LRDecay), o.Steps)
	}
	return b.String()
}
