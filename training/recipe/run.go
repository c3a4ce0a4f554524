package recipe

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/onestep-go/onestep/internal/options"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/training"
	"github.com/onestep-go/onestep/training/dataset"
	"github.com/onestep-go/onestep/training/rundir"
)

// Run is a training run: a method, and the options that all methods share. The zero value of an option stands for its default. Where zero
// is a value of its own, the field is a pointer: new(0.0).
type Run struct {
	Method Method // nil: that of the run to resume, or ICT

	Data    string   `option:"data" value:"PATH" help:"emoji, fashion-mnist, cifar10, cifar100, or the path of a directory of images, a .tar or .tar.gz shard or a pattern for several, an IDX file, or files of CIFAR-10 or CIFAR-100 (required)"`
	Steps   int      `option:"steps" default:"10000" range:"[1,1000000000]" help:"optimizer steps of the whole run"`
	Batch   int      `option:"batch" default:"64" range:"[1,1048576]" help:"batch size"`
	LR      float64  `option:"lr" default:"0.001" range:"(0,10)" help:"learning rate of RAdam"`
	LRDecay *float64 `option:"lr-decay" default:"0.3" range:"[0,1]" help:"final fraction of training with linear learning-rate decay"`
	Seed    uint64   `option:"seed" value:"N" help:"seed of initial weights, data order and noise (default 0)"`

	Device        torch.Device `option:"device" default:"cpu" value:"DEVICE" form:"cpu, cuda or cuda:N" help:"cpu, cuda or cuda:N"`
	Checkpointing bool         `option:"checkpointing" help:"gradient checkpointing per block: less memory for a third more time"`
	Precision     string       `option:"precision" default:"f32" choices:"f32,bf16,f16" help:"data type in which networks compute (mixed precision); weights, EMA weights and losses stay in f32"`

	DataDir      string  `option:"data-dir" value:"DIR" help:"fashion-mnist, cifar10, cifar100: further directory to look for them in"`
	Resolution   int     `option:"resolution" range:"[4,1024]" help:"height and width in pixels (default: that of the images; up to 64 if they are not squares of one size)"`
	Colors       int     `option:"colors" choices:"1,3" value:"1|3" help:"image channels: 1 for grey, 3 for colour (default: those of the images)"`
	Classes      bool    `option:"classes" help:"class-conditional training"`
	LabelDropout float64 `option:"label-dropout" range:"[0,1)" help:"fraction of images trained without their class, for guidance, such as 0.1 (default 0)"`
	Flip         bool    `option:"flip" help:"random horizontal flips"`
	Corrupt      string  `option:"corrupt" default:"error" choices:"error,skip" help:"for an image that cannot be decoded: stop with an error, or skip, log and count it"`
	Workers      int     `option:"workers" default:"1" range:"[1,1024]" help:"goroutines that decode images"`

	Network string  `option:"network" help:"network architecture, see above (default: that of the model that the run starts from, or the first in the list)"`
	Size    any     // the network's options, a pointer of the type that network.Preset.Options returns; nil: all defaults
	Dropout float64 `option:"dropout" range:"[0,1)" help:"dropout probability in residual blocks (default 0)"`
	// Init is a model from whose network and weights the run starts; "none": a new network, even with a teacher.
	Init string `option:"init" value:"FILE|DIR" help:"model whose network and weights the run starts from, or none (default: the teacher, if there is one)"`

	EMA       *float64  `option:"ema" range:"[0,1)" help:"EMA decay per step (default: 1-20/steps, 0.9 to 0.9999)"`
	Widths    []float64 `option:"widths" value:"X,X" help:"relative widths of further, power-function EMAs, such as 0.05,0.1; onestep average computes others from two"`
	HalfLives []float64 `option:"half-lives" value:"N,N" range:"[1,1e15]" help:"half-lives of further EMAs, in images, such as 50000,500000"`
	Clip      float64   `option:"clip" default:"1" range:"(0,1000000000]" help:"gradient clipping: largest norm"`
	Skips     *int      `option:"skips" default:"10" range:"[0,]" value:"N" help:"consecutive steps that may be skipped because their loss or gradients are not finite"`
	Rollbacks *int      `option:"rollbacks" default:"3" range:"[0,]" value:"N" help:"rollbacks to an earlier checkpoint, with half the learning rate, after more skipped steps than that"`

	SaveEvery   int  `option:"save-every" default:"1000" range:"[1,]" help:"steps between checkpoints and snapshots"`
	Keep        int  `option:"keep" range:"[0,]" value:"N" help:"number of snapshots to keep; onestep average needs many (default 0: all)"`
	SampleEvery *int `option:"sample-every" range:"[0,]" value:"N" help:"steps between sample grids, 0 for none (default: as save-every)"`
	LogEvery    int  `option:"log-every" range:"[1,]" help:"steps between lines in stats.jsonl (default: steps/2000)"`

	EvalEvery    int    `option:"eval-every" range:"[0,]" value:"N" help:"steps between evaluations, which compare generated images with real ones and keep the best snapshot (default: none)"`
	EvalData     string `option:"eval-data" value:"PATH" help:"real images of evaluations, as for data (default: the training data)"`
	EvalN        int    `option:"eval-n" default:"500" range:"[6,1000000]" value:"N" help:"number of images that an evaluation generates"`
	EvalSteps    int    `option:"eval-steps" range:"[1,1000]" value:"N" help:"sampling steps of evaluations (default: as for sampling)"`
	EvalFeatures string `option:"eval-features" value:"NAME|FILE" help:"network whose features evaluations compare: efficientnet-lite0 or inception, or a file of weights (default: efficientnet-lite0)"`

	Out      string        // the run directory: options, card, statistics, snapshots and checkpoints
	Resume   bool          // resume the run in Out; start a new one if there is none
	Extend   bool          // with Resume: Steps, LR and LRDecay may differ from the run's
	Duration time.Duration // stop after this time and save, so that the run can be resumed; 0: no limit

	// Models are model files in memory, by names that Init may refer to.
	Models map[string][]byte
	// Extra are further entries of options.json, such as a program's version. They may differ when a run is resumed.
	Extra map[string]any
	// Command is the command line that snapshots record.
	Command string

	Log      *slog.Logger                                 // nil: no log
	Started  func(p *Plan, run *rundir.Dir)               // called before the first step; nil: none
	Progress func(training.Progress)                      // called after every step; nil: none
	Scalars  func(k int, values map[string]float64) error // called with the logged statistics; nil: none
	// Sample generates samples every SampleEvery steps; nil: none.
	Sample func(ctx context.Context, m Snapshot) error

	// Evaluate measures a model every EvalEvery steps and at the end; nil: none. Its values are recorded, and the best snapshot is kept as
	// best.safetensors: see [training.Trainer]. The other options of evaluations are for it, as the tool's has them.
	Evaluate func(ctx context.Context, m Snapshot) (training.Evaluation, error)

	sized   map[string]any // network options, set before the network is known
	history []Settings     // settings before each extension
	chosen  []string       // options that were set before Resolve filled in the others
}

