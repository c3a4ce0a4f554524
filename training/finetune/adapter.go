package finetune

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/onestep-go/onestep/internal/options"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/training/rundir"
)

// Adapter has the options of runs that train an adapter.
type Adapter struct {
	Rank    int      `option:"rank" default:"64" range:"[1,65536]" help:"rank of the adapter"`
	Alpha   float64  `option:"alpha" range:"(0,1000000]" help:"alpha; the adapter's scale is alpha/rank (default: the rank)"`
	Targets []string `option:"targets" value:"NAME,NAME" help:"target modules, by the ends of their names (default: those of LCM-LoRA)"`
	Init    string   `option:"init" value:"FILE" help:"adapter to start from, with its ranks, alphas and target modules (default: a new one)"`
	Layout  string   `option:"layout" default:"kohya" choices:"kohya,peft,diffusers" help:"layout of the adapter's file; all programs read kohya's"`
	Name    string   `option:"name" value:"NAME" help:"name of the adapter in other programs (default: that of the run directory)"`

	from sd.AdapterInfo // of Init
}

func (a *Adapter) complete(r *Run) error {
	if r.Adapters == nil {
		return errors.New("training an adapter needs Adapters, such as lora.Adapters{}")
	}
	switch {
	case a.Init != "":
		a.Rank = 0 // the file's own
	case a.Alpha == 0:
		a.Alpha = float64(a.Rank)
	}
	return nil
}

// checkInit refuses options that the file to start from decides, before they have their defaults.
func (a *Adapter) checkInit(text bool) error {
	if a.Init == "" {
		return nil
	}
	for _, o := range options.Of(a) {
		if slices.Contains([]string{"rank", "alpha", "targets"}, o.Name) && !o.IsZero() {
			return decidedByInit(o.Name)
		}
	}
	if text {
		return decidedByInit("text-encoder")
	}
	return nil
}

func decidedByInit(option string) error {
	return options.Refuse(option, "%s cannot be chosen with %s: the adapter's file decides it; leave one of them out", options.NameOf(option), options.NameOf("init"))
}

// inspect reads what the file to start from has.
func (a *Adapter) inspect(r *Run, files *weights.Model) error {
	var err error
	a.from, err = r.Adapters.Inspect(files, a.Init)
	if err == nil && a.from.Stuck {
		err = fmt.Errorf("%s: all its weights or its scale are zero, which training cannot change: leave the option out for a new adapter", quote.Path(a.Init))
	}
	return options.Failed("init", err)
}

// plan counts the target modules on a model, and the parameters of their adapters. Targets that no layer has, and a rank above what a layer can
// use, are errors.
func (a *Adapter) plan(r *Run, files *weights.Model, text bool) (modules int, parameters int64, err error) {
	p, err := r.Adapters.Plan(files, a.config(r, text))
	switch {
	case err != nil:
		return 0, 0, options.Failed("model", err)
	case len(p.Unused) > 0:
		return 0, 0, options.Refuse("targets", "%s: the model has no module %s", options.NameOf("targets"), strings.Join(quote.Texts(p.Unused), ", "))
	case len(p.Layers) == 0:
		return 0, 0, options.Refuse("targets", "%s: the model's network has none of these modules", options.NameOf("targets"))
	}
	for _, l := range p.Layers {
		if most := min(l.In, l.Out); a.Rank > most {
			return 0, 0, options.Refuse("rank", "%s: layer %s has a weight of %d×%d, whose rank is at most %d: want at most that, got %d", options.NameOf("rank"), quote.Text(l.Name), l.Out, l.In, most, a.Rank)
		}
	}
	return len(p.Layers), p.Parameters(a.Rank), nil
}

func (a *Adapter) config(r *Run, text bool) sd.AdapterConfig {
	return sd.AdapterConfig{Rank: a.Rank, Alpha: a.Alpha, Targets: a.Targets, Text: text, Seed: r.Seed}
}

// make makes or reads the adapter of a run. With another seed it is its EMA's.
func (a *Adapter) make(r *Run, m *sd.Model, text bool) (sd.Adapter, error) {
	if a.Init != "" {
		made, err := r.Adapters.Continue(m, a.Init)
		return made, options.Failed("init", err)
	}
	made, err := r.Adapters.New(m, a.config(r, text))
	return made, options.Failed("targets", err)
}

// adapterFiles writes the snapshots of an adapter.
type adapterFiles struct {
	run     *rundir.Dir
	adapter sd.Adapter
	file    sd.AdapterFile
}

// Path implements [training.Snapshots].
func (f *adapterFiles) Path(step int) string { return f.run.Snapshot(step, "") }

// Write implements [training.Snapshots].
func (f *adapterFiles) Write(_ context.Context, _ *torch.Scope, step int, images int64) error {
	file := f.file
	file.Metadata = map[string]string{"ss_steps": strconv.Itoa(step), "onestep_images": strconv.FormatInt(images, 10)}
	for k, v := range f.file.Metadata {
		file.Metadata[k] = v
	}
	return f.adapter.Save(f.Path(step), file)
}

// about is what an adapter's file says of the run.
func (p *Plan) about(a *Adapter, method string) sd.AdapterFile {
	r := p.Run
	options, _ := json.Marshal(r.entries(method, p.Options, p.holds))
	decimal := func(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
	d := r.saved()
	original := 0
	if m, ok := p.method.(*LCM); ok {
		original = p.grid(m)
	}
	name := cmp.Or(a.Name, filepath.Base(filepath.Clean(r.Out)))
	return sd.AdapterFile{
		Layout: a.Layout, DType: &d, Title: name, Base: p.name, Kind: p.kind, Prediction: p.predicts.Diffusers(), Width: p.size.X, Height: p.size.Y, Date: time.Now(), OriginalSteps: original,
		Metadata: map[string]string{
			"ss_learning_rate": decimal(r.LR), "ss_lr_scheduler": r.LRSchedule, "ss_lr_warmup_steps": strconv.Itoa(r.LRWarmup.Steps(r.Steps)),
			"ss_max_train_steps": strconv.Itoa(r.Steps), "ss_total_batch_size": strconv.Itoa(r.Batch * r.GradAccum), "ss_gradient_accumulation_steps": strconv.Itoa(r.GradAccum),
			"ss_optimizer": "AdamW", "ss_seed": strconv.FormatUint(r.Seed, 10), "ss_num_train_images": strconv.Itoa(p.Data.Len()), "ss_mixed_precision": map[string]string{"f32": "no", "f16": "fp16", "bf16": "bf16"}[r.DType],
			"ss_gradient_checkpointing": map[bool]string{true: "True", false: "False"}[r.Checkpointing], "ss_clip_skip": strconv.Itoa(r.ClipSkip + 1),
			sd.RunEntry: string(options),
		},
	}
}

// split divides an adapter's weights into those of the text encoders and those of the network.
func split(a sd.Adapter) (texts, network iter.Seq2[string, *torch.Tensor]) {
	only := func(text bool) iter.Seq2[string, *torch.Tensor] {
		return func(yield func(string, *torch.Tensor) bool) {
			for name, p := range a.Parameters() {
				if strings.HasPrefix(name, "text_encoder") == text && !yield(name, p) {
					return
				}
			}
		}
	}
	return only(true), only(false)
}
