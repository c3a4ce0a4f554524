package engine

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"github.com/onestep-go/onestep/sampling/generate"
)

// batch has requests that are served together, or a part of one with many images.
type batch struct {
	m      *model
	parts  []part
	images int
	ctx    context.Context
	cancel context.CancelFunc
	live   int // requests that have not ended; guarded by Engine.mu
}

// part is the images of a request in a batch, n from its first one that is not made yet.
type part struct {
	*job
	from, n int
}

// leave is called for each request that ends. The last one ends the batch: as long as one is left, the others do not disturb it.
func (b *batch) leave() {
	if b.live--; b.live == 0 {
		b.cancel()
	}
}

// work serves requests until the engine is closed. It stays on one operating-system thread, which ends with it: libtorch, its memory allocator and malloc
// keep a team of workers and freed memory for each thread that calls them, and Go would move it to another thread between requests.
func (e *Engine) work() {
	runtime.LockOSThread()
	for b := e.next(); b != nil; b = e.next() {
		if b.m.Changed != nil && b.m.Changed() {
			e.reopen(b)
			continue
		}
		e.finish(b, guard(func() error { return e.generate(b) }))
	}
}

// finish ends the requests of a batch, or puts them back into the queue: if they have more images, and if several of them failed together,
// which may be the fault of one.
func (e *Engine) finish(b *batch, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.clock++
	b.m.used, b.m.fresh, b.m.last = false, false, e.clock
	for _, p := range b.parts {
		switch {
		case p.state == ended:
		case err != nil && len(b.parts) == 1:
			e.end(p.job, err)
		case err == nil && p.left() == 0:
			e.end(p.job, nil)
		default:
			p.alone = p.alone || err != nil
			e.again(p.job)
		}
	}
	b.cancel()
}

// again puts a running request back into the queue.
func (e *Engine) again(j *job) {
	e.running--
	j.state = waiting
	j.rest()
	e.queue.Again(j.r.Client, j)
}

// reopen puts the requests of a batch back into the queue and closes their model, whose files have changed, so that it is opened anew for them.
func (e *Engine) reopen(b *batch) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, p := range b.parts {
		if p.state != ended {
			e.again(p.job)
		}
	}
	b.cancel()
	b.m.used, b.m.at = false, opening
	e.goroutines.Go(func() {
		_ = b.m.close() // its files were only read
		e.mu.Lock()
		defer e.mu.Unlock()
		b.m.at = closed
		e.changed.Broadcast()
	})
}

// next waits for requests that can be served; nil: the engine is closed.
func (e *Engine) next() *batch {
	e.mu.Lock()
	defer e.mu.Unlock()
	for !e.stopping {
		e.openWanted()
		if b := e.pick(); b != nil {
			return b
		}
		e.changed.Wait()
	}
	return nil
}

// pick takes the first request whose model is open out of the queue, with further ones that fit into its batch; nil: there is none.
func (e *Engine) pick() *batch {
	var b *batch
	var passed []*job
	for j := range e.queue.Order() {
		switch {
		case j.m.at != open && b == nil:
			passed = append(passed, j)
		case j.m.at != open:
		case b == nil:
			b = &batch{m: j.m}
			b.add(j)
		case j.m == b.m && b.parts[0].joins(j):
			b.add(j)
		}
	}
	if b == nil {
		return nil
	}
	for _, j := range passed {
		j.passed++
	}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.m.used, b.live = true, len(b.parts)
	for _, p := range b.parts {
		e.queue.Serve(p.job)
		if !p.begun {
			e.begun++
		}
		p.state, p.batch, p.begun, p.ran, p.batched = running, b, true, time.Now(), max(p.batched, b.images)
	}
	e.running += len(b.parts)
	e.tellPlaces()
	return b
}

// joins reports whether another request of the model can be served in the same batch.
func (j *job) joins(other *job) bool {
	return j.is.key != "" && j.is.key == other.is.key && !j.alone && !other.alone
}

