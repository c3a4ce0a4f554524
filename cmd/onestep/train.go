package main

import (
	"context"
	"errors"
	"fmt"
	"image"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/onestep-go/onestep/cmd/onestep/internal/job"
	"github.com/onestep-go/onestep/internal/number"
	"github.com/onestep-go/onestep/training"
	"github.com/onestep-go/onestep/training/rundir"
	"github.com/onestep-go/onestep/training/tfevents"
)

func (a *app) train() *cobra.Command {
	o := job.DefaultTrain()
	var config string
	var dry, card bool
	cmd := &cobra.Command{
		Use:        "train --data DATA --out DIR",
		SuggestFor: []string{"data", "fit", "finetune", "distill"},
		Short:      "Train a consistency model",
		Long: `Train a consistency model, or a denoiser to distil into one. The methods:

` + job.AboutMethods() + `
The networks:

` + job.AboutNetworks() + `
The run directory gets options.json (every option, resolved), card.md (formulas, schedules, what they can reach), stats.jsonl,
log.txt, event files for TensorBoard, sample grids, snapshots (model-STEP.safetensors: EMA weights, to sample from) and
checkpoints (state-STEP.safetensors, to resume from). Ctrl-C saves and exits with 130; the same command with --resume continues
exactly, and starts the run, with a warning, if there is none. On the CPU with one thread results repeat bit by bit. A second
Ctrl-C exits at once.`,
		Example: `  onestep train --method ict --data emoji --out runs/emoji --steps 20000
  onestep train --data fashion-mnist --out runs/fashion --duration 2h
  onestep train --method edm --data cifar10 --out runs/teacher
  onestep train --method cd --teacher runs/teacher --data cifar10 --out runs/student
  onestep train --data photos/ --resolution 64 --out runs/photos --device cuda`,
		Args: arguments(0, "no arguments, only flags"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Resume && config == "" && o.Out != "" && (o.Extend || !cmd.Flags().Changed("data")) {
				if err := readBeneath(cmd.Flags(), func() error { _, err := o.ReadRun(); return err }); err != nil {
					return err
				}
			}
			if config != "" {
				if err := readBeneath(cmd.Flags(), func() error { return o.ReadConfig(config) }); err != nil {
					return err
				}
			}
			cmd.Flags().Visit(func(f *pflag.Flag) { o.Given = append(o.Given, f.Name) })
			if cmd.Flags().Changed("ema") && o.EMA < 0 {
				return &job.UsageError{Msg: fmt.Sprintf("--ema: want a decay in [0, 1), got %g", o.EMA)}
			}
			if cmd.Flags().Changed("sample-every") && o.SampleEvery < 0 {
				return &job.UsageError{Msg: fmt.Sprintf("--sample-every: want at least 0 steps, got %d", o.SampleEvery)}
			}
			if cmd.Flags().Changed("warmup") && o.Warmup < 0 {
				return &job.UsageError{Msg: fmt.Sprintf("--warmup: want a number of steps from 0 on, got %d", o.Warmup)}
			}
			if err := foreign(cmd.Flags(), o); err != nil {
				return err
			}
			if dry || card {
				return a.dryRun(o, card)
			}
			return a.doTrain(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.Var(choice{&o.Method, job.Methods()}, "method", "training method, see above")
	f.StringVar(&o.Data, "data", "", "emoji, fashion-mnist, cifar10, cifar100, or the path of a folder of images, a .tar or .tar.gz shard or\na pattern for several, an IDX file, or files of CIFAR-10 or CIFAR-100 (required)")
	f.StringVar(&o.Out, "out", "", "run directory; created if missing, never overwritten (required)")
	f.BoolVar(&o.Resume, "resume", false, "resume the run in --out, or start it if there is none; without --data it takes the run's own options")
	f.BoolVar(&o.Extend, "extend", false, "with --resume: continue beyond the run's end with other --steps, --lr or --lr-decay")
	f.StringVar(&config, "config", "", "JSON file of options, named as in options.json; flags override it")
	f.Var(count{&o.Steps}, "steps", "optimizer steps of the whole run")
	f.DurationVar(&o.Duration, "duration", 0, "stop after a time such as 90m, with everything saved as at the end; --resume continues (default: after --steps)")
	f.Var(count{&o.Batch}, "batch", "batch size")
	f.Float64Var(&o.LR, "lr", o.LR, "learning rate of RAdam")
	f.Float64Var(&o.LRDecay, "lr-decay", o.LRDecay, "final fraction of training with linear learning-rate decay; not for pd, which decays in every stage")
	f.Uint64Var(&o.Seed, "seed", 0, "seed of initial weights, data order and noise (default 0)")
	f.StringVar(&o.Device, "device", o.Device, "cpu, cuda or cuda:N")
	f.Var(count{&o.Threads}, "threads", "CPU threads per operator (default: all processors)")
	f.BoolVar(&o.Force, "force", false, "run even if the estimated memory exceeds what is available")

	f.StringVar(&o.Dir, "data-dir", "", "fashion-mnist, cifar10, cifar100: directory that holds them, besides the usual places")
	f.Var(count{&o.Resolution}, "resolution", "height and width in pixels (default: the images' own; chosen, up to 64, if they are not squares of one size)")
	f.Var(count{&o.Colors}, "colors", "1 for grey, 3 for colour (default: the images' own)")
	f.BoolVar(&o.Classes, "classes", false, "class-conditional training")
	f.Float64Var(&o.Drop, "label-dropout", 0, "ctm, meanflow, pd, edm, ddpm, flow: fraction of images trained without their class, for guidance,\nsuch as 0.1 (default 0)")
	f.BoolVar(&o.Flip, "flip", false, "random horizontal flips")
	f.Var(choice{&o.Corrupt, []string{"error", "skip"}}, "corrupt", "what to do with an image that cannot be decoded: stop, or skip, log and count it")
	f.Var(count{&o.Workers}, "workers", "goroutines that decode images beside training")

	f.Var(choice{&o.Network, job.Networks()}, "network", "network architecture, see above (default: that of --init, or "+job.Networks()[0]+")")
	for _, option := range job.NetworkOptions() {
		switch p := o.Pointer(option.Option).(type) {
		case *int:
			f.Var(count{p}, option.Name, option.Help)
		case *[]int:
			f.Var(counts{p}, option.Name, option.Help)
		}
	}
	f.Float64Var(&o.Dropout, "dropout", o.Dropout, "probability of dropout in residual blocks (default 0)")

	f.Var(choice{&o.Distance, job.Distances()}, "distance", "loss between the function's two outputs; norm is the Euclidean, huber the pseudo-Huber distance")
	f.StringVar(&o.LPIPS, "lpips", "", "weights of the distance lpips, as scripts/lpips_weights.py writes them")
	f.StringVar(&o.Resize, "lpips-resize", "", "images that lpips resizes to 224 pixels: small, those below 256, or all (default: none)")
	f.Var(count{&o.S0}, "s0", "noise levels at the start (default: ct 2, ict 10)")
	f.Var(count{&o.S1}, "s1", "noise levels at the end, less one (default: ct steps/100, 10 to 150; ict steps/125, 20 to 1280)")
	f.Var(choice{&o.Schedule, job.Schedules()}, "schedule", "ict: the number of noise levels doubles in stages, or the gap between them falls linearly")
	f.Float64Var(&o.Mu0, "mu0", o.Mu0, "ct: decay of the target network at the start")
	f.StringVar(&o.Teacher, "teacher", "", "cd, ctm, pd, scd, flow: denoiser to distil: a file, a run directory, or empirical, the exact one of the data")
	f.StringVar(&o.Init, "init", "", "model whose network and weights the run starts from, or none (default: the teacher, if there is one)")
	f.Var(choice{&o.Solver, job.Solvers()}, "solver", "cd, ctm: ODE solver along the teacher's trajectory")
	f.Float64SliceVar(&o.Guidance, "guidance", nil, "cd: guidance scale of the teacher, or MIN,MAX for a student with a guidance embedding")
	f.Var(count{&o.Levels}, "levels", "cd, ctm: noise levels (default: 18)")
	f.Float64Var(&o.Mu, "mu", o.Mu, "cd, ctm: decay of the target network")
	f.Var(count{&o.Stages}, "stages", "ect: stages in which levels move closer (default: steps/250, 1 to 8)")
	f.Var(above{&o.Q}, "q", "ect: how much closer in each stage (default: 256 in all)")
	f.IntVar(&o.Warmup, "warmup", o.Warmup, "sct, scd: warm-up steps of the tangent (default: a tenth of the run)")
	f.Var(choice{&o.Weight, job.Weights()}, "weight", "sct, scd: weighting of noise levels: learned, or the prior 1/t alone")
	f.Float64Var(&o.Step, "step", 0, "sct, scd: step of finite differences in the angle, such as 0.005, in place of derivatives")
	f.Float64Var(&o.Ratio, "ratio", o.Ratio, "meanflow: fraction of samples with two different times")
	f.Float64Var(&o.Power, "power", o.Power, "meanflow: power of the adaptive loss weight; 1 makes all samples count alike")
	f.Var(count{&o.First}, "first", "pd: steps of the first student, a power of two (default: 16, or fewer in a short run)")
	f.Var(count{&o.Last}, "last", "pd: steps of the last student, a power of two")
	f.Float64Var(&o.High, "high", o.High, "edm: fraction of noise levels drawn evenly from 1 to 80, which the published method rarely draws")
	f.Var(choice{&o.Betas, job.BetaSchedules()}, "betas", "ddpm: beta schedule")
	f.Var(count{&o.Chain}, "chain", "ddpm: number of timesteps")
	f.Float64Var(&o.EMA, "ema", o.EMA, "EMA decay per step (default: 1-20/steps, 0.9 to 0.9999)")
	f.Float64SliceVar(&o.Widths, "widths", nil, "relative widths of further, power-function EMAs, such as 0.05,0.1; onestep average computes others from two")
	f.Float64SliceVar(&o.HalfLives, "half-lives", nil, "half-lives of further EMAs, in images, such as 50000,500000")
	f.Float64Var(&o.Clip, "clip", o.Clip, "gradient clipping: largest norm")
	f.IntVar(&o.Skips, "skips", o.Skips, "steps in a row that may be skipped because their loss or gradients are not finite")
	f.IntVar(&o.Rollbacks, "rollbacks", o.Rollbacks, "number of returns to an earlier checkpoint, with half the learning rate, after so many skipped steps")

	f.Var(count{&o.SaveEvery}, "save-every", "steps between checkpoints and snapshots")
	f.IntVar(&o.Keep, "keep", 0, "number of snapshots to keep; onestep average needs many (default 0: all)")
	f.IntVar(&o.SampleEvery, "sample-every", o.SampleEvery, "steps between sample grids, 0 for none (default: as --save-every)")
	f.Var(count{&o.LogEvery}, "log-every", "steps between lines in stats.jsonl (default: steps/2000)")
	f.BoolVar(&card, "card", false, "print the card (loss, schedules, what they can reach) and exit")
	f.BoolVar(&dry, "dry-run", false, "print the resolved options as JSON, fit for --config, and exit")
	a.jsonFlag(cmd)
	call(f, "PATH", "data")
	call(f, "DIR", "out", "data-dir")
	call(f, "FILE", "config", "lpips")
	call(f, "small|all", "lpips-resize")
	call(f, "FILE|DIR", "teacher", "init")
	call(f, "METHOD", "method")
	call(f, "NETWORK", "network")
	call(f, "DEVICE", "device")
	call(f, "TIME", "duration")
	call(f, "N", "seed", "sample-every", "keep", "skips", "rollbacks", "warmup")
	call(f, "X,X", "guidance", "widths")
	call(f, "N,N", "half-lives")
	call(f, "X", "lr", "lr-decay", "label-dropout", "dropout", "mu0", "mu", "q", "high", "step", "ratio", "power", "ema", "clip")
	hideDefault(f, "ema")
	hideDefault(f, "warmup")
	hideDefault(f, "sample-every")
	hideDefault(f, "guidance")
	hideDefault(f, "widths")
	hideDefault(f, "half-lives")
	hideDefault(f, "duration")
	offerChoices(cmd)
	offer(cmd, "data", "emoji", "fashion-mnist", "cifar10", "cifar100")
	offer(cmd, "device", "cpu", "cuda")
	byTopic(cmd,
		topic{"Run", "data out method steps duration resume extend config seed card dry-run json"},
		topic{"Data", "data-dir resolution colors classes label-dropout flip corrupt workers"},
		topic{"Network", "network channels mult blocks attention patch dropout init"},
		topic{"Optimizer and EMA", "batch lr lr-decay clip skips rollbacks ema widths half-lives"},
		topic{"Method", "*"},
		topic{"Output", "save-every keep sample-every log-every"},
		topic{"Device and memory", "device threads force"},
	)
	return cmd
}

// foreign refuses flags that the run would not use, even with their default.
func foreign(flags *pflag.FlagSet, o job.Train) error {
	var err error
	flags.Visit(func(f *pflag.Flag) {
		if why := o.Unused(f.Name); err == nil && why != "" {
			err = &job.UsageError{Msg: why}
		}
	})
	return err
}

// skipped tells of steps that were not taken.
func skipped(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(", %d steps skipped", n)
}

// dryRun prints what a run would be, and makes nothing.
func (a *app) dryRun(o job.Train, card bool) error {
	o.Onestep = versionText()
	start, err := o.Plan()
	if err != nil {
		return err
	}
	newScreen(a.stderr).log.Info("the network", "weights", start.Network.Count())
	if card {
		text, err := o.Card(start)
		if err != nil {
			return err
		}
		return a.print(map[string]string{"card": text}, text)
	}
	if a.json {
		return writeJSON(a.stdout, o, "")
	}
	return writeJSON(a.stdout, o, "  ")
}

// trained is the result of a run, as JSON.
type trained struct {
	Step     int     `json:"step"`
	Images   int64   `json:"images"`             // seen
	Loss     float64 `json:"loss,omitempty"`     // of the last step; none if there was nothing left to do
	Skipped  int     `json:"skipped"`            // steps that were not taken, as their loss or gradients were not finite
	Corrupt  int     `json:"corrupt"`            // images that were skipped
	Resized  int     `json:"resized"`            // images that were cropped and scaled, since they are not of the size of the others
	Snapshot string  `json:"snapshot,omitempty"` // a file to sample from
	State    string  `json:"state,omitempty"`    // a file to go on from
	Finished bool    `json:"finished"`           // whether all steps were done
}

func (a *app) doTrain(ctx context.Context, o job.Train) error {
	sc := newScreen(a.stderr)
	h := job.Hooks{Log: sc.log, Version: versionText()}
	var events *tfevents.Writer
	var speed pace
	h.Started = func(o job.Train, run *rundir.Dir, parameters int) {
		sc.tee(run.Log())
		sc.log.Info("training", append(append([]any{"method", o.Method, "data", o.Data, "steps", o.Steps, "batch", o.Batch, "resolution", o.Resolution},
			o.Chosen()...), "ema", number.Short(o.EMA), "parameters", parameters, "device", o.Device, "out", run.Path())...)
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
			sc.log.Warn("files that look like images were left out: their formats are not read; convert them to use them", "files", d.LeftOut)
		}
	}
	h.Progress = func(p training.Progress) {
		if note := speed.note(p); note != nil {
			sc.log.Info("speed", note...)
		}
		part := float64(p.Step) / float64(p.Steps)
		if o.Duration > 0 {
			part = max(part, p.Elapsed.Seconds()/o.Duration.Seconds())
		}
		sc.progressed(min(part, 1), fmt.Sprintf("step %d/%d", p.Step, p.Steps),
			fmt.Sprintf("loss %.4g, %.1f images/s, %s left%s", p.Loss, p.ImagesPerSecond, duration(p.Left), skipped(p.Skipped)), part >= 1)
	}
	h.Scalars = func(k int, values map[string]float64) error { return events.Scalars(int64(k), values) }
	h.Picture = func(k int, img image.Image) error { return events.Image(int64(k), "samples", img) }
	r, err := o.Run(ctx, h)
	sc.stop()
	sc.tee(nil) // the run's log is closed
	if cerr := events.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		switch {
		case r.State == "":
		case errors.Is(err, context.Canceled):
			fmt.Fprintf(a.stderr, "onestep: saved after step %d; the same command with --resume continues\n", r.Step)
		default:
			fmt.Fprintf(a.stderr, "onestep: the last saved state is %s: the same command with --resume continues from it\n", r.State)
		}
		return err
	}
	text := fmt.Sprintf("%s, %d images", plural(r.Step, "step"), r.Seen)
	if r.Loss != 0 {
		text += fmt.Sprintf(", loss %.5g", r.Loss)
	}
	text += skipped(r.Skipped)
	if r.Corrupt > 0 {
		text += fmt.Sprintf(", %d corrupt images skipped", r.Corrupt)
	}
	if r.Resized > 0 {
		text += fmt.Sprintf(", %d images of other sizes cropped and scaled", r.Resized)
	}
	return a.print(trained{r.Step, r.Seen, r.Loss, r.Skipped, r.Corrupt, r.Resized, r.Snapshot, r.State, r.Finished}, text+"\nsnapshot: "+r.Snapshot+"\n")
}
