// Package unet2d implements diffusers' UNet2DModel, the U-Net of its unconditional and class-conditional pipelines in pixel space, with
// every block type that public checkpoints use: those of DDPM (Ho et al. 2020), of ADM (Dhariwal & Nichol 2021), which consistency models
// share, and of NCSN++ (Song et al. 2021).
//
// A [Config] describes a network, level by level; [FromDiffusers] reads it from a config.json, and [Config.Diffusers] writes one. [New] makes
// the network with random weights; [UNet2D.Load] loads a checkpoint. Parameters have diffusers' names.
//
// Package unet has networks with other conditioning, filters and presets, and represents most UNet2DModels, too; this package is for all
// of them: levels whose encoder and decoder differ, images that are not square, blocks with an image beside the features.
//
// [UNet2D] is a models.Network: Forward takes x [B, InChannels, H, W] and the noise label [B] of its parameterisation, and returns
// [B, OutChannels, H, W]. The configuration can add conditioning inputs: class labels, the end of a jump, a guidance scale.
//
// The network owns its weights: Close frees them. Several goroutines may use it at once as long as none changes its weights.
package unet2d
