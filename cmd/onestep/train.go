package main

import (
	"cmp"
	"context"
	"fmt"
	"image"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/onestep-go/onestep/cmd/onestep/internal/job"
	"github.com/onestep-go/onestep/internal/number"
	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/training"
	"github.com/onestep-go/onestep/training/recipe"
	"github.com/onestep-go/onestep/training/rundir"
	"github.com/onestep-go/onestep/training/tfevents"
)

func (a *app) train() *cobra.Command {
	var o job.Train
	var given *runFlags
	var config string
	var dry, card bool
	cmd := &cobra.Command{
		Use:        "train --data DATA --out DIR",
		SuggestFor: []string{"data", "fit", "finetune", "distill"},
		Short:      "Train a consistency model",
		Long: `Train a consistency model, or a denoiser to distil into one. The methods:

` + aboutMethods() + `
The networks:

` + job.AboutNetworks() + `
The run directory gets options.json (every option, resolved), card.md (formulas, schedules, attainable accuracy), stats.jsonl,
log.txt, event files for TensorBoard, sample grids, snapshots (model-STEP.safetensors: EMA weights, to sample from) and
checkpoints (state-STEP.safetensors, to resume from). With --eval-every images of the model are compared with real ones, as by
onestep eval, and the best snapshot is kept as best.safetensors, which is used where the directory is passed as a model. Ctrl-C saves and
exits with 130; the same command with --resume continues exactly, and starts the run, with a warning, if there is none. On the CPU
with one thread results repeat bit by bit. A second Ctrl-C exits at once. With --method METHOD, --help shows only the options of
that method.`,
		Example: `  onestep train --method ict --data emoji --out runs/emoji --steps 20000
  onestep train --data fashion-mnist --out runs/fashion --duration 2h
  onestep train --method edm --data cifar10 --out runs/teacher
  onestep train --method cd --teacher runs/teacher --data cifar10 --out runs/student
  onestep train --data photos/ --resolution 64 --out runs/photos --device cuda`,
		Args: arguments(0, "no arguments, only flags"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var run, file recipe.Values
			var err error
			if o.Resume && config == "" && o.Out != "" && (o.Extend || !cmd.Flags().Changed("data")) {
				switch run, err = job.ReadRun(o.Out); {
				case err != nil:
					return err
				case run == nil && o.Extend:
					return &job.UsageError{Msg: fmt.Sprintf("--extend: there is no run in %s", quote.Path(o.Out))}
				case run == nil:
					return &job.UsageError{Msg: fmt.Sprintf("--resume: there is no run in %s; to start one there, pass --data", quote.Path(o.Out))}
				}
			}
			if config != "" {
				if file, err = job.ReadConfig(config); err != nil {
					return err
				}
			}
			if o.Threads == 0 {
				o.Threads = max(threadsOf(run), threadsOf(file))
			}
			o.From = map[string]string{}
			for option := range run {
				o.From[option] = quote.Path(filepath.Join(o.Out, "options.json"))
			}
			for option := range file {
				o.From[option] = "--config " + quote.Path(config)
			}
			cmd.Flags().Visit(func(f *pflag.Flag) { delete(o.From, f.Name) })
			if err := given.apply(&o.Run, run, file); err != nil {
				return o.Flagged(err)
			}
			o.Version = versionText()
			if dry || card {
				return a.dryRun(o, card)
			}
			return a.doTrain(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	given = runOptions(f)
	f.StringVar(&o.Out, "out", "", "run directory; created if missing, never overwritten (required)")
	f.BoolVar(&o.Resume, "resume", false, "resume the run in --out, or start it if there is none; without --data it takes the run's own options")
	f.BoolVar(&o.Extend, "extend", false, "with --resume: continue beyond the run's end with other --steps, --lr or --lr-decay")
	f.StringVar(&config, "config", "", "JSON file of options, named as in options.json; flags override it")
	f.DurationVar(&o.Duration, "duration", 0, "stop after a time such as 90m, with everything saved as at the end; --resume continues (default: after --steps)")
	f.Var(count{&o.Threads}, "threads", "CPU threads per operator (default: all processors)")
	f.BoolVar(&o.Force, "force", false, "run even if the estimated memory exceeds what is available")
	f.BoolVar(&card, "card", false, "print the card (loss, schedules, attainable accuracy) and exit; needs no --out")
	f.BoolVar(&dry, "dry-run", false, "print the resolved options as JSON, for --config, and exit; needs no --out")
	a.jsonFlag(cmd)
	call(f, "DIR", "out")
	call(f, "FILE", "config")
	call(f, "METHOD", "method")
	call(f, "TIME", "duration")
	hideDefault(f, "duration")
	offerChoices(cmd)
	offer(cmd, "data", "emoji", "fashion-mnist", "cifar10", "cifar100")
	offer(cmd, "eval-data", "emoji", "fashion-mnist", "cifar10", "cifar100")
	offer(cmd, "eval-features", job.FeatureNames()...)
	offer(cmd, "device", "cpu", "cuda")
	var ofNetworks []string
	for _, option := range job.NetworkOptions() {
		ofNetworks = append(ofNetworks, option.Name)
	}
	helpOfMethod(cmd, given)
	byTopic(cmd,
		topic{"Run", "data out method steps duration resume extend config seed card dry-run json"},
		topic{"Data", "data-dir resolution colors classes label-dropout flip corrupt workers"},
		topic{"Network", "network " + strings.Join(ofNetworks, " ") + " dropout init"},
		topic{"Optimizer and EMA", "batch lr lr-decay clip skips rollbacks ema widths half-lives"},
		topic{"Method", "*"},
		topic{"Output", "save-every keep sample-every log-every"},
		topic{"Evaluation", "eval-every eval-data eval-n eval-steps eval-features"},
		topic{"Device and memory", "device precision checkpointing threads force"},
	)
	return cmd
}

// threadsOf returns the number of threads in a file of options; 0 if it has none.
func threadsOf(v recipe.Values) int {
	n, _ := v["threads"].(int)
	return n
}

// skipped writes the number of skipped steps.
func skipped(n int) string {
	if n == 0 {
		return ""
	}
	return ", " + plural.N(n, "step") + " skipped"
}

// dryRun prints a run's options or card without starting it.
func (a *app) dryRun(o job.Train, card bool) error {
	p, err := o.Plan()
	if err != nil {
		return err
	}
	defer p.Close()
	newScreen(a.stderr).log.Info("the network", "weights", p.Start.Network.Count())
	if card {
		text, err := p.Card()
		if err != nil {
			return err
		}
		return a.print(map[string]string{"card": text}, text)
	}
	if a.json {
		return writeJSON(a.stdout, p.Run, "")
	}
	return writeJSON(a.stdout, p.Run, "  ")
}

// trained is the result of a run, as JSON.
type trained struct {
	Step     int     `json:"step"`
	Images   int64   `json:"images"`             // images seen
	Loss     float64 `json:"loss,omitempty"`     // of the last step; absent if no steps were left to do
	Skipped  int     `json:"skipped"`            // steps skipped because the loss or a gradient was not finite
	Corrupt  int     `json:"corrupt"`            // corrupt images skipped
	Resized  int     `json:"resized"`            // images cropped and resized, as their size is not that of the others
	Snapshot string  `json:"snapshot,omitempty"` // a file to sample from
	State    string  `json:"state,omitempty"`    // a checkpoint to resume from
	Finished bool    `json:"finished"`           // whether all steps were done

	Best      string  `json:"best,omitempty"` // the best snapshot, by evaluations
	BestStep  int     `json:"best_step,omitempty"`
	BestValue float64 `json:"best_value,omitempty"`
	BestOf    string  `json:"best_measure,omitempty"` // what the value is
}

func (a *app) doTrain(ctx context.Context, o job.Train) error {
	sc := newScreen(a.stderr)
	h := job.Hooks{Log: sc.log}
	var events *tfevents.Writer
	var speed pace
	h.Started = func(p *recipe.Plan, run *rundir.Dir, parameters int) {
		sc.tee(run.Log())
		r := p.Run
		sc.log.Info("training", append(append([]any{"method", r.Method.Spec().Name, "data", r.Data, "steps", r.Steps, "batch", r.Batch, "resolution", r.Resolution},
			r.Chosen()...), "ema", number.Short(*r.EMA), "init", cmp.Or(r.Init, "none"), "parameters", parameters, "device", r.Device, "out", run.Path())...)
		var err error
		if events, err = tfevents.Create(run.Path()); err != nil {
			sc.log.Warn("no event file for TensorBoard", "error", err)
		}
		sc.start()
		sc.next = time.Now().Add(settled) // then once a minute
	}
	h.Data = func(d job.DataSummary) {
		speed.images = d.Images
		sc.log.Info("data", d.Values()...)
		for _, n := range d.Notices {
			sc.log.Warn(n)
		}
		if d.LeftOut != "" {
			sc.log.Warn("image files in unsupported formats were skipped: convert them to use them", "files", d.LeftOut)
		}
	}
	h.Progress = func(p training.Progress) {
		sc.trained(p, &speed, o.Duration,
			fmt.Sprintf("loss %.4g, %.1f images/s, %s left%s", p.Loss, p.ImagesPerSecond, duration(p.Left), skipped(p.Skipped)))
	}
	h.Scalars = func(k int, values map[string]float64) error { return events.Scalars(int64(k), values) }
	h.Picture = func(k int, img image.Image) error { return events.Image(int64(k), "samples", img) }
	r, err := o.Train(ctx, h)
	sc.stop()
	sc.tee(nil) // the run's log is closed
	if cerr := events.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		a.continues(r.Result, err)
		return err
	}
	a.stopped(r.Result, o.Steps)
	text := plural.N(r.Step, "step") + ", " + plural.N(r.Seen, "image")
	if r.Loss != 0 {
		text += fmt.Sprintf(", loss %.5g", r.Loss)
	}
	text += skipped(r.Skipped)
	if r.Corrupt > 0 {
		text += ", " + plural.N(r.Corrupt, "corrupt image") + " skipped"
	}
	if r.Resized > 0 {
		text += ", " + plural.N(r.Resized, "image") + " of other sizes cropped and scaled"
	}
	text += "\nsnapshot: " + r.Snapshot + "\n"
	out := trained{Step: r.Step, Images: r.Seen, Loss: r.Loss, Skipped: r.Skipped, Corrupt: r.Corrupt, Resized: r.Resized, Snapshot: r.Snapshot, State: r.State, Finished: r.Finished}
	if b := r.Chosen; b != nil {
		out.Best, out.BestStep, out.BestValue, out.BestOf = b.Path, b.Step, b.Value, b.Of
		text += fmt.Sprintf("best: %s (step %d, %s %.5g)\n", b.Path, b.Step, quote.Text(b.Name), b.Value)
	}
	return a.print(out, text)
}

// aboutMethods has a line for each method.
func aboutMethods() string {
	var b strings.Builder
	longest := 0
	for _, name := range recipe.Names() {
		longest = max(longest, len(name))
	}
	for _, m := range recipe.Methods() {
		fmt.Fprintf(&b, "  %-*s %s\n", longest, m.Spec().Name, m.Spec().About)
	}
	return b.String()
}
