package training

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"time"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// session is the state of a running Train.
type session struct {
	health
	params   []*torch.Tensor // all trained parameters
	averages []*models.EMA
	lr       float64 // the optimizer's own, used without a schedule
	began    time.Time
	rate     *rate
	saved    int               // step of the last checkpoint; -1: none
	sampled  time.Duration     // how long the last call of Sample took; 0: none
	measured time.Duration     // how long the last evaluation took; 0: none
	paused   time.Duration     // how long all samples and evaluations took
	due      bool              // save a checkpoint after the next step that is not skipped
	bins     map[string]mean   // of the last step's loss, by noise level; nil: not observed
	said     map[string]string // metadata of the model's snapshots; see Snapshotter
}

func (t *Trainer) train(ctx context.Context, s *torch.Scope) (Result, error) {
	var r Result
	if t.Log == nil {
		t.Log = slog.New(slog.DiscardHandler)
	}
	run := &session{lr: t.Optimizer.LR(), began: time.Now(), rate: newRate(), params: t.learned()}
	var err error
	if run.said, err = t.trySnapshots(s); err != nil {
		return r, fmt.Errorf("trainer: %w", err)
	}
	if name := t.halfParameters(); name != "" {
		t.Log.Warn("parameters are trained in half precision, in which small updates are rounded away: keep them in float32", "parameter", name)
	}
	if t.unscaled() {
		t.Log.Warn("gradients pass through a network in float16, which rounds small ones to zero: set LossScale, or use bfloat16 or float32")
	}
	if d, known := t.weightsType(); known && d != torch.Float32 && isHalf(t.Precision) {
		t.Log.Warn("mixed precision has no effect: it is for networks with float32 weights", "precision", t.Precision, "weights", d)
	}
	if note := t.slowPrecision(); note != "" {
		t.Log.Warn(note, "precision", t.Precision)
	}
	if run.averages, err = t.follow(); err != nil {
		return r, fmt.Errorf("trainer: %w", err)
	}
	if err := t.resume(s, run, &r); err != nil {
		return r, err
	}
	r.Chosen = t.readBest()
	if t.LossScale != nil && run.Scale == 0 {
		run.Scale = t.LossScale.start()
	}
	if r.Step >= t.Steps {
		r.Finished = true
		if err := t.finish(ctx, s, run, &r); err != nil {
			return r, err
		}
		return r, t.resumed(ctx, s, &r)
	}
	if err := t.resumed(ctx, s, &r); err != nil {
		return r, err
	}
	for {
		err := t.steps(ctx, s, run, &r)
		var bad *notFiniteError
		switch {
		case !errors.As(err, &bad) || ctx.Err() != nil:
			return r, err
		case run.Rollbacks > 0 && run.Rollbacks >= t.Guard.Rollbacks:
			return r, fmt.Errorf("%w again after %d of %d rollbacks, with the learning rate scaled by %g: start a new run with a lower learning rate",
				err, run.Rollbacks, t.Guard.Rollbacks, run.lrScale())
		case r.Step == 0: // nothing was learned that could have diverged
			return r, fmt.Errorf("%s at the first step: the weights that the run starts from or the data have NaN or infinite values, or overflow in half precision", bad.what)
		case t.Guard.Rollbacks == 0 || run.saved < 0:
			return r, fmt.Errorf("%w: start a new run with a lower learning rate", err)
		}
		if err := t.goBack(s, run, &r, bad); err != nil {
			return r, err
		}
	}
}

// resumed calls Resumed after a checkpoint was read, and evaluates its step if that was not done.
func (t *Trainer) resumed(ctx context.Context, s *torch.Scope, r *Result) error {
	if r.Step == 0 {
		return nil
	}
	if t.Resumed != nil {
		if err := t.Resumed(ctx, r.Step); err != nil {
			return fmt.Errorf("resume at step %d: %w", r.Step, err)
		}
	}
	if t.evaluates(r.Step, r.Step >= t.Steps) && t.Folder != nil && !t.Folder.Recorded(r.Step, evalKey) {
		t.evaluate(ctx, s, r)
	}
	return nil
}

// learned returns the parameters of the model and of the objective, each once.
func (t *Trainer) learned() (params []*torch.Tensor) {
	learners := []Module{t.Model}
	if own, ok := t.Objective.(Module); ok {
		learners = append(learners, own)
	}
	known := map[*torch.Tensor]bool{}
	for _, m := range learners {
		for _, p := range m.Parameters() {
			if !known[p] {
				known[p], params = true, append(params, p)
			}
		}
	}
	return params
}

