package nn

import (
	"maps"
	"slices"

	"github.com/onestep-go/onestep/torch"
)

// Adapters map a layer's weight or bias to the adapters that a call applies to it; nil: none. The weights are not modified, so that
// goroutines that share a network can each use their own adapters.
type Adapters map[*torch.Tensor][]Adapter

// Adapter is a delta of one layer's weight or bias. Its type has to be comparable: a layer caches the weight that equal adapters produce.
// If an adapter's delta can change, it has a method Version() int whose result changes with it.
type Adapter interface {
	// AddTo adds its delta of the weight w to sum, which has w's shape, in float32 or float64.
	AddTo(s *torch.Scope, sum, w *torch.Tensor)
}

// And returns the adapters of both; for each layer, a's come first.
func (a Adapters) And(b Adapters) Adapters {
	all := maps.Clone(a)
	if all == nil {
		all = Adapters{}
	}
	for w, by := range b {
		all[w] = append(all[w][:len(all[w]):len(all[w])], by...)
	}
	return all
}

// Equal reports whether a and b have the same adapters for the same weights. An adapter whose delta has changed is still the same one.
func (a Adapters) Equal(b Adapters) bool {
	return maps.EqualFunc(a, b, func(by, other []Adapter) bool { return slices.Equal(by, other) })
}

// Usable panics with a *torch.Error if one of the adapters was closed.
func (a Adapters) Usable() {
	for _, by := range a {
		versions(by)
	}
}

// Of returns the adapters for weights and biases of these networks. Others have no effect on them.
func (a Adapters) Of(networks ...*Store) Adapters {
	if len(a) == 0 {
		return nil
	}
	own := Adapters{}
	for _, st := range networks {
		for _, t := range st.Tensors() {
			if by, ok := a[t]; ok {
				own[t] = by
			}
		}
	}
	return own
}

// Layer is a [Linear], a [Conv2D], a [GroupNorm] or a [LayerNorm].
type Layer interface {
	Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor
	Kernel() *torch.Tensor // its weight
}

// Kernel returns the weight.
func (l Linear) Kernel() *torch.Tensor { return l.Weight }

// Kernel returns the weight.
func (c Conv2D) Kernel() *torch.Tensor { return c.Weight }

// Kernel returns the weight.
func (g GroupNorm) Kernel() *torch.Tensor { return g.Weight }

// Kernel returns the weight.
func (l LayerNorm) Kernel() *torch.Tensor { return l.Weight }

// Closed reports whether one of the adapters was closed, which freed its weights.
func (a Adapters) Closed() bool {
	for _, list := range a {
		for _, one := range list {
			if c, ok := one.(interface{ Closed() bool }); ok && c.Closed() {
				return true
			}
		}
	}
	return false
}

// LowRank is the delta Scale·Up·Down (LoRA, Hu et al. 2021). For a linear layer [out, in], Down is a layer [r, in] and Up one [out, r]; for
// a convolution [out, in, k, k], Down is one [r, in, k, k] with the layer's options and Up one [out, r, 1, 1]. A layer runs the two
// separately if that is less work than adding their product to the weight, or if gradients are on. Their dtype may differ from the
// layer's, such as float32 with a bfloat16 layer: they are cast to the input's dtype when used, and their gradients have their own dtype.
type LowRank struct {
	Down, Up Layer
	Scale    float64
}

// AddTo implements Adapter.
func (a LowRank) AddTo(s *torch.Scope, sum, _ *torch.Tensor) {
	s.Tidy(func(s *torch.Scope) *torch.Tensor {
		d := sum.DType()
		down, up := a.Down.Kernel().To(s, d), a.Up.Kernel().To(s, d)
		sum.Flatten(s, 1, -1).AddProductInPlace(s, up.Flatten(s, 1, -1), down.Flatten(s, 1, -1), a.Scale)
		return nil
	})
}

// Closed reports whether its weights were freed.
func (a LowRank) Closed() bool { return a.Down.Kernel().Freed() || a.Up.Kernel().Freed() }

// Version counts the in-place changes of its weights.
func (a LowRank) Version() int { return a.Down.Kernel().Version() + a.Up.Kernel().Version() }

