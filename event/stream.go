package event

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// A stream is a reader that some connection carries, in the form of a format.
// What it holds is bounded: a few messages that everybody shares. If its
// connection is slow it falls behind and reads the log from where it is; if it
// takes nothing at all it is cut off, and can resume.
type stream struct {
	hub  *hub
	wake chan struct{} // receives when there is something to look at

	// The rest is guarded by the mutex of the hub.
	bindings []Binding
	matcher  *Matcher
	bounds   []*bound // of bindings, while it is live
	live     bool
	hold     bool // it waits for its first binding
	at       int64
	queue    []*entry // that come next; all are after at
}

// A format is a way to write events to a connection.
type format interface {
	// event writes an event that is no message; id is the position from which
	// to resume.
	event(ctx context.Context, name string, id int64, payload any) error
	messages(ctx context.Context, list []*entry) error
}

const (
	pingInterval = 20 * time.Second
	writeTimeout = 2 * pingInterval
	maxBindings  = 100

	// A stream ends some time before maxLife, since what its caller may do may
	// have changed; streams that began together end apart.
	maxLife = 6 * time.Hour
)

// A gap is positions that are not in the log any more.
type gap struct {
	From int64 `json:"from"`
	To   int64 `json:"to"`
}

// carry sends messages until the connection ends or ctx does.
func (s *stream) carry(ctx context.Context, f format) error {
	ping := time.NewTicker(pingInterval)
	defer ping.Stop()
	for end := time.Now().Add(maxLife - rand.N(maxLife/6)); time.Now().Before(end); {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		list, lost, err := s.next(ctx)
		if err != nil {
			return err
		}
		if lost != nil {
			if err := f.event(ctx, "gap", lost.To, lost); err != nil {
				return err
			}
		}
		if len(list) > 0 {
			if err := f.messages(ctx, list); err != nil {
				return err
			}
		}
		if lost != nil || len(list) > 0 {
			continue
		}
		select {
		case <-s.wake:
		case <-ping.C:
			if err := f.event(ctx, "ping", s.position(), map[string]time.Time{"time": time.Now().UTC()}); err != nil {
				return err
			}
		case <-ctx.Done():
		}
	}
	return nil
}

// position is how far the stream is: if it is live and nothing waits to be sent,
// as far as the hub.
func (s *stream) position() int64 {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if s.live && len(s.queue) == 0 {
		s.at = max(s.at, s.hub.at)
	}
	return s.at
}

// next returns what to send now, which is nothing if there is nothing new.
func (s *stream) next(ctx context.Context) (list []*entry, lost *gap, err error) {
	for {
		at, matcher, list, done := s.take()
		if done {
			return list, nil, nil
		}
		found, _, err := s.hub.bus.tail.after(ctx, at, batch)
		if err != nil {
			return nil, nil, err
		}
		to := at
		for _, e := range found {
			if to == at && e.Position > at+1 {
				lost = &gap{at + 1, e.Position - 1}
			}
			if matcher.Matches(e.Message) {
				list = append(list, e)
			}
			to = e.Position
		}
		if len(found) == 0 { // all of it is gone
			to = s.head()
			lost = &gap{at + 1, to}
		}
		s.hub.mu.Lock()
		s.at = to
		s.hub.mu.Unlock()
		if len(list) > 0 || lost != nil {
			return list, lost, nil
		}
	}
}

func (s *stream) head() int64 {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	return s.hub.at
}

// take empties the queue. done is false if the stream has to read the log, from
// a position on, for what fits a matcher.
func (s *stream) take() (at int64, matcher *Matcher, list []*entry, done bool) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if len(s.queue) > 0 {
		list, s.queue = s.queue, nil
		s.at = list[len(list)-1].Position
		return 0, nil, list, true
	}
	if s.hold {
		return 0, nil, nil, true
	}
	if s.at < s.hub.at && !s.live {
		return s.at, s.matcher, nil, false
	}
	s.at = max(s.at, s.hub.at)
	s.goLive()
	return 0, nil, nil, true
}

// offer is called by the hub, with messages in order, more than once where
// several bindings fit.
func (s *stream) offer(e *entry) {
	last := s.at
	if n := len(s.queue); n > 0 {
		last = s.queue[n-1].Position
	}
	switch {
	case !s.live || e.Position <= last:
		return
	case len(s.queue) == maxQueue:
		s.live = false // and out of the index with the next take
		return
	}
	s.queue = append(s.queue, e)
	s.notify()
}

func (s *stream) notify() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *stream) goLive() {
	if s.live {
		return
	}
	s.goBehind()
	s.live = true
	for _, b := range s.bindings {
		s.bounds = append(s.bounds, &bound{parsePattern(b.RoutingKeyPattern), b.Exchange, s})
		s.hub.add(s.bounds[len(s.bounds)-1])
	}
}

func (s *stream) goBehind() {
	s.live = false
	for _, b := range s.bounds {
		s.hub.remove(b)
	}
	s.bounds = nil
}

// bind adds a binding.
func (s *stream) bind(b Binding) error {
	if err := b.Check(); err != nil {
		return err
	}
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if slices.Contains(s.bindings, b) {
		return nil
	}
	if len(s.bindings) == maxBindings {
		return fmt.Errorf("there are %d bindings, and one stream has no more; unbind some or open another stream", maxBindings)
	}
	s.rebind(append(slices.Clone(s.bindings), b))
	return nil
}

// unbind removes one.
func (s *stream) unbind(b Binding) error {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	i := slices.Index(s.bindings, b)
	if i < 0 {
		return fmt.Errorf("there is no binding of %s with the pattern %s", b.Exchange, b.RoutingKeyPattern)
	}
	s.rebind(slices.Delete(slices.Clone(s.bindings), i, i+1))
	return nil
}

// rebind makes bindings those of the stream, from where it is.
func (s *stream) rebind(bindings []Binding) {
	live := s.live
	s.goBehind()
	s.bindings, s.matcher, s.hold = bindings, Compile(bindings), false
	if live {
		s.goLive()
	}
	s.notify()
}
