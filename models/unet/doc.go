// Package unet has the U-Nets of DDPM, DDPM++, NCSN++ and ADM as one network (Ho et al. 2020; Song et al. 2021; Dhariwal &
// Nichol 2021; Karras et al. 2022).
//
// A [Config] describes a network; [DDPMPP], [NCSNPP] and [ADM] fill it in as the papers do, [FromDiffusers] from the
// config.json of a UNet2DModel. [New] makes the network with random weights, which [UNet.Load] replaces. Parameters carry the
// names of diffusers' UNet2DModel, which loads what is saved here, and the other way round.
//
// [UNet] is a models.Network: Forward takes x [B, InChannels, H, W], where H and W can be halved once per level, and the noise
// condition [B] of whatever parameterisation is put over it, and returns [B, OutChannels, H, W]. With Classes it takes labels,
// with Until and Guidance the end of a jump and a guidance scale; dropout is an option of the configuration.
//
// The network owns its weights: Close frees them. It may be used by several goroutines at once as long as none changes weights.
package unet
