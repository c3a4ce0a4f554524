package training

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"

	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/training/rundir"
)

// Evaluation is how good a model is: what Trainer.Evaluate returns. The model with the lowest Value is the run's best.
type Evaluation struct {
	Name  string  // of the measure, as stats.jsonl and TensorBoard call it, such as "fd_effnetlite0"
	Value float64 // lower is better
	// Of is what the value depends on besides the model, such as the features, the data and the number of images. Values with different ones
	// are not compared.
	Of   string
	More map[string]float64 // further measures, by their names
}

// Best is the best model of a run by its evaluations, as best.json has it. Its weights are in best.safetensors, in the form of a snapshot.
type Best struct {
	Path  string  `json:"-"` // of the weights
	Step  int     `json:"step"`
	Name  string  `json:"measure"`
	Value float64 `json:"value"`
	Of    string  `json:"of"`
}

// bestFile is the file of a Best in the run directory, and evalKey the entry of stats.jsonl that names an evaluation's measure.
const (
	bestFile = "best.json"
	evalKey  = "eval"
)

// readBest reads the best model of a run that resumes; nil: there is none.
func (t *Trainer) readBest() *Best {
	if t.Evaluate == nil || t.Folder == nil {
		return nil
	}
	path := t.Folder.File(bestFile)
	text, err := plainfile.Read(path, 1<<16)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	b := &Best{Path: t.Folder.Best()}
	if err == nil {
		err = json.Unmarshal(text, b)
	}
	if err == nil {
		_, err = os.Stat(b.Path)
	}
	if err != nil {
		t.Log.Warn("the best model so far is unknown; the best of those to come is kept", "file", quote.Path(path), "error", quote.Error(err))
		return nil
	}
	return b
}

// evaluates reports whether the model is evaluated after step k, which may be the last one.
func (t *Trainer) evaluates(k int, last bool) bool {
	return t.Evaluate != nil && t.EvaluateEvery > 0 && (last || k%t.EvaluateEvery == 0)
}

// evaluate evaluates the model after the last step. A failure is logged, and loses no training.
func (t *Trainer) evaluate(ctx context.Context, s *torch.Scope, r *Result) {
	if err := t.measure(ctx, s, r); err != nil && ctx.Err() == nil {
		t.Log.Warn("evaluation failed; training continues", "step", r.Step, "error", err)
	}
}

func (t *Trainer) measure(ctx context.Context, s *torch.Scope, r *Result) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errors.Join(err, fmt.Errorf("%v", p))
		}
	}()
	e, err := t.Evaluate(ctx, r.Step)
	if err != nil {
		return err
	}
	if !finite(e.Value) {
		return fmt.Errorf("%s is %v", quote.Text(e.Name), e.Value)
	}
	values := map[string]float64{e.Name: e.Value}
	for name, v := range e.More {
		if finite(v) { // JSON has no NaN and infinity
			values[name] = v
		}
	}
	// The best comes first: a run that is killed between the two evaluates again. Values are recorded also where the disk is full.
	best := r.Chosen == nil || e.Of != r.Chosen.Of || e.Value < r.Chosen.Value
	if r.Chosen != nil && e.Of != r.Chosen.Of {
		t.Log.Warn("evaluations are not comparable with those before: the best model is chosen again", "now", quote.Text(e.Of), "before", quote.Text(r.Chosen.Of))
	}
	if best {
		err = t.keepBest(s, r, e)
	}
	said := []any{"step", r.Step}
	for _, name := range append([]string{e.Name}, slices.DeleteFunc(slices.Sorted(maps.Keys(values)), func(n string) bool { return n == e.Name })...) {
		said = append(said, quote.Text(name), strconv.FormatFloat(values[name], 'g', 5, 64))
	}
	t.Log.Info("evaluation", append(said, "best", best)...)
	if t.Folder != nil {
		line := map[string]any{"step": r.Step, evalKey: e.Name}
		for name, v := range values {
			line[name] = v
		}
		err = errors.Join(err, t.Folder.Record(line))
	}
	if t.Scalars != nil {
		err = errors.Join(err, t.Scalars(r.Step, values))
	}
	return err
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// keepBest saves the model as the best one. Snapshots in a form of their own are not copied.
func (t *Trainer) keepBest(s *torch.Scope, r *Result, e Evaluation) error {
	if t.Folder == nil || t.Snapshots != nil {
		r.Chosen = &Best{Step: r.Step, Name: e.Name, Value: e.Value, Of: e.Of}
		return nil
	}
	b := &Best{t.Folder.Best(), r.Step, e.Name, e.Value, e.Of}
	err := s.NoGrad(func(s *torch.Scope) error {
		metadata, err := t.describe(r)
		if err != nil {
			return err
		}
		return t.writeSnapshot(s, b.Path, 0, r.Step, metadata)
	})
	if err == nil {
		err = rundir.WriteJSON(t.Folder.File(bestFile), b)
	}
	if err != nil {
		return fmt.Errorf("the best model: %w", err)
	}
	r.Chosen = b
	return nil
}
