// Package job runs the subcommands: options checked against each other, files and memory checked before long work, then the libraries' work,
// with errors and notices that name the tool's flags. Package main parses flags and prints.
package job

import (
	"context"
	"errors"
	"fmt"
	"image"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/onestep-go/onestep/internal/options"
	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/builtin"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/sampling/generate"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/vision"
	"github.com/onestep-go/onestep/training"
	"github.com/onestep-go/onestep/training/recipe"
	"github.com/onestep-go/onestep/training/rundir"
)

// Train holds the options of a training run, and the tool's own.
type Train struct {
	recipe.Run
	Threads int    `option:"threads" range:"[1,4096]" value:"N" help:"CPU threads per operator (default: all processors)"`
	Force   bool   // run even if the estimated memory exceeds what is available
	Version string // written to options.json
	// From maps options that were read from a file to its path, or with --config before it. Errors name them as in that file.
	From map[string]string
}

// Hooks receive the progress of a run.
type Hooks struct {
	Log      *slog.Logger
	Progress func(training.Progress)
	Started  func(p *recipe.Plan, run *rundir.Dir, parameters int) // once everything is resolved
	Data     func(DataSummary)                                     // at the same time, with the data
	// Scalars and Picture receive what goes into event files.
	Scalars func(k int, values map[string]float64) error
	Picture func(k int, img image.Image) error
}

// warn logs a notice.
func (h Hooks) warn(note string) {
	if h.Log != nil {
		h.Log.Warn(note)
	}
}

// Plan resolves all options; to do so it opens the data.
func (o Train) Plan() (*recipe.Plan, error) {
	p, err := o.plan()
	return p, o.Flagged(err)
}

func (o Train) plan() (*recipe.Plan, error) {
	o.Extra = map[string]any{}
	if o.Version != "" {
		o.Extra["onestep"] = o.Version
	}
	if o.Threads != 0 {
		o.Extra["threads"] = o.Threads
	}
	o.Models = map[string][]byte{"builtin": builtin.Data()}
	r, err := o.Resolve()
	if err != nil {
		return nil, err
	}
	o.Run = r
	if err := There(o.paths()...); err != nil {
		return nil, err
	}
	p, err := r.Plan()
	if of := (*recipe.OptionError)(nil); o.DataDir != "" && errors.As(err, &of) && of.Option == "data" {
		if err := There(Path{o.named("data-dir"), o.DataDir, "a directory that holds " + o.Data, Folder}); err != nil {
			return nil, err
		}
	}
	if err != nil {
		return nil, err
	}
	if err := o.fitsMemory(p); err != nil {
		_ = p.Close()
		return nil, err
	}
	return p, nil
}