// versions returns the versions of the adapters that have one.
func versions(of []Adapter) []int {
	var all []int
	for _, a := range of {
		if c, ok := a.(interface{ Closed() bool }); ok && c.Closed() {
			refuse("adapter", torch.ErrFreed, "the adapter was closed, which freed its weights; close it only after the last use")
		}
		if v, ok := a.(interface{ Version() int }); ok {
			all = append(all, v.Version())
		}
	}
	return all
}

// Changed returns a weight with the adapters' deltas added, in float32, or in float64 for a float64 weight: before rounding to the weight's
// dtype, for writing merged weights. Layers apply their adapters themselves.
func Changed(s *torch.Scope, w *torch.Tensor, by ...Adapter) *torch.Tensor {
	sum := w.Contiguous(s)
	if d := w.DType(); d == torch.Float32 || d == torch.Float64 {
		sum = sum.Clone(s)
	} else {
		sum = sum.To(s, torch.Float32)
	}
	for _, a := range by {
		a.AddTo(s, sum, w)
	}
	return sum
}

// Costs that decide whether adapters are added to a layer's weight or run separately. A weight with adapters is computed once and reused
// for as long as the adapters stay the same; but its sums are rounded differently, so the decision may depend only on shapes.
const (
	packing = 150 // cost of adding to one element of a weight and reordering it for oneDNN, in multiplications
	uses    = 2   // least number of uses for which a weight with adapters pays off
)

// apart reports whether the layer with weight w should run the adapters separately, for that many rows of input. A layer that gradients flow
// through always does: it keeps no weight with adapters, and its results with and without gradients are rounded in the same way.
func apart(s *torch.Scope, w *torch.Tensor, pw *packed, rows int, by []Adapter) bool {
	rank := 0
	for _, a := range by {
		l, ok := a.(LowRank)
		if !ok {
			return false
		}
		rank += l.Up.Kernel().Dim(1)
	}
	out := w.Dim(0)
	in := w.NumEl() / out
	return s.GradEnabled() || (pw != nil && !pw.built && pw.plainly(s)) || uses*rows*(in+out)*rank <= in*out*(rank+packing)
}

// share adds to y the outputs of separate adapters for x.
func share(s *torch.Scope, x, y *torch.Tensor, by []Adapter) *torch.Tensor {
	for _, a := range by {
		l := a.(LowRank)
		s.Tidy(func(s *torch.Scope) *torch.Tensor {
			down, up := cast(s, l.Down, x.DType()), cast(s, l.Up, x.DType())
			y.AddScaledInPlace(s, up.Forward(s, down.Forward(s, x)), l.Scale)
			return nil
		})
	}
	return y
}

// cast returns a layer for inputs of type d.
func cast(s *torch.Scope, l Layer, d torch.DType) Layer {
	switch l := l.(type) {
	case Linear:
		if l.Weight.DType() != d && !l.packed.takes(d) {
			l.Weight, l.packed = l.Weight.To(s, d), nil
		}
		return l
	case Conv2D:
		if l.Weight.DType() != d && !l.packed.takes(d) {
			l.Weight, l.packed = l.Weight.To(s, d), nil
		}
		return l
	}
	return l
}

// Weight returns a weight or bias with its adapters, in its own dtype, or the tensor itself without adapters: for custom layers.
func (a Adapters) Weight(s *torch.Scope, b *torch.Tensor) *torch.Tensor {
	by := a[b]
	if b == nil || len(by) == 0 {
		return b
	}
	return s.Tidy(func(s *torch.Scope) *torch.Tensor { return Changed(s, b, by...).To(s, b.DType()) })
}

// Adapted is Forward with the layer's adapters, if any.
func (l Linear) Adapted(s *torch.Scope, x *torch.Tensor, a Adapters) *torch.Tensor {
	l.Bias = a.Weight(s, l.Bias)
	by := a[l.Weight]
	if len(by) == 0 {
		return l.Forward(s, x)
	}
	rows := x.NumEl() / max(x.Dim(-1), 1)
	if apart(s, l.Weight, l.packed, rows, by) {
		return share(s, x, l.Forward(s, x), by)
	}
	if l.packed != nil {
		return l.packed.linear(s, l, x, by...)
	}
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		return l.apply(s, x, Changed(s, l.Weight, by...).To(s, x.DType()))
	})
}

