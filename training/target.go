package training

import (
	"fmt"
	"iter"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// target is a copy of the model that follows it: a target network, or the next stage's teacher.
type target struct {
	follow *models.EMA // made by bind
}

// bind makes the copy follow the model. what names the method in errors.
func (t *target) bind(what string, of, model Module) error {
	var err error
	if t.follow, err = models.NewEMA(of.Parameters(), model.Parameters()); err != nil {
		return fmt.Errorf("%s: target: %w", what, err)
	}
	return nil
}

// move updates θ⁻ ← decay·θ⁻ + (1-decay)·θ.
func (t *target) move(s *torch.Scope, what string, decay float64) {
	if t.follow == nil {
		panic(&torch.Error{Op: what, Msg: "Update was called before Validate"})
	}
	t.follow.Update(s, decay)
}

// prefixed adds a prefix to the names of tensors, as in checkpoints.
func prefixed(prefix string, tensors iter.Seq2[string, *torch.Tensor]) iter.Seq2[string, *torch.Tensor] {
	return func(yield func(string, *torch.Tensor) bool) {
		for name, x := range tensors {
			if !yield(prefix+name, x) {
				return
			}
		}
	}
}
