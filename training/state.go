package training

import (
	"encoding/json"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/onestep-go/onestep/torch"
)

// stateKey is where a state file's metadata holds its head, as JSON.
const stateKey = "onestep_state"

// stateFormat is the version of state files.
const stateFormat = 1

type stateHead struct {
	Format int    `json:"format"`
	Step   int    `json:"step"`
	Seen   int64  `json:"seen"`
	Seed   uint64 `json:"seed"`
	health
}

// parts are the sets of tensors in a state file, by the prefix of their names.
func (t *Trainer) parts(s *torch.Scope) map[string]iter.Seq2[string, *torch.Tensor] {
	p := map[string]iter.Seq2[string, *torch.Tensor]{
		"model.":     t.Model.Parameters(),
		"optimizer.": t.Optimizer.State(s),
		"objective.": t.Objective.State(),
	}
	if t.Average != nil {
		p["average."] = t.Average.Into.Parameters()
	}
	return p
}

// save writes state and snapshot after the last step.
func (t *Trainer) save(s *torch.Scope, run *session, r *Result) error {
	return s.NoGrad(func(s *torch.Scope) error {
		head, err := json.Marshal(stateHead{stateFormat, r.Step, r.Seen, t.Seed, run.health})
		if err != nil {
			return err
		}
		// The snapshot first: a state without its snapshot would make a resumed run skip it.
		weights := t.Model.Parameters()
		if t.Average != nil {
			weights = t.Average.Into.Parameters()
		}
		if full, ok := t.snapshotOf().(interface {
			Tensors() iter.Seq2[string, *torch.Tensor]
		}); ok {
			weights = full.Tensors()
		}
		metadata := map[string]string{}
		describe := t.Metadata
		if o, ok := t.Objective.(interface {
			Metadata(step int, images int64) (map[string]string, error)
		}); ok && describe == nil {
			describe = o.Metadata
		}
		if describe != nil {
			if metadata, err = describe(r.Step, r.Seen); err != nil {
				return err
			}
		}
		r.Snapshot, r.State = t.Run.Snapshot(r.Step), t.Run.State(r.Step)
		if err := torch.SaveSafetensors(r.Snapshot, weights, metadata, true); err != nil {
			return fmt.Errorf("snapshot: %w", err)
		}
		all := func(yield func(string, *torch.Tensor) bool) {
			parts := t.parts(s)
			for _, prefix := range []string{"model.", "average.", "objective.", "optimizer."} {
				if parts[prefix] == nil {
					continue
				}
				for name, x := range parts[prefix] {
					if !yield(prefix+name, x) {
						return
					}
				}
			}
		}
		if err := torch.SaveSafetensors(r.State, all, map[string]string{stateKey: string(head)}, true); err != nil {
			return fmt.Errorf("state: %w", err)
		}
		run.saved = r.Step
		keep := t.KeepStates
		if keep == 0 {
			keep = 2
		}
		return t.Run.Prune("state", keep)
	})
}

// snapshotOf is whose weights a snapshot holds.
func (t *Trainer) snapshotOf() Module {
	if t.Average != nil {
		return t.Average.Into
	}
	return t.Model
}

