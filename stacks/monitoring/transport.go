package monitoring

import (
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// A transport sends requests at a distance from each other, sends those again that can be, and
// bounds answers. What is posted is sent again only after 429: otherwise it may have been
// carried out, and whoever posts has to look first.
type transport struct {
	base  http.RoundTripper
	every time.Duration // from one request to the next

	mu   sync.Mutex
	next time.Time
}

const (
	attempts      = 4
	firstWait     = time.Second
	longestWait   = 30 * time.Second // beyond that the caller gets the answer
	largestAnswer = 16 << 20
)

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	for attempt := 1; ; attempt++ {
		if err := sleep(r, t.turn()); err != nil {
			return nil, err
		}
		answer, err := t.base.RoundTrip(r)
		if err == nil {
			answer.Body = http.MaxBytesReader(nil, answer.Body, largestAnswer)
		}
		wait, again := asked(r, answer, firstWait<<(attempt-1))
		if !again || attempt == attempts || wait > longestWait || r.Context().Err() != nil || r.Body != nil && r.GetBody == nil {
			return answer, err
		}
		if answer != nil {
			io.Copy(io.Discard, io.LimitReader(answer.Body, 64<<10)) // so that the connection is used again
			answer.Body.Close()
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
func (t *transport) turn() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	at := t.next
	if at.Before(now) {
		at = now
	}
	t.next = at.Add(t.every)
	return at.Sub(now)
}

func sleep(r *http.Request, d time.Duration) error {
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

// asked tells whether a request is to be sent again, and when. There is no answer where the
// network failed. A moment that SignalFx names is one of its clock, which may not be ours.
func asked(r *http.Request, answer *http.Response, otherwise time.Duration) (wait time.Duration, again bool) {
	otherwise += rand.N(otherwise)
	switch {
	case answer == nil:
		return otherwise, r.Method != http.MethodPost
	case answer.StatusCode == http.StatusTooManyRequests, answer.StatusCode >= 500 && r.Method != http.MethodPost:
	default:
		return 0, false
	}
	text := answer.Header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second, true
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return otherwise, true
	}
	now, err := http.ParseTime(answer.Header.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	return max(at.Sub(now), 0), true
}
