package job

import (
	"errors"
	"strings"

	"github.com/onestep-go/onestep/sampling/texttoimage"
)

// Opening holds the options for opening the model.
type Opening struct {
	Model   string `json:"model"`
	Variant string `json:"variant,omitempty"`
	Mixed   bool   `json:"mixed_variant,omitempty"` // see weights.Options; so is EMA
	EMA     bool   `json:"ema,omitempty"`

	Config     string `json:"model_config,omitempty"` // for a single file: see weights.Options
	Prediction string `json:"prediction,omitempty"`

	// Components that replace the model's: directories or files.
	UNet         string   `json:"unet,omitempty"`
	TextEncoder  string   `json:"text_encoder,omitempty"`
	TextEncoder2 string   `json:"text_encoder_2,omitempty"`
	PartHashes   []string `json:"part_hashes,omitempty"` // from image metadata, as component: hash

	VAE     string `json:"vae,omitempty"`
	TinyVAE string `json:"tiny_vae,omitempty"`
	DType   string `json:"dtype"`
	Tile    int    `json:"tile,omitempty"`

	Device  string `json:"-"`
	Graphs  bool   `json:"-"` // CUDA graphs
	Threads int    `json:"-"` // 0: all processors
	Force   bool   `json:"-"` // run even if the estimated memory exceeds what is available
}

// Drawing holds the options of a texttoimage.Pipeline, with file paths for images.
type Drawing struct {
	Prompts  []string `json:"-"`
	Prompt   string   `json:"prompt"` // of one image
	Negative string   `json:"negative,omitempty"`
	Empty    bool     `json:"empty_negative,omitempty"` // see texttoimage.Pipeline.EmptyNegative
	Plain    bool     `json:"plain,omitempty"`
	ClipSkip int      `json:"clip_skip,omitempty"`

	Sampler       string   `json:"sampler,omitempty"`
	Spacing       string   `json:"-"` // of the sampler's noise levels or timesteps; in image metadata it is part of the sampler's name
	Eta           *float64 `json:"eta,omitempty"`
	Steps         int      `json:"steps,omitempty"`
	Timesteps     []int    `json:"timesteps,omitempty"`
	OriginalSteps int      `json:"original_steps,omitempty"`
	Guidance      *float64 `json:"guidance,omitempty"` // nil: the model's; 0: no guidance, as in diffusers
	Rescale       float64  `json:"guidance_rescale,omitempty"`

	Seed              *uint64 `json:"seed"` // nil: any
	SharedNoise       bool    `json:"shared_noise,omitempty"`
	VariationSeed     uint64  `json:"variation_seed,omitempty"`
	VariationStrength float64 `json:"variation_strength,omitempty"`
	Width             int     `json:"width,omitempty"`
	Height            int     `json:"height,omitempty"`

	Init     string  `json:"init_image,omitempty"`
	Strength float64 `json:"strength,omitempty"`
	Shorten  bool    `json:"shorten,omitempty"`
	Mask     string  `json:"mask,omitempty"`

	N     int `json:"n,omitempty"` // images per prompt; in image metadata only with SharedNoise, where it matters
	Batch int `json:"-"`
	Index int `json:"index,omitempty"` // index among the images that share noise
}

// Adding holds the options for ControlNets, adapters and embeddings.
type Adding struct {
	ControlModels []string `json:"control_model,omitempty"`
	ControlImages []string `json:"control_image,omitempty"`
	ControlScale  float64  `json:"control_scale,omitempty"`

	LoRAs       []string `json:"lora,omitempty"`         // FILE[=WEIGHT[,BLOCK:WEIGHT…]]
	LoRADir     string   `json:"lora_dir,omitempty"`     // directory where prompt tags find adapters
	LoRAApply   string   `json:"lora_apply,omitempty"`   // "runtime" or "merge"; "": runtime
	LoRAPartial bool     `json:"lora_partial,omitempty"` // skip modules without a layer in the model
	LoRAHashes  []string `json:"lora_hashes,omitempty"`  // from image metadata, as name: hash

	Embeddings      []string `json:"embedding,omitempty"`        // FILE[=WORD]
	EmbeddingDir    string   `json:"embedding_dir,omitempty"`    // directory where words of prompts find embeddings
	EmbeddingHashes []string `json:"embedding_hashes,omitempty"` // from image metadata, as word: hash
}

// Writing holds the options for the output files.
type Writing struct {
	Out       string `json:"-"`
	Preview   string `json:"-"` // file that shows intermediate images
	Bare      bool   `json:"-"` // images without metadata
	Overwrite bool   `json:"-"`
}

// DTypes lists the dtypes of a model's weights by their names in options.
func DTypes() []string { return []string{"f32", "bf16", "f16"} }

// optionFlags lists the flags of texttoimage's options.
var optionFlags = map[string]string{
	"Steps": "steps", "Timesteps": "timesteps", "OriginalSteps": "original-steps", "Spacing": "spacing", "Eta": "eta", "Guidance": "guidance",
	"Rescale": "guidance-rescale", "Width": "width", "Height": "height", "ClipSkip": "clip-skip", "Strength": "strength", "Shorten": "shorten",
	"Mask": "mask", "VariationStrength": "variation-strength",
}

// byOption makes the error of an option a usage error that names the flag. Defaults that do not fit a model are errors of the model.
func (o Generate) byOption(err error) error {
	var wrong *texttoimage.OptionError
	if !errors.As(err, &wrong) || optionFlags[wrong.Option] == "" || wrong.Option == "Steps" && o.Steps == 0 {
		return err
	}
	flag := optionFlags[wrong.Option]
	return usage("--%s: %s", flag, strings.TrimPrefix(err.Error(), strings.ReplaceAll(flag, "-", " ")+": "))
}
