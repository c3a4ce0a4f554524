package weights

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
)

// The values of a pickle: nil, bool, int, float64, string, tuple, *list, *dict, and these.
type (
	tuple  []any
	list   struct{ items []any }
	global struct{ module, name string }
	// object is what a pickle makes by calling something. Nothing is called: it stays a name.
	object struct {
		of    global
		state *dict // of a ParameterDict: what it holds
	}
	// storage is what persistent identifiers stand for: the elements of tensors.
	storage struct {
		class string // such as FloatStorage
		key   string // the member of the archive
		n     int    // elements
	}
	// tensor is a view of a storage, in elements.
	tensor struct {
		*storage
		offset       int
		shape, steps []int
		bad          string // why it cannot be read; "": it can
	}
	dict struct {
		keys   []any
		values []any
		at     map[string]int // of keys that are strings
	}
)

func (g global) String() string {
	return fmt.Sprintf("%s.%s", quote.Text(g.module), quote.Text(g.name))
}

func (d *dict) set(key, value any) {
	if name, ok := key.(string); ok {
		if i, ok := d.at[name]; ok {
			d.values[i] = value
			return
		}
		if d.at == nil {
			d.at = map[string]int{}
		}
		d.at[name] = len(d.keys)
	}
	d.keys, d.values = append(d.keys, key), append(d.values, value)
}

func (d *dict) get(name string) any {
	if i, ok := d.at[name]; ok {
		return d.values[i]
	}
	return nil
}

// maxOps keeps hostile files from asking for memory. A checkpoint of SDXL takes 80,000 steps, and 300,000 with its optimizer's state.
const maxOps = 1 << 20

// unpickle reads what Python's pickle wrote, as torch.save does. It makes no objects and calls nothing: dictionaries, lists and
// numbers are as they were, tensors are descriptions, and everything else that a pickle can make is only the name of what would have
// been called.
//
// Format: the opcodes of Python's Lib/pickletools.py, protocols 0 to 5; tensors: torch/_utils.py, _rebuild_tensor_v2.
func unpickle(data []byte) (any, error) {
	u := unpickler{data: data, memo: map[int]any{}}
	v, err := u.run()
	if err != nil {
		return nil, fmt.Errorf("at byte %d: %w", u.at, err)
	}
	return v, nil
}

type unpickler struct {
	data  []byte
	at    int
	stack []any
	marks []int // lengths of the stack
	memo  map[int]any
	bulk  int // pairs of dictionaries and dimensions of tensors that steps have copied: what they came from may be copied often
}

var errShort = errors.New("it ends too early")

// take returns the next n bytes.
func (u *unpickler) take(n int) ([]byte, error) {
	if n < 0 || n > len(u.data)-u.at {
		return nil, errShort
	}
	b := u.data[u.at : u.at+n]
	u.at += n
	return b, nil
}

// line returns the bytes before the next end of a line.
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

// number reads n bytes, little-endian, without a sign.
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

// text reads a string whose length has n bytes.
func (u *unpickler) text(n int) (string, error) {
	size, err := u.number(n)
	if err != nil {
		return "", err
	}
	b, err := u.take(size)
	return string(b), err
}

func (u *unpickler) push(v any) { u.stack = append(u.stack, v) }

// pop takes what lies on top, above the last mark.
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

// pops takes several, in the order in which they were put there.
func (u *unpickler) pops(n int) (tuple, error) {
	out := make(tuple, n)
	for i := n - 1; i >= 0; i-- {
		v, err := u.pop()
		if err != nil {
			return nil, err
		}
		out[i] = v
	}
	return out, nil
}

// above takes everything above the last mark, and the mark.
func (u *unpickler) above() (tuple, error) {
	if len(u.marks) == 0 {
		return nil, errors.New("there is no mark")
	}
	from := u.marks[len(u.marks)-1]
	u.marks = u.marks[:len(u.marks)-1]
	out := append(tuple{}, u.stack[from:]...)
	u.stack = u.stack[:from]
	return out, nil
}

