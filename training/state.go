package training

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch"
)

// stateKey is the metadata key of a checkpoint's stateHead, as JSON.
const stateKey = "onestep_state"

// stateFormat is the version of checkpoint files.
// In format 1 noise and noise levels were drawn per batch; since 2, per sample.
const stateFormat = 2

type stateHead struct {
	Format   int               `json:"format"`
	Step     int               `json:"step"`
	Seen     int64             `json:"seen"`
	Seed     uint64            `json:"seed"`
	Averages []string          `json:"averages,omitempty"` // names of the EMA weights
	Model    map[string]string `json:"model,omitempty"`    // metadata of its snapshots; see Snapshotter
	health
}

// part is a set of tensors in a checkpoint, whose names start with prefix.
type part struct {
	prefix string
	all    iter.Seq2[string, *torch.Tensor]
}

// parts are the parts of a checkpoint besides the optimizer's state.
func (t *Trainer) parts() []part {
	parts := []part{{"model.", t.Model.Parameters()}}
	for i, a := range t.Averages {
		prefix := "average."
		if i > 0 {
			prefix = "average-" + a.Name() + "/" // names contain dots, like names of tensors, but no slashes
		}
		parts = append(parts, part{prefix, a.Into.Parameters()})
	}
	return append(parts, part{"objective.", t.Objective.State()})
}

// state yields all tensors of a checkpoint.
func (t *Trainer) state(s *torch.Scope) iter.Seq2[string, *torch.Tensor] {
	return func(yield func(string, *torch.Tensor) bool) {
		for _, p := range append(t.parts(), part{"optimizer.", t.Optimizer.State(s)}) {
			for name, x := range p.all {
				if !yield(p.prefix+name, x) {
					return
				}
			}
		}
	}
}

// finite returns an error for NaN or infinite values in the tensors of a checkpoint. They can occur even if all losses and gradients were
// finite.
func (t *Trainer) finite(s *torch.Scope) error {
	var all []*torch.Tensor
	for _, x := range t.state(s) {
		all = append(all, x)
	}
	if n := torch.CountNonFinite(s, all); n > 0 {
		return &notFiniteError{fmt.Sprintf("%d values in the weights, the EMA weights or the optimizer's state are NaN or infinite", n)}
	}
	return nil
}

// save writes snapshots and a checkpoint after the last step, unless they have NaN or infinite values.
func (t *Trainer) save(ctx context.Context, s *torch.Scope, run *session, r *Result) error {
	return s.NoGrad(func(s *torch.Scope) error {
		if err := t.finite(s); err != nil {
			return err
		}
		if t.Folder == nil {
			return nil
		}
		run.Back = 0
		// Snapshots come first: a run resumed from a checkpoint without its snapshots would not write them.
		if err := t.saveSnapshots(ctx, s, r); err != nil {
			return fmt.Errorf("snapshot: %w", err)
		}
		if err := t.saveState(s, run, r); err != nil {
			return fmt.Errorf("checkpoint: %w", err)
		}
		run.saved, run.due = r.Step, false
		keep := t.KeepStates
		if keep == 0 {
			keep = 2
		}
		if t.KeepSnapshots > 0 {
			if err := t.Folder.PruneSnapshots(t.KeepSnapshots); err != nil {
				return err
			}
		}
		return t.Folder.Prune("state", keep)
	})
}

// saveSnapshots writes the EMA weights, each to its file, or without any the model.
func (t *Trainer) saveSnapshots(ctx context.Context, s *torch.Scope, r *Result) error {
	if t.Snapshots != nil {
		r.Snapshot = t.Snapshots.Path(r.Step)
		return t.Snapshots.Write(ctx, s, r.Step, r.Seen)
	}
	metadata, err := t.describe(r)
	if err != nil {
		return err
	}
	snapshot := t.Folder.Snapshot(r.Step, "")
	for i := range max(1, len(t.Averages)) {
		path := snapshot
		if i > 0 {
			path = t.Folder.Snapshot(r.Step, t.Averages[i].Name())
		}
		if err := t.writeSnapshot(s, path, i, r.Step, metadata); err != nil {
			return err
		}
	}
	r.Snapshot = snapshot
	return nil
}

