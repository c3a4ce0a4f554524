package torch

/*
#include "../csrc/ct.h"
*/
import "C"

import (
	"fmt"
	"runtime"
)

// Graph is work of a GPU that is recorded once and then started as a whole (a CUDA graph): a network of small images spends more time on
// starting its hundreds of operators one by one than the GPU on computing them. A graph reads and writes fixed memory: it computes from the
// values that its inputs have when it is replayed, and its outputs are overwritten. Package [github.com/onestep-go/onestep/torch/replay] makes
// a function of one. A graph belongs to one goroutine at a time.
type Graph struct {
	scope   *Scope
	outputs []*Tensor
	start   func() error
	free    func() // nil: nothing is left to free
}

// Record records what f starts on s's device and returns it with f's results. Nothing runs yet: [Graph.Replay] computes the results.
//
// f has to be such that starting the same operators with the same memory is right: it must not read values ([Tensor.Item], [ToSlice]) nor copy any
// from the CPU, which is an error; and all memory that it uses, weights and inputs, has to stay where it is for as long as the graph is used.
// It has run before with inputs of the same shapes, since libtorch sets up what it needs, and layers keep what they can, in a first call. f
// runs on the goroutine that calls Record; other goroutines may use the GPU meanwhile. On a CPU there are no graphs, which is an error.
func Record(s *Scope, f func(s *Scope) []*Tensor) (*Graph, error) {
	if !s.device.IsCUDA() {
		return nil, &Error{Op: "graph", Msg: fmt.Sprintf("only a GPU has graphs: want a scope of one, got %s", s.device)}
	}
	if err := s.device.Available(); err != nil {
		return nil, err
	}
	runtime.LockOSThread() // what is recorded is what this thread starts
	defer runtime.UnlockOSThread()
	var h C.ct_graph
	if e := C.ct_graph_begin(C.int32_t(s.device.code()), &h); e != nil {
		return nil, take(e, "graph")
	}
	g, err := record(s, f)
	if err == nil {
		if e := C.ct_graph_end(h); e != nil {
			g.Close()
			err = take(e, "graph")
		}
	}
	if err != nil {
		C.ct_graph_free(h)
		return nil, err
	}
	g.start = func() error {
		if e := C.ct_graph_replay(h); e != nil {
			return take(e, "graph")
		}
		return nil
	}
	g.free = func() { C.ct_graph_free(h) }
	return g, nil
}

// Rehearse is [Record] without recording, on any device: the graph calls f again to be replayed. f gets a scope in which it may do what it may
// do in Record's, so that a test without a GPU can find out whether a function can be recorded.
func Rehearse(s *Scope, f func(s *Scope) []*Tensor) (*Graph, error) {
	g, err := record(s, f)
	if err != nil {
		return nil, err
	}
	g.start = func() error {
		return s.Run(func(s *Scope) error {
			s.recording = true
			for i, t := range f(s) {
				g.outputs[i].CopyFrom(s, t)
			}
			return nil
		})
	}
	return g, nil
}

// record calls f and keeps its results.
func record(s *Scope, f func(s *Scope) []*Tensor) (*Graph, error) {
	g := &Graph{scope: NewScope(s.device)}
	g.scope.mode = s.mode
	recorded := g.scope.child(0)
	recorded.recording = true
	err := run(recorded, func(s *Scope) error {
		for _, t := range f(s) {
			if t.scope != s { // one of its inputs
				t = t.Clone(s)
			}
			g.outputs = append(g.outputs, s.Keep(t))
		}
		return nil
	})
	if err != nil {
		g.scope.Close()
		return nil, err
	}
	return g, nil
}

// Replay computes the outputs anew. Like an operator it returns when the work is started.
func (g *Graph) Replay() error { return g.start() }

// Outputs are the results of the function that was recorded. They belong to the graph, and each Replay overwrites them.
func (g *Graph) Outputs() []*Tensor { return g.outputs }

// Close frees the graph and its outputs.
func (g *Graph) Close() {
	g.scope.Close()
	if g.free != nil {
		g.free()
		g.free = nil
	}
}

// moves panics if values are moved between the host and the device in a scope that records: a replay would not repeat it.
func (s *Scope) moves(op string) {
	if s != nil && s.recording {
		panic(&Error{Op: op, Msg: "values cannot be moved between CPU and GPU while a graph is recorded: do it before"})
	}
}
