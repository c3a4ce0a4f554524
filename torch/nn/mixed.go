package nn

import "github.com/onestep-go/onestep/torch"

// Mixed precision (Micikevicius et al. 2018): a layer whose parameters are in float32 computes in the type of an input in half precision.
// Weights and biases are cast when they are used. Autograd records the cast, so that gradients arrive at the parameters in float32; the
// cast weight lives until the layer's backward pass, without gradients until the layer returns. Norms keep float32 parameters and
// statistics.

// mixed reports whether a parameter has to be cast for the input x; nil: no.
func mixed(x, parameter *torch.Tensor) bool {
	return parameter != nil && isHalf(x.DType()) && parameter.DType() == torch.Float32
}

func isHalf(d torch.DType) bool { return d == torch.Float16 || d == torch.BFloat16 }

// forInput returns a parameter, which may be nil, in the type in which a layer computes for the input x.
func forInput(s *torch.Scope, x, parameter *torch.Tensor) *torch.Tensor {
	if mixed(x, parameter) {
		return parameter.To(s, x.DType())
	}
	return parameter
}

// WeightFor is [Adapters.Weight] in the type in which a layer computes for the input x: that of the weight, but that of an input in half
// precision for a weight in float32.
func (a Adapters) WeightFor(s *torch.Scope, x, b *torch.Tensor) *torch.Tensor {
	return forInput(s, x, a.Weight(s, b))
}

// apply computes the layer with the weight w. libtorch may choose between two products of more dimensions by whether the input wants a gradient,
// which in float16 round differently: a checkpointed block would not repeat its bits.
func (l Linear) apply(s *torch.Scope, x, w *torch.Tensor) *torch.Tensor {
	if x.DType() == torch.Float16 && x.NDim() > 2 {
		return s.Tidy(func(s *torch.Scope) *torch.Tensor {
			y := l.apply(s, x.Flatten(s, 0, -2), w)
			return y.Reshape(s, append(x.Shape()[:x.NDim()-1], y.Dim(1))...)
		})
	}
	if !mixed(x, w) && !mixed(x, l.Bias) {
		return x.Linear(s, w, l.Bias)
	}
	return s.Tidy(func(s *torch.Scope) *torch.Tensor { return x.Linear(s, forInput(s, x, w), forInput(s, x, l.Bias)) })
}

// apply computes the layer with the weight w.
func (c Conv2D) apply(s *torch.Scope, x, w *torch.Tensor) *torch.Tensor {
	if c.winograd(x) { // takes parameters in float32 as they are
		return x.Conv3x3(s, w, c.Bias)
	}
	if !mixed(x, w) && !mixed(x, c.Bias) {
		return x.Conv2D(s, w, c.Bias, c.Opt)
	}
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		return x.Conv2D(s, forInput(s, x, w), forInput(s, x, c.Bias), c.Opt)
	})
}

// normed calls a norm with its parameters. On the CPU libtorch's norms take an input in half precision with parameters in float32; on
// CUDA they want one type, and compute statistics in float32 nevertheless.
func normed(s *torch.Scope, x, w, b *torch.Tensor, norm func(s *torch.Scope, w, b *torch.Tensor) *torch.Tensor) *torch.Tensor {
	if !mixed(x, w) || !x.Device().IsCUDA() {
		return norm(s, w, b)
	}
	return s.Tidy(func(s *torch.Scope) *torch.Tensor { return norm(s, forInput(s, x, w), forInput(s, x, b)) })
}
