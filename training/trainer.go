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

// Module is something with weights.
type Module interface {
	Parameters() iter.Seq2[string, *torch.Tensor]
}

// Optimizer changes parameters by their gradients; package torch/optim has them.
type Optimizer interface {
	Step(s *torch.Scope)
	ZeroGrad()
	SetLR(lr float64)
	LR() float64
	State(s *torch.Scope) iter.Seq2[string, *torch.Tensor]
	LoadState(state iter.Seq2[string, *torch.Tensor]) error
}

// Guard says what happens to a step whose loss or gradients are not finite. It is never taken, and never passed over in
// silence: it is logged and counted. The zero value ends the run there, with an error.
type Guard struct {
	Skips int // how many such steps in a row are left out
	// Rollbacks is how often, when these are used up, the run goes back to its last saved state, with half the learning rate; to the
	// one before where that did not help.
	Rollbacks int
}

// health is how a run has fared, by its Guard. It is part of a saved state.
type health struct {
	Skipped   int     `json:"skipped,omitempty"` // steps that were not taken, in all
	Row       int     `json:"row,omitempty"`     // of these, the last in a row
	Rollbacks int     `json:"rollbacks,omitempty"`
	LRScale   float64 `json:"lr_scale,omitempty"` // what the learning rate is multiplied by; 0: 1
	Back      int     `json:"back,omitempty"`     // the step that the run went back to, while it has saved no other since; 0: none
}

func (h health) lrScale() float64 {
	if h.LRScale == 0 {
		return 1
	}
	return h.LRScale
}

// Trainer runs an Objective: the one loop of all methods.
type Trainer struct {
	// Objective is the method. One that learns parameters of its own is a Module, too: they count for Clip and Guard as the
	// model's do, and belong into the optimizer and into the objective's State.
	Objective Objective
	// Model is what learns. Its parameters belong in float32, also beside a frozen network in half precision, which computes in its own
	// type (see models.Forward): optimizer, averages, gradients and the loss are of their type and the samples', and losses are not
	// scaled, which small gradients in float16 would need.
	Model     Module
	Optimizer Optimizer
	// Averages follow the model's weights. The first is what snapshots, named model-STEP.safetensors, hold; each of the others is
	// saved beside it, as model-STEP.NAME.safetensors, by its Name. None: snapshots hold the model's own weights.
	Averages []Average

	Data Source // samples in half precision are trained on in float32
	// Accumulate is how many of the source's batches make a step: their gradients are averaged, which takes less memory than one
	// large batch. 0: 1. But for dropout masks, the step is that of the large batch.
	Accumulate int
	// Prepare changes a batch before the objective sees it, as DropLabels and DrawGuidance do; nil: not.
	Prepare func(s *torch.Scope, b Batch, d Draws) Batch

	Dir    string      // the run's folder, opened for the length of Train; a run that it holds goes on
	Folder *rundir.Dir // instead of Dir: an open folder, with the caller's options in it; without both, nothing is saved
	Device torch.Device
	Seed   uint64

	Steps    int           // length of the run, in optimizer steps
	Duration time.Duration // stop after this time, as if Ctrl-C had been pressed, but without an error; 0: never
	Clip     float64       // limit of the gradients' common norm; 0: none
	Guard    Guard         // against losses and gradients that are not finite

	LR          func(k int) float64 // learning rate of step k; nil: the optimizer's own
	SaveEvery   int                 // steps between saved states; 0: 1000
	SampleEvery int                 // steps between calls of Sample, which is called at the end as well; 0: never
	KeepStates  int                 // how many saved states stay; 0: 2
	// KeepSnapshots is of how many steps snapshots stay; 0: of all. CombineAverages finds more in many.
	KeepSnapshots int

	// Sample draws example images after step k; it sees the averaged weights where there are some.
	Sample func(ctx context.Context, k int) error
	// Metadata returns a snapshot's metadata: what a reader needs to build the network again; nil: the objective's own, if
	// it has a method of that name and form.
	Metadata func(step int, images int64) (map[string]string, error)
	// Scalars is told the figures that are logged, after step k; nil: nobody.
	Scalars  func(k int, values map[string]float64) error
	LogEvery int // steps between lines of statistics; 0: every step
	// Progress is told after every step; nil: nobody.
	Progress func(Progress)
	Log      *slog.Logger // nil: silence
}

