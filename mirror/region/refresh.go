package region

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/mirror/region/ranges"
)

const (
	day         = 24 * time.Hour
	retry       = time.Hour
	patience    = time.Minute // for an answer, all of it
	maxDocument = 32 << 20    // bytes; AWS's has 3 MiB
)

// Loops are the work that goes on beside the requests: none without a source.
func (f *Finder) Loops() []loop.Loop {
	if f.refresh == nil {
		return nil
	}
	return []loop.Loop{{
		Name: "mirror.networks", Doc: "Fetches AWS's list of networks and their regions, daily, and hourly where that is in vain.",
		// Replicas keep their distance, also when they were started together.
		When: loop.Every(retry + rand.N(retry/10)), EveryReplica: true, Limit: 2 * patience,
		Pass: func(ctx context.Context) (more bool, err error) { return false, f.pass(ctx) },
	}}
}

// A refresh is what there is to know of fetching the list. A platform without a
// way to the Internet is nothing out of the ordinary: the list that there is
// stays, the first attempt in vain of each day is a line in the log, and Status
// says so.
type refresh struct {
	url   *url.URL
	shown string // the URL, without what may be secret
	web   *http.Client
	log   *slog.Logger

	mu        sync.Mutex
	etag      string // of the list that we have
	due       time.Time
	fetched   time.Time
	attempted time.Time
	err       error
	told      time.Time // when the log was last told that it is in vain
}

func newRefresh(u *url.URL, transport http.RoundTripper, log *slog.Logger) *refresh {
	if transport == nil {
		transport = http.DefaultTransport.(*http.Transport).Clone()
	}
	shown := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}
	return &refresh{url: u, shown: shown.String(), log: log, web: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// describe adds to a status what the refresh knows.
func (r *refresh) describe(s *Status) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.fetched.IsZero() {
		s.Source = r.shown
	}
	s.Fetched, s.Attempted = r.fetched, r.attempted
	if r.err != nil {
		s.Error = r.err.Error()
	}
}

// pass is one of the loop mirror.networks. To fail is not a failure of the loop,
// which would be loud about it.
func (f *Finder) pass(ctx context.Context) error {
	r := f.refresh
	now := time.Now()
	r.mu.Lock()
	etag, due := r.etag, r.due
	r.mu.Unlock()
	if now.Before(due) {
		return nil
	}
	old := f.current.Load()
	l, etag, err := r.fetch(ctx, etag)
	if ctx.Err() != nil {
		return context.Cause(ctx) // ended by us, which says nothing of the source
	}
	if err == nil && l != nil {
		err = l.Follows(old.list)
	}
	fresh := err == nil && l != nil && l.Created.After(old.list.Created)
	f.metrics.refreshed(fresh, err)

	r.mu.Lock()
	defer r.mu.Unlock()
	r.attempted, r.err = now, nil
	if err != nil {
		r.err = fmt.Errorf("fetch the list of AWS's networks from %s: %w", r.shown, err)
		if now.Sub(r.told) >= day {
			r.told = now
			r.log.Warn("there is no new list of AWS's networks; the one that we have stays in use", "error", r.err, "published", old.list.Created, "retry", retry)
		}
		return nil
	}
	r.etag, r.fetched, r.told = etag, now, time.Time{}
	r.due = now.Add(day - retry + rand.N(retry))
	if fresh {
		f.current.Store(newTable(l))
		r.log.Info("there is a new list of AWS's networks", "published", l.Created, "networks", len(l.Networks), "before", old.list.Created)
	}
	return nil
}

// fetch asks for the list, and returns nil if it is the one of the tag.
func (r *refresh) fetch(ctx context.Context, etag string) (*ranges.List, string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("there was no whole answer within %v", patience))
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url.String(), nil)
	if err != nil {
		return nil, "", errors.New("the URL cannot be asked for")
	}
	q.Header.Set("User-Agent", "taskfleet")
	if etag != "" {
		q.Header.Set("If-None-Match", etag)
	}
	a, err := r.web.Do(q)
	if err != nil {
		return nil, "", bare(ctx, err)
	}
	defer a.Body.Close()
	switch {
	case a.StatusCode == http.StatusNotModified && etag != "":
		return nil, etag, nil
	case a.StatusCode >= 300 && a.StatusCode < 400:
		return nil, "", fmt.Errorf("it answers with a redirect (%d), which is not followed: set the source to where the list is", a.StatusCode)
	case a.StatusCode != http.StatusOK:
		return nil, "", fmt.Errorf("it answers %d", a.StatusCode)
	}
	data, err := io.ReadAll(io.LimitReader(a.Body, maxDocument+1))
	switch {
	case err != nil:
		return nil, "", bare(ctx, err)
	case len(data) > maxDocument:
		return nil, "", fmt.Errorf("its answer is larger than %d MiB", maxDocument>>20)
	}
	l, err := ranges.Parse(data)
	return l, a.Header.Get("ETag"), err
}

// bare is an error without the URL, whose query may be a secret.
func bare(ctx context.Context, err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	return cmp.Or(context.Cause(ctx), err)
}
