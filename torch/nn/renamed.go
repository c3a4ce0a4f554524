package nn

import (
	"fmt"
	"iter"
	"slices"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch"
)

// Renamed are tensors of other sources under new names, in the order in which they are added. The zero value has none.
type Renamed struct {
	names []string
	from  map[string]original
}

// original is a tensor's source, and its name there.
type original struct {
	Source
	name string
}

var _ Source = (*Renamed)(nil)

// Add adds the tensor of src with the name theirs, as name. If the name is taken it adds nothing, and returns what the tensor with that name
// was called.
func (r *Renamed) Add(name string, src Source, theirs string) (taken string, ok bool) {
	if v, is := r.from[name]; is {
		return v.name, false
	}
	if r.from == nil {
		r.from = map[string]original{}
	}
	r.names, r.from[name] = append(r.names, name), original{src, theirs}
	return "", true
}

// Info implements Source.
func (r *Renamed) Info(name string) ([]int, torch.DType, bool) {
	v, ok := r.from[name]
	if !ok {
		return nil, 0, false
	}
	return v.Source.Info(v.name)
}

// Names implements Source.
func (r *Renamed) Names() iter.Seq[string] { return slices.Values(r.names) }

// Get implements Source.
func (r *Renamed) Get(s *torch.Scope, name string) (*torch.Tensor, error) {
	v, ok := r.from[name]
	if !ok {
		return nil, fmt.Errorf("there is no tensor %s", quote.Quoted(name))
	}
	return v.Source.Get(s, v.name)
}

// Release implements Source.
func (r *Renamed) Release(name string) {
	if v, ok := r.from[name]; ok {
		v.Source.Release(v.name)
	}
}
