package nn

import (
	"maps"

	"github.com/onestep-go/onestep/torch"
)

// Adapters are changes of layers while a network runs, by the layer's weight or bias; nil: none. The weights stay as they are, so that
// goroutines that share a network may each have their own.
type Adapters map[*torch.Tensor][]Adapter

// Adapter is a change of one layer's weight, or bias. Its type has to be comparable: a layer keeps the weight that equal adapters make. What
// they make may differ only where a method Version() int says so.
type Adapter interface {
	// AddTo adds its change of the weight w to sum, which has w's shape, in float32 or float64.
	AddTo(s *torch.Scope, sum, w *torch.Tensor)
}

// And returns the adapters of both; a layer's are a's first.
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

// Of returns the adapters of weights and biases that the networks have. Others would do nothing there.
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

// Closed tells whether the weights of one of the adapters are gone, because it was closed.
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

// LowRank changes a weight by Scale·Up·Down (Hu et al. 2021). Of a linear layer [out, in], Down is one [r, in] and Up one [out, r]; of a
// convolution [out, in, k, k], Down is one [r, in, k, k] with the layer's options and Up one [out, r, 1, 1]. Layers compute with the two
// where that is less work than adding their product to the weight, and where gradients are wanted. Their weights may be of another type
// than the layer's, such as float32 beside bfloat16: they are cast to the input's type where they are used, and gradients reach them in
// their own.
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

// Closed tells whether its weights were freed.
func (a LowRank) Closed() bool { return a.Down.Kernel().Freed() || a.Up.Kernel().Freed() }

// Version counts how often its weights were changed in place.
func (a LowRank) Version() int { return a.Down.Kernel().Version() + a.Up.Kernel().Version() }

// versions returns the versions of those adapters that have any.
func versions(of []Adapter) []int {
	var all []int
	for _, a := range of {
		if c, ok := a.(interface{ Closed() bool }); ok && c.Closed() {
			refuse("adapter", torch.ErrFreed, "the adapter was closed, which freed its weights; close it when nothing needs it any more")
		}
		if v, ok := a.(interface{ Version() int }); ok {
			all = append(all, v.Version())
		}
	}
	return all
}

// Changed returns a weight as adapters make it, in float32, or in float64 where it is of that: before it is rounded to its own type, as
// what writes merged weights needs it. Layers apply their adapters themselves.
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

// What decides whether a weight is changed. A changed weight is made once and used again for as long as the adapters stay; but its sums
// are rounded in another way, so that the decision may depend on nothing but shapes.
const (
	packing = 150 // what it costs to add to an element of a weight and to bring it into oneDNN's order, in multiplications
	uses    = 2   // how often a changed weight has to be used at least to be worth its making
)

// apart tells whether the layer with weight w should compute with the adapters apart from it, for so many rows of input.
func apart(s *torch.Scope, w *torch.Tensor, rows int, by []Adapter) bool {
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
	return s.GradEnabled() || uses*rows*(in+out)*rank <= in*out*(rank+packing)
}

// share adds to y what adapters that are apart make of x.
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

// Weight returns a weight or bias with its adapters, in its own type, or the tensor itself, if there are none: for layers that compute in
// a way of their own.
func (a Adapters) Weight(s *torch.Scope, b *torch.Tensor) *torch.Tensor {
	by := a[b]
	if b == nil || len(by) == 0 {
		return b
	}
	return s.Tidy(func(s *torch.Scope) *torch.Tensor { return Changed(s, b, by...).To(s, b.DType()) })
}

// Adapted is Forward with the layer's adapters, if there are any.
func (l Linear) Adapted(s *torch.Scope, x *torch.Tensor, a Adapters) *torch.Tensor {
	l.Bias = a.Weight(s, l.Bias)
	by := a[l.Weight]
	if len(by) == 0 {
		return l.Forward(s, x)
	}
	rows := x.NumEl() / max(x.Dim(-1), 1)
	if apart(s, l.Weight, rows, by) {
		return share(s, x, l.Forward(s, x), by)
	}
	if l.packed != nil {
		return l.packed.linear(s, l, x, by...)
	}
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		return x.Linear(s, Changed(s, l.Weight, by...).To(s, x.DType()), l.Bias)
	})
}

// Adapted is Forward with the layer's adapters, if there are any.
func (c Conv2D) Adapted(s *torch.Scope, x *torch.Tensor, a Adapters) *torch.Tensor {
	c.Bias = a.Weight(s, c.Bias)
	by := a[c.Weight]
	if len(by) == 0 {
		return c.Forward(s, x)
	}
	shape := x.Shape()
	stride, n := max(c.Opt.Stride, 1), len(shape)
	rows := x.NumEl() / max(shape[n-3]*shape[n-2]*shape[n-1], 1) * (shape[n-2] / stride) * (shape[n-1] / stride) // of one picture, or of several
	if apart(s, c.Weight, rows, by) {
		return share(s, x, c.Forward(s, x), by)
	}
	if c.packed != nil {
		return c.packed.conv(s, c, x, by...)
	}
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		return x.Conv2D(s, Changed(s, c.Weight, by...).To(s, x.DType()), c.Bias, c.Opt)
	})
}

// Adapted is Forward with the layer's adapters, if there are any.
func (g GroupNorm) Adapted(s *torch.Scope, x *torch.Tensor, a Adapters) *torch.Tensor {
	g.Weight, g.Bias = a.Weight(s, g.Weight), a.Weight(s, g.Bias)
	return g.Forward(s, x)
}

// Adapted is Forward with the layer's adapters, if there are any.
func (l LayerNorm) Adapted(s *torch.Scope, x *torch.Tensor, a Adapters) *torch.Tensor {
	l.Weight, l.Bias = a.Weight(s, l.Weight), a.Weight(s, l.Bias)
	return l.Forward(s, x)
}

// Adapted is Forward with the table's adapters, if there are any.
func (e Embedding) Adapted(s *torch.Scope, indices *torch.Tensor, a Adapters) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		e.Weight = a.Weight(s, e.Weight)
		return e.Forward(s, indices)
	})
}

// Merge makes the network compute with weights that the adapters have changed, until the next Merge: with none it computes as before, to
// the last bit, for the weights themselves are kept. Weights of other networks in a are left alone. The adapters have to stay open. It may
// not be called while the network runs.
func (st *Store) Merge(a Adapters) error {
	return torch.Catch(func() {
		for _, name := range st.names {
			e := st.byKey[name]
			by := a[e.t]
			if p := st.packed[e.t]; p != nil {
				p.merge(by)
				continue
			}
			st.swap(e.t, by)
		}
	})
}

// swap puts a changed weight into the place of one that is not packed, or the weight itself back.
func (st *Store) swap(t *torch.Tensor, by []Adapter) {
	if base := st.bases[t]; base != nil {
		torch.Swap(t, base)
		base.Free()
		delete(st.bases, t)
	}
	if len(by) == 0 {
		return
	}
	w := st.scope.NoGradTidy(func(s *torch.Scope) *torch.Tensor { return Changed(s, t, by...).To(s, st.dtype) })
	torch.Swap(t, w)
	if st.bases == nil {
		st.bases = map[*torch.Tensor]*torch.Tensor{}
	}
	st.bases[t] = w
}

// merge replaces the adapters that are merged.
func (p *packed) merge(by []Adapter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.plain.Free()
	p.plain, p.merged = nil, by
	p.last = by // the next call's
}
