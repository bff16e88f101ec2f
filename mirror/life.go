package mirror

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/taskfleet/taskfleet/loop"
)

// A life is what becomes of copies once they are made: they go when nobody wants
// them (expire.go), first the bytes and then the row (leaving.go), they are
// compared with what is in the bucket (scrub.go), and the bucket with what is
// known of it (sweep.go), from which an index that was lost is made anew
// (rebuild.go).
//
// Each of these is a loop of bounded passes over all regions at once, so that a
// region whose bucket does not answer holds up no other.
type life struct {
	m                         *Mirror
	leaving, scrubs, sweeping rounds
	grace                     time.Duration // tests shorten it

	mu    sync.Mutex
	ruled map[string]bool // regions whose bucket has its life-cycle rules
}

func newLife(m *Mirror) *life { return &life{m: m, grace: grace, ruled: map[string]bool{}} }

// lifeLoops are the loops of a life.
func (m *Mirror) lifeLoops() []loop.Loop {
	l := newLife(m)
	return []loop.Loop{
		{
			Name: "mirror.expiry", Doc: "Has copies leave that have expired, that were not read for longest where a region is full, and failures that are a day old.",
			When: loop.Every(expireEvery), Pass: m.expire,
		},
		{
			Name: "mirror.leaving", Doc: "Deletes copies that are not served any more, first the bytes and then the record.",
			When: loop.Every(fallback), Wake: m.db.Waits().Signal(topicLeaving), Pass: l.remove,
		},
		{
			Name: "mirror.scrub", Doc: "Compares copies with what is in their buckets, those first that were not compared for longest.",
			When: loop.Every(time.Minute), Pass: l.scrub, Limit: 15 * time.Minute,
		},
		{
			Name: "mirror.sweep", Doc: "Compares buckets with the index, once a day and when one of the two is another: deletes what is left of attempts, has lost copies made anew, and makes a lost index anew.",
			When: loop.Every(time.Minute), Wake: m.db.Waits().Signal(topicSweep), Pass: l.sweep, Limit: time.Hour,
		},
	}
}

// rounds are passes over all regions at once. A region that fails is left out for
// a while, longer and longer.
type rounds struct {
	mu    sync.Mutex
	rests map[string]rest
}

type rest struct {
	failures     int
	began, until time.Time
}

const (
	firstRest   = 5 * time.Second
	longestRest = 5 * time.Minute
)

// do runs f for each region. Where some fail that is logged; it is an error only
// where all do, and then the loop itself waits.
func (x *rounds) do(ctx context.Context, m *Mirror, what string, f func(context.Context, *place) (more bool, err error)) (more bool, err error) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	failed := map[string]error{}
	tried := x.awake(m.regions)
	for _, p := range tried {
		wg.Go(func() {
			var again bool
			err := guard(func() (err error) { again, err = f(ctx, p); return err })
			mu.Lock()
			defer mu.Unlock()
			more = more || again
			if failed[p.Name] = err; err == nil {
				delete(failed, p.Name)
			}
		})
	}
	wg.Wait()
	var list []error
	for region, err := range failed {
		list = append(list, fmt.Errorf("mirror: %s in %s: %w", what, region, err))
	}
	err = errors.Join(list...)
	if len(failed) == len(tried) || ctx.Err() != nil {
		return false, err
	}
	x.note(tried, failed)
	if err != nil {
		m.log.Warn("regions of the mirror are left out for a while", "err", err)
	}
	return more, nil
}

// awake are the regions that are not left out, or whose bucket has come back since
// they were.
func (x *rounds) awake(all []*place) (list []*place) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, p := range all {
		if r := x.rests[p.Name]; !time.Now().Before(r.until) || p.health.back.Load() > r.began.UnixNano() {
			list = append(list, p)
		}
	}
	return list
}

func (x *rounds) note(tried []*place, failed map[string]error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.rests == nil {
		x.rests = map[string]rest{}
	}
	for _, p := range tried {
		if failed[p.Name] == nil {
			delete(x.rests, p.Name)
			continue
		}
		r := x.rests[p.Name]
		r.began = time.Now()
		r.until = r.began.Add(min(firstRest<<min(r.failures, 10), longestRest))
		r.failures++
		x.rests[p.Name] = r
	}
}

// side is how many requests for single objects go to a bucket at the same time.
const side = 8

// each does something for all of list, some at a time, until one fails.
func each[T any](ctx context.Context, list []T, do func(context.Context, T) error) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	next := make(chan T)
	var wg sync.WaitGroup
	for range min(side, len(list)) {
		wg.Go(func() {
			for one := range next {
				if err := guard(func() error { return do(ctx, one) }); err != nil {
					stop(err)
					return
				}
			}
		})
	}
	for _, one := range list {
		if ctx.Err() != nil {
			break
		}
		select {
		case next <- one:
		case <-ctx.Done():
		}
	}
	close(next)
	wg.Wait()
	return context.Cause(ctx)
}

// guard makes a panic an error, in a goroutine where nobody else does.
func guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return f()
}
