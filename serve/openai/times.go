package openai

import (
	"math"
	"sync/atomic"
	"time"
)

// times is the running mean of the time that requests take.
type times struct{ bits atomic.Uint64 }

func (t *times) add(d time.Duration) {
	mean := math.Float64frombits(t.bits.Load())
	if mean == 0 {
		mean = d.Seconds()
	}
	t.bits.Store(math.Float64bits(mean + (d.Seconds()-mean)/8)) // a lost update does not matter
}

// seconds is after how many seconds to try again: when about one request is done.
func (t *times) seconds() int {
	return int(math.Ceil(min(max(math.Float64frombits(t.bits.Load()), 1), 60)))
}