// describe returns the metadata of the model's snapshots after the last step.
func (t *Trainer) describe(r *Result) (map[string]string, error) {
	describe := t.Metadata
	if o, ok := t.Objective.(Describer); ok && describe == nil {
		describe = o.Metadata
	}
	if describe == nil {
		return map[string]string{}, nil
	}
	return describe(r.Step, r.Seen)
}

// writeSnapshot writes the i-th EMA weights, or without any the model.
func (t *Trainer) writeSnapshot(s *torch.Scope, path string, i, step int, metadata map[string]string) error {
	if err := t.Folder.Unlink(path); err != nil {
		return err
	}
	if len(t.Averages) == 0 {
		return saveSnapshot(s, path, t.Model, metadata)
	}
	a := t.Averages[i]
	said, err := averageHead{Decay: a.Decay, HalfLife: a.HalfLife, Width: a.Width, Step: step}.addTo(metadata)
	if err != nil {
		return err
	}
	return saveSnapshot(s, path, a.Into, said)
}

// tensorsOf yields all tensors of a network, or a module's parameters if it has no other tensors.
func tensorsOf(m Module) iter.Seq2[string, *torch.Tensor] {
	if full, ok := m.(interface {
		Tensors() iter.Seq2[string, *torch.Tensor]
	}); ok {
		return full.Tensors()
	}
	return m.Parameters()
}

// saveState writes a checkpoint.
func (t *Trainer) saveState(s *torch.Scope, run *session, r *Result) error {
	head, err := json.Marshal(stateHead{stateFormat, r.Step, r.Seen, t.Seed, t.averageNames(), run.said, run.health})
	if err != nil {
		return err
	}
	path := t.Folder.State(r.Step)
	if err := t.Folder.Unlink(path); err != nil {
		return err
	}
	if err := torch.SaveSafetensors(path, t.state(s), torch.SaveOptions{Metadata: map[string]string{stateKey: string(head)}, Overwrite: true}); err != nil {
		return err
	}
	r.State = path
	return nil
}

