package engine

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/onestep-go/onestep/lora"
)

// Engine generates images for clients. It owns the models that it opens. Several goroutines may use it at once.
//
// One goroutine, [Engine.work], takes requests from the queue and generates, a batch at a time; one more opens each model that is asked for.
// Those who ask only add requests and read what becomes of them.
type Engine struct {
	o          Options
	models     []*model
	goroutines sync.WaitGroup

	mu       sync.Mutex
	changed  *sync.Cond // the queue, a model, a request's end, or what is refused
	queue    queue
	live     map[*job]struct{} // requests that have not ended
	begun    int               // of them, those that have run
	running  int               // of them, those that run
	loads    int               // of them, those that only load a model, which are no requests of clients
	refusing bool              // new requests
	stopping bool
	clock    int // counts batches
	count    counts
}

// New makes an engine. Models are opened when they are first asked for. Close it.
func New(o Options) (*Engine, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	e := &Engine{o: o, live: map[*job]struct{}{}}
	e.changed = sync.NewCond(&e.mu)
	for _, m := range o.Models {
		e.models = append(e.models, &model{Model: m})
	}
	e.goroutines.Go(e.work)
	return e, nil
}

// Models describes the models, in the order of Options.Models, without opening them.
func (e *Engine) Models() []Info {
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []Info
	for _, m := range e.models {
		all = append(all, m.info())
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

// Images generates the request's images and yields what happens to it. An error is yielded last: a [*RequestError], [ErrFull], [ErrClosed],
// that of ctx, [context.DeadlineExceeded] after the deadline, or what went wrong. Leaving the loop ends the request.
//
// Events wait for a slow reader without holding up other requests; of the events of steps that it did not read in time it gets the last.
func (e *Engine) Images(ctx context.Context, r Request) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		j, err := e.accept(ctx, r)
		if err != nil {
			yield(Event{}, err)
			return
		}
		defer func() {
			e.mu.Lock()
			e.end(j, context.Canceled) // unless it has ended
			seen := j.observation()
			e.mu.Unlock()
			if e.o.Observe != nil {
				e.o.Observe(seen)
			}
		}()
		var as *Resolved
		for {
			ev, more, err := j.mail.next()
			if !more {
				if err != nil {
					yield(Event{}, err)
				}
				return
			}
			if ev.Resolved != nil {
				as = ev.Resolved
			}
			if !yield(fitted(ev, as), nil) {
				return
			}
		}
	}
}

// Load opens a model ahead of the first request, "" for the first one, and waits until it is open, as a request for it would: in the queue, and
// with the same errors.
func (e *Engine) Load(ctx context.Context, name string) error {
	j, err := e.accept(ctx, Request{Model: name, loads: true})
	if err != nil {
		return err
	}
	for {
		if _, more, err := j.mail.next(); !more {
			return err
		}
	}
}

// accept checks a request and puts it into the queue.
func (e *Engine) accept(ctx context.Context, r Request) (*job, error) {
	m, err := e.check(&r)
	if err != nil {
		return nil, err
	}
	j := &job{r: r, m: m, mail: newMailbox(), came: time.Now()}
	e.mu.Lock()
	defer e.mu.Unlock()
	for j.by != m.known { // known since it was first open, and anew when it is opened again
		if _, err := e.room(r.Client); err != nil { // before anything is looked up
			return nil, err
		}
		j.by = m.known
		e.mu.Unlock()
		j.is, err = j.by.resolve(r, e.o)
		e.mu.Lock()
		if err != nil {
			return nil, err
		}
	}
	last, err := e.room(r.Client)
	if err != nil {
		return nil, err
	}
	if last != nil {
		e.end(last, ErrFull)
	}
	j.ctx, j.cancel = context.WithTimeout(ctx, r.Deadline)
	j.unwait = context.AfterFunc(j.ctx, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.end(j, j.ctx.Err())
	})
	e.live[j] = struct{}{}
	e.queue.Push(j.r.Client, j)
	if r.loads {
		e.loads++
	}
	if r.loads && m.at == open {
		e.end(j, nil)
		return j, nil
	}
	e.openWanted()
	e.tellPlaces()
	e.changed.Broadcast()
	return j, nil
}

// room returns an error if a further request of a client cannot wait. If the queue is full and another client has more requests in it, the last of these is
// returned, to give way: no client fills the queue alone.
func (e *Engine) room(client string) (last *job, err error) {
	switch {
	case e.refusing:
		return nil, ErrClosed
	case e.waiting() < e.o.Queue:
		return nil, nil
	}
	if last = e.queue.longest(client); last == nil {
		e.count.refused++
		return nil, ErrFull
	}
	return last, nil
}

// waiting is the number of clients' requests that have not run.
func (e *Engine) waiting() int { return len(e.live) - e.begun - e.loads }

// check reports what cannot work with any model, fills in the engine's defaults, and finds the model.
func (e *Engine) check(r *Request) (*model, error) {
	if r.Seed == nil {
		seed := uint64(rand.Uint32()) // which all clients can represent
		r.Seed = &seed
	}
	if r.Deadline == 0 {
		r.Deadline = e.o.Deadline
	}
	if err := r.validate(); err != nil {
		return nil, err
	}
	for _, m := range e.models {
		if r.Model == "" || m.Name == r.Model {
			return m, nil
		}
	}
	return nil, e.unknown(r.Model)
}

// end ends a request, with nil if it was served. It has no effect on one that has ended.
func (e *Engine) end(j *job, err error) {
	switch j.state {
	case ended:
		return
	case waiting:
		e.queue.Remove(j)
	case running:
		e.running--
		j.batch.leave()
		j.rest()
	}
	if j.begun {
		e.begun--
	}
	j.state, j.ended, j.err = ended, time.Now(), err
	delete(e.live, j)
	if j.r.loads {
		e.loads--
	} else {
		e.count.add(j)
	}
	j.unwait()
	j.cancel()
	j.mail.end(err)
	e.tellPlaces()
	e.changed.Broadcast()
}

// tellPlaces reports to the requests that wait how many are to be served before them.
func (e *Engine) tellPlaces() {
	place := e.running
	for j := range e.queue.Order() {
		if j.r.loads {
			continue
		}
		if place > 0 && place != j.place && !j.begun {
			j.mail.put(Event{Queued: place})
		}
		j.place = place
		place++
	}
}

// Drain refuses new requests, and waits until those before have ended or ctx is done.
func (e *Engine) Drain(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.changed.Broadcast()
	})
	defer stop()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.refusing = true
	for len(e.live) > 0 {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%d requests were not served in time: %w", len(e.live), err)
		}
		e.changed.Wait()
	}
	return nil
}

// Close refuses new requests, ends those that have not ended with [ErrClosed], waits for the step that is being computed, and closes the
// models.
func (e *Engine) Close() error {
	e.mu.Lock()
	e.refusing, e.stopping = true, true
	for j := range e.live {
		e.end(j, ErrClosed)
	}
	e.changed.Broadcast()
	e.mu.Unlock()
	e.goroutines.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	var err error
	for _, m := range e.models {
		err = errors.Join(err, m.close())
		m.at = closed
	}
	return err
}
