package recipe

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"iter"
	"log/slog"
	"math"
	"sync"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/optim"
	"github.com/onestep-go/onestep/training"
	"github.com/onestep-go/onestep/training/dataset"
	"github.com/onestep-go/onestep/training/rundir"
)

// session is a running plan.
type session struct {
	*Plan
	net       network.Network
	averages  []training.Average
	objective training.Objective
	trained   any // the method's function with the first average's weights
	run       *rundir.Dir
}

// Train runs the plan. If ctx is cancelled, it saves and returns the context's error with the result.
func (p *Plan) Train(ctx context.Context) (out Result, err error) {
	if err := errors.Join(ctx.Err(), p.Run.needsOut()); err != nil {
		return out, err
	}
	options, may, err := p.begin(ctx)
	if err != nil {
		return out, err
	}
	r := &p.Run
	s := &session{Plan: p}
	parts := &Parts{Device: r.Device, Steps: r.Steps, Seed: r.Seed, function: p.spec.Function}
	defer s.close(parts)
	if err := s.make(parts); err != nil {
		return out, err
	}
	opt, err := optim.RAdam{LR: r.LR}.New(learnt(s.net, s.objective))
	if err != nil {
		return out, err
	}
	defer opt.Close()
	if s.run, err = rundir.Open(r.Out, options, r.Resume, may...); err != nil {
		return out, err
	}
	defer func() { err = s.end(out, err) }()
	if err := s.describeRun(options); err != nil {
		return out, err
	}
	if r.Started != nil {
		r.Started(p, s.run)
	}
	out.Result, err = s.trainer(opt).Train(ctx)
	out.Corrupt, out.Resized = len(p.Data.Corrupt()), p.Data.Resized()
	return out, err
}

// begin checks whether the run may start or resume in its directory, and identifies the files that it reads. It returns the entries of
// options.json, and the names of those that may differ from the resumed run's.
func (p *Plan) begin(ctx context.Context) (options map[string]any, may []string, err error) {
	r := &p.Run
	holds, err := p.identify(ctx)
	if err != nil {
		return nil, nil, err
	}
	extended, err := p.extend()
	if err != nil {
		return nil, nil, err
	}
	if options, err = p.entries(); err != nil {
		return nil, nil, err
	}
	for option, text := range holds {
		options[option] = text
	}
	may = r.mayChange(options)
	if extended {
		may = append(may, extendable...)
	}
	begun, err := r.mayResume(options, may)
	if err != nil {
		return nil, nil, err
	}
	if note := r.complete(); begun && note != "" {
		r.warn(note)
	}
	if r.Resume && !begun {
		r.warn("there is no run to resume: starting a new one", "out", r.Out)
	}
	return options, may, nil
}

// entries returns the run's options as the entries of options.json.
func (p *Plan) entries() (m map[string]any, err error) {
	text, err := json.Marshal(p.Run)
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber() // a seed may need all 64 bits
	return m, dec.Decode(&m)
}

func (r *Run) warn(note string, more ...any) {
	if r.Log != nil {
		r.Log.Warn(note, more...)
	}
}

// make creates the network, its EMA weights, the teacher and the objective.
func (s *session) make(parts *Parts) (err error) {
	r := &s.Run
	if s.net, err = network.New(s.Start.Network, r.Device, torch.Float32, r.Seed); err != nil {
		return err
	}
	if err := s.load(s.net); err != nil {
		return err
	}
	averages := []training.Average{{Decay: *r.EMA}}
	for _, w := range r.Widths {
		averages = append(averages, training.Average{Width: w})
	}
	for _, n := range r.HalfLives {
		averages = append(averages, training.Average{HalfLife: n})
	}
	for _, a := range averages {
		c, err := network.Clone(s.net)
		if err != nil {
			return err
		}
		a.Into = c
		s.averages = append(s.averages, a)
	}
	parts.Model = Model{s.net, s.Start}
	if err := s.openTeacher(parts); err != nil {
		return err
	}
	learns, err := s.spec.Function(parts.Model)
	if err != nil {
		return err
	}
	if learns == nil {
		return usage("method", "%s %s: its Spec's Function returned nil", name("method"), quote.Text(s.spec.Name))
	}
	if s.objective, err = r.Method.Objective(parts, learns); err != nil {
		return err
	}
	if s.objective == nil {
		return usage("method", "%s %s: its Objective returned nil", name("method"), quote.Text(s.spec.Name))
	}
	if v, ok := s.objective.(training.Validator); ok {
		if err := v.Validate(); err != nil { // earlier than the trainer, before the run directory is created
			return err
		}
	}
	s.trained, err = s.spec.Function(Model{s.averages[0].Into.(network.Network), s.Start})
	return err
}

// close frees what make created.
func (s *session) close(parts *Parts) {
	parts.close()
	for _, a := range s.averages {
		a.Into.(network.Network).Close()
	}
	if s.net != nil {
		s.net.Close()
	}
}

// end logs how the run ended, and closes its directory. A run that failed before its first step leaves nothing.
func (s *session) end(out Result, err error) error {
	end := slog.New(slog.NewTextHandler(s.run.Log(), nil))
	if err == nil || errors.Is(err, context.Canceled) {
		end.Info("ended", "step", out.Step, "images", out.Seen, "interrupted", err != nil)
	} else {
		end.Error("ended", "step", out.Step, "error", err)
	}
	closing := s.run.Close
	if err != nil && out.Step == 0 {
		closing = s.run.Discard
	}
	if cerr := closing(); cerr != nil {
		err = errors.Join(err, cerr)
	}
	return err
}

