package torch

/*
#include "../csrc/ct.h"
*/
import "C"

import (
	"math"
	"strconv"
	"strings"
)

// How tensors are printed: PyTorch's defaults (torch.set_printoptions).
const (
	printAll   = 1000 // elements up to which all are shown
	printEdge  = 3    // first and last ones of a dimension that are shown beyond that
	printMost  = 8192 // most elements shown: a tensor of many short dimensions shows smaller edges, or only its shape
	printWidth = 80   // characters of a line
	printDigit = 4    // digits after the decimal point
)

// String shows the elements as PyTorch prints them, then type, shape and device:
//
//	tensor([[1.0000, 0.5000],
//	        [   nan,    inf]], float32[2, 2] on cuda:0)
//
// With more than 1000 elements it shows the first and last three of each dimension. It copies what it shows to the host, and on a GPU
// waits for it. For a tensor whose elements cannot be shown, such as a sparse one, it shows type, shape and device. It never panics.
func (t *Tensor) String() string {
	if t == nil {
		return "tensor(nil)"
	}
	if t.h == nil {
		return "tensor(freed)"
	}
	about := describe(t)
	var values string
	if err := Catch(func() {
		in := t.info("string")
		if in.flags()&C.CT_REQUIRES_GRAD != 0 {
			about += ", requires_grad"
		}
		values = t.values(&in)
	}); err != nil || values == "" {
		return "tensor(" + about + ")"
	}
	sep := ", "
	if last := len(values) - strings.LastIndexByte(values, '\n'); last+len(about)+len("tensor(, )") > printWidth {
		sep = ",\n" + strings.Repeat(" ", len("tensor("))
	}
	return "tensor(" + values + sep + about + ")"
}

// values returns the elements as PyTorch prints them, after "tensor("; "" if there are too many dimensions to show any.
func (t *Tensor) values(in *info) string {
	shape := in.shape()
	if in.words[3] == 0 {
		return "[]"
	}
	edge, ok := edgeOf(shape, int(in.words[3]))
	if !ok {
		return ""
	}
	s := NewScope(CPU)
	defer s.Close()
	s.mode = C.CT_NO_GRAD
	x := edges(s, t, shape, 0, edge).ToDevice(s, CPU)
	p := printer{shape: shape, edge: edge, column: formatter(s, x, int64(in.words[0]))}
	p.nested(0, len("tensor("))
	return p.out.String()
}

// edgeOf chooses how many first and last elements of each dimension are shown. ok is false if even one is too many.
func edgeOf(shape []int, n int) (edge int, ok bool) {
	if n <= printAll {
		return math.MaxInt / 2, true
	}
	for edge = printEdge; edge > 0; edge-- {
		shown := 1
		for _, d := range shape {
			if shown *= min(d, 2*edge); shown > printMost {
				break
			}
		}
		if shown <= printMost {
			return edge, true
		}
	}
	return 0, false
}

// edges cuts the middle out of the dimensions from dim on. Only the elements that stay are copied.
func edges(s *Scope, x *Tensor, shape []int, dim, edge int) *Tensor {
	for ; dim < len(shape); dim++ {
		if n := shape[dim]; n > 2*edge {
			first, last := x.Narrow(s, dim, 0, edge), x.Narrow(s, dim, n-edge, edge)
			return Cat(s, []*Tensor{edges(s, first, shape, dim+1, edge), edges(s, last, shape, dim+1, edge)}, dim)
		}
	}
	return x
}

// column formats elements by their flat index, and has the width of each for line breaks.
type column struct {
	width int
	text  func(i int) string
}

