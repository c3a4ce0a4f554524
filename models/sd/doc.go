// Package sd has the latent diffusion models Stable Diffusion 1, 2 and XL: text encoders, U-Net and autoencoder, loaded from the published
// files. Package sampling/texttoimage generates images with them.
//
// [Open] reads a diffusers directory or a single .safetensors or .ckpt file into a [Model]. Weights that already have the requested data
// type are memory-mapped views of the files; others are converted. [Options] can leave components out, or replace them: the U-Net, text
// encoders, the autoencoder, or a tiny autoencoder (TAESD). A model owns its weights and its files: Close frees them. Several goroutines may
// use one model at once.
//
// [New] makes a model with random weights, to be trained from scratch, and [Model.Write] writes any model as a diffusers directory. A model
// is a module for package training, with the weights of U-Net and text encoders ([Model.Parameters]).
//
// Its components are separate packages, for programs that need only one of them:
//
//   - prompt turns a prompt into tokens, with A1111's prompt weighting and long prompts in chunks;
//   - clip has the text encoders; [Model.Embed] runs them: [1, tokens, features], and [1, features] pooled for XL;
//   - unet has the U-Net and ControlNet, over latents [B, 4, H/8, W/8];
//   - vae has the autoencoders between those and images [B, 3, H, W] in [-1, 1];
//   - weights reads and writes every supported file layout.
//
// [Model.Denoiser] is the U-Net as a models.Denoiser over σ, with the noise schedule of the model's scheduler_config.json: it can be
// sampled by package sampling and distilled by package training. [OpenInversion] reads textual inversion embeddings. [EstimateNeed]
// estimates the memory of a generation before any weights are read.
package sd