// Train trains. When ctx is cancelled it saves a checkpoint and returns the context's error.
func (o Train) Train(ctx context.Context, h Hooks) (out recipe.Result, err error) {
	o.Command = o.command()
	if _, err := o.Resolve(); err != nil {
		return out, o.Flagged(err)
	}
	if o.Out == "" {
		return out, usage("--out is missing: want a directory for the run")
	}
	if o.Resume {
		var note string
		if o.Threads, note = threadsToResume(o.Out, o.Device, o.Threads); note != "" {
			h.warn(note)
		}
	}
	if err := use(o.Device, o.Threads, h.warn); err != nil {
		return out, err
	}
	o.Log, o.Progress, o.Scalars = h.Log, h.Progress, h.Scalars
	o.Started = func(p *recipe.Plan, run *rundir.Dir) {
		if h.Started != nil {
			h.Started(p, run, p.Start.Network.Count())
		}
		if h.Data != nil {
			h.Data(summary(p))
		}
	}
	o.Sample = func(ctx context.Context, m recipe.Snapshot) error { return o.sample(ctx, m, h) }
	var e *evaluator
	if o.EvalEvery > 0 {
		o.Evaluate = func(ctx context.Context, m recipe.Snapshot) (training.Evaluation, error) { return e.measure(ctx, m) }
	}
	p, err := o.plan()
	if err != nil {
		return out, o.Flagged(err)
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	if o.EvalEvery > 0 {
		o.Run = p.Run
		if e, err = o.newEvaluator(ctx, p, h); err != nil {
			return out, err
		}
		defer e.close()
	}
	out, err = p.Train(ctx)
	return out, o.Flagged(err)
}

// sample writes a sample grid into the run directory.
func (o Train) sample(ctx context.Context, m recipe.Snapshot, h Hooks) error {
	img, err := examples(ctx, m.Function, m.Description, m.Net, 64)
	if errors.Is(err, vision.ErrNaN) { // the run's guard decides what to do about it
		if h.Log != nil {
			h.Log.Warn("no sample grid", "step", m.Step, "reason", err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	if h.Picture != nil {
		if err := h.Picture(m.Step, img); err != nil {
			return err
		}
	}
	return vision.Write(m.Run.File(fmt.Sprintf("samples-%07d.png", m.Step)), img, vision.WriteOptions{Overwrite: true})
}

// paths lists the paths that a run reads.
func (o Train) paths() []Path {
	teacher, _ := o.Values()["teacher"].(string)
	data := dataPath(o.Data)
	data.Flag = o.named("data")
	return []Path{
		data,
		ownModel(o.named("teacher"), teacher, "a denoiser: a model file, a run directory, or empirical"),
		ownModel(o.named("init"), o.Init, "a model file, a run directory, or none"),
	}
}

// named names an option as the user has set it: by its flag, or by its name in a file.
func (o Train) named(option string) string {
	if file, read := o.From[option]; read {
		return file + ": " + strings.ReplaceAll(option, "-", "_")
	}
	return "--" + option
}

// flags names the library's options by the tool's flags, or by the files that they were read from.
func (o Train) flags() recipe.Naming {
	return recipe.Naming{
		Name: o.named,
		Set:  func(option, value string) string { return strings.TrimSuffix("pass --"+option+" "+value, " ") },
	}
}

// flagError is an error of the library that names flags instead of options.
type flagError struct {
	msg string
	err error
}

func (e *flagError) Error() string { return e.msg }
func (e *flagError) Unwrap() error { return e.err }

// Flagged turns an error of the library into one of the tool, which names flags and says what to do.
func (o Train) Flagged(err error) error {
	var of *recipe.OptionError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &of):
		return hinted(o.skippable(err))
	case of.Usage:
		return &UsageError{of.Text(o.flags())}
	}
	if of.NoModel {
		path, _ := o.Values()[of.Option].(string)
		return instead(o.named(of.Option), path, errors.Unwrap(of))
	}
	return hinted(o.skippable(&flagError{of.Text(o.flags()), err}))
}

// command returns the command line of these options, without the run directory and what depends on the machine. Call it before the
// options are resolved.
func (o Train) command() string {
	values := o.Values()
	words := []string{"onestep", "train", "--method", fmt.Sprint(values["method"])}
	for _, option := range recipe.Options() {
		ofNetwork := option.Of != nil && option.Of[0].Kind == "network" // whose defaults are each network's own
		switch v, given := values[option.Name]; {
		case !given || option.Name == "data-dir" || option.IsDefault(v) && !ofNetwork:
		case v == true:
			words = append(words, "--"+option.Name)
		default:
			words = append(words, "--"+option.Name, shellWord(options.Text(v)))
		}
	}
	if o.Threads != 0 {
		words = append(words, "--threads", fmt.Sprint(o.Threads))
	}
	return strings.Join(words, " ")
}

// ReadConfig reads a JSON file of options.
func ReadConfig(path string) (recipe.Values, error) {
	if err := There(Path{"--config", path, "a JSON file of options, as --dry-run prints", File}); err != nil {
		return nil, err
	}
	text, err := plainfile.Read(path, 1<<20)
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	values, err := readOptions(text)
	if err != nil {
		return nil, usage("--config %s: %s", quote.Path(path), quote.Text(err.Error()))
	}
	return values, nil
}

func readOptions(text []byte) (recipe.Values, error) {
	threads, _ := options.Named(new(Train), "threads")
	return recipe.ReadOptions(text, threads)
}

// ReadRun reads the options of the run in a directory; it returns nil if there is no run.
func ReadRun(dir string) (recipe.Values, error) {
	path := filepath.Join(dir, "options.json")
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	all, err := rundir.ReadOptions(dir) // its error says what is wrong with the file
	if err != nil {
		return nil, err
	}
	if _, ours := all["method"]; !ours {
		return nil, fmt.Errorf("%s was started by a Go program and not by this command: resume it with that program; its snapshots work here like any model, also for --init",
			quote.Path(dir))
	}
	text, err := plainfile.Read(path, 1<<20)
	if err != nil {
		return nil, err
	}
	values, err := readOptions(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %s", quote.Path(path), quote.Text(err.Error()))
	}
	return values, nil
}

// use checks the device and sets the number of CPU threads per operator, at most the number of processors, with a notice; 0 keeps
// libtorch's default.
func use(dev torch.Device, n int, note func(string)) error {
	if err := dev.Available(); err != nil {
		return err
	}
	if n == 0 {
		return nil
	}
	n, notice := threads(n)
	if notice != "" && note != nil {
		note(notice)
	}
	return torch.SetThreads(n)
}

// graphsOn returns an error if --cuda-graphs is set and the device is not a GPU.
func graphsOn(dev torch.Device, on bool) error {
	if on && !dev.IsCUDA() {
		return usage("--cuda-graphs: they are for --device cuda, and the device is %s", dev)
	}
	return nil
}

// withoutGraphs is the notice of why networks do not run as CUDA graphs.
func withoutGraphs(err error) string {
	return fmt.Sprintf("no CUDA graphs, without which the images are the same: %v", err)
}

// examples samples a grid, always with the same seeds as onestep sample by default.
func examples(ctx context.Context, f any, d checkpoint.Description, net network.Network, n int) (image.Image, error) {
	m, err := generate.FromFunction(f, d, net, "")
	if err != nil {
		return nil, err
	}
	var images []image.Image
	for img, err := range m.Images(ctx, generate.Request{N: n, Batch: n}) {
		if err != nil {
			return nil, err
		}
		images = append(images, img.Image)
	}
	return vision.Grid(images, 0)
}
