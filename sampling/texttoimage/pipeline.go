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

// Pipeline generates images from prompts with a latent diffusion model: from noise, from an input image, or into the masked part of one.
// With a Model alone it generates one image for each prompt, by the sampler that the model was published with. Several goroutines may use
// one value, or one Model in several values.
type Pipeline struct {
	Model *sd.Model

	Method        scheduler.Method // nil: the model's own; see [Plan]
	Spacing       string           // of the noise levels or timesteps, one of [scheduler.Spacings]; "": the method's
	Steps         int              // 0: as many as Timesteps, or 4 for LCM and TCD, 25 for others
	Timesteps     []int            // in place of the method's own, from the noisiest
	OriginalSteps int              // the grid of LCM's and TCD's timesteps; 0: the model's

	// Guidance is the scale of classifier-free guidance (Ho & Salimans 2022): the prediction is that for the negative prompt, plus the
	// scale times what the prompt changes. 1, [NoGuidance], is none. Guidance-distilled models take it as an input. 0: 8.5 for such, 1 for LCM and TCD, 7.5 for others.
	Guidance float64
	Rescale  float64 // the part by which a guided prediction is brought back to the deviation without guidance (Lin et al. 2024, section 3.4)
	Negative string  // the negative prompt; it has no effect at guidance of 1 or less, nor with guidance-distilled models

	// EmptyNegative: an empty Negative is encoded as a prompt. Otherwise it is what the model says: SDXL's are zeros. These are negative_prompt=""
	// and None in diffusers.
	EmptyNegative bool

	Plain    bool // prompts as they are: no weights in brackets, and cut off after one chunk of tokens, as in diffusers
	ClipSkip int  // last layers of the text encoders that are left out; as in diffusers, not for Negative

	// PromptEmbeds are prompts that are encoded already, in place of prompts: one for each.
	PromptEmbeds []Embeds

	// Latents are the noise to begin with, [N, channels, Height/8, Width/8] of standard deviation 1, in place of what the seeds draw. They may be
	// float32 whatever the model's type, and on any device. The streams of the seeds go on behind the noise that Latents stand for, so that
	// samplers that draw more give the same image, whether the first noise was given or drawn; diffusers' generator begins anew.
	Latents *torch.Tensor
	// LatentsOnly leaves the images out: [Progress.Latents] behind the last step are the result (diffusers' output_type "latent").
	LatentsOnly bool

	Width, Height int // in pixels; 0: Init's, or what the model was trained for

	Seed        uint64 // of each prompt's first image; the others count up
	N           int    // images of each prompt; 0: 1
	Batch       int    // images generated together; 0: 1, so that an image is the same to the last bit whatever N is
	SharedNoise bool   // a prompt's images share the stream of Seed and are generated together, as in diffusers with a single generator

	// VariationStrength, from 0 to 1, turns the noise to begin with, also that which is added to Init's latents, towards that of
	// VariationSeed, along the sphere.
	VariationSeed     uint64
	VariationStrength float64

	// Init is the input image, to start from; of another size it is resized, as are Mask and Controls. Its latents are drawn from what the autoencoder says of
	// it, by each image's own stream, so that an image does not depend on those beside it. diffusers does the same, but for inpainting
	// with a list of generators: there the first one draws for all, and image 2 of 2 is another than the same seed gives alone.
	Init     image.Image
	Strength float64     // how much of it may change, above 0 to 1; 0: 0.8, with a Mask 1
	Shorten  bool        // LCM and TCD take all steps, on the lower part of their timesteps, instead of leaving out the first ones
	Mask     image.Image // where Init is generated anew: where it is at least half white
	Controls []Control

	// SDXL's size conditioning: original_size and crops_coords_top_left in diffusers. 0: the size of the image, and no crop.
	OriginalSize, Crop image.Point

	// Inversions are textual inversion embeddings, whose words Negative and the prompts may have.
	Inversions []sd.Inversion

	Adapters nn.Adapters // of single layers of the network and the text encoders; package lora has such
	// Tagged returns what a prompt asks for by tags, <lora:name:weight>, in addition: adapters, and the embeddings that come with them, whose
	// words this prompt and Negative may have. nil: such tags are an error.
	Tagged func(tags []prompt.LoRA) (nn.Adapters, []sd.Inversion, error)

	// Began, unless it is nil, is told when a stage of the work begins, for a display of progress.
	Began func(Stage)
}

// Plan decides everything that was left open, and reports what cannot work, without generating.
func (p Pipeline) Plan(prompts ...string) (*Plan, error) {
	prompts, err := p.prompts(prompts)
	if err != nil {
		return nil, err
	}
	p.Timesteps, p.PromptEmbeds, p.Inversions, p.Adapters = slices.Clone(p.Timesteps), slices.Clone(p.PromptEmbeds), slices.Clone(p.Inversions), maps.Clone(p.Adapters)
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

// planned plans and yields what is drawn from the plan, or the plan's error.
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
