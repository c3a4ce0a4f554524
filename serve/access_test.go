package serve

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const key1, key2 = "0123456789abcdef", "fedcba9876543210-second"

func keys(t *testing.T, text string) *Keys {
	t.Helper()
	k, err := ReadKeys(strings.NewReader(text))
	require.NoError(t, err)
	return k
}

func TestReadKeys(t *testing.T) {
	k := keys(t, "# of the team\n\n  "+key1+"\r\n"+key2)
	assert.Equal(t, 2, k.Len())
	assert.Equal(t, []int{1, 2, 0, 0, 0}, []int{k.find(key1), k.find(key2), k.find(""), k.find(key1 + "x"), k.find(key1[1:])})
	k = keys(t, "\ufeff# of an editor that marks UTF-8\n"+key1) // which is no key
	assert.Equal(t, []int{1, 1}, []int{k.Len(), k.find(key1)})
	_, err := ReadKeys(strings.NewReader(key1 + "\n" + strings.Repeat("k", 1<<20)))
	require.ErrorContains(t, err, "line 2: want a key of 16 to 512 characters, got more than")
	for _, text := range []string{"", "# nothing\n", "short\n", key1 + "\n" + key1, key1 + " with spaces", key1 + "\x1b", "ключключключключ", strings.Repeat("k", 513), strings.Repeat("k", 1<<20)} {
		_, err := ReadKeys(strings.NewReader(text))
		require.Error(t, err)
		for _, line := range strings.Fields(text) {
			if len(line) > 10 {
				assert.NotContains(t, err.Error(), line)
			}
		}
	}
}

func TestAPIKeys(t *testing.T) {
	var log logged
	f := &fake{}
	s := start(t, f, Options{Keys: keys(t, key1+"\n"+key2), Log: log.logger()})
	for _, c := range []struct {
		header string
		status int
	}{
		{"Authorization: Bearer " + key1, 200}, {"Authorization: bearer  " + key2, 200}, {"X-Api-Key: " + key2, 200},
		{"X-Api-Key: ", 401}, {"Authorization: Bearer " + key1[1:], 401}, {"Authorization: Bearer", 401}, {"Authorization: Basic !", 401}, {"X-Api-Key: " + key1 + " ", 200},
		{"Cookie: key=" + key1, 401},
	} {
		res, _ := s.do(t, "POST", generations, `{"prompt": "cat"}`, c.header)
		assert.Equal(t, c.status, res.StatusCode, c.header)
	}
	r, err := http.NewRequest("POST", s.url+generations, strings.NewReader(`{"prompt": "cat"}`))
	require.NoError(t, err)
	r.SetBasicAuth("any", key2)
	res, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	assert.Equal(t, 200, res.StatusCode)

	var clients []string
	for _, q := range f.seen {
		clients = append(clients, q.Client)
	}
	assert.Equal(t, []string{"key 1", "key 2", "key 2", "key 1", "key 2"}, clients)
	for path, status := range map[string]int{
		"/healthz": 200, "/readyz": 200, "/": 200, "/metrics": 401, "/openapi.json": 401, "/v1/models": 401, "/sdapi/v1/options": 401, "/api/models": 401,
		"/internal/ping": 401, "/v1/files/0.png": 404,
	} {
		res, body := s.do(t, "GET", path, "")
		assert.Equal(t, status, res.StatusCode, path)
		if status == 401 {
			assert.NotEmpty(t, res.Header.Get("WWW-Authenticate"))
			assert.Contains(t, body, `"error"`)
		}
	}
	assert.NotContains(t, log.String(), key1[:8])
	assert.NotContains(t, log.String(), key2[:8])

	// A refused client learns what is wrong, and how clients of the interface send a key.
	for _, c := range []struct{ path, header, what, how string }{
		{"/v1/models", "X-Api-Key: ", "missing", "Bearer"}, {"/v1/models", "X-Api-Key: " + key1[1:], "wrong", "Bearer"},
		{"/sdapi/v1/options", "X-Api-Key: ", "missing", "basic"}, {"/sdapi/v1/options", "Authorization: Basic dTpw", "wrong", "basic"},
	} {
		_, body := s.do(t, "GET", c.path, "", c.header)
		assert.Contains(t, body, c.what, c.path)
		assert.Contains(t, body, c.how, c.path)
	}
}

