package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/onestep-go/onestep/cmd/onestep/internal/job"
)

func (a *app) sample() *cobra.Command {
	o := job.DefaultSample()
	cmd := &cobra.Command{
		Use:        "sample --model MODEL --out OUT",
		SuggestFor: []string{"draw", "infer"},
		Short:      "Generate images with a consistency model or a denoiser",
		Long: `Generate images with a consistency model, in one or a few network evaluations each, or with a denoiser in many.

Image i of a run has its own random stream, with seed SEED+i, and for a conditional model without --label its class is the seed modulo the
number of classes: it does not depend on --n and --batch. The settings are written into the PNG's text chunks or the EXIF of a JPEG or WebP;
onestep info prints them. The names of the files go to standard output. If an output file exists, nothing is generated, unless --overwrite
is set.`,
		Example: `  onestep sample --model builtin --n 64 --seed 1 --out emoji.png
  onestep sample --model runs/fashion --times 80,0.8 --n 1000 --out samples/
  onestep sample --model runs/teacher --sampler dpmpp_2m --steps 20 --n 16 --out teacher.png
  onestep sample --model model.safetensors --label cat,dog --n 8 --out pets.png`,
		Args: arguments(0, "no arguments, only flags"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("label") && o.Class == "" {
				return &job.UsageError{Msg: "--label: want a class, got an empty value"}
			}
			sc := a.screen()
			o.Note = func(note string) { sc.log.Warn(note) }
			got, err := o.Run(cmd.Context(), sc.images(o.Batch))
			sc.stop()
			if err != nil {
				return err
			}
			return a.print(got, strings.Join(got.Files, "\n")+"\n")
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.Model, "model", "", pixelModel+", or builtin:\nemoji, ships with onestep (required)")
	f.StringVar(&o.Out, "out", "", "FILE.png, FILE.jpg or FILE.webp (lossless) for a grid, or with --n 1 the image itself; DIR/ for one PNG per image,\nnamed by its seed (required)")
	f.Var(count{&o.N}, "n", "number of images")
	f.Uint64Var(&o.Seed, "seed", 0, "seed of the first image; the next ones have SEED+1, SEED+2, ... (default 0)")
	f.Var(choice{&o.Sampler, job.Samplers()}, "sampler", "sampler (default: multistep for a consistency model, ctm for one trained with ctm, heun for a denoiser): "+strings.Join(job.Samplers(), ", "))
	f.Var(count{&o.Steps}, "steps", "sampling steps (default: the number of --times, or 1, or 18 for a denoiser)")
	f.Float64SliceVar(&o.Times, "times", nil, "noise levels, largest first, above 0.002 and up to 80, without a final 0 (default: 80; for 2 steps 80,0.8;\nfor more, and for a denoiser, Karras's levels, or for flow_* uniform flow times)")
	f.IntSliceVar(&o.Timesteps, "timesteps", nil, "timesteps of a diffusers model, descending, instead of --times: of a consistency model the numbers of its noise\nlevels, such as 22,0")
	f.Float64Var(&o.Guidance, "guidance", 0, "guidance scale (CFG); 1: no guidance (default 1)")
	f.Float64Var(&o.Gamma, "gamma", 0, "ctm: fraction of new noise between jumps, 0 to 1 (default 0)")
	f.StringVar(&o.Class, "label", "", "classes of a conditional model: names, or numbers from 0 on, such as cat or cat,dog,5, used in turn;\nonestep info MODEL lists them (default: all classes in turn, by the seed)")
	f.Var(count{&o.Columns}, "columns", "columns of the grid (default: nearly square)")
	f.Var(count{&o.Batch}, "batch", "batch size; larger needs more memory")
	f.StringVar(&o.Device, "device", o.Device, "cpu, cuda or cuda:N")
	f.Var(dtype{choice{&o.DType, job.DTypes()}}, "dtype", "data type of computation; weights stay in f32")
	f.Var(count{&o.Threads}, "threads", "CPU threads per operator (default: all processors)")
	f.BoolVar(&o.Overwrite, "overwrite", false, "replace files that exist")
	f.BoolVar(&o.Force, "force", false, "run even if the estimated memory exceeds what is available")
	a.quietFlag(cmd)
	a.jsonFlag(cmd)
	offerChoices(cmd)
	call(f, "FILE|DIR|builtin", "model")
	call(f, "NAME", "sampler")
	call(f, "FILE.png|DIR/", "out")
	call(f, "N", "seed")
	call(f, "T,T", "times", "timesteps")
	call(f, "X", "guidance", "gamma")
	call(f, "CLASS,CLASS", "label")
	call(f, "DEVICE", "device")
	hideDefault(f, "times")
	offer(cmd, "model", "builtin")
	offer(cmd, "device", "cpu", "cuda")
	byTopic(cmd,
		topic{"Model", "model"},
		topic{"Sampling", "sampler steps times timesteps guidance gamma label seed"},
		topic{"Output", "out n columns overwrite quiet json"},
		topic{"Device and memory", "device dtype threads batch force"},
	)
	return cmd
}
