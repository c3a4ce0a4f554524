package training

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math"
	"slices"
	"time"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/training/rundir"
)

// Module is a network, or anything else with trainable parameters.
type Module interface {
	Parameters() iter.Seq2[string, *torch.Tensor]
}

// Optimizer updates parameters by their gradients; see package torch/optim.
type Optimizer interface {
	Step(s *torch.Scope)
	ZeroGrad()
	SetLR(lr float64)
	LR() float64
	State(s *torch.Scope) iter.Seq2[string, *torch.Tensor]
	LoadState(state iter.Seq2[string, *torch.Tensor]) error
}

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

// Trainer is the training loop of all methods.
type Trainer struct {
	// Objective is the method. If it has trainable parameters it is also a Module: Clip and Guard include them, and they have to be in
	// the optimizer and in the objective's State.
	Objective Objective
	// Model is trained. Its parameters have to be in float32, even if a frozen network is in half precision, which computes in its own
	// type (see models.Forward). Optimizer, EMA weights and gradients have the parameters' type. Gradients that pass through a network
	// in float16 need LossScale: without it a run logs a warning.
	Model     Module
	Optimizer Optimizer
	// Averages are EMA weights of the model. Snapshots, named model-STEP.safetensors, hold the first one; each of the others is saved as
	// model-STEP.NAME.safetensors, by its Name. Without any, snapshots hold the model's own weights.
	Averages []Average

	Data Source // samples in half precision are trained on in float32
	// Accumulate is the number of gradient accumulation steps: the number of batches whose gradients are averaged in one optimizer step,
	// with less memory than one large batch; 0: 1. Except for dropout masks, the result is that of the large batch.
	Accumulate int
	// Prepare modifies a batch before the objective gets it, such as DropLabels and DrawGuidance; nil: no change.
	Prepare func(s *torch.Scope, b Batch, d Draws) Batch

	Dir    string      // run directory, open during Train; an existing run in it is resumed
	Folder *rundir.Dir // instead of Dir: an open run directory with the caller's options; without both, nothing is saved
	Device torch.Device
	Seed   uint64

	Steps    int           // length of the run, in optimizer steps
	Duration time.Duration // time limit of this session, after which Train saves and returns without an error; 0: none
	Clip     float64       // gradient clipping: limit of the global gradient norm; 0: none
	Guard    Guard         // handling of losses and gradients that are NaN or infinite
	// LossScale is dynamic loss scaling, for networks in float16; nil: none.
	LossScale *LossScale
	// Checkpointing sets Cond.Checkpointing of every batch: gradient checkpointing block by block.
	Checkpointing bool

	LR          func(k int) float64 // learning rate of step k; nil: the optimizer's own
	SaveEvery   int                 // steps between checkpoints; 0: 1000
	SampleEvery int                 // steps between calls of Sample, which is also called at the end; 0: never
	KeepStates  int                 // number of checkpoints to keep; 0: 2
	// KeepSnapshots is the number of steps whose snapshots are kept; 0: all. CombineAverages is more accurate with many.
	KeepSnapshots int

	// Snapshots writes the snapshots in a form of its own; nil: the trainer writes those of Averages, or of Model. All of them are kept.
	Snapshots Snapshots

	// Sample generates samples after step k. It runs with the EMA weights, if there are any.
	Sample func(ctx context.Context, k int) error
	// Resumed is called when a run has resumed from the checkpoint of step k, before its next step, with whatever Sample runs with. The
	// run may have been killed before it called Sample for that step. nil: none.
	Resumed func(ctx context.Context, k int) error
	// Metadata returns a snapshot's metadata, from which the network can be rebuilt; nil: that of the objective, if it is a Describer.
	Metadata func(step int, images int64) (map[string]string, error)
	// Scalars receives the logged statistics after step k; nil: none.
	Scalars  func(k int, values map[string]float64) error
	LogEvery int // steps between logged statistics; 0: every step
	// Progress is called after every step; nil: none.
	Progress func(Progress)
	Log      *slog.Logger // nil: no log
}

// Progress is the progress of a run.
type Progress struct {
	Step, Steps     int
	Loss            float64 // of this step
	Skipped         int     // skipped steps, whose loss or gradients were NaN or infinite
	ImagesPerSecond float64 // over the last few seconds
	Elapsed         time.Duration
	Left            time.Duration // estimated time to the last step, or to the end of Duration
}

