package finetune

import (
	"context"
	"errors"
	"fmt"
	"image"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/onestep-go/onestep/internal/options"
	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/optim"
	"github.com/onestep-go/onestep/training"
	"github.com/onestep-go/onestep/training/captioned"
	"github.com/onestep-go/onestep/training/latents"
	"github.com/onestep-go/onestep/training/rundir"
)

// method is a kind of run.
type method interface {
	kind() string // such as train-lcm
	common() *Run
	adapter() *Adapter // nil: none is trained
	fewStep() bool
	fill() error
	learn(s *session) error // makes what is trained and the objective
}

// builder is a method that makes a new model, instead of opening one. Its build opens the data and makes the model.
type builder interface {
	build(ctx context.Context, p *Plan, given asked) error
	open(ctx context.Context, s *session) error // makes the model ready, before images are encoded
}

// Plan is a run with everything decided and its data open, before any weights are read.
type Plan struct {
	Data       *captioned.Set
	Modules    int   // target modules of an adapter; 0: a full model is trained
	Parameters int64 // that are trained
	Run        *Run  // with all options filled in
	Options    any   // the method with all options filled in, such as *LCM

	method  method
	files   *weights.Model
	made    *sd.Model // a new model, instead of files
	network unet.Config

	name      string // of the model
	kind      weights.Kind
	predicts  noise.Prediction
	timesteps int // of its noise schedule
	side      int
	size      image.Point    // of training images without buckets, and of validation images
	most      image.Point    // of the largest bucket
	valData   *captioned.Set // nil: that of the run
	notices   []string
	holds     map[string]string
}

// plan decides everything about a run.
func plan(ctx context.Context, m method) (_ *Plan, err error) {
	r := m.common()
	given := asked{r.Batch, r.Resolution, r.PriorWeight}
	if err := m.fill(); err != nil {
		return nil, err
	}
	p := &Plan{method: m, Run: r, Options: m}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	if r.ValPrompts != "" {
		if _, err := r.prompts(); err != nil {
			return nil, err
		}
	}
	if b, ok := m.(builder); ok {
		return p, b.build(ctx, p, given)
	}
	if p.files, err = weights.Open(r.Model, weights.Options{}); err != nil {
		return nil, &OptionError{Option: "model", NoModel: true, Err: fmt.Errorf("%s: %w", options.NameOf("model"), err)}
	}
	if err := p.checkModel(); err != nil {
		return nil, options.Failed("model", err)
	}
	if p.side = r.Resolution; p.side == 0 {
		p.side = 512
		if n := p.network.SampleSize; len(n) > 0 {
			p.side = 8 * n[0]
		}
	}
	r.Resolution = p.side
	p.Parameters = parameters(p.network)
	if a := m.adapter(); a != nil {
		if a.Init != "" {
			if err = a.inspect(r, p.files); err != nil {
				return nil, err
			}
			if c, ok := m.(interface{ continues() error }); ok {
				if err = c.continues(); err != nil {
					return nil, err
				}
			}
			p.Modules, p.Parameters = a.from.Modules, a.from.Parameters
			p.startsFromOther(a)
		} else if p.Modules, p.Parameters, err = a.plan(r, p.files, p.trainsText()); err != nil {
			return nil, err
		}
	}
	if l, ok := m.(*LoRA); ok && l.FewStep != "" {
		if err = l.inspectFewStep(p); err != nil {
			return nil, err
		}
	}
	if p.Data, err = r.set(ctx, "data", r.Data, p.side); err != nil {
		return nil, err
	}
	if err := p.configured(given); err != nil {
		return nil, err
	}
	return p, p.fits(ctx)
}

