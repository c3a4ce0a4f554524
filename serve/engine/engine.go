package engine

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"sync"

	"github.com/onestep-go/onestep/lora"
)

// Engine generates images for clients. It owns the models that it opens. Several goroutines may use it at once.
type Engine struct {
	o      Options
	models []*model
	turn   chan struct{} // held by the request that is served

	mu     sync.Mutex
	closed bool
	status Status
	served sync.WaitGroup
}

// Status counts what an engine does and has done since it was made.
type Status struct {
	Waiting, Running        int
	Done, Failed, Cancelled int // requests
	Images                  int
	Open                    []string // names of the open models
}

// New makes an engine. Models are opened when they are first asked for.
func New(o Options) (*Engine, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	e := &Engine{o: o, turn: make(chan struct{}, 1)}
	for _, m := range o.Models {
		e.models = append(e.models, &model{Model: m, lora: o.LoRA})
	}
	return e, nil
}

// Models describes the models, in the order of Options.Models, without opening them.
func (e *Engine) Models() []Info {
	var all []Info
	for _, m := range e.models {
		all = append(all, m.about())
	}
	return all
}

// Adapters returns the names of the adapters that requests may name, sorted.
func (e *Engine) Adapters() ([]string, error) {
	if e.o.LoRA.Dir == "" {
		return nil, nil
	}
	return lora.Names(e.o.LoRA.Dir)
}

// Status returns what the engine does.
func (e *Engine) Status() Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	st := e.status
	for _, m := range e.models {
		if m.about().Loaded {
			st.Open = append(st.Open, m.Name)
		}
	}
	return st
}

// Images generates the request's images and yields what happens to it. An error is yielded last. Leaving the loop ends the request.
func (e *Engine) Images(ctx context.Context, r Request) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		going := true
		if err := e.serve(ctx, r, func(ev Event) bool { going = yield(ev, nil); return going }); err != nil && going {
			yield(Event{}, err)
		}
	}
}

func (e *Engine) serve(ctx context.Context, r Request, yield func(Event) bool) (err error) {
	m, err := e.check(&r)
	if err != nil {
		return err
	}
	if err := e.accept(); err != nil {
		return err
	}
	defer func() { e.done(err) }()
	ctx, cancel := context.WithTimeout(ctx, r.Deadline)
	defer cancel()
	select {
	case e.turn <- struct{}{}:
		defer func() { <-e.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	e.mu.Lock()
	e.status.Waiting--
	e.status.Running++
	e.mu.Unlock()
	if err := m.open(); err != nil {
		return err
	}
	return m.generate(ctx, r, func(ev Event) bool {
		if ev.Image != nil {
			e.mu.Lock()
			e.status.Images++
			e.mu.Unlock()
		}
		return yield(ev)
	})
}

// check reports what cannot work with any model, fills in the defaults of the engine, and finds the model.
func (e *Engine) check(r *Request) (*model, error) {
	if r.Seed == nil {
		seed := uint64(rand.Uint32())
		r.Seed = &seed
	}
	if r.Deadline == 0 {
		r.Deadline = e.o.Deadline
	}
	if err := r.validate(e.o); err != nil {
		return nil, err
	}
	for _, m := range e.models {
		if r.Model == "" || m.Name == r.Model {
			return m, nil
		}
	}
	return nil, e.unknown(r.Model)
}

func (e *Engine) accept() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.closed:
		return ErrClosed
	case e.status.Waiting >= e.o.Queue:
		return ErrFull
	}
	e.status.Waiting++
	e.served.Add(1)
	return nil
}

func (e *Engine) done(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.turn) > 0 && e.status.Running > 0 {
		e.status.Running--
	} else {
		e.status.Waiting--
	}
	switch {
	case err == nil:
		e.status.Done++
	case errors.Is(err, context.Canceled):
		e.status.Cancelled++
	default:
		e.status.Failed++
	}
	e.served.Done()
}

// Drain refuses new requests, and waits until those before are served or ctx is done.
func (e *Engine) Drain(ctx context.Context) error {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		e.served.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for requests: %w", ctx.Err())
	}
}

// Close refuses new requests, waits for those that are served, and closes the models.
func (e *Engine) Close() error {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.served.Wait()
	var err error
	for _, m := range e.models {
		err = errors.Join(err, m.close())
	}
	return err
}
