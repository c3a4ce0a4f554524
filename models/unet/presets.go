package unet

// DDPMPP is the DDPM++-like network of the EDM paper (Karras et al. 2022) at the given size: residual resampling with a
// convolution on the shortcut, sums scaled by √½, one attention head, cosines and sines with the endpoint included. The
// paper's network for CIFAR-10 is DDPMPP(32, 3, 128, []int{2, 2, 2}, 4, 16). The authors' networks also
// have SinFirst and, for training with augmentation, Augment 9; class-conditional ones have LabelsFirst.
func DDPMPP(resolution, imageChannels, channels int, mult []int, blocks int, attention ...int) Config {
	return Config{
		Resolution: resolution, InChannels: imageChannels, Channels: channels, Mult: mult, Blocks: blocks, Attention: attention,
		LastDecoderAttention: true, Resample: ResampleResidual, ResampleSkip: true, SkipScale: sqrtHalf, NormEps: 1e-6, EndpointFreqs: true,
	}.WithDefaults()
}

// NCSNPP is the NCSN++ of Song et al. 2021 in the EDM paper's version: DDPMPP with random Fourier frequencies, the resampling
// filter 1, 3, 3, 1 and a residual input pyramid. For consistency training set FourierScale to 0.02 (Song & Dhariwal 2024): at 16
// the network is too sensitive to the small difference between neighbouring noise levels, which makes training unstable.
func NCSNPP(resolution, imageChannels, channels int, mult []int, blocks int, attention ...int) Config {
	c := DDPMPP(resolution, imageChannels, channels, mult, blocks, attention...)
	c.Embedding, c.EndpointFreqs, c.Filter, c.ResidualInput = Fourier, false, []float64{1, 3, 3, 1}, true
	return c
}

// ADM is the network of Dhariwal & Nichol 2021 at the given size: residual resampling, scale and shift from the embedding,
// attention heads of 64 channels in every block of a level with attention, group norms of 32 groups.
func ADM(resolution, imageChannels, channels int, mult []int, blocks int, attention ...int) Config {
	return Config{
		Resolution: resolution, InChannels: imageChannels, Channels: channels, Mult: mult, Blocks: blocks, Attention: attention,
		HeadDim: 64, Resample: ResampleResidual, ScaleShift: true, NormGroups: 32,
	}.WithDefaults()
}

// ADMImageNet64 is the network of the published class-conditional ImageNet models at 64×64, of both EDM and consistency models.
func ADMImageNet64() Config {
	c := ADM(64, 3, 192, []int{1, 2, 3, 4}, 3, 32, 16, 8)
	c.Classes = 1000
	return c
}

// ADMLSUN256 is the network of the published consistency models of LSUN bedrooms and cats at 256×256.
func ADMLSUN256() Config {
	c := ADM(256, 3, 256, []int{1, 1, 2, 2, 4, 4}, 2, 32, 16, 8)
	c.ScaleShift = false
	return c
}
