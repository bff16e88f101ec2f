package gateway

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
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
	last atomic.Pointer[request]
}

// A request is what is told of one that holds up a stop.
type request struct {
	method, path string
	start        time.Time
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

// disconnect closes all connections, and says what they were last asked for.
func (l *listener) disconnect() string {
	const most = 5
	l.mu.Lock()
	defer l.mu.Unlock()
	var said []string
	for c := range l.open {
		switch r := c.last.Load(); {
		case len(said) == most:
		case r == nil:
			said = append(said, "what is not a whole request")
		default:
			said = append(said, fmt.Sprintf("%s %s, begun %v ago", r.method, r.path, time.Since(r.start).Round(time.Millisecond)))
		}
		c.TCPConn.Close()
	}
	if more := len(l.open) - len(said); more > 0 {
		said = append(said, fmt.Sprintf("%d more", more))
	}
	return strings.Join(said, "; ")
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
