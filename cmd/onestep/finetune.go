package main

import (
	"context"
	"fmt"
	"image"
	"maps"
	"reflect"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/onestep-go/onestep/cmd/onestep/internal/job"
	"github.com/onestep-go/onestep/internal/memory"
	"github.com/onestep-go/onestep/internal/number"
	"github.com/onestep-go/onestep/internal/options"
	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/training"
	"github.com/onestep-go/onestep/training/finetune"
	"github.com/onestep-go/onestep/training/latents"
	"github.com/onestep-go/onestep/training/recipe"
	"github.com/onestep-go/onestep/training/rundir"
	"github.com/onestep-go/onestep/training/tfevents"
)

const aboutFinetuneRun = `The run directory gets options.json (every option, resolved), stats.jsonl, log.txt, event files for TensorBoard, checkpoints
(state-STEP.safetensors, to resume from) and snapshots. After each snapshot the file is read again as other programs do: a run whose
snapshot cannot be read, or changes nothing, ends with an error, and the snapshot is renamed to NAME.rejected. best.json names the snapshot
with the lowest validation loss. Ctrl-C saves and exits with 130; the same command with --resume continues exactly. On the CPU with one thread
results repeat bit by bit.

Images and captions are encoded once and cached (--cache).`

func (a *app) trainLCM() *cobra.Command {
	run := new(finetune.LCM)
	return a.finetune(&cobra.Command{
		Use:        "train-lcm --model MODEL --data DATA --out DIR",
		SuggestFor: []string{"lcm", "train-lcd", "distill-lcm", "lcm-lora"},
		Short:      "Distil Stable Diffusion into a few-step model (LCM) or adapter (LCM-LoRA)",
		Long: `Distil a Stable Diffusion model into a latent consistency model (Luo et al. 2023), which generates images in 1 to 8 steps: with --lora an
adapter (model-STEP.safetensors), which works with models of the same family and with other adapters, otherwise a model of its own
(model-STEP/, a diffusers directory). The teacher is the model itself, with a guidance drawn from --w-min to --w-max; with adapters it shares
the student's weights.

` + aboutFinetuneRun,
		Example: `  onestep train-lcm --lora --model sd15/ --data photos/ --out runs/lcm --dtype bf16 --checkpointing
  onestep generate --model sd15/ --lora runs/lcm/best.safetensors --sampler lcm --steps 4 --prompt "a cat" --out cat.png
  onestep train-lcm --model sd15/ --data photos/ --out runs/full --device cuda
  onestep train-lcm --lora --model sd15/ --data photos/ --out runs/lcm --dry-run`,
	}, "train-lcm", run, &run.Run, func(ctx context.Context) (*finetune.Plan, error) { return run.Plan(ctx) })
}

func (a *app) trainLoRA() *cobra.Command {
	run := new(finetune.LoRA)
	return a.finetune(&cobra.Command{
		Use:        "train-lora --model MODEL --data DATA --out DIR",
		SuggestFor: []string{"lora-train", "dreambooth", "finetune-lora"},
		Short:      "Train an adapter (LoRA) for a style or a subject",
		Long: `Train an adapter (LoRA) for Stable Diffusion on images of a style or a subject. Regularization images (--reg-data, or is_reg in kohya's
dataset configuration) keep the model from forgetting what else it knows (prior preservation). The adapter works with an LCM-LoRA beside it;
trained with --few-step it keeps working in few steps.

` + aboutFinetuneRun,
		Example: `  onestep train-lora --model sd15/ --data style/ --out runs/style --rank 16 --dtype bf16 --checkpointing
  onestep generate --model sd15/ --lora runs/style/best.safetensors=0.8 --prompt "a cat" --out cat.png
  onestep train-lora --model sd15/ --data style/ --out runs/style --text-encoder --min-snr 5`,
	}, "train-lora", run, &run.Run, func(ctx context.Context) (*finetune.Plan, error) { return run.Plan(ctx) })
}

