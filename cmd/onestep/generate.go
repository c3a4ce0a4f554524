package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/onestep-go/onestep/cmd/onestep/internal/job"
	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/sampling/scheduler"
)

// seed is a flag for a seed; by default it is random.
type seed struct{ v **uint64 }

func (s seed) String() string {
	if s.v == nil || *s.v == nil {
		return ""
	}
	return strconv.FormatUint(**s.v, 10)
}

func (s seed) Set(text string) error {
	n, err := strconv.ParseUint(text, 10, 64)
	if err == nil {
		*s.v = &n
	}
	return err
}

func (s seed) Type() string { return "uint64" }

// optional is a flag for a number without a default.
type optional struct{ v **float64 }

func (o optional) String() string {
	if o.v == nil || *o.v == nil {
		return ""
	}
	return strconv.FormatFloat(**o.v, 'g', -1, 64)
}

func (o optional) Set(text string) error {
	n, err := strconv.ParseFloat(text, 64)
	if err == nil {
		*o.v = &n
	}
	return err
}

func (o optional) Type() string { return "float64" }

// describeFile adds the flags for information that a single file does not contain.
func describeFile(f *pflag.FlagSet, config, prediction *string) {
	f.StringVar(config, "model-config", "", "diffusers directory with the configurations and tokenizers of a single file")
	f.Var(choice{prediction, []string{"epsilon", "v_prediction", "sample"}}, "prediction", "prediction type (default: the model's; for single files without one v_prediction for Stable Diffusion 2, otherwise epsilon)")
	call(f, "DIR", "model-config")
}

// replaceParts adds the flags that replace components of a model.
func replaceParts(f *pflag.FlagSet, unet, text, text2, vae *string) {
	f.StringVar(unet, "unet", "", "U-Net that replaces the model's, such as SDXL-Lightning's or LCM-SDXL's: a directory or a file, with or without\na config.json")
	f.StringVar(text, "text-encoder", "", "text encoder that replaces the model's (for SDXL the first one): a directory or a file")
	f.StringVar(text2, "text-encoder-2", "", "text encoder that replaces SDXL's second one: a directory or a file")
	f.StringVar(vae, "vae", "", "autoencoder (VAE) that replaces the model's: a directory or a file")
	call(f, "FILE|DIR", "unet", "text-encoder", "text-encoder-2", "vae")
}

// readHow adds the flags that select a model's weights.
func readHow(f *pflag.FlagSet, mixed, ema *bool) {
	f.BoolVar(mixed, "mixed-variant", false, "use the default files of components without the variant, as in diffusers")
	f.BoolVar(ema, "ema", false, "use the EMA weights (model_ema) of a single file that has both")
}

// graphsFlag adds the flag for CUDA graphs.
func graphsFlag(f *pflag.FlagSet, on *bool) {
	f.BoolVar(on, "cuda-graphs", false, "replay the U-Net and the decoder of Stable Diffusion as CUDA graphs, from the third call with the same size on: faster for\nsmall batches; a graph keeps its memory")
}

// promptsOf reads the prompts of a file, or of standard input for "-".
func promptsOf(path string, in io.Reader) ([]string, error) {
	if path == "-" {
		texts, err := prompt.Read(in)
		if err != nil {
			return nil, fmt.Errorf("--prompts: standard input: %w", err)
		}
		return texts, nil
	}
	if err := job.There(job.Path{Flag: "--prompts", Path: path, Want: "a text file with a prompt on each line", Form: job.File}); err != nil {
		return nil, err
	}
	texts, err := prompt.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--prompts: %w", err)
	}
	return texts, nil
}

