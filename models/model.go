package models

import (
	"iter"

	"github.com/onestep-go/onestep/torch"
)

// Network is a raw network F_θ. x is [B, C, H, W]; noise is [B], already in the form that the network embeds (c_noise).
type Network interface {
	Forward(s *torch.Scope, x, noise *torch.Tensor, c Cond) *torch.Tensor
	Parameters() iter.Seq2[string, *torch.Tensor]
}

// Denoiser is E[x_0 | x_t], for x [B, C, H, W] at noise levels t [B].
type Denoiser interface {
	Denoise(s *torch.Scope, x, t *torch.Tensor, c Cond) *torch.Tensor
}

// ConsistencyFunction maps a point of a trajectory to the trajectory's clean end, for x [B, C, H, W] at noise levels t
// [B]. The method is not named Denoise, so that passing a denoiser to a one-step sampler does not compile.
type ConsistencyFunction interface {
	Origin(s *torch.Scope, x, t *torch.Tensor, c Cond) *torch.Tensor
}

// Jumper maps points on trajectories of the probability-flow ODE, x [B, ...] at noise levels t [B], to the points of the same
// trajectories at the levels next [B]: G(x, t, s) of consistency trajectory models.
type Jumper interface {
	Jump(s *torch.Scope, x, t, next *torch.Tensor, c Cond) *torch.Tensor
}
