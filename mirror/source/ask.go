package source

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// An answer is a response, and where it came from. It must be closed.
type answer struct {
	*http.Response
	method string
	url    URL
	watch  *watch
}

// ask sends a request, and again where redirects lead. http.Client is not used:
// it sends referrers, and the whole URL is in its errors.
func (c *Client) ask(ctx context.Context, method string, u URL, header http.Header) (*answer, error) {
	a := &answer{method: method, url: u, watch: newWatch(ctx, c.stall)}
	for redirects := 0; ; redirects++ {
		if err := a.send(c, header); err != nil {
			err = a.fail(err)
			a.watch.close()
			return nil, err
		}
		if !redirecting(a.StatusCode) {
			return a, nil
		}
		if err := a.follow(c, redirects); err != nil {
			err = a.fail(err)
			a.close()
			return nil, err
		}
		a.Body.Close()
	}
}

func (a *answer) send(c *Client, header http.Header) error {
	if err := c.allow.Check(a.url); err != nil {
		return err
	}
	r := (&http.Request{
		Method: a.method,
		URL:    a.url.Parsed(),
		Host:   a.url.authority(),
		Header: http.Header{"Accept": {"*/*"}, "Accept-Encoding": {"identity"}, "User-Agent": {"taskfleet-mirror"}},
	}).WithContext(a.watch.ctx)
	for k, v := range header {
		r.Header[k] = v
	}
	a.watch.begin()
	defer a.watch.end()
	var err error
	a.Response, err = c.transport.RoundTrip(r)
	return err
}

func redirecting(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// follow finds where the redirect leads.
func (a *answer) follow(c *Client, redirects int) error {
	location := a.Header.Get("Location")
	if location == "" {
		return fmt.Errorf("%w: a redirect with status %d does not say where to", errUnusable, a.StatusCode)
	}
	if redirects == c.maxRedirects {
		return fmt.Errorf("%w: %d were followed", ErrTooManyRedirects, redirects)
	}
	next, err := a.url.follow(location)
	switch {
	case err != nil:
		return fmt.Errorf("%w: where it redirects to: %v", ErrNotAllowed, err)
	case a.url.scheme == "https" && next.scheme == "http":
		return fmt.Errorf("%w: it redirects to %s, which is not encrypted any more", ErrNotAllowed, next.Redacted())
	}
	// The check before the request would do; this says where it came from.
	if err := c.allow.Check(next); err != nil {
		return fmt.Errorf("it redirects: %w", err)
	}
	a.url = next
	return nil
}

// fail says where an error happened, and whether it passes.
func (a *answer) fail(err error) error {
	if err == nil {
		return nil
	}
	e := &Error{Method: a.method, URL: a.url.Redacted(), Err: err}
	if cause := context.Cause(a.watch.caller); cause != nil {
		e.Err = cause // the request was given up, and failed because of that
		return e
	}
	if cause := context.Cause(a.watch.ctx); cause != nil && errors.Is(cause, errSilent) {
		e.Err = cause
	}
	e.temporary = passes(e.Err)
	return e
}

func (a *answer) close() error {
	err := a.Body.Close()
	a.watch.close()
	return err
}

// A watch ends a request once its origin, while something is waited for, has
// been silent for too long.
type watch struct {
	caller context.Context
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	limit  time.Duration
}

func newWatch(ctx context.Context, limit time.Duration) *watch {
	w := &watch{caller: ctx, limit: limit}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.timer = time.AfterFunc(limit, func() { w.cancel(fmt.Errorf("%w: nothing came for %v", errSilent, limit)) })
	w.timer.Stop()
	return w
}

func (w *watch) begin() { w.timer.Reset(w.limit) }

func (w *watch) end() { w.timer.Stop() }

func (w *watch) close() {
	w.timer.Stop()
	w.cancel(context.Canceled)
}
