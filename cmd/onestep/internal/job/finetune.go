package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/options"
	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/sampling/texttoimage"
	"github.com/onestep-go/onestep/training/dataset"
	"github.com/onestep-go/onestep/training/finetune"
	"github.com/onestep-go/onestep/training/recipe"
	"github.com/onestep-go/onestep/training/rundir"
)

// Finetune is a run of package finetune, and the tool's own options.
type Finetune struct {
	Options any           // *finetune.LCM, *finetune.LoRA or *finetune.LDM
	Run     *finetune.Run // in Options
	Plan    func(ctx context.Context) (*finetune.Plan, error)

	Threads int
	Force   bool // run even if the estimated memory exceeds what is available
	Version string
}

// finetuneOwn are keys of options.json that are the tool's.
var finetuneOwn = []string{"onestep", "threads"}

// ReadConfig reads a JSON file of options; path is that of --config, or of a run's options.json. It sets Threads to the file's number, unless it
// is set. beside are keys that are no options, such as the sums of files that a run's options.json has. A run of another command is an error.
func (o *Finetune) ReadConfig(path, kind string) (values map[string]any, beside []string, err error) {
	if err := There(Path{"--config", path, "a JSON file of options, as a run's options.json", File}); err != nil {
		return nil, nil, err
	}
	text, err := plainfile.Read(path, 1<<20)
	if err != nil {
		return nil, nil, fmt.Errorf("--config: %w", err)
	}
	if values, err = finetune.ReadOptions(o.Options, text, finetuneOwn...); err != nil {
		return nil, nil, usage("--config %s: %s", quote.Path(path), quote.Text(err.Error()))
	}
	var all map[string]any
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, nil, fmt.Errorf("--config: %w", quote.Error(err))
	}
	if of, there := all["run"]; there && of != kind {
		return nil, nil, usage("--config %s: it has options of %s, want those of %s", quote.Path(path), quote.Text(fmt.Sprint(of)), kind)
	}
	n := threadsOf(all)
	if v, there := all["threads"]; there && n == 0 {
		return nil, nil, usage("--config %s: threads: want 1 to %d, got %s", quote.Path(path), mostThreads, quote.Text(fmt.Sprint(v)))
	}
	if o.Threads == 0 {
		o.Threads = n
	}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if _, ok := options.Named(o.Options, strings.ReplaceAll(key, "_", "-")); !ok && !slices.Contains([]string{"run", "history", "onestep", "threads"}, key) {
			beside = append(beside, key)
		}
	}
	return values, beside, nil
}

// ReadRun reads the options of the run in the run directory; nil if there is none.
func (o *Finetune) ReadRun(kind string) (map[string]any, error) {
	path := filepath.Join(o.Run.Out, "options.json")
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	all, err := rundir.ReadOptions(o.Run.Out)
	if err != nil {
		return nil, err
	}
	if was, _ := all["run"].(string); was != kind {
		return nil, usage("--out %s: it holds a run of another command, want one of onestep %s", quote.Path(o.Run.Out), kind)
	}
	values, _, err := o.ReadConfig(path, kind)
	return values, err
}

