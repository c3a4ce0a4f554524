// Package dit has the Diffusion Transformer with adaLN-Zero (Peebles & Xie 2023).
//
// An image [B, InChannels, H, W] is cut into square patches; each becomes a token of a transformer, whose blocks are modulated
// by the embeddings of noise level and class. [S2], [B2], [L2] and [XL2] are the paper's sizes with patches of 2, for a
// resolution in pixels or latents; [Config] has every other choice. [New] makes the network with random weights (the modulation
// starts at zero, so that a block is the identity at first), [DiT.Load] replaces them.
//
// [DiT] is a models.Network: Forward returns [B, OutChannels, H, W]. Resolutions are fixed, as positions are part of the
// network. Its parameters carry the names of the original checkpoints; Load also takes the layout of diffusers'
// DiTTransformer2DModel, which [DiT.DiffusersTensors] and [Config.Diffusers] write. A checkpoint that predicts a variance as
// well is loaded without it if OutChannels says so.
//
// The network owns its weights: Close frees them.
package dit