// Result is the result of a run.
type Result struct {
	Step    int     // optimizer steps done, over all sessions of the run
	Seen    int64   // images seen
	Loss    float64 // of the last step
	Skipped int     // skipped steps, whose loss or gradients were NaN or infinite
	// Overflows is the number of steps that were skipped because scaled gradients overflowed; see LossScale. Skipped does not count them.
	Overflows int
	Snapshot  string // path of the last snapshot
	State     string // path of the last checkpoint
	Finished  bool   // all steps are done
}

// Train runs until Steps are done, Duration is over or ctx is cancelled, and saves a checkpoint and a snapshot in each case. If the
// run directory holds a checkpoint, Train resumes from it, with exactly the results of an uninterrupted run. A cancelled run returns
// the context's error with its result.
func (t *Trainer) Train(ctx context.Context) (r Result, err error) {
	if err := t.validate(); err != nil {
		return r, err
	}
	if t.Folder == nil && t.Dir != "" {
		options := map[string]any{"seed": t.Seed, "steps": t.Steps, "accumulate": t.accumulate()}
		if named, ok := t.Data.(fmt.Stringer); ok {
			options["data"] = named.String()
		}
		run, failed := rundir.Open(t.Dir, options, true)
		if failed != nil {
			return r, failed
		}
		defer func() {
			if err != nil && r.Step == 0 {
				err = errors.Join(err, run.Discard())
			} else {
				err = errors.Join(err, run.Close())
			}
			t.Folder = nil
		}()
		t.Folder = run
	}
	err = torch.Run(t.Device, func(s *torch.Scope) error {
		var err error
		r, err = t.train(ctx, s)
		return err
	})
	return r, err
}

func (t *Trainer) validate() error {
	switch {
	case t.Objective == nil || t.Model == nil || t.Optimizer == nil || t.Data == nil:
		return errors.New("trainer: Objective, Model, Optimizer and Data must be set")
	case t.Folder == nil && t.Dir == "" && t.Guard.Rollbacks > 0:
		return errors.New("trainer: Guard.Rollbacks needs checkpoints: set Dir, the run directory")
	case t.Accumulate < 0:
		return fmt.Errorf("trainer: want at least 1 gradient accumulation step, or 0 for 1, got %d", t.Accumulate)
	case t.Steps < 1:
		return fmt.Errorf("trainer: want at least 1 step, got %d", t.Steps)
	}
	if err := t.LossScale.validate(); err != nil {
		return err
	}
	if v, ok := t.Objective.(Validator); ok {
		return v.Validate()
	}
	return nil
}

func (t *Trainer) accumulate() int { return max(t.Accumulate, 1) }

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

// session is the state of a running Train.
type session struct {
	health
	params   []*torch.Tensor // all trained parameters
	averages []*models.EMA
	lr       float64 // the optimizer's own, used without a schedule
	began    time.Time
	rate     *rate
	saved    int               // step of the last checkpoint; -1: none
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
	if run.averages, err = t.follow(); err != nil {
		return r, fmt.Errorf("trainer: %w", err)
	}
	if err := t.resume(s, run, &r); err != nil {
		return r, err
	}
	if t.LossScale != nil && run.Scale == 0 {
		run.Scale = t.LossScale.start()
	}
	if r.Step >= t.Steps {
		r.Finished = true
		if err := t.finish(ctx, s, run, &r); err != nil {
			return r, err
		}
		return r, t.resumed(ctx, r.Step)
	}
	if err := t.resumed(ctx, r.Step); err != nil {
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
		case t.Guard.Rollbacks == 0 || run.saved < 0:
			return r, fmt.Errorf("%w: start a new run with a lower learning rate", err)
		}
		if err := t.goBack(s, run, &r, bad); err != nil {
			return r, err
		}
	}
}

