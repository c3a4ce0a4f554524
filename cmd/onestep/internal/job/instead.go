package job

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/configjson"
	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch/component"
)

// own refuses models of onestep train, which take no prompts, and names the command that samples from them.
func (o Opening) own() error {
	sample := fmt.Sprintf("onestep sample --model %s --n 16 --out samples.png", shellWord(o.Model))
	if o.Model == "builtin" {
		return usage("--model builtin: a consistency model, which takes no prompts; to generate images with it: %s", sample)
	}
	d, err := describes(o.Model)
	if err == nil {
		of := "of onestep train"
		switch {
		case d.Layout != "":
			of = "of " + d.Layout.Name()
		case d.Scheduler != nil:
			of = "of diffusers in pixel space"
		}
		return usage("--model %s: a %s model %s, which takes no prompts; to generate images with it: %s",
			quote.Path(o.Model), d.Kind, of, sample)
	}
	if otherFolder(o.Model, err) {
		return fmt.Errorf("--model: %w", err)
	}
	if _, err := os.Stat(filepath.Join(o.Model, "options.json")); err == nil {
		return usage("--model %s: a run directory of onestep train without a snapshot; wanted %s", quote.Path(o.Model), wantDiffusion)
	}
	return nil
}

// partFlags lists the flags of generate for single components, by weights.Part's names.
var partFlags = map[string]string{
	"unet": "--unet", "vae": "--vae", "text_encoder": "--text-encoder", "controlnet": "--control-model", "tiny_vae": "--tiny-vae", "lora": "--lora",
	"embedding": "--embedding",
}

// partCommand is the command that generates images with a component.
func partCommand(p weights.Part) string {
	command := fmt.Sprintf("onestep generate --model BASE %s %s --prompt TEXT", partFlags[p.Name], shellWord(p.Path))
	if p.Name == "controlnet" {
		command += " --control-image IMAGE"
	}
	return command
}

// partText describes a component.
func partText(p weights.Part) string {
	switch {
	case p.Name == "unet" && p.Kind == weights.Unknown:
		return "a U-Net, not a whole model"
	case p.Name == "unet":
		return fmt.Sprintf("the U-Net of %s, not a whole model", kindText(p.Kind))
	case p.Kind == weights.Unknown:
		return fmt.Sprintf("a directory with only the %s of a model", strings.ReplaceAll(p.Name, "_", " "))
	}
	return kindText(p.Kind)
}

// otherFlag adds to the error of a file that is not a whole Stable Diffusion model the flag or command that takes such a file.
func (o Opening) otherFlag(err error) error {
	if own := o.own(); own != nil {
		return own
	}
	p := weights.PartAt(o.Model)
	if p.Name == "" {
		return named("--model", o.Model, err)
	}
	return usage("--model %s: %s; pass it with a base model: %s", quote.Path(o.Model), partText(p), partCommand(p))
}

// wholeModel adds to the error of a path that is not a whole model what it is and, if the command can replace components, the flag for it.
func wholeModel(flag, path string, replaces bool, err error) error {
	p := weights.PartAt(path)
	if p.Name == "" {
		return named(flag, path, err)
	}
	as := ""
	if replaces && slices.Contains([]string{"unet", "text_encoder"}, p.Name) {
		as = ", with this as " + partFlags[p.Name]
	}
	return usage("%s %s: %s; want %s%s", flag, quote.Path(path), partText(p), wantDiffusion, as)
}

// instead adds to the error of a Stable Diffusion model, where a model of onestep train was expected, the command that generates images with it.
func instead(flag, path string, err error) error {
	if err == nil {
		return nil
	}
	if !noPixels(err) {
		return fmt.Errorf("%s: %w", flag, err)
	}
	path = filepath.Clean(path)
	kind := weights.Unknown
	if st, serr := os.Stat(path); serr == nil && !st.IsDir() {
		kind, _ = weights.SniffFile(path) // a file that cannot be read has failed already
	} else if otherFolder(path, err) { // with a damaged file
		return fmt.Errorf("%s: %w", flag, err)
	} else if index, rerr := plainfile.Read(filepath.Join(path, "model_index.json"), configjson.Most); rerr == nil {
		if of, perr := component.ParsePipeline(index); perr == nil && of.Classes["unet"] != "UNet2DConditionModel" {
			return usage("%s %s: a diffusers directory whose model_index.json names no UNet2DModel as unet; wanted %s", flag, quote.Path(path), wantModel)
		}
		return usage("%s %s: a Stable Diffusion directory, not a pixel-space model; to generate images with it: onestep generate --model %s --prompt TEXT",
			flag, quote.Path(path), shellWord(path))
	}
	if p := weights.PartAt(path); p.Name != "" {
		return usage("%s %s: %s, not a pixel-space model; to generate images with it: %s", flag, quote.Path(path), partText(p), partCommand(p))
	}
	command := "onestep generate --model " + shellWord(path) + " --prompt TEXT"
	switch kind {
	case weights.Unknown:
		return fmt.Errorf("%s: %w", flag, err)
	case weights.SD15, weights.Inpaint15, weights.LCM15, weights.SD2, weights.SDXL, weights.SSD1B:
	default:
		return usage("%s %s: %s, not a pixel-space model", flag, quote.Path(path), kindText(kind))
	}
	return usage("%s %s: %s, not a pixel-space model; to generate images with it: %s", flag, quote.Path(path), kindText(kind), command)
}

// kindText names a kind of weights.
func kindText(k weights.Kind) string {
	if text, ok := map[weights.Kind]string{
		weights.SD15: "Stable Diffusion 1", weights.Inpaint15: "Stable Diffusion 1 for inpainting", weights.LCM15: "a latent consistency model of Stable Diffusion 1",
		weights.SD2: "Stable Diffusion 2", weights.SDXL: "Stable Diffusion XL", weights.SSD1B: "SSD-1B (a smaller Stable Diffusion XL)",
		weights.ControlNet: "a ControlNet", weights.VAE: "an autoencoder (VAE)", weights.TextModel: "a text encoder", weights.TAESD: "a tiny autoencoder (TAESD)",
		weights.LoRA: "an adapter (LoRA)", weights.Refiner: "the refiner of Stable Diffusion XL", weights.Inversion: "a textual inversion embedding",
	}[k]; ok {
		return text
	}
	return k.String()
}
