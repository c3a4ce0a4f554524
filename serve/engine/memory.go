package engine

import (
	"runtime"
	"slices"
)

// patience is how many batches are served before a model that others still ask for is closed in favour of a request that came before them:
// without it two models that do not fit together would be opened anew for every request.
const patience = 8

// openWanted starts to open the models of waiting requests, in their order, as far as the memory suffices.
func (e *Engine) openWanted() {
	for j := range e.queue.Order() {
		if j.m.at != closed || e.stopping {
			continue
		}
		victims, ok := e.memoryFor(j.m)
		if !ok || j.passed < patience && slices.ContainsFunc(victims, e.wanted) {
			continue
		}
		j.m.at = opening
		for _, v := range victims {
			v.at = opening
		}
		e.goroutines.Go(func() { e.open(j.m, victims) })
	}
}

// memoryFor returns the models to close before m is opened, the least recently used ones; false: there is not enough memory for now.
func (e *Engine) memoryFor(m *model) (victims []*model, ok bool) {
	if e.o.Memory == 0 {
		return nil, true
	}
	need := m.Bytes - e.o.Memory
	var can []*model
	others := 0
	for _, o := range e.models {
		if o.at == closed {
			continue
		}
		need += o.Bytes
		others++
		if o.at == open && !o.used && !(o.fresh && e.wanted(o)) {
			can = append(can, o)
		}
	}
	slices.SortStableFunc(can, func(a, b *model) int { return a.last - b.last })
	for _, o := range can {
		if need <= 0 {
			break
		}
		victims = append(victims, o)
		need -= o.Bytes
	}
	return victims, need <= 0 || len(victims) == others // a model that is larger than all the memory is opened alone
}

// wanted reports whether a waiting request asks for a model.
func (e *Engine) wanted(m *model) bool {
	for j := range e.queue.Order() {
		if j.m == m {
			return true
		}
	}
	return false
}

// open closes some models and opens m; all are claimed by the state opening. What fails answers the requests that wait for m. It is the function of a
// goroutine, with whose thread ends what libtorch keeps for a thread: see [Engine.work].
func (e *Engine) open(m *model, victims []*model) {
	runtime.LockOSThread()
	for _, v := range victims {
		_ = v.close() // nothing is lost: its files were only read
		e.mu.Lock()
		v.at = closed
		e.mu.Unlock()
	}
	is, known, err := m.load(e.o.LoRA)
	e.mu.Lock()
	defer e.mu.Unlock()
	if err != nil {
		m.at = closed
		for _, j := range e.waitingFor(m, nil) {
			e.end(j, err)
		}
		e.changed.Broadcast()
		return
	}
	m.known = known
	for jobs := e.waitingFor(m, known); len(jobs) > 0; jobs = e.waitingFor(m, known) {
		e.resolve(jobs, known)
	}
	m.opened, m.at, m.fresh, m.last = is, open, true, e.clock
	for _, j := range e.waitingFor(m, nil) {
		if j.r.loads {
			e.end(j, nil)
		}
	}
	if m.Bytes == 0 {
		m.Bytes = bytesOf(is.is)
	}
	e.changed.Broadcast()
}

// waitingFor returns the waiting requests for a model that were not resolved with a profile.
func (e *Engine) waitingFor(m *model, with *profile) (jobs []*job) {
	for j := range e.queue.Order() {
		if j.m == m && (with == nil || j.by != with) {
			jobs = append(jobs, j)
		}
	}
	return jobs
}

// resolve resolves requests, without holding up others meanwhile, since it looks for adapters in directories.
func (e *Engine) resolve(jobs []*job, with *profile) {
	e.mu.Unlock()
	refused := map[*job]error{}
	for _, j := range jobs {
		refused[j] = guard(func() (err error) {
			j.is, err = with.resolve(j.r, e.o)
			return err
		})
	}
	e.mu.Lock()
	for _, j := range jobs {
		if j.by = with; refused[j] != nil {
			e.end(j, refused[j])
		}
	}
}