// resume loads the latest checkpoint in the run directory, if there is one.
func (t *Trainer) resume(s *torch.Scope, run *session, r *Result) error {
	run.saved = -1
	if t.Folder == nil {
		return nil
	}
	steps, err := t.Folder.Steps("state")
	if err != nil {
		return err
	}
	if len(steps) == 0 {
		return t.startAgain()
	}
	path := t.Folder.State(steps[len(steps)-1])
	hint := t.instead(steps)
	w, err := torch.OpenWeights(path)
	if err != nil {
		return fmt.Errorf("resume: %w%s", err, hint)
	}
	defer w.Close()
	var head stateHead
	text, ok := w.File().Metadata()[stateKey]
	if !ok {
		return fmt.Errorf("resume: %s is not a checkpoint of a run%s", quote.Path(path), hint)
	}
	if err := json.Unmarshal([]byte(text), &head); err != nil {
		return fmt.Errorf("resume: %s is damaged: %w%s", quote.Path(path), quote.Error(err), hint)
	}
	switch {
	case head.Format == 1:
		return fmt.Errorf("resume: %s was saved by an older version, which drew other noise for the same samples, so the resumed run would have other "+
			"results: finish the run with that version, or start a new run from its last snapshot", quote.Path(path))
	case head.Format != stateFormat:
		return fmt.Errorf("resume: %s has format %d, but this version reads format %d", quote.Path(path), head.Format, stateFormat)
	case head.Seed != t.Seed:
		return fmt.Errorf("resume: %s was saved with seed %d, but this run has seed %d", quote.Path(path), head.Seed, t.Seed)
	case head.Seen < 0:
		return fmt.Errorf("resume: %s is damaged: it says that the run has seen %s%s", quote.Path(path), plural.N(head.Seen, "sample"), hint)
	case head.Step < 0 || head.Step != steps[len(steps)-1]:
		return fmt.Errorf("resume: %s is damaged: it says that it is of step %d%s", quote.Path(path), head.Step, hint)
	case head.Row < 0 || head.Rollbacks < 0 || head.Skipped < 0 || !(head.LRScale >= 0 && head.LRScale <= 1):
		return fmt.Errorf("resume: %s is damaged: the numbers of skipped steps and rollbacks, or the factor of the learning rate, are out of range: %+v%s", quote.Path(path), head.health, hint)
	case !head.scaling.valid(head.Step):
		return fmt.Errorf("resume: %s is damaged: the loss scale is out of range: %+v%s", quote.Path(path), head.scaling, hint)
	case head.Step > 0 && head.scaling.fits(t.LossScale) != nil:
		return fmt.Errorf("resume: %s %w", quote.Path(path), head.scaling.fits(t.LossScale))
	case head.Averages != nil && !slices.Equal(head.Averages, t.averageNames()):
		return fmt.Errorf("resume: %s was saved with the EMA weights %s, but this run has %s", quote.Path(path), quote.Texts(head.Averages), quote.Texts(t.averageNames()))
	case differ(head.Model, run.said) != "":
		return fmt.Errorf("resume: %s was saved with a model that has another %s than this run's", quote.Path(path), differ(head.Model, run.said))
	}
	err = s.NoGrad(func(s *torch.Scope) error {
		given := map[string]*torch.Tensor{}
		for name, x := range w.All(s) {
			given[name] = x
		}
		parts := t.parts()
		var wrong []string
		known := map[string]bool{}
		for _, p := range parts {
			for name, x := range p.all {
				known[p.prefix+name] = true
				v, ok := given[p.prefix+name]
				switch {
				case !ok:
					wrong = append(wrong, "missing "+p.prefix+name)
				case !slices.Equal(v.Shape(), x.Shape()):
					wrong = append(wrong, fmt.Sprintf("%s%s has shape %v, expected %v", p.prefix, name, v.Shape(), x.Shape()))
				case v.DType() != x.DType():
					wrong = append(wrong, fmt.Sprintf("%s%s has type %s, expected %s", p.prefix, name, v.DType(), x.DType()))
				}
			}
		}
		for name := range given {
			if !known[name] && !strings.HasPrefix(name, "optimizer.") { // LoadState checks those
				wrong = append(wrong, "unexpected "+name)
			}
		}
		if wrong != nil {
			slices.Sort(wrong)
			return fmt.Errorf("tensors that do not match this run's (%d): %s", len(wrong), strings.Join(wrong[:min(len(wrong), 8)], "; "))
		}
		for _, p := range parts {
			for name, x := range p.all {
				x.CopyFrom(s, given[p.prefix+name])
			}
		}
		return t.Optimizer.LoadState(func(yield func(string, *torch.Tensor) bool) {
			for name, x := range given {
				if rest, ok := strings.CutPrefix(name, "optimizer."); ok && !yield(rest, x) {
					return
				}
			}
		})
	})
	var bad *notFiniteError
	if err == nil {
		if err = s.NoGrad(t.finite); errors.As(err, &bad) {
			err = errors.New(bad.what)
		}
	}
	if err != nil {
		return fmt.Errorf("resume from %s: %w%s", quote.Path(path), err, hint)
	}
	if _, err := t.Folder.CutStats(head.Step); err != nil {
		return err
	}
	t.Log.Info("resumed", "step", head.Step, "checkpoint", path)
	run.saved, run.health = head.Step, head.health
	r.Step, r.Seen, r.Skipped, r.Overflows, r.State = head.Step, head.Seen, head.Skipped, head.Overflows, path
	return nil
}

