package nn

import (
	"fmt"

	"github.com/onestep-go/onestep/torch"
)

// Closed reports whether the store was closed, which frees its parameters.
func (st *Store) Closed() bool { return st.scope.Closed() }

// Takes checks that a network, called op in errors, can compute with x, called what: that the store is open and x is not nil or freed, has
// the store's dtype and is on its device. Otherwise it panics with a *torch.Error that says what to do; an operator inside the network
// would panic with a less helpful message.
func (st *Store) Takes(op, what string, x *torch.Tensor) {
	st.there(op, what, x)
	if d := x.DType(); d != st.dtype {
		refuse(op, nil, "%s: want %s, the dtype of the network's weights, got %s; convert with To(s, torch.%s)", what, st.dtype, d, constants[st.dtype])
	}
	st.near(op, what, x)
}

// TakesLabels checks that v, called what, has one number of any dtype for each of n samples, [n], or one for all, [1], on the store's device.
func (st *Store) TakesLabels(op, what string, v *torch.Tensor, n int) {
	st.there(op, what, v)
	if shape := v.Shape(); len(shape) > 1 || (v.NumEl() != 1 && v.NumEl() != n) {
		refuse(op, nil, "%s: want one for each of %d samples, [%d], or one for all, got shape %v", what, n, n, shape)
	}
	st.near(op, what, v)
}

// TakesIndices checks that x, called what, is int64 on the store's device and, unless below is 0, that its values are from 0 to below-1. On
// a GPU, an index out of range would make the device unusable for the process; the check waits for the GPU.
func (st *Store) TakesIndices(op, what string, x *torch.Tensor, below int) {
	st.there(op, what, x)
	if d := x.DType(); d != torch.Int64 {
		refuse(op, nil, "%s: want int64, got %s; convert with To(s, torch.Int64)", what, d)
	}
	st.near(op, what, x)
	if below == 0 || x.NumEl() == 0 {
		return
	}
	s := torch.NewScope(x.Device())
	defer s.Close()
	if low, high := x.Min(s).Int(), x.Max(s).Int(); low < 0 || high >= below {
		refuse(op, nil, "%s: want numbers from 0 to %d, got %d to %d", what, below-1, low, high)
	}
}

// near checks that x is on the store's device.
func (st *Store) near(op, what string, x *torch.Tensor) {
	if got, want := x.Device(), st.Device(); got != want {
		refuse(op, nil, "%s: want a tensor on %s, the network's device, got one on %s; move it with ToDevice", what, want, got)
	}
}

// CheckOpen panics with a *torch.Error that wraps [torch.ErrFreed] if one of the adapters passed to a network, called op, was closed.
func (a Adapters) CheckOpen(op string) {
	if a.Closed() {
		refuse(op, torch.ErrFreed, "an adapter was closed, which freed its weights; close it only after the last use")
	}
}

// CheckOpen panics with a *torch.Error that wraps [torch.ErrFreed] if the store of a network, called op, was closed.
func (st *Store) CheckOpen(op string) {
	if st == nil || st.Closed() {
		refuse(op, torch.ErrFreed, "the network was closed, which freed its weights; close it only after the last use")
	}
}

// there checks that the store is open and x is neither nil nor freed.
func (st *Store) there(op, what string, x *torch.Tensor) {
	st.CheckOpen(op)
	switch {
	case x == nil:
		refuse(op, nil, "%s: want a tensor, got nil", what)
	case x.Freed():
		refuse(op, torch.ErrFreed, "%s: the tensor was freed, by Free or when its scope closed", what)
	}
}

func refuse(op string, err error, format string, args ...any) {
	panic(&torch.Error{Op: op, Msg: fmt.Sprintf(format, args...), Err: err})
}

// constants are the Go names of the dtypes of networks.
var constants = map[torch.DType]string{
	torch.Float32: "Float32", torch.Float64: "Float64", torch.Float16: "Float16", torch.BFloat16: "BFloat16",
}
