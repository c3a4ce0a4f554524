package serve

import (
	"iter"
	"runtime/debug"
	"sync"

	"github.com/onestep-go/onestep/serve/engine"
)

// rethrown is a panic of another goroutine, with its stack.
type rethrown struct {
	value any
	stack []byte
}

// ahead runs events in a goroutine of their own, as fast as they come, and yields them as fast as they are wanted. The events of a request are few.
// note sees each event when it comes, and end is called after the last one. A panic of events is one of the loop.
func ahead(events iter.Seq2[engine.Event, error], note func(engine.Event, error), end func()) iter.Seq2[engine.Event, error] {
	return func(yield func(engine.Event, error) bool) {
		type item struct {
			ev  engine.Event
			err error
		}
		var (
			mu     sync.Mutex
			queue  []item
			over   bool
			left   bool
			broken *rethrown
		)
		wake := make(chan struct{}, 1)
		ring := func() {
			select {
			case wake <- struct{}{}:
			default:
			}
		}
		go func() {
			defer func() {
				p := recover()
				mu.Lock()
				if over = true; p != nil {
					broken = &rethrown{p, debug.Stack()}
				}
				mu.Unlock()
				ring()
			}()
			defer end()
			for ev, err := range events {
				note(ev, err)
				mu.Lock()
				queue = append(queue, item{ev, err})
				gone := left
				mu.Unlock()
				ring()
				if gone {
					return
				}
			}
		}()
		defer func() {
			mu.Lock()
			left = true
			mu.Unlock()
		}()
		for {
			mu.Lock()
			ready, last, p := queue, over, broken
			queue = nil
			mu.Unlock()
			for _, it := range ready {
				if !yield(it.ev, it.err) {
					return
				}
			}
			switch {
			case p != nil:
				panic(p)
			case last:
				return
			}
			<-wake
		}
	}
}
