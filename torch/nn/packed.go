package nn

import (
	"slices"
	"sync"

	"github.com/onestep-go/onestep/torch"
)

// packed caches a layer's weight in oneDNN's memory format for inputs of the last shape: a network sees the same shapes again and again. For
// a convolution by this library's kernels, which take weights as they are, it caches what differs from the source: another dtype, adapters.
// The layer's own tensor stays as the source has it, in any dtype, until it is needed.
type packed struct {
	store *Store
	src   Source
	name  string
	built bool // the store was built without a source: weights are packed only after [Store.Pack]

	mu      sync.Mutex
	trained bool          // gradients flow through the layer: its own tensor is used, and none is packed beside it
	weight  *torch.Tensor // nil: not yet packed
	input   []int         // the shape it was packed for
	dtype   torch.DType   // the type it was packed in
	version int           // of the layer's own tensor
	by      []Adapter     // adapters it was packed with
	moves   []int         // versions of these adapters
	last    []Adapter     // adapters of the previous call
	merged  []Adapter     // see Store.Merge
	plain   *torch.Tensor // the layer's own tensor with the merged adapters, not packed; nil: not yet needed
}

// weight makes a weight that can be packed; the second result is nil if weights are not packed.
func (p Path) weight(init Init, shape ...int) (*torch.Tensor, *packed) {
	const name = "weight"
	st := p.st
	if st == nil || st.Device().IsCUDA() || !torch.Packs(st.dtype) {
		w := p.Param(name, init, shape...)
		if w != nil && len(shape) == 4 && LastOnGPU(st.Device(), st.dtype) {
			toLast(st.scope, w)
		}
		return w, nil
	}
	full := p.prefix + name
	if st.src == nil {
		w := p.Param(name, init, shape...)
		pw := &packed{store: st, src: Stored{st}, name: full, built: true, trained: true}
		st.packed[w] = pw
		return w, pw
	}
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

// conv convolves x [B, in, H, W] with the weight and its adapters. Without gradients the result is channels-last, which is faster on the
// CPU.
func (p *packed) conv(s *torch.Scope, c Conv2D, x *torch.Tensor, by ...Adapter) *torch.Tensor {
	shape := x.Shape()
	plain := p.plainly(s)
	if plain && !p.built && p.byPatches(c, x, shape) {
		return s.Tidy(func(s *torch.Scope) *torch.Tensor {
			y := x.ProductConv2D(s, p.unpacked(s, c.Weight, x.DType(), by), c.Bias, c.Opt)
			if x.IsChannelsLastOnly() {
				y = y.ChannelsLast(s)
			}
			return y
		})
	}
	if plain || len(shape) != 4 || !p.packs(x) || p.built && c.winograd(x) {
		return c.apply(s, x, p.unpacked(s, c.Weight, x.DType(), by))
	}
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		x := x.ChannelsLast(s)
		if c.winograd(x) {
			return x.Conv3x3(s, p.get(s, c.Weight, x.DType(), nil, by, nil), c.Bias)
		}
		pack := func(s *torch.Scope, w *torch.Tensor) *torch.Tensor { return w.PackConv2D(s, shape, c.Opt) }
		return x.PackedConv2D(s, p.get(s, c.Weight, x.DType(), shape, by, pack), forInput(s, x, c.Bias), c.Opt)
	})
}

// frozen reports whether the layer's own weight, which is not trained, has x's type and device.
func (p *packed) frozen(weight, x *torch.Tensor) bool {
	return x.DType() == p.store.dtype && !weight.RequiresGrad()
}

// A convolution of small images with large weights is computed by its patches: see [torch.Tensor.ProductConv2D].
const (
	fewPixels   = 128     // most output pixels of a batch
	largeWeight = 1 << 20 // least number of elements of the weight
)

// byPatches reports whether a convolution is computed by its patches.
func (p *packed) byPatches(c Conv2D, x *torch.Tensor, shape []int) bool {
	if len(shape) != 4 || c.Opt.Dilation > 1 || c.Opt.Groups > 1 || c.Weight.NumEl() < largeWeight || !p.frozen(c.Weight, x) {
		return false
	}
	stride := max(c.Opt.Stride, 1)
	pixels := shape[0] * (shape[2] / stride) * (shape[3] / stride)
	return pixels > 0 && pixels <= fewPixels
}

// packs reports whether the weight can be packed for x: in the store's type, or in mixed precision in x's.
func (p *packed) packs(x *torch.Tensor) bool {
	d := x.DType()
	return d == p.store.dtype || p.store.dtype == torch.Float32 && isHalf(d) && torch.Packs(d)
}

// takes reports whether inputs of dtype d can use the weight without a cast.
func (p *packed) takes(d torch.DType) bool { return p != nil && p.store.dtype == d }

// fewRows is the number of input rows below which packing a linear layer's weight, which costs about as much as one use, does not pay off.
const fewRows = 128

// linear applies the weight and its adapters to x [..., in].
func (p *packed) linear(s *torch.Scope, l Linear, x *torch.Tensor, by ...Adapter) *torch.Tensor {
	rows := 1
	if shape := x.Shape(); len(shape) > 1 {
		for _, d := range shape[:len(shape)-1] {
			rows *= d
		}
	}
	plain := p.plainly(s)
	if plain && !p.built && rows > 0 && x.DType() == torch.Float32 && p.frozen(l.Weight, x) {
		return x.Product(s, p.unpacked(s, l.Weight, x.DType(), by), l.Bias)
	}
	if plain || rows < fewRows || !p.packs(x) {
		return l.apply(s, x, p.unpacked(s, l.Weight, x.DType(), by))
	}
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		pack := func(s *torch.Scope, w *torch.Tensor) *torch.Tensor { return w.PackLinear(s, rows) }
		return x.PackedLinear(s, p.get(s, l.Weight, x.DType(), []int{rows}, by, pack), forInput(s, x, l.Bias))
	})
}

