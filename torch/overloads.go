package torch

/*
#include <stdlib.h>
#include "../csrc/ct.h"
*/
import "C"

import (
	"fmt"
	"slices"
	"strings"
	"unsafe"

	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
)

// Default stands for the schema's default of an argument in [Call].
type Default struct{}

// Call runs an ATen operator by its schema's name, such as "aten::add.Tensor" or "aten::relu". Arguments are in the
// schema's order; missing ones at the end take the schema's defaults. An argument is a *Tensor, []*Tensor (nil inside where the
// schema allows None), nil, bool, int, int64, float64, []int, []float64, []bool, string, DType, Device, MemoryFormat,
// *Generator or Default{}. Results are *Tensor, []*Tensor, nil, int, float64 or bool.
// If an argument does not match, the error quotes the schema, lists the arguments passed and the operator's other overloads; for a name
// without its overload, such as "add", it lists all overloads.
func Call(s *Scope, schema string, args ...any) (results []any, err error) {
	if !strings.Contains(schema, "::") {
		schema = "aten::" + schema
	}
	o := &op{}
	o.name, o.overload, _ = strings.Cut(schema, ".")
	h, err := o.find()
	if err != nil {
		return nil, given(err, args)
	}
	if o.name == "aten::_backward" {
		// A backward pass may run a checkpoint's function, but operator calls must not call back into Go.
		return nil, &Error{Op: schema, Msg: "use Backward or Grad"}
	}
	defer func() {
		if r := recover(); r != nil {
			e, ok := r.(*Error)
			if !ok {
				panic(r)
			}
			if results, err = nil, e; e.unfit {
				e.Msg += o.others()
				err = given(e, args)
			}
		}
	}()
	c := call{op: o, s: s}
	for i, a := range args {
		if !c.any(a) {
			return nil, &Error{Op: schema, Msg: fmt.Sprintf("argument %d has the unsupported Go type %T: want %s; schema: %s",
				i+1, a, takes, C.GoString(C.ct_op_schema(h)))}
		}
	}
	return c.results(), nil
}

// any puts an argument of Call; it returns false if its type is not supported.
func (c *call) any(a any) bool {
	switch v := a.(type) {
	case nil:
		c.none()
	case *Tensor:
		c.t(v)
	case []*Tensor:
		c.optTs(v)
	case bool:
		c.bool(v)
	case int:
		c.int(v)
	case int64:
		c.int(int(v))
	case float64:
		c.float(v)
	case []int:
		c.ints(v)
	case []float64:
		c.floats(v)
	case []bool:
		c.bools(v)
	case string:
		c.str(v)
	case DType:
		c.dtype(v)
	case Device:
		c.device(v)
	case MemoryFormat:
		c.int(int(v))
	case *Generator:
		c.gen(v)
	case Default:
		c.def()
	default:
		return false
	}
	return true
}

// Schema returns the schema of an operator in libtorch's notation.
func Schema(name string) (string, error) {
	if !strings.Contains(name, "::") {
		name = "aten::" + name
	}
	o := &op{}
	o.name, o.overload, _ = strings.Cut(name, ".")
	h, err := o.find()
	if err != nil {
		return "", err
	}
	return C.GoString(C.ct_op_schema(h)), nil
}

// takes lists the Go types of arguments.
const takes = "*Tensor, []*Tensor, nil, bool, int, int64, float64, []int, []float64, []bool, string, DType, Device, MemoryFormat, *Generator or Default{}"

// Limits of the overloads that an error lists.
const (
	mostOverloads = 8
	longestSchema = 240
)

// missing is the error of an unknown operator; it lists the overloads of its name. In libtorch's error, these schemas follow the first line.
func (o *op) missing(e *Error) *Error {
	_, schemas, found := strings.Cut(e.Msg, "\n")
	e.Op = quote.Text(o.String())
	e.Msg = "this libtorch has no operator with this name; names look like aten::add.Tensor"
	switch {
	case found && o.overload == "":
		e.Msg = fmt.Sprintf("want the name of an overload: %s", overloads(schemas, ""))
	case found:
		e.Msg = fmt.Sprintf("%s has no overload %s; it has %s", quote.Text(o.name), quote.Text(o.overload), overloads(schemas, ""))
	}
	return e
}

// others lists the operator's other overloads, after a semicolon; "" if there are none.
func (o *op) others() string {
	name, none := C.CString(o.name), C.CString("no overload has this name")
	defer C.free(unsafe.Pointer(name))
	defer C.free(unsafe.Pointer(none))
	var h C.ct_op
	e := C.ct_op_find(name, none, &h)
	if e == nil {
		return ""
	}
	_, schemas, _ := strings.Cut(take(e, o.name).Msg, "\n")
	var lines []string
	for line := range strings.SplitSeq(schemas, "\n") {
		if strings.HasSuffix(o.name, "_") || writes(line) == 0 { // overloads that write into an argument are rarely meant
			lines = append(lines, line)
		}
	}
	if list := overloads(strings.Join(lines, "\n"), o.String()); list != "" {
		return "; other overloads: " + list
	}
	return ""
}

// overloads lists schemas, one per line, except that of one name. Those that write into an argument come last, as they are rarely meant.
func overloads(schemas, without string) string {
	var list []string
	for schema := range strings.SplitSeq(schemas, "\n") {
		if name, _, _ := strings.Cut(schema, "("); name != without && name != "" {
			list = append(list, strings.TrimPrefix(schema, "aten::"))
		}
	}
	slices.SortFunc(list, func(a, b string) int {
		if n := writes(a) - writes(b); n != 0 {
			return n
		}
		return strings.Compare(a, b)
	})
	more := ""
	if n := len(list) - mostOverloads; n > 0 {
		list, more = list[:mostOverloads], fmt.Sprintf("; and %d more", n)
	}
	for i, schema := range list {
		list[i] = quote.Long(schema, longestSchema)
	}
	return strings.Join(list, "; ") + more
}

// writes is 1 if the schema's operator writes into an argument.
func writes(schema string) int { return min(strings.Count(schema, "(a!)"), 1) }

// given adds Call's arguments to an error.
func given(err error, args []any) error {
	e, ok := err.(*Error)
	if !ok {
		return err
	}
	const most = 12
	var list []string
	for i, a := range args {
		if i == most {
			list = append(list, fmt.Sprintf("and %d more", len(args)-most))
			break
		}
		list = append(list, argument(a))
	}
	what, schema, _ := strings.Cut(e.Msg, "; schema: ")
	if e.Msg = fmt.Sprintf("%s; given (%s)", what, strings.Join(list, ", ")); schema != "" {
		e.Msg += "; schema: " + schema
	}
	e.Shapes = "" // the arguments include them
	return e
}

// argument describes an argument of Call.
func argument(a any) string {
	switch v := a.(type) {
	case nil:
		return "nil"
	case *Tensor:
		return describe(v)
	case []*Tensor:
		return "a list of " + plural.N(len(v), "tensor")
	case []int, []float64, []bool:
		if text := fmt.Sprint(v); len(text) <= quote.Most {
			return fmt.Sprintf("%T%s", v, text)
		}
		return fmt.Sprintf("a long %T", v)
	case string:
		return quote.Quoted(v)
	case bool, int, int64, float64:
		return fmt.Sprintf("%T %v", v, v)
	case DType, Device:
		return fmt.Sprint(v)
	case Default:
		return "the default"
	}
	return fmt.Sprintf("%T", a)
}
