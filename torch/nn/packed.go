package nn

import (
	"sync"

	"github.com/onestep-go/onestep/torch"
)

// packed is the weight of a convolution that comes from a source, in the order that oneDNN wants for inputs of the sizes that
// came last: a network sees the same sizes again and again. The layer's own tensor stays what the source has, of whatever type,
// until someone needs it.
type packed struct {
	store *Store
	src   Source
	name  string

	mu      sync.Mutex
	weight  *torch.Tensor // nil: not yet packed
	input   [4]int        // the sizes it was packed for
	version int           // of the layer's own tensor
}

// kernel makes the weight of a convolution; the second result is nil where weights are used as they are.
func (p Path) kernel(name string, init Init, shape ...int) (*torch.Tensor, *packed) {
	st := p.st
	if st == nil || st.src == nil || st.Device().IsCUDA() || !torch.PacksConv2D(st.dtype) {
		return p.Param(name, init, shape...), nil
	}
	full := p.prefix + name
	st.free(full)
	_, dtype, ok := st.src.Info(full)
	if !ok || !dtype.IsFloat() {
		dtype = st.dtype
	}
	w := st.bind(full, false, shape, dtype)
	return w, &packed{store: st, src: st.src.Source, name: full}
}

// forward convolves x [B, in, H, W]. Without gradients the result lies in memory as channels-last, which the CPU's
// convolutions prefer.
func (p *packed) forward(s *torch.Scope, c Conv2D, x *torch.Tensor) *torch.Tensor {
	shape := x.Shape()
	if s.GradEnabled() || len(shape) != 4 || x.DType() != p.store.dtype {
		p.convert(c)
		return x.Conv2D(s, c.Weight, c.Bias, c.Opt)
	}
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		return x.ChannelsLast(s).PackedConv2D(s, p.get(s, c, [4]int(shape)), c.Bias, c.Opt)
	})
}

// get returns the weight for inputs of that size, in s.
func (p *packed) get(s *torch.Scope, c Conv2D, input [4]int) *torch.Tensor {
	p.mu.Lock()
	defer p.mu.Unlock()
	if version := c.Weight.Version(); p.weight == nil || p.input != input || p.version != version {
		w := s.Tidy(func(s *torch.Scope) *torch.Tensor {
			return c.Weight.To(s, p.store.dtype).PackConv2D(s, input[:], c.Opt)
		})
		p.weight.Free() // other goroutines may still be at work with it: they have handles of their own
		p.weight, p.input, p.version = w.Share(p.store.scope), input, version
		if version == 0 { // as the source has it
			p.src.Release(p.name)
		}
	}
	return p.weight.Share(s)
}

// convert makes the layer's own tensor one of the store's type.
func (p *packed) convert(c Conv2D) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.Weight.DType() == p.store.dtype {
		return
	}
	st := p.store.scope
	converted := st.NoGradTidy(func(s *torch.Scope) *torch.Tensor { return c.Weight.To(s, p.store.dtype) })
	torch.Swap(c.Weight, converted)
	converted.Free()
	p.src.Release(p.name)
}
