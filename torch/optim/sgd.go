package optim

import (
	"errors"
	"iter"

	"github.com/onestep-go/onestep/torch"
)

// SGD is stochastic gradient descent, with g the gradient plus WeightDecay·θ:
//
//	b ← Momentum·b + (1-Dampening)·g   (b = g at the first step)
//	θ ← θ - LR·b                       or with Nesterov: θ - LR·(g + Momentum·b)
//
// Without momentum, θ ← θ - LR·g. Its state is "momentum_buffer" (b), in the parameter's dtype.
type SGD struct {
	LR          float64 // 0: 1e-3
	Momentum    float64 // 0: none
	Dampening   float64 // 0: none
	WeightDecay float64 // 0: none
	Nesterov    bool    // Nesterov momentum; needs Momentum and no Dampening
}

// New makes an optimizer of the parameters.
func (c SGD) New(params iter.Seq2[string, *torch.Tensor]) (*Optimizer, error) {
	return c.NewGroups(one(params)...)
}

// NewGroups makes an optimizer of several parameter groups. It fails like [Adam.NewGroups].
func (c SGD) NewGroups(groups ...Group) (*Optimizer, error) {
	if err := fill("SGD", field{"LR", &c.LR, 1e-3}, field{"Momentum", &c.Momentum, 0}, field{"Dampening", &c.Dampening, 0},
		field{"WeightDecay", &c.WeightDecay, 0}); err != nil {
		return nil, err
	}
	if c.Nesterov && (c.Momentum == 0 || c.Dampening != 0) {
		return nil, errors.New("SGD: Nesterov needs Momentum above 0 and no Dampening")
	}
	return newOptimizer("SGD", &sgd{c}, settings{c.LR, c.WeightDecay}, groups)
}

type sgd struct{ SGD }

func (r *sgd) slots() []string {
	if r.Momentum == 0 {
		return nil
	}
	return []string{"momentum_buffer"}
}

func (r *sgd) update(s *torch.Scope, b *batch) {
	first, buffers := b.step == 1, []*torch.Tensor{}
	if len(b.state) > 0 {
		buffers = b.state[0]
	}
	if b.fused && !r.kernelIsBroken(b) {
		call(s, "aten::_fused_sgd_", b.params, b.grads, buffers, b.weightDecay, r.Momentum, b.lr, r.Dampening, r.Nesterov, false, first)
		return
	}
	grads := b.grads
	if b.weightDecay != 0 {
		grads = torch.ForeachAdd(s, grads, b.params, b.weightDecay)
	}
	if r.Momentum != 0 {
		if first {
			torch.ForeachCopyInPlace(s, buffers, grads)
		} else {
			torch.ForeachMulInPlace(s, buffers, r.Momentum)
			torch.ForeachAddInPlace(s, buffers, grads, 1-r.Dampening)
		}
		if r.Nesterov {
			grads = torch.ForeachAdd(s, grads, buffers, r.Momentum)
		} else {
			grads = buffers
		}
	}
	torch.ForeachAddInPlace(s, b.params, grads, -b.lr)
}

// kernelIsBroken names the case in which libtorch 2.11's fused kernel leaves most parameters unchanged and fills their
// momentum with uninitialized memory.
func (r *sgd) kernelIsBroken(b *batch) bool {
	return b.device == torch.CPU && (b.dtype == torch.Float16 || b.dtype == torch.BFloat16)
}
