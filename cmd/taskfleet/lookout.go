//go:build !agent

package main

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/client/workermanager"
)

// A lookout looks at the queues of a graph and at the pools that serve them, and
// shows what it sees.
type lookout struct {
	core   *client.Client
	screen *screen
	queues []string

	cancel context.CancelFunc
	done   sync.WaitGroup

	seen map[string]poolView

	mu     sync.Mutex
	peak   int64         // the most workers that were running at a time
	extra  int64         // workers beyond what the pools always have
	looked chan struct{} // closed, and replaced, by each look
}

const fleetInterval = 500 * time.Millisecond

func (f *lookout) start(ctx context.Context) {
	ctx, f.cancel = context.WithCancel(ctx)
	f.seen, f.looked = map[string]poolView{}, make(chan struct{})
	f.done.Go(func() {
		for ctx.Err() == nil {
			f.look(ctx)
			select {
			case <-time.After(fleetInterval):
			case <-ctx.Done():
			}
		}
	})
}

func (f *lookout) stop() {
	f.cancel()
	f.done.Wait()
}

func (f *lookout) most() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.peak
}

// look asks for all queues and pools. What cannot be asked for just now, or is
// not there, is shown as it was.
func (f *lookout) look(ctx context.Context) {
	var pools []poolView
	var extra, running int64
	for _, id := range f.queues {
		p := f.seen[id]
		p.id = id
		counts, err := queue.New(f.core).TaskQueueCounts(ctx, id)
		if err == nil {
			p.known, p.pending, p.claimed = true, counts.PendingTasks, counts.ClaimedTasks
		}
		before := p
		pool, err := workermanager.New(f.core).WorkerPool(ctx, id)
		if err == nil {
			p.starting, p.running, p.stopping = pool.RequestedCount, pool.RunningCount, pool.StoppingCount
			p.least = minCapacity(pool.Config)
		}
		if p.running != before.running {
			f.screen.event(dim, "%s  workers: %d running, %d starting, %d stopping", id, p.running, p.starting, p.stopping)
		}
		f.seen[id] = p
		pools = append(pools, p)
		extra += p.starting + p.running + p.stopping - p.least
		running += p.running
	}
	f.screen.change(func(v *view) { v.pools = slices.Clone(pools) })
	f.mu.Lock()
	defer f.mu.Unlock()
	f.extra, f.peak = extra, max(f.peak, running)
	close(f.looked)
	f.looked = make(chan struct{})
}

// minCapacity is what a pool has even when there is nothing to do. It bounds
// the number of workers from above, which have a capacity of 1 or more.
func minCapacity(config json.RawMessage) int64 {
	var c struct {
		MinCapacity int64 `json:"minCapacity"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return 0 // a provider that counts in another way
	}
	return c.MinCapacity
}

// wait returns when there are no more workers than the pools always have.
func (f *lookout) wait(ctx context.Context) error {
	// The look that is under way may have begun before this was called.
	for looks := 0; ; looks++ {
		f.mu.Lock()
		extra, looked := f.extra, f.looked
		f.mu.Unlock()
		if looks >= 2 && extra <= 0 {
			return nil
		}
		select {
		case <-looked:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
