package finetune

import (
	"context"
	"errors"
	"fmt"
	"image"
	"log/slog"
	"math"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/onestep-go/onestep/internal/options"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/optim"
	"github.com/onestep-go/onestep/training"
	"github.com/onestep-go/onestep/training/captioned"
	"github.com/onestep-go/onestep/training/latents"
	"github.com/onestep-go/onestep/training/rundir"
)

// OptionError is an error about an option. Error names options as in JSON; Text names them as a program's users know them, such as by flags.
type OptionError = options.Error

// Naming defines how a program names options in errors.
type Naming = options.Naming

// Run has the options that all runs share. The zero value of an option stands for its default; a pointer tells 0 from no value: new(0.0).
type Run struct {
	Model string `option:"model" value:"DIR|FILE" help:"Stable Diffusion model: a diffusers directory or a single file (required)"`
	Data  string `option:"data" value:"PATH" help:"images with captions: a directory with .txt or .caption files beside the images, with metadata.jsonl or metadata.csv, or with kohya's N_name directories; WebDataset shards (.tar, a pattern or URLs); kohya's dataset configuration (.toml, .json) (required)"`

	Steps       int      `option:"steps" default:"1000" range:"[1,1000000000]" help:"optimizer steps of the whole run"`
	Batch       int      `option:"batch" default:"4" range:"[1,65536]" help:"batch size"`
	GradAccum   int      `option:"grad-accum" default:"1" range:"[1,65536]" help:"gradient accumulation: batches of an optimizer step"`
	LR          float64  `option:"lr" range:"(0,10)" help:"learning rate of AdamW (default: 0.0001 for adapters, 0.000001 for a full model)"`
	LRSchedule  string   `option:"lr-schedule" default:"constant" choices:"constant,cosine,linear" help:"learning-rate schedule after the warm-up; cosine and linear end at 0"`
	LRWarmup    *Warmup  `option:"lr-warmup" default:"0" value:"N|X" form:"a number of steps, or a fraction of the run such as 0.05 or 5%" help:"linear warm-up of the learning rate, in steps or, below 1, as a fraction of the run (default 0)"`
	WeightDecay *float64 `option:"weight-decay" default:"0.01" range:"[0,10]" help:"decoupled weight decay of AdamW"`
	Clip        float64  `option:"clip" default:"1" range:"(0,1000000000]" help:"gradient clipping: largest norm"`
	EMA         *float64 `option:"ema" default:"0" range:"[0,1)" help:"EMA decay per step of the weights in snapshots (default 0: the weights themselves)"`
	Seed        uint64   `option:"seed" value:"N" help:"seed of initial weights, data order, noise and validation images (default 0)"`

	Device        torch.Device `option:"device" default:"cpu" value:"DEVICE" form:"cpu, cuda or cuda:N" help:"cpu, cuda or cuda:N"`
	DType         string       `option:"dtype" default:"f32" choices:"f32,bf16,f16" help:"data type of the frozen model; what is trained stays in f32"`
	Precision     string       `option:"precision" default:"f32" choices:"f32,bf16,f16" help:"data type in which a trained network computes (mixed precision); its weights stay in f32"`
	Checkpointing bool         `option:"checkpointing" help:"gradient checkpointing per block: less memory for a third more time"`

	Resolution     int      `option:"resolution" range:"[8,8192]" help:"side of square training images in pixels, or with buckets of the square whose area they have (default: the model's)"`
	Buckets        bool     `option:"buckets" help:"aspect-ratio buckets, as in kohya's scripts"`
	RandomCrop     bool     `option:"random-crop" help:"crop images anywhere instead of at the center; nothing is cached then"`
	Flip           bool     `option:"flip" help:"random horizontal flips"`
	ShuffleCaption bool     `option:"shuffle-caption" help:"shuffle the comma-separated parts of captions"`
	KeepTokens     int      `option:"keep-tokens" range:"[0,1000]" value:"N" help:"parts at the start of a caption that stay in place (default 0)"`
	CaptionDropout *float64 `option:"caption-dropout" default:"0" range:"[0,1]" help:"fraction of samples trained with an empty caption (default 0)"`
	Column         string   `option:"caption-column" value:"NAME" help:"column of captions in metadata.jsonl or metadata.csv (default: text, caption or prompt)"`
	Uncaptioned    bool     `option:"allow-uncaptioned" help:"train images without a caption with an empty one; otherwise they are an error"`
	Regularization string   `option:"reg-data" value:"DIR" help:"regularization images with captions, which keep the model from forgetting what else it knows (default: none, or those of a dataset configuration)"`
	PriorWeight    *float64 `option:"prior-weight" default:"1" range:"(0,1000]" help:"prior loss weight: factor of the loss of regularization images"`
	Corrupt        string   `option:"corrupt" default:"error" choices:"error,skip" help:"what to do with an image that cannot be decoded: stop, or skip, log and count it"`
	ClipSkip       int      `option:"clip-skip" range:"[0,11]" value:"N" help:"number of last text encoder layers to skip, as in diffusers (default 0)"`
	Cache          string   `option:"cache" value:"DIR" help:"directory of cached latents and text features, which runs may share, or none (default: onestep/latents in the user's cache directory)"`

	SaveEvery int    `option:"save-every" default:"500" range:"[1,]" help:"steps between checkpoints and snapshots"`
	SaveDType string `option:"save-dtype" default:"f16" choices:"f16,bf16,f32" help:"data type of the weights in snapshots"`
	Keep      int    `option:"keep" range:"[0,]" value:"N" help:"number of last snapshots to keep; the best always stays (default 0: all)"`
	LogEvery  int    `option:"log-every" range:"[1,]" help:"steps between lines in stats.jsonl (default: steps/2000)"`

	ValPrompts string   `option:"val-prompts" value:"FILE" help:"validation prompts, one per line (lines that begin with # are comments): a sample grid is generated from each snapshot, with the file as others load it"`
	ValSteps   int      `option:"val-steps" range:"[1,1000]" help:"sampling steps of validation images (default: 4 for few-step models, 25 otherwise)"`
	ValGuide   *float64 `option:"val-guidance" range:"[0,1000]" help:"guidance scale of validation images; 0 or 1: none (default: that of the sampler)"`
	ValData    string   `option:"val-data" value:"PATH" help:"images with captions for the validation loss (default: the training data, with other noise)"`
	ValBatches *int     `option:"val-batches" default:"4" range:"[0,100000]" value:"N" help:"batches of the validation loss, which chooses the best snapshot; 0: no validation loss"`

	Out      string        // the run directory: options, statistics, snapshots and checkpoints
	Resume   bool          // resume the run in Out, or start it if there is none
	Duration time.Duration // stop after this time, validation included, with everything saved as at the end; 0: after Steps

	// Adapters makes, reads and writes adapters: lora.Adapters{}. A run without an adapter needs none.
	Adapters Adapters
	// Draw generates a validation image for each prompt; nil: none are generated.
	Draw func(ctx context.Context, v Sample) ([]image.Image, error)
	// Extra are further entries of options.json and of an adapter's metadata, such as a program's version. They change no result.
	Extra map[string]any

	// Given names options that were given, where an option that has no effect is refused also if it was given its default; others only with
	// another value.
	Given []string

	lrDecay float64 // the fraction of the run at its end over which the learning rate decays; 0: all of it after the warm-up

	Log      *slog.Logger                                 // nil: silence
	Encoding func(latents.Progress)                       // called while images and captions are encoded; may be nil
	Started  func(p *Plan, run *rundir.Dir)               // called before the first step; may be nil
	Progress func(training.Progress)                      // called after every step; may be nil
	Scalars  func(k int, values map[string]float64) error // called with the logged values; may be nil
	Image    func(k int, img image.Image) error           // called with each sample grid; may be nil
}

