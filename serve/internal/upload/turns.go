package upload

import (
	"context"
	"errors"
	"sync"

	inturn "github.com/onestep-go/onestep/serve/internal/turns"
)

// ErrBusy is the error of images that come while those of too many others are worked on.
var ErrBusy = errors.New("too many images at once")

// turns lets a limited number of pieces of work run at once. Clients take turns, as in the engine's queue.
type turns struct {
	mu    sync.Mutex
	free  int
	lines inturn.Lines[chan struct{}] // of pieces of work that wait; a channel is closed when its turn has come
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
	if most > 0 && len(t.lines.Of(client)) >= most {
		t.mu.Unlock()
		return ErrBusy
	}
	mine := make(chan struct{})
	t.lines.Push(client, mine)
	t.mu.Unlock()
	select {
	case <-mine:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.lines.Remove(mine) { // its turn came meanwhile
		t.next()
	}
	return ctx.Err()
}

// leave ends a turn.
func (t *turns) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next()
}

// next gives a turn that has ended to what is to be served first.
func (t *turns) next() {
	for first := range t.lines.Order() {
		t.lines.Serve(first)
		close(first)
		return
	}
	t.free++
}
