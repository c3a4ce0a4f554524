// Package unet has the U-Nets of Stable Diffusion 1, 2, XL and SSD-1B, with the guidance embedding of latent consistency models
// and the nine channels of inpainting models, and the ControlNets beside them.
//
// [ParseConfig] reads the config.json of diffusers' UNet2DConditionModel; [SD15], [LCM15], [Inpaint15], [SD21], [SDXL] and
// [SSD1B] are the published ones. [From] makes a network from a file's tensors, [New] one with random weights. Parameters carry
// diffusers' names.
//
// [UNet] is a models.Network: Forward takes latents [B, 4, H, W] (an eighth of the image's size), timesteps [B] or [1], and in
// models.Cond the text features [B, T, W], for XL the pooled features and the sizes, for LCMs the guidance scale. It returns
// what the network was trained to predict: noise or v. models.DDPM makes a denoiser of it.
//
// A [ControlNet] takes the same inputs and a control image, and returns models.Residuals, which go into the U-Net's
// models.Cond.Control.
//
// Networks own their weights: Close frees them. Blocks free their intermediate results as early as possible, and adapters in
// models.Cond apply to one call.
package unet