// Snapshot is the model during training, with EMA weights.
type Snapshot struct {
	Step        int
	Function    any // the method's function: a models.ConsistencyFunction, a models.Denoiser, …
	Description checkpoint.Description
	Net         network.Network // the function's network
	Run         *rundir.Dir
}

// Result is the result of a run.
type Result struct {
	training.Result
	Corrupt int // images that could not be decoded and were skipped
	Resized int // images of another size than the rest, which were cropped and scaled
}

// Train runs the training. If ctx is cancelled, it saves and returns the context's error with the result.
func (r Run) Train(ctx context.Context) (Result, error) {
	if err := r.needsOut(); err != nil {
		return Result{}, err
	}
	p, err := r.Plan()
	if err != nil {
		return Result{}, err
	}
	defer p.Close()
	return p.Train(ctx)
}

// needsOut returns an error for a run without a directory, which Resolve and Plan do not need.
func (r *Run) needsOut() error {
	if r.Out == "" {
		return usage("out", "%s is missing: want a directory for the run", name("out"))
	}
	return nil
}

// copied returns the run with copies of its method and size, which may be changed.
func (r Run) copied() Run {
	if r.Method == nil {
		r.Method = r.byDefault()
	}
	r.Method = clone(r.Method).(Method)
	if r.Size != nil {
		r.Size = clone(r.Size)
	}
	r.sized = maps.Clone(r.sized)
	return r
}

// clone copies what a pointer to a struct points to.
func clone(p any) any {
	c := reflect.New(reflect.TypeOf(p).Elem())
	c.Elem().Set(reflect.ValueOf(p).Elem())
	return c.Interface()
}

