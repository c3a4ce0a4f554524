package upload

import (
	"context"
	"errors"
	"sync"
)

// ErrBusy is the error of images that come while those of too many others are worked on.
var ErrBusy = errors.New("too many images at once")

// turns lets a limited number of pieces of work run at once. Clients take turns, as in the engine's queue.
type turns struct {
	mu    sync.Mutex
	free  int
	lines []*line // of clients that wait, in turn
}

// line has what waits for a client; a channel is closed when its turn has come.
type line struct {
	client string
	wait   []chan struct{}
}

// enter waits for a turn, which ends with leave. It is [ErrBusy] if most pieces of work of the client wait already (0: any number may), and that of ctx if
// it is done before.
func (t *turns) enter(ctx context.Context, client string, most int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	t.mu.Lock()
	if t.free > 0 {
		t.free--
		t.mu.Unlock()
		return nil
	}
	l := t.line(client)
	if most > 0 && len(l.wait) >= most {
		t.mu.Unlock()
		return ErrBusy
	}
	mine := make(chan struct{})
	l.wait = append(l.wait, mine)
	t.mu.Unlock()
	select {
	case <-mine:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, other := range l.wait {
		if other == mine {
			l.wait = append(l.wait[:i:i], l.wait[i+1:]...)
			t.drop(l)
			return ctx.Err()
		}
	}
	t.next() // its turn came meanwhile
	return ctx.Err()
}

// leave ends a turn.
func (t *turns) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next()
}

// next gives a turn that has ended to the first client in line, which moves to the end.
func (t *turns) next() {
	if len(t.lines) == 0 {
		t.free++
		return
	}
	l := t.lines[0]
	close(l.wait[0])
	l.wait = l.wait[1:]
	t.lines = append(t.lines[1:], l)
	t.drop(l)
}

// line returns the line of a client, a new one at the end.
func (t *turns) line(client string) *line {
	for _, l := range t.lines {
		if l.client == client {
			return l
		}
	}
	l := &line{client: client}
	t.lines = append(t.lines, l)
	return l
}

// drop removes a line in which nothing waits.
func (t *turns) drop(l *line) {
	if len(l.wait) > 0 {
		return
	}
	for i, other := range t.lines {
		if other == l {
			t.lines = append(t.lines[:i:i], t.lines[i+1:]...)
			return
		}
	}
}
