package main

import (
	"github.com/spf13/cobra"

	"github.com/onestep-go/onestep/cmd/onestep/internal/job"
)

func (a *app) convert() *cobra.Command {
	var o job.Convert
	cmd := &cobra.Command{
		Use:   "convert --model MODEL --out OUT",
		Short: "Write a model of Stable Diffusion in another layout or type",
		Long: `Write a model of Stable Diffusion in another layout or type: a single file becomes a folder as diffusers writes it, a folder a
single file as CompVis' and A1111's programs read it; an autoencoder or a ControlNet alone likewise. Tensors are read, converted and
written one by one. A model whose weights are not all there, or not of the right shapes, is refused. What is written appears when it is
complete.`,
		Example: `  onestep convert --model v1-5-pruned-emaonly.ckpt --out sd15/
  onestep convert --model sd15/ --dtype f16 --out sd15.safetensors`,
		Args: arguments(0, "no arguments, only flags"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			got, err := o.Run(cmd.Context(), func(note string) { newScreen(a.stderr).log.Warn(note) })
			if err != nil {
				return err
			}
			return a.print(got, got.Path+"\n")
		},
	}
	cmd.Flags().SortFlags = false
	a.convertFlags(cmd, &o)
	return cmd
}

// convertFlags adds the flags for what is read and written.
func (a *app) convertFlags(cmd *cobra.Command, o *job.Convert) {
	f := cmd.Flags()
	f.StringVar(&o.Model, "model", "", "a folder of diffusers', or a single .safetensors or .ckpt file (required)")
	f.StringVar(&o.Out, "out", "", "FILE.safetensors for a single file, DIR for a folder (required)")
	f.Var(dtype{choice{&o.DType, job.DTypes()}}, "dtype", "type of the weights (default: as they are)")
	f.StringVar(&o.Variant, "variant", "", "of the files that are read: fp16 for those with .fp16. in their names")
	readHow(f, &o.Mixed, &o.EMA)
	replaceParts(f, &o.Parts.UNet, &o.Parts.Text, &o.Parts.Text2, &o.Parts.VAE)
	f.StringVar(&o.OutVariant, "out-variant", "", "of a folder's files that are written")
	describeFile(f, &o.Config, &o.Prediction)
	f.BoolVar(&o.Unchecked, "unchecked", false, "write it even if weights are missing, unexpected or of another shape")
	f.BoolVar(&o.Overwrite, "overwrite", false, "replace what exists")
	a.jsonFlag(cmd)
	offerChoices(cmd)
	call(f, "FILE|DIR", "model", "out")
	call(f, "NAME", "variant", "out-variant")
}
