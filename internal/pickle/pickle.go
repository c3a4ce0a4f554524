// Package pickle reads Python pickles as data: nothing is called and no Python object is made. A call is kept as a name with its arguments,
// for the caller to interpret or ignore.
//
// Format: the opcodes of Python's Lib/pickletools.py, protocols 0 to 5.
package pickle

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
)

// The values of a pickle are nil, bool, int, float64, string, and these. Strings are Python's str, and Python 2's byte strings
// unchanged.
type (
	// Tuple is a tuple.
	Tuple []any
	// List is a list.
	List struct{ Items []any }
	// Bytes is bytes or a bytearray. It is a slice of the input.
	Bytes []byte
	// Global is the name of a class or function.
	Global struct{ Module, Name string }
	// Object is the result of a call in the pickle, which was not made.
	Object struct {
		Of    Global
		Args  Tuple // positional arguments; keyword arguments are dropped
		State any   // argument of __setstate__; nil: none
	}
	// Persistent is a reference to data outside the pickle, such as the elements of PyTorch's tensors.
	Persistent struct{ ID any }
	// Dict is a dictionary, in insertion order. Keys need not be strings.
	Dict struct {
		Keys   []any
		Values []any
		at     map[string]int // index of string keys
	}
)

// String returns the qualified Python name, unquoted: pass it through package quote to print it.
func (g Global) String() string { return g.Module + "." + g.Name }

// Set sets the value of a key. A key that is not a string is always added.
func (d *Dict) Set(key, value any) {
	if name, ok := key.(string); ok {
		if i, ok := d.at[name]; ok {
			d.Values[i] = value
			return
		}
		if d.at == nil {
			d.at = map[string]int{}
		}
		d.at[name] = len(d.Keys)
	}
	d.Keys, d.Values = append(d.Keys, key), append(d.Values, value)
}

// Get returns the value of a key; nil if there is none.
func (d *Dict) Get(name string) any {
	if i, ok := d.at[name]; ok {
		return d.Values[i]
	}
	return nil
}

// maxOps limits the memory for hostile files. A checkpoint of SDXL takes 80,000 opcodes, and 300,000 with its optimizer state.
const maxOps = 1 << 20

// Unpickle returns a pickle's final value. The caller limits the size of data; Unpickle limits the number of opcodes.
func Unpickle(data []byte) (any, error) {
	first, err := UnpickleFirst(data)
	return first.Value, err
}

// First is the first of several pickles, one after the other.
type First struct {
	Value any
	Size  int   // bytes that it takes
	IDs   []any // the identifiers of all persistent references in it, in order
}

// UnpickleFirst returns the first pickle in data, which others or any bytes may follow.
func UnpickleFirst(data []byte) (First, error) {
	u := unpickler{data: data, memo: map[int]any{}}
	v, err := u.run()
	if err != nil {
		return First{}, fmt.Errorf("at byte %d: %w", u.at, err)
	}
	return First{v, u.at, u.ids}, nil
}

type unpickler struct {
	data  []byte
	at    int
	stack []any
	marks []int // stack heights of the marks
	memo  map[int]any
	bulk  int // entries copied so far: a source may be copied often
	ids   []any
}

var errShort = errors.New("it is truncated")

// take returns the next n bytes.
func (u *unpickler) take(n int) ([]byte, error) {
	if n < 0 || n > len(u.data)-u.at {
		return nil, errShort
	}
	b := u.data[u.at : u.at+n]
	u.at += n
	return b, nil
}

// line returns the bytes before the next newline.
func (u *unpickler) line() (string, error) {
	const most = 1 << 16
	rest := u.data[u.at:min(len(u.data), u.at+most)]
	for i, c := range rest {
		if c == '\n' {
			u.at += i + 1
			return string(rest[:i]), nil
		}
	}
	return "", errShort
}

// number reads n bytes as an unsigned little-endian integer.
func (u *unpickler) number(n int) (int, error) {
	b, err := u.take(n)
	if err != nil {
		return 0, err
	}
	var whole [8]byte
	copy(whole[:], b)
	v := binary.LittleEndian.Uint64(whole[:])
	if v > math.MaxInt64 {
		return 0, fmt.Errorf("the number %d is too large", v)
	}
	return int(v), nil
}

