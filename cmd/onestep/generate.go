package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/onestep-go/onestep/cmd/onestep/internal/job"
	"github.com/onestep-go/onestep/sampling/scheduler"
)

// seed is a flag for a seed; not given, it is any.
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

// optional is a flag for a number that may not be given.
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

// describeFile adds the flags for what a single file does not say of itself.
func describeFile(f *pflag.FlagSet, config, prediction *string) {
	f.StringVar(config, "model-config", "", "of a single file: a folder of diffusers' whose configurations and tokenizers it has")
	f.Var(choice{prediction, []string{"epsilon", "v_prediction", "sample"}}, "prediction", "what the network predicts (default: as the model says; of single files that do not say it, v_prediction for sd2, else epsilon)")
	call(f, "DIR", "model-config")
}

// replaceParts adds the flags for parts in place of a model's own.
func replaceParts(f *pflag.FlagSet, unet, text, text2, vae *string) {
	f.StringVar(unet, "unet", "", "U-Net in place of the model's, such as SDXL-Lightning's or LCM-SDXL's: a directory or a file, with or without\na config.json")
	f.StringVar(text, "text-encoder", "", "text encoder in place of the model's (of SDXL: the first): a directory or a file")
	f.StringVar(text2, "text-encoder-2", "", "second text encoder of SDXL in place of the model's: a directory or a file")
	f.StringVar(vae, "vae", "", "autoencoder (VAE) in place of the model's: a directory or a file")
	call(f, "FILE|DIR", "unet", "text-encoder", "text-encoder-2", "vae")
}

// readHow adds the flags for which of a model's weights are read.
func readHow(f *pflag.FlagSet, mixed, ema *bool) {
	f.BoolVar(mixed, "mixed-variant", false, "parts that do not have the variant are read without, as in diffusers")
	f.BoolVar(ema, "ema", false, "of a single file: the network is the averages of training (model_ema) that some have beside the last weights")
}

