package engine

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/mlp"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/sampling/generate"
	"github.com/onestep-go/onestep/torch"
)

// fake is a consistency function with classes that is computed at once: noise in a grey that the class decides.
type fake struct {
	before func(images int) // called in each evaluation, unless it is nil
	sizes  chan int         // gets the size of each batch, unless it is nil
}

func (f fake) Origin(s *torch.Scope, x, _ *torch.Tensor, c models.Cond) *torch.Tensor {
	if f.sizes != nil {
		f.sizes <- x.Dim(0)
	}
	if f.before != nil {
		f.before(x.Dim(0))
	}
	shade := c.Class.To(s, torch.Float32).MulScalar(s, 0.5).SubScalar(s, 0.5).Reshape(s, x.Dim(0), 1, 1, 1)
	return x.MulScalar(s, 0.001).Add(s, shade)
}

// with is the fake as a model of an engine.
func (f fake) with(t testing.TB) Model {
	return Model{Name: "fake", Open: func() (*generate.Model, error) { return f.open(t) }}
}

// described is what the file of a model like fake would say.
func described(t testing.TB) (network.Network, checkpoint.Description) {
	net, err := network.New(network.Config{Net: mlp.Config{Shape: []int{3, 8, 8}, Width: 4, Depth: 1, Classes: 3}}.WithDefaults(), torch.CPU, torch.Float32, 1)
	require.NoError(t, err)
	d, err := checkpoint.Describe(&models.Consistency{Net: net})
	require.NoError(t, err)
	d.ClassNames = []string{"cat face", "dog", "green field"}
	return net, d
}

func (f fake) open(t testing.TB) (*generate.Model, error) {
	net, d := described(t)
	m, err := generate.FromFunction(f, d, net, "fake.safetensors")
	if err != nil {
		return nil, err
	}
	m.OnClose(func() error { net.Close(); return nil })
	return m, nil
}

// gate stops evaluations until they are let through.
type gate struct {
	reached chan struct{} // an evaluation has come
	pass    chan struct{}
	opened  sync.Once
}

func newGate() *gate { return &gate{reached: make(chan struct{}, 1000), pass: make(chan struct{})} }

func (g *gate) wait(int) {
	g.reached <- struct{}{}
	<-g.pass
}

// open lets all evaluations through from now on.
func (g *gate) open() { g.opened.Do(func() { close(g.pass) }) }

func engineOf(t testing.TB, o Options) *Engine {
	t.Helper()
	e, err := New(o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	return e
}

// result is what became of a request.
type result struct {
	as     *Resolved
	images []Image
	events []Event
	err    error
}

func read(ctx context.Context, e *Engine, r Request) (out result) {
	for ev, err := range e.Images(ctx, r) {
		if err != nil {
			out.err = err
			continue
		}
		out.events = append(out.events, ev)
		if ev.Resolved != nil {
			out.as = ev.Resolved
		}
		if ev.Image != nil {
			out.images = append(out.images, *ev.Image)
		}
	}
	return out
}

// start reads a request in its own goroutine, after it was accepted.
func start(t testing.TB, ctx context.Context, e *Engine, r Request) <-chan result {
	t.Helper()
	before := e.total()
	done := make(chan result, 1)
	go func() { done <- read(ctx, e, r) }()
	eventually(t, func() bool { return e.total() > before })
	return done
}

// total is the number of requests that the engine has seen.
func (e *Engine) total() int {
	s := e.Status()
	return s.Waiting + s.Running + s.Done + s.Failed + s.Cancelled + s.Refused
}

func eventually(t testing.TB, is func() bool) {
	t.Helper()
	for range 20000 {
		if is() {
			return
		}
		pause()
	}
	t.Fatal("it did not happen in 20 s")
}

// opener counts how often a model is open.
type opener struct {
	opens, closes, now, most atomic.Int32
}

func (o *opener) count(m *generate.Model) {
	o.opens.Add(1)
	if n := o.now.Add(1); n > o.most.Load() {
		o.most.Store(n)
	}
	m.OnClose(func() error { o.closes.Add(1); o.now.Add(-1); return nil })
}