func TestHost(t *testing.T) {
	for _, c := range []struct {
		o         Options
		elsewhere bool // listens on other addresses, too
		good, bad []string
	}{
		{Options{Hosts: []string{"Images.example.com"}}, false,
			[]string{"localhost:7860", "LOCALHOST", "127.0.0.1:7860", "[::1]:7860", "localhost.:1", "images.EXAMPLE.com:80"},
			[]string{"example.com", "evil.com:7860", "127.0.0.1.evil.com", "localhost.evil.com", "10.0.0.1", "images.example.com.evil.com", "a b"}},
		{Options{Open: true}, true, []string{"localhost", "10.0.0.1:7860", "[fe80::1]:80"}, []string{"evil.com", "2130706433"}},
		{Options{Keys: keys(t, key1)}, true, []string{"anything.example", "localhost"}, nil},
		{Options{Keys: keys(t, key1), Hosts: []string{"a.example"}}, true, []string{"a.example", "10.0.0.1"}, []string{"b.example"}},
	} {
		s, err := New(&fake{}, c.o)
		require.NoError(t, err)
		s.loopback = !c.elsewhere
		for _, host := range c.good {
			assert.True(t, s.hostAllowed(host), host)
		}
		for _, host := range append(c.bad, "") {
			assert.Equal(t, c.bad == nil, s.hostAllowed(host), host)
		}
	}
	for _, bad := range []string{"", "https://a.example", "a.example:80", "a/b"} {
		_, err := New(&fake{}, Options{Hosts: []string{bad}})
		assert.Error(t, err, bad)
	}
	s := start(t, &fake{}, Options{HostHelp: "use --its-name", OriginHelp: "use --its-origin"})
	res, body := s.do(t, "GET", "/v1/models", "", "Host: rebound.example")
	assert.Equal(t, 403, res.StatusCode)
	assert.Contains(t, body, "rebound.example")
	assert.Contains(t, body, "--its-name")
	_, body = s.do(t, "GET", "/v1/models", "", "Origin: https://evil.example")
	assert.Contains(t, body, "--its-origin")
}