// Progress is how far a run has come.
type Progress struct {
	Step, Steps     int
	Loss            float64 // of this step
	Skipped         int     // steps that were not taken, as their loss or gradients were not finite
	ImagesPerSecond float64 // over the last few seconds
	Elapsed         time.Duration
	Left            time.Duration // until the last step, or until Duration is over
}

// Result is how a run ended.
type Result struct {
	Step     int     // optimizer steps done, over all sessions of the run
	Seen     int64   // images seen
	Loss     float64 // of the last step
	Skipped  int     // steps that were not taken, as their loss or gradients were not finite
	Snapshot string  // the last snapshot's path
	State    string  // the last state's path
	Finished bool    // whether all steps were done
}

// Train runs until Steps are done, Duration is over or ctx is cancelled, in each case saving a state and a snapshot. A
// run directory that holds a state goes on from there, and does exactly what an uninterrupted run would have done. A
// cancelled run returns the context's error with its result.
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
		return errors.New("trainer: Guard.Rollbacks goes back to saved states: set Dir, the folder for the run")
	case t.Accumulate < 0:
		return fmt.Errorf("trainer: want at least 1 batch for each step, or 0 for 1, got %d", t.Accumulate)
	case t.Steps < 1:
		return fmt.Errorf("trainer: want at least 1 step, got %d", t.Steps)
	}
	if v, ok := t.Objective.(Validator); ok {
		return v.Validate()
	}
	return nil
}

func (t *Trainer) accumulate() int { return max(t.Accumulate, 1) }

// try has the objective find out what its network cannot do, by the first sample of the run's first batch, before anything is learned.
func (t *Trainer) try(s *torch.Scope, b Batch, first Draws) error {
	o, ok := t.Objective.(Trier)
	if !ok {
		return nil
	}
	err := s.NoGrad(func(s *torch.Scope) error {
		b := Batch{X: b.X.Narrow(s, 0, 0, 1), Cond: b.Cond.Rows(s, torch.FromSlice(s, []int64{0}))}
		if t.Prepare != nil {
			b = t.Prepare(s, b, first)
		}
		o.Try(s, b, first)
		return nil
	})
	if err != nil {
		return fmt.Errorf("the network cannot be trained by this method: %w", err)
	}
	return nil
}

// session is what a run holds while it is open.
type session struct {
	health
	params   []*torch.Tensor // all that is learned
	averages []*models.EMA
	lr       float64 // the optimizer's own, where no schedule is given
	began    time.Time
	rate     *rate
	saved    int               // the last step whose state is on disk; -1: none
	due      bool              // whether a state is to be saved as soon as a step is taken
	bins     map[string]mean   // of the last step's loss, by noise level; nil: not observed
	said     map[string]string // by the model, of what its weights do not tell
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
		t.Log.Warn("parameters are learned in half precision, where small steps are rounded away: keep them in float32", "parameter", name)
	}
	if run.averages, err = t.follow(); err != nil {
		return r, fmt.Errorf("trainer: %w", err)
	}
	if err := t.resume(s, run, &r); err != nil {
		return r, err
	}
	if r.Step >= t.Steps {
		r.Finished = true
		return r, t.finish(s, run, &r)
	}
	for {
		err := t.steps(ctx, s, run, &r)
		var bad *notFiniteError
		switch {
		case !errors.As(err, &bad) || ctx.Err() != nil:
			return r, err
		case run.Rollbacks > 0 && run.Rollbacks >= t.Guard.Rollbacks:
			return r, fmt.Errorf("%w again, after going back to a saved state (%d of %d times) and with %g of the learning rate: start anew with a lower one",
				err, run.Rollbacks, t.Guard.Rollbacks, run.lrScale())
		case t.Guard.Rollbacks == 0 || run.saved < 0:
			return r, fmt.Errorf("%w: start anew with a lower learning rate", err)
		}
		if err := t.goBack(s, run, &r, bad); err != nil {
			return r, err
		}
	}
}

