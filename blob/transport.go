package blob

import (
	"context"
	"net"
	"net/http"
	"time"
)

const (
	connectLimit = 10 * time.Second
	// silenceLimit ends a connection over which nothing moves. It also bounds
	// the time to the first byte of an answer, so requests that keep the far
	// side busy for longer go over connections of their own.
	silenceLimit = 2 * time.Minute
)

// newTransport never waits for ever, and never limits how long a transfer that
// moves may take.
func newTransport(silence time.Duration) *http.Transport {
	dialer := &net.Dialer{Timeout: connectLimit, KeepAlive: 30 * time.Second}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return impatientConn{c, silence}, nil
		},
		ForceAttemptHTTP2:   true,
		TLSHandshakeTimeout: connectLimit,
		// The default of two connections per host would close and reopen most
		// of them under load.
		MaxIdleConnsPerHost: 64,
		IdleConnTimeout:     90 * time.Second,
	}
}

// An impatientConn fails a read or write that takes longer than limit.
type impatientConn struct {
	net.Conn
	limit time.Duration
}

func (c impatientConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.limit)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c impatientConn) Write(p []byte) (int, error) {
	// For reading too: a read that waits since before this request must not
	// end during it.
	if err := c.SetDeadline(time.Now().Add(c.limit)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}