// Adapters makes and reads adapters; lora.Adapters is one. It is an interface since this package does not import package lora.
type Adapters interface {
	New(m *sd.Model, c sd.AdapterConfig) (sd.Adapter, error)
	// Plan says which layers New would choose, without the model's weights.
	Plan(m *weights.Model, c sd.AdapterConfig) (sd.AdapterPlan, error)
	// Open reads a file for a model, as any program of this library does, in the given data type; nil: the model's.
	Open(m *sd.Model, path string, dtype *torch.DType) (sd.Adapter, error)
	// Continue reads a file to train it further: in float32, with gradients.
	Continue(m *sd.Model, path string) (sd.Adapter, error)
	// Inspect describes the file that Continue would read, without the model's weights.
	Inspect(m *weights.Model, path string) (sd.AdapterInfo, error)
}

// Sample is a snapshot to generate validation images from.
type Sample struct {
	Step    int
	Path    string     // of the snapshot
	Model   *sd.Model  // the base model of an adapter, or a full model as it was read from Path
	Adapter sd.Adapter // as it was read from Path; nil for a full model
	Sampler string     // lcm or tcd, for few steps; "": the model's own
	Eta     *float64   // of the sampler; nil: its default
	// OriginalSteps is the size of the grid of timesteps that the adapter was distilled on; 0: the model's.
	OriginalSteps int

	Prompts       []string
	Seed          uint64 // of all images
	Width, Height int    // in pixels
	Steps         int
	Guidance      float64 // 1: none; 0: the sampler's default
}

