package training

import (
	"fmt"
	"slices"

	"github.com/onestep-go/onestep/torch"
)

// Guard controls what happens at a step whose loss or gradients are NaN or infinite. Such a step is never applied, and always logged
// and counted. With the zero value the run ends with an error.
type Guard struct {
	Skips int // maximum number of consecutive steps to skip
	// Rollbacks is the maximum number of rollbacks, after more than Skips consecutive steps: the run resumes from its last checkpoint
	// with half the learning rate, and from the one before if that did not help.
	Rollbacks int
}

// health is the Guard's record of a run. It is part of a checkpoint.
type health struct {
	Skipped   int     `json:"skipped,omitempty"` // skipped steps in total
	Row       int     `json:"row,omitempty"`     // the last consecutive ones
	Rollbacks int     `json:"rollbacks,omitempty"`
	LRScale   float64 `json:"lr_scale,omitempty"` // factor of the learning rate; 0: 1
	Back      int     `json:"back,omitempty"`     // step of the last rollback, if no checkpoint was saved since; 0: none
	scaling
}

func (h health) lrScale() float64 {
	if h.LRScale == 0 {
		return 1
	}
	return h.LRScale
}

// goBack rolls back to the last checkpoint with half the learning rate, or to the one before after a rollback to the last.
func (t *Trainer) goBack(s *torch.Scope, run *session, r *Result, why error) error {
	states, err := t.Folder.Steps("state")
	if err != nil {
		return err
	}
	to := run.saved
	for _, n := range slices.Backward(states) {
		if n < to && run.Back == run.saved {
			to = n
			break
		}
	}
	// Later checkpoints belong to the diverged branch: a run that is killed now must not resume from them.
	if err := t.Folder.Forget(to); err != nil {
		return err
	}
	past := run.health
	if err := t.resume(s, run, r); err != nil {
		return err
	}
	run.health = health{Skipped: past.Skipped, Rollbacks: past.Rollbacks + 1, LRScale: past.lrScale() / 2, Back: to, scaling: past.scaling}
	run.due, r.Skipped, r.Overflows = false, run.Skipped, run.Overflows
	// Record the rollback in the checkpoint, so that a run that is killed now resumes in the same way.
	if err := s.NoGrad(func(s *torch.Scope) error { return t.saveState(s, run, r) }); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	t.Log.Warn("rolled back to an earlier checkpoint, with half the learning rate", "reason", why, "step", r.Step, "lr_scale", run.LRScale)
	return nil
}

// notFiniteError is the error of a step or checkpoint with NaN or infinite values.
type notFiniteError struct {
	what string // such as "the loss is NaN"
}

func (e *notFiniteError) Error() string { return e.what + ": training has diverged" }
