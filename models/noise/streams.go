package noise

import "github.com/onestep-go/onestep/torch"

// Streams are the random generators of a batch, one for each sample. They run on the CPU, so that a seed gives the same noise on
// every device.
type Streams []*torch.Generator

// NewStreams makes one generator per seed, owned by s.
func NewStreams(s *torch.Scope, seeds ...uint64) Streams {
	st := make(Streams, len(seeds))
	for i, seed := range seeds {
		st[i] = torch.NewGeneratorOn(s, torch.CPU, seed)
	}
	return st
}

// Seeds returns n consecutive seeds starting at first: the usual seeds of n images.
func Seeds(first uint64, n int) []uint64 {
	seeds := make([]uint64, n)
	for i := range seeds {
		seeds[i] = first + uint64(i)
	}
	return seeds
}

// Randn draws standard normal noise from every generator: [B, shape...] on the scope's device.
func (st Streams) Randn(s *torch.Scope, dtype torch.DType, shape ...int) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		each := make([]*torch.Tensor, len(st))
		for i, g := range st {
			each[i] = torch.Randn(s, g, dtype, shape...)
		}
		return torch.Stack(s, each, 0)
	})
}