// over reports whether the time of this session is over.
func (t *Trainer) over(elapsed time.Duration) bool { return t.Duration > 0 && elapsed >= t.Duration }

// reserve is the time to leave for Sample and Evaluate at the end of a session whose time is limited: what they took last, or else are estimated
// to take, but at most half of the session.
func (t *Trainer) reserve(run *session) time.Duration {
	var takes time.Duration
	if t.Sample != nil && t.SampleEvery > 0 {
		takes = run.sampled
		if per := run.rate.perSecond(); takes == 0 && t.SampleTime != nil && per > 0 {
			takes = t.SampleTime(per)
		}
	}
	return min(takes+run.measured, t.Duration/2)
}

// steps trains until the end of the run or of this session. A notFiniteError means that the Guard's skips are used up.
func (t *Trainer) steps(ctx context.Context, s *torch.Scope, run *session, r *Result) error {
	// A cancelled context ends the loop between steps, so that checkpoints are of whole steps.
	data, stopData := context.WithCancel(context.WithoutCancel(ctx))
	defer stopData()
	next, stop := iter.Pull2(t.Data.Batches(data, r.Seen))
	defer stop()
	var stopping error
	for {
		samples, loss, err := t.step(s, r, next, run)
		var bad *notFiniteError
		var overflow *overflowError
		switch {
		case errors.As(err, &overflow):
			r.Overflows = run.Overflows
			t.Log.Info("skipped a step and halved the loss scale", "step", r.Step, "reason", overflow, "total", run.Overflows)
		case errors.As(err, &bad):
			run.Skipped, run.Row = run.Skipped+1, run.Row+1
			r.Skipped = run.Skipped
			if run.Row > t.Guard.Skips {
				return fmt.Errorf("step %d: %w", r.Step, err)
			}
			t.Log.Warn("skipped a step", "step", r.Step, "reason", bad, "consecutive", run.Row, "total", run.Skipped)
		case err != nil:
			return fmt.Errorf("step %d: %w", r.Step, err)
		default:
			run.Row = 0
		}
		r.Step++
		r.Seen, r.Loss = r.Seen+int64(samples), loss
		elapsed := time.Since(run.began)
		run.rate.add(elapsed-run.paused, samples)
		if err := t.record(run, r, elapsed); err != nil {
			return err
		}
		if t.Progress != nil {
			t.Progress(Progress{r.Step, t.Steps, loss, run.Skipped, run.rate.perSecond(), elapsed, t.left(r.Step, samples, run.rate, elapsed)})
		}
		stopping = ctx.Err()
		last := r.Step >= t.Steps || stopping != nil || t.over(elapsed+t.reserve(run))
		// After a skipped step there is nothing new to save, and the run may be about to diverge.
		if run.due = run.due || r.Step%t.saveEvery() == 0; run.due && run.Row == 0 && !last {
			if err := t.save(ctx, s, run, r); err != nil {
				return fmt.Errorf("step %d: %w", r.Step, err)
			}
		}
		if last { // before samples are drawn: nothing that fails there loses training
			r.Finished = r.Step >= t.Steps
			if err := t.finish(ctx, s, run, r); err != nil {
				return fmt.Errorf("step %d: %w", r.Step, err)
			}
		}
		pause := time.Now()
		drawn := t.Sample != nil && t.SampleEvery > 0 && (last || r.Step%t.SampleEvery == 0)
		evaluated := t.evaluates(r.Step, last)
		if drawn && stopping == nil {
			if err := t.Sample(ctx, r.Step); err != nil && ctx.Err() == nil {
				return fmt.Errorf("sample after step %d: %w", r.Step, err)
			}
			run.sampled = time.Since(pause)
		}
		if evaluated && stopping == nil && run.Row == 0 {
			began := time.Now()
			t.evaluate(ctx, s, r)
			run.measured = time.Since(began)
		}
		run.paused += time.Since(pause)
		if over := t.over(time.Since(run.began)); over && !last && (drawn || evaluated) {
			last = true
			if err := t.finish(ctx, s, run, r); err != nil {
				return fmt.Errorf("step %d: %w", r.Step, err)
			}
		}
		if last {
			break
		}
	}
	if r.Finished && run.Row+run.Overflows >= r.Step {
		return fmt.Errorf("all %d steps were skipped: no loss and gradient was finite; check the data and the learning rate", r.Step)
	}
	return stopping
}
