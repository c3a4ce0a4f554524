package nn

import (
	"slices"
	"sync"

	"github.com/onestep-go/onestep/torch"
)

// packed is the weight of a layer that comes from a source, in the order that oneDNN wants for inputs of the shape that came last: a
// network sees the same shapes again and again. The layer's own tensor stays what the source has, of whatever type, until someone
// needs it.
type packed struct {
	store *Store
	src   Source
	name  string

	mu      sync.Mutex
	weight  *torch.Tensor // nil: not yet packed
	input   []int         // the shape it was packed for
	version int           // of the layer's own tensor
	changes []Adapter     // that are merged: see Store.Merge
	plain   *torch.Tensor // what they make of the layer's own tensor, not packed; nil: not yet wanted
}

// weight makes a weight that may be packed; the second result is nil where weights are used as they are.
func (p Path) weight(init Init, shape ...int) (*torch.Tensor, *packed) {
	const name = "weight"
	st := p.st
	if st == nil || st.src == nil || st.Device().IsCUDA() || !torch.Packs(st.dtype) {
		return p.Param(name, init, shape...), nil
	}
	full := p.prefix + name
	st.free(full)
	_, dtype, ok := st.src.Info(full)
	if !ok || !dtype.IsFloat() {
		dtype = st.dtype
	}
	w := st.bind(full, false, shape, dtype)
	pw := &packed{store: st, src: st.src.Source, name: full}
	if w != nil {
		st.packed[w] = pw
	}
	return w, pw
}

// conv convolves x [B, in, H, W]. Without gradients the result lies in memory as channels-last, which the CPU's convolutions
// prefer.
func (p *packed) conv(s *torch.Scope, c Conv2D, x *torch.Tensor) *torch.Tensor {
	shape := x.Shape()
	if s.GradEnabled() || len(shape) != 4 || x.DType() != p.store.dtype {
		return x.Conv2D(s, p.unpacked(c.Weight), c.Bias, c.Opt)
	}
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		pack := func(s *torch.Scope, w *torch.Tensor) *torch.Tensor { return w.PackConv2D(s, shape, c.Opt) }
		return x.ChannelsLast(s).PackedConv2D(s, p.get(s, c.Weight, shape, pack), c.Bias, c.Opt)
	})
}

// fewRows is how many rows of input are too few for packing a linear layer's weight, which costs about as much as using it once.
const fewRows = 128

// linear maps x [..., in].
func (p *packed) linear(s *torch.Scope, l Linear, x *torch.Tensor) *torch.Tensor {
	rows := 1
	if shape := x.Shape(); len(shape) > 1 {
		for _, d := range shape[:len(shape)-1] {
			rows *= d
		}
	}
	if s.GradEnabled() || rows < fewRows || x.DType() != p.store.dtype {
		return x.Linear(s, p.unpacked(l.Weight), l.Bias)
	}
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		pack := func(s *torch.Scope, w *torch.Tensor) *torch.Tensor { return w.PackLinear(s, rows) }
		return x.PackedLinear(s, p.get(s, l.Weight, []int{rows}, pack), l.Bias)
	})
}

// get returns the packed weight for inputs of that shape, in s.
func (p *packed) get(s *torch.Scope, weight *torch.Tensor, input []int, pack func(s *torch.Scope, w *torch.Tensor) *torch.Tensor) *torch.Tensor {
	p.mu.Lock()
	defer p.mu.Unlock()
	if version := weight.Version(); p.weight == nil || !slices.Equal(p.input, input) || p.version != version {
		w := s.Tidy(func(s *torch.Scope) *torch.Tensor {
			if len(p.changes) > 0 {
				return pack(s, Changed(s, weight, p.changes...).To(s, p.store.dtype))
			}
			return pack(s, weight.To(s, p.store.dtype))
		})
		p.weight.Free() // other goroutines may still be at work with it: they have handles of their own
		p.weight, p.input, p.version = w.Share(p.store.scope), slices.Clone(input), version
		p.release(weight)
	}
	return p.weight.Share(s)
}

// unpacked returns the weight in the store's type as operators take it. The layer's own tensor becomes one of that type, or, with
// adapters merged, stays what it is.
func (p *packed) unpacked(weight *torch.Tensor) *torch.Tensor {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := p.store.scope
	if len(p.changes) > 0 {
		if p.plain == nil {
			p.plain = st.NoGradTidy(func(s *torch.Scope) *torch.Tensor { return Changed(s, weight, p.changes...).To(s, p.store.dtype) })
			p.release(weight)
		}
		return p.plain
	}
	if weight.DType() == p.store.dtype {
		return weight
	}
	converted := st.NoGradTidy(func(s *torch.Scope) *torch.Tensor { return weight.To(s, p.store.dtype) })
	torch.Swap(weight, converted)
	converted.Free()
	p.src.Release(p.name)
	return weight
}

// release gives the memory of the layer's own tensor back, if the source has it.
func (p *packed) release(weight *torch.Tensor) {
	if weight.Version() == 0 {
		p.src.Release(p.name)
	}
}
