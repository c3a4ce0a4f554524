// Package replay runs functions of tensors as CUDA graphs (see [torch.Record]): called again with inputs of the same shapes, a function is
// started as a whole instead of operator by operator. A network of hundreds of operators on small images takes longer to start than a GPU needs to
// compute it.
//
// [Graphs] holds the graphs of one function; [Graphs.Call] calls it. Results are those of the function, in tensors of the caller's own. On a CPU
// nothing is recorded. models.Replayed makes a network of it, which notices other adapters, and sd.Model.UseGraphs a whole model.
package replay

import (
	"slices"
	"sync"

	"github.com/onestep-go/onestep/torch"
)

// Graphs are the graphs of one function, one for each kind of call: for inputs of some shapes and types. The zero value is ready, and safe for
// use by several goroutines, which take turns. On a CPU, and where gradients are recorded, the function is called as ever.
//
// The first two calls of a kind run as ever, too: in the first libtorch sets up what it needs, and in the second layers keep the weights that
// adapters have changed. The third records. A graph holds the memory that the function needs for as long as it exists, so that only the
// latest kinds have one.
type Graphs struct {
	// Most is the largest number of graphs; 0: 4. For one more, the one that was not used for longest is freed.
	Most int
	// Failed is told why a function could not be recorded; its calls of this kind run as ever. nil: nobody is told.
	Failed func(error)
	// Record makes a graph; nil: [torch.Record]. With [torch.Rehearse] the function is recorded on every device, for tests without a GPU.
	Record func(*torch.Scope, func(*torch.Scope) []*torch.Tensor) (*torch.Graph, error)

	mu    sync.Mutex
	kinds []*kind // the latest last
}

// warm is the number of calls of a kind before it is recorded.
const warm = 2

// kind is what is known of calls with inputs of these shapes and types.
type kind struct {
	key   any
	forms []form
	calls int
	scope *torch.Scope
	in    []*torch.Tensor // what the graph reads
	graph *torch.Graph    // nil: none yet, or it cannot be recorded
}

// form is an input's: two inputs of one form have tensors of the same size in memory. That of nil is the zero value.
type form struct {
	dtype torch.DType
	shape []int
}

func formsOf(in []*torch.Tensor) []form {
	forms := make([]form, len(in))
	for i, t := range in {
		if t != nil {
			forms[i] = form{t.DType(), t.Shape()}
		}
	}
	return forms
}

func same(a, b form) bool {
	return a.dtype == b.dtype && (a.shape == nil) == (b.shape == nil) && slices.Equal(a.shape, b.shape)
}

// Call returns f(in), as a tensor of s; inputs may be nil. Calls with equal keys, which are comparable, and inputs of the same shapes and types
// have to start the same operators, and use the same memory but for their inputs.
func (g *Graphs) Call(s *torch.Scope, key any, f func(s *torch.Scope, in []*torch.Tensor) *torch.Tensor, in ...*torch.Tensor) *torch.Tensor {
	if s.GradEnabled() || g.Record == nil && !s.Device().IsCUDA() {
		return f(s, in)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	k := g.of(key, in)
	k.calls++
	if k.graph == nil && k.calls == warm+1 {
		if err := g.make(s, k, f, in); err != nil && g.Failed != nil {
			g.Failed(err)
		}
	}
	if k.graph == nil {
		return f(s, in)
	}
	for i, t := range in {
		if t != nil {
			k.in[i].CopyFrom(s, t)
		}
	}
	if err := k.graph.Replay(); err != nil {
		panic(err)
	}
	return k.graph.Outputs()[0].Clone(s)
}

// of returns the kind of a call, as the latest.
func (g *Graphs) of(key any, in []*torch.Tensor) *kind {
	forms := formsOf(in)
	most := g.Most
	if most <= 0 {
		most = 4
	}
	at := slices.IndexFunc(g.kinds, func(k *kind) bool { return k.key == key && slices.EqualFunc(k.forms, forms, same) })
	k := &kind{key: key, forms: forms}
	if at >= 0 {
		k = g.kinds[at]
		g.kinds = slices.Delete(g.kinds, at, at+1)
	} else if len(g.kinds) >= most {
		g.kinds[0].close()
		g.kinds = slices.Delete(g.kinds, 0, 1)
	}
	g.kinds = append(g.kinds, k)
	return k
}

// make records the graph of a kind.
func (g *Graphs) make(s *torch.Scope, k *kind, f func(s *torch.Scope, in []*torch.Tensor) *torch.Tensor, in []*torch.Tensor) error {
	record := g.Record
	if record == nil {
		record = torch.Record
	}
	k.scope = torch.NewScope(s.Device())
	for _, t := range in {
		if t != nil {
			t = t.Detach(k.scope).Clone(k.scope)
		}
		k.in = append(k.in, t)
	}
	var err error
	k.graph, err = record(s, func(s *torch.Scope) []*torch.Tensor { return []*torch.Tensor{f(s, k.in)} })
	if err != nil {
		k.scope.Close()
		k.scope, k.in = nil, nil
	}
	return err
}

func (k *kind) close() {
	if k.graph != nil {
		k.graph.Close()
		k.scope.Close()
	}
}

// Close frees the graphs. Later calls make new ones.
func (g *Graphs) Close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, k := range g.kinds {
		k.close()
	}
	g.kinds = nil
}
