package dataset

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"unsafe"

	"github.com/onestep-go/onestep/internal/pickle"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/training/internal/archive"
)

// maxPickle is the limit for a pickle in bytes. CIFAR-100's 50,000 images take 148 MiB; CIFAR-10's files have 10,000 each.
const maxPickle = 160 << 20

// appendPickle reads a file of the Python version: a dictionary with data, an array of [N, 3072] bytes, and labels.
func (v *cifar) appendPickle(t *table, r io.Reader, size int64) error {
	if size > maxPickle {
		return fmt.Errorf("%d bytes, over the limit of %d MiB: no CIFAR file is that large", size, maxPickle>>20)
	}
	data, err := archive.ReadExactly(r, size)
	if err != nil {
		return err
	}
	d, err := dictOf(data)
	if err != nil {
		return err
	}
	pixels, shape, err := uint8Array(entry(d, "data"))
	if err != nil {
		return fmt.Errorf("data: %w", err)
	}
	if len(shape) != 2 || shape[1] != cifarPixels {
		return fmt.Errorf("data has the shape %v, want [N %d]", shape, cifarPixels)
	}
	labels, ok := listOf(entry(d, v.key))
	if !ok || len(labels) != shape[0] {
		return fmt.Errorf("want a list %s of %d labels, one per image, got %d", v.key, shape[0], len(labels))
	}
	if err := fitsRecords(len(t.labels), int64(len(labels))); err != nil {
		return err
	}
	t.pixels = append(slices.Grow(t.pixels, len(pixels)), pixels...)
	for k, x := range labels {
		label, ok := x.(int)
		if !ok || label < 0 || label >= v.n {
			return fmt.Errorf("the label of image %d is not an integer from 0 to %d", k, v.n-1)
		}
		t.labels = append(t.labels, byte(label))
	}
	return nil
}

// pickledNames reads the class names.
func (v *cifar) pickledNames(data []byte) ([]string, error) {
	d, err := dictOf(data)
	if err != nil {
		return nil, err
	}
	list, ok := listOf(entry(d, v.nameKey))
	if !ok {
		return nil, fmt.Errorf("want a list %s", v.nameKey)
	}
	names := make([]string, len(list))
	for i, x := range list {
		switch x := x.(type) {
		case string:
			names[i] = x
		case pickle.Bytes:
			names[i] = string(x)
		default:
			return nil, fmt.Errorf("%s: name %d is not a string", v.nameKey, i)
		}
	}
	return names, nil
}

func dictOf(data []byte) (*pickle.Dict, error) {
	root, err := pickle.Unpickle(data)
	if err != nil {
		return nil, fmt.Errorf("pickle: %w", err)
	}
	d, ok := root.(*pickle.Dict)
	if !ok {
		return nil, errors.New("pickle: want a dictionary")
	}
	return d, nil
}

// entry looks up a key that may be a str or, in Python 2 files that Python 3 loaded and saved again, bytes.
func entry(d *pickle.Dict, key string) any {
	for i, k := range d.Keys {
		if b, ok := k.(pickle.Bytes); ok && string(b) == key {
			return d.Values[i]
		}
	}
	return d.Get(key)
}

func listOf(v any) ([]any, bool) {
	switch v := v.(type) {
	case *pickle.List:
		return v.Items, true
	case pickle.Tuple:
		return v, true
	}
	return nil, false
}

// uint8Array reads a pickled NumPy array of uint8 in C order (numpy/_core/src/multiarray/methods.c, array_reduce and array_setstate;
// protocol 5: numpy/_core/numeric.py, _frombuffer).
func uint8Array(v any) (data []byte, shape []int, err error) {
	o, ok := v.(*pickle.Object)
	if !ok {
		return nil, nil, errors.New("want a NumPy array")
	}
	var dtype, size, raw any
	switch o.Of {
	case pickle.Global{Module: "numpy.core.multiarray", Name: "_reconstruct"}, pickle.Global{Module: "numpy._core.multiarray", Name: "_reconstruct"}:
		state, _ := o.State.(pickle.Tuple)
		if len(state) != 5 { // version, shape, dtype, whether in Fortran order, data
			return nil, nil, errors.New("the array's state is not that of a NumPy array")
		}
		if state[3] != false {
			return nil, nil, errors.New("the array is in Fortran order, want C order")
		}
		size, dtype, raw = state[1], state[2], state[4]
	case pickle.Global{Module: "numpy.core.numeric", Name: "_frombuffer"}, pickle.Global{Module: "numpy._core.numeric", Name: "_frombuffer"}:
		if len(o.Args) != 4 { // data, dtype, shape, order
			return nil, nil, errors.New("the array's description is not that of a NumPy array")
		}
		if o.Args[3] != "C" {
			return nil, nil, errors.New("the array is not in C order")
		}
		raw, dtype, size = o.Args[0], o.Args[1], o.Args[2]
	default:
		return nil, nil, fmt.Errorf("want a NumPy array, got %s", quote.Text(o.Of.String()))
	}
	d, ok := dtype.(*pickle.Object)
	if !ok || d.Of != (pickle.Global{Module: "numpy", Name: "dtype"}) || len(d.Args) == 0 || d.Args[0] != "u1" && d.Args[0] != "uint8" {
		return nil, nil, errors.New("want an array of uint8")
	}
	dims, ok := size.(pickle.Tuple)
	if !ok || len(dims) > 8 {
		return nil, nil, errors.New("the array has no shape")
	}
	n := 1
	for _, x := range dims {
		k, ok := x.(int)
		if !ok || k < 0 || k > maxPickle || n*k > maxPickle {
			return nil, nil, errors.New("the array's shape is impossible")
		}
		n *= k
		shape = append(shape, k)
	}
	if data, err = rawBytes(raw); err != nil {
		return nil, nil, err
	}
	if len(data) != n {
		return nil, nil, fmt.Errorf("the array of shape %v has %d bytes", shape, len(data))
	}
	return data, shape, nil
}

// rawBytes returns bytes from any of their forms in pickles: bytes, Python 2 strings, and Latin-1 text, which Python 3 writes for bytes in
// protocols before 3.
func rawBytes(v any) ([]byte, error) {
	switch v := v.(type) {
	case pickle.Bytes:
		return v, nil
	case string: // not copied, since it is large and only read
		return unsafe.Slice(unsafe.StringData(v), len(v)), nil
	case *pickle.Object:
		if v.Of == (pickle.Global{Module: "_codecs", Name: "encode"}) && len(v.Args) == 2 && v.Args[1] == "latin1" {
			text, _ := v.Args[0].(string)
			out := make([]byte, 0, len(text))
			for _, r := range text {
				if r > 0xff {
					return nil, errors.New("the array's bytes are not Latin-1")
				}
				out = append(out, byte(r))
			}
			return out, nil
		}
		// An in-band buffer of protocol 5 is bytes already.
	}
	return nil, errors.New("the array has no bytes")
}
