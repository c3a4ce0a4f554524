package serve

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// quickly makes a server lose patience soon.
func quickly(s *Server) {
	s.reading, s.writing, s.headers = pace{100 * time.Millisecond, 1 << 20}, pace{150 * time.Millisecond, 1 << 26}, 100*time.Millisecond
}

// gone waits until the other side has closed a connection, and returns what came before.
func gone(t *testing.T, c net.Conn) string {
	t.Helper()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
	data, err := io.ReadAll(c)
	if err != nil {
		assert.NotErrorIs(t, err, bufio.ErrBufferFull)
		if late, ok := err.(net.Error); ok && late.Timeout() { //nolint:errorlint // of a connection
			t.Fatal("the server waits")
		}
	}
	return string(data)
}

// Clients that send slowly are given up, while others are served.
func TestSlowWriters(t *testing.T) {
	f := &fake{}
	s := start(t, f, Options{}, quickly)
	var slow []net.Conn
	for i := range 30 {
		switch i % 3 {
		case 0: // nothing at all
			slow = append(slow, s.dial(t, ""))
		case 1: // half a header
			slow = append(slow, s.dial(t, "POST "+generations+" HTTP/1.1\r\nHost: localhost\r\n"))
		default: // half a body
			slow = append(slow, s.dial(t, "POST "+generations+" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{"))
		}
	}
	dripping := s.dial(t, "POST "+generations+" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n{")
	go func() {
		for range 1000 {
			if _, err := dripping.Write([]byte(" ")); err != nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	res, _ := s.do(t, "POST", generations, `{"prompt": "cat"}`)
	assert.Equal(t, 200, res.StatusCode)
	for i, c := range slow {
		if text := gone(t, c); i%3 == 2 {
			assert.Contains(t, text, "408 Request Timeout")
		}
	}
	assert.Contains(t, gone(t, dripping), "408 Request Timeout")
	assert.Len(t, f.seen, 1)
}

// A request may take longer than its body may.
func TestSlowAnswer(t *testing.T) {
	f := &fake{gate: make(chan struct{})}
	s := start(t, f, Options{}, quickly)
	go func() {
		time.Sleep(400 * time.Millisecond)
		f.gate <- struct{}{}
	}()
	res, body := s.do(t, "POST", generations, `{"prompt": "cat"}`)
	assert.Equal(t, 200, res.StatusCode, body)
	res, _ = s.do(t, "GET", "/healthz", "") // on the same connection
	assert.Equal(t, 200, res.StatusCode)
}

// A client that reads nothing is given up. (The engine does not wait for it: see its tests.)
func TestSlowReader(t *testing.T) {
	ended := make(chan error, 1)
	s := start(t, &fake{}, Options{}, quickly, func(s *Server) {
		s.handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			var err error
			for i := 0; i < 64 && err == nil; i++ { // more than the buffers of both sides
				_, err = w.Write(make([]byte, 256<<10))
			}
			ended <- err
		})
	})
	c := s.dial(t, "")
	require.NoError(t, c.(*net.TCPConn).SetReadBuffer(4096))
	_, err := io.WriteString(c, "GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
	require.NoError(t, err)
	require.ErrorIs(t, <-ended, os.ErrDeadlineExceeded)
}

// The same holds for an answer in one piece, however large: the time that all of it may take is not given for nothing.
func TestSlowReaderOfLargeAnswer(t *testing.T) {
	ended := make(chan error, 1)
	s := start(t, &fake{}, Options{}, quickly, func(s *Server) {
		s.writing.rate = 1 << 20 // a minute for all
		s.handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			n, err := w.Write(make([]byte, 64<<20))
			assert.Less(t, n, 64<<20)
			ended <- err
		})
	})
	c := s.dial(t, "")
	require.NoError(t, c.(*net.TCPConn).SetReadBuffer(4096))
	_, err := io.WriteString(c, "GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
	require.NoError(t, err)
	select {
	case err = <-ended:
	case <-time.After(20 * time.Second):
		t.Fatal("the server waits")
	}
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
}

func TestBodies(t *testing.T) {
	f := &fake{}
	s := start(t, f, Options{MaxBody: 1 << 20, MaxBodies: 1 << 20})
	long := `{"prompt": "cat"}` + strings.Repeat(" ", 1<<20)
	res, body := s.do(t, "POST", generations, long)
	assert.Equal(t, 413, res.StatusCode, body)
	// To a client that asks before it sends.
	asks := s.dial(t, "POST "+generations+" HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 999999999999\r\n\r\n")
	assert.Regexp(t, `^HTTP/1\.1 413 `, gone(t, asks))
	// Without a length.
	r, err := http.NewRequest("POST", s.url+generations, io.MultiReader(strings.NewReader(long)))
	require.NoError(t, err)
	res, err = http.DefaultClient.Do(r)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	assert.Equal(t, 413, res.StatusCode)
	// Two large bodies at once are more than the server holds.
	c := s.dial(t, fmt.Sprintf("POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s", generations, 700<<10, bytes.Repeat([]byte(" "), 600<<10)))
	require.Eventually(t, func() bool {
		res, _ := s.do(t, "POST", generations, `{"prompt": "cat"}`+strings.Repeat(" ", 600<<10))
		return res.StatusCode == 503
	}, 5*time.Second, 10*time.Millisecond)
	require.NoError(t, c.Close())
	require.Eventually(t, func() bool { // what it held is free again
		res, _ := s.do(t, "POST", generations, `{"prompt": "cat"}`+strings.Repeat(" ", 600<<10))
		return res.StatusCode == 200
	}, 5*time.Second, 10*time.Millisecond)
	assert.Eventually(t, func() bool { s.bodies.mu.Lock(); defer s.bodies.mu.Unlock(); return s.bodies.left == 1<<20 }, time.Second, time.Millisecond)
	if answer := gone(t, s.dial(t, "GET /"+strings.Repeat("a", 64<<10)+" HTTP/1.1\r\nHost: localhost\r\n\r\n")); answer != "" { // or a reset
		assert.Contains(t, answer, " 431 ")
	}
}

