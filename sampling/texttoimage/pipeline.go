package texttoimage

import (
	"context"
	"image"
	"iter"
	"maps"
	"slices"

	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Pipeline generates images from text prompts with a latent diffusion model: text to image, image to image or inpainting. With only a Model
// it generates one image per prompt, with the model's default sampler. Several goroutines may use one value, or one Model in several
// values.
type Pipeline struct {
	Model *sd.Model

	Method        scheduler.Method // nil: the model's own; see [Plan]
	Spacing       string           // of noise levels or timesteps, one of [scheduler.Spacings]; "": the method's
	Steps         int              // 0: the number of Timesteps, or 4 for LCM and TCD, 25 for others
	Timesteps     []int            // custom timesteps, descending; nil: the method's
	OriginalSteps int              // size of the timestep grid of LCM and TCD (diffusers' original_inference_steps); 0: that of the adapters, else the model's

	// Guidance is the scale of classifier-free guidance (Ho & Salimans 2022): the prediction is uncond + Guidance·(cond - uncond), where
	// uncond is for the negative prompt. 1, [NoGuidance], is without guidance. Guidance-distilled models take it as an input. 0: for
	// such models the middle of the scales that they were distilled with, if it is known, or 8.5; 1 for LCM and TCD, 7.5 for others.
	Guidance float64
	Rescale  float64 // diffusers' guidance_rescale: the fraction by which a guided prediction is rescaled to the standard deviation without guidance (Lin et al. 2024, section 3.4)
	Negative string  // the negative prompt; it has no effect at guidance of 1 or less, nor with guidance-distilled models

	// EmptyNegative: an empty Negative is encoded as a prompt, like negative_prompt="" in diffusers. Otherwise it is the model's default,
	// like None in diffusers: for SDXL, zeros.
	EmptyNegative bool

	Plain    bool // no prompt weighting, truncated to one chunk of tokens, as in diffusers
	ClipSkip int  // the number of last text encoder layers to skip; as in diffusers, not for Negative

	// PromptEmbeds are encoded prompts, to be used instead of prompts.
	PromptEmbeds []Embeds

	// Latents are the initial noise, [N, channels, Height/8, Width/8] of standard deviation 1, instead of noise drawn by the seeds. They
	// have the model's data type or float32, on any device. The random streams continue after the noise that Latents replace, so that
	// samplers that draw more noise give the same image in both cases; diffusers' generator starts from the beginning.
	Latents *torch.Tensor
	// LatentsOnly skips decoding: the result is [Progress.Latents] after the last step (diffusers' output_type "latent").
	LatentsOnly bool

	Width, Height int // in pixels; 0: Init's, or that of the model's training

	Seed uint64 // of each prompt's first image; the next images have Seed+1, Seed+2, …
	// Seeds are those of all images, N per prompt in turn, in place of Seed. nil: by Seed.
	Seeds []uint64
	N     int // images per prompt; 0: 1
	// Batch is the batch size; 0: 1, so that an image is the same to the last bit for any N. A batch has images of several prompts if these have
	// the same adapters and their encodings the same number of chunks.
	Batch       int
	SharedNoise bool // a prompt's images share the stream of Seed and are generated together, as in diffusers with a single generator

	// VariationStrength, from 0 to 1, interpolates spherically (slerp) from the initial noise, or the noise added to Init's latents, to
	// that of VariationSeed.
	VariationSeed     uint64
	VariationStrength float64

	// Init is the input image (img2img). It is resized to the output size, as are Mask and Controls. Its latents are sampled from the
	// autoencoder's distribution with each image's own stream, so that an image does not depend on others in the batch. diffusers does the
	// same, except for inpainting with a list of generators: there the first one draws for all, and image 2 of 2 differs from the one that
	// its seed gives alone.
	Init     image.Image
	Strength float64     // of img2img, above 0 to 1; 0: 0.8, or 1 with a Mask
	Shorten  bool        // with a Strength, LCM and TCD take all Steps on the lower part of their timesteps instead of skipping the first ones
	Mask     image.Image // inpainting mask: white (at least half) is repainted, black is kept
	Controls []Control

	// SDXL's size conditioning: original_size and crops_coords_top_left in diffusers. 0: the size of the image, and no crop.
	OriginalSize, Crop image.Point

	// Inversions are textual inversion embeddings that Negative and the prompts may name.
	Inversions []sd.Inversion

	Adapters nn.Adapters // adapters of layers in the network and the text encoders, such as those of package lora
	// Grids are the sizes of the grids of timesteps that Adapters were distilled on (OriginalSteps of a lora.Adapter; 0 is none). Without
	// OriginalSteps, LCM and TCD take the first instead of the model's.
	Grids []int
	// Runs are what the adapters' files say of the runs that made them. A notice says if they are for another sampler.
	Runs []sd.AdapterRun
	// Tagged returns the adapters of a prompt's <lora:name:weight> tags, their grids, and the embeddings bundled with them, which this prompt and
	// Negative may name. nil: such tags are an error.
	Tagged func(tags []prompt.LoRA) (sd.Adaptation, error)

	// Began, if not nil, is called at the start of each stage, to display progress.
	Began func(Stage)
}

// Plan fills in all defaults and checks all options, without generating.
func (p Pipeline) Plan(prompts ...string) (*Plan, error) {
	prompts, err := p.prompts(prompts)
	if err != nil {
		return nil, err
	}
	p.Seeds, p.Timesteps, p.PromptEmbeds, p.Inversions, p.Grids, p.Runs, p.Adapters = slices.Clone(p.Seeds), slices.Clone(p.Timesteps), slices.Clone(p.PromptEmbeds), slices.Clone(p.Inversions), slices.Clone(p.Grids), slices.Clone(p.Runs), maps.Clone(p.Adapters)
	plan := &Plan{o: p}
	if err := plan.decide(prompts); err != nil {
		return nil, err
	}
	return plan, nil
}

// Images is [Pipeline.Plan] and [Plan.Images].
func (p Pipeline) Images(ctx context.Context, prompts ...string) iter.Seq2[image.Image, error] {
	return planned(p, prompts, func(plan *Plan) iter.Seq2[image.Image, error] { return plan.Images(ctx) })
}

// Results is [Pipeline.Plan] and [Plan.Results].
func (p Pipeline) Results(ctx context.Context, prompts ...string) iter.Seq2[Result, error] {
	return planned(p, prompts, func(plan *Plan) iter.Seq2[Result, error] { return plan.Results(ctx) })
}

// Run is [Pipeline.Plan] and [Plan.Run].
func (p Pipeline) Run(ctx context.Context, prompts ...string) iter.Seq2[Progress, error] {
	return planned(p, prompts, func(plan *Plan) iter.Seq2[Progress, error] { return plan.Run(ctx) })
}

// planned makes a plan and yields from it, or yields the plan's error.
func planned[T any](p Pipeline, prompts []string, draw func(*Plan) iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		plan, err := p.Plan(prompts...)
		if err != nil {
			var none T
			yield(none, err)
			return
		}
		draw(plan)(yield)
	}
}
