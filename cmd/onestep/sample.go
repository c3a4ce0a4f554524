package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/onestep-go/onestep/cmd/onestep/internal/job"
)

func (a *app) sample() *cobra.Command {
	o := job.Sample{}
	cmd := &cobra.Command{
		Use:   "sample --model MODEL --out OUT",
		Short: "Draw images from a consistency model",
		Long: `Draw images from a consistency model, in one network evaluation each or a few.

Image i of a run has seed SEED+i and a random stream of its own: it is the same at any --n and --batch. The settings are
written into the PNG's text chunks; onestep info prints them.`,
		Example: `  onestep sample --model builtin --n 64 --seed 1 --out emoji.png
  onestep sample --model runs/fashion --steps 2 --times 80,0.8 --n 1000 --out samples/
  onestep sample --model model.safetensors --label 3 --n 1 --out one.png`,
		Args: exactly(0, "no arguments, only flags"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("label") && o.Label < 0 {
				return &job.UsageError{Msg: fmt.Sprintf("--label: want a class from 0 on, got %d", o.Label)}
			}
			if cmd.Flags().Changed("steps") && o.Steps < 1 {
				return &job.UsageError{Msg: fmt.Sprintf("--steps: want 1 to 1000, got %d", o.Steps)}
			}
			got, err := o.Run(cmd.Context(), nil)
			if err != nil {
				return err
			}
			return a.print(got, strings.Join(got.Files, "\n")+"\n")
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Model, "model", "", "a model file, a run's folder (its last snapshot), or builtin")
	f.IntVar(&o.Steps, "steps", 0, "network evaluations an image (default 1, or as many as --times lists)")
	f.Float64SliceVar(&o.Times, "times", nil, "noise levels, largest first, such as 80,0.8 (default the usual ones for --steps)")
	f.IntVar(&o.Label, "label", -1, "class of a conditional model, from 0 (default all in turn)")
	f.IntVar(&o.N, "n", 1, "number of images")
	f.Uint64Var(&o.Seed, "seed", 0, "seed of the first image; the others count up")
	f.StringVar(&o.Out, "out", "", "FILE.png for a grid (with --n 1 the image itself), or DIR/ for a file an image")
	f.IntVar(&o.Columns, "columns", 0, "columns of the grid (default nearly a square)")
	f.IntVar(&o.Batch, "batch", 0, "images drawn together (default 64)")
	f.StringVar(&o.Device, "device", "cpu", "cpu, cuda or cuda:N")
	f.IntVar(&o.Threads, "threads", 0, "threads of one operator (default all processors)")
	f.BoolVar(&o.Overwrite, "overwrite", false, "replace files that exist")
	a.jsonFlag(cmd)
	return cmd
}
