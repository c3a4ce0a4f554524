package training

import (
	"errors"
	"fmt"

	"github.com/onestep-go/onestep/torch"
)

// try lets the objective test its network on the first sample of the run's first batch, before the first step.
func (t *Trainer) try(s *torch.Scope, b Batch, first Draws) error {
	o, ok := t.Objective.(Trier)
	if !ok {
		return nil
	}
	err := s.NoGrad(func(s *torch.Scope) error {
		b, err := t.prepare(s, b.row(s), first)
		if err != nil {
			return err
		}
		o.Try(s, b, first)
		return nil
	})
	if err != nil {
		return fmt.Errorf("the network cannot be trained with this method: %w", err)
	}
	return nil
}

// step does one optimizer step and returns how many samples it saw, and its loss. next yields the source's batches.
func (t *Trainer) step(s *torch.Scope, r *Result, next func() (func(s *torch.Scope) Batch, error, bool), run *session) (samples int, loss float64, err error) {
	k := r.Step
	lr := run.lr
	if t.LR != nil {
		lr = t.LR(k)
	}
	t.Optimizer.SetLR(lr * run.lrScale())
	t.Optimizer.ZeroGrad()
	run.bins = nil
	// Losses stay on the device until the end of the step: to read a number of a GPU is to wait until it has done all before.
	var parts []*torch.Tensor
	held := torch.NewScope(s.Device())
	defer held.Close()
	for range t.accumulate() {
		batch, err, ok := next()
		switch {
		case err != nil:
			return samples, loss, err
		case !ok:
			return samples, loss, errors.New("the data source has no more batches: want an endless one")
		}
		err = s.Run(func(s *torch.Scope) error {
			b := precise(s, batch(s))
			b.Cond.Precision = t.Precision
			n := b.X.Dim(0)
			if k == 0 && samples == 0 {
				if err := t.try(s, b, Draw(t.Seed, 0, 0, 1)); err != nil { // with draws of its own
					return err
				}
			}
			draws := Draw(t.Seed, k, r.Seen+int64(samples), n)
			samples += n
			if t.logs(k + 1) {
				draws.Observe = run.observe
			}
			b, err := t.prepare(s, b, draws)
			if err != nil {
				return err
			}
			b.Cond.Checkpointing = b.Cond.Checkpointing || t.Checkpointing
			l := t.Objective.Loss(s, k, b, draws)
			if t.accumulate() > 1 {
				l = l.DivScalar(s, float64(t.accumulate()))
			}
			parts = append(parts, l.Detach(held).To(held, torch.Float64))
			if run.Scale != 0 {
				l = l.MulScalar(s, run.Scale)
			}
			l.Backward()
			return nil
		})
		if err != nil {
			return samples, loss, err
		}
	}
	err = s.Run(func(s *torch.Scope) error {
		if run.Scale != 0 {
			run.unscale(s, run.params)
		}
		var length *torch.Tensor
		if t.Clip > 0 {
			length = torch.ClipGradNorm(s, run.params, t.Clip)
		} else {
			length = torch.GradNorm(s, run.params)
		}
		read := torch.ToSlice[float64](torch.Stack(s, append(parts, length.Detach(s).To(s, torch.Float64)), 0))
		for _, part := range read[:len(parts)] {
			if loss += part; !finite(part) {
				return &notFiniteError{fmt.Sprintf("the loss is %v", part)}
			}
		}
		if norm := read[len(parts)]; !finite(norm) {
			if at := run.Scale; run.overflowed() {
				return &overflowError{at}
			}
			return &notFiniteError{fmt.Sprintf("the gradient's norm is %v", norm)}
		}
		run.steady(t.LossScale)
		return s.NoGrad(func(s *torch.Scope) error {
			t.Optimizer.Step(s)
			t.Objective.Update(s, k)
			for i, average := range run.averages {
				average.Update(s, t.Averages[i].DecayAt(k, samples))
			}
			return nil
		})
	})
	return samples, loss, err
}

// prepare calls Prepare. Captions that nobody has encoded are an error: the network would be trained without them.
func (t *Trainer) prepare(s *torch.Scope, b Batch, d Draws) (Batch, error) {
	if t.Prepare != nil {
		b = t.Prepare(s, b, d)
	}
	if len(b.Captions) > 0 {
		return b, errors.New("the batch has captions that are not encoded: set Trainer.Prepare, such as to the function of latents.Encode")
	}
	return b, nil
}

// precise returns a batch with samples in float32 at least, so that noise, distances and losses are, too. models.Forward casts inputs for
// networks in half precision.
func precise(s *torch.Scope, b Batch) Batch {
	if isHalf(b.X.DType()) {
		b.X = b.X.To(s, torch.Float32)
	}
	return b
}
