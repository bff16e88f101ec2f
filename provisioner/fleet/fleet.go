// Package fleet decides how many workers there should be and has providers
// start and end them. It is the part of the provisioner that knows neither HTTP
// nor SQL, so that a server and a simulation run the same code: a server with
// the books in its database and the time of day, a simulation with books in
// memory and a time of its own. Nothing here asks what time it is; each pass is
// told.
//
// A pass (Controller.Pass) compares what there is with what there should be and
// does the difference:
//
//   - It first looks at what the providers see and then reads the books. In this
//     order a worker that is seen had its row, or the intent that it comes from,
//     written before; one without either has no business to be there and is
//     ended.
//   - An Intent is written before any worker is asked for. It carries the
//     provider's request as it will be sent, and its id is what the provider
//     tells repetitions by. A crash, a timeout or a lost answer leaves it open,
//     and the next pass sends the same request again. When it is answered, its
//     workers' rows are written and it is closed, in one transaction.
//   - A worker counts in one state: requested, running or stopping. Those that
//     are not wanted any more take room and are no help.
//   - An idle worker that is to go is drained first: it is marked in the same
//     transaction that sees that it has no claim, and the queue gives it none
//     from then on. Only then is it ended, so none is ended at work.
//   - A worker's claims are handed back after it has ended and before its row is
//     closed, so that no task runs twice at a time and none waits for its claim
//     to expire.
//   - Each launch configuration has a breaker. Failed starts make it wait, longer
//     each time, and then try with one worker until that has run for a while.
//     Other configurations of the pool, and other pools, go on.
//
// What starts how many is decided by package sizing, and where by the provider.
package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/taskfleet/taskfleet/provisioner/sizing"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A Ref names a worker. The group and id are unique within the pool.
type Ref struct {
	WorkerPoolID, WorkerGroup, WorkerID string
}

func (r Ref) String() string {
	return fmt.Sprintf("%s/%s/%s", r.WorkerPoolID, r.WorkerGroup, r.WorkerID)
}

// NullProvider is the provider of pools that are going away.
const NullProvider = "null-provider"

// A Pool is a worker pool as it is defined now.
type Pool struct {
	ID           string
	ProviderID   string
	Description  string
	Owner        string
	EmailOnError bool
	Config       json.RawMessage
	Created      timestamp.Time
	LastModified timestamp.Time
	Statistics   json.RawMessage // what has been learnt about it; nil: nothing

	// LaunchConfigs are those that workers are made from now, in the order of
	// the definition.
	LaunchConfigs []*LaunchConfig

	settings *Settings // parsed when needed
}

// Going reports whether the pool disappears with its last worker.
func (o *Pool) Going() bool { return o.ProviderID == NullProvider }

// Made reports whether w is made from what the pool's workers are made from
// now.
func (o *Pool) Made(w *Worker) bool {
	return w.ProviderID == o.ProviderID && o.LaunchConfig(w.LaunchConfigID) != nil
}

// LaunchConfig finds a current launch configuration; nil if it is not one.
func (o *Pool) LaunchConfig(id string) *LaunchConfig {
	for _, c := range o.LaunchConfigs {
		if c.ID == id {
			return c
		}
	}
	return nil
}

// Settings are the pool's, parsed once.
func (o *Pool) Settings() (Settings, error) {
	if o.settings == nil {
		s, err := parseSettings(o.Config)
		if err != nil {
			return s, err
		}
		o.settings = &s
	}
	return *o.settings, nil
}

// A LaunchConfig is what workers are made from: one of those of its pool, with
// the state of its breaker.
type LaunchConfig struct {
	ID           string
	Named        bool            // the id is the owner's choice, and is not given to another content
	Config       json.RawMessage // the provider's; what the API shows
	Capacity     int64           // least of a worker that is made from it
	WorkerConfig json.RawMessage // what its workers are told when they register; the books need not keep it
	Canary       int64           // most workers before one has proven the configuration; 0: no limit
	Archived     bool            // no current one any more; its workers go

	Proven     bool           // a worker that was made from it has worked
	Failures   int64          // failed starts in a row
	LastGood   timestamp.Time // when the latest worker was asked for that has worked; 0: none has
	StartAfter timestamp.Time // no start before
}

const (
	firstDelay = time.Second // after a failed start
	maxDelay   = 5 * time.Minute
)

// Succeed notes that a worker has worked which was asked for at a time: starts
// need not wait.
func (c *LaunchConfig) Succeed(asked timestamp.Time) {
	c.Proven, c.Failures, c.StartAfter, c.LastGood = true, 0, 0, max(c.LastGood, asked)
}