// resumed calls Resumed after the checkpoint of step k was read.
func (t *Trainer) resumed(ctx context.Context, k int) error {
	if t.Resumed == nil || k == 0 {
		return nil
	}
	if err := t.Resumed(ctx, k); err != nil {
		return fmt.Errorf("resume at step %d: %w", k, err)
	}
	return nil
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
		run.rate.add(elapsed, samples)
		if err := t.record(run, r, elapsed); err != nil {
			return err
		}
		if t.Progress != nil {
			t.Progress(Progress{r.Step, t.Steps, loss, run.Skipped, run.rate.perSecond(), elapsed, t.left(r.Step, samples, run.rate, elapsed)})
		}
		stopping = ctx.Err()
		last := r.Step >= t.Steps || stopping != nil || (t.Duration > 0 && elapsed >= t.Duration)
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
		if t.Sample != nil && t.SampleEvery > 0 && (r.Step%t.SampleEvery == 0 || last) && stopping == nil {
			if err := t.Sample(ctx, r.Step); err != nil && ctx.Err() == nil {
				return fmt.Errorf("sample after step %d: %w", r.Step, err)
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

// notFiniteError is the error of a step or checkpoint with NaN or infinite values.
type notFiniteError struct {
	what string // such as "the loss is NaN"
}

func (e *notFiniteError) Error() string { return e.what + ": training has diverged" }

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
	var bad error // of a batch; the other batches are read nevertheless, so that each step has the same number of samples
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
			n := b.X.Dim(0)
			if k == 0 && samples == 0 {
				if err := t.try(s, b, Draw(t.Seed, 0, 0, 1)); err != nil { // with draws of its own
					return err
				}
			}
			draws := Draw(t.Seed, k, r.Seen+int64(samples), n)
			samples += n
			if bad != nil {
				return nil
			}
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
			part := l.Item()
			loss += part
			if math.IsNaN(part) || math.IsInf(part, 0) {
				bad = &notFiniteError{fmt.Sprintf("the loss is %v", part)}
				return nil
			}
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
	if bad != nil {
		return samples, loss, bad
	}
	err = s.Run(func(s *torch.Scope) error {
		var norm float64
		if run.Scale != 0 {
			run.unscale(s, run.params)
		}
		if t.Clip > 0 {
			norm = torch.ClipGradNorm(s, run.params, t.Clip).Item()
		} else {
			norm = torch.GradNorm(s, run.params).Item()
		}
		if math.IsNaN(norm) || math.IsInf(norm, 0) {
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

func isHalf(d torch.DType) bool { return d == torch.Float16 || d == torch.BFloat16 }

// halfParameters returns the name of a trained parameter in half precision, in which most updates would be rounded away.
func (t *Trainer) halfParameters() string {
	for name, p := range t.Model.Parameters() {
		if isHalf(p.DType()) {
			return name
		}
	}
	return ""
}

// bins are ranges of noise levels, by their upper ends.
var bins = []struct {
	below float64
	name  string
}{{0.1, "loss_below_0.1"}, {1, "loss_0.1_to_1"}, {10, "loss_1_to_10"}, {math.Inf(1), "loss_above_10"}}

// mean is a sum of numbers and their count.
type mean struct {
	sum float64
	n   int
}

// observe adds the losses of a step to the bins of their noise levels.
func (r *session) observe(levels []float64, each *torch.Tensor) {
	if r.bins == nil {
		r.bins = map[string]mean{}
	}
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	for i, loss := range torch.ToSlice[float32](each.Detach(s).To(s, torch.Float32)) {
		for _, b := range bins {
			if levels[i] < b.below {
				m := r.bins[b.name]
				r.bins[b.name] = mean{m.sum + float64(loss), m.n + 1}
				break
			}
		}
	}
}

func (t *Trainer) saveEvery() int {
	if t.SaveEvery > 0 {
		return t.SaveEvery
	}
	return 1000
}

// left estimates the remaining time.
func (t *Trainer) left(k, batch int, r *rate, elapsed time.Duration) time.Duration {
	left := time.Duration(math.MaxInt64)
	if per := r.perSecond(); per > 0 {
		left = time.Duration(float64((t.Steps-k)*batch) / per * float64(time.Second))
	}
	if t.Duration > 0 {
		left = min(left, t.Duration-elapsed)
	}
	return max(left, 0)
}

// rate measures the speed over the last 10 seconds.
type rate struct {
	at     []time.Duration
	images []int
	sum    int
}

func newRate() *rate { return &rate{at: []time.Duration{0}, images: []int{0}} }

func (r *rate) add(at time.Duration, images int) {
	r.at, r.images, r.sum = append(r.at, at), append(r.images, images), r.sum+images
	for len(r.at) > 2 && at-r.at[1] > 10*time.Second {
		r.sum -= r.images[1]
		r.at, r.images = r.at[1:], r.images[1:]
	}
}

func (r *rate) perSecond() float64 {
	span := r.at[len(r.at)-1] - r.at[0]
	if span <= 0 {
		return 0
	}
	return float64(r.sum) / span.Seconds()
}