// text reads a string with a length field of n bytes.
func (u *unpickler) text(n int) (string, error) {
	size, err := u.number(n)
	if err != nil {
		return "", err
	}
	b, err := u.take(size)
	return string(b), err
}

func (u *unpickler) push(v any) { u.stack = append(u.stack, v) }

// pop pops the top of the stack, above the last mark.
func (u *unpickler) pop() (any, error) {
	bottom := 0
	if len(u.marks) > 0 {
		bottom = u.marks[len(u.marks)-1]
	}
	if len(u.stack) <= bottom {
		return nil, errors.New("the stack is empty")
	}
	v := u.stack[len(u.stack)-1]
	u.stack = u.stack[:len(u.stack)-1]
	return v, nil
}

// pops pops several values, in the order in which they were pushed.
func (u *unpickler) pops(n int) (Tuple, error) {
	out := make(Tuple, n)
	for i := n - 1; i >= 0; i-- {
		v, err := u.pop()
		if err != nil {
			return nil, err
		}
		out[i] = v
	}
	return out, nil
}

// above pops everything above the last mark, and the mark.
func (u *unpickler) above() (Tuple, error) {
	if len(u.marks) == 0 {
		return nil, errors.New("there is no mark")
	}
	from := u.marks[len(u.marks)-1]
	u.marks = u.marks[:len(u.marks)-1]
	out := append(Tuple{}, u.stack[from:]...)
	u.stack = u.stack[:from]
	return out, nil
}