// Open decides everything, and checks the memory. The caller closes the plan.
func (o Finetune) Open(ctx context.Context) (*finetune.Plan, error) {
	r := o.Run
	if err := o.ofRuns(); err != nil {
		return nil, err
	}
	there := []Path{{"--model", r.Model, wantDiffusion, WholeModel}, {"--val-prompts", r.ValPrompts, "a text file with a prompt on each line", File}}
	if l, ok := o.Options.(*finetune.LDM); ok {
		there = append(there, Path{"--autoencoder", l.Autoencoder, "an autoencoder: a directory or a .safetensors file", Either})
	}
	if err := There(there...); err != nil {
		return nil, err
	}
	var err error
	if r.Model, err = stored(r.Model); err != nil {
		return nil, err
	}
	r.Adapters, r.Draw = lora.Adapters{}, drawSample
	r.Extra = map[string]any{}
	if o.Version != "" {
		r.Extra["onestep"] = o.Version
	}
	if o.Threads != 0 {
		r.Extra["threads"] = o.Threads
	}
	p, err := o.Plan(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		for flag, path := range o.adapters() {
			if err := There(Path{flag, *path, wantAdapter, Either}); err != nil {
				return nil, err
			}
		}
	}
	if err != nil {
		return nil, o.Flagged(err)
	}
	n, err := p.Need()
	if err == nil && !o.Force {
		less := "choose a smaller --batch or --resolution"
		if !r.Checkpointing {
			less += ", --checkpointing"
		}
		if _, is := options.Named(o.Options, "dtype"); is && r.DType == "f32" {
			less += ", or --dtype bf16"
		}
		err = (need{n.Device(), n.Host}).enough(r.Device, "training", less)
	}
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// adapters are the adapters that a run reads, by the flags that name them.
func (o Finetune) adapters() map[string]*string {
	switch m := o.Options.(type) {
	case *finetune.LCM:
		return map[string]*string{"--init": &m.Init}
	case *finetune.LoRA:
		return map[string]*string{"--init": &m.Init, "--few-step": &m.FewStep}
	}
	return nil
}

// ofRuns replaces the runs that a run starts from with their snapshots.
func (o Finetune) ofRuns() error {
	note := func(text string) {
		if o.Run.Log != nil {
			o.Run.Log.Warn(text)
		}
	}
	models := map[string]*string{"--model": &o.Run.Model}
	if m, ok := o.Options.(*finetune.LDM); ok {
		models = map[string]*string{"--autoencoder": &m.Autoencoder}
	}
	for flag, path := range o.adapters() {
		if err := replaceRun(note, flag, path, adapterOfRun); err != nil {
			return err
		}
	}
	return ofRuns(note, models)
}

// Ready returns the errors of a plan's device and run directory, which a run would end with.
func (o Finetune) Ready(p *finetune.Plan) error {
	if err := o.Run.Device.Available(); err != nil {
		return err
	}
	_, err := p.Check()
	return o.Flagged(err)
}

// Train trains.
func (o Finetune) Train(ctx context.Context) (out finetune.Result, err error) {
	note := func(text string) { o.Run.Log.Warn(text) }
	if o.Run.Resume {
		var text string
		if o.Threads, text = threadsToResume(o.Run.Out, o.Run.Device, o.Threads); text != "" {
			note(text)
		}
	}
	if err := use(o.Run.Device, o.Threads, note); err != nil {
		return out, err
	}
	p, err := o.Open(ctx)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	out, err = p.Train(ctx)
	return out, o.Flagged(err)
}

// flags names the library's options by the tool's flags.
var flags = recipe.Naming{
	Name: func(option string) string { return "--" + option },
	Set:  func(option, value string) string { return strings.TrimSuffix("pass --"+option+" "+value, " ") },
}

// Flagged turns an error of the library into one of the tool, which names flags and says what to do.
func (o Finetune) Flagged(err error) error {
	var of *finetune.OptionError
	var corrupt *dataset.CorruptError
	if err == nil {
		return nil
	}
	if errors.As(err, &of) {
		if of.Usage {
			return &UsageError{of.Text(flags)}
		}
		err = &flagError{of.Text(flags), err}
	}
	if o.Run.Corrupt != "skip" && errors.As(err, &corrupt) {
		return fmt.Errorf("%w; repair or remove it, or pass --corrupt skip", err)
	}
	return hinted(err)
}

// drawSample generates validation images: what a user of the snapshot would get with these settings.
func drawSample(ctx context.Context, v finetune.Sample) ([]image.Image, error) {
	p := texttoimage.Pipeline{Model: v.Model, Steps: v.Steps, OriginalSteps: v.OriginalSteps, Guidance: v.Guidance, Seed: v.Seed, Width: v.Width, Height: v.Height}
	if v.Adapter != nil {
		p.Adapters = v.Adapter.At(1)
	}
	if v.Sampler != "" {
		var err error
		if p.Method, err = scheduler.Named(v.Sampler); err != nil {
			return nil, err
		}
	}
	if v.Eta != nil {
		p.Method = scheduler.TCD{Eta: *v.Eta}
	}
	var all []image.Image
	for img, err := range p.Images(ctx, v.Prompts...) {
		if err != nil {
			return nil, err
		}
		all = append(all, img)
	}
	return all, nil
}

// FinetunePlan is what a dry run tells.
type FinetunePlan struct {
	Run        string         `json:"run"`
	Options    map[string]any `json:"options"`
	Modules    int            `json:"modules,omitempty"` // of an adapter
	Parameters int64          `json:"parameters"`        // that are trained
	Images     int            `json:"images"`
	Samples    int64          `json:"samples"`   // of an epoch
	Captioned  int            `json:"captioned"` // images with a caption of their own
	Data       string         `json:"data"`
	Notices    []string       `json:"notices,omitempty"`
	Memory     float64        `json:"memory"`              // estimate, in bytes
	Available  int64          `json:"available,omitempty"` // in bytes
	Limit      string         `json:"limit,omitempty"`     // what limits it
}

// Describe tells what a plan is.
func (o Finetune) Describe(kind string, p *finetune.Plan) (FinetunePlan, error) {
	n, err := p.Need()
	if err != nil {
		return FinetunePlan{}, err
	}
	s := p.Data.Summary()
	out := FinetunePlan{
		Run: kind, Options: options.Values(p.Options), Modules: p.Modules, Parameters: p.Parameters, Images: s.Images, Samples: s.Samples, Captioned: s.Images - s.Uncaptioned, Data: s.String(),
		Notices: p.Notices(), Memory: n.Device(),
	}
	if !o.Run.Device.IsCUDA() {
		out.Memory += n.Host + host
	}
	if space, ok := roomOn(o.Run.Device); ok {
		out.Available, out.Limit = space.Bytes, space.Limit
	}
	return out, nil
}