// A page of another site neither reads nor sends, not even what browsers send without asking.
func TestOrigin(t *testing.T) {
	f := &fake{}
	s := start(t, f, Options{Origins: []string{"https://app.example"}})
	for _, c := range []struct {
		method, path string
		status       int
		headers      []string
	}{
		{"POST", generations, 200, nil},
		{"POST", generations, 200, []string{"Origin: " + s.url, "Sec-Fetch-Site: same-origin"}},
		{"POST", generations, 200, []string{"Origin: https://" + s.addr}}, // behind a proxy that ends TLS
		{"POST", generations, 200, []string{"Origin: https://app.example", "Sec-Fetch-Site: cross-site"}},
		{"POST", generations, 403, []string{"Origin: https://evil.example"}},
		{"POST", generations, 403, []string{"Origin: https://evil.example", "Content-Type: text/plain"}},
		{"POST", generations, 403, []string{"Origin: null"}},
		{"POST", generations, 403, []string{"Origin: http://app.example"}},
		{"POST", generations, 403, []string{"Origin: https://app.example.evil.example"}},
		{"POST", generations, 403, []string{"Origin: http://localhost:1"}},
		{"POST", generations, 403, []string{"Sec-Fetch-Site: cross-site", "Content-Type: application/x-www-form-urlencoded"}},
		{"POST", generations, 403, []string{"Sec-Fetch-Site: same-site"}},
		{"POST", "/", 403, []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"}},
		{"GET", "/", 200, []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"}},
		{"GET", "/", 403, []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: iframe"}},
		{"GET", "/sdapi/v1/options", 403, []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"}},
		{"GET", "/v1/models", 403, []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: image"}},
		{"GET", "/v1/files/0.png", 404, []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: image"}},
		{"GET", "/metrics", 403, []string{"Origin: https://evil.example"}},
	} {
		before := len(f.seen)
		res, body := s.do(t, c.method, c.path, `{"prompt": "cat"}`, c.headers...)
		assert.Equal(t, c.status, res.StatusCode, "%s %s %s: %s", c.method, c.path, c.headers, body)
		if c.status == 403 {
			assert.Len(t, f.seen, before)
			assert.Empty(t, res.Header.Get("Access-Control-Allow-Origin"))
		}
	}
	res, _ := s.do(t, "OPTIONS", generations, "", "Origin: https://app.example", "Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization, x-stainless-os",
		"Access-Control-Request-Private-Network: true")
	assert.Equal(t, 204, res.StatusCode)
	assert.Equal(t, []string{"https://app.example", "authorization, x-stainless-os", "true"}, []string{res.Header.Get("Access-Control-Allow-Origin"),
		res.Header.Get("Access-Control-Allow-Headers"), res.Header.Get("Access-Control-Allow-Private-Network")})
	res, _ = s.do(t, "OPTIONS", generations, "", "Origin: https://evil.example", "Access-Control-Request-Method: POST")
	assert.Equal(t, 403, res.StatusCode)
	for _, bad := range []string{"*", "null", "", "example.com", "https://a.example/", "https://a.example/path", "ftp://a.example", "https://u@a.example"} {
		_, err := New(&fake{}, Options{Origins: []string{bad}})
		assert.Error(t, err, bad)
	}
}

// Other machines reach the server only with keys, or if that is allowed.
func TestListen(t *testing.T) {
	for _, c := range []struct {
		o    Options
		addr string
		ok   bool
	}{
		{Options{}, "127.0.0.1:0", true}, {Options{}, "localhost:0", true}, {Options{}, ":0", false}, {Options{}, "0.0.0.0:0", false},
		{Options{Open: true}, ":0", true}, {Options{Keys: keys(t, key1)}, ":0", true},
	} {
		s, err := New(&fake{}, c.o)
		require.NoError(t, err)
		ln, err := s.Listen(c.addr)
		if c.ok {
			require.NoError(t, err, c.addr)
			require.NoError(t, ln.Close())
			continue
		}
		require.ErrorIs(t, err, ErrOpen, c.addr)
	}
}

func TestRequestID(t *testing.T) {
	var log logged
	s := start(t, &fake{}, Options{Log: log.logger()})
	res, _ := s.do(t, "GET", "/v1/models", "", "X-Request-Id: trace-1.2:3_A")
	assert.Equal(t, "trace-1.2:3_A", res.Header.Get("X-Request-Id"))
	assert.Contains(t, log.String(), "id=trace-1.2:3_A")
	seen := map[string]bool{}
	for _, id := range []string{"", "a b", `"quoted"`, strings.Repeat("a", 129), "\x80"} {
		res, _ := s.do(t, "GET", "/v1/models", "", "X-Request-Id: "+id)
		got := res.Header.Get("X-Request-Id")
		assert.NotEqual(t, id, got)
		assert.Greater(t, len(got), 15)
		assert.False(t, seen[got])
		seen[got] = true
	}
	// Bytes that would end a header are refused by the server before that.
	c := s.dial(t, "GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: a\rSet-Cookie: b\r\n\r\n")
	var b [4096]byte
	n, _ := c.Read(b[:])
	assert.False(t, bytes.Contains(b[:n], []byte("\nSet-Cookie")))
	assert.False(t, bytes.Contains(b[:n], []byte("\rSet-Cookie")))
}
