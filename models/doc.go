// Package models wraps networks as denoisers and consistency functions, which are what training and sampling work with. The
// networks themselves are in its subpackages (unet, dit, mlp, sd/unet).
//
// A [Network] computes F(x, c_noise, [Cond]) for x [B, C, H, W]. It does not define noise levels or what it predicts; its wrapper
// does:
//
//   - A [Denoiser] predicts the clean image, E[x_0 | x], at points x = x_0 + σ·z with z ~ N(0, 1). [EDM], [DDPM], [VP], [Flow]
//     and [TrigFlow] are denoisers over a network, one for each parameterisation ([Parameterisation]). [Guided] adds
//     classifier-free guidance to any denoiser, [Empirical] is the exact denoiser of a finite data set.
//   - A [ConsistencyFunction] maps any point of a trajectory to its clean end in one evaluation. [Consistency],
//     [TrigConsistency] and [Latent] (LCM's boundary condition) are consistency functions over a network. Its method is not
//     named like a denoiser's, so that the compiler rejects one in place of the other.
//   - A [Jumper] maps a point at any noise level to any lower level: [Trajectory], [MeanFlow].
//
// Noise levels are standard deviations σ, in tensors [B] on the samples' device. Package noise converts between them and the
// timesteps of a discrete chain.
//
// [Cond] holds all conditioning inputs besides samples and noise: class labels, text features, guidance scale,
// ControlNet residuals, adapters and dropout. Its zero value is unconditional, in evaluation mode. A network panics with a
// *torch.Error on inputs that it does not support.
//
// [EMA] and [PowerAverage] compute EMA weights. The types of this package do not own their networks: whoever created a network
// closes it.
package models
