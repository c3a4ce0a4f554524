// Package noise has the noise that diffusion models are trained with: discrete chains by their variances β (Ho et al. 2020;
// Nichol & Dhariwal 2021; Rombach et al. 2022), continuous processes, and lists of noise levels for training and sampling.
//
// A noise level σ is the standard deviation of the noise in x = x_0 + σ·z. A variance-preserving chain has y = √ᾱ·x_0 + √(1-ᾱ)·z
// at each of its steps, which is the level σ = √((1-ᾱ)/ᾱ) of x = y/√ᾱ: [Chain] converts between steps and levels, so that
// everything above this package speaks of levels.
//
// [Config] is the scheduler_config.json of a model in diffusers' layout. [Config.Chain] is its noise for training and for samplers over σ,
// in float64; [Config.Alphas] are diffusers' own numbers, for samplers that have to repeat its results to the bit.
package noise
