// Package transfer is what downloads and uploads of content have in common: one
// that stands still is given up, one that failed is repeated at growing
// distances, and errors do not tell URLs whose queries are signatures.
package transfer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"time"
)

// Watch returns a context that ends when there was no progress for too long.
func Watch(ctx context.Context, stall time.Duration) (watched context.Context, progress func(), stop func()) {
	watched, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(stall, func() { cancel(fmt.Errorf("nothing moved for %v", stall)) })
	return watched, func() { timer.Reset(stall) }, func() { timer.Stop(); cancel(nil) }
}

// A Pause is the time between attempts: random, below a bound that doubles.
type Pause struct{ bound time.Duration }

const (
	firstBound = 250 * time.Millisecond
	lastBound  = 20 * time.Second
)

// Wait waits before another attempt, unless ctx ends first.
func (p *Pause) Wait(ctx context.Context) error {
	p.bound = min(max(2*p.bound, firstBound), lastBound)
	timer := time.NewTimer(rand.N(p.bound))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Cause is why a request under ctx failed, without its URL.
func Cause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	var withURL *url.Error
	if errors.As(err, &withURL) {
		return withURL.Err
	}
	return err
}

// Bare is a URL without what may be secret in it.
func Bare(from string) string {
	u, err := url.Parse(from)
	if err != nil {
		return "a malformed URL"
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}
