// Package vae has the autoencoders (VAEs) of Stable Diffusion, which encode images as latents and decode latents to images.
//
// Images are [B, 3, H, W] with values in [-1, 1], height and width multiples of 8; latents are [B, 4, H/8, W/8], scaled to a standard
// deviation of about 1, as the U-Nets take them. Both kinds implement [Autoencoder]:
//
//   - [KL] is the one that the models were trained with (Rombach et al. 2022). Encoding draws from a distribution, with one
//     random stream per image. [From] takes its weights from a file, with the configuration that [ParseConfig] reads; [SD15]
//     and [SDXL] are the published ones.
//   - [Tiny] is much faster and smaller, with nearly the same latents (TAESD and TAEF2, by Ollin Boer Bohan): for previews, and
//     for generation on a CPU. [OpenTiny] reads it in either layout.
//
// With Tile set, images larger than that many pixels are coded in overlapping tiles that are blended, which bounds memory.
// Autoencoders own their weights: Close frees them.
package vae