func (a *app) trainLDM() *cobra.Command {
	run := new(finetune.LDM)
	return a.finetune(&cobra.Command{
		Use:        "train-ldm --autoencoder AUTOENCODER --data DATA --out DIR",
		SuggestFor: []string{"ldm", "latent", "train-text", "text-to-image"},
		Short:      "Train a small text-to-image latent diffusion model from scratch",
		Long: `Train a small text-to-image latent diffusion model from scratch: a U-Net and a text encoder, on the latents of an autoencoder that is not
trained. Snapshots (model-STEP/) are diffusers directories, which generate, train-lcm and train-lora take as --model. The tokenizer is
CLIP's with only the tokens of the captions. The latents' scale is measured on images of the data.

` + aboutFinetuneRun,
		Example: `  onestep train-ldm --autoencoder taef2/ --data emoji/ --out runs/emoji --zero-snr
  onestep generate --model runs/emoji/model-0100000 --steps 20 --guidance 2 --prompt "a cat"
  onestep train-ldm --autoencoder sd15/vae --data photos/ --resolution 128 --size small --out runs/photos
  onestep train-lcm --lora --model runs/emoji/model-0100000 --data emoji/ --out runs/lcm`,
	}, "train-ldm", run, &run.Run, func(ctx context.Context) (*finetune.Plan, error) { return run.Plan(ctx) })
}

// finetune adds flags and the work to a command that runs one of package finetune's methods.
func (a *app) finetune(cmd *cobra.Command, kind string, opts any, run *finetune.Run, plan func(context.Context) (*finetune.Plan, error)) *cobra.Command {
	o := job.Finetune{Options: opts, Run: run, Plan: plan}
	given := recipe.Values{}
	var config string
	var dry bool
	cmd.Args = arguments(0, "no arguments, only flags")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		values := map[string]any{}
		if run.Resume && config == "" && run.Out != "" && !cmd.Flags().Changed("data") {
			was, err := o.ReadRun(kind)
			if err != nil {
				return err
			}
			if was == nil {
				return &job.UsageError{Msg: fmt.Sprintf("--resume: there is no run in %s; to start one there, pass --data", quote.Path(run.Out))}
			}
			maps.Copy(values, was)
		}
		if config != "" {
			file, beside, err := o.ReadConfig(config, kind)
			if err != nil {
				return err
			}
			maps.Copy(values, file)
			if beside != nil {
				newScreen(a.stderr).log.Warn("ignored in --config, as they are not options: " + strings.Join(quote.Texts(beside), ", "))
			}
		}
		maps.Copy(values, given)
		run.Given = slices.Sorted(maps.Keys(given))
		if err := finetune.SetOptions(opts, values); err != nil {
			return o.Flagged(err)
		}
		o.Version = versionText()
		if dry {
			return a.dryFinetune(cmd.Context(), o, kind)
		}
		return a.doFinetune(cmd.Context(), o)
	}
	f := cmd.Flags()
	f.SortFlags = false
	for _, option := range options.Of(opts) {
		finetuneFlag(f, option, given)
	}
	if kind == "train-lora" { // it trains no full models
		f.Lookup("lr").Usage = "learning rate of AdamW (default 0.0001)"
		f.Lookup("val-steps").Usage = "sampling steps of validation images (default: 25, or with --few-step 4, or the number of phases of its adapter)"
		f.Lookup("targets").Usage = "target modules, by the ends of their names (default: those of LCM-LoRA, with --text-encoder also the attention and MLP layers of the text encoders)"
	}
	f.StringVar(&run.Out, "out", "", "run directory; created if missing, never overwritten (required)")
	f.BoolVar(&run.Resume, "resume", false, "resume the run in --out, or start it if there is none; without --data it takes the run's own options")
	f.StringVar(&config, "config", "", "JSON file of options, named as in options.json; flags override it")
	f.DurationVar(&run.Duration, "duration", 0, "stop after a time such as 90m, including validation of the last snapshot; --resume continues (default: after --steps)")
	f.Var(count{&o.Threads}, "threads", "CPU threads per operator (default: all processors)")
	f.BoolVar(&o.Force, "force", false, "run even if the estimated memory exceeds what is available")
	f.BoolVar(&dry, "dry-run", false, "print what would be trained (modules, parameters, images, memory) and exit")
	a.jsonFlag(cmd)
	call(f, "DIR", "out")
	call(f, "FILE", "config")
	call(f, "TIME", "duration")
	hideDefault(f, "duration")
	offer(cmd, "device", "cpu", "cuda")
	those := func(names string) string { return strings.Join(flagsOf(f, strings.Fields(names)), " ") }
	byTopic(cmd,
		topic{"Run", those("model autoencoder data out steps duration resume config seed dry-run json")},
		topic{"Data", those("resolution buckets random-crop flip shuffle-caption keep-tokens caption-dropout caption-column allow-uncaptioned reg-data prior-weight corrupt clip-skip cache")},
		topic{"Model", those("size channels text-size vocabulary tokens scaling-factor")},
		topic{"Adapter", those("lora rank alpha targets init layout name")},
		topic{"Method", "*"},
		topic{"Optimizer and EMA", those("batch grad-accum lr lr-schedule lr-warmup lr-decay weight-decay beta2 clip ema")},
		topic{"Validation", "val-prompts val-steps val-guidance val-data val-batches"},
		topic{"Output", those("decoder-only save-every save-dtype keep log-every")},
		topic{"Device and memory", those("device dtype precision checkpointing threads force")},
	)
	return cmd
}

