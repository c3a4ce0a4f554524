package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/onestep-go/onestep/cmd/onestep/internal/job"
	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd/weights"
)

var loraLayouts = []string{"kohya", "peft", "diffusers"}

func (a *app) lora() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lora",
		Short: "Inspect, merge, convert and extract adapters",
		Long: `Inspect adapters for Stable Diffusion (LoRA, LoHa, LoKr, DoRA, OFT), merge them into models, convert their files, or extract them from
fine-tuned models. To generate images with them: onestep generate --lora FILE=SCALE.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return unknownCommand(cmd, args[0])
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.loraInfo(), a.loraMerge(), a.loraConvert(), a.loraExtract())
	return cmd
}

func (a *app) loraInfo() *cobra.Command {
	var model string
	var all bool
	var o weights.Options
	cmd := &cobra.Command{
		Use:   "info FILE",
		Short: "Describe an adapter and check whether it matches a model",
		Long: `Describe an adapter: kinds and number of its target modules, ranks, alphas, file layout, matching base models, metadata. With --model, also
the modules that do not match that model. The weights are not read.`,
		Example: `  onestep lora info lcm-lora-sdv1-5.safetensors
  onestep lora info style.safetensors --model sd15/ --modules`,
		Args: arguments(1, "an adapter file"),
		RunE: func(_ *cobra.Command, args []string) error {
			got, err := job.InspectLoRA(args[0], model, o, func(note string) { newScreen(a.stderr).log.Warn(note) })
			if err != nil {
				return err
			}
			return a.print(got, got.String(all))
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&model, "model", "", "model to compare with: a diffusers directory or a single file")
	f.StringVar(&o.Variant, "variant", "", "variant of the model's files: fp16 for those with .fp16. in their names")
	f.BoolVar(&all, "modules", false, "list every module")
	a.jsonFlag(cmd)
	call(f, "FILE|DIR", "model")
	call(f, "NAME", "variant")
	return cmd
}

func (a *app) loraMerge() *cobra.Command {
	var o job.MergeLoRA
	cmd := &cobra.Command{
		Use:   "merge --model MODEL --lora FILE[=SCALE] --out OUT",
		Short: "Merge adapters into a model's weights",
		Long: `Merge adapters into a model's weights and write the result, for programs without adapter support, or for faster sampling. Sums are computed
in float32 and rounded to the type of the model. The input model is not changed.`,
		Example: `  onestep lora merge --model sd15/ --lora lcm-lora-sdv1-5.safetensors --lora style.safetensors=0.8 --out sd15-lcm/`,
		Args:    arguments(0, "no arguments, only flags"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			got, err := o.Run(cmd.Context(), func(note string) { newScreen(a.stderr).log.Warn(note) })
			if err != nil {
				return err
			}
			return a.print(got, got.Path+"\n")
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringArrayVar(&o.LoRAs, "lora", nil, "adapter and its scale, FILE, FILE=0.8, or FILE=0.8,text_encoder:0 by block; may be given several times\n(required)")
	call(f, "FILE[=X]", "lora")
	f.BoolVar(&o.Partial, "partial", false, "apply the modules whose layers the model has and list the others; other shapes stay an error (default: refuse such adapters)")
	a.convertFlags(cmd, &o.Convert)
	return cmd
}

func (a *app) loraConvert() *cobra.Command {
	var o job.ConvertLoRA
	cmd := &cobra.Command{
		Use:   "convert FILE --to LAYOUT --out FILE",
		Short: "Convert an adapter to another layout",
		Long: `Convert an adapter to another layout: kohya's, which A1111, ComfyUI and diffusers read, PEFT's, or diffusers'. Values are unchanged unless
