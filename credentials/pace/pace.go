// Package pace asks providers as often as they want to be asked, and no more.
package pace

import (
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// A Transport waits where a provider says that it should: between requests, and before
// one is sent again that was turned away because of too many.
type Transport struct {
	Base  http.RoundTripper // http.DefaultTransport where it is nil
	Every time.Duration     // from one request to the next; zero for as fast as they come

	// Faults has requests be sent again, too, that the network or the provider has failed (5xx), unless they were posted: those
	// may have been carried out, and whoever posts has to look first.
	Faults bool

	mu   sync.Mutex
	next time.Time
}

const (
	attempts = 4
	longest  = 30 * time.Second // is waited for here; beyond that the caller gets the answer
	largest  = 16 << 20         // of an answer, which clients keep in memory
)

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	base := t.Base
	if base == nil {
		base = http.DefaultTransport
	}
	for attempt := 1; ; attempt++ {
		if err := sleep(r, t.turn()); err != nil {
			return nil, err
		}
		out, err := base.RoundTrip(r)
		if err == nil {
			out.Body = http.MaxBytesReader(nil, out.Body, largest)
		}
		if attempt == attempts || err != nil && (!t.Faults || r.Context().Err() != nil) {
			return out, err
		}
		wait, again := t.asked(r.Method, out, time.Second<<(attempt-1))
		if !again || wait > longest || r.Body != nil && r.GetBody == nil {
			return out, err
		}
		if end, ok := r.Context().Deadline(); ok && time.Until(end) <= wait {
			return out, err
		}
		if out != nil {
			io.Copy(io.Discard, io.LimitReader(out.Body, 64<<10)) // so that the connection is used again
			out.Body.Close()
		}
		if err := sleep(r, wait); err != nil {
			return nil, err
		}
		if r.Body != nil {
			body, err := r.GetBody()
			if err != nil {
				return nil, err
			}
			r = r.Clone(r.Context())
			r.Body = body
		}
	}
}

// turn is how long it is until another request may be sent, which is then taken.
func (t *Transport) turn() time.Duration {
	if t.Every == 0 {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	at := t.next
	if at.Before(now) {
		at = now
	}
	t.next = at.Add(t.Every)
	return at.Sub(now)
}

func sleep(r *http.Request, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-r.Context().Done():
		if r.Body != nil {
			r.Body.Close()
		}
		return r.Context().Err()
	}
}

// asked tells whether an answer, nil if there is none, says that the request is to be sent again later, and
// when. A moment is one of the provider's clock, which may not be ours: what counts is how
// far it is from the answer's own date.
func (t *Transport) asked(method string, out *http.Response, otherwise time.Duration) (wait time.Duration, again bool) {
	posted := method == http.MethodPost // and may have been carried out
	switch {
	case out == nil:
		return otherwise, !posted
	case out.StatusCode == http.StatusTooManyRequests:
	case posted, out.StatusCode != http.StatusServiceUnavailable && !(t.Faults && out.StatusCode >= 500):
		return 0, false
	}
	text := out.Header.Get("Retry-After")
	if text == "" {
		return otherwise, true
	}
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second, true
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return otherwise, true
	}
	now, err := http.ParseTime(out.Header.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	return max(at.Sub(now), 0), true
}