// describeRun writes the card, and the options of a resumed run, some of which may be others now.
func (s *session) describeRun(options map[string]any) error {
	card, err := s.Card()
	if err != nil {
		return err
	}
	if err := s.run.Rewrite(options); err != nil {
		return err
	}
	return rundir.Write(s.run.File("card.md"), []byte(card))
}

// trainer returns the training loop with the run's options.
func (s *session) trainer(opt training.Optimizer) *training.Trainer {
	r := &s.Run
	rate := func(k int) float64 { return lrFactor(k, r.Steps, *r.LRDecay) }
	if stages, ok := s.objective.(training.Staged); ok {
		rate = func(k int) float64 { return warmup(k) * stages.Left(k) }
	}
	t := &training.Trainer{
		Objective: s.objective, Model: s.net, Optimizer: opt, Averages: s.averages,
		Data: training.Images{Labels: r.Classes, Loader: &dataset.Loader{Dataset: s.Data, Batch: r.Batch, Seed: r.Seed, Workers: r.Workers,
			Flip: r.Flip, SkipCorrupt: r.Corrupt == "skip", Corrupt: once(r.Log)}},
		Folder: s.run, Device: r.Device, Checkpointing: r.Checkpointing, Seed: r.Seed, Steps: r.Steps, Duration: r.Duration, Clip: r.Clip,
		Guard: training.Guard{Skips: *r.Skips, Rollbacks: *r.Rollbacks},
		LR:    func(k int) float64 { return r.LR * rate(k) }, SaveEvery: r.SaveEvery, LogEvery: r.LogEvery,
		SampleEvery: *r.SampleEvery, KeepSnapshots: r.Keep, Progress: r.Progress, Scalars: r.Scalars, Log: r.Log,
		Metadata: func(step int, images int64) (map[string]string, error) {
			d, err := s.described(step, images)
			if err != nil {
				return nil, err
			}
			return d.Metadata()
		},
	}
	t.Prepare = s.prepare()
	if t.Precision = r.precision(); t.Precision == torch.Float16 {
		t.LossScale = &training.LossScale{}
	}
	if r.Sample != nil {
		t.Sample = func(ctx context.Context, k int) error {
			m, err := s.snapshot(k)
			if err != nil {
				return err
			}
			return r.Sample(ctx, m)
		}
	}
	if r.Evaluate != nil {
		t.EvaluateEvery = r.EvalEvery
		t.Evaluate = func(ctx context.Context, k int) (training.Evaluation, error) {
			m, err := s.snapshot(k)
			if err != nil {
				return training.Evaluation{}, err
			}
			return r.Evaluate(ctx, m)
		}
	}
	return t
}

// prepare returns what happens to a batch before its loss: labels are dropped, and guidance scales drawn; nil: nothing.
func (s *session) prepare() func(sc *torch.Scope, b training.Batch, d training.Draws) training.Batch {
	r := &s.Run
	type change = func(sc *torch.Scope, b training.Batch, d training.Draws) training.Batch
	var all []change
	if r.LabelDropout > 0 {
		all = append(all, training.DropLabels(r.LabelDropout, s.Start.Network.NullClass()))
	}
	if scales := r.guidance(); len(scales) == 2 {
		draw := training.DrawGuidance
		if r.teacher() == "" { // the model guides itself
			draw = training.DrawGuidanceLog
		}
		all = append(all, draw(scales[0], scales[1]))
	}
	if all == nil {
		return nil
	}
	return func(sc *torch.Scope, b training.Batch, d training.Draws) training.Batch {
		for _, f := range all {
			b = f(sc, b, d)
		}
		return b
	}
}

// snapshot returns the model after that many steps.
func (s *session) snapshot(k int) (Snapshot, error) {
	d, err := s.described(k, 0)
	return Snapshot{Step: k, Function: s.trained, Description: d, Net: s.averages[0].Into.(network.Network), Run: s.run}, err
}

// described returns the description of the model after that many steps.
func (s *session) described(step int, images int64) (checkpoint.Description, error) {
	d, err := checkpoint.Describe(s.trained)
	d.SigmaMax, d.Method, d.Data, d.Step, d.Images, d.Command = s.Start.SigmaMax, s.spec.Name, s.Run.Data, step, images, s.Run.Command
	if scales := s.Run.guidance(); len(scales) == 2 {
		d.Guidance = scales
	}
	if s.Run.Classes {
		d.ClassNames = s.Data.Classes()
	}
	if l, ok := s.objective.(training.Leveled); ok {
		levels := l.Levels(max(0, step-1))
		d.Levels = levels[:len(levels)-1]
	}
	return d, err
}

// learnt yields the parameters of the network and of the objective.
func learnt(net training.Module, objective training.Objective) iter.Seq2[string, *torch.Tensor] {
	return func(yield func(string, *torch.Tensor) bool) {
		for name, p := range net.Parameters() {
			if !yield(name, p) {
				return
			}
		}
		own, ok := objective.(training.Module)
		if !ok {
			return
		}
		for name, p := range own.Parameters() {
			if !yield("objective."+name, p) {
				return
			}
		}
	}
}

// once returns a function that logs each corrupt image once.
func once(log *slog.Logger) func(error) {
	var met sync.Map
	return func(err error) {
		if _, again := met.LoadOrStore(err.Error(), true); !again && log != nil {
			log.Warn("skipped", "error", err)
		}
	}
}

// lrFactor returns the factor of the learning rate at step k: after the warm-up 1, with a linear decay to 0 over the final fraction decay.
func lrFactor(k, steps int, decay float64) float64 {
	f := warmup(k)
	if left := float64(steps-k) / (decay * float64(steps)); decay > 0 && left < 1 {
		f *= left
	}
	return f
}

// warmup returns the factor of the learning rate in the first steps, which RAdam does not normalise.
func warmup(k int) float64 { return math.Min(1, float64(k+1)/10) }