// Result is how a run ended.
type Result struct {
	training.Result
	Best     string  // path of the snapshot with the lowest validation loss; "": none
	BestStep int     // its step
	BestLoss float64 // its validation loss
	Corrupt  int     // images skipped because they cannot be decoded
}

// defaults fills in defaults, and refuses values out of range.
func (r *Run) defaults(p any) error {
	if err := options.Fill(p); err != nil {
		return err
	}
	for _, need := range []struct{ option, value string }{{"model", r.Model}, {"data", r.Data}, {"out", r.Out}} {
		if _, is := options.Named(p, need.option); need.value == "" && (is || need.option == "out") {
			return options.Refuse(need.option, "%s is required", options.NameOf(need.option))
		}
	}
	if r.LogEvery == 0 {
		r.LogEvery = max(1, r.Steps/2000)
	}
	if r.ValPrompts == "" && r.changed(p, "val-steps") {
		if slices.Contains(r.Given, "val-steps") || !slices.Contains(earlierSteps, r.ValSteps) {
			return r.without("val-steps", "val-prompts")
		}
		r.ValSteps = 0
	}
	if w := r.LRWarmup.Steps(r.Steps); w > r.Steps {
		return options.Refuse("lr-warmup", "%s: want at most the %d steps of the run, got %d", options.NameOf("lr-warmup"), r.Steps, w)
	}
	if err := r.schedule().Validate(); err != nil {
		return options.Refuse("lr-warmup", "%s: %w", options.NameOf("lr-warmup"), err)
	}
	if r.KeepTokens > 0 && !r.ShuffleCaption {
		return r.without("keep-tokens", "shuffle-caption")
	}
	if r.ValData != "" && *r.ValBatches == 0 {
		return options.Refuse("val-data", "%s has no effect without a validation loss: %s", options.NameOf("val-data"), options.SetOf("val-batches", "4"))
	}
	if r.ValPrompts == "" && r.ValGuide != nil {
		return r.without("val-guidance", "val-prompts")
	}
	return nil
}

// Default sampling steps of validation images.
const (
	fewSteps  = 4
	manySteps = 25
)

// earlierSteps are the defaults that earlier versions wrote to options.json.
var earlierSteps = []int{fewSteps, manySteps}