// flagsOf returns those of the names that are flags.
func flagsOf(f *pflag.FlagSet, names []string) (have []string) {
	for _, name := range names {
		if f.Lookup(name) != nil {
			have = append(have, name)
		}
	}
	return have
}

// finetuneFlag makes a flag for an option.
func finetuneFlag(f *pflag.FlagSet, o options.Option, into recipe.Values) {
	flag := f.VarPF(option{o, into}, o.Name, "", o.Help)
	if o.Type().Kind() == reflect.Bool {
		flag.NoOptDefVal = "true"
	}
}

// dryFinetune prints what would be trained.
func (a *app) dryFinetune(ctx context.Context, o job.Finetune, kind string) error {
	o.Run.Log = newScreen(a.stderr).log
	p, err := o.Open(ctx)
	if err != nil {
		return err
	}
	defer p.Close()
	if err := o.Ready(p); err != nil {
		return err
	}
	d, err := o.Describe(kind, p)
	if err != nil {
		return err
	}
	var b strings.Builder
	what := fmt.Sprintf("a full model, %s", plural.N(d.Parameters, "parameter"))
	if kind == "train-ldm" {
		what = "a new model, " + plural.N(d.Parameters, "parameter")
	} else if d.Modules > 0 {
		what = fmt.Sprintf("an adapter of %s, %s", plural.N(d.Modules, "module"), plural.N(d.Parameters, "parameter"))
	}
	fmt.Fprintf(&b, "trains     %s\n", what)
	fmt.Fprintf(&b, "steps      %d of %s, %s epochs\n", p.Run.Steps, plural.N(p.Run.Batch*p.Run.GradAccum, "sample"), number.Short(float64(p.Run.Steps*p.Run.Batch*p.Run.GradAccum)/float64(d.Samples)))
	for i, line := range strings.Split(d.Data, "\n") {
		fmt.Fprintf(&b, "%-10s %s\n", map[bool]string{true: "data"}[i == 0], line)
	}
	for _, n := range d.Notices {
		fmt.Fprintf(&b, "notice     %s\n", n)
	}
	there := "unknown how much there is"
	if d.Available > 0 {
		there = fmt.Sprintf("%s available (limit: %s)", memory.Size(float64(d.Available)), d.Limit)
	}
	fmt.Fprintf(&b, "memory     about %s, %s\n", memory.Size(d.Memory), there)
	return a.print(d, b.String())
}