--dtype is set; alphas are stored as each layout does. The layers of published models are built in; an adapter for another model needs
--model.`,
		Example: `  onestep lora convert pytorch_lora_weights.safetensors --to kohya --out style.safetensors`,
		Args:    arguments(1, "an adapter file"),
		RunE: func(_ *cobra.Command, args []string) error {
			o.File = args[0]
			if err := o.Run(func(note string) { newScreen(a.stderr).log.Warn(note) }); err != nil {
				return err
			}
			return a.print(struct {
				Path string `json:"path"`
			}{o.Out}, o.Out+"\n")
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.Var(choice{&o.To, loraLayouts}, "to", "layout (required)")
	f.StringVar(&o.Out, "out", "", "FILE.safetensors (required)")
	f.Var(dtype{choice{&o.DType, job.DTypes()}}, "dtype", "data type of the values (default: unchanged)")
	f.StringVar(&o.Model, "model", "", "base model of the adapter, if it is not a published one")
	f.StringVar(&o.ModelOptions.Variant, "variant", "", "variant of the model's files: fp16 for those with .fp16. in their names")
	f.BoolVar(&o.Partial, "partial", false, "write the modules whose layers the model has and list the others; other shapes stay an error (default: refuse such adapters)")
	f.BoolVar(&o.Overwrite, "overwrite", false, "replace a file that exists")
	a.jsonFlag(cmd)
	offerChoices(cmd)
	call(f, "FILE", "out")
	call(f, "FILE|DIR", "model")
	call(f, "NAME", "variant")
	return cmd
}

func (a *app) loraExtract() *cobra.Command {
	o := job.ExtractLoRA{Rank: 64}
	cmd := &cobra.Command{
		Use:   "extract --base MODEL --tuned MODEL --out FILE",
		Short: "Extract an adapter from the difference of two models",
		Long: `Extract an adapter from the difference of two models of one architecture: the leading singular vectors of each layer's difference. Equal
layers are skipped. Prints the fraction of the difference that the adapter represents, and the layers that it cannot represent.`,
		Example: `  onestep lora extract --base sd15/ --tuned dreamshaper.safetensors --rank 64 --out dreamshaper-lora.safetensors`,
		Args:    arguments(0, "no arguments, only flags"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			sc := a.screen()
			o.Note = func(note string) { sc.log.Warn(note) }
			sc.start()
			got, err := o.Run(cmd.Context(), func(done, all int) {
				sc.show(float64(done)/float64(all), fmt.Sprintf("weight %d/%d", done+1, all), "")
			})
			sc.stop()
			if err != nil {
				return err
			}
			return a.print(got, extracted(got))
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.Base, "base", "", "base model of the adapter: a diffusers directory or a single file (required)")
	f.StringVar(&o.Tuned, "tuned", "", "fine-tuned model (required)")
	f.StringVar(&o.Out, "out", "", "FILE.safetensors (required)")
	f.Var(count{&o.Rank}, "rank", "rank of each module")
	f.Var(choice{&o.To, loraLayouts}, "to", "layout (default: kohya)")
	f.Var(dtype{choice{&o.DType, job.DTypes()}}, "dtype", "data type of the values (default: f16)")
	f.StringVar(&o.Variant, "variant", "", "variant of the input files: fp16 for those with .fp16. in their names")
	f.BoolVar(&o.Overwrite, "overwrite", false, "replace a file that exists")
	a.quietFlag(cmd)
	a.jsonFlag(cmd)
	offerChoices(cmd)
	call(f, "FILE|DIR", "base", "tuned")
	call(f, "FILE", "out")
	call(f, "NAME", "variant")
	return cmd
}

// extracted describes an extracted adapter.
func extracted(v job.ExtractedLoRA) string {
	var b strings.Builder
	least, sum := 1.0, 0.0
	worst := ""
	for _, m := range v.Modules {
		sum += m.Kept
		if m.Kept <= least {
			least, worst = m.Kept, m.Name
		}
	}
	fmt.Fprintf(&b, "%s\n%s; they represent %.1f%% of the layers' differences on average and at least %.1f%% (%s)\n",
		quote.Path(v.Path), plural.N(len(v.Modules), "module"), 100*sum/float64(len(v.Modules)), 100*least, worst)
	if n := len(v.Others); n > 0 {
		fmt.Fprintf(&b, "%s not in the adapter, which does not support them: %s\n", plural.N(n, "different weight"), strings.Join(v.Others[:min(n, 5)], ", "))
	}
	return b.String()
}
