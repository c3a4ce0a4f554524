package openai

import (
	"io"
	"math"
	"net/http"
	"sync/atomic"
	"time"
)

// budget bounds the bytes of all bodies that are held at once, of which each may be large.
type budget struct {
	most int64
	used atomic.Int64
}

// body is a reader of a body within its own limit and the budget. Close gives back what it took.
type body struct {
	io.ReadCloser
	budget *budget
	took   int64
}

func (b *budget) body(w http.ResponseWriter, r *http.Request, most int64) *body {
	return &body{ReadCloser: http.MaxBytesReader(w, r.Body, most), budget: b}
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.took += int64(n)
	if b.budget.used.Add(int64(n)) > b.budget.most {
		return n, &Error{Status: http.StatusTooManyRequests, Code: "rate_limit_exceeded", Msg: "too many large requests are being read: try again later", after: 2}
	}
	return n, err
}

func (b *body) Close() error {
	b.budget.used.Add(-b.took)
	b.took = 0
	return b.ReadCloser.Close()
}

// times is the running mean of the time that requests take.
type times struct{ bits atomic.Uint64 }

func (t *times) add(d time.Duration) {
	mean := math.Float64frombits(t.bits.Load())
	if mean == 0 {
		mean = d.Seconds()
	}
	t.bits.Store(math.Float64bits(mean + (d.Seconds()-mean)/8)) // a lost update does not matter
}

// seconds is after how many seconds to try again: as long as a request takes, since every client has at most a few in the queue.
func (t *times) seconds() int {
	return int(math.Ceil(min(max(math.Float64frombits(t.bits.Load()), 1), 60)))
}
