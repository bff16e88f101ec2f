package gateway

import (
	"net"
	"sync"
	"sync/atomic"
)

// A listener knows its connections. The HTTP server lets each finish its request
// when it is to stop, and waits for the first one of a connection as well;
// clients open connections in advance, and may never use them.
type listener struct {
	*net.TCPListener
	once sync.Once
	err  error

	mu   sync.Mutex
	open map[*conn]bool
}

// A conn is a connection that knows whether anything came over it.
type conn struct {
	*net.TCPConn
	used atomic.Bool
	from *listener
}

func (l *listener) Accept() (net.Conn, error) {
	tcp, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	c := &conn{TCPConn: tcp, from: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[c] = true
	return c, nil
}

// Close ends the listening, as often as it is called.
func (l *listener) Close() error {
	l.once.Do(func() { l.err = l.TCPListener.Close() })
	return l.err
}

// disconnect closes the connections, or only those that were never used.
func (l *listener) disconnect(used bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.open {
		if used || !c.used.Load() {
			c.TCPConn.Close()
		}
	}
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	if n > 0 {
		c.used.Store(true)
	}
	return n, err
}

func (c *conn) Close() error {
	c.from.mu.Lock()
	defer c.from.mu.Unlock()
	delete(c.from.open, c)
	return c.TCPConn.Close()
}
