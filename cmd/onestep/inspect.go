package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/onestep-go/onestep/cmd/onestep/internal/job"
)

func (a *app) inspect() *cobra.Command {
	o := job.DefaultInspect()
	cmd := &cobra.Command{
		Use:   "inspect --model MODEL --out FILE.png",
		Short: "Show a model's predictions along sampling trajectories",
		Long: `Show a consistency model's predictions f(x_t, t) along sampling trajectories, next to the points x_t and the teacher's predictions D(x_t, t). If
the model is exact, all f(x_t, t) of a trajectory are the same image. Then come the images from the same noise in one step, in two
steps, and by the teacher. The trajectories are the teacher's, by Heun's method; without a teacher, the model's own image with less
and less noise. A denoiser is its own teacher.

The table on standard output has the distance of f, at each noise level, from the end of the trajectory and from f at the next
level shown: root mean squares over all elements.`,
		Example: `  onestep inspect --model builtin --out f.png
  onestep inspect --model runs/student --teacher runs/teacher --n 6 --out f.png`,
		Args: arguments(0, "no arguments, only flags"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("label") && o.Class == "" {
				return &job.UsageError{Msg: "--label: want a class, got nothing"}
			}
			sc := newScreen(a.stderr)
			o.Note = func(note string) { sc.log.Warn(note) }
			got, err := o.Run(cmd.Context())
			if err != nil {
				return err
			}
			return a.print(got, inspectedText(got))
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.Model, "model", "", pixelModel+", or builtin (required)")
	f.StringVar(&o.Teacher, "teacher", "", "denoiser whose trajectories are shown, a file, a run directory or a diffusers directory (default: the model's own)")
	f.StringVar(&o.Out, "out", "", "output image, FILE.png (required)")
	f.Var(count{&o.N}, "n", "number of trajectories")
	f.Uint64Var(&o.Seed, "seed", 0, "seed of the first trajectory; the others count up (default 0)")
	f.StringVar(&o.Class, "label", "", "class of a conditional model: its name, or its number from 0 on (default: by the seed)")
	f.Float64Var(&o.Guidance, "guidance", 0, "guidance scale (CFG) of the teacher, and of a student with a guidance embedding (default 1: no guidance)")
	f.Var(count{&o.Columns}, "columns", "noise levels shown, from 80 to 0.002")
	f.Var(count{&o.Steps}, "steps", "steps of Heun's method along the teacher's trajectory")
	f.StringVar(&o.Device, "device", o.Device, "cpu, cuda or cuda:N")
	f.Var(count{&o.Threads}, "threads", "CPU threads per operator (default: all processors)")
	f.BoolVar(&o.Overwrite, "overwrite", false, "replace a file that exists")
	f.BoolVar(&o.Force, "force", false, "run even if the estimated memory exceeds what is available")
	a.jsonFlag(cmd)
	call(f, "FILE|DIR|builtin", "model")
	call(f, "FILE|DIR", "teacher")
	call(f, "FILE.png", "out")
	call(f, "N", "seed")
	call(f, "CLASS", "label")
	call(f, "X", "guidance")
	call(f, "DEVICE", "device")
	offer(cmd, "model", "builtin")
	offer(cmd, "device", "cpu", "cuda")
	byTopic(cmd,
		topic{"Model", "model teacher"},
		topic{"Sampling", "label guidance steps seed"},
		topic{"Output", "out n columns overwrite json"},
		topic{"Device and memory", "device threads force"},
	)
	return cmd
}

func inspectedText(i job.Inspected) string {
	var b strings.Builder
	number := func(v *float64) string {
		if v == nil {
			return "-"
		}
		return fmt.Sprintf("%.4f", *v)
	}
	fmt.Fprintf(&b, "%10s  %10s  %10s\n", "t", "to end", "to next")
	for _, l := range i.Levels {
		fmt.Fprintf(&b, "%10.4g  %10s  %10s\n", l.T, number(l.ToEnd), number(l.ToNext))
	}
	if i.OneStep != nil {
		fmt.Fprintf(&b, "samples to the teacher's: %.4f in one step, %.4f in two\n", *i.OneStep, *i.TwoSteps)
	}
	return b.String() + i.File + "\n"
}