// checkModel refuses models that cannot be trained.
func (p *Plan) checkModel() error {
	f := p.files
	p.name, p.kind = strings.TrimSuffix(filepath.Base(filepath.Clean(p.Run.Model)), ".safetensors"), f.Kind
	switch {
	case f.UNet == nil:
		return fmt.Errorf("%s: want a complete model with text encoder, unet and vae; the file is a %s", quote.Path(f.Path), f.Kind)
	case f.Text == nil:
		return fmt.Errorf("%s: the model has no text encoder, which turns captions into the network's input: want a complete model", quote.Path(f.Path))
	case f.VAE == nil:
		return fmt.Errorf("%s: the model has no vae, which turns images into latents: want a complete model", quote.Path(f.Path))
	}
	if err := sd.Check(f); err != nil {
		return fmt.Errorf("%s: %w", quote.Path(f.Path), err)
	}
	var err error
	if p.network, err = unet.ParseConfig(f.UNet.Config); err != nil {
		return fmt.Errorf("%s: %w", quote.Path(f.Path), err)
	}
	if p.network.InChannels > p.network.OutChannels {
		return fmt.Errorf("%s: it is an inpainting model, which cannot be trained: want the base model", quote.Path(f.Path))
	}
	if f.Scheduler != nil {
		c, err := noise.ParseConfig(f.Scheduler)
		if err != nil {
			return fmt.Errorf("%s: %w", quote.Path(f.Path), err)
		}
		p.predicts = c.Predicts
	}
	if p.network.TimeCondProjDim > 0 {
		return fmt.Errorf("%s: it is a latent consistency model already: want the model that it was distilled from", quote.Path(f.Path))
	}
	return nil
}

// Close closes the data and the model's files.
func (p *Plan) Close() error {
	var err error
	for _, set := range []*captioned.Set{p.Data, p.valData} {
		if set != nil {
			err = errors.Join(err, set.Close())
		}
	}
	if p.files != nil {
		err = errors.Join(err, p.files.Close())
	}
	if p.made != nil {
		err = errors.Join(err, p.made.Close())
	}
	p.Data, p.valData, p.files, p.made = nil, nil, nil, nil
	return err
}

// session is a plan that is carried out.
type session struct {
	*Plan
	model     *sd.Model
	encoders  sd.Model       // the same, with the components that the model may have freed
	read      *weights.Model // its files
	source    *latents.Source
	kept      *torch.Scope // of tensors that live as long as the run
	adapter   sd.Adapter
	student   *unet.UNet // of a full model
	whole     *sd.Model  // a new model, of which all but the autoencoder is trained
	beta2     float64    // of the optimizer; 0: its default
	objective training.Objective
	prepare   func(s *torch.Scope, b training.Batch, d training.Draws) training.Batch
	average   *training.Average
	averaged  sd.Adapter // its adapter
	snapshots training.Snapshots
	groups    []optim.Group
	dir       *rundir.Dir
	valid     *validation
	closers   []func()
}

// own has something freed at the end of the run.
func (s *session) own(free func()) { s.closers = append(s.closers, free) }

func (s *session) close() error {
	for _, free := range slices.Backward(s.closers) {
		free()
	}
	var err error
	if s.source != nil {
		err = s.source.Close()
	}
	if s.model != nil {
		err = errors.Join(err, s.model.Close())
	}
	return err
}

func train(ctx context.Context, m method) (Result, error) {
	p, err := plan(ctx, m)
	if err != nil {
		return Result{}, err
	}
	r, err := p.Train(ctx)
	return r, errors.Join(err, p.Close())
}

// Train carries the plan out. Cancelling ctx saves, and returns the context's error with the result.
func (p *Plan) Train(ctx context.Context) (out Result, err error) {
	r := p.Run
	if err := ctx.Err(); err != nil {
		return out, err
	}
	// Before the model is read and images are encoded, which may take long.
	begun, err := p.Check()
	if err != nil {
		return out, err
	}
	if r.Resume && begun {
		steps, err := rundir.Steps(r.Out, "state")
		if err != nil {
			return out, err
		}
		if len(steps) > 0 && slices.Max(steps) > r.Steps {
			return out, options.Refuse("steps", "%s: the run has already done %d steps: want at least as many, got %d", options.NameOf("steps"), slices.Max(steps), r.Steps)
		}
	} else if r.Resume {
		r.warn("there is no run to resume: a new one starts", "out", r.Out)
	}
	s := &session{Plan: p}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.open(ctx); err != nil {
		return out, err
	}
	options := r.entries(p.method.kind(), p.Options, p.holds)
	if _, err := rundir.Check(r.Out, options, r.Resume, r.mayChange(p.Options, p.holds)...); err != nil {
		return out, err
	}
	if err := p.method.learn(s); err != nil {
		return out, err
	}
	if v, ok := s.objective.(training.Validator); ok {
		if err := v.Validate(); err != nil {
			return out, err
		}
	}
	if s.dir, err = rundir.Open(r.Out, options, r.Resume, r.mayChange(p.Options, p.holds)...); err != nil {
		return out, err
	}
	defer func() { err = s.end(out, err) }()
	if err := s.dir.Update(options); err != nil { // so that it resumes with what was changed
		return out, err
	}
	if err := s.prepareSnapshots(); err != nil {
		return out, err
	}
	last := &watched{s.snapshots, s.dir, -1}
	s.snapshots = last
	if s.valid, err = newValidation(ctx, s); err != nil {
		return out, err
	}
	s.free()
	opt, err := optim.AdamW{LR: r.LR, Beta2: s.beta2, WeightDecay: orZero(*r.WeightDecay)}.NewGroups(s.groups...)
	if err != nil {
		return out, err
	}
	defer opt.Close()
	if r.Started != nil {
		r.Started(p, s.dir)
	}
	if r.Duration > 0 {
		s.valid.until = time.Now().Add(r.Duration)
	}
	out.Result, err = s.trainer(opt).Train(ctx)
	if err == nil && last.step >= 0 && last.step != s.valid.looked { // the run had ended without it
		err = s.valid.look(ctx, last.step)
	}
	var bad *SnapshotError
	if errors.As(err, &bad) {
		out.Snapshot = ""
	}
	out.Best, out.BestStep, out.BestLoss = s.valid.best()
	out.Corrupt = len(p.Data.Corrupt()) + len(p.Data.Summary().Corrupt)
	return out, err
}