// goBack returns to the last saved state with half the learning rate, or to the one before if it has been there already.
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
	// States after it are of the branch that diverged: a run that is killed now must not go on there.
	if err := t.Folder.Forget(to); err != nil {
		return err
	}
	past := run.health
	if err := t.resume(s, run, r); err != nil {
		return err
	}
	run.health = health{Skipped: past.Skipped, Rollbacks: past.Rollbacks + 1, LRScale: past.lrScale() / 2, Back: to}
	run.due, r.Skipped = false, run.Skipped
	// The state is to know of it, so that a run that is killed now goes on alike.
	if err := s.NoGrad(func(s *torch.Scope) error { return t.saveState(s, run, r) }); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	t.Log.Warn("went back to the last saved state, with half the learning rate", "reason", why, "step", r.Step, "lr_scale", run.LRScale)
	return nil
}

// learned returns the model's parameters and those that the objective has besides, each once.
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

// steps trains until the end of the run or of this session. A notFiniteError says that the Guard's skips are used up.
func (t *Trainer) steps(ctx context.Context, s *torch.Scope, run *session, r *Result) error {
	// A cancelled context ends the loop between steps, so that the state is that of whole steps.
	data, stopData := context.WithCancel(context.WithoutCancel(ctx))
	defer stopData()
	next, stop := iter.Pull2(t.Data.Batches(data, r.Seen))
	defer stop()
	var stopping error
	for {
		samples, loss, err := t.step(s, r, next, run)
		var bad *notFiniteError
		switch {
		case errors.As(err, &bad):
			run.Skipped, run.Row = run.Skipped+1, run.Row+1
			r.Skipped = run.Skipped
			if run.Row > t.Guard.Skips {
				return fmt.Errorf("step %d: %w", r.Step, err)
			}
			t.Log.Warn("left out a step", "step", r.Step, "reason", bad, "in_a_row", run.Row, "in_all", run.Skipped)
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
		// After a step that was left out there is nothing new to save, and it may be from here that the run diverges.
		if run.due = run.due || r.Step%t.saveEvery() == 0; run.due && run.Row == 0 && !last {
			if err := t.save(s, run, r); err != nil {
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
	r.Finished = r.Step >= t.Steps
	if err := t.finish(s, run, r); err != nil {
		return fmt.Errorf("step %d: %w", r.Step, err)
	}
	if r.Finished && run.Row >= r.Step {
		return fmt.Errorf("none of %d steps was taken: no loss and gradient was finite; look at the data and the learning rate", r.Step)
	}
	return stopping
}

// notFiniteError is a step that cannot be taken, or a state that is not worth saving.
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
	var bad error // of a batch; the others are taken all the same, so that a step is always as many samples
	for range t.accumulate() {
		batch, err, ok := next()
		switch {
		case err != nil:
			return samples, loss, err
		case !ok:
			return samples, loss, errors.New("the source has no more batches: want one without end")
		}
		err = s.Run(func(s *torch.Scope) error {
			b := precise(s, batch(s))
			n := b.X.Dim(0)
			if k == 0 && samples == 0 {
				if err := t.try(s, b, Draw(t.Seed, 0, 0, 1)); err != nil { // with draws of its own: the step's are not touched
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
			if t.Prepare != nil {
				b = t.Prepare(s, b, draws)
			}
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
		if t.Clip > 0 {
			norm = torch.ClipGradNorm(s, run.params, t.Clip).Item()
		} else {
			norm = torch.GradNorm(s, run.params).Item()
		}
		if math.IsNaN(norm) || math.IsInf(norm, 0) {
			return &notFiniteError{fmt.Sprintf("the gradient's norm is %v", norm)}
		}
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

// precise returns a batch whose samples are in float32 at least, as noise, levels, distances and losses are then. Networks in half
// precision get theirs from models.Forward.
func precise(s *torch.Scope, b Batch) Batch {
	if isHalf(b.X.DType()) {
		b.X = b.X.To(s, torch.Float32)
	}
	return b
}

func isHalf(d torch.DType) bool { return d == torch.Float16 || d == torch.BFloat16 }

// halfParameters names a learned parameter in half precision, in which most steps would be rounded away.
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

// mean is a sum of numbers, and how many they are.
type mean struct {
	sum float64
	n   int
}

// observe sorts the losses of a step by their noise levels.
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

// left estimates the time to the end.
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

// rate is the speed over the last seconds.
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
