package serve

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/onestep-go/onestep/internal/filetype"
)

// pace is the speed that clients have to keep.
type pace struct {
	patience time.Duration // for nothing at all
	rate     float64       // bytes a second beyond that
}

// until is when n bytes that began at a time have to be through.
func (p pace) until(began time.Time, n int64) time.Time {
	return began.Add(p.patience + time.Duration(float64(n)/p.rate*float64(time.Second)))
}

// budget limits the bytes of all bodies in memory.
type budget struct {
	mu   sync.Mutex
	left int64
}

func (b *budget) take(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > b.left {
		return false
	}
	b.left -= n
	return true
}

func (b *budget) give(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left += n
}

// Errors of a body, by status.
var (
	errBodySlow   = &statusError{http.StatusRequestTimeout, "the request's body came too slowly"}
	errBodyBusy   = &statusError{http.StatusServiceUnavailable, "too many large requests at once: try again later"}
	errBodyBroken = &statusError{http.StatusBadRequest, "the request's body ended early"}
)

// readBody puts a request's whole body into memory, so that no client holds more than its connection while it sends slowly, and so that the server
// notices when a client goes away later. release gives the memory back.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request) (release func(), err error) {
	release = func() {}
	if r.Body == nil || r.Body == http.NoBody {
		return release, nil
	}
	tooLarge := &statusError{http.StatusRequestEntityTooLarge, "the request is too large: want at most " + filetype.Bytes(s.o.MaxBody)}
	conn := http.NewResponseController(w)
	if r.ContentLength > s.o.MaxBody {
		s.skip(conn, r.Body)
		return release, tooLarge
	}
	var held int64
	release = func() { s.bodies.give(held) }
	take := func(n int64) bool {
		if !s.bodies.take(n) {
			return false
		}
		held += n
		return true
	}
	const part = 32 << 10
	began, data, chunk := time.Now(), bytes.Buffer{}, make([]byte, part)
	for {
		_ = conn.SetReadDeadline(s.reading.until(began, int64(data.Len()))) // not supported by writers of tests
		n, err := r.Body.Read(chunk)
		if int64(data.Len()+n) > s.o.MaxBody {
			s.skip(conn, r.Body)
			return release, tooLarge
		}
		if need := int64(data.Len() + n); need > held && !take(max(need-held, min(held, s.o.MaxBody-held), part)) { // doubled, as the buffer is
			s.skip(conn, r.Body)
			return release, errBodyBusy
		}
		data.Write(chunk[:n])
		var late interface{ Timeout() bool }
		switch {
		case errors.Is(err, io.EOF):
			_ = r.Body.Close()
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(data.Bytes())), int64(data.Len())
			r.TransferEncoding = nil
			_ = conn.SetReadDeadline(time.Time{}) // which would end the request
			return release, nil
		case errors.As(err, &late) && late.Timeout():
			return release, errBodySlow
		case err != nil:
			return release, errBodyBroken
		}
	}
}

// skip reads some of a body that is refused: most clients read the answer only after they have sent it.
func (s *Server) skip(conn *http.ResponseController, body io.Reader) {
	_ = conn.SetReadDeadline(time.Now().Add(s.reading.patience / 4))
	_, _ = io.CopyN(io.Discard, body, s.o.MaxBody)
}
