package training

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math"
	"time"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/training/dataset"
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

// Average is a copy of the model's weights that follows them slowly: what one samples from.
type Average struct {
	Into  Module  // the copy, of the same architecture
	Decay float64 // per step, such as 0.999
	// RampUp limits the decay while few steps have been taken, to min(Decay, (1+k)/(RampUp+k)), so that the first,
	// random weights are forgotten; 0: 10.
	RampUp float64
}

// DecayAt returns the decay at step k, counted from 0.
func (a Average) DecayAt(k int) float64 {
	ramp := a.RampUp
	if ramp == 0 {
		ramp = 10
	}
	return math.Min(a.Decay, (1+float64(k))/(ramp+float64(k)))
}

// Trainer runs an Objective: the one loop of all methods.
type Trainer struct {
	Objective Objective
	Model     Module
	Optimizer Optimizer
	Average   *Average // nil: none, and snapshots hold the model's own weights

	Data   *dataset.Loader
	Labels bool // whether batches carry labels to the network

	Dir    string      // the run's folder, opened for the length of Train; a run that it holds goes on
	Run    *rundir.Dir // instead of Dir: an open folder, with the caller's options in it
	Device torch.Device
	Seed   uint64

	Steps    int           // length of the run, in optimizer steps
	Duration time.Duration // stop after this time, as if Ctrl-C had been pressed, but without an error; 0: never
	Clip     float64       // limit of the gradients' common norm; 0: none

	LR          func(k int) float64 // learning rate of step k; nil: the optimizer's own
	SaveEvery   int                 // steps between saved states; 0: 1000
	SampleEvery int                 // steps between calls of Sample; 0: never
	KeepStates  int                 // how many saved states stay; 0: 2

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
	ImagesPerSecond float64 // over the last few seconds
	Elapsed         time.Duration
	Left            time.Duration // until the last step, or until Duration is over
}

// Result is how a run ended.
type Result struct {
	Step     int     // optimizer steps done, over all sessions of the run
	Seen     int64   // images seen
	Loss     float64 // mean of the last steps
	Snapshot string  // the last snapshot's path
	State    string  // the last state's path
	Finished bool    // whether all steps were done
}

// Train runs until Steps are done, Duration is over or ctx is cancelled, in each case saving a state and a snapshot. A
// run directory that holds a state goes on from there, and does exactly what an uninterrupted run would have done. A
// cancelled run returns the context's error with its result.
func (t *Trainer) Train(ctx context.Context) (Result, error) {
	var r Result
	if err := t.validate(); err != nil {
		return r, err
	}
	if t.Run == nil {
		run, err := rundir.Open(t.Dir, map[string]any{"seed": t.Seed, "steps": t.Steps, "batch": t.Data.Batch, "data": t.Data.Dataset.Name()}, true)
		if err != nil {
			return r, err
		}
		defer func() {
			run.Close()
			t.Run = nil
		}()
		t.Run = run
	}
	err := torch.Run(t.Device, func(s *torch.Scope) error {
		var err error
		r, err = t.train(ctx, s)
		return err
	})
	return r, err
}

func (t *Trainer) validate() error {
	switch {
	case t.Objective == nil || t.Model == nil || t.Optimizer == nil || t.Data == nil || t.Data.Dataset == nil:
		return errors.New("trainer: Objective, Model, Optimizer and Data must be set")
	case t.Run == nil && t.Dir == "":
		return errors.New("trainer: Dir must be set: the folder for the run")
	case t.Steps < 1:
		return fmt.Errorf("trainer: want at least 1 step, got %d", t.Steps)
	}
	if v, ok := t.Objective.(interface{ Validate() error }); ok {
		return v.Validate()
	}
	return nil
}

