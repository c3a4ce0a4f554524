package blocks

import "github.com/onestep-go/onestep/torch"

// Checkpoint runs a block of a network, a function of x and of parameters: with gradient checkpointing, if on is true, and gradients are
// enabled. It must not change or free x. Results and gradients do not depend on on, to the bit: in both cases the gradients that
// the block has for an input are summed up before they are added to those that others have for it. See [torch.Checkpoint].
func Checkpoint(s *torch.Scope, on bool, f func(s *torch.Scope, x []*torch.Tensor) *torch.Tensor, x ...*torch.Tensor) *torch.Tensor {
	switch {
	case !s.GradEnabled():
		return f(s, x)
	case on:
		return torch.Checkpoint(s, func(s *torch.Scope, x []*torch.Tensor) []*torch.Tensor {
			return []*torch.Tensor{s.Tidy(func(s *torch.Scope) *torch.Tensor { return f(s, x) })}
		}, x...)[0]
	}
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		own := make([]*torch.Tensor, len(x))
		for i, t := range x {
			own[i] = t
			if t.RequiresGrad() {
				own[i] = t.Alias(s)
			}
		}
		return f(s, own)
	})
}
