package main

import (
	"context"
	"errors"
	"fmt"
	"image"
	"io"
	"log/slog"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/onestep-go/onestep/cmd/onestep/internal/job"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/training"
	"github.com/onestep-go/onestep/training/rundir"
	"github.com/onestep-go/onestep/training/tfevents"
)

func (a *app) train() *cobra.Command {
	var o job.Train
	var config string
	var dry bool
	cmd := &cobra.Command{
		Use:   "train --data DATA --out DIR",
		Short: "Train a consistency model",
		Long: `Train a consistency model from scratch.

The run's folder gets options.json (every option, resolved), stats.jsonl, log.txt, event files for TensorBoard, example
images, snapshots (model-STEP.safetensors, averaged weights, to sample from) and states (to go on from). Ctrl-C saves and
exits with 130; the same command with --resume goes on, exactly as if nothing had happened.`,
		Example: `  onestep train --method ict --data emoji --out runs/emoji --steps 20000
  onestep train --data fashion-mnist --out runs/fashion --duration 2h
  onestep train --data photos/ --resolution 64 --out runs/photos --device cuda`,
		Args: exactly(0, "no arguments, only flags"),
	}
	f := cmd.Flags()
	f.StringVar(&o.Method, "method", "", "ct (consistency training, Song et al. 2023) or ict (improved, Song & Dhariwal 2023) (default ct)")
	f.StringVar(&o.Data, "data", "", "emoji, fashion-mnist, cifar10, or a folder, shard, IDX or CIFAR-10 file")
	f.StringVar(&o.Dir, "data-dir", "", "where fashion-mnist or cifar10 is, besides the usual places")
	f.StringVar(&o.Out, "out", "", "the run's folder; made if missing")
	f.IntVar(&o.Steps, "steps", 0, "optimizer steps of the whole run (default 10000)")
	f.DurationVar(&o.Duration, "duration", 0, "stop after this time, such as 90m, with what there is then; 0: never")
	f.IntVar(&o.Batch, "batch", 0, "images a step (default 64)")
	f.Float64Var(&o.LR, "lr", 0, "learning rate of RAdam (default 0.001)")
	f.Float64Var(&o.LRDecay, "lr-decay", 0, "part of the run, at its end, in which the learning rate falls to 0 (default 0.3)")
	f.Uint64Var(&o.Seed, "seed", 0, "seed of weights, order and noise")
	f.StringVar(&o.Device, "device", "", "cpu, cuda or cuda:N (default cpu)")
	f.IntVar(&o.Threads, "threads", 0, "threads of one operator; 1 repeats bit by bit (default all processors)")
	f.IntVar(&o.Resolution, "resolution", 0, "height and width in pixels (default the images' own)")
	f.IntVar(&o.Colors, "colors", 0, "1 for grey, 3 for colour (default the images' own)")
	f.BoolVar(&o.Classes, "classes", false, "condition on the images' classes")
	f.StringVar(&o.Distance, "distance", "", "l1, l2 or huber (default huber)")
	f.IntVar(&o.S0, "s0", 0, "noise levels at the start (default 2; ict: 10)")
	f.IntVar(&o.S1, "s1", 0, "noise levels at the end, less one (default by --steps, up to 150; ict: up to 1280)")
	f.Float64Var(&o.Mu0, "mu0", 0, "ct: decay of the target network at the start (default 0.9)")
	f.Float64Var(&o.EMA, "ema", 0, "decay of the averaged weights, per step (default by --steps, up to 0.9999)")
	f.Float64Var(&o.Clip, "clip", 0, "limit of the gradient's norm (default 1)")
	f.IntVar(&o.Channels, "channels", 0, "channels of the network's first level (default 32)")
	f.IntSliceVar(&o.Mult, "mult", nil, "channels of each level in units of the first's (default 1,2,2 or as often as the size can be halved)")
	f.IntVar(&o.Blocks, "blocks", 0, "residual blocks a level (default 2)")
	f.IntSliceVar(&o.Attention, "attention", nil, "image sizes with self-attention (default the smallest level's)")
	f.Float64Var(&o.Dropout, "dropout", 0, "probability of dropout in residual blocks")
	f.BoolVar(&o.Flip, "flip", false, "mirror images at random")
	f.StringVar(&o.Corrupt, "corrupt", "", "what to do with an image that cannot be read: error, or skip and log it (default error)")
	f.IntVar(&o.Workers, "workers", 0, "goroutines that decode images beside training (default 1)")
	f.IntVar(&o.SaveEvery, "save-every", 0, "steps between saved states and snapshots (default 1000)")
	f.IntVar(&o.SampleEvery, "sample-every", 0, "steps between grids of example images; 0: none")
	f.IntVar(&o.LogEvery, "log-every", 0, "steps between lines in stats.jsonl (default a 2000th of --steps)")
	f.BoolVar(&o.Resume, "resume", false, "go on with the run in --out, or start it if there is none")
	f.StringVar(&config, "config", "", "JSON file with options, named as in options.json; flags go before it")
	f.BoolVar(&dry, "dry-run", false, "print the resolved options and stop")
	a.jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if config != "" {
			if err := readBeneath(cmd.Flags(), func() error { return o.ReadConfig(config) }); err != nil {
				return &job.UsageError{Msg: err.Error()}
			}
		}
		if dry {
			if err := o.Resolve(); err != nil {
				return err
			}
			a.json = true
			return a.print(o, "")
		}
		return a.doTrain(cmd.Context(), o)
	}
	return cmd
}

