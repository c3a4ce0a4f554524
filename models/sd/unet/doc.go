// Package unet has the U-Nets of Stable Diffusion 1, 2, XL and SSD-1B, with the guidance embedding of latent consistency models the nine
// input channels of inpainting models, and ControlNets.
//
// [ParseConfig] reads the config.json of diffusers' UNet2DConditionModel; [SD15], [LCM15], [Inpaint15], [SD21], [SDXL] and [SSD1B] are the
// published configurations. [From] makes a network from a file's tensors, [New] one with random weights, [UNet.WithGuidance] the student of a full latent consistency
// model. Parameters have diffusers' names.
//
// [UNet] is a models.Network: Forward takes latents [B, 4, H, W] (an eighth of the image's size), timesteps [B] or [1], and in models.Cond
// the text features [B, T, W], for XL also the pooled features and the sizes, for LCMs the guidance scale. It returns the network's
// prediction: noise (ε) or v, depending on its training. models.DDPM wraps it as a denoiser.
//
// A [ControlNet] takes the same inputs and a control image, and returns models.Residuals for the U-Net's models.Cond.Control.
//
// Networks own their weights: Close frees them. Blocks free their intermediate results as early as possible, and adapters in
// models.Cond apply to one call.
package unet
