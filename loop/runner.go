package loop

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A Runner runs loops and knows how they are.
type Runner struct {
	log        *slog.Logger
	lease      Lease
	collectors *collectors

	mu       sync.Mutex
	statuses map[string]*status
}

// NewRunner returns a runner that keeps loops to one replica by lease, and
// whose metrics are in registerer.
func NewRunner(log *slog.Logger, lease Lease, registerer prometheus.Registerer) *Runner {
	return &Runner{log: log, lease: lease, collectors: newCollectors(registerer), statuses: map[string]*status{}}
}

// Run runs loops until ctx ends and the passes under way have returned. It
// returns an error, and runs none, if one of them is declared wrong.
func (r *Runner) Run(ctx context.Context, loops ...Loop) error {
	running, err := r.admit(loops)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	for _, l := range running {
		wg.Go(func() { l.run(ctx) })
	}
	wg.Wait()
	return nil
}

// admit checks loops and gives each its status and metrics.
func (r *Runner) admit(loops []Loop) ([]*runningLoop, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	names := map[string]bool{}
	for _, l := range loops {
		switch {
		case l.Name == "":
			return nil, fmt.Errorf("loop: a loop has no name (its Doc is %q)", l.Doc)
		case l.Pass == nil || l.When == nil:
			return nil, fmt.Errorf("loop: %s lacks Pass or When", l.Name)
		case !l.When.valid():
			return nil, fmt.Errorf("loop: the schedule of %s is empty", l.Name)
		case names[l.Name] || r.statuses[l.Name] != nil && r.statuses[l.Name].snapshot().State != Stopped:
			return nil, fmt.Errorf("loop: there are two loops called %s", l.Name)
		}
		names[l.Name] = true
	}
	running := make([]*runningLoop, len(loops))
	for i, l := range loops {
		s := &status{Status: Status{Name: l.Name, Doc: l.Doc, Schedule: l.When.String(), State: Idle}}
		r.statuses[l.Name] = s
		lease := r.lease
		if l.EveryReplica {
			lease = Alone
		}
		running[i] = &runningLoop{Loop: l, log: r.log.With("loop", l.Name), lease: lease, status: s, metrics: r.collectors.of(l.Name)}
	}
	return running, nil
}

// Status tells how each loop is, in the order of their names.
func (r *Runner) Status() []Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]Status, 0, len(r.statuses))
	for _, s := range r.statuses {
		all = append(all, s.snapshot())
	}
	slices.SortFunc(all, func(a, b Status) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// A State is what a loop is about on this replica.
type State string

const (
	Idle          State = "idle"           // waits until the next pass is due
	Running       State = "running"        // in a pass
	BackingOff    State = "backing-off"    // failed, will try again
	HeldElsewhere State = "held elsewhere" // another replica runs it
	Stopped       State = "stopped"
)

// Status is how a loop is, as this replica knows it.
type Status struct {
	Name     string `json:"name"`
	Doc      string `json:"doc"`
	Schedule string `json:"schedule"`
	State    State  `json:"state"`

	LastStart    time.Time     `json:"lastStart,omitzero"`
	LastDuration time.Duration `json:"lastDuration,omitzero"` // of the last pass that ended
	LastError    string        `json:"lastError,omitempty"`   // empty once a pass succeeded
	NextDue      time.Time     `json:"nextDue,omitzero"`      // zero while running, held elsewhere or never due

	Passes   int64 `json:"passes"` // ended on this replica, failures included
	Failures int64 `json:"failures"`
}

type status struct {
	mu sync.Mutex
	Status
}

func (s *status) snapshot() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Status
}

func (s *status) update(f func(*Status)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.Status)
}

func (s *status) set(state State) {
	s.update(func(s *Status) { s.State, s.NextDue = state, time.Time{} })
}

func (s *status) due(next time.Time) {
	s.update(func(s *Status) { s.State, s.NextDue = Idle, next })
}

func (s *status) started(at time.Time) {
	s.update(func(s *Status) { s.State, s.LastStart, s.NextDue = Running, at, time.Time{} })
}

func (s *status) brokenOff(took time.Duration) {
	s.update(func(s *Status) { s.State, s.LastDuration = Idle, took })
}

func (s *status) finished(took time.Duration, err error) {
	s.update(func(s *Status) {
		s.LastDuration = took
		s.Passes++
		s.LastError = ""
		if err != nil {
			s.Failures++
			s.LastError = err.Error()
		}
	})
}

func (s *status) failed(err error, retry time.Time) {
	s.update(func(s *Status) { s.State, s.LastError, s.NextDue = BackingOff, err.Error(), retry })
}
