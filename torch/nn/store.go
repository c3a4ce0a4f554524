package nn

import (
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch"
)

// Store owns a network's parameters and buffers.
type Store struct {
	scope *torch.Scope
	dtype torch.DType
	gen   *torch.Generator
	names []string
	byKey map[string]entry
	src   *binding // source of values while BuildFrom builds; nil: initialized
	from  Source   // source of values; nil: initialized

	layers []named                         // in order of creation
	packed map[*torch.Tensor]*packed       // weights that are packed
	bases  map[*torch.Tensor]*torch.Tensor // original weights, not packed, while adapters are merged
	merges atomic.Int64                    // calls of Merge
}

// named is a layer and its path.
type named struct {
	path  string
	layer Layer
}

type entry struct {
	t      *torch.Tensor
	buffer bool
}

// Shape is the name and shape of a network's tensor.
type Shape struct {
	Name   string
	Dims   []int
	Buffer bool // not trained
}

// Shapes returns the tensors that build would make, in order, without making them: build gets a path whose Param and Buffer
// return nil. It gives the size of a network before memory is allocated.
func Shapes(build func(p Path)) []Shape {
	var plan []Shape
	build(Path{plan: &plan})
	return plan
}

// Count returns the number of parameters (elements) in a plan, without buffers.
func Count(plan []Shape) int {
	total := 0
	for _, t := range plan {
		if t.Buffer {
			continue
		}
		n := 1
		for _, d := range t.Dims {
			n *= d
		}
		total += n
	}
	return total
}

// Build makes a store on dev; build makes its tensors below the root path. If build panics with a *torch.Error, Build closes the
// store and returns the error.
func Build(dev torch.Device, dtype torch.DType, seed uint64, build func(p Path)) (*Store, error) {
	st, err := NewStore(dev, dtype, seed)
	if err != nil {
		return nil, err
	}
	if err := torch.Catch(func() { build(st.Root()) }); err != nil {
		st.Close()
		return nil, err
	}
	return st, nil
}

// NewStore makes an empty store on dev. Initial values are sampled on the CPU from a stream with that seed, so they do not
// depend on the device.
func NewStore(dev torch.Device, dtype torch.DType, seed uint64) (*Store, error) {
	if err := dev.Available(); err != nil {
		return nil, err
	}
	s := torch.NewScope(dev)
	return &Store{scope: s, dtype: dtype, gen: torch.NewGeneratorOn(s, torch.CPU, seed), byKey: map[string]entry{}, packed: map[*torch.Tensor]*packed{}}, nil
}

// Close frees the parameters.
func (st *Store) Close() { st.scope.Close() }

// Device returns the parameters' device.
func (st *Store) Device() torch.Device { return st.scope.Device() }

// DType returns the parameters' dtype.
func (st *Store) DType() torch.DType { return st.dtype }

// Root returns the path of the network itself.
func (st *Store) Root() Path { return Path{st: st} }

// Parameters yields the trainable tensors by name, in order of creation.
func (st *Store) Parameters() iter.Seq2[string, *torch.Tensor] {
	return func(yield func(string, *torch.Tensor) bool) {
		for _, name := range st.names {
			if e := st.byKey[name]; !e.buffer && !yield(name, e.t) {
				return
			}
		}
	}
}

// Tensors yields all tensors of a checkpoint: parameters and buffers.
func (st *Store) Tensors() iter.Seq2[string, *torch.Tensor] {
	return func(yield func(string, *torch.Tensor) bool) {
		for _, name := range st.names {
			if !yield(name, st.byKey[name].t) {
				return
			}
		}
	}
}

// NonFinite returns how many elements of the tensors are NaN or infinite.
func (st *Store) NonFinite() (n int, err error) {
	err = torch.Run(st.Device(), func(s *torch.Scope) error {
		var all []*torch.Tensor
		for _, t := range st.Tensors() {
			all = append(all, t)
		}
		n = torch.CountNonFinite(s, all)
		return nil
	})
	return n, err
}

