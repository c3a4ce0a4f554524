package engine

import "sync"

// mailbox holds the events of a request between the engine and who asked, who may be slow: the engine never waits for him. Events of steps
// replace earlier ones that were not read, so that there are hardly more than images.
type mailbox struct {
	mu     sync.Mutex
	events []Event
	ended  bool
	err    error
	news   chan struct{} // has an element after a change
}

func newMailbox() *mailbox { return &mailbox{news: make(chan struct{}, 1)} }

// put adds an event, unless the request has ended.
func (b *mailbox) put(ev Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return
	}
	if n := len(b.events); n > 0 && replaces(ev, b.events[n-1]) {
		b.events[n-1] = ev
	} else {
		b.events = append(b.events, ev)
	}
	b.notify()
}

// replaces reports whether an event makes the one before it superfluous.
func replaces(ev, before Event) bool {
	if before.Queued > 0 && ev.Queued > 0 {
		return true
	}
	return before.Step > 0 && before.Previews == nil && ev.Step > 0
}

// end ends the request, with nil if it was served.
func (b *mailbox) end(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended, b.err = true, err
	b.notify()
}

func (b *mailbox) notify() {
	select {
	case b.news <- struct{}{}:
	default:
	}
}

// next waits for the next event; more is false at the end, with the request's error.
func (b *mailbox) next() (ev Event, more bool, err error) {
	for {
		b.mu.Lock()
		if len(b.events) > 0 {
			ev = b.events[0]
			b.events[0] = Event{} // its images may go
			b.events = b.events[1:]
			b.mu.Unlock()
			return ev, true, nil
		}
		ended, err := b.ended, b.err
		b.mu.Unlock()
		if ended {
			return Event{}, false, err
		}
		<-b.news
	}
}
