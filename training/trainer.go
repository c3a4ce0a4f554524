package training

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"time"

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

// Trainer is the training loop of all methods.
type Trainer struct {
	// Objective is the method. If it has trainable parameters it is also a Module: Clip and Guard include them, and they have to be in
	// the optimizer and in the objective's State.
	Objective Objective
	// Model is trained. Its parameters have to be in float32, even if a frozen network is in half precision, which computes in its own
	// type (see models.Forward), or with Precision. Optimizer, EMA weights and gradients have the parameters' type.
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
	Duration time.Duration // time limit of this session with the calls of Sample, after which Train saves and returns without an error; 0: none
	Clip     float64       // gradient clipping: limit of the global gradient norm; 0: none
	Guard    Guard         // handling of losses and gradients that are NaN or infinite
	// Precision is mixed precision: the half-precision type in which networks with float32 weights compute, torch.BFloat16 or torch.Float16;
	// Float32: none. It sets Cond.Precision of every batch. Weights, EMA weights, gradients, losses, derivatives along a trajectory and
	// checkpoints stay in float32, and EMA weights generate samples in float32. It is not part of a checkpoint.
	Precision torch.DType
	// LossScale is dynamic loss scaling, which gradients that pass through a network in float16 need, also by Precision: without it such a
	// run logs a warning. nil: none.
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
	// SampleTime estimates how long Sample takes, before its first call, if training does that many images per second: with a Duration that much
	// time is left for it. nil: unknown.
	SampleTime func(imagesPerSecond float64) time.Duration
	// Evaluate measures the model after step k, with the EMA weights, if there are any. It is called every EvaluateEvery steps, at the end,
	// and when a run has resumed from a step that it did not evaluate before it ended. The values are recorded beside the loss, and the best model
	// is kept as best.safetensors, which KeepSnapshots does not count. An error is logged as a warning, and training continues; nil: none.
	Evaluate      func(ctx context.Context, k int) (Evaluation, error)
	EvaluateEvery int // 0: never
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
	Chosen    *Best  // the best model, by Evaluate; nil: none was evaluated
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
	if t.Precision != torch.Float32 && !isHalf(t.Precision) {
		return fmt.Errorf("trainer: Precision: want float32, bfloat16 or float16, got %s", t.Precision)
	}
	if v, ok := t.Objective.(Validator); ok {
		return v.Validate()
	}
	return nil
}

func (t *Trainer) accumulate() int { return max(t.Accumulate, 1) }

func (t *Trainer) saveEvery() int {
	if t.SaveEvery > 0 {
		return t.SaveEvery
	}
	return 1000
}