// plainly reports whether the layer computes with its own tensor, and not a packed one. Gradients need the layer's own, so a layer that
// is once used with them does so from then on: a packed weight beside it would double the memory of a network that is trained through.
func (p *packed) plainly(s *torch.Scope) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.built {
		return p.trained || s.GradEnabled()
	}
	if !p.trained && s.GradEnabled() {
		p.unpack()
	}
	return p.trained
}

// unpack makes the layer compute with its own tensor from now on. Other goroutines that use the packed one have their own handles.
func (p *packed) unpack() {
	p.trained = true
	p.weight.Free()
	p.weight, p.input, p.by, p.moves, p.last = nil, nil, nil, nil, nil
}

// Unpack makes the layers compute with their weights as they are, also without gradients, and frees the ones that were packed: for a
// network that gradients will flow through, before its first use. Layers that are used with gradients do so by themselves from then on; if
// they were used without before, the memory for both was taken in the meantime. See [BuildFrom].
func (st *Store) Unpack() {
	for _, p := range st.packed {
		p.mu.Lock()
		p.unpack()
		p.mu.Unlock()
	}
}

// Pack makes the layers of a network that was built without a source, such as by [Build], keep packed weights as those of [BuildFrom] do: for
// a frozen network that is used without gradients from now on, which becomes faster. The plain weights stay, too. Calls with gradients use
// them. It has no effect on other networks.
func (st *Store) Pack() {
	for w, p := range st.packed {
		if p.built && !w.RequiresGrad() {
			p.mu.Lock()
			p.trained = false
			p.mu.Unlock()
		}
	}
}

// get returns the packed weight of dtype d with adapters for inputs of that shape, in s. With pack nil the weight keeps its order, which serves
// inputs of all shapes, and without adapters and in its own type its memory. One is cached, so that a network with adapters takes no more
// memory than one without. Adapters replace the cached ones only when two calls in a row use them: otherwise goroutines with different
// adapters would keep evicting each other's weight.
func (p *packed) get(s *torch.Scope, weight *torch.Tensor, d torch.DType, input []int, by []Adapter, pack func(s *torch.Scope, w *torch.Tensor) *torch.Tensor) *torch.Tensor {
	p.mu.Lock()
	defer p.mu.Unlock()
	by = p.with(by)
	version, moves := weight.Version(), versions(by)
	same := p.weight != nil && p.dtype == d && p.version == version && slices.Equal(p.by, by) && slices.Equal(p.moves, moves)
	again := slices.Equal(p.last, by)
	p.last = by
	if same && slices.Equal(p.input, input) {
		return p.weight.Share(s)
	}
	w := s.Tidy(func(s *torch.Scope) *torch.Tensor {
		w := weight
		if len(by) > 0 {
			w = Changed(s, weight, by...)
		}
		if w = w.To(s, d); pack != nil {
			w = pack(s, w)
		}
		return w
	})
	if p.trained { // since the caller looked
		return w
	}
	if pack != nil || len(by) > 0 || weight.DType() != d {
		p.release(weight)
	}
	if p.weight != nil && !same && !again {
		return w
	}
	p.weight.Free() // other goroutines may still use it: they have their own handles
	p.weight, p.input, p.dtype, p.version, p.by, p.moves = w.Share(p.store.scope), slices.Clone(input), d, version, slices.Clone(by), moves
	return w
}

// with returns the merged adapters followed by more.
func (p *packed) with(by []Adapter) []Adapter {
	if len(p.merged) == 0 {
		return by
	}
	return append(p.merged[:len(p.merged):len(p.merged)], by...)
}

// unpacked returns the weight with adapters in dtype d, unpacked. Without adapters the layer's own tensor is converted to the store's dtype.
func (p *packed) unpacked(s *torch.Scope, weight *torch.Tensor, d torch.DType, by []Adapter) *torch.Tensor {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := p.store.scope
	switch {
	case len(by) > 0:
		return s.Tidy(func(s *torch.Scope) *torch.Tensor { return Changed(s, weight, p.with(by)...).To(s, d) })
	case len(p.merged) > 0:
		if p.plain == nil {
			p.plain = st.NoGradTidy(func(s *torch.Scope) *torch.Tensor { return Changed(s, weight, p.merged...).To(s, p.store.dtype) })
			p.release(weight)
		}
		return p.plain
	}
	return p.convert(weight)
}

// convert converts the layer's own tensor to the store's dtype.
func (p *packed) convert(weight *torch.Tensor) *torch.Tensor {
	if weight.DType() == p.store.dtype {
		return weight
	}
	converted := p.store.scope.NoGradTidy(func(s *torch.Scope) *torch.Tensor { return weight.To(s, p.store.dtype) })
	torch.Swap(weight, converted)
	converted.Free()
	p.src.Release(p.name)
	return weight
}

// release releases the memory of the layer's own tensor if the source can read it again.
func (p *packed) release(weight *torch.Tensor) {
	if weight.Version() == 0 {
		p.src.Release(p.name)
	}
}