// Layers yields linear layers, convolutions and norms by their paths, which are the names of their weights without ".weight", in order
// of creation.
func (st *Store) Layers() iter.Seq2[string, Layer] {
	return func(yield func(string, Layer) bool) {
		for _, l := range st.layers {
			if !yield(l.path, l.layer) {
				return
			}
		}
	}
}

// Count returns the number of parameters (elements).
func (st *Store) Count() int {
	n := 0
	for _, p := range st.Parameters() {
		n += p.NumEl()
	}
	return n
}

// SetRequiresGrad turns gradients on or off for all parameters. Turning them on converts all parameters to the store's dtype, whatever
// their dtype in the file.
func (st *Store) SetRequiresGrad(on bool) {
	st.CheckOpen("set requires grad")
	for _, p := range st.Parameters() {
		if pw := st.packed[p]; pw != nil && on {
			pw.mu.Lock()
			pw.unpack()
			pw.convert(p)
			pw.mu.Unlock()
		}
		p.SetRequiresGrad(on)
	}
}

// Load copies values into the store. The values have to be exactly its tensors, with the right shapes; all mismatches are
// reported together, and the store is then unchanged. Values are converted to the store's dtype and device.
func (st *Store) Load(values iter.Seq2[string, *torch.Tensor]) error {
	if err := torch.Catch(func() { st.CheckOpen("load weights") }); err != nil {
		return err
	}
	given := map[string]*torch.Tensor{}
	var unexpected, misshapen, mistyped, missing []string
	for name, v := range values {
		if v.Freed() {
			return fmt.Errorf("load weights: the tensor %s is nil or was freed (%w): its owner has to stay open", quote.Text(name), torch.ErrFreed)
		}
		e, ok := st.byKey[name]
		if !ok {
			unexpected = append(unexpected, quote.Text(name))
			continue
		}
		if e.t.DType().IsFloat() && !v.DType().IsFloat() {
			mistyped = append(mistyped, fmt.Sprintf("%s (%s)", quote.Text(name), v.DType()))
		}
		if want, got := e.t.Shape(), v.Shape(); !slices.Equal(want, got) {
			misshapen = append(misshapen, fmt.Sprintf("%s (want %v, got %v)", quote.Text(name), want, got))
		}
		given[name] = v
	}
	for _, name := range st.names {
		if _, ok := given[name]; !ok {
			missing = append(missing, quote.Text(name))
		}
	}
	if err := mismatch(missing, unexpected, misshapen, mistyped); err != nil {
		return err
	}
	return torch.Run(st.Device(), func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			for name, v := range given {
				st.byKey[name].t.CopyFrom(s, v)
			}
			return nil
		})
	})
}

// mismatch returns one error of all mismatches of a set of weights, or nil.
func mismatch(missing, unexpected, misshapen, mistyped []string) error {
	var parts []string
	for _, p := range []struct {
		what  string
		names []string
	}{{"missing", missing}, {"unexpected", unexpected}, {"shape mismatch", misshapen}, {"not of floating point", mistyped}} {
		if n := len(p.names); n > 0 {
			slices.Sort(p.names)
			shown := p.names[:min(n, 12)]
			text := fmt.Sprintf("%d %s: %s", n, p.what, strings.Join(shown, ", "))
			if n > len(shown) {
				text += fmt.Sprintf(", and %d more", n-len(shown))
			}
			parts = append(parts, text)
		}
	}
	if parts == nil {
		return nil
	}
	return fmt.Errorf("weights do not fit the network: %s", strings.Join(parts, "; "))
}

// Path is a prefix in a store's tree of names.
type Path struct {
	st     *Store
	plan   *[]Shape // set instead of a store: see Shapes
	prefix string
}

// Sub returns a child's path; parts are joined by dots.
func (p Path) Sub(parts ...any) Path {
	for _, part := range parts {
		p.prefix += fmt.Sprint(part) + "."
	}
	return p
}