// orZero is a setting of an optimizer, where 0 stands for the default.
func orZero(v float64) float64 {
	if v == 0 {
		return optim.Zero
	}
	return v
}

func (r *Run) warn(note string, more ...any) {
	if r.Log != nil {
		r.Log.Warn(note, more...)
	}
}

// end notes how the run ended, and closes its directory. A run that has not begun leaves nothing.
func (s *session) end(out Result, err error) error {
	end := slog.New(slog.NewTextHandler(s.dir.Log(), nil))
	if err == nil || errors.Is(err, context.Canceled) {
		end.Info("ended", "step", out.Step, "images", out.Seen, "interrupted", err != nil)
	} else {
		end.Error("ended", "step", out.Step, "error", err)
	}
	closing := s.dir.Close
	if err != nil && out.Step == 0 {
		closing = s.dir.Discard
	}
	return errors.Join(err, closing())
}

// open reads the model, encodes the data and frees what is not needed any more.
func (s *session) open(ctx context.Context) (err error) {
	r := s.Run
	s.holds = map[string]string{"data_holds": s.Data.Identity()}
	if b, ok := s.method.(builder); ok {
		err = b.open(ctx, s)
	} else {
		err = s.openModel(ctx)
	}
	if err != nil {
		return err
	}
	s.encoders = *s.model
	if s.source, err = s.encode(ctx, "data", s.Data); err != nil {
		return err
	}
	s.holds["data_holds"] += ", " + s.source.Encoders()
	if _, ok := s.method.(builder); ok {
		s.holds["autoencoder_holds"] = s.source.Autoencoder()
	}
	s.kept = torch.NewScope(r.Device)
	s.own(s.kept.Close)
	return nil
}

// encode encodes the images and captions of an option's set.
func (s *session) encode(ctx context.Context, option string, set *captioned.Set) (*latents.Source, error) {
	r := s.Run
	cache, err := r.cache()
	if err != nil {
		return nil, err
	}
	source, err := latents.Open(ctx, latents.Config{
		Set: set, Model: &s.encoders, Batch: r.Batch, Seed: r.Seed, Cache: cache, Captions: s.trainsText(), ClipSkip: r.ClipSkip,
		SkipCorrupt: r.Corrupt == "skip", Progress: r.Encoding, Log: r.Log,
	})
	if err != nil {
		return nil, encoding(option, err)
	}
	return source, nil
}

// openModel reads the model.
func (s *session) openModel(ctx context.Context) (err error) {
	r, files := s.Run, s.Plan.files
	network, err := sumOf(ctx, files.UNet)
	if err != nil {
		return options.Failed("model", err)
	}
	texts, err := s.textsHold(ctx, files)
	if err != nil {
		return options.Failed("model", err)
	}
	if a := s.method.adapter(); a != nil && a.Init != "" {
		if s.holds["init_holds"], err = sumOfFile(ctx, a.from); err != nil {
			return options.Failed("init", err)
		}
	}
	if l, ok := s.method.(*LoRA); ok && l.FewStep != "" {
		if s.holds["few_step_holds"], err = sumOfFile(ctx, l.few); err != nil {
			return options.Failed("few-step", err)
		}
		if n := l.few.Run.Phases; n > 0 { // which decide the timesteps
			s.holds["few_step_holds"] += ", " + plural.N(n, "phase")
		}
	}
	s.Plan.files, s.read = nil, files // the model owns them
	if s.model, err = sd.From(files, sd.Options{Device: r.Device, DType: r.dtype()}); err != nil {
		return options.Failed("model", err)
	}
	if err := s.model.Finite(); err != nil { // the loss would be NaN at the first step, or a snapshot's images hours later
		return options.Failed("model", fmt.Errorf("%s: %w", quote.Path(r.Model), err))
	}
	schedule, err := s.noiseHolds()
	if err != nil {
		return options.Failed("model", err)
	}
	s.holds["model_holds"] = "unet, " + network + texts + schedule + "; " + s.tokensHold()
	return nil
}

