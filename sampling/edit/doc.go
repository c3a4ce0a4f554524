// Package edit edits images with a model that was trained to generate them, by algorithm 4 of Song et al. 2023: inpainting, colorization,
// super-resolution, stroke-to-image, denoising and interpolation, without training for the task.
//
// The known part of an image y is given by an invertible linear transform A and a binary mask Ω in the space of A: the elements of A y with
// Ω = 0 are known, those with Ω = 1 are generated. [Inpaint], [Colorize], [Superresolve], [Stroke], [Denoise] and [Interpolate] return the [Edit] of
// each task, and [Edit.Sample] runs them all:
//
//	ỹ ← A⁻¹[(A y)⊙(1 - Ω)]
//	x ← f(ỹ + t_1·z, t_1)                                      z ~ N(0, I)
//	x ← A⁻¹[(A y)⊙(1 - Ω) + (A x)⊙Ω]
//	for n = 2 to N:
//	    x ← f(x + √(t_n² - ε²)·z, t_n)
//	    x ← A⁻¹[(A y)⊙(1 - Ω) + (A x)⊙Ω]
//
// That is multistep sampling from the function x ← A⁻¹[(A y)⊙(1 - Ω) + (A f(x, t))⊙Ω], which [Edit.Function] returns, and [Edit.Denoiser]
// does the same to a denoiser, for any sampler of package sampling. The known part is exact in the result: to the bit for inpainting, to
// rounding for colorization and super-resolution.
//
// Images are [B, C, H, W] with values from -1 to 1. An Edit borrows its tensors. Package generate does all this with image files' images and
// any model file.
package edit
