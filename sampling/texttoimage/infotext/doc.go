// Package infotext reads and writes generation parameters in image files: the "parameters" text of Stable Diffusion web UI (A1111), which
// many programs read.
//
//	a cat
//	Negative prompt: blurry
//	Steps: 4, Sampler: LCM, CFG scale: 1, Seed: 42, Size: 512x512
//
// [Parse] parses such a text into a [Text]: prompt, negative prompt and ordered [Field]s; [Text.String] writes it. [From] finds it among
// the texts of an image file (package torch/vision reads them), also as ComfyUI and other programs write it. [Sampler] maps other programs'
// sampler names to the method and spacing of package scheduler. Texts are untrusted: [Parse] accepts any text.
package infotext
