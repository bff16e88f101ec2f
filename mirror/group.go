package mirror

import (
	"context"
	"sync"
)

// A group is what a transfer does at the same time. The first failure ends all of
// it.
type group struct {
	stop context.CancelCauseFunc
	room chan struct{}
	all  sync.WaitGroup

	mu  sync.Mutex
	err error
}

// partsAtOnce is how many parts of a transfer are uploaded at the same time.
const partsAtOnce = 4

func newGroup(stop context.CancelCauseFunc) *group {
	return &group{stop: stop, room: make(chan struct{}, partsAtOnce)}
}

// run runs f beside others, as soon as there is room.
func (g *group) run(f func() error) {
	g.room <- struct{}{}
	g.all.Go(func() {
		defer func() { <-g.room }()
		if err := f(); err != nil {
			g.fail(err)
		}
	})
}

func (g *group) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil {
		g.err = err
		g.stop(err)
	}
}

func (g *group) wait() error {
	g.all.Wait()
	return g.err
}