// changed reports whether an option was given, or has another value than its default. A run that is resumed has the defaults in its
// options.json, which therefore are no error where they have no effect.
func (r *Run) changed(p any, name string) bool {
	o, ok := options.Named(p, name)
	return ok && !o.IsZero() && (slices.Contains(r.Given, name) || !o.IsDefault(o.Value()))
}

// idle refuses options that were changed although they have no effect.
func (r *Run) idle(p any, why string, names ...string) error {
	for _, name := range names {
		if r.changed(p, name) {
			return options.Refuse(name, "%s has no effect %s: leave it out", options.NameOf(name), why)
		}
	}
	return nil
}

// without refuses an option that has no effect without another one.
func (r *Run) without(option, other string) error {
	return options.Refuse(option, "%s has no effect by itself: %s, too, or leave it out", options.NameOf(option), options.SetOf(other, ""))
}

// schedule is the learning rate's, by optimizer steps.
func (r *Run) schedule() optim.Schedule {
	d, err := optim.ParseDecay(r.LRSchedule)
	if err != nil {
		d = optim.Decay(r.LRSchedule)
	}
	s := optim.Schedule{Decay: d, Warmup: r.LRWarmup.Steps(r.Steps), Steps: r.Steps}
	if r.lrDecay > 0 {
		s.Start = r.Steps - int(math.Round(r.lrDecay*float64(r.Steps)))
	}
	return s
}

// dtype is the frozen model's data type.
func (r *Run) dtype() torch.DType { return named(r.DType) }

// precision is the type in which a trained network computes.
func (r *Run) precision() torch.DType { return named(r.Precision) }

// saved is the data type of snapshots.
func (r *Run) saved() torch.DType { return named(r.SaveDType) }

// named is the data type of an option's value; "": float32.
func named(value string) torch.DType {
	d, _ := training.DTypeNamed(value)
	return d
}

// set opens the images of a path.
func (r *Run) set(ctx context.Context, option, path string, resolution int) (*captioned.Set, error) {
	prior := ""
	if option == "data" && r.Regularization != "" {
		if prior = r.Regularization; !isDir(prior) {
			return nil, options.Failed("reg-data", fmt.Errorf("%s: want a directory of images with captions", quote.Path(prior)))
		}
	}
	set, err := captioned.Open(ctx, path, captioned.Options{
		Column: r.Column, Prior: prior,
		Resolution: resolution, Buckets: captioned.Buckets{Enable: r.Buckets}, PriorWeight: *r.PriorWeight,
		Uncaptioned: r.Uncaptioned, SkipCorrupt: r.Corrupt == "skip",
		Settings: captioned.Settings{RandomCrop: r.RandomCrop, Flip: r.Flip, Shuffle: r.ShuffleCaption, KeepTokens: r.KeepTokens, Dropout: *r.CaptionDropout},
	})
	if err != nil {
		return nil, ofData(option, err)
	}
	if set.Len() == 0 {
		return nil, errors.Join(options.Failed(option, fmt.Errorf("there are no images in it")), set.Close())
	}
	return set, nil
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}

// ofData names the option of an error of package captioned, and what helps.
func ofData(option string, err error) error {
	var of *captioned.Error
	var prior *captioned.PriorError
	switch {
	case errors.As(err, &prior):
		option, err = "reg-data", prior.Err
	case errors.As(err, &of):
		err = of.Err
	}
	help := ""
	switch {
	case errors.Is(err, captioned.ErrUncaptioned):
		help = ", or " + options.SetOf("allow-uncaptioned", "")
	case errors.Is(err, captioned.ErrColumn):
		help = ": " + options.SetOf("caption-column", "NAME")
	case errors.Is(err, captioned.ErrSizes):
		help = ": " + options.SetOf("resolution", "N")
	}
	return &OptionError{Option: option, Err: fmt.Errorf("%s: %w%s", options.NameOf(option), err, help)}
}

