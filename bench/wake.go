package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/slugid"
)

// WakeOptions say how to measure how soon work finds a worker that waits.
type WakeOptions struct {
	Client  *client.Client
	Workers int // that wait at the same time
	Tasks   int
	Rate    float64 // tasks created per second
}

// A WakeResult is the time from the moment that createTask was acknowledged to
// the moment that a worker had the task in its hands. It is negative where the
// worker was faster than the acknowledgement.
type WakeResult struct {
	Workers  int           `json:"workers"`
	Tasks    int           `json:"tasks"`
	P50      time.Duration `json:"p50Ns"`
	P99      time.Duration `json:"p99Ns"`
	Max      time.Duration `json:"maxNs"`
	SentP50  time.Duration `json:"sentP50Ns"` // from the moment that createTask was sent
	SentP99  time.Duration `json:"sentP99Ns"`
	NotFound int           `json:"notFound"` // tasks that no worker got within a minute
}

// Wake has workers wait for work, creates tasks one at a time, and measures how
// long each takes to reach a worker. Workers that get one complete it and wait
// again.
func Wake(ctx context.Context, o WakeOptions) (r WakeResult, err error) {
	if o.Workers < 1 || o.Tasks < 1 || o.Rate <= 0 {
		return r, errors.New("bench: at least one worker, one task and a rate above 0 are needed")
	}
	rd, err := newRound(ctx, Options{Client: o.Client}, o.Workers)
	if err != nil {
		return r, err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var (
		mu      sync.Mutex
		claimed = map[string]time.Time{}
		failure error
		workers sync.WaitGroup
		got     = make(chan struct{}, o.Tasks)
	)
	fail := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		if failure == nil && ctx.Err() == nil {
			failure = err
			stop()
		}
	}
	for i := range o.Workers {
		workers.Go(func() {
			for ctx.Err() == nil {
				c, err := rd.claim(ctx, i, "wake")
				if errors.Is(err, errUsedUp) {
					continue
				}
				if err != nil {
					fail(err)
					return
				}
				at := time.Now()
				mu.Lock()
				claimed[c.Status.TaskID] = at
				mu.Unlock()
				got <- struct{}{}
				if err := rd.complete(context.WithoutCancel(ctx), c); err != nil {
					fail(err)
					return
				}
			}
		})
	}
	sent, acknowledged := map[string]time.Time{}, map[string]time.Time{}
	tick := time.NewTicker(time.Duration(float64(time.Second) / o.Rate))
	defer tick.Stop()
	time.Sleep(time.Second) // until they wait
	for range o.Tasks {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
		id := slugid.New()
		sent[id] = time.Now()
		if err := rd.create(ctx, id, "wake"); err != nil {
			fail(err)
			break
		}
		acknowledged[id] = time.Now()
	}
	end := time.NewTimer(time.Minute)
	defer end.Stop()
wait:
	for range acknowledged {
		select {
		case <-got:
		case <-end.C:
			break wait
		case <-ctx.Done():
			break wait
		}
	}
	stop()
	workers.Wait()
	if failure != nil {
		return r, fmt.Errorf("bench: %w", failure)
	}
	var after, since []time.Duration
	for id, at := range acknowledged {
		have, ok := claimed[id]
		if !ok {
			r.NotFound++
			continue
		}
		after, since = append(after, have.Sub(at)), append(since, have.Sub(sent[id]))
	}
	if len(after) == 0 {
		return r, errors.New("bench: no task reached a worker")
	}
	slices.Sort(after)
	slices.Sort(since)
	r.Workers, r.Tasks = o.Workers, len(acknowledged)
	r.P50, r.P99, r.Max = percentile(after, 50), percentile(after, 99), after[len(after)-1]
	r.SentP50, r.SentP99 = percentile(since, 50), percentile(since, 99)
	return r, rd.clear(context.WithoutCancel(ctx))
}

// A Crowd is workers that wait for work that does not come.
type Crowd struct {
	stop    context.CancelFunc
	workers sync.WaitGroup
	failed  chan error
}

// Gather has n workers wait for work on a queue that nobody serves, and returns
// when all have been waiting for a while.
func Gather(ctx context.Context, c *client.Client, n int, settle time.Duration) (*Crowd, error) {
	ctx, stop := context.WithCancel(ctx)
	w := &Crowd{stop: stop, failed: make(chan error, n)}
	q := queue.New(c)
	id := fmt.Sprintf("bench/crowd-%08x", rand.Uint32())
	for i := range n {
		w.workers.Go(func() {
			for ctx.Err() == nil {
				if _, err := q.ClaimWork(ctx, id, &queue.ClaimWorkRequest{WorkerGroup: "bench", WorkerID: fmt.Sprintf("waiter-%d", i), Tasks: 1}); err != nil {
					if ctx.Err() == nil {
						w.failed <- err
					}
					return
				}
			}
		})
		if i%100 == 99 {
			time.Sleep(20 * time.Millisecond) // connections are made in turn
		}
	}
	select {
	case <-time.After(settle):
		return w, nil
	case err := <-w.failed:
		return nil, errors.Join(fmt.Errorf("bench: a worker that waited: %w", err), w.Leave())
	}
}

// Leave ends their waiting.
func (w *Crowd) Leave() error {
	w.stop()
	w.workers.Wait()
	select {
	case err := <-w.failed:
		return fmt.Errorf("bench: a worker that waited: %w", err)
	default:
		return nil
	}
}