// trainsText reports whether text encoders are trained, too.
func (p *Plan) trainsText() bool {
	t, ok := p.method.(interface{ text() bool })
	return ok && t.text()
}

// cache is the directory of the cache, "" for none.
func (r *Run) cache() (string, error) {
	switch r.Cache {
	case "none":
		return "", nil
	case "":
		dir, err := os.UserCacheDir()
		if err != nil {
			return "", options.Refuse("cache", "%s: there is no cache directory of the user (%w): %s", options.NameOf("cache"), err, options.SetOf("cache", "DIR"))
		}
		return filepath.Join(dir, "onestep", "latents"), nil
	}
	return r.Cache, nil
}

// adapt makes the run's adapter, and its average.
func (s *session) adapt(a *Adapter, text bool) (err error) {
	if s.adapter, err = a.make(s.Run, s.model, text); err != nil {
		return err
	}
	s.own(func() { _ = s.adapter.Close() })
	if *s.Run.EMA == 0 {
		return nil
	}
	if s.averaged, err = a.make(s.Run, s.model, text); err != nil {
		return err
	}
	s.own(func() { _ = s.averaged.Close() })
	s.average = &training.Average{Decay: *s.Run.EMA, Into: s.averaged}
	return nil
}

// adapted is a network with an adapter.
func (s *session) adapted(net models.Network, a sd.Adapter) models.Network {
	return &models.Adapted{Net: net, Adapters: a.At(1), Learned: a}
}

// prepareSnapshots prepares the snapshots, and lists the parameters.
func (s *session) prepareSnapshots() error {
	r := s.Run
	if s.whole != nil {
		return s.prepareWhole()
	}
	if s.student != nil {
		if *r.EMA > 0 {
			c, err := copyOf(s.student)
			if err != nil {
				return err
			}
			s.own(c.Close)
			s.average = &training.Average{Decay: *r.EMA, Into: c}
		}
		s.snapshots = &modelFolders{session: s}
		s.groups = []optim.Group{{Params: s.student.Parameters()}}
		return nil
	}
	f := &adapterFiles{run: s.dir, adapter: s.adapter, file: s.about(s.method.adapter(), s.method.kind())}
	if s.averaged != nil {
		f.adapter = s.averaged
	}
	s.snapshots = f
	if s.groups == nil {
		s.groups = []optim.Group{{Params: s.adapter.Parameters()}}
	}
	return nil
}

// trainer is the loop.
func (s *session) trainer(opt training.Optimizer) *training.Trainer {
	r, schedule := s.Run, s.Run.schedule()
	t := &training.Trainer{
		Objective: s.objective, Optimizer: opt, Data: s.source, Accumulate: r.GradAccum, Prepare: s.prepare, Checkpointing: r.Checkpointing, Folder: s.dir, Device: r.Device, Seed: r.Seed,
		Steps: r.Steps, Duration: r.Duration, Clip: r.Clip, LR: func(k int) float64 { return r.LR * schedule.At(k) }, SaveEvery: r.SaveEvery, LogEvery: r.LogEvery,
		SampleEvery: r.SaveEvery, Snapshots: s.snapshots, Progress: r.Progress, Scalars: r.Scalars, Log: r.Log, Sample: s.valid.look, SampleTime: s.valid.takes, Resumed: s.valid.resumed,
	}
	switch {
	case s.whole != nil:
		t.Model = s.whole
	case s.student != nil:
		t.Model = s.student
	default:
		t.Model = s.adapter
	}
	if s.average != nil {
		t.Averages = []training.Average{*s.average}
	}
	if s.adapter == nil {
		t.Precision = r.precision()
	}
	if t.Precision == torch.Float16 || s.adapter != nil && r.dtype() == torch.Float16 { // gradients pass through the frozen model
		t.LossScale = &training.LossScale{}
	}
	return t
}