// readBeneath runs read, which fills in the variables behind flags, and puts back what was given on the command line.
func readBeneath(flags *pflag.FlagSet, read func() error) error {
	var restore []func() error
	flags.Visit(func(f *pflag.Flag) {
		if list, ok := f.Value.(pflag.SliceValue); ok {
			was := list.GetSlice()
			restore = append(restore, func() error { return list.Replace(was) })
			return
		}
		was := f.Value.String()
		restore = append(restore, func() error { return f.Value.Set(was) })
	})
	if err := read(); err != nil {
		return err
	}
	for _, r := range restore {
		if err := r(); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) doTrain(ctx context.Context, o job.Train) error {
	out := &tee{a.stderr, nil}
	log := slog.New(slog.NewTextHandler(out, nil))
	bar := newBar(a, o.Steps)
	h := job.Hooks{Log: log, Version: versionText(), Progress: bar.update}
	var events *tfevents.Writer
	h.Started = func(o job.Train, run *rundir.Dir, c unet.Config, parameters int) {
		out.file = run.Log()
		log.Info("training", "method", o.Method, "data", o.Data, "steps", o.Steps, "batch", o.Batch, "levels", fmt.Sprintf("%d to %d", o.S0, o.S1+1),
			"ema", o.EMA, "parameters", parameters, "out", run.Path())
		bar.start(o.Steps)
		var err error
		if events, err = tfevents.Create(run.Path()); err != nil {
			log.Warn("no event file for TensorBoard", "error", err)
		}
	}
	h.Scalars = func(k int, values map[string]float64) error { return events.Scalars(int64(k), values) }
	h.Picture = func(k int, img image.Image) error { return events.Image(int64(k), "samples", img) }
	r, err := o.Run(ctx, h)
	bar.stop()
	if cerr := events.Close(); err == nil {
		err = cerr
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	text := fmt.Sprintf("%d steps, %d images, loss %.5g\nsnapshot: %s\n", r.Step, r.Seen, r.Loss, r.Snapshot)
	if err != nil {
		fmt.Fprintf(a.stderr, "onestep: saved after step %d; the same command with --resume goes on\n", r.Step)
		return err
	}
	return a.print(map[string]any{
		"step": r.Step, "images": r.Seen, "loss": r.Loss, "snapshot": r.Snapshot, "state": r.State, "finished": r.Finished,
	}, text)
}

// tee writes log lines to stderr and, once there is one, to the run's log.txt.
type tee struct{ stderr, file io.Writer }

func (t *tee) Write(p []byte) (int, error) {
	if t.file != nil {
		if n, err := t.file.Write(p); err != nil {
			return n, err
		}
	}
	return t.stderr.Write(p)
}

// bar is the progress line of a run; without a terminal there is none.
type bar struct {
	a     *app
	p     *mpb.Progress
	b     *mpb.Bar
	total int
	text  string
	last  time.Time
}

func newBar(a *app, steps int) *bar { return &bar{a: a, total: steps} }

func (b *bar) start(steps int) {
	if !terminal(b.a.stderr) {
		return
	}
	b.total = steps
	b.p = mpb.New(mpb.WithOutput(b.a.stderr), mpb.WithWidth(40), mpb.WithRefreshRate(200*time.Millisecond))
	b.b = b.p.New(int64(steps), mpb.BarStyle(),
		mpb.PrependDecorators(decor.CountersNoUnit("%d/%d steps ")),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return b.text })))
}

func (b *bar) update(p training.Progress) {
	if b.b == nil {
		return
	}
	if now := time.Now(); now.Sub(b.last) > 100*time.Millisecond {
		b.last = now
		b.text = fmt.Sprintf(" loss %.4g  %.1f images/s  %v left", p.Loss, p.ImagesPerSecond, p.Left.Round(time.Second))
	}
	b.b.SetCurrent(int64(p.Step))
}

func (b *bar) stop() {
	if b.b == nil {
		return
	}
	b.b.Abort(false)
	b.p.Wait()
	b.b = nil
}
