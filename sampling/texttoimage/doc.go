// Package texttoimage generates images from text prompts with latent diffusion models, Stable Diffusion 1, 2 and XL and models of their
// shape: text to image, image to image (img2img), inpainting, ControlNets, LoRA adapters, textual inversion, and the few steps of latent
// consistency models.
//
// A [Pipeline] is a value of options around an [sd.Model]. Zero fields are the model's defaults: sampler, size and guidance scale.
//
//	p := texttoimage.Pipeline{Model: m, Steps: 4, Seed: 7}
//	for img, err := range p.Images(ctx, "a cat") {
//		// ...
//	}
//
// # Planning
//
// [Pipeline.Plan] fills in all defaults once, and reports all errors before anything is generated. The [Plan] has the final settings and
// notices about options without effect ([Plan].Notices). It can generate any number of times, also from several goroutines at once:
// [Plan.Images] yields images, [Plan.Results] images with the settings to write into their files, and [Plan.Run] every step, with previews
// and latents. The same methods of a Pipeline plan and generate in one call. [Pipeline.Try] checks the sampler against a model's files
// before their weights are loaded.
//
// # Prompts
//
// Prompts have A1111's syntax: (word:1.2) and [word] weigh words, BREAK begins a new chunk of 75 tokens, and longer prompts take several
// chunks; see package prompt. With Plain they are encoded as in diffusers. <lora:name:0.8> applies a LoRA adapter, which Pipeline.Tagged
// loads; the Tagged method of a lora.Cache is such a function.
//
// # Stages
//
// [Pipeline.Encode] and [Pipeline.Decode] run the first and the last stage separately: prompts to embeddings, and latents to images.
// Latents takes the initial noise, and LatentsOnly skips the decoding. Samplers are those of package scheduler, or any other
// [scheduler.Method].
//
// # Randomness
//
// Every image has its own random stream, by its seed: it does not depend on the other images, and equals that of diffusers with one
// generator per image, in float32 and up to rounding. With SharedNoise all images of a prompt share one stream, as in diffusers with a
// single generator.
package texttoimage