// encoding names the option that an error of package latents is about.
func encoding(option string, err error) error {
	var cache *latents.CacheError
	var of *latents.Error
	var data *captioned.Error
	switch {
	case errors.As(err, &cache):
		option, err = "cache", cache.Err
	case errors.As(err, &data):
		err = data.Err
	case errors.As(err, &of):
		err = of.Err
	}
	return options.Failed(option, err)
}

// changeable are the entries of options.json that may differ when a run is resumed: they do not change what it computes, or on the CPU with
// one thread do not.
var changeable = []string{
	"device", "cache", "save_every", "keep", "log_every", "val_prompts", "val_steps", "val_guidance", "val_data", "val_batches", "corrupt", "layout", "save_dtype", "name", "checkpointing",
}

// entries are the run's options as options.json has them.
func (r *Run) entries(kind string, p any, holds map[string]string) map[string]any {
	all := options.Values(p)
	all["run"] = kind
	for k, v := range r.Extra {
		all[k] = v
	}
	for k, v := range holds {
		all[k] = v
	}
	return all
}

// mayChange lists the entries that may differ from those of the run in the directory. p points to the run's struct.
func (r *Run) mayChange(p any, holds map[string]string) []string {
	may := slices.Clone(changeable)
	for k := range r.Extra {
		may = append(may, k)
	}
	if r.LRSchedule == "constant" && (*r.LRWarmup == 0 || *r.LRWarmup >= 1) {
		may = append(may, "steps") // no step's learning rate depends on how many there are
	}
	was, err := rundir.ReadOptions(r.Out)
	if err != nil {
		return may // rundir says what is wrong, or there is nothing to compare
	}
	for k := range was { // of a program's Extra
		if _, ok := options.Named(p, strings.ReplaceAll(k, "_", "-")); !ok && !slices.Contains(told, k) {
			may = append(may, k)
		}
	}
	if was["precision"] == nil && r.Precision == "f32" { // a run of an older version
		may = append(may, "precision")
	}
	for _, entry := range []string{"data", "model", "init", "few_step", "autoencoder"} { // where a run reads the same, the path does not matter
		if o, ok := options.Named(p, strings.ReplaceAll(entry, "_", "-")); ok && o.IsZero() && was[entry] != nil {
			continue // the run had it, and would go on without
		}
		now, before := holds[entry+"_holds"], was[entry+"_holds"]
		if now == "" || now == before {
			if may = append(may, entry); entry == "data" {
				may = append(may, "reg_data")
			}
		}
		if now == "" || before == nil { // not known yet, or a run of an earlier version, which recorded none
			may = append(may, entry+"_holds")
		}
	}
	return may
}

// told are entries of options.json that are no options.
var told = []string{"run", "data_holds", "model_holds", "init_holds", "few_step_holds", "autoencoder_holds", "history"}

// ReadOptions reads the options of a run from JSON, such as options.json, by their names. p points to the run's struct, such as *LCM; beside
// are keys of a program's own.
func ReadOptions(p any, data []byte, beside ...string) (map[string]any, error) {
	return options.Read(p, data, append(slices.Clone(told), beside...)...)
}

// SetOptions gives options values of their types, by their names.
func SetOptions(p any, values map[string]any) error {
	for name, v := range values {
		o, ok := options.Named(p, name)
		if !ok {
			return options.Refuse(name, "%s: there is no such option", quote.Text(name))
		}
		if v != nil && reflect.TypeOf(v) != o.Type() {
			return options.Refuse(o.Name, "%s: want %s, got a value of the type %s", options.NameOf(o.Name), o.Wants(), quote.Text(reflect.TypeOf(v).String()))
		}
		if v != nil {
			if err := o.Check(v); err != nil {
				return options.Refuse(o.Name, "%s: %w", options.NameOf(o.Name), err)
			}
		}
		o.Put(v)
	}
	return nil
}

// finite reports whether a loss is a number.
func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
