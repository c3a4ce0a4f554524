package engine

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/onestep-go/onestep/sampling/generate"
)

// batch has requests that are served together.
type batch struct {
	m      *model
	jobs   []*job
	images int
	most   int // images that are generated together
	ctx    context.Context
	cancel context.CancelFunc
	live   int // requests that have not ended; guarded by Engine.mu
}

// leave is called for each request that ends. The last one ends the batch: as long as one is left, the others do not disturb it.
func (b *batch) leave() {
	if b.live--; b.live == 0 {
		b.cancel()
	}
}

// work serves requests until the engine is closed.
func (e *Engine) work() {
	for b := e.next(); b != nil; b = e.next() {
		err := guard(func() error { return e.generate(b) })
		e.mu.Lock()
		for _, j := range b.jobs {
			e.end(j, err)
		}
		e.clock++
		b.m.used, b.m.fresh, b.m.last = false, false, e.clock
		e.mu.Unlock()
		b.cancel()
	}
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
	for j := range e.queue.order() {
		switch {
		case j.m.at != open && b == nil:
			passed = append(passed, j)
		case j.m.at != open:
		case b == nil:
			b = &batch{m: j.m, jobs: []*job{j}, images: j.is.N, most: j.is.together}
		case b.takes(j):
			b.jobs = append(b.jobs, j)
			b.images += j.is.N
		}
	}
	if b == nil {
		return nil
	}
	for _, j := range passed {
		j.passed++
	}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.m.used, b.live = true, len(b.jobs)
	for _, j := range b.jobs {
		e.queue.serve(j)
		j.state, j.batch, j.began, j.batched = running, b, time.Now(), b.images
	}
	e.running += len(b.jobs)
	e.tellPlaces()
	return b
}

// takes reports whether a request can be served in the batch.
func (b *batch) takes(j *job) bool {
	return j.m == b.m && j.is.key != "" && j.is.key == b.jobs[0].is.key && b.images+j.is.N <= b.most
}

// generate serves a batch with its model.
func (e *Engine) generate(b *batch) error {
	var jobs []*job
	var plan *generate.Plan
	for _, j := range b.jobs {
		one, err := e.plan(b, j)
		if err != nil {
			e.mu.Lock()
			e.end(j, err)
			e.mu.Unlock()
			continue
		}
		defer one.Close()
		jobs, plan = append(jobs, j), one
	}
	if len(jobs) == 0 {
		return nil
	}
	if len(jobs) > 1 {
		var err error
		if plan, err = b.m.plan(b.ctx, merged(b.m.known, jobs)); err != nil {
			return err
		}
		defer plan.Close()
	}
	var owners []*job // of the images
	for _, j := range jobs {
		owners = append(owners, slices.Repeat([]*job{j}, j.is.N)...)
	}
	return e.run(b, plan, owners)
}

// plan plans a request by itself and reports what it is.
func (e *Engine) plan(b *batch, j *job) (*generate.Plan, error) {
	if err := j.ctx.Err(); err != nil {
		return nil, err
	}
	plan, err := b.m.plan(j.ctx, j.is.Request)
	if err != nil {
		return nil, requestError(err)
	}
	as := j.is.as
	as.Model, as.Sampler, as.Steps, as.Guidance, as.Seed = b.m.Name, plan.Sampler, plan.Steps, plan.Guidance, j.is.Seed
	as.Notices = slices.Concat(as.Notices, plan.Notices)
	j.mail.put(Event{Resolved: &as})
	return plan, nil
}

// merged is the request for the images of all jobs, which differ in seeds, and in classes or prompts.
func merged(p *profile, jobs []*job) generate.Request {
	r := jobs[0].is.Request
	r.N, r.Seed, r.Seeds, r.Labels, r.Prompts = 1, 0, nil, nil, nil
	for _, j := range jobs {
		for i := range j.is.N {
			r.Seeds = append(r.Seeds, j.is.Seed+uint64(i))
			if p.pixels == nil {
				r.Prompts = append(r.Prompts, j.is.Prompts[0])
			} else if label := j.is.Label(p.pixels.Network, i); label >= 0 {
				r.Labels = append(r.Labels, label)
			}
		}
	}
	if p.pixels != nil {
		r.N = len(r.Seeds)
	}
	return r
}

// run generates the images of a plan for their owners.
func (e *Engine) run(b *batch, plan *generate.Plan, owners []*job) error {
	type course struct{ step, previews int }
	shown, steps := previews{of: b.m}, 0
	at := map[*job]*course{}
	for _, j := range owners {
		at[j] = &course{}
	}
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
			c := at[j]
			c.step += n
			ev := Event{Step: c.step, Steps: st.Steps * j.is.N}
			if j.due(st, c.previews) {
				if ev.Previews, err = shown.get(st, steps, first, n); err != nil {
					return err
				}
				c.previews++
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
		j.images += len(images)
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
