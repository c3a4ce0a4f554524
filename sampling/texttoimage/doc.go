// Package texttoimage generates images from prompts with latent diffusion models, Stable Diffusion 1, 2 and XL and their kin: text to image,
// image to image, inpainting, ControlNets, adapters, textual inversion and LCM's few steps.
//
// A [Pipeline] is a value of options; its zero fields are what the model was made for:
//
//	p := texttoimage.Pipeline{Model: m, Steps: 4, Seed: 7}
//	for img, err := range p.Images(ctx, "a cat") {
//		// ...
//	}
//
// [Pipeline.Plan] decides everything that was left open, once: a [Plan] says what will run, and what of the options has no effect, and
// generates just that, as often as it is asked to. [Plan.Images] yields images, [Plan.Results] images with the settings to write into their
// files, and [Plan.Run] every step, with previews and latents. The same methods of a Pipeline are for programs that need no plan.
// [Pipeline.Encode] and [Pipeline.Decode] do the two ends alone: prompts to embeddings, and latents to images.
//
// Every image has its own random stream, by its seed: it is the same whatever else is generated, and that of diffusers with one generator
// for each image.
package texttoimage
