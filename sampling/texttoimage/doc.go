// Package texttoimage generates images from text prompts with latent diffusion models, Stable Diffusion 1, 2 and XL and their kin: text to
// image, image to image (img2img), inpainting, ControlNets, LoRA adapters, textual inversion, and the few steps of latent consistency models.
//
// A [Pipeline] is a value of options around an [sd.Model]. Its zero fields stand for what the model was published with: its sampler, size and
// guidance scale.
//
//	p := texttoimage.Pipeline{Model: m, Steps: 4, Seed: 7}
//	for img, err := range p.Images(ctx, "a cat") {
//		// ...
//	}
//
// # Planning
//
// [Pipeline.Plan] decides everything that was left open, once, and reports everything that cannot work before anything is generated. The [Plan]
// says what will run and which options have no effect ([Plan].Notices). It generates just that, as often as it is asked to and by several
// goroutines at once: [Plan.Images] yields images, [Plan.Results] images with the settings to write into their files, and [Plan.Run] every
// step, with previews and latents. The same methods of a Pipeline plan and generate in one call. [Pipeline.Try] checks the sampler against a
// model's files before their weights are loaded.
//
// # Prompts
//
// Prompts have A1111's syntax: (word:1.2) and [word] weigh words, BREAK begins a new chunk of 75 tokens, and longer prompts take several chunks;
// see package prompt. With Plain they are what diffusers makes of them. <lora:name:0.8> asks for an adapter, which Pipeline.Tagged finds; the
// Tagged method of a cache of package lora is such a function.
//
// # Parts
//
// [Pipeline.Encode] and [Pipeline.Decode] do the two ends alone: prompts to embeddings, and latents to images. Programs with noise of their own
// pass it in Latents, and LatentsOnly leaves the decoding out. Samplers are those of package scheduler, or a program's own
// [scheduler.Method].
//
// # Randomness
//
// Every image has its own random stream, by its seed: it is the same whatever else is generated, and that of diffusers with one generator
// for each image, in float32 and up to rounding. With SharedNoise all images of a prompt share one stream, as in diffusers with a single generator.
package texttoimage
