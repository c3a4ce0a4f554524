package engine

import (
	"context"
	"time"
)

// job is a request that was accepted. It ends once: served, with an error, or because who asked is gone.
type job struct {
	r      Request
	m      *model
	ctx    context.Context // done when who asked is gone, and at the deadline
	cancel context.CancelFunc
	unwait func() bool // ends the wait for ctx
	mail   *mailbox

	// Of the goroutine that generates.
	introduced bool // who asked knows how the request is served
	shown      int  // events with previews

	// Guarded by Engine.mu.
	state  state
	is     resolved
	by     *profile // that is was resolved with; nil: the model was never open
	batch  *batch   // while it runs
	begun  bool     // it has run
	alone  bool     // a batch with others failed
	place  int      // that was reported last
	passed int      // batches of open models that were served although it came before them
	err    error
	made   int // images

	came, ran, ended time.Time     // ran: since when, while it runs
	generating       time.Duration // in all
	batched          int           // images of its largest batch
}

// left is the number of images that are not made yet.
func (j *job) left() int { return j.is.N - j.made }

// rest ends a run.
func (j *job) rest() {
	j.generating += time.Since(j.ran)
	j.batch = nil
}

type state int

const (
	waiting state = iota
	running
	ended
)

// fitted returns an event with images in the size that the request asks for. It is called by who reads the events, beside the engine's work.
func fitted(ev Event, as *Resolved) Event {
	if as == nil {
		return ev
	}
	for i, img := range ev.Previews {
		ev.Previews[i] = resized(img, as)
	}
	if ev.Image != nil {
		ev.Image.Image = resized(ev.Image.Image, as)
	}
	return ev
}
