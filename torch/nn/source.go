package nn

import (
	"fmt"
	"iter"
	"slices"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch"
)

// Source has the weights that a network is built from: a file's, or another source's under other names. [torch.Weights] is one.
type Source interface {
	// Info returns shape and element type of the tensor of that name, and whether there is one.
	Info(name string) (shape []int, dtype torch.DType, ok bool)
	// Names yields the names of all tensors.
	Names() iter.Seq[string]
	// Get returns the tensor of that name, owned by s and on its device. It may be a view of memory that the source keeps.
	Get(s *torch.Scope, name string) (*torch.Tensor, error)
	// Release is a hint that views of the tensor's memory are gone and that it will not soon be read again.
	Release(name string)
}

// BuildFrom makes a store whose tensors are src's, frozen, and has build bind them, below the root path. Tensors that src has in
// the right type on dev are taken as they are, without a copy, so that src has to outlive the store; others are converted one
// at a time. All of the network's tensors have to be in src, no others, in the right shapes; what is wrong is reported
// together.
//
// On the CPU, convolutions and linear layers without gradients keep their weights in the order that oneDNN wants, once they have run:
// see [torch.Tensor.PackConv2D]. The memory of the source is released then, and a weight of another type is not converted before.
func BuildFrom(src Source, dev torch.Device, dtype torch.DType, build func(p Path)) (*Store, error) {
	if !dtype.IsFloat() {
		return nil, fmt.Errorf("want weights of a floating-point type, got %s", dtype)
	}
	if c, ok := src.(interface{ Closed() bool }); ok && c.Closed() {
		return nil, fmt.Errorf("the files of the weights were closed (%w): close them behind the network", torch.ErrFreed)
	}
	st, err := NewStore(dev, dtype, 0)
	if err != nil {
		return nil, err
	}
	st.src = &binding{Source: src, asked: map[string]bool{}}
	if err := torch.Catch(func() { build(st.Root()) }); err != nil {
		st.Close()
		return nil, err
	}
	if err := st.src.report(); err != nil {
		st.Close()
		return nil, err
	}
	st.src, st.from = nil, src
	return st, nil
}

// Release tells the system that the weights will not soon be needed: the memory of those that are views of a file goes, and is read
// again when they are used. Those that were changed stay.
func (st *Store) Release() {
	if st.from == nil || st.Device().IsCUDA() {
		return
	}
	for name, t := range st.Tensors() {
		if t.Version() == 0 {
			st.from.Release(name)
		}
	}
}

// binding is a source in the course of being bound to a store.
type binding struct {
	Source
	asked                        map[string]bool
	missing, misshapen, mistyped []string
}

// report says what did not fit, or nil.
func (b *binding) report() error {
	var unexpected []string
	for name := range b.Names() {
		if !b.asked[name] {
			unexpected = append(unexpected, quote.Text(name))
		}
	}
	return mismatch(b.missing, unexpected, b.misshapen, b.mistyped)
}

// Fits tells whether src has the tensors of a plan, no others, in the right shapes and of floating point: an error lists all that is
// wrong, as [BuildFrom]'s does. Nothing is read.
func Fits(src Source, plan []Shape) error {
	b := &binding{Source: src, asked: map[string]bool{}}
	for _, t := range plan {
		b.fits(t.Name, t.Dims, true)
	}
	return b.report()
}

// fits tells whether the source has such a tensor, and notes what is wrong.
func (b *binding) fits(name string, shape []int, float bool) bool {
	b.asked[name] = true
	got, dtype, ok := b.Info(name)
	switch {
	case !ok:
		b.missing = append(b.missing, quote.Text(name))
	case !slices.Equal(got, shape):
		b.misshapen = append(b.misshapen, fmt.Sprintf("%s (want %v, got %v)", quote.Text(name), shape, got))
	case float && !dtype.IsFloat() && !dtype.IsFloat8():
		b.mistyped = append(b.mistyped, fmt.Sprintf("%s (%s)", quote.Text(name), dtype))
	}
	return len(b.missing)+len(b.misshapen)+len(b.mistyped) == 0
}

// bind takes a tensor from the source. After the first that does not fit it returns nil: then build only goes on for the
// sake of the report.
func (st *Store) bind(name string, buffer bool, shape []int, dtype torch.DType) *torch.Tensor {
	if !st.src.fits(name, shape, true) {
		return nil
	}
	var t *torch.Tensor
	err := st.scope.NoGrad(func(s *torch.Scope) error {
		v, err := st.src.Get(s, name)
		if err != nil {
			return err
		}
		t = s.Keep(v.To(s, dtype))
		if v.DType() != dtype {
			v.Free()
			st.src.Release(name)
		}
		return nil
	})
	if err != nil {
		panic(&torch.Error{Op: "nn.BuildFrom", Msg: err.Error(), Err: err})
	}
	st.names = append(st.names, name)
	st.byKey[name] = entry{t, buffer}
	return t
}