// formatter returns the formatted elements of x.
func formatter(s *Scope, x *Tensor, code int64) column {
	switch code {
	case scalarBool:
		v := ToSlice[bool](x)
		return aligned(len(v), func(i int) string {
			if v[i] {
				return "True" // as in Python, so that outputs can be compared
			}
			return "False"
		})
	case scalarUint64:
		v := ToSlice[int64](x.To(s, Int64))
		return aligned(len(v), func(i int) string { return strconv.FormatUint(uint64(v[i]), 10) })
	case scalarComplex32, scalarComplex64, scalarComplex128:
		pairs := callOn(s, "aten::view_as_real", callOn(s, "aten::resolve_conj", x)).To(s, Float64)
		last := pairs.NDim() - 1
		real := floats(ToSlice[float64](pairs.Select(s, last, 0)))
		imag := floats(ToSlice[float64](pairs.Select(s, last, 1)))
		return column{real.width + imag.width + 1, func(i int) string {
			im := strings.TrimLeft(imag.text(i), " ") + "j"
			if im[0] != '-' {
				im = "+" + im
			}
			return real.text(i) + im
		}}
	}
	if whole(code) {
		v := ToSlice[int64](x.To(s, Int64))
		return aligned(len(v), func(i int) string { return strconv.FormatInt(v[i], 10) })
	}
	return floats(ToSlice[float64](x.To(s, Float64)))
}

// callOn runs an operator of one tensor that has no wrapper.
func callOn(s *Scope, op string, x *Tensor) *Tensor {
	r, err := Call(s, op, x)
	if err != nil {
		panic(err) // an *Error
	}
	return r[0].(*Tensor)
}

// aligned pads the texts of n elements on the left to the width of the longest.
func aligned(n int, text func(i int) string) column {
	width := 1
	for i := range n {
		width = max(width, len(text(i)))
	}
	return column{width, func(i int) string { return pad(text(i), width) }}
}

func pad(text string, width int) string { return strings.Repeat(" ", max(width-len(text), 0)) + text }

// floats formats numbers as PyTorch does: whole ones with a trailing point; in scientific notation if they are large, small or
// more than a factor of 1000 apart; else with four decimals. Zeros and non-finite numbers do not affect the choice.
func floats(v []float64) column {
	low, high, whole := math.Inf(1), 0.0, true
	for _, f := range v {
		if a := math.Abs(f); a > 0 && !math.IsInf(a, 0) { // false for NaN
			low, high = min(low, a), max(high, a)
			whole = whole && f == math.Trunc(f)
		}
	}
	verb, digits := byte('f'), printDigit
	switch {
	case high == 0:
		digits = 0
	case high/low > 1000 || high > 1e8 || low < 1e-4:
		verb, whole = 'e', false
	case whole:
		digits = 0
	}
	text := func(f float64) string {
		switch {
		case math.IsNaN(f):
			return "nan"
		case math.IsInf(f, 0):
			return strings.ToLower(strings.TrimPrefix(strconv.FormatFloat(f, 'f', -1, 64), "+"))
		}
		out := strconv.FormatFloat(f, verb, digits, 64)
		if whole {
			out += "."
		}
		return out
	}
	width := 1
	for _, f := range v {
		if a := math.Abs(f); a > 0 && !math.IsInf(a, 0) {
			width = max(width, len(text(f)))
		}
	}
	return column{width, func(i int) string { return pad(text(v[i]), width) }}
}

// printer writes elements in nested brackets.
type printer struct {
	shape  []int
	edge   int
	column column
	next   int // element
	out    strings.Builder
}

func (p *printer) element() string {
	p.next++
	return p.column.text(p.next - 1)
}

// nested writes the dimensions from dim on; indent is the starting column.
func (p *printer) nested(dim, indent int) {
	if dim == len(p.shape) {
		p.out.WriteString(p.element())
		return
	}
	n, cut := p.shape[dim], false
	if n > 2*p.edge {
		n, cut = 2*p.edge, true
	}
	p.out.WriteByte('[')
	defer p.out.WriteByte(']')
	if dim < len(p.shape)-1 {
		sep := "," + strings.Repeat("\n", len(p.shape)-1-dim) + strings.Repeat(" ", indent+1)
		for i := range n {
			if i > 0 {
				p.out.WriteString(sep)
			}
			if cut && i == p.edge {
				p.out.WriteString("..." + sep)
			}
			p.nested(dim+1, indent+1)
		}
		return
	}
	var row []string
	for i := range n {
		if cut && i == p.edge {
			row = append(row, " ...")
		}
		row = append(row, p.element())
	}
	line := max(1, (printWidth-indent)/(p.column.width+2))
	for i, text := range row {
		switch {
		case i == 0:
		case i%line == 0:
			p.out.WriteString(",\n" + strings.Repeat(" ", indent+1))
		default:
			p.out.WriteString(", ")
		}
		p.out.WriteString(text)
	}
}
