package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/serve/internal/client"
)

// Server is an http.Handler of all interfaces, with the checks and limits before them.
type Server struct {
	o        Options
	engine   *observed
	handler  http.Handler // of the interfaces
	api      *document
	metrics  *metrics
	hosts    []string // Options.Hosts in lower case
	origins  []string
	bodies   budget
	loopback bool // whether only this machine reaches the address that it listens on

	reading, writing pace
	headers, idle    time.Duration

	mu       sync.Mutex
	draining bool
	running  int                                   // requests
	awaited  map[*http.ResponseController]struct{} // of bodies that are being read
	bodiesBy time.Time                             // when they have to be there, while the server stops
	ended    chan struct{}                         // closed when draining and none is running
}

// New returns a server. It listens on no address until [Server.Listen] and [Server.Serve].
func New(e Engine, o Options) (*Server, error) {
	o = o.withDefaults()
	s := &Server{
		o: o, bodies: budget{left: o.MaxBodies, one: o.MaxBody}, loopback: true, ended: make(chan struct{}),
		reading: pace{30 * time.Second, 16 << 10}, writing: pace{30 * time.Second, 16 << 10}, headers: 10 * time.Second, idle: 2 * time.Minute,
	}
	for _, host := range o.Hosts {
		if !ValidHost(host) {
			return nil, &OptionError{"Hosts", "want a name without scheme and port, such as images.example.com, got " + quote.Quoted(host)}
		}
		s.hosts = append(s.hosts, strings.ToLower(host))
	}
	var err error
	if s.origins, err = parseOrigins(o.Origins); err != nil {
		return nil, err
	}
	if s.api, err = newDocument(o.Version); err != nil {
		return nil, err
	}
	s.metrics = newMetrics(e, o)
	s.engine = &observed{e, s.metrics}
	s.handler = s.routes()
	return s, nil
}

// ValidHost reports whether a name can be one of Options.Hosts.
func ValidHost(name string) bool {
	return name != "" && !strings.ContainsAny(name, "/@ ") && hostname(name) == strings.ToLower(name)
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.observe(w, r, func(w http.ResponseWriter, r *http.Request) {
		if err := s.serve(w, r); err != nil {
			fail(w, r, err)
		}
	})
}

// serve checks a request and passes it on.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) *statusError {
	if r.Body != nil && r.Body != http.NoBody { // also for what is refused, whose body net/http reads
		_ = http.NewResponseController(w).SetReadDeadline(s.reading.until(time.Now(), 0))
	}
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Add("Vary", "Origin")
	who, known := s.who(r)
	recordOf(r.Context()).client = who
	if noHost := r.Host == "" && isHealth(r.URL.Path); !noHost && !s.hostAllowed(r.Host) { // HTTP/1.0, of load balancers and not of browsers
		return &statusError{http.StatusForbidden, "the Host header " + quote.Quoted(r.Host) + " is not a name of this server" + also(s.o.HostHelp)}
	}
	other, ok := s.originAllowed(r)
	if isFile(r) {
		h.Set("Cross-Origin-Resource-Policy", "cross-origin") // programs show it in pages of their own
	} else if !ok {
		return &statusError{http.StatusForbidden, "requests of web pages of other sites are refused" + also(s.o.OriginHelp)}
	}
	if ok && other != "" && cors(w, r, other) {
		return nil
	}
	probe := isProbe(r.URL.Path)
	if !probe {
		if !s.enter() {
			h.Set("Connection", "close")
			return &statusError{http.StatusServiceUnavailable, "the server is stopping"}
		}
		defer s.leave()
	}
	if !known && !isPublic(r.URL.Path) && !isFile(r) {
		return &statusError{http.StatusUnauthorized, unauthorized(r)}
	}
	release, err := s.readBody(w, r, who)
	defer release()
	if err != nil {
		var e *statusError
		errors.As(err, &e)
		return e
	}
	s.handler.ServeHTTP(w, r.WithContext(client.With(r.Context(), who)))
	return nil
}

// isHealth reports whether a path says how the server is, and nothing else.
func isHealth(path string) bool { return path == "/healthz" || path == "/readyz" }

