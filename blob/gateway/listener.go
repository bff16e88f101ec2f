package gateway

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// patience is how long a connection may keep silent that was never used, when
// the gateway is to stop.
const patience = 50 * time.Millisecond

// A listener knows its connections. The HTTP server lets each finish its request
// when it is to stop, and would wait for the first one of a connection as well;
// clients open connections in advance, and may never use them.
type listener struct {
	*net.TCPListener
	once sync.Once
	err  error

	mu   sync.Mutex
	open map[*conn]bool // to whether anything came over it
}

// A conn is a connection that tells when it is used for the first time.
type conn struct {
	*net.TCPConn
	from *listener
	used bool // for Read alone
}

func (l *listener) Accept() (net.Conn, error) {
	tcp, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	c := &conn{TCPConn: tcp, from: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[c] = false
	return c, nil
}

// Close ends the listening, as often as it is called.
func (l *listener) Close() error {
	l.once.Do(func() { l.err = l.TCPListener.Close() })
	return l.err
}

// hurry ends the connections that were never used, and are not soon.
func (l *listener) hurry() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c, used := range l.open {
		if !used {
			c.SetReadDeadline(time.Now().Add(patience))
		}
	}
}

// disconnect closes all connections.
func (l *listener) disconnect() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.open {
		c.TCPConn.Close()
	}
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	if c.used {
		return n, err
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, io.EOF // the client shall get no answer to what it did not ask
	}
	if n > 0 {
		c.used = true
		c.from.mu.Lock()
		defer c.from.mu.Unlock()
		if _, open := c.from.open[c]; open {
			c.from.open[c] = true
		}
		c.SetReadDeadline(time.Time{})
	}
	return n, err
}

func (c *conn) Close() error {
	c.from.mu.Lock()
	defer c.from.mu.Unlock()
	delete(c.from.open, c)
	return c.TCPConn.Close()
}