// Lose notes that a worker has not worked which was asked for at a time. Where
// another works that was asked for no earlier, it is the worker that was bad, not
// what it was made from. Otherwise the configuration waits. It returns a sentence
// about that.
func (c *LaunchConfig) Lose(now, asked timestamp.Time) string {
	if asked <= c.LastGood && c.Failures == 0 {
		return "Workers that were started at the same time or later from the same launch configuration work, so others are started as before."
	}
	return c.Fail(now)
}

// Waits reports whether the configuration waits for another try. A time further
// off than any wait is one of a clock that has been put right since.
func (c *LaunchConfig) Waits(now timestamp.Time) bool {
	left := c.StartAfter.Sub(now)
	return c.Failures > 0 && left > 0 && left <= maxDelay
}

// Fail counts a failed start and makes the configuration wait. What fails while
// it waits was started before, and is no news. It returns a sentence about the
// wait.
func (c *LaunchConfig) Fail(now timestamp.Time) string {
	if !c.Waits(now) {
		c.Failures++
		c.StartAfter = now.Add(min(firstDelay<<min(c.Failures-1, 20), maxDelay))
	}
	return fmt.Sprintf("Start number %d in a row that failed. The next start is at %s, with one worker; changing the pool's definition starts at once.", c.Failures, c.StartAfter)
}

// The states of a worker.
const (
	Requested = "requested" // started, not yet registered
	Running   = "running"
	Stopping  = "stopping" // is to end
	Stopped   = "stopped"
)

// A Worker is what the books say of one.
type Worker struct {
	Ref
	ProviderID     string
	LaunchConfigID string
	IntentID       string // that it came from; "" for those that somebody created
	State          string
	Capacity       int64
	Market         string          // where it was bought, in the provider's words: "us-east-1a/c5.xlarge/spot"
	Price          int64           // of an hour, in millionths of a dollar; 0: not known, or none
	Facts          json.RawMessage // what else the provider knows of it and wants to be told again
	Created        timestamp.Time  // when it was asked for
	LastModified   timestamp.Time  // when the state last changed
	LastChecked    timestamp.Time
	Expires        timestamp.Time // of a running worker: its credentials; of others: the record
	Registered     timestamp.Time // 0: not yet
	Proven         bool           // it has run for a while, or has come back for more work
	Drained        bool           // it has no task, and the queue gives it none any more
	Asked          timestamp.Time // when it was asked to end; 0: not yet
	Ends           timestamp.Time // when its provider takes it away, as far as it has said so; 0: it has not
	Leave          string         // why it is to go as soon as it is idle; "": it is not
	Reason         string         // why it is stopping or stopped

	idleSince timestamp.Time // in this pass
	overdue   bool           // it was decided in this pass to end it, without asking
}

// An Intent is a request for workers that may have been made: written before
// the call, gone with its answer.
type Intent struct {
	ID             string // what the provider tells repetitions by: at most 64 letters, digits and hyphens
	PoolID         string
	ProviderID     string
	LaunchConfigID string          // the one that it is for; "" if for several
	Workers        int64           // how many it asks for
	Capacity       int64           // that they have together
	Request        json.RawMessage // the provider's; sent again as it is
	Created        timestamp.Time
	Attempts       int64          // calls whose answer is not known
	NextAttempt    timestamp.Time // not before
}

// A Snapshot is what the books say at one moment.
type Snapshot struct {
	Pools   []*Pool
	Workers map[string][]*Worker // not stopped, by pool, oldest first
	Intents map[string][]*Intent // open, by pool
}

// A Complaint is something that is wrong with a pool, to be recorded for the
// people who look after it.
type Complaint struct {
	Kind           string // for programs: "start-failed"
	Title          string
	Description    string
	LaunchConfigID string
	Worker         *Worker // that it is about; may be nil
	Extra          map[string]any
}

// Kinds of complaints.
const (
	KindStart        = "start-failed"         // the provider could not start a worker
	KindRegistration = "registration-failed"  // a worker ended, or was ended, without having registered
	KindDied         = "worker-failed"        // a worker that had registered ended in failure
	KindExpired      = "registration-expired" // a worker did not register again in time
	KindPool         = "pool-failed"          // nothing could be done for the pool
	KindCapacity     = "capacity-exhausted"   // a market has none to sell
	KindQuota        = "quota-exceeded"       // the account may not have more
	KindThrottle     = "throttled"            // the provider is called too often
	KindConfig       = "configuration-wrong"  // the provider refuses the launch configuration
	KindUnchecked    = "not-checked"          // the provider could not check a definition
	KindAuth         = "not-authorized"       // the provider refuses us
)

// ComplaintKinds are all of them.
var ComplaintKinds = []string{
	KindStart, KindRegistration, KindDied, KindExpired, KindPool, KindCapacity, KindQuota, KindThrottle, KindConfig, KindUnchecked, KindAuth,
}

