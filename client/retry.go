package client

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"sync/atomic"
	"time"
)

// Retry says how long a call is repeated, and how far apart. The zero Retry
// keeps trying for half a minute.
type Retry struct {
	For     time.Duration // from the first failure on; default 30 s; negative: do not repeat
	Wait    time.Duration // bound of the first wait, which doubles each time; default 100 ms
	MaxWait time.Duration // bound of all waits; default 10 s
}

// Patient is the Retry of a process that should outlive a restart of the
// server, such as a worker with a task in hand.
var Patient = Retry{For: 10 * time.Minute}

func (p Retry) withDefaults() Retry {
	if p.For == 0 {
		p.For = 30 * time.Second
	}
	if p.Wait <= 0 {
		p.Wait = 100 * time.Millisecond
	}
	if p.MaxWait <= 0 {
		p.MaxWait = 10 * time.Second
	}
	return p
}

// A verdict on a failed attempt.
type verdict struct {
	retry bool
	after time.Duration // least wait, as the server wishes
}

// run repeats attempt while its verdict allows and the budget lasts.
func (p Retry) run(ctx context.Context, log *slog.Logger, call string, attempt func() (verdict, error)) error {
	var failedSince time.Time
	bound := p.Wait
	for n := 1; ; n++ {
		v, err := attempt()
		if err == nil || !v.retry || p.For < 0 || ctx.Err() != nil {
			return err
		}
		if failedSince.IsZero() {
			failedSince = time.Now()
		}
		wait := max(rand.N(bound)+1, v.after)
		bound = min(2*bound, p.MaxWait)
		if spent := time.Since(failedSince); spent+wait > p.For {
			return fmt.Errorf("%w (gave up after %d attempts, failing for %v)", err, n, spent.Round(time.Millisecond))
		}
		log.Warn("call failed, will be repeated", "call", call, "attempt", n, "wait", wait.Round(time.Millisecond), "err", err)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%w, while waiting to repeat: %w", context.Cause(ctx), err)
		}
	}
}

// judge decides about a reply that is a refusal. 429, and 503 with a time to
// come back, say that the request was not looked at; other 5xx leave open how
// far it came.
func judge(resp *http.Response, repeatable bool) verdict {
	after, given := retryAfter(resp.Header.Get("Retry-After"), time.Now())
	switch code := resp.StatusCode; {
	case code == http.StatusTooManyRequests, code == http.StatusServiceUnavailable && given:
		return verdict{true, after}
	case code >= 500 && code != http.StatusNotImplemented:
		return verdict{repeatable, after}
	}
	return verdict{}
}

// retryAfter reads the header of that name: seconds, or a date.
func retryAfter(h string, now time.Time) (wait time.Duration, ok bool) {
	if s, err := strconv.ParseUint(h, 10, 31); err == nil {
		return time.Duration(s) * time.Second, true
	}
	if t, err := http.ParseTime(h); err == nil {
		return max(t.Sub(now), 0), true
	}
	return 0, false
}

// A connection notes whether there was one to send a request on. A transport
// that does not report leaves it open, and then the request may have been sent.
type connection struct {
	sought, got atomic.Bool
}

func (c *connection) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		// Asked for again, it is because nothing was sent on the one before.
		GetConn: func(string) { c.sought.Store(true); c.got.Store(false) },
		GotConn: func(httptrace.GotConnInfo) { c.got.Store(true) },
	}
}

func (c *connection) made() bool { return !c.sought.Load() || c.got.Load() }
