package main

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/spf13/cobra"

	"github.com/onestep-go/onestep/cmd/onestep/internal/job"
	"github.com/onestep-go/onestep/internal/number"
	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/training"
)

// averaged is the result of average, as JSON.
type averaged struct {
	File     string  `json:"file"`
	Width    float64 `json:"width"`
	Step     int     `json:"step"`
	From     int     `json:"from"`     // EMA snapshots combined
	Distance float64 `json:"distance"` // relative distance of its profile from the wanted one
}

func (a *app) average() *cobra.Command {
	var width float64
	var step int
	var out string
	var overwrite bool
	cmd := &cobra.Command{
		Use:   "average RUN --width W --out FILE",
		Short: "Compute other EMA weights of a run after training",
		Long: `Compute EMA weights of another width after training (post-hoc EMA, Karras et al. 2024) from those that the run tracked
(train --widths 0.05,0.1) in all its snapshots. The result is a model file like a snapshot. The relative distance between the
resulting EMA profile and the wanted one is printed: 0.05 is close, above about 0.3 the result is not the wanted EMA; more
snapshots (--save-every) make it smaller.`,
		Example: `  onestep train --method ict --data emoji --widths 0.05,0.1 --out runs/emoji
  onestep average runs/emoji --width 0.075 --out emoji-0.075.safetensors`,
		Args: arguments(1, "one run directory"),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case !cmd.Flags().Changed("width"):
				return &job.UsageError{Msg: "--width is missing: the wanted width, relative to the run, such as 0.075"}
			case out == "":
				return &job.UsageError{Msg: "--out is missing: the file to write"}
			}
			if _, err := models.PowerExponent(width); err != nil {
				return &job.UsageError{Msg: fmt.Sprintf("--width: %v", err)}
			}
			if err := job.There(job.Path{Path: args[0], Want: "a run directory of onestep train", Form: job.Folder}); err != nil {
				return err
			}
			if err := job.NotOf(args[0], out); err != nil {
				return err
			}
			if err := job.Writable(out); err != nil {
				return err
			}
			c, err := training.CombineAverages(args[0], width, step)
			if err != nil {
				return err
			}
			if err := job.MakeDirectory(out); err != nil {
				return err
			}
			err = c.Save(out, training.SaveOptions{Overwrite: overwrite})
			if errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("%s exists: choose another name or pass --overwrite", quote.Path(out))
			}
			if err != nil {
				return err
			}
			used := len(slices.DeleteFunc(slices.Clone(c.Factors), func(f float64) bool { return f == 0 }))
			if c.Distance > 0.3 {
				newScreen(a.stderr).log.Warn("the result is far from the wanted EMA: train with more snapshots (--save-every), or with --widths around the wanted width", "distance", number.Short(c.Distance))
			}
			return a.print(averaged{out, c.Width, c.Step, used, c.Distance},
				fmt.Sprintf("%s\nwidth %s after step %d, from %s; its profile is %.3f from the wanted one\n", out, number.Short(c.Width), c.Step, plural.N(used, "average"), c.Distance))
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.Float64Var(&width, "width", 0, "width of the EMA, relative to the run until the step: above 0.001, below 0.288 (required)")
	f.Var(count{&step}, "step", "step of a snapshot (default: the last)")
	f.StringVar(&out, "out", "", "output file (required)")
	f.BoolVar(&overwrite, "overwrite", false, "replace a file that exists")
	a.jsonFlag(cmd)
	call(f, "W", "width")
	call(f, "FILE", "out")
	hideDefault(f, "width")
	return cmd
}
