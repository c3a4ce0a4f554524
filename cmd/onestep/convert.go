package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/onestep-go/onestep/cmd/onestep/internal/job"
)

func (a *app) convert() *cobra.Command {
	var o job.Convert
	cmd := &cobra.Command{
		Use:        "convert --model MODEL --out OUT",
		SuggestFor: []string{"export", "import"},
		Short:      "Convert a model to another layout or type",
		Long: `Convert a Stable Diffusion model to another layout or type: a single file to a diffusers directory, a directory to a single file for A1111
and ComfyUI; also a lone VAE or ControlNet. Tensors are converted one by one. A model with missing weights or shape mismatches is refused.
The output appears when it is complete.

Pixel-space models are converted between the layouts of onestep train, openai/consistency_models, openai/guided-diffusion and NVlabs/edm, and,
if the network is a UNet2DModel, from and to diffusers directories.`,
		Example: `  onestep convert --model v1-5-pruned-emaonly.ckpt --out sd15/
  onestep convert --model sd15/ --dtype f16 --out sd15.safetensors
  onestep convert --model cd_imagenet64_l2.pt --out cd_imagenet64.safetensors`,
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
	cmd.Flags().Var(choice{&o.Layout, job.Layouts()}, "layout", "pixel-space model: names and shapes of the weights in a file: "+strings.Join(job.Layouts(), ", ")+"; --out DIR has those of diffusers (default: onestep; needed for a model of onestep train, unless --dtype is set)")
	call(cmd.Flags(), "LAYOUT", "layout")
	setTopic(cmd.Flags(), "layout", "Output")
	return cmd
}

// convertFlags adds the flags for input and output.
func (a *app) convertFlags(cmd *cobra.Command, o *job.Convert) {
	f := cmd.Flags()
	f.StringVar(&o.Model, "model", "", "a diffusers directory or a single .safetensors, .ckpt or .pt file (required)")
	f.StringVar(&o.Out, "out", "", "FILE.safetensors for a single file, DIR for a directory (required)")
	f.Var(dtype{choice{&o.DType, job.DTypes()}}, "dtype", "data type of the weights (default: unchanged)")
	f.StringVar(&o.Variant, "variant", "", "variant of the input files: fp16 for those with .fp16. in their names")
	readHow(f, &o.Mixed, &o.EMA)
	replaceParts(f, &o.Parts.UNet, &o.Parts.Text, &o.Parts.Text2, &o.Parts.VAE)
	f.StringVar(&o.OutVariant, "out-variant", "", "variant in the names of a directory's output files")
	describeFile(f, &o.Config, &o.Prediction)
	f.BoolVar(&o.DecoderOnly, "decoder-only", false, "leave out the encoder of a tiny autoencoder: a smaller model, which takes no input images and cannot be trained")
	f.BoolVar(&o.Unchecked, "unchecked", false, "write the model even with missing or unexpected weights or shape mismatches")
	f.BoolVar(&o.Overwrite, "overwrite", false, "replace an existing file or directory")
	a.jsonFlag(cmd)
	offerChoices(cmd)
	call(f, "FILE|DIR", "model", "out")
	call(f, "NAME", "variant", "out-variant")
	byTopic(cmd,
		topic{"Adapters", "*"}, // flags that the caller added
		topic{"Model", "model variant mixed-variant ema model-config prediction"},
		topic{"Replaced components", "unet text-encoder text-encoder-2 vae"},
		topic{"Output", "out dtype out-variant decoder-only unchecked overwrite json"},
	)
}
