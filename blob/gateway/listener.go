package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"
)

// patience is how long a connection may keep silent between requests, when the
// gateway is to stop.
const patience = 50 * time.Millisecond

// A listener knows its connections. The HTTP server lets each finish its request
// when it is to stop, and would wait for the first one of a connection as well;
// clients open connections in advance, and may never use them. Nor can its notion
// of which ones are idle be relied upon: it keeps that in variables which it lends
// to the next connection, of another server even, before it has let go of them.
type listener struct {
	*net.TCPListener
	once sync.Once
	err  error

	mu   sync.Mutex
	open map[*conn]bool
}

// A conn is a connection that knows whether a request is being served.
type conn struct {
	*net.TCPConn
	from *listener

	mu       sync.Mutex
	last     request
	serving  bool
	stopping bool
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
	l.open[c] = true
	return c, nil
}

// Close ends the listening, as often as it is called.
func (l *listener) Close() error {
	l.once.Do(func() { l.err = l.TCPListener.Close() })
	return l.err
}

// hurry ends the connections on which no request is being served, and none comes
// soon, until ctx ends.
func (l *listener) hurry(ctx context.Context) {
	for tick := time.NewTicker(2 * patience); ; {
		l.mu.Lock()
		for c := range l.open {
			c.hurry()
		}
		l.mu.Unlock()
		select {
		case <-tick.C:
		case <-ctx.Done():
			tick.Stop()
			return
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
		if len(said) < most {
			said = append(said, c.said())
		}
		c.TCPConn.Close()
	}
	if more := len(l.open) - len(said); more > 0 {
		said = append(said, fmt.Sprintf("%d more", more))
	}
	return strings.Join(said, "; ")
}

func (c *conn) said() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last.method == "" {
		return "what is not a whole request"
	}
	return fmt.Sprintf("%s %s, begun %v ago", c.last.method, c.last.path, time.Since(c.last.start).Round(time.Millisecond))
}

func (c *conn) hurry() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.serving {
		c.stopping = true
		c.SetReadDeadline(time.Now().Add(patience))
	}
}

// serve tells that a request has come, whose body may take its time.
func (c *conn) serve(r request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last, c.serving = r, true
	c.SetReadDeadline(time.Time{})
}

// served tells that the request is answered.
func (c *conn) served() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.serving = false
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.stopping && !c.serving {
			return n, io.EOF // the client shall get no answer to what it did not ask
		}
	}
	return n, err
}

func (c *conn) Close() error {
	c.from.mu.Lock()
	defer c.from.mu.Unlock()
	delete(c.from.open, c)
	return c.TCPConn.Close()
}
