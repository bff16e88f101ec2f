package replicas

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// A balancer passes connections on to replicas, in turn. One that does not take a connection is left out for a moment;
// nothing was sent to it yet, so nothing is repeated. What breaks later breaks for the client.
type balancer struct {
	listener net.Listener
	running  sync.WaitGroup

	mu       sync.Mutex
	backends []*backend
	next     int
	open     map[net.Conn]bool
	closed   bool
}

type backend struct {
	address string
	down    time.Time // until when it is left out
}

const leftOut = 300 * time.Millisecond

func newBalancer(t *testing.T) *balancer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &balancer{listener: l, open: map[net.Conn]bool{}}
	b.running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			b.running.Go(func() { b.serve(conn) })
		}
	})
	t.Cleanup(b.close)
	return b
}

func (b *balancer) url() string { return "http://" + b.listener.Addr().String() }

func (b *balancer) add(address string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.backends = append(b.backends, &backend{address: address})
}

func (b *balancer) close() {
	b.listener.Close()
	b.mu.Lock()
	b.closed = true
	for conn := range b.open {
		conn.Close()
	}
	b.mu.Unlock()
	b.running.Wait()
}

// serve carries one connection to its end.
func (b *balancer) serve(from net.Conn) {
	defer from.Close()
	to := b.dial()
	if to == nil {
		return // which the client sees as a broken connection
	}
	defer to.Close()
	if !b.note(from, to) {
		return
	}
	defer b.forget(from, to)
	var both sync.WaitGroup
	pass := func(to, from net.Conn) {
		io.Copy(to, from)
		// As soon as one side has ended, so does the other, whatever is under way.
		to.Close()
		from.Close()
	}
	both.Go(func() { pass(to, from) })
	both.Go(func() { pass(from, to) })
	both.Wait()
}

// dial connects to the next replica that takes a connection.
func (b *balancer) dial() net.Conn {
	for range 2 * len(b.candidates()) {
		x := b.choose()
		if conn, err := net.DialTimeout("tcp", x.address, time.Second); err == nil {
			return conn
		}
		b.mu.Lock()
		x.down = time.Now().Add(leftOut)
		b.mu.Unlock()
	}
	return nil
}

func (b *balancer) candidates() []*backend {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.backends
}

func (b *balancer) choose() *backend {
	b.mu.Lock()
	defer b.mu.Unlock()
	for range b.backends {
		x := b.backends[b.next%len(b.backends)]
		b.next++
		if time.Now().After(x.down) {
			return x
		}
	}
	x := b.backends[b.next%len(b.backends)] // all are down, as far as we know
	b.next++
	return x
}

func (b *balancer) note(conns ...net.Conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range conns {
		b.open[c] = true
	}
	return !b.closed
}

func (b *balancer) forget(conns ...net.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range conns {
		delete(b.open, c)
	}
}
