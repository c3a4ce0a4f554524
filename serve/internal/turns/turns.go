// Package turns keeps what clients wait for in lines, of which they take turns.
package turns

import (
	"iter"
	"slices"
)

// Lines holds what waits, which is in it once. The order has the first of each client, then the second of each, and so on, where clients that
// were served move to the end. The zero value is empty.
type Lines[T comparable] struct {
	lines []*line[T] // of clients for which something waits, in turn
	n     int
}

// line has what waits for a client, the first one first.
type line[T comparable] struct {
	client string
	wait   []T
}

// Len is how much waits.
func (q *Lines[T]) Len() int { return q.n }

// Push adds v to the end of a client's line.
func (q *Lines[T]) Push(client string, v T) {
	l := q.line(client)
	l.wait = append(l.wait, v)
	q.n++
}

// Again adds v, which was served in part, before what else waits for the client.
func (q *Lines[T]) Again(client string, v T) {
	l := q.line(client)
	l.wait = slices.Insert(l.wait, 0, v)
	q.n++
}

// line returns the line of a client, a new one at the end.
func (q *Lines[T]) line(client string) *line[T] {
	for _, l := range q.lines {
		if l.client == client {
			return l
		}
	}
	l := &line[T]{client: client}
	q.lines = append(q.lines, l)
	return l
}

// Of returns what waits for a client, the first one first; nil: nothing.
func (q *Lines[T]) Of(client string) []T {
	for _, l := range q.lines {
		if l.client == client {
			return l.wait
		}
	}
	return nil
}

// Clients yields the clients for which something waits, in turn, with their lines.
func (q *Lines[T]) Clients() iter.Seq2[string, []T] {
	return func(yield func(string, []T) bool) {
		for _, l := range q.lines {
			if !yield(l.client, l.wait) {
				return
			}
		}
	}
}

// Order yields what waits in the order in which it is to be served. The lines must not change meanwhile.
func (q *Lines[T]) Order() iter.Seq[T] {
	return func(yield func(T) bool) {
		for turn, left := 0, q.n; left > 0; turn++ {
			for _, l := range q.lines {
				if turn >= len(l.wait) {
					continue
				}
				if !yield(l.wait[turn]) {
					return
				}
				left--
			}
		}
	}
}

// Remove takes v out, which is not served; false: it does not wait.
func (q *Lines[T]) Remove(v T) bool { return q.take(v, false) }

// Serve takes v out, which is served, so that the other clients come before its own; false: it does not wait.
func (q *Lines[T]) Serve(v T) bool { return q.take(v, true) }

func (q *Lines[T]) take(v T, served bool) bool {
	for i, l := range q.lines {
		k := slices.Index(l.wait, v)
		if k < 0 {
			continue
		}
		q.n--
		l.wait = append(l.wait[:k:k], l.wait[k+1:]...)
		if served || len(l.wait) == 0 {
			q.lines = append(q.lines[:i:i], q.lines[i+1:]...)
		}
		if served && len(l.wait) > 0 {
			q.lines = append(q.lines, l)
		}
		return true
	}
	return false
}
