package unet

// DDPMPP is the DDPM++-like network of the EDM paper (Karras et al. 2022) at the given size: residual resampling with a
// convolution on the shortcut, sums scaled by √½, one attention head, cosines and sines with the endpoint included.
func DDPMPP(resolution, imageChannels, channels int, mult []int, blocks int, attention ...int) Config {
	return Config{
		Resolution: resolution, InChannels: imageChannels, Channels: channels, Mult: mult, Blocks: blocks, Attention: attention,
		LastDecoderAttention: true, Resample: ResampleResidual, ResampleSkip: true, SkipScale: sqrtHalf, NormEps: 1e-6, EndpointFreqs: true,
	}.WithDefaults()
}

// ADM is the network of Dhariwal & Nichol 2021 at the given size: residual resampling, scale and shift from the embedding,
// attention heads of 64 channels on every block of a level that attends, 32 groups to a norm.
func ADM(resolution, imageChannels, channels int, mult []int, blocks int, attention ...int) Config {
	return Config{
		Resolution: resolution, InChannels: imageChannels, Channels: channels, Mult: mult, Blocks: blocks, Attention: attention,
		HeadDim: 64, Resample: ResampleResidual, ScaleShift: true, NormGroups: 32,
	}.WithDefaults()
}

// Benchmark is the network that speed is measured with: DDPM++ of 64 channels on three levels, two blocks each, attention
// on the middle one; 7.0 million weights. The resolution has to be divisible by 4.
func Benchmark(resolution, imageChannels int) Config {
	return DDPMPP(resolution, imageChannels, 64, []int{1, 2, 2}, 2, resolution/2)
}