// finetuned is the result of a run, as JSON.
type finetuned struct {
	Step     int     `json:"step"`
	Images   int64   `json:"images"`         // samples seen
	Loss     float64 `json:"loss,omitempty"` // of the last step; absent if no steps were left to do
	Corrupt  int     `json:"corrupt"`        // corrupt images skipped
	Snapshot string  `json:"snapshot,omitempty"`
	Best     string  `json:"best,omitempty"` // the snapshot with the lowest validation loss
	BestStep int     `json:"best_step,omitempty"`
	BestLoss float64 `json:"best_val_loss,omitempty"`
	State    string  `json:"state,omitempty"`
	Finished bool    `json:"finished"`
}

func (a *app) doFinetune(ctx context.Context, o job.Finetune) error {
	sc := newScreen(a.stderr)
	var events *tfevents.Writer
	r := o.Run
	r.Log = sc.log
	encoding, steps := false, 0
	r.Encoding = func(p latents.Progress) {
		if !encoding {
			sc.start()
			encoding = true
		}
		sc.progressed(float64(p.Done)/float64(max(p.All, 1)), fmt.Sprintf("%s %d/%d", p.Stage, p.Done, p.All), "", p.Done == p.All)
	}
	var speed pace
	r.Started = func(p *finetune.Plan, run *rundir.Dir) {
		if encoding {
			sc.stop()
		}
		sc.tee(run.Log())
		steps = p.Run.Steps
		s := p.Data.Summary()
		sc.log.Info("data", "images", s.Images, "samples", s.Samples, "buckets", len(s.Buckets), "without_caption", s.Uncaptioned, "corrupt", len(s.Corrupt)+len(p.Data.Corrupt()))
		for _, n := range p.Notices() {
			sc.log.Warn(n)
		}
		sc.log.Info("training", "modules", p.Modules, "parameters", p.Parameters, "steps", p.Run.Steps, "batch", p.Run.Batch, "lr", number.Short(p.Run.LR), "device", p.Run.Device, "dtype", p.Run.DType, "out", run.Path())
		speed.images = int(min(s.Samples, 1<<31))
		var err error
		if events, err = tfevents.Create(run.Path()); err != nil {
			sc.log.Warn("no event file for TensorBoard", "error", err)
		}
		sc.start()
	}
	r.Progress = func(p training.Progress) {
		sc.trained(p, &speed, r.Duration,
			fmt.Sprintf("loss %.4g, %.3g samples/s, %s left, peak %s%s", p.Loss, p.ImagesPerSecond, duration(p.Left), peakMemory(o), skipped(p.Skipped)))
	}
	r.Scalars = func(k int, values map[string]float64) error { return events.Scalars(int64(k), values) }
	r.Image = func(k int, img image.Image) error { return events.Image(int64(k), "samples", img) }
	got, err := o.Train(ctx)
	sc.stop()
	sc.tee(nil)
	if cerr := events.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		a.continues(got.Result, err)
		return err
	}
	a.stopped(got.Result, steps)
	text := plural.N(got.Step, "step") + ", " + plural.N(got.Seen, "sample")
	if got.Loss != 0 {
		text += fmt.Sprintf(", loss %.5g", got.Loss)
	}
	text += skipped(got.Skipped) + "\nsnapshot: " + got.Snapshot + "\n"
	if got.Best != "" {
		text += fmt.Sprintf("best: %s (step %d, validation loss %.5g)\n", got.Best, got.BestStep, got.BestLoss)
	}
	return a.print(finetuned{got.Step, got.Seen, got.Loss, got.Corrupt, got.Snapshot, got.Best, got.BestStep, got.BestLoss, got.State, got.Finished}, text)
}

// peakMemory is the most memory that the process has had, on the device of the run.
func peakMemory(o job.Finetune) string {
	if st, err := o.Run.Device.Memory(); err == nil && o.Run.Device.IsCUDA() {
		return memory.Size(float64(st.PeakAllocated))
	}
	var used syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &used) != nil {
		return "unknown"
	}
	return memory.Size(float64(used.Maxrss) * 1024)
}