// also adds what can be done to a message; "": nothing.
func also(help string) string {
	if help == "" {
		return ""
	}
	return ": " + quote.Long(help, 1000)
}

// unauthorized says what is wrong with a request's key, and how clients of the path send one.
func unauthorized(r *http.Request) string {
	what, how := "missing API key", "send it as a bearer token, Authorization: Bearer KEY"
	if keyOf(r) != "" {
		what = "wrong API key"
	}
	if strings.HasPrefix(r.URL.Path, "/sdapi/") || strings.HasPrefix(r.URL.Path, "/internal/") {
		how = "send it as the password of basic authentication, user:key with any user as A1111's clients send it, or as a bearer token"
	}
	return what + ": " + how
}

// isProbe reports whether a path is answered while the server stops.
func isProbe(path string) bool { return isHealth(path) || path == "/metrics" }

// isPublic reports whether a path needs no key: probes, and the page's files, which ask for the key.
func isPublic(path string) bool {
	return isHealth(path) || path == "/" || path == "/favicon.ico" || strings.HasPrefix(path, "/static/")
}

// isFile reports whether a request is one for an image by its URL, whose name is a secret that the client got with a key.
func isFile(r *http.Request) bool {
	return strings.HasPrefix(r.URL.Path, "/v1/files/") && (r.Method == http.MethodGet || r.Method == http.MethodHead)
}

// who returns the client's identity, which clients take turns by, and whether it may use the server.
func (s *Server) who(r *http.Request) (string, bool) {
	if s.o.Keys != nil {
		if n := s.o.Keys.find(keyOf(r)); n > 0 {
			return fmt.Sprintf("key %d", n), true
		}
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	return host, s.o.Keys == nil
}

func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return false
	}
	s.running++
	return true
}

func (s *Server) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running--; s.draining && s.running == 0 {
		close(s.ended)
	}
}

// ready says why the server is not ready.
func (s *Server) ready() error {
	s.mu.Lock()
	draining := s.draining
	s.mu.Unlock()
	switch {
	case draining:
		return errors.New("the server is stopping")
	case s.o.Ready != nil:
		return s.o.Ready()
	}
	return nil
}

// Listen listens on a TCP address, a host and a port; with port 0 the system chooses one. An address that other machines reach is an error, [ErrOpen],
// without keys and without Options.Open. Without keys, requests on a loopback address have to name it or localhost in the Host header, and on
// another one any address; or a name in Options.Hosts. With keys, Host may be anything unless Options.Hosts is set.
func (s *Server) Listen(addr string) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	if !isLoopback(ln.Addr()) && s.o.Keys == nil && !s.o.Open {
		return nil, errors.Join(ErrOpen, ln.Close())
	}
	return ln, nil
}

// Serve answers requests on ln until ctx is done and then drains: [Server.Drain]. The listener is closed when it returns.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	s.loopback = isLoopback(ln.Addr())
	if !s.loopback && s.o.Keys == nil && !s.o.Open {
		return errors.Join(ErrOpen, ln.Close())
	}
	server := &http.Server{
		Handler: s, ReadHeaderTimeout: s.headers, IdleTimeout: s.idle, MaxHeaderBytes: 32 << 10,
		ErrorLog: slog.NewLogLogger(s.o.Log.Handler(), slog.LevelDebug),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(limit(ln, s.o.MaxConns)) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	if err := s.Drain(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.writing.patience)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		_ = server.Close() // of clients that do not read
	}
	return nil
}

// Drain ends the server in order: it is no longer ready, refuses new requests with the status 503, and waits for those before, queued ones among
// them, until ctx is done.
func (s *Server) Drain(ctx context.Context) error {
	s.mu.Lock()
	first := !s.draining
	s.draining = true
	if first {
		s.hurry()
	}
	if first && s.running == 0 {
		close(s.ended)
	}
	s.mu.Unlock()
	select {
	case <-s.ended:
		return s.engine.Drain(ctx)
	case <-ctx.Done():
		return fmt.Errorf("wait for the requests that are served: %w", ctx.Err())
	}
}
