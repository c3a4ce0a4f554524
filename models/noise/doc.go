// Package noise has the noise schedules of diffusion models: discrete chains by their betas (Ho et al. 2020;
// Nichol & Dhariwal 2021; Rombach et al. 2022), continuous processes, and lists of noise levels for training and sampling.
//
// A noise level σ is the standard deviation of the noise in x = x_0 + σ·z. At each timestep of a variance-preserving chain,
// y = √ᾱ·x_0 + √(1-ᾱ)·z, which is x = y/√ᾱ at noise level σ = √((1-ᾱ)/ᾱ). [Chain] converts between timesteps and noise levels, so that
// all other packages can work with noise levels.
//
// [Config] is the scheduler_config.json of a model in diffusers' layout. [Config.Chain] gives its schedule in float64, for training and
// for samplers over σ; [Config.Alphas] gives diffusers' float32 values, for samplers that reproduce diffusers' results to the bit.
package noise
