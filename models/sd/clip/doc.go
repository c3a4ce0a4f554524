// Package clip has the text encoders of Stable Diffusion: CLIP ViT-L/14 (Radford et al. 2021), and OpenCLIP's ViT-H/14 and
// ViT-bigG/14 in the same form.
//
// [ParseConfig] reads the config.json of transformers' CLIPTextModel or CLIPTextModelWithProjection; [L], [H] and [BigG] are the published
// configurations. [From] makes an [Encoder] from a file's tensors, [New] one with random weights. Parameters have transformers' names with
// the prefix text_model, as in all published files.
//
// [Encoder.Forward] takes token ids [B, T], int64, as package prompt makes them with T up to 77, and returns an [Output]: the hidden states
// [B, T, width], which the U-Net attends to, and the pooled vector [B, projection or width] of the end token. [Options] select the layer:
// Stable Diffusion XL uses the penultimate layer without the final norm; "clip skip" skips more layers.
//
// An encoder owns its weights: Close frees them.
package clip
