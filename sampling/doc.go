// Package sampling samples from consistency functions, jump models (such as consistency trajectory models) and denoisers. Noise levels are
// standard deviations σ. All samplers have the same signature: they start from noise x at the first of a list of descending noise levels in
// [Options], and return the sample at the last one.
//
//   - [Multistep] samples from a consistency function, in one step or a few; [Levels] are its usual noise levels.
//   - - [Jumps] samples from a model that jumps from any noise level to any lower one.
//   - - [Sampler] samples from a denoiser by solving its ODE or SDE; [Named] returns one by its k-diffusion name.
//
// The standard deviation of the initial noise is the first level:
//
//	levels := sampling.Levels(80, 1) // 80 and 0: one step
//	streams := noise.NewStreams(s, 42, 43)
//	x := streams.Randn(s, torch.Float32, 3, 32, 32).MulScalar(s, levels[0])
//	x, err := sampling.Multistep{}.Sample(ctx, s, f, x, sampling.Options{Levels: levels, Streams: streams})
//
// Every image has its own random stream, so an image does not depend on the batch that it is generated in.
//
// The subpackage texttoimage generates images from text prompts with Stable Diffusion, scheduler has diffusers' schedulers, over timesteps,
// edit edits images by multistep sampling, search finds noise levels for it, and generate works with any model.
package sampling