// instead says what to do if the last checkpoint, of the last of steps, cannot be read.
func (t *Trainer) instead(steps []int) string {
	last := len(steps) - 1
	if last > 0 {
		return fmt.Sprintf("; remove the file to resume from the previous checkpoint, of step %d", steps[last-1])
	}
	snapshot := t.Folder.Snapshot(steps[last], "")
	if _, err := os.Stat(snapshot); err != nil {
		return "; it is the only checkpoint: start a new run"
	}
	return fmt.Sprintf("; it is the only checkpoint: start a new run from the snapshot %s", quote.Path(snapshot))
}

// startAgain prepares a run without checkpoints to start at step 0: a new run, or one that ended before its first checkpoint.
func (t *Trainer) startAgain() error {
	snapshots, err := t.Folder.Steps("model")
	if err != nil {
		return err
	}
	// A run that was killed while saving for the first time may have a snapshot, which is overwritten.
	if n := len(snapshots); n > 1 {
		return fmt.Errorf("resume: %s has snapshots of %d steps but no checkpoint to resume from: choose another directory, or start a new run from the last snapshot, %s",
			quote.Path(t.Folder.Path()), n, quote.Path(t.Folder.Snapshot(snapshots[n-1], "")))
	}
	begun, err := t.Folder.CutStats(0)
	if begun {
		t.Log.Warn("the run ended before its first checkpoint: it starts again from step 0", "run", t.Folder.Path())
	}
	return err
}

// logs reports whether statistics are logged after k steps.
func (t *Trainer) logs(k int) bool { return k%max(1, t.LogEvery) == 0 || k == t.Steps || k == 1 }

// record writes a step's statistics to stats.jsonl.
func (t *Trainer) record(run *session, r *Result, elapsed time.Duration) error {
	k, loss := r.Step, r.Loss
	perSecond := run.rate.perSecond()
	if !t.logs(k) {
		return nil
	}
	v := map[string]any{
		"step": k, "images": r.Seen, "lr": t.Optimizer.LR(),
		"images_per_second": math.Round(perSecond*10) / 10, "seconds": math.Round(elapsed.Seconds()*1000) / 1000,
	}
	scalars := map[string]float64{"lr": t.Optimizer.LR(), "images_per_second": perSecond}
	if !math.IsNaN(loss) && !math.IsInf(loss, 0) { // JSON has no NaN and infinity; "skipped" counts them
		v["loss"], scalars["loss"] = loss, loss
	}
	if run.Skipped > 0 {
		v["skipped"], scalars["skipped"] = run.Skipped, float64(run.Skipped)
	}
	if run.Scale != 0 {
		v["loss_scale"], scalars["loss_scale"] = run.Scale, run.Scale
		if run.Overflows > 0 {
			v["overflows"], scalars["overflows"] = run.Overflows, float64(run.Overflows)
		}
	}
	for name, m := range run.bins {
		if x := m.sum / float64(m.n); !math.IsNaN(x) && !math.IsInf(x, 0) {
			v[name], scalars[name] = x, x
		}
	}
	for name, x := range t.Objective.Stats(k - 1) {
		v[name], scalars[name] = x, x
	}
	if t.Scalars != nil {
		if err := t.Scalars(k, scalars); err != nil {
			return err
		}
	}
	if t.Folder == nil {
		return nil
	}
	return t.Folder.Record(v)
}

// finish saves at the end of a session, unless the last step's checkpoint and snapshot are there.
func (t *Trainer) finish(ctx context.Context, s *torch.Scope, run *session, r *Result) error {
	if t.Folder == nil {
		return s.NoGrad(t.finite)
	}
	snapshot := t.Folder.Snapshot(r.Step, "")
	if t.Snapshots != nil {
		snapshot = t.Snapshots.Path(r.Step)
	}
	if _, err := os.Stat(snapshot); err == nil && run.saved == r.Step {
		r.Snapshot, r.State = snapshot, t.Folder.State(r.Step)
		return nil
	}
	return t.save(ctx, s, run, r)
}
