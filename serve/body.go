package serve

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
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

// window is when the next bytes of a body have to be there: in each window of time has to come what the pace asks for, however much came before.
type window struct {
	pace
	began time.Time
	bytes int64 // that were there when it began
}

// until is when the window ends, of which the first n bytes have come.
func (w *window) until(now time.Time, n int64) time.Time {
	if float64(n-w.bytes) >= w.rate*w.patience.Seconds() {
		w.began, w.bytes = now, n
	}
	return w.began.Add(w.patience)
}

// budget limits the bytes of all bodies in memory.
type budget struct {
	mu   sync.Mutex
	left int64
	one  int64 // of a body
	by   map[string]int64
}

// take takes bytes for a client, as much as one body, and beyond that no more than it leaves to others.
func (b *budget) take(client string, n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > b.left || b.by[client]+n > max(b.one, b.left-n) {
		return false
	}
	if b.by == nil {
		b.by = map[string]int64{}
	}
	b.left -= n
	b.by[client] += n
	return true
}

func (b *budget) give(client string, n int64) {
	if n == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left += n
	if b.by[client] -= n; b.by[client] == 0 {
		delete(b.by, client)
	}
}

// Errors of a body, by status.
var (
	errBodySlow   = &statusError{http.StatusRequestTimeout, "the request's body came too slowly"}
	errBodyBusy   = &statusError{http.StatusServiceUnavailable, "too many large requests at once: try again later"}
	errBodyStop   = &statusError{http.StatusServiceUnavailable, "the server is stopping"}
	errBodyBroken = &statusError{http.StatusBadRequest, "the request's body ended early"}
)

// readBody puts a request's whole body into memory, so that no client holds more than its connection while it sends slowly, and so that the server
// notices when a client goes away later. The body of a request that takes none is left alone. release gives the memory back.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request, who string) (release func(), err error) {
	release = func() {}
	if r.Body == nil || r.Body == http.NoBody {
		return release, nil
	}
	if !takesBody(r) {
		r.Body, r.ContentLength, r.TransferEncoding = http.NoBody, 0, nil
		return release, nil
	}
	tooLarge := &statusError{http.StatusRequestEntityTooLarge, "the request is too large: want at most " + filetype.Bytes(s.o.MaxBody)}
	conn := http.NewResponseController(w)
	if r.ContentLength > s.o.MaxBody {
		if !strings.EqualFold(r.Header.Get("Expect"), "100-continue") { // a client that asks first has sent nothing, and to read would ask it for the body
			s.skip(conn, r.Body)
		}
		return release, tooLarge
	}
	var held int64
	release = func() { s.bodies.give(who, held) }
	take := func(n int64) bool {
		if !s.bodies.take(who, n) {
			return false
		}
		held += n
		return true
	}
	const part = 32 << 10
	in, data, chunk := window{pace: s.reading, began: time.Now()}, bytes.Buffer{}, make([]byte, part)
	defer s.forget(conn)
	for {
		s.await(conn, in.until(time.Now(), int64(data.Len())))
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
			s.forget(conn)
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(data.Bytes())), int64(data.Len())
			r.TransferEncoding = nil
			_ = conn.SetReadDeadline(time.Time{}) // which would end the request
			return release, nil
		case errors.As(err, &late) && late.Timeout():
			if s.stopping() {
				return release, errBodyStop
			}
			return release, errBodySlow
		case err != nil:
			return release, errBodyBroken
		}
	}
}

// takesBody reports whether a request has a body that is of use.
func takesBody(r *http.Request) bool {
	return r.Method == http.MethodPost && (strings.HasPrefix(r.URL.Path, "/v1/") || strings.HasPrefix(r.URL.Path, "/sdapi/"))
}

// await sets the time until which the next bytes of a body have to come. While the server stops, all of it has to come soon.
func (s *Server) await(conn *http.ResponseController, until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining && s.bodiesBy.Before(until) {
		until = s.bodiesBy
	}
	if s.awaited == nil {
		s.awaited = map[*http.ResponseController]struct{}{}
	}
	s.awaited[conn] = struct{}{}
	_ = conn.SetReadDeadline(until) // not supported by writers of tests
}

// forget is called for a body that is read or refused.
func (s *Server) forget(conn *http.ResponseController) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.awaited, conn)
}

// hurry limits the time in which the bodies that are being read have to come; s.mu is held.
func (s *Server) hurry() {
	s.bodiesBy = time.Now().Add(s.reading.patience / 3)
	for conn := range s.awaited {
		_ = conn.SetReadDeadline(s.bodiesBy)
	}
}

func (s *Server) stopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining
}

// skip reads some of a body that is refused: most clients read the answer only after they have sent it.
func (s *Server) skip(conn *http.ResponseController, body io.Reader) {
	_ = conn.SetReadDeadline(time.Now().Add(s.reading.patience / 4))
	_, _ = io.CopyN(io.Discard, body, s.o.MaxBody)
}