func (a *app) generate() *cobra.Command {
	o := job.DefaultGenerate()
	var from, list string
	cmd := &cobra.Command{
		Use:        "generate --prompt TEXT [--model MODEL]",
		SuggestFor: []string{"draw", "txt2img", "img2img", "infer", "prompt"},
		Short:      "Generate images from text prompts with Stable Diffusion",
		Long: `Generate images from text prompts with Stable Diffusion 1, 2 or XL: in 1 to 8 steps with a latent consistency model.

A model is a diffusers directory or a single file. Prompts have A1111's syntax: (word:1.2) and [word] set weights, BREAK starts a new chunk
of 75 tokens; long prompts are split into chunks. --plain turns this off. Image i of a prompt has seed SEED+i and does not depend on --n.
The settings are written into the image, in A1111's format and in full: onestep info prints them, --from repeats them. The names of the
files go to standard output. If an output file exists, nothing is generated, unless --overwrite is set.
In a name of --out {n} is the number of the image and {i} that of its prompt, from 0, {prompt} the prompt, shortened, and {seed} the seed.`,
		Example: `  onestep generate --prompt "a smiling cat" --out cat.png
  onestep generate --model LCM_Dreamshaper_v7 --prompt "a cat on a roof" --steps 4 --out cat.png
  onestep generate --model sd15.safetensors --sampler dpmpp2m --steps 20 --guidance 7.5 --prompt "a (red:1.3) house" --negative blurry --n 4 --out houses/
  onestep generate --model lcm --prompt "in winter" --init-image house.png --strength 0.5 --out winter.png
  onestep generate --from cat.png --out again.png`,
		Args: arguments(0, "no arguments, only flags"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := job.There(job.Path{Flag: "--from", Path: from, Want: "an image file with settings", Form: job.File}); err != nil {
				return err
			}
			if from != "" {
				if err := readBeneath(cmd.Flags(), func() error { return o.ReadImage(from, cmd.Flags().Changed) }); err != nil {
					return err
				}
				if slices.Equal(o.LoRAs, []string{""}) { // which takes the image's away
					o.LoRAs = nil
				}
			}
			if list != "" {
				if cmd.Flags().Changed("prompt") {
					return &job.UsageError{Msg: "--prompt and --prompts: want only one of them"}
				}
				texts, err := promptsOf(list, cmd.InOrStdin())
				if err != nil {
					return err
				}
				o.Prompts = texts
			}
			if cmd.Flags().Changed("variation-seed") && o.VariationStrength == 0 {
				return &job.UsageError{Msg: "--variation-seed: needs --variation-strength above 0"}
			}
			sc := a.screen()
			sc.start()
			shown := phases{now: time.Now, show: sc.show}
			got, err := o.Run(cmd.Context(), shown.progress, func(note string) { sc.log.Warn(note) })
			sc.stop()
			if err != nil {
				return err
			}
			return a.print(got, strings.Join(got.Files, "\n")+"\n")
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.Model, "model", "", "a diffusers directory or a single file (default: builtin-text, which comes with onestep and generates 64x64 emoji)")
	f.StringArrayVar(&o.Prompts, "prompt", nil, "prompt; may be given several times")
	f.StringVar(&list, "prompts", "", "file with one prompt per line; - is standard input")
	f.StringVar(&o.Negative, "negative", "", "negative prompt; needs --guidance above 1")
	f.BoolVar(&o.Empty, "empty-negative", false, "encode an empty negative prompt instead of using zeros, which is the default of SDXL")
	f.StringVar(&o.Out, "out", o.Out, "FILE.png, FILE.jpg or FILE.webp (lossless), with {n}, {prompt}, {i} or {seed} in the name for several images; or DIR/")
	f.Var(count{&o.N}, "n", "number of images per prompt")
	f.Var(seed{&o.Seed}, "seed", "seed of each prompt's first image; the next ones have SEED+1, SEED+2, ... (default: random; written into the image)")
	f.Var(sampler{&o.Sampler}, "sampler", "sampler, optionally followed by _ and a spacing, such as dpmpp_2m_karras; A1111's and ComfyUI's names work, too (default: lcm for a\nlatent consistency model, otherwise the model's scheduler; pndm for Stable Diffusion 1): "+strings.Join(scheduler.Names(), ", "))
	f.Var(spacing{&o.Spacing}, "spacing", "spacing of the sampler's noise levels or timesteps: "+strings.Join(scheduler.Spacings(), ", ")+" (default: the sampler's)")
	f.Var(count{&o.Steps}, "steps", "sampling steps (default: 4 for lcm and tcd, 25 for others)")
	f.Var(guidance{&o.Guidance}, "guidance", "guidance scale (CFG); 0 or 1: no guidance (default: 1 for lcm and tcd; for a guidance-distilled model the middle of the scales it was trained with, or 8.5; 7.5 for others)")
	f.Float64Var(&o.Rescale, "guidance-rescale", 0, "guidance rescale factor, 0 to 1, against overexposure (default 0)")
	f.Var(count{&o.Width}, "width", "width in pixels (default: the model's)")
	f.Var(count{&o.Height}, "height", "height in pixels (default: the model's)")
	f.IntSliceVar(&o.Timesteps, "timesteps", nil, "custom timesteps, descending, such as 999,749,499,249 (default: the sampler's)")
	f.Var(count{&o.OriginalSteps}, "original-steps", "lcm, tcd: size of the grid of timesteps, as original_inference_steps in diffusers (default: that of the adapters, else the model's)")
	f.Var(optional{&o.Eta}, "eta", "amount of new noise in each step, 0 to 1, for tcd (default 0.3) and ddim (default 0)")
	f.BoolVar(&o.Plain, "plain", false, "no prompt weights and tags; prompts are truncated to 75 tokens, as in diffusers")
	f.IntVar(&o.ClipSkip, "clip-skip", 0, "number of last text encoder layers to skip, as in diffusers; one less than A1111's Clip skip (default 0)")
	f.StringVar(&o.Init, "init-image", "", "input image (img2img); also sets the size, unless --width and --height are set")
	f.Var(above{&o.Strength}, "strength", "img2img strength, above 0 to 1 (default: 0.8, or 1 with --mask)")
	f.BoolVar(&o.Shorten, "shorten", false, "lcm, tcd: with --strength, take all steps on the last part of the timesteps instead of skipping the first ones")
	f.StringVar(&o.Mask, "mask", "", "inpainting mask for --init-image: white is repainted")
	f.StringArrayVar(&o.Embeddings, "embedding", nil, "textual inversion embedding, used for WORD in prompts; may be given several times (default WORD: the\ntoken in a diffusers file, otherwise the file's name)")
	f.StringVar(&o.EmbeddingDir, "embedding-dir", "", "directory of embeddings, used by file name in prompts, as in A1111, or as embedding:NAME, as in ComfyUI")
	f.StringArrayVar(&o.LoRAs, "lora", nil, "adapter and its scale, FILE, FILE=0.8, or FILE=0.8,text_encoder:0,unet.down_blocks:0.5 by block; may be given\nseveral times")
	f.StringVar(&o.LoRADir, "lora-dir", "", "directory of adapters for <lora:NAME:WEIGHT> in prompts")
	f.BoolVar(&o.LoRAPartial, "lora-partial", false, "apply the modules of adapters whose layers the model has and list the others; other shapes stay an error (default: refuse such adapters)")
	f.Var(choice{&o.LoRAApply, job.LoRAApplies()}, "lora-apply", "apply adapters during sampling, or merge them into the weights (default: runtime)")
	f.StringArrayVar(&o.ControlModels, "control-model", nil, "ControlNet; may be given several times, each with a --control-image")
	f.StringArrayVar(&o.ControlImages, "control-image", nil, "conditioning image of the ControlNet")
	f.Var(above{&o.ControlScale}, "control-scale", "conditioning scale of ControlNets (default 1)")
	f.Uint64Var(&o.VariationSeed, "variation-seed", 0, "variation seed, towards which the initial noise is interpolated (default 0)")
	f.Float64Var(&o.VariationStrength, "variation-strength", 0, "variation strength, 0 to 1 (default 0)")
	f.BoolVar(&o.SharedNoise, "shared-noise", false, "draw the noise of all images of a prompt from one seed, as diffusers does with a single generator")
	replaceParts(f, &o.UNet, &o.TextEncoder, &o.TextEncoder2, &o.VAE)
	f.StringVar(&o.TinyVAE, "tiny-vae", "", "tiny autoencoder (TAESD) that replaces the model's VAE, or for --preview: a directory, a file, or NAME_decoder with NAME_encoder in\nthe same directory")
	f.Var(count{&o.Tile}, "tile", "VAE tile size in pixels: larger images are tiled, to save memory (default: no tiling)")
	f.StringVar(&o.Preview, "preview", "", "PNG file that is updated after every step; needs --tiny-vae")
	f.StringVar(&o.Variant, "variant", "", "variant of a directory's files: fp16 for those with .fp16. in their names")
	readHow(f, &o.Mixed, &o.EMA)
	describeFile(f, &o.Config, &o.Prediction)
	f.Var(dtype{choice{&o.DType, job.DTypes()}}, "dtype", "data type of weights and computation")
	f.Var(count{&o.Batch}, "batch", "batch size; more than 1 changes the images' last bits")
	f.StringVar(&from, "from", "", "image file to take the settings from; other flags override them")
	f.StringVar(&o.Device, "device", o.Device, "cpu, cuda or cuda:N")
	graphsFlag(f, &o.Graphs)
	f.Var(count{&o.Threads}, "threads", "CPU threads per operator (default: all processors)")
	f.BoolVar(&o.Bare, "no-metadata", false, "do not write the settings into the image")
	f.BoolVar(&o.Overwrite, "overwrite", false, "replace files that exist")
	f.BoolVar(&o.Force, "force", false, "run even if the estimated memory exceeds what is available")
	a.quietFlag(cmd)
	a.jsonFlag(cmd)
	offerChoices(cmd)
	call(f, "FILE|DIR", "model", "tiny-vae", "control-model")
	call(f, "TEXT", "prompt", "negative")
	call(f, "FILE[=X]", "lora")
	call(f, "DIR", "lora-dir", "embedding-dir")
	call(f, "FILE[=WORD]", "embedding")
	call(f, "FILE", "prompts", "init-image", "mask", "control-image", "preview", "from")
	call(f, "FILE.png|DIR/", "out")
	call(f, "NAME", "sampler", "spacing", "variant")
	call(f, "T,T", "timesteps")
	call(f, "N", "seed", "original-steps", "clip-skip", "tile", "variation-seed")
	call(f, "X", "guidance", "guidance-rescale", "eta", "strength", "control-scale", "variation-strength")
	offer(cmd, "sampler", scheduler.Names()...)
	offer(cmd, "spacing", scheduler.Spacings()...)
	call(f, "DEVICE", "device")
	offer(cmd, "device", "cpu", "cuda")
	byTopic(cmd,
		topic{"Model", "model variant mixed-variant ema model-config prediction dtype"},
		topic{"Replaced components", "unet text-encoder text-encoder-2 vae tiny-vae"},
		topic{"Prompt", "prompt prompts negative empty-negative plain clip-skip embedding embedding-dir"},
		topic{"Sampling", "sampler spacing steps guidance guidance-rescale timesteps original-steps eta seed variation-seed variation-strength shared-noise"},
		topic{"Image size and input images", "width height init-image strength shorten mask control-model control-image control-scale"},
		topic{"Adapters", "lora lora-dir lora-partial lora-apply"},
		topic{"Output", "out n from preview no-metadata overwrite quiet json"},
		topic{"Device and memory", "device cuda-graphs threads batch tile force"},
	)
	return cmd
}