// An Ending is how a worker's life ends in the books.
type Ending struct {
	Reason    string     // "": the one that the row has
	Complaint *Complaint // if something was wrong
	Failed    bool       // speaks against its launch configuration
	Proven    bool       // speaks for it
}

// An Answered is what came of an intent, for the books.
type Answered struct {
	Workers    []*Worker
	Final      bool // the intent is closed; otherwise it is repeated
	Complaints []Complaint
	Failed     []*LaunchConfig // with their breakers as they are now
}

// A Book is where it is written what was intended and what came of it. Each
// method is one transaction, with the events that belong to it; what it writes
// is there after a crash. Methods that change a worker expect it in the state
// that was read, and change nothing where it is not.
type Book interface {
	// Read returns what is open of pools; of all if ids is nil.
	Read(ctx context.Context, ids []string) (*Snapshot, error)

	// Intend writes intents. It reports false, and writes none, if the pool has
	// been redefined since it was read, or if others have been at work so that it
	// would have more than its maximum.
	Intend(ctx context.Context, now timestamp.Time, o *Pool, list []*Intent) (bool, error)

	// Answer writes what came of an intent, once: where it is closed already,
	// nothing.
	Answer(ctx context.Context, now timestamp.Time, o *Pool, i *Intent, a Answered) error

	// Prove writes that a worker works, and that its configuration does.
	Prove(ctx context.Context, now timestamp.Time, o *Pool, w *Worker) error

	// Asked writes that workers were asked to end.
	Asked(ctx context.Context, now timestamp.Time, list []*Worker) error

	// Stop puts a worker into the state stopping, in which the queue gives it
	// nothing more, and reports whether it did.
	Stop(ctx context.Context, now timestamp.Time, o *Pool, w *Worker, e Ending) (bool, error)

	// Drain puts those of the workers that have no claim into the state
	// stopping, drained, in the same transaction in which it sees that, and
	// returns them.
	Drain(ctx context.Context, now timestamp.Time, o *Pool, list []*Worker, reason string) ([]*Worker, error)

	// Retire has the queue give workers nothing more that go on with what they
	// have, and writes why they are to go, into Leave.
	Retire(ctx context.Context, now timestamp.Time, o *Pool, list []*Worker, reason string) error

	// Close puts a worker into the state stopped.
	Close(ctx context.Context, now timestamp.Time, o *Pool, w *Worker, e Ending) error

	// Complain records a complaint about a pool.
	Complain(ctx context.Context, now timestamp.Time, o *Pool, c Complaint) error

	// Remove deletes a pool that is going and has no workers and intents left.
	Remove(ctx context.Context, now timestamp.Time, o *Pool) error

	// Decided keeps a decision, to be explained.
	Decided(ctx context.Context, now timestamp.Time, o *Pool, d Decided) error

	// Learnt keeps a pool's statistics.
	Learnt(ctx context.Context, now timestamp.Time, o *Pool, statistics json.RawMessage) error
}

// A Queue says how much work there is, and takes back what a dead worker had.
type Queue interface {
	// Demand is what the queues of pools have to do, by pool.
	Demand(ctx context.Context, now timestamp.Time, pools []string) (map[string]Demand, error)

	// WorkerGone hands the claims of a worker that has ended back to the queue.
	// A worker without claims is no error.
	WorkerGone(ctx context.Context, workerPoolID, workerGroup, workerID string) error
}

// Demand is the work of one pool at one moment.
type Demand struct {
	Pending int64            // tasks that wait for a worker
	Oldest  timestamp.Time   // since when the one that waits longest does; 0: none waits
	Claimed int64            // tasks that run
	Running []sizing.Running // the same, by kind and age
	Known   []Upcoming       // tasks that will become pending before long
	Of      func(Ref) Seen   // what the queue knows of a worker; nil: nothing of any
}

// Seen is what the queue knows of a worker.
type Seen struct {
	Claims      int64          // tasks that it runs
	Released    timestamp.Time // when its last claim ended; 0: none has
	Active      timestamp.Time // when it last asked for work, to the minute or so; 0: not known
	Quarantined bool           // it is given nothing until somebody says so
}

// Upcoming are tasks of a graph that become pending when all the tasks that
// they depend on, all of which run, have been completed; or tasks that something
// else, such as a schedule, announces for a time.
type Upcoming struct {
	Count int64
	After []Ahead
	At    timestamp.Time // when they are expected, as far as it does not follow from After
	Error time.Duration  // standard error of At
}

// Ahead is a running task that others wait for.
type Ahead struct {
	PoolID string // whose task it is
	Kind   string
	Since  timestamp.Time
}
