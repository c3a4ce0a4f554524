// Package sd is Stable Diffusion: latent diffusion models of the families 1, 2 and XL, with text encoders, U-Net and
// autoencoder, from files as they are published. Package sampling/texttoimage generates images with them.
//
// [Open] reads a diffusers directory or a single .safetensors or .ckpt file into a [Model]. Weights are memory-mapped views of
// the files in the type that is asked for; others are converted. Parts can be replaced on the way ([Options]): a U-Net, text
// encoders, an autoencoder, a tiny autoencoder (TAESD). A model owns its weights and its files: Close frees them. Several
// goroutines may use one model at once.
//
// Its parts are packages of their own, for programs that need one alone:
//
//   - prompt turns a prompt into tokens, with A1111's weights and long prompts in chunks;
//   - clip has the text encoders; [Model.Embed] runs them: [1, tokens, features], and [1, features] pooled for XL;
//   - unet has the U-Net and ControlNet, over latents [B, 4, H/8, W/8];
//   - vae has the autoencoders between those and images [B, 3, H, W] in [-1, 1];
//   - weights reads and writes every layout of files.
//
// [Model.Denoiser] is the U-Net as a models.Denoiser over σ, with the noise schedule of the model's scheduler_config.json: it
// can be sampled by package sampling and distilled by package training. [OpenInversion] reads textual inversion embeddings.
// [EstimateNeed] says how much memory a generation takes before any weight is read.
package sd