// add adds as many images of a request as there is room for.
func (b *batch) add(j *job) {
	if n := min(j.left(), j.is.Batch-b.images); n > 0 {
		b.parts = append(b.parts, part{j, j.made, n})
		b.images += n
	}
}

// generate serves a batch with its model.
func (e *Engine) generate(b *batch) error {
	var parts []part
	for _, p := range b.parts {
		if err := e.introduce(b, p.job); err != nil {
			e.mu.Lock()
			e.end(p.job, err)
			e.mu.Unlock()
			continue
		}
		parts = append(parts, p)
	}
	if len(parts) == 0 {
		return nil
	}
	plan, err := b.m.plan(b.ctx, merged(b.m.known, parts))
	if err != nil {
		return err
	}
	defer plan.Close()
	var owners []*job // of the images
	for _, p := range parts {
		owners = append(owners, slices.Repeat([]*job{p.job}, p.n)...)
	}
	return e.run(b, plan, owners)
}

// introduce plans a request by itself when it runs for the first time, and reports what it is, or returns what is wrong with it.
func (e *Engine) introduce(b *batch, j *job) error {
	if err := j.ctx.Err(); err != nil || j.introduced {
		return err
	}
	plan, err := b.m.plan(j.ctx, j.is.Request)
	if err != nil {
		return requestError(err, j.is.LoRAs, e.o.LoRA.Dir)
	}
	defer plan.Close()
	as := j.is.as
	as.Model, as.Sampler, as.Steps, as.Guidance, as.Seed, as.N = b.m.Name, plan.Sampler, plan.Steps, plan.Guidance, j.is.Seed, j.is.N
	as.Notices = slices.Concat(as.Notices, plan.Notices)
	j.mail.put(Event{Resolved: &as})
	j.introduced = true
	return nil
}

// merged is the request for the images of all parts, which differ in seeds, and in classes or prompts.
func merged(p *profile, parts []part) generate.Request {
	r := parts[0].is.Request
	r.N, r.Seed, r.Seeds, r.Labels, r.Prompts = 0, 0, nil, nil, nil
	for _, one := range parts {
		for i := one.from; i < one.from+one.n; i++ {
			r.Seeds = append(r.Seeds, one.is.Seed+uint64(i))
			if p.pixels == nil {
				r.Prompts = append(r.Prompts, one.is.Prompts[0])
			} else if label := one.is.Label(p.pixels.Network, i); label >= 0 {
				r.Labels = append(r.Labels, label)
			}
		}
	}
	return r
}

// run generates the images of a plan for their owners.
func (e *Engine) run(b *batch, plan *generate.Plan, owners []*job) error {
	shown, steps := previews{of: b.m}, 0
	for st, err := range plan.Run(b.ctx) {
		if err != nil {
			return err
		}
		steps++
		for first := st.First; first < st.First+st.N; {
			j := owners[first]
			n := 1
			for first+n < st.First+st.N && owners[first+n] == j {
				n++
			}
			ev := Event{Step: j.made*st.Steps + n*st.I, Steps: j.is.N * st.Steps}
			if j.due(st) {
				if ev.Previews, err = shown.get(st, steps, first, n); err != nil {
					return err
				}
				j.shown++
			}
			j.mail.put(ev)
			if st.Images != nil {
				e.deliver(j, st.Images[first-st.First:first-st.First+n])
			}
			first += n
		}
	}
	return nil
}

// deliver hands finished images to a request.
func (e *Engine) deliver(j *job, images []generate.Image) {
	for _, img := range images {
		j.mail.put(Event{Image: &Image{Image: img.Image, Seed: img.Seed, Label: img.Label, Texts: img.Texts}})
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if j.state != ended {
		j.made += len(images)
	}
}

// PanicError is the error of a request during which the program panicked, which is a bug. Other requests are still served.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("internal error: %v", e.Value) }

// guard returns a panic of f as an error.
func guard(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{v, debug.Stack()}
		}
	}()
	return f()
}
