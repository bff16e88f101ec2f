// Package source fetches what the mirror copies from elsewhere: from HTTP and
// HTTPS servers ("origins") that are no buckets of ours.
//
// Whoever may ask the mirror for a copy can make it send requests, from a
// machine that can reach more than they can. So this package decides, in one
// place, where requests go:
//
//   - A URL is parsed once, by [Canonical], into a spelling that has no second
//     reading. What is checked, what is dialled, what is sent and what names
//     the copy are that one value.
//   - [Allow] is a list of rules over scheme, host, port and whole segments of
//     the path. Every URL of a chain of redirects has to be on it, not only the
//     first, and none leads from https back to http.
//   - Addresses are judged when a connection is made, after the name was
//     resolved, so that a name that resolves differently the second time gains
//     nothing. What is not public on the Internet is refused unless it is
//     configured, and services that hand out a machine's credentials always.
//   - Requests carry no credentials, cookies or referrers, go through no proxy
//     of the environment, and take no answer but 200 and 206 for a body.
//
// And it decides what a body is worth:
//
//   - A body is whole or an error. It ends with io.EOF only after as many bytes
//     as were announced, all of them of one version of the object. A part is
//     only fetched of an object with a strong ETag, and compared with it.
//   - Bytes and headers are passed on as the origin stores them; nothing is
//     compressed or decompressed on the way.
//   - Every call ends: no transfer is limited in time while it moves, but
//     silence ends it, and so does a trickle. Only the time counts that was
//     spent waiting for the origin, not that of a reader who is slow.
//
// Nothing is tried twice here. An error says whether trying again is any use
// ([ErrTemporary], [RetryAfter]); when to is for the caller, who has to count
// the tries of all replicas.
//
// Package faulty, below, is an origin that misbehaves, for tests.
package source

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// Config says where the mirror fetches from, and with how much patience.
type Config struct {
	// Allow are the rules of [ParseAllow], such as
	// "https://archive.example.com/pub/". Without any, nothing is fetched.
	Allow []string
	// Addresses are ranges such as "10.20.0.0/16" in which origins may be
	// although they are not public: those on premises, or a test's.
	Addresses []string
	// MaxRedirects is how many redirects are followed; 0 means 5, and less than
	// that none.
	MaxRedirects int
	// MaxSize is the size of the largest object that is fetched; 0 means 5 TiB,
	// which is the largest that S3 keeps.
	MaxSize int64
	// Stall ends a request whose origin has been silent for so long; 0 means a
	// minute.
	Stall time.Duration
	// MinRate, in bytes per second, ends a body that came more slowly over
	// RateWindow; 0 means 1 KiB per second over 30 seconds.
	MinRate    int64
	RateWindow time.Duration
	// RootCAs are trusted instead of the system's, where origins on premises
	// have certificates of their own.
	RootCAs *x509.CertPool
	// Dial replaces how connections are made, and with it the judgement of
	// addresses; Transport replaces all of HTTP. Both are meant for tests.
	Dial      func(ctx context.Context, network, address string) (net.Conn, error)
	Transport http.RoundTripper
}

// A Client fetches. It is safe for concurrent use.
type Client struct {
	allow        *Allow
	transport    http.RoundTripper
	maxRedirects int
	maxSize      int64
	stall        time.Duration
	minRate      int64
	rateWindow   time.Duration
}

// New checks the configuration. It connects to nothing.
func New(c Config) (*Client, error) {
	allow, err := ParseAllow(c.Allow)
	if err != nil {
		return nil, err
	}
	addresses, err := parseAddresses(c.Addresses)
	if err != nil {
		return nil, err
	}
	switch {
	case c.MaxSize < 0:
		return nil, fmt.Errorf("source: the largest size is %d bytes: give a positive number, or 0 for 5 TiB", c.MaxSize)
	case c.Stall < 0 || c.RateWindow < 0 || c.MinRate < 0:
		return nil, fmt.Errorf("source: a stall of %v, a rate of %d bytes per second over %v: none can be negative", c.Stall, c.MinRate, c.RateWindow)
	}
	client := &Client{
		allow:        allow,
		transport:    c.Transport,
		maxRedirects: max(0, otherwise(c.MaxRedirects, 5)),
		maxSize:      otherwise(c.MaxSize, 5<<40),
		stall:        otherwise(c.Stall, time.Minute),
		minRate:      otherwise(c.MinRate, 1<<10),
		rateWindow:   otherwise(c.RateWindow, 30*time.Second),
	}
	if c.Transport == nil {
		client.transport = newTransport(c, addresses)
	}
	return client, nil
}

func otherwise[T comparable](value, otherwise T) T {
	if zero := *new(T); value == zero {
		return otherwise
	}
	return value
}

// Allow is what may be fetched.
func (c *Client) Allow() *Allow { return c.allow }

// Close ends connections that are kept for later requests. The client can
// still be used.
func (c *Client) Close() {
	if t, ok := c.transport.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

const connectLimit = 10 * time.Second

// newTransport makes connections of its own only: http.DefaultTransport would
// ask the environment for a proxy, behind which no address can be judged.
func newTransport(c Config, addresses []netip.Prefix) *http.Transport {
	dial := c.Dial
	if dial == nil {
		dial = dialer(addresses, nil).DialContext
	}
	return &http.Transport{
		DialContext:            dial,
		TLSClientConfig:        &tls.Config{RootCAs: c.RootCAs},
		TLSHandshakeTimeout:    connectLimit,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
		MaxIdleConnsPerHost:    32,
		MaxIdleConns:           256,
		IdleConnTimeout:        time.Minute,
		ReadBufferSize:         64 << 10,
	}
}
