package original

import (
	"fmt"
	"iter"
	"slices"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Ours returns the tensors of a file in this layout under the names and shapes of package unet. They are views of theirs where the elements
// are in the same order. [Layout.Fits] has to hold.
func (l Layout) Ours(theirs nn.Source) nn.Source {
	o := ours{theirs: theirs, layout: l, from: map[string]piece{}}
	shapes := map[string][]int{}
	for _, t := range l.Config.Shapes() {
		shapes[t.Name] = t.Dims
		o.names = append(o.names, t.Name)
	}
	for _, t := range l.tensors() {
		for i, name := range t.ours {
			if _, known := o.from[name]; !known { // the filter has many places
				o.from[name] = piece{t, i, shapes[name]}
			}
		}
	}
	return o
}

// piece is the part of a code's tensor that is one of ours.
type piece struct {
	tensor
	part  int   // of qkv
	shape []int // of ours
}

// ours is a file's tensors under our names.
type ours struct {
	theirs nn.Source
	layout Layout
	from   map[string]piece
	names  []string
}

// Names implements nn.Source.
func (o ours) Names() iter.Seq[string] { return slices.Values(o.names) }

// Info implements nn.Source.
func (o ours) Info(name string) ([]int, torch.DType, bool) {
	p, ok := o.from[name]
	if !ok {
		return nil, 0, false
	}
	_, d, ok := o.theirs.Info(p.name)
	return p.shape, d, ok
}

// Release implements nn.Source. Parts of a tensor are released with the last of them.
func (o ours) Release(name string) {
	if p, ok := o.from[name]; ok && p.part == len(p.ours)-1 {
		o.theirs.Release(p.name)
	}
}

// Get implements nn.Source.
func (o ours) Get(s *torch.Scope, name string) (*torch.Tensor, error) {
	p, ok := o.from[name]
	if !ok {
		return nil, fmt.Errorf("there is no tensor %s", quote.Quoted(name))
	}
	t, err := o.theirs.Get(s, p.name)
	if err != nil {
		return nil, err
	}
	switch p.how {
	case qkv:
		shape, at := o.layout.order(p.tensor)
		t = t.Reshape(s, append(shape, t.NumEl()/p.dims[0])...).Select(s, at, p.part)
	case turned:
		if t = t.Transpose(s, 0, 1); p.shape[0] > t.Dim(0) {
			t = t.Pad(s, []int{0, 0, 0, p.shape[0] - t.Dim(0)}, torch.PadConstant, 0)
		}
	}
	return t.Reshape(s, p.shape...), nil
}

// order returns the shape of the rows of queries, keys and values, and the dimension of the three.
func (l Layout) order(t tensor) (shape []int, at int) {
	c := t.dims[0] / 3
	d := c / t.heads
	switch l.Code {
	case GuidedDiffusion:
		return []int{t.heads, 3, d}, 1
	case EDM:
		return []int{t.heads, d, 3}, 2
	}
	return []int{3, t.heads, d}, 0
}

// Theirs returns the tensors of a network under the names and shapes of the code.
func (l Layout) Theirs(ours nn.Source) nn.Source {
	o := theirs{ours: ours, layout: l, by: map[string]tensor{}}
	for _, t := range l.tensors() {
		o.by[t.name] = t
		o.names = append(o.names, t.name)
	}
	return o
}

// theirs is a network's tensors under the names of a code.
type theirs struct {
	ours   nn.Source
	layout Layout
	by     map[string]tensor
	names  []string
}

// Names implements nn.Source.
func (o theirs) Names() iter.Seq[string] { return slices.Values(o.names) }

// Info implements nn.Source.
func (o theirs) Info(name string) ([]int, torch.DType, bool) {
	t, ok := o.by[name]
	if !ok {
		return nil, 0, false
	}
	if t.how == filter {
		return t.dims, torch.Float32, true
	}
	_, d, ok := o.ours.Info(t.ours[0])
	return t.dims, d, ok
}

// Release implements nn.Source.
func (o theirs) Release(name string) {
	for _, ours := range o.by[name].ours {
		o.ours.Release(ours)
	}
}

// Get implements nn.Source.
func (o theirs) Get(s *torch.Scope, name string) (*torch.Tensor, error) {
	t, ok := o.by[name]
	switch {
	case !ok:
		return nil, fmt.Errorf("there is no tensor %s", quote.Quoted(name))
	case t.how == filter:
		return torch.FromSlice(s, kernel(o.layout.Config.Filter), t.dims...), nil
	}
	var parts []*torch.Tensor
	for _, ours := range t.ours {
		p, err := o.ours.Get(s, ours)
		if err != nil {
			return nil, err
		}
		parts = append(parts, p)
	}
	whole := parts[0]
	switch t.how {
	case qkv:
		shape, at := o.layout.order(t)
		for i, p := range parts {
			rest := slices.Delete(slices.Clone(shape), at, at+1)
			parts[i] = p.Reshape(s, append(rest, p.NumEl()/p.Dim(0))...).Unsqueeze(s, at)
		}
		whole = torch.Cat(s, parts, at)
	case turned:
		n := t.dims[1]
		if rest := whole.Dim(0) - n; rest > 0 && whole.Narrow(s, 0, n, rest).Abs(s).Max(s).Item() != 0 {
			return nil, fmt.Errorf("the null class was trained: the embedding of no class is 0 in %s", o.layout.Code.Name())
		}
		whole = whole.Narrow(s, 0, 0, n).Transpose(s, 0, 1).Contiguous(s)
	}
	return whole.Reshape(s, t.dims...), nil
}

// kernel returns the filter's outer product of sum 1, by rows.
func kernel(taps []float64) []float32 {
	if taps == nil {
		taps = []float64{1, 1}
	}
	sum := 0.0
	for _, v := range taps {
		sum += v
	}
	var out []float32
	for _, a := range taps {
		for _, b := range taps {
			out = append(out, float32(a*b/(sum*sum)))
		}
	}
	return out
}

// Check compares the constants of a file in this layout, which are the resampling filters of EDM, with those of the network.
func (l Layout) Check(theirs nn.Source) error {
	return torch.Run(torch.CPU, func(s *torch.Scope) error {
		want := kernel(l.Config.Filter)
		for _, t := range l.tensors() {
			if t.how != filter {
				continue
			}
			err := s.Run(func(s *torch.Scope) error {
				got, err := theirs.Get(s, t.name)
				if err != nil {
					return err
				}
				for i, v := range torch.ToSlice[float32](got.To(s, torch.Float32).Contiguous(s)) {
					if !(v-want[i] < 1e-6 && want[i]-v < 1e-6) {
						return fmt.Errorf("%s: want the resampling filter %v, got element %d of %g", quote.Text(t.name), l.Config.Filter, i, v)
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}
