package faulty

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
)

// A Network is a server that is reached through pipes, under any address. In a
// bubble of testing/synctest it leaves the time alone.
type Network struct {
	server http.Server
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	ended  chan struct{}
}

// Listen serves until Close.
func Listen(h http.Handler) *Network {
	n := &Network{
		server: http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0)},
		conns:  make(chan net.Conn),
		closed: make(chan struct{}),
		ended:  make(chan struct{}),
	}
	go func() {
		defer close(n.ended)
		n.server.Serve(listener{n})
	}()
	return n
}

// Dial connects to the server, whatever the address.
func (n *Network) Dial(ctx context.Context, _, address string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case n.conns <- there:
		return here, nil
	case <-n.closed:
		return nil, &net.OpError{Op: "dial", Net: "pipe", Err: net.ErrClosed}
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Close ends the server and all its connections.
func (n *Network) Close() {
	n.server.Close()
	<-n.ended
}

type listener struct{ n *Network }

func (l listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.n.conns:
		return c, nil
	case <-l.n.closed:
		return nil, net.ErrClosed
	}
}

func (l listener) Close() error {
	l.n.once.Do(func() { close(l.n.closed) })
	return nil
}

func (l listener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }
