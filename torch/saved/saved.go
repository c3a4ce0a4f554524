package saved

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/filetype"
	"github.com/onestep-go/onestep/internal/pickle"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch"
)

// File is an open file of torch.save: a zip archive with a pickle, which describes the tensors, and their elements, or before PyTorch 1.6
// one after the other. Elements are uncompressed, so a tensor is a view of the mapped file. It is an nn.Source.
type File struct {
	m       *torch.Mapped
	tensors map[string]stored
	order   []string
	strings map[string]string // beside the tensors
	key     string            // of the dictionary with the tensors; "": the root
	others  []string          // keys of other dictionaries of tensors
}

// stored is the location of a tensor in the file.
type stored struct {
	dtype  torch.DType
	at     int // of its first element, in bytes
	shape  []int
	steps  []int // strides, in elements
	packed bool  // contiguous
}

// bytes returns the size of the tensor's elements.
func (v stored) bytes() int {
	n := v.dtype.Size()
	for _, d := range v.shape {
		n *= d
	}
	return n
}

// maxPickle is a hundred times the size of the pickle in a typical checkpoint.
const maxPickle = 16 << 20

// classes maps storage classes, and PyTorch's names of data types without such a class, to data types.
var classes = map[string]torch.DType{
	"FloatStorage": torch.Float32, "DoubleStorage": torch.Float64, "HalfStorage": torch.Float16, "BFloat16Storage": torch.BFloat16,
	"LongStorage": torch.Int64, "IntStorage": torch.Int32, "ByteStorage": torch.Uint8, "BoolStorage": torch.Bool,
	"float8_e4m3fn": torch.Float8E4M3, "float8_e5m2": torch.Float8E5M2,
}

// Named reports whether a path has an extension of torch.save files.
func Named(path string) bool {
	return slices.Contains([]string{".ckpt", ".bin", ".pt", ".pth"}, strings.ToLower(filepath.Ext(path)))
}

// Open opens a file of torch.save. Its tensors are those of a state dict: the root object, or the entry that training checkpoints keep it
// in. If there are several dictionaries of tensors, the first key of prefer that names one is used; see [File.Key].
func Open(path string, prefer ...string) (_ *File, err error) {
	m, err := torch.OpenMapped(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("%s: %w", quote.Path(path), err), m.Close())
		}
	}()
	a := &File{m: m, tensors: map[string]stored{}}
	return a, a.read(m.Bytes(), prefer)
}

// Path returns the path that was opened.
func (a *File) Path() string { return a.m.Path() }

// Strings returns the strings beside the tensors, by name.
func (a *File) Strings() map[string]string { return a.strings }

// Key returns the key of the dictionary that the tensors are from; "" for the root and for nested dictionaries.
func (a *File) Key() string { return a.key }

// Others returns the keys of the other dictionaries of tensors beside it.
func (a *File) Others() []string { return a.others }

// Elements returns the bytes of a tensor's elements in row-major order, a slice of the mapped file, and their data type; false if the
// tensor is not contiguous in the file.
func (a *File) Elements(name string) ([]byte, torch.DType, bool) {
	v, ok := a.tensors[name]
	if !ok || !v.packed || a.m.Bytes() == nil {
		return nil, 0, false
	}
	return a.m.Bytes()[v.at:][:v.bytes()], v.dtype, true
}

const convertHint = `convert it with PyTorch: torch.save(torch.load("old", weights_only=True), "new")`

// read finds the tensors of a file.
func (a *File) read(data []byte, prefer []string) error {
	describe := zipped
	switch is := filetype.Of(data); {
	case bytes.HasPrefix(data, []byte("PK\x03\x04")):
	case bytes.HasPrefix(data, []byte(legacyMagic)):
		describe = legacy
	case is.ID == "safetensors":
		return errors.New("it is a safetensors file: rename it to .safetensors")
	default:
		return fmt.Errorf("want a file of torch.save, but it is %s", is)
	}
	root, part, err := describe(data)
	if err != nil {
		return err
	}
	if d, ok := root.(*pickle.Dict); ok {
		a.strings = map[string]string{}
		for i, key := range d.Keys {
			name, named := key.(string)
			if text, ok := d.Values[i].(string); ok && named {
				a.strings[name] = text
			}
		}
	}
	state, err := a.state(root, prefer)
	if err != nil {
		return err
	}
	sizes := 0
	for i, key := range state.Keys {
		name, named := key.(string)
		o, is := rebuilt(state.Values[i])
		if !is || !named {
			continue // other values, such as step counts
		}
		t := tensorOf(o)
		if sizes += len(t.shape) + len(t.steps); sizes > maxSizes {
			return fmt.Errorf("its tensors have more than %d dimensions in total", maxSizes)
		}
		v, err := t.find(part)
		if err != nil {
			return fmt.Errorf("tensor %s: %w", quote.Quoted(name), err)
		}
		a.tensors[name] = v
		a.order = append(a.order, name)
	}
	return nil
}

// parts returns a member of a file: its bytes, and their offset in the file.
type parts func(name string) ([]byte, int, error)

// zipped reads the description of the tensors in a zip archive.
func zipped(data []byte) (root any, part parts, err error) {
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if errors.Is(err, zip.ErrFormat) {
		return nil, nil, errors.New("zip: the archive has no directory at its end: the file is truncated or damaged")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("zip: %w", err)
	}
	members := map[string]*zip.File{}
	prefix := ""
	for _, f := range z.File {
		if members[f.Name] != nil {
			return nil, nil, fmt.Errorf("zip: duplicate member %s", quote.Quoted(f.Name))
		}
		members[f.Name] = f
		if dir, name, ok := strings.Cut(f.Name, "/"); ok && name == "data.pkl" {
			if prefix != "" {
				return nil, nil, errors.New("zip: the archive has several data.pkl: want one")
			}
			prefix = dir + "/"
		}
	}
	if prefix == "" {
		return nil, nil, errors.New("zip: want a file of torch.save, but the archive has no directory with a data.pkl")
	}
	part = func(name string) ([]byte, int, error) { return member(data, members[prefix+name], prefix+name) }
	if order, _, err := part("byteorder"); err == nil && string(order) != "little" {
		return nil, nil, fmt.Errorf("its byte order is %s: want little; %s", quote.Quoted(order), convertHint)
	}
	description, _, err := part("data.pkl")
	if err != nil {
		return nil, nil, err
	}
	if len(description) > maxPickle {
		return nil, nil, fmt.Errorf("data.pkl has %d bytes: want at most %d", len(description), maxPickle)
	}
	if root, err = pickle.Unpickle(description); err != nil {
		return nil, nil, fmt.Errorf("data.pkl: %w", err)
	}
	return root, part, nil
}

// member returns a member of an archive and its offset in the file.
func member(data []byte, f *zip.File, name string) ([]byte, int, error) {
	if f == nil {
		return nil, 0, fmt.Errorf("zip: missing member %s: %w", quote.Quoted(name), fs.ErrNotExist)
	}
	if f.Method != zip.Store || f.CompressedSize64 != f.UncompressedSize64 || f.Flags&1 != 0 {
		return nil, 0, fmt.Errorf("zip: member %s is compressed or encrypted, unlike in files of torch.save: %s", quote.Quoted(name), convertHint)
	}
	at, err := f.DataOffset()
	if err != nil {
		return nil, 0, fmt.Errorf("zip: member %s: %w", quote.Quoted(name), err)
	}
	if at < 0 || at > int64(len(data)) || f.UncompressedSize64 > uint64(int64(len(data))-at) {
		return nil, 0, fmt.Errorf("zip: member %s extends beyond the end of the file", quote.Quoted(name))
	}
	return data[at : at+int64(f.UncompressedSize64)], int(at), nil
}

// state finds the state dict, and notes its key and those of others.
func (a *File) state(root any, prefer []string) (*pickle.Dict, error) {
	d, ok := root.(*pickle.Dict)
	if !ok || tensorsIn(d) > 0 {
		return stateOf(root)
	}
	for i, v := range d.Values {
		name, named := d.Keys[i].(string)
		if inner, ok := v.(*pickle.Dict); ok && named && tensorsIn(inner) > 0 {
			a.others = append(a.others, name)
		}
	}
	for _, key := range prefer {
		if i := slices.Index(a.others, key); i >= 0 {
			a.key, a.others = key, slices.Delete(a.others, i, i+1)
			return d.Get(key).(*pickle.Dict), nil
		}
	}
	a.others = nil
	return stateOf(root)
}

// stateOf finds the state dict: the root object, or the entry that training checkpoints keep it in.
func stateOf(root any) (*pickle.Dict, error) {
	d, ok := root.(*pickle.Dict)
	if o, is := root.(*pickle.Object); is {
		return nil, fmt.Errorf("it contains an object of class %s: want a state dict; save the object's state_dict() instead", quote.Text(o.Of.String()))
	}
	if !ok {
		return nil, errors.New("want a state dict, but it contains something else")
	}
	for range 3 { // some nest a state_dict in a state_dict
		inner, ok := d.Get("state_dict").(*pickle.Dict)
		if !ok {
			break
		}
		d = inner
	}
	if tensorsIn(d) > 0 {
		return d, nil
	}
	params, _ := d.Get("string_to_param").(*pickle.Dict) // A1111's embeddings; string_to_token may contain tensors too
	if o, ok := d.Get("string_to_param").(*pickle.Object); ok && o.Of == parameterDict {
		if state, ok := o.State.(*pickle.Dict); ok {
			params, _ = state.Get("_parameters").(*pickle.Dict)
		}
	}
	if params != nil && tensorsIn(params) > 0 {
		return params, nil
	}
	var found *pickle.Dict
	for _, v := range d.Values {
		if inner, ok := v.(*pickle.Dict); ok && tensorsIn(inner) > 0 {
			if found != nil {
				return nil, errors.New("it has several dictionaries of tensors, and none is named state_dict: want one")
			}
			found = inner
		}
	}
	if found == nil {
		return nil, errors.New("want a state dict, but it has no tensors")
	}
	return found, nil
}

