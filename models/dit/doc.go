// Package dit implements the Diffusion Transformer with adaLN-Zero (Peebles & Xie 2023).
//
// An image [B, InChannels, H, W] is split into square patches. Each is a token of a transformer, whose blocks are modulated
// by the embeddings of noise level and class. [S2], [B2], [L2] and [XL2] are the paper's sizes with patch size 2, for a
// resolution in pixels or latents; [Config] has all options. [New] makes the network with random weights (the modulation
// starts at zero, so that every block starts as the identity); [DiT.Load] loads a checkpoint.
//
// [DiT] is a models.Network: Forward returns [B, OutChannels, H, W]. The resolution is fixed, since the position embeddings are part
// of the network. Its parameters have the names of the original checkpoints. Load also reads the layout of diffusers'
// DiTTransformer2DModel, which [DiT.DiffusersTensors] and [Config.Diffusers] write. The learned variance of a checkpoint is dropped
// on loading if OutChannels does not include it.
//
// The network owns its weights: Close frees them.
package dit
