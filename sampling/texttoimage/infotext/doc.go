// Package infotext reads and writes the text in an image file that says how the image was generated: the "parameters" of Stable
// Diffusion web UI (A1111), which many programs read.
//
//	a cat
//	Negative prompt: blurry
//	Steps: 4, Sampler: LCM, CFG scale: 1, Seed: 42, Size: 512x512
//
// [Parse] takes such a text apart into a [Text]: prompt, negative prompt, and [Field]s in the order they have; [Text.String]
// writes it. [From] finds it among the texts of an image file (package torch/vision reads them), also as ComfyUI and other
// programs write it. Names of samplers are those of other programs; [Sampler] gives the method and spacing of package
// scheduler. Texts are untrusted: broken ones give what could be read.
package infotext
