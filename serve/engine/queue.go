package engine

import (
	"iter"
	"slices"
)

// queue holds the requests that wait. Clients take turns: the order has the first request of each client, then the second of each, and so
// on, where clients that were served move to the end.
type queue struct {
	lines []*line // of clients with requests, in turn
	n     int
}

// line has the requests of a client, the first one first.
type line struct {
	client string
	jobs   []*job
}

// push adds a request to the end of its client's line.
func (q *queue) push(j *job) {
	l := q.line(j.r.Client)
	l.jobs = append(l.jobs, j)
	q.n++
}

// again adds a request that was served in part before the others of its client.
func (q *queue) again(j *job) {
	l := q.line(j.r.Client)
	l.jobs = slices.Insert(l.jobs, 0, j)
	q.n++
}

// line returns the line of a client, a new one at the end.
func (q *queue) line(client string) *line {
	for _, l := range q.lines {
		if l.client == client {
			return l
		}
	}
	l := &line{client: client}
	q.lines = append(q.lines, l)
	return l
}

// order yields the requests in the order in which they are to be served. The queue must not change meanwhile.
func (q *queue) order() iter.Seq[*job] {
	return func(yield func(*job) bool) {
		for turn, left := 0, q.n; left > 0; turn++ {
			for _, l := range q.lines {
				if turn >= len(l.jobs) {
					continue
				}
				if !yield(l.jobs[turn]) {
					return
				}
				left--
			}
		}
	}
}

// longest returns the last request of the client with the most that wait, if these are at least two more than those of the given client; nil: there is
// none. Requests that have run in part are left alone.
func (q *queue) longest(than string) (last *job) {
	own, most := 0, 0
	for _, l := range q.lines {
		n, end := 0, (*job)(nil)
		for _, j := range l.jobs {
			if !j.begun && !j.r.loads {
				n, end = n+1, j
			}
		}
		if l.client == than {
			own = n
		} else if n > most {
			most, last = n, end
		}
	}
	if most < own+2 {
		return nil
	}
	return last
}

// remove takes a request out that is not served; false: it is not in the queue.
func (q *queue) remove(j *job) bool { return q.take(j, false) }

// serve takes a request out that is served, so that the other clients come before its own.
func (q *queue) serve(j *job) bool { return q.take(j, true) }

func (q *queue) take(j *job, served bool) bool {
	for i, l := range q.lines {
		for k, other := range l.jobs {
			if other != j {
				continue
			}
			q.n--
			l.jobs = append(l.jobs[:k:k], l.jobs[k+1:]...)
			if served || len(l.jobs) == 0 {
				q.lines = append(q.lines[:i:i], q.lines[i+1:]...)
			}
			if served && len(l.jobs) > 0 {
				q.lines = append(q.lines, l)
			}
			return true
		}
	}
	return false
}
