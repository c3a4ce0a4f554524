package nn

import (
	"fmt"
	"iter"
	"slices"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch"
)

// Source provides weights to build a network from: those of a file, or of another source under other names. [torch.Weights] is a Source.
type Source interface {
	// Info returns the shape and dtype of the tensor with that name, and whether there is one.
	Info(name string) (shape []int, dtype torch.DType, ok bool)
	// Names yields the names of all tensors.
	Names() iter.Seq[string]
	// Get returns the tensor with that name, owned by s and on its device. It may be a view of the source's memory.
	Get(s *torch.Scope, name string) (*torch.Tensor, error)
	// Release is a hint that no views of the tensor's memory are left and that it will not be read again soon.
	Release(name string)
}

// BuildFrom makes a store with the tensors of src, frozen; build binds them below the root path. Tensors that src has in the right
// dtype on dev are used without a copy, so that src has to outlive the store; others are converted one at a time. src has to have
// exactly the network's tensors, with the right shapes; all mismatches are reported together.
//
// On the CPU, convolutions and linear layers without gradients keep their weights in oneDNN's memory format after the first run: see
// [torch.Tensor.PackConv2D]. The source's memory is then released, and a weight of another dtype is not converted before. A layer that is
// used with gradients keeps its weight as it is from then on: no weight is held twice; see [Store.Unpack].
func BuildFrom(src Source, dev torch.Device, dtype torch.DType, build func(p Path)) (*Store, error) {
	if !dtype.IsFloat() {
		return nil, fmt.Errorf("want a floating-point dtype, got %s", dtype)
	}
	if c, ok := src.(interface{ Closed() bool }); ok && c.Closed() {
		return nil, fmt.Errorf("the weight files were closed (%w): close them after the network", torch.ErrFreed)
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

// Release tells the system that the weights will not be needed soon: views of a file are dropped from memory and read again on the next
// use. Weights that were changed are kept.
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

// binding is the state of binding a source to a store.
type binding struct {
	Source
	asked                        map[string]bool
	missing, misshapen, mistyped []string
}

// report returns an error of all mismatches, or nil.
func (b *binding) report() error {
	var unexpected []string
	for name := range b.Names() {
		if !b.asked[name] {
			unexpected = append(unexpected, quote.Text(name))
		}
	}
	return mismatch(b.missing, unexpected, b.misshapen, b.mistyped)
}

// Fits checks that src has exactly the tensors of a plan, with the right shapes and floating-point dtypes: its error lists all mismatches,
// like that of [BuildFrom]. No values are read.
func Fits(src Source, plan []Shape) error {
	b := &binding{Source: src, asked: map[string]bool{}}
	for _, t := range plan {
		b.fits(t.Name, t.Dims, true)
	}
	return b.report()
}

// fits reports whether the source has such a tensor, and records mismatches.
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

// bind takes a tensor from the source. After the first mismatch it returns nil: build then continues only to complete the
// report.
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