// Adapted is Forward with the layer's adapters, if any.
func (c Conv2D) Adapted(s *torch.Scope, x *torch.Tensor, a Adapters) *torch.Tensor {
	c.Bias = a.Weight(s, c.Bias)
	by := a[c.Weight]
	if len(by) == 0 {
		return c.Forward(s, x)
	}
	shape := x.Shape()
	stride, n := max(c.Opt.Stride, 1), len(shape)
	rows := x.NumEl() / max(shape[n-3]*shape[n-2]*shape[n-1], 1) * (shape[n-2] / stride) * (shape[n-1] / stride) // of one image, or of several
	if apart(s, c.Weight, c.packed, rows, by) {
		return share(s, x, c.Forward(s, x), by)
	}
	if c.packed != nil {
		return c.packed.conv(s, c, x, by...)
	}
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		return c.apply(s, x, Changed(s, c.Weight, by...).To(s, x.DType()))
	})
}

// Adapted is Forward with the layer's adapters, if any.
func (g GroupNorm) Adapted(s *torch.Scope, x *torch.Tensor, a Adapters) *torch.Tensor {
	g.Weight, g.Bias = a.Weight(s, g.Weight), a.Weight(s, g.Bias)
	return g.Forward(s, x)
}

// AdaptedSiLU is SiLU with the layer's adapters, if any.
func (g GroupNorm) AdaptedSiLU(s *torch.Scope, x *torch.Tensor, a Adapters) *torch.Tensor {
	g.Weight, g.Bias = a.Weight(s, g.Weight), a.Weight(s, g.Bias)
	return g.SiLU(s, x)
}

// Adapted is Forward with the layer's adapters, if any.
func (l LayerNorm) Adapted(s *torch.Scope, x *torch.Tensor, a Adapters) *torch.Tensor {
	l.Weight, l.Bias = a.Weight(s, l.Weight), a.Weight(s, l.Bias)
	return l.Forward(s, x)
}

// Adapted is Forward with the table's adapters, if any.
func (e Embedding) Adapted(s *torch.Scope, indices *torch.Tensor, a Adapters) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		e.Weight = a.Weight(s, e.Weight)
		return e.Forward(s, indices)
	})
}

// Merge merges the adapters into the network's weights until the next Merge. Merge(nil) unmerges them: results are then as before to the
// last bit, because the original weights are kept. Adapters for weights of other networks are ignored. The adapters have to stay open. It
// must not be called while the network runs.
func (st *Store) Merge(a Adapters) error {
	st.merges.Add(1)
	return torch.Catch(func() {
		for _, name := range st.names {
			e := st.byKey[name]
			by := a[e.t]
			if p := st.packed[e.t]; p != nil && !p.built {
				p.merge(by)
				continue
			} else if p != nil {
				p.drop()
			}
			st.swap(e.t, by)
		}
	})
}

// Merges is the number of calls of Merge: when it has changed, weights may be elsewhere in memory.
func (st *Store) Merges() int { return int(st.merges.Load()) }

// Merged reports whether adapters are merged into the network's weights.
func (st *Store) Merged() bool {
	for _, p := range st.packed {
		p.mu.Lock()
		merged := len(p.merged) > 0
		p.mu.Unlock()
		if merged {
			return true
		}
	}
	return len(st.bases) > 0
}

// swap replaces a weight that is not packed by its merged version, or restores it.
func (st *Store) swap(t *torch.Tensor, by []Adapter) {
	if base := st.bases[t]; base != nil {
		torch.Swap(t, base)
		base.Free()
		delete(st.bases, t)
	}
	if len(by) == 0 {
		return
	}
	w := st.scope.NoGradTidy(func(s *torch.Scope) *torch.Tensor {
		w := Changed(s, t, by...).To(s, st.dtype)
		if t.IsChannelsLastOnly() {
			w = w.ChannelsLast(s)
		}
		return w
	})
	torch.Swap(t, w)
	if st.bases == nil {
		st.bases = map[*torch.Tensor]*torch.Tensor{}
	}
	st.bases[t] = w
}

// drop frees the packed weight: the layer's own tensor is about to be another.
func (p *packed) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.weight.Free()
	p.weight = nil
}

// merge replaces the merged adapters.
func (p *packed) merge(by []Adapter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.plain.Free()
	p.plain, p.merged = nil, by
	p.last = by // the next call's
}