// resume loads the latest state of the run's folder, if there is one.
func (t *Trainer) resume(s *torch.Scope, run *session, r *Result) error {
	run.saved = -1
	steps, err := t.Run.Steps("state")
	if err != nil || len(steps) == 0 {
		return err
	}
	path := t.Run.State(steps[len(steps)-1])
	w, err := torch.OpenWeights(path)
	if err != nil {
		if n := len(steps); n > 1 {
			return fmt.Errorf("resume: %w; remove it to go on from step %d", err, steps[n-2])
		}
		return fmt.Errorf("resume: %w", err)
	}
	defer w.Close()
	var head stateHead
	if err := json.Unmarshal([]byte(w.File().Metadata()[stateKey]), &head); err != nil {
		return fmt.Errorf("resume: %s is not a training state: %w", path, err)
	}
	switch {
	case head.Format != stateFormat:
		return fmt.Errorf("resume: %s has format %d, this version reads format %d", path, head.Format, stateFormat)
	case head.Seed != t.Seed:
		return fmt.Errorf("resume: %s was made with seed %d, this run has %d", path, head.Seed, t.Seed)
	case head.Step < 0 || head.Step != steps[len(steps)-1]:
		return fmt.Errorf("resume: %s says step %d", path, head.Step)
	}
	err = s.NoGrad(func(s *torch.Scope) error {
		given := map[string]*torch.Tensor{}
		for name, x := range w.All(s) {
			given[name] = x
		}
		under := func(prefix string) iter.Seq2[string, *torch.Tensor] {
			return func(yield func(string, *torch.Tensor) bool) {
				for name, x := range given {
					if rest, ok := strings.CutPrefix(name, prefix); ok && !yield(rest, x) {
						return
					}
				}
			}
		}
		parts := t.parts(s)
		var wrong []string
		for prefix, into := range parts {
			if prefix == "optimizer." {
				continue
			}
			for name, x := range into {
				v, ok := given[prefix+name]
				switch {
				case !ok:
					wrong = append(wrong, "missing "+prefix+name)
				case !slices.Equal(v.Shape(), x.Shape()):
					wrong = append(wrong, fmt.Sprintf("%s%s: want %v, got %v", prefix, name, x.Shape(), v.Shape()))
				}
			}
		}
		if wrong != nil {
			slices.Sort(wrong)
			return fmt.Errorf("%d tensors do not fit this run: %s", len(wrong), strings.Join(wrong[:min(len(wrong), 8)], "; "))
		}
		for prefix, into := range parts {
			if prefix == "optimizer." {
				continue
			}
			for name, x := range into {
				x.CopyFrom(s, given[prefix+name])
			}
		}
		return t.Optimizer.LoadState(under("optimizer."))
	})
	if err != nil {
		return fmt.Errorf("resume from %s: %w", path, err)
	}
	if err := t.Run.CutStats(head.Step); err != nil {
		return err
	}
	t.Log.Info("resumed", "step", head.Step, "state", path)
	run.saved, run.health = head.Step, head.health
	r.Step, r.Seen, r.Skipped = head.Step, int64(head.Step)*int64(t.Data.Batch), head.Skipped
	return nil
}

// record writes a step's figures to stats.jsonl.
func (t *Trainer) record(run *session, k int, loss float64, elapsed time.Duration) error {
	perSecond := run.rate.perSecond()
	every := max(1, t.LogEvery)
	if k%every != 0 && k != t.Steps && k != 1 {
		return nil
	}
	v := map[string]any{
		"step": k, "images": int64(k) * int64(t.Data.Batch), "lr": t.Optimizer.LR(),
		"images_per_second": math.Round(perSecond*10) / 10, "seconds": math.Round(elapsed.Seconds()*1000) / 1000,
	}
	scalars := map[string]float64{"lr": t.Optimizer.LR(), "images_per_second": perSecond}
	if !math.IsNaN(loss) && !math.IsInf(loss, 0) { // JSON has no such numbers; "skipped" tells of them
		v["loss"], scalars["loss"] = loss, loss
	}
	if run.Skipped > 0 {
		v["skipped"], scalars["skipped"] = run.Skipped, float64(run.Skipped)
	}
	for name, x := range t.Objective.Stats(k - 1) {
		v[name], scalars[name] = x, x
	}
	if t.Scalars != nil {
		if err := t.Scalars(k, scalars); err != nil {
			return err
		}
	}
	return t.Run.Record(v)
}

// finish saves at the end of a session, unless the last step is saved already.
func (t *Trainer) finish(s *torch.Scope, run *session, r *Result) error {
	if run.saved != r.Step {
		return t.save(s, run, r)
	}
	r.Snapshot, r.State = t.Run.Snapshot(r.Step), t.Run.State(r.Step)
	return nil
}
