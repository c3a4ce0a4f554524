package serve

import (
	"errors"
	"net"
	"net/netip"
	"sync"
)

// ErrOpen is the error of an address that other machines reach, without keys and without Options.Open.
var ErrOpen = errors.New("other machines could use the server: set API keys, listen on a loopback address, or allow it explicitly")

// isLoopback reports whether only this machine reaches an address.
func isLoopback(addr net.Addr) bool {
	at, err := netip.ParseAddrPort(addr.String())
	return addr.Network() == "unix" || err == nil && at.Addr().Unmap().IsLoopback()
}

// limited is a listener with a limit of open connections: further ones wait.
type limited struct {
	net.Listener
	room chan struct{}
	done chan struct{}
	once sync.Once
}

func limit(ln net.Listener, most int) *limited {
	return &limited{Listener: ln, room: make(chan struct{}, most), done: make(chan struct{})}
}

// Accept implements net.Listener.
func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.room <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.room
		return nil, err
	}
	return &counted{Conn: c, leave: sync.OnceFunc(func() { <-l.room })}, nil
}

// Close implements net.Listener.
func (l *limited) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Listener.Close()
}

// counted is a connection that makes room when it is closed.
type counted struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *counted) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
