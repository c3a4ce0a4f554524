package serve

import (
	"bytes"
	"context"
	"image"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/serve/engine"
)

// fake is an engine that generates grey images, one after the other for each request.
type fake struct {
	gate  chan struct{} // each image takes one from it; nil: no wait
	began chan struct{} // gets one for each request that is served; nil: none
	broke any           // what serving panics with
	fails error         // of every request

	mu     sync.Mutex
	status engine.Status
	seen   []engine.Request
	closed bool
}

func (f *fake) Models() []engine.Info       { return []engine.Info{{Name: "grey", Prompts: true}} }
func (f *fake) Adapters() ([]string, error) { return nil, nil }

func (f *fake) Status() engine.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	st := f.status
	st.Open, st.Bytes = []string{"grey"}, 1234
	return st
}

func (f *fake) count(running, done int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status.Running += running
	f.status.Done += done
}

func (f *fake) Images(ctx context.Context, r engine.Request) iter.Seq2[engine.Event, error] {
	return func(yield func(engine.Event, error) bool) {
		f.mu.Lock()
		f.seen = append(f.seen, r)
		closed := f.closed
		f.mu.Unlock()
		if closed {
			yield(engine.Event{}, engine.ErrClosed)
			return
		}
		f.count(1, 0)
		defer f.count(-1, 1)
		if f.began != nil {
			f.began <- struct{}{}
		}
		if f.broke != nil {
			panic(f.broke)
		}
		if f.fails != nil {
			yield(engine.Event{}, f.fails)
			return
		}
		const side = 8
		if !yield(engine.Event{Resolved: &engine.Resolved{Model: "grey", Steps: 1, Width: side, Height: side, Notices: []string{"grey only"}}}, nil) {
			return
		}
		for i := range max(r.N, 1) {
			if f.gate != nil {
				select {
				case <-f.gate:
				case <-ctx.Done():
					yield(engine.Event{}, ctx.Err())
					return
				}
			}
			m := image.NewGray(image.Rect(0, 0, side, side))
			for p := range m.Pix {
				m.Pix[p] = byte(4 * p)
			}
			if !yield(engine.Event{Step: i + 1, Steps: max(r.N, 1)}, nil) || !yield(engine.Event{Image: &engine.Image{Image: m, Seed: uint64(i), Label: -1}}, nil) {
				return
			}
		}
	}
}

func (f *fake) Drain(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	return nil
}

// logged is a log that tests read.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// started is a server that listens.
type started struct {
	*Server
	url  string
	addr string
	stop context.CancelFunc // begins to drain
	end  chan error         // gets what Serve returned
}

// start serves on a loopback address until the test ends. set changes the server before.
func start(t *testing.T, e Engine, o Options, set ...func(*Server)) *started {
	t.Helper()
	s, err := New(e, o)
	require.NoError(t, err)
	for _, f := range set {
		f(s)
	}
	ln, err := s.Listen("127.0.0.1:0")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	st := &started{Server: s, addr: ln.Addr().String(), url: "http://" + ln.Addr().String(), stop: stop, end: make(chan error, 1)}
	go func() { st.end <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		stop()
		http.DefaultClient.CloseIdleConnections()
		select {
		case err := <-st.end:
			require.NoError(t, err)
		case <-time.After(20 * time.Second):
			t.Error("the server does not end")
		}
		st.end <- nil
	})
	return st
}

// do sends a request with headers, as name: value, and returns the answer and its body.
func (s *started) do(t *testing.T, method, path, body string, headers ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequest(method, s.url+path, strings.NewReader(body))
	require.NoError(t, err)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if r.Header.Add(name, value); name == "Host" {
			r.Host = value
		}
	}
	res, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res, string(text)
}

const generations = "/v1/images/generations"

// dial opens a connection and sends text.
func (s *started) dial(t *testing.T, text string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", s.addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	_, err = io.WriteString(c, text)
	require.NoError(t, err)
	return c
}