func (t *Trainer) train(ctx context.Context, s *torch.Scope) (Result, error) {
	var r Result
	if t.Log == nil {
		t.Log = slog.New(slog.DiscardHandler)
	}
	k, err := t.resume(s)
	if err != nil {
		return r, err
	}
	// A cancelled context ends the loop between steps, so that the state is that of whole steps.
	data, stopData := context.WithCancel(context.WithoutCancel(ctx))
	defer stopData()
	loader := *t.Data
	loader.Start = int64(k) * int64(loader.Batch)

	var params []*torch.Tensor
	for _, p := range t.Model.Parameters() {
		params = append(params, p)
	}
	var average *models.EMA
	if a := t.Average; a != nil {
		if average, err = models.NewEMA(a.Into.Parameters(), t.Model.Parameters()); err != nil {
			return r, fmt.Errorf("trainer: %w", err)
		}
	}
	began, rate, stopping := time.Now(), newRate(), error(nil)
	saved := k
	r.Step, r.Seen = k, loader.Start
	if k >= t.Steps {
		r.Finished = true
		return r, t.finish(s, &r, saved != k)
	}
	for batch, err := range loader.Batches(data) {
		if err != nil {
			return r, err
		}
		loss, err := t.step(s, k, batch, params, average)
		if err != nil {
			return r, fmt.Errorf("step %d: %w", k, err)
		}
		k++
		r.Step, r.Seen, r.Loss = k, batch.Seen, loss
		elapsed := time.Since(began)
		rate.add(elapsed, loader.Batch)
		if err := t.record(k, loss, rate.perSecond(), elapsed); err != nil {
			return r, err
		}
		if t.Progress != nil {
			t.Progress(Progress{k, t.Steps, loss, rate.perSecond(), elapsed, t.left(k, loader.Batch, rate, elapsed)})
		}
		stopping = ctx.Err()
		last := k >= t.Steps || stopping != nil || (t.Duration > 0 && elapsed >= t.Duration)
		if !last && k%t.saveEvery() == 0 {
			if err := t.save(s, &r); err != nil {
				return r, err
			}
			saved = k
		}
		if t.Sample != nil && t.SampleEvery > 0 && k%t.SampleEvery == 0 && stopping == nil {
			if err := t.Sample(ctx, k); err != nil && ctx.Err() == nil {
				return r, fmt.Errorf("sample after step %d: %w", k, err)
			}
		}
		if last {
			break
		}
	}
	r.Finished = k >= t.Steps
	if err := t.finish(s, &r, saved != k); err != nil {
		return r, err
	}
	return r, stopping
}

// step does one optimizer step and returns its loss.
func (t *Trainer) step(s *torch.Scope, k int, in dataset.Batch, params []*torch.Tensor, average *models.EMA) (loss float64, err error) {
	err = s.Run(func(s *torch.Scope) error {
		b := t.batch(s, in)
		if t.LR != nil {
			t.Optimizer.SetLR(t.LR(k))
		}
		t.Optimizer.ZeroGrad()
		l := t.Objective.Loss(s, k, b, Draw(s, t.Seed, k))
		l.Backward()
		loss = l.Item()
		if math.IsNaN(loss) || math.IsInf(loss, 0) {
			return fmt.Errorf("the loss is %v: training has diverged, and this step was not taken; go on from the last saved state with a lower learning rate", loss)
		}
		if t.Clip > 0 {
			if n := torch.ClipGradNorm(s, params, t.Clip).Item(); math.IsNaN(n) || math.IsInf(n, 0) {
				return fmt.Errorf("the gradient's norm is %v: training has diverged, and this step was not taken; go on from the last saved state with a lower learning rate", n)
			}
		}
		return s.NoGrad(func(s *torch.Scope) error {
			t.Optimizer.Step(s)
			t.Objective.Update(s, k)
			if average != nil {
				average.Update(s, t.Average.DecayAt(k))
			}
			return nil
		})
	})
	return loss, err
}

// batch moves decoded pixels to the device and scales them to [-1, 1].
func (t *Trainer) batch(s *torch.Scope, in dataset.Batch) Batch {
	c, h, w := t.Data.Dataset.Shape()
	n := len(in.Pixels) / (c * h * w)
	b := Batch{Images: s.Tidy(func(s *torch.Scope) *torch.Tensor {
		return torch.FromSlice(s, in.Pixels, n, c, h, w).To(s, torch.Float32).DivScalar(s, 127.5).SubScalar(s, 1)
	})}
	if t.Labels {
		b.Labels = torch.FromSlice(s, in.Labels, n)
	}
	return b
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