// run executes all opcodes.
func (u *unpickler) run() (any, error) {
	for range maxOps {
		op, err := u.take(1)
		if err != nil {
			return nil, err
		}
		if op[0] == '.' {
			return u.pop()
		}
		if err := u.do(op[0]); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("it has more than %d opcodes", maxOps)
}

// do executes one opcode.
func (u *unpickler) do(op byte) error {
	switch op {
	case 0x80: // PROTO
		n, err := u.number(1)
		if err == nil && n > 5 {
			err = fmt.Errorf("protocol %d: want at most 5", n)
		}
		return err
	case 0x95: // FRAME
		_, err := u.take(8)
		return err
	case '(': // MARK
		u.marks = append(u.marks, len(u.stack))
		return nil
	case '0': // POP
		if n := len(u.marks); n > 0 && u.marks[n-1] == len(u.stack) {
			u.marks = u.marks[:n-1]
			return nil
		}
		_, err := u.pop()
		return err
	case '1': // POP_MARK
		_, err := u.above()
		return err
	case '2': // DUP
		v, err := u.pop()
		if err != nil {
			return err
		}
		u.push(v)
		u.push(v)
		return nil
	case 'p', 'q', 'r', 0x94, 'g', 'h', 'j': // PUT, BINPUT, LONG_BINPUT, MEMOIZE, GET, BINGET, LONG_BINGET
		return u.remember(op)
	case 'a', 'e', 's', 'u', 0x90: // APPEND, APPENDS, SETITEM, SETITEMS, ADDITEMS
		return u.extend(op)
	case 'R', 'b', 'i', 'o', 0x81, 0x92: // REDUCE, BUILD, INST, OBJ, NEWOBJ, NEWOBJ_EX
		return u.call(op)
	}
	v, err := u.value(op)
	if err == nil {
		u.push(v)
	}
	return err
}

// remember stores the top of the stack in the memo, or pushes a memo entry.
func (u *unpickler) remember(op byte) error {
	var n int
	var err error
	switch op {
	case 0x94:
		n = len(u.memo)
	case 'q', 'h':
		n, err = u.number(1)
	case 'r', 'j':
		n, err = u.number(4)
	default:
		var digits string
		if digits, err = u.line(); err == nil {
			n, err = strconv.Atoi(digits)
		}
	}
	if err != nil {
		return err
	}
	if op == 'g' || op == 'h' || op == 'j' {
		v, ok := u.memo[n]
		if !ok {
			return fmt.Errorf("the memo has no entry %d", n)
		}
		u.push(v)
		return nil
	}
	if len(u.stack) == 0 {
		return errors.New("the stack is empty")
	}
	u.memo[n] = u.stack[len(u.stack)-1]
	return nil
}

// extend adds to a list or a dictionary. Items added to an object are dropped.
func (u *unpickler) extend(op byte) error {
	var items Tuple
	var err error
	switch op {
	case 'a':
		items, err = u.pops(1)
	case 's':
		items, err = u.pops(2)
	default:
		items, err = u.above()
	}
	if err != nil {
		return err
	}
	to, err := u.pop()
	if err != nil {
		return err
	}
	u.push(to)
	switch to := to.(type) {
	case *Object:
		return nil
	case *List:
		if op == 'a' || op == 'e' {
			to.Items = append(to.Items, items...)
			return nil
		}
	case *Dict:
		if (op == 's' || op == 'u') && len(items)%2 == 0 {
			for i := 0; i < len(items); i += 2 {
				to.Set(items[i], items[i+1])
			}
			return nil
		}
	}
	return fmt.Errorf("opcode %q: want a list or a dictionary on the stack", op)
}

// value returns the value that an opcode pushes.
func (u *unpickler) value(op byte) (any, error) {
	switch op {
	case 'N':
		return nil, nil
	case 0x88, 0x89: // NEWTRUE, NEWFALSE
		return op == 0x88, nil
	case ']':
		return &List{}, nil
	case '}':
		return &Dict{}, nil
	case ')':
		return Tuple{}, nil
	case 0x8f: // EMPTY_SET
		return &Object{Of: Global{"builtins", "set"}}, nil
	case 0x85, 0x86, 0x87: // TUPLE1, TUPLE2, TUPLE3
		return u.pops(int(op - 0x84))
	case 't', 'l', 'd', 0x91: // TUPLE, LIST, DICT, FROZENSET
		return u.collect(op)
	case 'X', 'T': // BINUNICODE, BINSTRING
		return u.text(4)
	case 0x8c, 'U': // SHORT_BINUNICODE, SHORT_BINSTRING
		return u.text(1)
	case 0x8d: // BINUNICODE8
		return u.text(8)
	case 'S', 'V': // STRING, UNICODE
		s, err := u.line()
		return strings.Trim(s, `'"`), err
	case 'C', 'B', 0x8e, 0x96: // SHORT_BINBYTES, BINBYTES, BINBYTES8, BYTEARRAY8
		size, err := u.number(map[byte]int{'C': 1, 'B': 4, 0x8e: 8, 0x96: 8}[op])
		if err != nil {
			return nil, err
		}
		b, err := u.take(size)
		return Bytes(b), err
	case 'c', 0x93: // GLOBAL, STACK_GLOBAL
		return u.global(op)
	case 'P', 'Q': // PERSID, BINPERSID
		if op == 'P' {
			return nil, errors.New("persistent identifiers as text (protocol 0) are not supported")
		}
		id, err := u.pop()
		if err != nil {
			return nil, err
		}
		u.ids = append(u.ids, id)
		return Persistent{id}, nil
	}
	return u.numeral(op)
}

// numeral reads numbers.
func (u *unpickler) numeral(op byte) (any, error) {
	switch op {
	case 'K': // BININT1
		return u.number(1)
	case 'M': // BININT2
		return u.number(2)
	case 'J': // BININT
		n, err := u.number(4)
		return int(int32(uint32(n))), err
	case 0x8a, 0x8b: // LONG1, LONG4
		s, err := u.text(map[byte]int{0x8a: 1, 0x8b: 4}[op])
		if err != nil || len(s) > 8 {
			return &Object{Of: Global{"builtins", "int"}}, err // too large to be needed
		}
		var v uint64
		for i := range len(s) {
			v |= uint64(s[i]) << (8 * i)
		}
		shift := 64 - 8*len(s)
		return int(int64(v<<shift) >> shift), nil
	case 'I', 'L': // INT, LONG
		s, err := u.line()
		if err != nil {
			return nil, err
		}
		if op == 'I' && (s == "00" || s == "01") {
			return s == "01", nil
		}
		if v, err := strconv.Atoi(strings.TrimSuffix(s, "L")); err == nil {
			return v, nil
		}
		return &Object{Of: Global{"builtins", "int"}}, nil
	case 'G': // BINFLOAT
		b, err := u.take(8)
		if err != nil {
			return nil, err
		}
		return math.Float64frombits(binary.BigEndian.Uint64(b)), nil
	case 'F': // FLOAT
		s, err := u.line()
		if err != nil {
			return nil, err
		}
		return strconv.ParseFloat(s, 64)
	}
	return nil, fmt.Errorf("unknown opcode 0x%02x", op)
}

// collect makes a collection of the values above the mark.
func (u *unpickler) collect(op byte) (any, error) {
	items, err := u.above()
	if err != nil {
		return nil, err
	}
	switch {
	case op == 't':
		return items, nil
	case op == 'l':
		return &List{items}, nil
	case op == 0x91:
		return &Object{Of: Global{"builtins", "frozenset"}}, nil
	case len(items)%2 != 0:
		return nil, errors.New("a dictionary has a key without a value")
	}
	d := &Dict{}
	for i := 0; i < len(items); i += 2 {
		d.Set(items[i], items[i+1])
	}
	return d, nil
}

func (u *unpickler) global(op byte) (any, error) {
	if op == 'c' {
		module, err := u.line()
		if err != nil {
			return nil, err
		}
		name, err := u.line()
		return Global{module, name}, err
	}
	names, err := u.pops(2)
	if err != nil {
		return nil, err
	}
	module, ok := names[0].(string)
	name, ok2 := names[1].(string)
	if !ok || !ok2 {
		return nil, errors.New("a global has no name")
	}
	return Global{module, name}, nil
}

// call executes opcodes that would call something.
func (u *unpickler) call(op byte) error {
	var f any
	var args Tuple
	var err error
	switch op {
	case 'b':
		state, err := u.pop()
		if err != nil {
			return err
		}
		v, err := u.pop()
		if err != nil {
			return err
		}
		if o, ok := v.(*Object); ok {
			o.State = state
		} // state of a dictionary is metadata, which is dropped
		u.push(v)
		return nil
	case 'i':
		if f, err = u.global('c'); err == nil {
			args, err = u.above()
		}
	case 'o':
		if args, err = u.above(); err == nil && len(args) == 0 {
			err = errors.New("there is nothing to call")
		} else if err == nil {
			f, args = args[0], args[1:]
		}
	default:
		n := 2
		if op == 0x92 {
			n = 3
		}
		var top Tuple
		if top, err = u.pops(n); err == nil {
			f = top[0]
			args, _ = top[1].(Tuple)
		}
	}
	if err != nil {
		return err
	}
	v, err := u.result(f, args)
	if err == nil {
		u.push(v)
	}
	return err
}

// result returns the result of a call.
func (u *unpickler) result(f any, args Tuple) (any, error) {
	g, ok := f.(Global)
	if !ok {
		return &Object{Of: Global{"an unnamed", "object"}}, nil
	}
	if g != (Global{"collections", "OrderedDict"}) {
		return &Object{Of: g, Args: args}, nil
	}
	d := &Dict{}
	if len(args) == 0 {
		return d, nil
	}
	pairs, _ := args[0].(*List)
	if pairs == nil {
		return nil, fmt.Errorf("%s: want a list of pairs", quote.Text(g.String()))
	}
	if err := u.copies(len(pairs.Items)); err != nil {
		return nil, err
	}
	for _, p := range pairs.Items {
		pair, _ := p.(Tuple)
		if l, ok := p.(*List); ok {
			pair = l.Items
		}
		if len(pair) != 2 {
			return nil, fmt.Errorf("%s: want a list of pairs", quote.Text(g.String()))
		}
		d.Set(pair[0], pair[1])
	}
	return d, nil
}

// copies counts the entries that an opcode copies.
func (u *unpickler) copies(n int) error {
	if u.bulk += n; u.bulk > maxOps {
		return fmt.Errorf("it has more than %d entries", maxOps)
	}
	return nil
}
