package engine

import (
	"context"
	"errors"
	"time"
)

// Status is what an engine does, and what it has done since it was made.
type Status struct {
	Waiting, Running        int           // requests; one of many images that waits between two parts of them is running
	Done, Failed, Cancelled int           // requests that have ended: served; with an error, such as a deadline; by who asked
	Refused                 int           // requests that found the queue full, or that gave way to another client's
	Images                  int           // that were made
	Queued, Generating      time.Duration // of all requests that have ended, together

	Open  []string // names of the open models
	Bytes int64    // of the open models' weights
}

// Observation is what became of a request, for [Options.Observe].
type Observation struct {
	Model      string
	Err        error         // nil: it was served
	Images     int           // that were made
	Batch      int           // images that were generated together, its own and others', at most
	Queued     time.Duration // in which it waited; the opening of its model included
	Generating time.Duration
}

// counts are totals of requests that have ended.
type counts struct {
	done, failed, cancelled, refused, images int
	queued, generating                       time.Duration
}

// add counts a request that has just ended.
func (c *counts) add(j *job) {
	switch {
	case j.err == nil:
		c.done++
	case errors.Is(j.err, ErrFull):
		c.refused++
	case errors.Is(j.err, context.Canceled):
		c.cancelled++
	default:
		c.failed++
	}
	c.images += j.made
	c.queued += j.queued()
	c.generating += j.generating
}

// queued is how long a request that has ended has waited.
func (j *job) queued() time.Duration { return j.ended.Sub(j.came) - j.generating }

func (j *job) observation() Observation {
	return Observation{Model: j.m.Name, Err: j.err, Images: j.made, Batch: j.batched, Queued: j.queued(), Generating: j.generating}
}

// Status returns what the engine does.
func (e *Engine) Status() Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.count
	st := Status{
		Waiting: e.waiting(), Running: e.begun, Done: c.done, Failed: c.failed, Cancelled: c.cancelled, Refused: c.refused, Images: c.images,
		Queued: c.queued, Generating: c.generating,
	}
	for _, m := range e.models {
		if m.at == open {
			st.Open = append(st.Open, m.Name)
			st.Bytes += m.Bytes
		}
	}
	return st
}
