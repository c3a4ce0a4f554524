package saved

import (
	"errors"
	"fmt"
	"strings"

	"github.com/onestep-go/onestep/internal/pickle"
	"github.com/onestep-go/onestep/internal/quote"
)

// storage is the object of a persistent id: elements of tensors.
type storage struct {
	class string // such as FloatStorage
	key   string // the member of the archive
	n     int    // elements
}

// tensor is a view of a storage, in elements.
type tensor struct {
	*storage
	offset       int
	shape, steps []int
	bad          string // why it cannot be read; "": valid
}

// rebuilt returns the call that makes a tensor, if v is one: _rebuild_tensor_v2 or similar, unwrapped from parameters and subclasses.
func rebuilt(v any) (*pickle.Object, bool) {
	for range 4 {
		o, ok := v.(*pickle.Object)
		switch {
		case !ok:
			return nil, false
		case o.Of.Module == "torch._utils" && strings.HasPrefix(o.Of.Name, "_rebuild_parameter"):
			if len(o.Args) == 0 {
				return nil, false
			}
			v = o.Args[0]
		case o.Of == pickle.Global{Module: "torch._tensor", Name: "_rebuild_from_type_v2"} && len(o.Args) == 4:
			// A subclass, such as a parameter with attributes: function, class, arguments, state.
			of, named := o.Args[0].(pickle.Global)
			args, is := o.Args[2].(pickle.Tuple)
			if !named || !is {
				return o, true
			}
			v = &pickle.Object{Of: of, Args: args}
		default:
			return o, (o.Of.Module == "torch._utils" || o.Of.Module == "torch._tensor") && strings.HasPrefix(o.Of.Name, "_rebuild")
		}
	}
	return nil, false
}

// tensorOf reads the arguments of _rebuild_tensor_v2 (torch/_utils.py): storage, offset, size and strides; the rest is about gradients.
// _rebuild_tensor_v3 has a byte storage and the data type as seventh argument.
func tensorOf(o *pickle.Object) *tensor {
	if o.Of.Module != "torch._utils" || o.Of.Name != "_rebuild_tensor" && o.Of.Name != "_rebuild_tensor_v2" && o.Of.Name != typedName {
		return &tensor{bad: "it is made by the unknown function " + quote.Text(o.Of.String())}
	}
	args := o.Args
	if len(args) < 4 {
		return &tensor{bad: fmt.Sprintf("it has %d arguments: want at least 4", len(args))}
	}
	id, ok := args[0].(pickle.Persistent)
	if !ok {
		if o, ok := args[0].(*pickle.Object); ok {
			return &tensor{bad: fmt.Sprintf("its storage is of the unknown class %s", quote.Text(o.Of.String()))}
		}
		return &tensor{bad: "it has no storage"}
	}
	from, err := storageOf(id)
	if err != nil {
		return &tensor{bad: err.Error()}
	}
	offset, ok := args[1].(int)
	shape, ok2 := ints(args[2])
	steps, ok3 := ints(args[3])
	if !ok || !ok2 || !ok3 {
		return &tensor{bad: "its offset, size or strides are invalid"}
	}
	if o.Of.Name == typedName {
		return typed(args, &tensor{storage: from, offset: offset, shape: shape, steps: steps})
	}
	if len(args) > 6 {
		if d, ok := args[6].(*pickle.Dict); ok && len(d.Keys) > 0 {
			return &tensor{bad: "it has a conjugate or negative bit, which is not supported"}
		}
	}
	return &tensor{storage: from, offset: offset, shape: shape, steps: steps}
}

// typedName makes tensors of data types without a storage class, such as 8-bit floats.
const typedName = "_rebuild_tensor_v3"

// typed sets a tensor's data type from its arguments.
func typed(args pickle.Tuple, t *tensor) *tensor {
	if len(args) < 7 || t.class != "UntypedStorage" {
		return &tensor{bad: "it has no data type, or its storage is not a byte storage"}
	}
	of, ok := args[6].(pickle.Global)
	d, known := classes[of.Name]
	if !ok || !known || of.Module != "torch" {
		return &tensor{bad: fmt.Sprintf("its data type %s is unknown", quote.Text(fmt.Sprint(args[6])))}
	}
	if len(args) > 7 {
		if d, ok := args[7].(*pickle.Dict); ok && len(d.Keys) > 0 {
			return &tensor{bad: "it has a conjugate or negative bit, which is not supported"}
		}
	}
	t.storage = &storage{class: of.Name, key: t.key, n: t.n / d.Size()}
	return t
}

// maxDims is libtorch's limit.
const maxDims = 64

// maxSizes limits the total number of dimensions of a file's tensors: many tensors may share one tuple.
const maxSizes = 1 << 20

// ints returns a tuple of integers.
func ints(v any) ([]int, bool) {
	t, ok := v.(pickle.Tuple)
	if l, is := v.(*pickle.List); is {
		t, ok = l.Items, true
	}
	if len(t) > maxDims {
		return nil, false
	}
	out := make([]int, len(t))
	for i, x := range t {
		n, is := x.(int)
		out[i], ok = n, ok && is
	}
	return out, ok
}

// storageOf reads a persistent id: ("storage", class, key, device, elements), and in the legacy format which part of another storage it is.
func storageOf(id pickle.Persistent) (*storage, error) {
	t, ok := id.ID.(pickle.Tuple)
	if !ok || len(t) < 5 || t[0] != "storage" {
		return nil, errors.New("want the persistent id of a storage, as torch.save writes it")
	}
	class, ok := t[1].(pickle.Global)
	key, ok2 := t[2].(string)
	n, ok3 := t[4].(int)
	if !ok || !ok2 || !ok3 || n < 0 {
		return nil, errors.New("want a storage's class, key and number of elements")
	}
	if len(t) > 5 && t[5] != nil {
		return nil, errors.New("its storage is a part of another, as in files from before PyTorch 0.4: " + convertHint)
	}
	if class.Module != "torch" && class.Module != "torch.storage" {
		return nil, fmt.Errorf("its storage is of the unknown class %s", quote.Text(class.String()))
	}
	return &storage{class: class.Name, key: key, n: n}, nil
}