// parameterDict is the class that holds the vectors of older embeddings.
var parameterDict = pickle.Global{Module: "torch.nn.modules.container", Name: "ParameterDict"}

func tensorsIn(d *pickle.Dict) int {
	n := 0
	for i, v := range d.Values {
		_, named := d.Keys[i].(string)
		if _, ok := rebuilt(v); ok && named {
			n++
		}
	}
	return n
}

// find checks a tensor against its storage and returns its location.
func (t *tensor) find(part parts) (stored, error) {
	if t.bad != "" {
		return stored{}, errors.New(t.bad)
	}
	d, ok := classes[t.class]
	if !ok {
		return stored{}, fmt.Errorf("its storage class is %s: want FloatStorage, HalfStorage, BFloat16Storage or similar", quote.Quoted(t.class))
	}
	data, at, err := part("data/" + t.key)
	if err != nil {
		return stored{}, err
	}
	size := d.Size()
	if t.n > len(data)/size {
		return stored{}, fmt.Errorf("its storage has %d bytes: want %d elements of %s", len(data), t.n, d)
	}
	if len(t.shape) != len(t.steps) || t.offset < 0 || t.offset > t.n {
		return stored{}, fmt.Errorf("shape %v, strides %v and offset %d are invalid for a storage of %d elements", t.shape, t.steps, t.offset, t.n)
	}
	if slices.ContainsFunc(slices.Concat(t.shape, t.steps), func(n int) bool { return n < 0 || n > maxElements }) {
		return stored{}, fmt.Errorf("invalid shape %v with strides %v", t.shape, t.steps)
	}
	v := stored{dtype: d, at: at + t.offset*size, shape: t.shape, steps: t.steps, packed: true}
	if slices.Contains(t.shape, 0) {
		return v, nil
	}
	count, last := 1, t.offset
	for i, n := range slices.Backward(t.shape) {
		if n == 1 {
			continue
		}
		step := t.steps[i]
		v.packed = v.packed && step == count
		if count > t.n/n || step > t.n/(n-1) {
			last = t.n // larger than the storage
			break
		}
		count *= n
		last += (n - 1) * step
	}
	if last >= t.n {
		return stored{}, fmt.Errorf("shape %v with strides %v at offset %d exceeds its storage of %d elements", t.shape, t.steps, t.offset, t.n)
	}
	return v, nil
}

// maxElements keeps products of sizes from overflowing, also if one of the sizes is 0.
const maxElements = 1 << 40

// Info implements nn.Source.
func (a *File) Info(name string) ([]int, torch.DType, bool) {
	v, ok := a.tensors[name]
	return v.shape, v.dtype, ok
}

// Names implements nn.Source.
func (a *File) Names() iter.Seq[string] { return slices.Values(a.order) }

// Get implements nn.Source.
func (a *File) Get(s *torch.Scope, name string) (*torch.Tensor, error) {
	v, ok := a.tensors[name]
	if !ok {
		return nil, fmt.Errorf("%s: there is no tensor %s", quote.Path(a.m.Path()), quote.Quoted(name))
	}
	if v.packed {
		return a.m.Tensor(s, v.at, v.dtype, v.shape...)
	}
	return a.gather(s, v)
}

// gather copies a non-contiguous tensor.
func (a *File) gather(s *torch.Scope, v stored) (*torch.Tensor, error) {
	data, size := a.m.Bytes(), v.dtype.Size()
	if data == nil {
		return nil, fmt.Errorf("%s was closed", quote.Path(a.m.Path()))
	}
	out := make([]byte, 0, v.bytes())
	index := make([]int, len(v.shape))
	for at := 0; len(out) < cap(out); {
		from := v.at + at*size
		out = append(out, data[from:from+size]...)
		for i := len(index) - 1; i >= 0; i-- { // the next index
			index[i]++
			at += v.steps[i]
			if index[i] < v.shape[i] {
				break
			}
			at -= index[i] * v.steps[i]
			index[i] = 0
		}
	}
	if v.dtype == torch.Bool && slices.ContainsFunc(out, func(b byte) bool { return b > 1 }) {
		return nil, fmt.Errorf("%s: a boolean is neither 0 nor 1", quote.Path(a.m.Path()))
	}
	var t *torch.Tensor
	err := torch.Catch(func() { t = torch.FromBytes(s, out, v.dtype, v.shape...) })
	return t, err
}

// Release implements nn.Source.
func (a *File) Release(name string) {
	if v, ok := a.tensors[name]; ok && v.packed {
		a.m.Release(v.at, v.bytes())
	}
}

// Close unmaps the file; see [torch.Mapped.Close].
func (a *File) Close() error { return a.m.Close() }
