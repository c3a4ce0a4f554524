// Package unet implements the pixel-space U-Nets of DDPM, DDPM++, NCSN++ and ADM as one configurable network (Ho et al. 2020; Song et
// al. 2021; Dhariwal & Nichol 2021; Karras et al. 2022).
//
// A [Config] describes a network. [DDPMPP], [NCSNPP] and [ADM] return the configurations of the papers, [FromDiffusers] that of a
// UNet2DModel's config.json. [New] makes the network with random weights; [UNet.Load] loads a checkpoint. Parameters have the
// names of diffusers' UNet2DModel, so that weights can be exchanged with it in both directions.
//
// [UNet] is a models.Network: Forward takes x [B, InChannels, H, W], where H and W are divisible by 2 once per downsampling, and the
// noise label [B] of its parameterisation, and returns [B, OutChannels, H, W]. The configuration can add conditioning inputs: class
// labels, the end of a jump, a guidance scale. Dropout is also set there.
//
// The network owns its weights: Close frees them. Several goroutines may use it at once as long as none changes its weights.
package unet
