package network

import (
	"bytes"
	"encoding/json"
	"fmt"
	"iter"

	"github.com/onestep-go/onestep/internal/options"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// kind is a registered network, independent of the type of its configuration. Arguments have to be of the kind's own types: see holds
// and made.
type kind interface {
	name() string
	readsFirst() bool // the network of files of format 1
	holds(c Spec) bool
	decode(data []byte) (Spec, error)
	withDefaults(c Spec) Spec
	withInputs(c Spec, in models.Inputs) Spec
	make(c Spec, dev torch.Device, dtype torch.DType, seed uint64) (Network, error)
	of(net any) (Spec, bool)
	clone(net Network) (Network, error)
	adopts() bool
	presets() []Preset
	size(c Spec) (preset string, options any)
}

// config is the interface of a registered network's configuration.
type config[C any] interface {
	Spec
	WithDefaults() C
	WithInputs(in models.Inputs) C
}

// made is the interface of a registered network.
type made[C, N any] interface {
	Network
	Config() C
	Clone() (N, error)
}

// adopter is a network that can start from one with fewer conditioning inputs.
type adopter interface {
	Adopt(weights iter.Seq2[string, *torch.Tensor]) error
}

// family is the registration of a package with configurations C, networks N, and options O for sizes.
type family[C config[C], N made[C, N], O any] struct {
	key    string // in JSON
	create func(c C, dev torch.Device, dtype torch.DType, seed uint64) (N, error)
	first  bool // the network of files of format 1
	sizes  []size[C, O]
	sizeOf func(c C) (preset string, size O) // the inverse of a size's config
}

// size is a preset of a family.
type size[C, O any] struct {
	name, about string
	config      func(o *O, channels, side int) C
}

func (f family[C, N, O]) name() string     { return f.key }
func (f family[C, N, O]) readsFirst() bool { return f.first }

func (f family[C, N, O]) holds(c Spec) bool {
	_, ok := c.(C)
	return ok
}

func (f family[C, N, O]) decode(data []byte) (Spec, error) {
	var c C
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	err := dec.Decode(&c)
	return c, err
}

func (f family[C, N, O]) withDefaults(c Spec) Spec { return c.(C).WithDefaults() }

func (f family[C, N, O]) withInputs(c Spec, in models.Inputs) Spec { return c.(C).WithInputs(in) }

func (f family[C, N, O]) make(c Spec, dev torch.Device, dtype torch.DType, seed uint64) (Network, error) {
	return orNil(f.create(c.(C), dev, dtype, seed))
}

func (f family[C, N, O]) of(net any) (Spec, bool) {
	if n, ok := net.(N); ok {
		return n.Config(), true
	}
	return nil, false
}

func (f family[C, N, O]) clone(net Network) (Network, error) { return orNil(net.(N).Clone()) }

func (f family[C, N, O]) adopts() bool {
	var net N
	_, ok := any(net).(adopter)
	return ok
}

// orNil keeps a nil pointer from becoming a non-nil interface.
func orNil[N Network](net N, err error) (Network, error) {
	if err != nil {
		return nil, err
	}
	return net, nil
}

func (f family[C, N, O]) presets() []Preset {
	var all []Preset
	for _, s := range f.sizes {
		all = append(all, Preset{
			Name: s.name, About: s.about,
			options: func() any {
				o := new(O)
				options.Defaults(o)
				return o
			},
			config: func(o any, channels, side int) (Spec, error) {
				own, ok := o.(*O)
				if !ok {
					return nil, fmt.Errorf("network %s: want options of type %T, got %T", s.name, own, o)
				}
				return s.config(own, channels, side), nil
			},
		})
	}
	return all
}

func (f family[C, N, O]) size(c Spec) (string, any) {
	name, o := f.sizeOf(c.(C))
	return name, &o
}