// What is no valid request has an answer that says so, and the server goes on.
func TestMalformed(t *testing.T) {
	f := &fake{}
	s := start(t, f, Options{}, quickly)
	for _, text := range []string{
		"\x16\x03\x01\x02\x00\x01\x00\x01", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "POST " + generations + " HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
		"POST " + generations + " HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
		"POST " + generations + " HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n", "GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", "GET / HTTP/1.0\r\n\r\n",
		"POST " + generations + " HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{",
	} {
		c := s.dial(t, text)
		if answer := gone(t, c); answer != "" {
			assert.Regexp(t, `^HTTP/1\.[01] (4\d\d|505)`, answer, "%q", text)
		}
	}
	for _, body := range []string{"", "{", "null", "[]", `"x"`, `{"n": "x"}`, `{"n": 1e99}`, `{"prompt": {"a": 1}}`, "\xff\xfe", strings.Repeat("[", 100_000), strings.Repeat(`{"prompt":`, 10_000)} {
		res, text := s.do(t, "POST", generations, body, "Content-Type: application/json")
		assert.Equal(t, 4, res.StatusCode/100, "%.30q: %.200s", body, text)
	}
	assert.Empty(t, f.seen)
}

func TestConnections(t *testing.T) {
	s := start(t, &fake{}, Options{MaxConns: 2}, func(s *Server) { s.headers = 200 * time.Millisecond })
	s.dial(t, "")
	s.dial(t, "")
	began := time.Now()
	res, _ := s.do(t, "GET", "/healthz", "") // waits until one of them is given up
	assert.Equal(t, 200, res.StatusCode)
	assert.Greater(t, time.Since(began), 100*time.Millisecond)
}

// What takes no body is answered without one, so that nobody without a key holds memory.
func TestNoBody(t *testing.T) {
	s := start(t, &fake{}, Options{Keys: keys(t, key1), MaxBody: 1000, MaxBodies: 1000})
	long := strings.Repeat(" ", 100<<10)
	for _, c := range []struct {
		method, path string
		status       int
	}{{"POST", "/", 405}, {"GET", "/healthz", 200}, {"POST", "/static/app.js", 405}, {"POST", generations, 401}, {"GET", "/", 200}} {
		res, text := s.do(t, c.method, c.path, long)
		assert.Equal(t, c.status, res.StatusCode, "%s %s: %.100s", c.method, c.path, text)
	}
	res, _ := s.do(t, "GET", "/v1/models", long, "X-Api-Key: "+key1)
	assert.Equal(t, 200, res.StatusCode)
}

// However much of a body came before, its rest has to come at the pace; and no client takes the memory of all.
func TestBodyLimits(t *testing.T) {
	now := time.Now()
	at := func(s float64) time.Time { return now.Add(time.Duration(s * float64(time.Second))) }
	w := window{pace: pace{time.Second, 100}, began: now}
	assert.Equal(t, at(1), w.until(now, 0))
	assert.Equal(t, at(1), w.until(at(0.5), 99))
	assert.Equal(t, at(1.6), w.until(at(0.6), 1_000_000))
	assert.Equal(t, at(1.6), w.until(at(1.5), 1_000_099))
	b := budget{left: 100, one: 10}
	assert.False(t, b.take("a", 51))
	assert.True(t, b.take("a", 50))
	assert.False(t, b.take("a", 1))
	assert.True(t, b.take("b", 25))
	assert.True(t, b.take("c", 10))
	b.give("a", 50)
	b.give("b", 25)
	b.give("c", 10)
	assert.Equal(t, int64(100), b.left)
	assert.Empty(t, b.by)
}

// A server that stops does not wait for bodies that do not come.
func TestDrainOfBodies(t *testing.T) {
	s := start(t, &fake{}, Options{}, func(s *Server) { s.reading = pace{900 * time.Millisecond, 1} })
	c := s.dial(t, "POST "+generations+" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
	require.Eventually(t, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.awaited) == 1 }, 5*time.Second, time.Millisecond)
	s.stop()
	assert.Contains(t, gone(t, c), " 503 ")
}

// Load balancers ask for the health by HTTP/1.0 without a Host.
func TestHealthWithoutHost(t *testing.T) {
	s := start(t, &fake{}, Options{})
	assert.Contains(t, gone(t, s.dial(t, "GET /healthz HTTP/1.0\r\n\r\n")), " 200 ")
	assert.Contains(t, gone(t, s.dial(t, "GET /v1/models HTTP/1.0\r\n\r\n")), " 403 ")
}