// Resolve returns the run with all options filled in that do not depend on the data. Options that cannot work with any data are an error.
func (r Run) Resolve() (Run, error) {
	if err := r.sound(); err != nil {
		return r, err
	}
	r = r.copied()
	if r.chosen == nil {
		r.chosen = slices.Sorted(maps.Keys(r.Values()))
	}
	if err := r.validate(); err != nil {
		return r, err
	}
	fill(options.Of(&r))
	if err := r.fillMethod(); err != nil {
		return r, err
	}
	if r.LogEvery == 0 {
		r.LogEvery = max(1, r.Steps/2000)
	}
	if r.SampleEvery == nil {
		r.SampleEvery = new(r.SaveEvery)
	}
	if r.EMA == nil {
		r.EMA = new(math.Min(0.9999, math.Max(0.9, 1-20/float64(r.Steps))))
	}
	if r.Resolution == 0 || r.starts() || r.teacher() != "" {
		return r, nil
	}
	try := r.copied()
	_, err := try.shape(cmp.Or(r.Colors, 3), r.Resolution) // the images may have other channels
	return r, err
}

// fillMethod fills in the method's options, unless they come from the model that the run starts from; see [Former].
func (r *Run) fillMethod() error {
	if _, adopts := r.Method.(Former); adopts && r.starts() {
		return nil
	}
	return r.fillAdopted()
}

func (r *Run) fillAdopted() error {
	fill(r.ofMethod())
	if f, ok := r.Method.(Filler); ok {
		return f.Fill(r.Steps)
	}
	return nil
}

// validate checks the options. Zero stands for a value that is filled in later.
func (r *Run) validate() error {
	if err := r.check(); err != nil {
		return err
	}
	if _, err := presetNamed(r.Network); r.Network != "" && err != nil {
		return err
	}
	if err := r.used(); err != nil {
		return err
	}
	for _, w := range r.Widths {
		if _, err := models.PowerExponent(w); err != nil {
			return usage("widths", "%s: %w", name("widths"), err)
		}
	}
	for option, list := range map[string][]float64{"widths": r.Widths, "half-lives": r.HalfLives} {
		sorted := slices.Sorted(slices.Values(list))
		if distinct := slices.Compact(slices.Clone(sorted)); len(distinct) < len(sorted) {
			return usage(option, "%s: want different values, got %s", name(option), options.Text(list))
		}
	}
	method := r.Method.Spec()
	switch {
	case method.Distils && r.teacher() == "":
		return usage("teacher", "%s %s needs a teacher, a denoiser: train one (%s: %s) and %s, or %s for the exact denoiser of the data",
			name("method"), quote.Text(method.Name), name("method"), denoisers(), set("teacher", ""), set("teacher", Empirical))
	case valueOf[string](r, "distance") == lpipsName && valueOf[string](r, "lpips") == "":
		return usage("lpips", "%s lpips needs weights: make them with scripts/lpips_weights.py and %s", name("distance"), set("lpips", ""))
	case r.Data == "":
		return usage("data", "%s is missing: want emoji, %s or a path", name("data"), strings.Join(dataset.Looked(), ", "))
	case len(r.Widths)+len(r.HalfLives) > 16:
		return usage("widths", "%s, %s: want at most 16 EMAs, got %d", name("widths"), name("half-lives"), len(r.Widths)+len(r.HalfLives))
	case r.LabelDropout > 0 && !r.Classes:
		return usage("label-dropout", "%s: there are no labels to drop: %s", name("label-dropout"), set("classes", ""))
	case r.guidance() != nil && !r.Classes:
		return usage("guidance", "%s: a guided teacher needs classes: %s", name("guidance"), set("classes", ""))
	case r.Extend && !r.Resume:
		return usage("extend", "%s continues an existing run: %s, too", name("extend"), set("resume", ""))
	case r.Duration < 0:
		return usage("duration", "%s: want a positive time, got %v", name("duration"), r.Duration)
	}
	return nil
}

// Empirical is the name of the teacher that is the exact denoiser of the training data.
const Empirical = "empirical"

func (r *Run) teacher() string { return valueOf[string](r, "teacher") }

// guidance returns the teacher's guidance scale, or the two ends of a range; nil: no guidance.
func (r *Run) guidance() []float64 {
	if scales := valueOf[[]float64](r, "guidance"); len(scales) > 0 {
		return scales
	}
	return nil
}

// starts reports whether the run starts from another model's weights.
func (r *Run) starts() bool { return r.Init != "" && r.Init != "none" }

// startsBy returns the option that names the model which the run starts from.
func (r *Run) startsBy() string {
	if r.Init == r.teacher() {
		return "teacher"
	}
	return "init"
}

// Chosen lists the method's options for a log: their names in JSON and values, in turn. It is empty without a method, and for a program's
// own method that is not sound: see [Run.Resolve], which returns the error.
func (r Run) Chosen() (all []any) {
	if r.Method == nil || r.sound() != nil {
		return nil
	}
	for _, o := range options.Of(r.Method) {
		if !o.IsZero() {
			all = append(all, o.Key(), quote.Text(o.Text()))
		}
	}
	return all
}