func (a *app) generate() *cobra.Command {
	o := job.DefaultGenerate()
	var from, list string
	cmd := &cobra.Command{
		Use:   "generate --model MODEL --prompt TEXT",
		Short: "Draw pictures of texts with Stable Diffusion",
		Long: `Draw pictures of texts with a model of Stable Diffusion 1, 2 or XL: in 1 to 8 steps with a latent consistency model.

A model is a folder of diffusers' or a single file. Texts have A1111's syntax: (word:1.2) weighs, [word] weakens, BREAK begins a new
chunk of 75 tokens; long texts take several. --plain takes them as they are. Picture i of a text has seed SEED+i and is the same
whatever --n is. The settings are written into the PNG, as A1111 does and in full: onestep info prints them, and --from repeats them.
The names of the files that were written go to standard output. A file that exists is left alone, and nothing is drawn, unless
--overwrite is given.`,
		Example: `  onestep generate --model LCM_Dreamshaper_v7 --prompt "a cat on a roof" --steps 4 --out cat.png
  onestep generate --model sd15.safetensors --sampler dpmpp2m --steps 20 --guidance 7.5 --prompt "a (red:1.3) house" --negative blurry --n 4 --out houses/
  onestep generate --model lcm --prompt "in winter" --init-image house.png --strength 0.5 --out winter.png
  onestep generate --from cat.png --out again.png`,
		Args: arguments(0, "no arguments, only flags"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := job.There(job.Path{Flag: "--from", Path: from, Want: "an image file with settings", Form: job.File}); err != nil {
				return err
			}
			if from != "" {
				if err := readBeneath(cmd.Flags(), func() error { return o.ReadImage(from, cmd.Flags().Changed("clip-skip")) }); err != nil {
					return err
				}
			}
			if list != "" {
				if cmd.Flags().Changed("prompt") {
					return &job.UsageError{Msg: "--prompt and --prompts: want one of them"}
				}
				if list != "-" {
					if err := job.There(job.Path{Flag: "--prompts", Path: list, Want: "a text file with a prompt on each line", Form: job.File}); err != nil {
						return err
					}
				}
				texts, err := job.ReadPrompts(list)
				if err != nil {
					return fmt.Errorf("--prompts: %w", err)
				}
				o.Prompts = texts
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
	f.StringVar(&o.Model, "model", "", "a folder of diffusers', or a single file (required)")
	f.StringArrayVar(&o.Prompts, "prompt", nil, "what to draw; may be given several times")
	f.StringVar(&list, "prompts", "", "a file with a text on each line; - is standard input")
	f.StringVar(&o.Negative, "negative", "", "what to lead away from; needs --guidance above 1")
	f.BoolVar(&o.Empty, "empty-negative", false, "where there is no negative text, encode an empty one, also with SDXL, whose models take zeros")
	f.StringVar(&o.Out, "out", o.Out, "FILE.png, FILE.jpg or FILE.webp (lossless), with {n}, {text} or {seed} in it where there are several pictures; or DIR/")
	f.Var(count{&o.N}, "n", "pictures of each text")
	f.Var(seed{&o.Seed}, "seed", "seed of each text's first picture; the others count up (default: any, which the PNG says)")
	f.Var(sampler{&o.Sampler}, "sampler", "sampler, also followed by _ and a spacing, as dpmpp_2m_karras; names of A1111 and ComfyUI work, too (default: lcm for a latent\nconsistency model, others by their scheduler; pndm for Stable Diffusion 1):\n"+wrapped(scheduler.Names()))
	f.Var(spacing{&o.Spacing}, "spacing", "spacing of the sampler's noise levels or timesteps: "+strings.Join(scheduler.Spacings(), ", ")+" (default: the sampler's)")
	f.Var(count{&o.Steps}, "steps", "steps of the sampler (default: 4 of lcm and tcd, 25 of others)")
	f.Var(guidance{&o.Guidance}, "guidance", "scale of classifier-free guidance; 0 or 1 is none (default: 1 for lcm and tcd, 8.5 for a model that is told it, 7.5)")
	f.Float64Var(&o.Rescale, "guidance-rescale", 0, "part by which guided predictions are brought back to their deviation without guidance, 0 to 1 (default 0)")
	f.Var(count{&o.Width}, "width", "pixels (default: what the model was trained for)")
	f.Var(count{&o.Height}, "height", "pixels")
	f.IntSliceVar(&o.Timesteps, "timesteps", nil, "the network's timesteps, from the noisiest, such as 999,749,499,249 (default: the sampler's)")
	f.Var(count{&o.OriginalSteps}, "original-steps", "lcm, tcd: the grid that timesteps are taken from (default: the model's)")
	f.Var(optional{&o.Eta}, "eta", "tcd: part of each step that is drawn anew (default 0.3); ddim: of its noise (default 0)")
	f.BoolVar(&o.Plain, "plain", false, "texts as they are: no weights, and cut off after 75 tokens, as in diffusers")
	f.IntVar(&o.ClipSkip, "clip-skip", 0, "last layers of the text encoder that are left out, as in diffusers (A1111 counts one more) (default 0)")
	f.StringVar(&o.Init, "init-image", "", "a picture to start from; its size is drawn unless --width and --height say another")
	f.Var(above{&o.Strength}, "strength", "how much of it may change, above 0 to 1 (default: 0.8, with --mask 1)")
	f.BoolVar(&o.Shorten, "shorten", false, "lcm, tcd: all steps at the end of the timesteps, in place of leaving out the first ones")
	f.StringVar(&o.Mask, "mask", "", "where --init-image is drawn anew: where it is white")
	f.StringArrayVar(&o.Embeddings, "embedding", nil, "a textual inversion embedding, FILE or FILE=WORD, used where WORD is in a prompt; may be given several times\n(default WORD: as in the file of diffusers', else the file's name)")
	f.StringVar(&o.EmbeddingDir, "embedding-dir", "", "a directory in which words of prompts find embeddings by the names of the files, as in A1111")
	f.StringArrayVar(&o.LoRAs, "lora", nil, "an adapter and its weight, FILE, FILE=0.8, or FILE=0.8,text_encoder:0,unet.down_blocks:0.5 by block; may be given\nseveral times")
	f.StringVar(&o.LoRADir, "lora-dir", "", "a folder in which <lora:NAME:WEIGHT> in texts finds adapters")
	f.BoolVar(&o.LoRAPartial, "lora-partial", false, "apply the modules of adapters that fit the model, and say which have no layer (default: refuse such\nadapters)")
	f.Var(choice{&o.LoRAApply, job.LoRAApplies()}, "lora-apply", "while drawing, or into the weights (default: runtime)")
	f.StringArrayVar(&o.ControlModels, "control-model", nil, "a ControlNet; may be given several times, with as many --control-image")
	f.StringArrayVar(&o.ControlImages, "control-image", nil, "what it sees")
	f.Var(above{&o.ControlScale}, "control-scale", "how much ControlNets say (default 1)")
	f.Uint64Var(&o.VariationSeed, "variation-seed", 0, "seed that the first noise is turned towards (default 0)")
	f.Float64Var(&o.VariationStrength, "variation-strength", 0, "how far, 0 to 1 (default 0)")
	f.BoolVar(&o.SharedNoise, "shared-noise", false, "a text's pictures share the noise of one seed, as in diffusers with a single generator")
	replaceParts(f, &o.UNet, &o.TextEncoder, &o.TextEncoder2, &o.VAE)
	f.StringVar(&o.TinyVAE, "tiny-vae", "", "a tiny autoencoder (TAESD) in place of the model's, or with --preview beside it: a folder, a file, or NAME_decoder with NAME_encoder beside it")
	f.Var(count{&o.Tile}, "tile", "code pictures larger than that many pixels in tiles, which needs less memory (default: never)")
	f.StringVar(&o.Preview, "preview", "", "a PNG file that shows the picture after every step; needs --tiny-vae")
	f.StringVar(&o.Variant, "variant", "", "of a folder's files: fp16 for those with .fp16. in their names")
	readHow(f, &o.Mixed, &o.EMA)
	describeFile(f, &o.Config, &o.Prediction)
	f.Var(dtype{choice{&o.DType, job.DTypes()}}, "dtype", "type of weights and computation")
	f.Var(count{&o.Batch}, "batch", "pictures drawn together; more than 1 changes their last bits")
	f.StringVar(&from, "from", "", "take the settings from an image file; other flags come on top")
	f.StringVar(&o.Device, "device", o.Device, "cpu, cuda or cuda:N")
	f.Var(count{&o.Threads}, "threads", "threads of one operator (default: as many as processors)")
	f.BoolVar(&o.Bare, "no-metadata", false, "leave the settings out of the image")
	f.BoolVar(&o.Overwrite, "overwrite", false, "replace files that exist")
	f.BoolVar(&o.Force, "force", false, "go on where the estimated need of memory is more than there is")
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
	return cmd
}
