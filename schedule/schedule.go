// Package schedule runs jobs at the dates of cron expressions: each date once,
// among all replicas, with a history of what came of it. Package cron below it
// works out the dates.
//
// # Jobs and runs
//
// A job is a row: when it is due, and which kind of runner is given it. Jobs come
// from the code (Put at the start) or from a service, in a transaction of its own
// (PutIn). A date that has come is a row of its own, a run, before anything is
// done about it; it is in one state:
//
//	due      to be run, not before it starts
//	running  by the replica that has the lease
//	done     with an outcome
//	failed   with an error, and not to be tried again
//	missed   not run, since it could not begin in time, and the job does not make up for it
//
// A run whose replica is lost, so that its lease runs out, is due again. So is one
// that failed, while the job has retries left and its next date has not come.
//
// # Invariants
//
//   - A date has one row. It is inserted in the transaction that moves the job on to
//     its next date.
//   - A job has at most one run at a time. Who begins one has locked the job's row,
//     and sees that there is none.
//   - A run ends once: what ends it names the claim of the attempt that it ends. A
//     replica that was taken for dead and comes back has another one, and changes
//     nothing.
//
// A runner may see an occasion twice, as a replica can be lost between doing and
// saying so: it does no harm when it is run again.
//
// A lease counts by the clocks of all replicas: where these differ by more than ten
// seconds a run may be taken for lost that is not.
//
// # How replicas work together
//
// Each job says when it is to be looked at next. Each replica looks at those that
// are due (the loop schedule.run), one transaction for each: it takes up the dates
// that have come, takes back what others have lost, and begins what is to be begun
// if it has room and knows the kind. Whoever locks the job first does. Nothing
// looks at jobs that are not due: an alarm wakes the loop for the earliest.
package schedule

import (
	"cmp"
	"context"
	"embed"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

//go:embed migrations/*.sql
var migrations embed.FS

//go:embed schemas/*.yml
var schemaFiles embed.FS

// Config is what a Schedule needs.
type Config struct {
	DB      *store.DB
	Events  *event.Bus
	Log     *slog.Logger
	Metrics prometheus.Registerer // nil: none
	Replica string                // what the history calls this process; "": an id of its own
	Slots   int                   // runs at a time in this process; 0 means 16
	Others  []Other               // what is shown beside the jobs
}

// An Other tells of schedules that are not jobs, to be shown with them.
type Other func(context.Context) ([]Shown, error)

// Shown is a schedule that is none of a job's.
type Shown struct {
	Source      string         `json:"source"` // "hook", "loop"
	Name        string         `json:"name"`
	Expressions []string       `json:"expressions"`
	Zone        string         `json:"zone"`
	Next        timestamp.Time `json:"next,omitempty"`
}

// A Runner runs the jobs of a kind.
type Runner interface {
	// Run does what is to be done, and says in a few words what it has done. Its
	// context ends when the job's limit is reached, when the replica stops and when
	// another one takes the run over: then it returns soon. Outcome and error are kept
	// and shown to whoever may read the schedule, so no secret is in them.
	Run(ctx context.Context, o Occasion) (outcome string, err error)
}

// RunnerFunc is a Runner that is a function.
type RunnerFunc func(context.Context, Occasion) (string, error)

// Run calls f.
func (f RunnerFunc) Run(ctx context.Context, o Occasion) (string, error) { return f(ctx, o) }

// An Occasion is what a runner is to act on.
type Occasion struct {
	Job     Job
	Due     timestamp.Time
	Attempt int    // from 1 on
	Caller  string // who asked for the run; "": the schedule
}

// Schedule is the service.
type Schedule struct {
	db      *store.DB
	events  *event.Bus
	log     *slog.Logger
	metrics *metrics
	replica string
	slots   int
	others  []Other
	signal  <-chan struct{} // for the pass that is under way
	alarm   alarm

	mu      sync.Mutex
	runners map[string]Runner
}

const (
	topicWork = "schedule.run" // something is due, or will be

	leaseTime  = 15 * time.Second
	renewAfter = 5 * time.Second
	lookAfter  = 10 * time.Second           // without having been woken: with leaseTime it makes less than 30 s
	forever    = 100 * 365 * 24 * time.Hour // a pass goes on while there is something to run
)

// New opens the schedules, creating the tables where they do not exist.
func New(ctx context.Context, c Config) (*Schedule, error) {
	s := &Schedule{
		db: c.DB, events: c.Events, log: c.Log, metrics: newMetrics(c.Metrics), replica: cmp.Or(c.Replica, slugid.New()),
		slots: cmp.Or(c.Slots, 16), others: c.Others, signal: c.DB.Waits().Signal(topicWork), runners: map[string]Runner{},
	}
	if err := s.db.Migrate(ctx, "schedule", migrations); err != nil {
		return nil, fmt.Errorf("schedule: migrate: %w", err)
	}
	s.Handle(tidyKind, RunnerFunc(s.tidy))
	if err := s.Put(ctx, tidyJob); err != nil {
		return nil, err
	}
	return s, nil
}

// Handle has r run the jobs of a kind on this replica. Call it before the loops
// run.
func (s *Schedule) Handle(kind string, r Runner) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.runners[kind] != nil {
		panic("schedule: two runners for the kind " + kind)
	}
	s.runners[kind] = r
}

func (s *Schedule) runner(kind string) Runner {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.runners[kind]
}

func (s *Schedule) kinds() (list []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for kind := range s.runners {
		list = append(list, kind)
	}
	slices.Sort(list)
	return list
}

// Loops are the work that goes on beside the calls.
func (s *Schedule) Loops() []loop.Loop {
	return []loop.Loop{{
		Name: "schedule.run", Doc: "Runs the jobs that are due, and takes over those of replicas that were lost.",
		When: loop.Every(lookAfter), Wake: s.db.Waits().Signal(topicWork), Pass: s.work, EveryReplica: true,
		Limit: forever, MaxBackoff: lookAfter,
	}}
}

// An alarm wakes the loop at a time.
type alarm struct {
	mu    sync.Mutex
	timer *time.Timer
}

func (a *alarm) set(after time.Duration, wake func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.timer != nil {
		a.timer.Stop()
	}
	a.timer = time.AfterFunc(after, wake)
}