// run reads to the end.
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
	return nil, fmt.Errorf("it has more than %d steps", maxOps)
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

// remember stores what lies on top under a number, or fetches it.
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
			return fmt.Errorf("nothing was remembered as number %d", n)
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

// extend adds to a list or a dictionary. What is added to an object is dropped with it.
func (u *unpickler) extend(op byte) error {
	var items tuple
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
	case *object:
		return nil
	case *list:
		if op == 'a' || op == 'e' {
			to.items = append(to.items, items...)
			return nil
		}
	case *dict:
		if (op == 's' || op == 'u') && len(items)%2 == 0 {
			for i := 0; i < len(items); i += 2 {
				to.set(items[i], items[i+1])
			}
			return nil
		}
	}
	return fmt.Errorf("opcode %q: there is nothing that could be added to", op)
}

// value makes what an opcode stands for.
func (u *unpickler) value(op byte) (any, error) {
	switch op {
	case 'N':
		return nil, nil
	case 0x88, 0x89: // NEWTRUE, NEWFALSE
		return op == 0x88, nil
	case ']':
		return &list{}, nil
	case '}':
		return &dict{}, nil
	case ')':
		return tuple{}, nil
	case 0x8f: // EMPTY_SET
		return &object{of: global{"builtins", "set"}}, nil
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
		_, err := u.text(map[byte]int{'C': 1, 'B': 4, 0x8e: 8, 0x96: 8}[op])
		return &object{of: global{"builtins", "bytes"}}, err
	case 'c', 0x93: // GLOBAL, STACK_GLOBAL
		return u.global(op)
	case 'P', 'Q': // PERSID, BINPERSID
		if op == 'P' {
			return nil, errors.New("identifiers of storages in the form of text are not known")
		}
		id, err := u.pop()
		if err != nil {
			return nil, err
		}
		return storageOf(id)
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
			return &object{of: global{"builtins", "int"}}, err // too large for anything that is of interest
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
		return &object{of: global{"builtins", "int"}}, nil
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
	return nil, fmt.Errorf("opcode 0x%02x is not known", op)
}

// collect makes a collection of what lies above the mark.
func (u *unpickler) collect(op byte) (any, error) {
	items, err := u.above()
	if err != nil {
		return nil, err
	}
	switch {
	case op == 't':
		return items, nil
	case op == 'l':
		return &list{items}, nil
	case op == 0x91:
		return &object{of: global{"builtins", "frozenset"}}, nil
	case len(items)%2 != 0:
		return nil, errors.New("a dictionary has a key without a value")
	}
	d := &dict{}
	for i := 0; i < len(items); i += 2 {
		d.set(items[i], items[i+1])
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
		return global{module, name}, err
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
	return global{module, name}, nil
}

// call answers opcodes that would call something.
func (u *unpickler) call(op byte) error {
	var f any
	var args tuple
	var err error
	switch op {
	case 'b': // what an object's state is set to is dropped with it; dictionaries have metadata as theirs
		state, err := u.pop()
		if err != nil {
			return err
		}
		v, err := u.pop()
		if o, ok := v.(*object); ok && o.of == (global{"torch.nn.modules.container", "ParameterDict"}) {
			if d, ok := state.(*dict); ok {
				o.state, _ = d.get("_parameters").(*dict)
			}
		}
		if err == nil {
			u.push(v)
		}
		return err
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
		var top tuple
		if top, err = u.pops(n); err == nil {
			f = top[0]
			args, _ = top[1].(tuple)
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

// result is what a call gives.
func (u *unpickler) result(f any, args tuple) (any, error) {
	g, ok := f.(global)
	if !ok {
		return &object{of: global{"an unnamed", "object"}}, nil
	}
	switch g {
	case global{"collections", "OrderedDict"}:
		d := &dict{}
		if len(args) > 0 {
			pairs, _ := args[0].(*list)
			if pairs == nil {
				return nil, fmt.Errorf("%s: want a list of pairs", g)
			}
			if err := u.copies(len(pairs.items)); err != nil {
				return nil, err
			}
			for _, p := range pairs.items {
				switch p := p.(type) {
				case *list:
					if len(p.items) == 2 {
						d.set(p.items[0], p.items[1])
						continue
					}
				case tuple:
					if len(p) == 2 {
						d.set(p[0], p[1])
						continue
					}
				}
				return nil, fmt.Errorf("%s: want a list of pairs", g)
			}
		}
		return d, nil
	case global{"torch._utils", "_rebuild_parameter"}, global{"torch._utils", "_rebuild_parameter_with_state"}:
		if len(args) == 0 {
			return nil, fmt.Errorf("%s: want a tensor", g)
		}
		return args[0], nil
	case global{"torch._utils", "_rebuild_tensor_v2"}, global{"torch._utils", "_rebuild_tensor"}:
		t := tensorOf(args)
		return t, u.copies(len(t.shape) + len(t.steps))
	}
	if g == fromType && len(args) == 4 { // of a class of its own, such as a parameter with attributes: function, class, arguments, state
		if inner, ok := args[2].(tuple); ok && args[0] != any(fromType) {
			return u.result(args[0], inner)
		}
	}
	if g.module == "torch._utils" && strings.HasPrefix(g.name, "_rebuild") || g.module == "torch._tensor" && strings.HasPrefix(g.name, "_rebuild") {
		return &tensor{bad: "it is made by " + g.String() + ", which is not known"}, nil
	}
	return &object{of: g}, nil
}

// copies counts what a step copies.
func (u *unpickler) copies(n int) error {
	if u.bulk += n; u.bulk > maxOps {
		return fmt.Errorf("it has more than %d entries", maxOps)
	}
	return nil
}

var fromType = global{"torch._tensor", "_rebuild_from_type_v2"}

// tensorOf reads the arguments of _rebuild_tensor_v2: storage, offset, size and strides; what follows is about training.
func tensorOf(args tuple) *tensor {
	if len(args) < 4 {
		return &tensor{bad: fmt.Sprintf("it has %d arguments: want at least 4", len(args))}
	}
	from, ok := args[0].(*storage)
	if !ok {
		if o, ok := args[0].(*object); ok {
			return &tensor{bad: fmt.Sprintf("its elements come from %s, which is not known", o.of)}
		}
		return &tensor{bad: "it has no storage"}
	}
	offset, ok := args[1].(int)
	shape, ok2 := ints(args[2])
	steps, ok3 := ints(args[3])
	if !ok || !ok2 || !ok3 {
		return &tensor{bad: "its offset, size or strides are not those of a tensor"}
	}
	if len(args) > 6 {
		if d, ok := args[6].(*dict); ok && len(d.keys) > 0 {
			return &tensor{bad: "it is marked as conjugate or negative"}
		}
	}
	return &tensor{storage: from, offset: offset, shape: shape, steps: steps}
}

// maxDims is libtorch's limit.
const maxDims = 64

// ints returns a tuple of integers.
func ints(v any) ([]int, bool) {
	t, ok := v.(tuple)
	if l, is := v.(*list); is {
		t, ok = l.items, true
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

// storageOf reads a persistent identifier: ("storage", class, key, device, elements).
func storageOf(id any) (any, error) {
	t, ok := id.(tuple)
	if !ok || len(t) < 5 || t[0] != "storage" {
		return nil, errors.New("want the identifier of a storage, as torch.save writes it")
	}
	class, ok := t[1].(global)
	key, ok2 := t[2].(string)
	n, ok3 := t[4].(int)
	if !ok || !ok2 || !ok3 || n < 0 {
		return nil, errors.New("want a storage's class, key and number of elements")
	}
	if class.module != "torch" && class.module != "torch.storage" {
		return &object{of: class}, nil
	}
	return &storage{class: class.name, key: key, n: n}, nil
}
