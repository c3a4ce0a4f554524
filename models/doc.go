// Package models turns networks into what is sampled from and trained: denoisers and consistency functions. The networks
// themselves are in its subpackages (unet, dit, mlp, sd/unet).
//
// A [Network] computes F(x, c_noise, [Cond]) for x [B, C, H, W]; it knows nothing about noise levels. These give its output a
// meaning:
//
//   - A [Denoiser] predicts the clean image, E[x_0 | x], at points x = x_0 + σ·z with z ~ N(0, 1). [EDM], [DDPM], [VP], [Flow]
//     and [TrigFlow] are denoisers over a network, one for each parameterisation ([Parameterisation]). [Guided] adds
//     classifier-free guidance to any denoiser, [Empirical] is the exact one of a finite data set.
//   - A [ConsistencyFunction] maps any point of a trajectory to its clean end in one evaluation. [Consistency],
//     [TrigConsistency] and [Latent] (LCM's boundary) are consistency functions over a network. Its method has another name
//     than a denoiser's, so that one cannot be passed for the other.
//   - A [Jumper] goes from any noise level to any lower one: [Trajectory], [MeanFlow].
//
// Noise levels are standard deviations σ, in tensors [B] of the samples' device. Package noise converts between them and the
// steps of a discrete chain.
//
// [Cond] is everything that conditions a network besides samples and noise: class labels, text features, guidance scale,
// ControlNet residuals, adapters and dropout. Its zero value is the unconditional case in evaluation; a network panics with an
// error on what it does not support.
//
// [EMA] and [PowerAverage] keep averages of weights. Types here hold networks and do not own them: whoever made a network
// closes it.
package models
