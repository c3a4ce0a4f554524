// Package sampling generates images from consistency functions, models of jumps and denoisers, whose noise levels are standard
// deviations σ. All samplers are called alike: from noise x at the first of a list of descending noise levels, with [Options],
// down to the last level.
//
//   - [Multistep] samples from a consistency function, in one step or a few; [Levels] are its usual noise levels.
//   - [Jumps] samples from a model that jumps from any noise level to any other.
//   - [Sampler] is what samples from a denoiser, by solving its ODE or SDE; [Named] finds one by the name other tools give it.
//
// The noise to start from has the deviation of the first level:
//
//	levels := sampling.Levels(80, 1) // 80 and 0: one step
//	streams := noise.NewStreams(s, 42, 43)
//	x := streams.Randn(s, torch.Float32, 3, 32, 32).MulScalar(s, levels[0])
//	x, err := sampling.Multistep{}.Sample(ctx, s, f, x, sampling.Options{Levels: levels, Streams: streams})
//
// Every image has its own random stream, so image 17 is the same whatever the batch it is drawn in.
//
// Package texttoimage below this one generates images from prompts with Stable Diffusion, package scheduler has the samplers of
// diffusers, over timesteps.
package sampling
