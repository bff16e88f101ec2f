//go:build !agent

package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// A MirrorLoad is requests to be redirected to copies.
type MirrorLoad struct {
	Address     string   `json:"address"` // host and port of the server
	Paths       []string `json:"paths"`   // asked for in turn
	Requests    int      `json:"requests"`
	Connections int      `json:"connections"`
	Rate        float64  `json:"rate"` // per second, of all connections; 0: all at once
}

// A MirrorLoadResult is what became of them. Latencies are from when a request was
// due, where its connection was still busy then, so that a server that stands
// still is slow for all requests that it keeps from being sent.
type MirrorLoadResult struct {
	Copies  int           `json:"copies"`  // redirects to a copy
	Others  int           `json:"others"`  // redirects to elsewhere
	Failure string        `json:"failure"` // the first of what was no redirect
	Took    time.Duration `json:"tookNs"`
	P50     time.Duration `json:"p50Ns"`
	P99     time.Duration `json:"p99Ns"`
	Max     time.Duration `json:"maxNs"`
	Last    time.Time     `json:"last"` // when the last answer came
}

// Run sends the requests and returns when all have been answered. Connections are
// made before. It does as little as it can for each request, so as not to measure
// itself.
func (l MirrorLoad) Run(ctx context.Context) (r MirrorLoadResult, err error) {
	if l.Requests < 1 || l.Connections < 1 || len(l.Paths) == 0 {
		return r, errors.New("bench: a load has requests, connections and paths")
	}
	var dialer net.Dialer
	lines := make([]*line, l.Connections)
	for i := range lines {
		c, err := dialer.DialContext(ctx, "tcp", l.Address)
		if err != nil {
			return r, fmt.Errorf("bench: connection %d of %d: %w", i+1, l.Connections, err)
		}
		defer c.Close()
		defer context.AfterFunc(ctx, func() { c.Close() })()
		lines[i] = &line{load: &l, conn: c, in: bufio.NewReader(c)}
	}
	start := time.Now()
	var all sync.WaitGroup
	for i, c := range lines {
		all.Go(func() { c.run(start, i) })
	}
	all.Wait()
	if err := ctx.Err(); err != nil {
		return r, err
	}
	var took []time.Duration
	for _, c := range lines {
		took = append(took, c.took...)
		r.Copies += c.copies
		r.Others += c.others
		if c.failure != nil && r.Failure == "" {
			r.Failure = c.failure.Error()
		}
		if c.last.After(r.Last) {
			r.Last = c.last
		}
	}
	if len(took) == 0 {
		return r, nil // as the failure says
	}
	slices.Sort(took)
	r.Took = r.Last.Sub(start)
	r.P50, r.P99, r.Max = percentile(took, 50), percentile(took, 99), took[len(took)-1]
	return r, nil
}

// A line is a connection with one request at a time.
type line struct {
	load *MirrorLoad
	conn net.Conn
	in   *bufio.Reader

	took           []time.Duration
	copies, others int
	last           time.Time
	failure        error
}

// run sends every so many-th request, from the first-th on.
func (c *line) run(start time.Time, first int) {
	l := c.load
	for n := first; n < l.Requests; n += l.Connections {
		begin := time.Now()
		if l.Rate > 0 {
			due := start.Add(time.Duration(float64(n) / l.Rate * float64(time.Second)))
			if wait := due.Sub(begin); wait > 0 {
				time.Sleep(wait)
				begin = time.Now()
			} else if n > first {
				begin = due
			}
		}
		copied, err := c.ask(l.Paths[n%len(l.Paths)])
		if err != nil {
			c.failure = fmt.Errorf("request %d of %d: %w", n+1, l.Requests, err)
			return
		}
		c.last = time.Now()
		c.took = append(c.took, c.last.Sub(begin))
		if copied {
			c.copies++
		} else {
			c.others++
		}
	}
}

// ask tells whether the redirect from a path is to a copy.
func (c *line) ask(path string) (copied bool, err error) {
	if _, err := io.WriteString(c.conn, "GET "+path+" HTTP/1.1\r\nHost: "+c.load.Address+"\r\n\r\n"); err != nil {
		return false, err
	}
	r, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return false, err
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return false, err
	}
	if r.StatusCode != http.StatusFound {
		return false, fmt.Errorf("the answer is %s: %.300s", r.Status, body)
	}
	return bytes.Contains(body, []byte(`"present"`)), nil
}