// note registers a layer with the store.
func (p Path) note(l Layer) {
	if p.st != nil {
		p.st.layers = append(p.st.layers, named{strings.TrimSuffix(p.prefix, "."), l})
	}
}

// Init fills a new parameter.
type Init func(s *torch.Scope, t *torch.Tensor, g *torch.Generator)

// Zeros, Ones leave constants; Uniform and Normal draw.
var (
	Zeros Init = func(s *torch.Scope, t *torch.Tensor, _ *torch.Generator) { t.ZeroInPlace(s) }
	Ones  Init = func(s *torch.Scope, t *torch.Tensor, _ *torch.Generator) { t.FillInPlace(s, 1) }
)

// Uniform samples from [-bound, bound).
func Uniform(bound float64) Init {
	return func(s *torch.Scope, t *torch.Tensor, g *torch.Generator) { t.UniformInPlace(s, -bound, bound, g) }
}

// Normal samples from N(0, std²).
func Normal(std float64) Init {
	return func(s *torch.Scope, t *torch.Tensor, g *torch.Generator) { t.NormalInPlace(s, 0, std, g) }
}

// Scaled multiplies the values of another rule by a factor.
func Scaled(init Init, factor float64) Init {
	return func(s *torch.Scope, t *torch.Tensor, g *torch.Generator) {
		init(s, t, g)
		t.MulScalarInPlace(s, factor)
	}
}

// FanIn is PyTorch's rule for weights and biases of layers with that many inputs: uniform within ±1/√fanIn.
func FanIn(fanIn int) Init { return Uniform(1 / math.Sqrt(float64(max(fanIn, 1)))) }

// Param makes a parameter called name under the path. It panics if the name exists.
func (p Path) Param(name string, init Init, shape ...int) *torch.Tensor {
	return p.add(name, init, false, shape)
}

// Buffer makes a tensor that belongs to the network but is not trained.
func (p Path) Buffer(name string, init Init, shape ...int) *torch.Tensor {
	return p.add(name, init, true, shape)
}

// Constant makes a tensor that belongs to the network but to none of its files, and has no name. Shapes does not list it.
func (p Path) Constant(init Init, shape ...int) *torch.Tensor {
	if p.plan != nil {
		return nil
	}
	return p.st.make(init, shape)
}

func (p Path) add(name string, init Init, buffer bool, shape []int) *torch.Tensor {
	if p.plan != nil {
		*p.plan = append(*p.plan, Shape{p.prefix + name, shape, buffer})
		return nil
	}
	return p.st.add(p.prefix+name, init, buffer, shape)
}

// free panics if the name is taken.
func (st *Store) free(name string) {
	if _, ok := st.byKey[name]; ok {
		panic(&torch.Error{Op: "nn.Store", Msg: fmt.Sprintf("the name %q is taken", name)})
	}
}

func (st *Store) add(name string, init Init, buffer bool, shape []int) *torch.Tensor {
	st.free(name)
	if st.src != nil {
		return st.bind(name, buffer, shape, st.dtype)
	}
	t := st.make(init, shape)
	t.SetRequiresGrad(!buffer && st.dtype.IsFloat())
	st.names = append(st.names, name)
	st.byKey[name] = entry{t, buffer}
	return t
}

// make makes a tensor of the store's type on its device.
func (st *Store) make(init Init, shape []int) *torch.Tensor {
	var t *torch.Tensor
	err := st.scope.NoGrad(func(s *torch.Scope) error {
		// Sampled in float32 on the CPU: the same values on every device and in every dtype.
		var made *torch.Tensor
		if err := s.On(torch.CPU, func(c *torch.Scope) error {
			made = torch.Empty(c, torch.Float32, shape...)
			init(c, made, st.gen)
			c.Keep(made)
			return nil
		}); err != nil {
			return err
		}
		t = s.Keep(made.To(s, st.dtype).ToDevice(s, st.Device()).Clone(s))
		return nil
	})
	if err != nil {
		panic(err)
	}
	return t
}
