// Package sizing decides how many workers a pool should have: how much capacity
// to start, and which idle workers may go.
//
// A Policy looks at Inputs, one pool at one moment, and at Statistics, what has
// been learnt about the pool, and makes a Decision, which says in words and
// numbers why. Nothing here reads a clock, a database or a
// network, so the same code runs a fleet and its simulation.
//
// # What is decided
//
// A task that finds a free worker waits for nothing. One that does not waits for
// the next worker that ends its task or registers. Capacity costs money from the
// moment it is requested, whether it boots, works or idles, so that each wait is
// paid for with a machine, or the other way round. The exchange rate is the
// owner's one knob, the wait price: what a minute of a task's waiting is worth,
// in minutes of a machine. Everything else is learnt.
//
// The queue gives a task to the worker that was used most recently. The idle
// ones are so in the order in which they will be needed, and those at the end
// of it stay idle long enough to be worth ending: the policies say "the r-th idle
// worker", never "this one".
//
// # Forecast
//
// An idle worker is kept for as long as it may cost what it can bring. That is
// the ski rental problem: renting is idling, buying is ending the worker and
// starting another one for the next task, whose price is the boot time and the
// task's waiting. Without knowledge the best rule is to rent until as much has
// been spent as buying costs, which is at most twice what is needed (Karlin,
// Manasse, Rudolph and Sleator, "Competitive snoopy caching", 1988); delaying the
// end of an idle server by about its setup time is what DelayedOff does (Gandhi,
// Gupta, Harchol-Balter and Kozuch, "Optimality analysis of energy-performance
// trade-off for server farm management", 2010). With knowledge it is an optimal
// stopping problem: the probability that the r-th idle worker is needed within
// a time is how often demand has risen by more than r within it, in situations
// like this one. The rule without knowledge is what comes out where nothing has been
// learnt, see outlook.worth.
//
// Workers are started one after the other in thought, each if it is worth it
// with the ones before being started. It saves waiting for as long as tasks
// wait, and it may be there for nothing: then it costs its boot time, less what
// it is worth as an idle worker. Boot times differ, so that with a high price
// more workers are started than tasks wait: nobody waits for the slowest. Tasks
// that are known to come, as what they depend on is running, are in it with the
// distribution of the time at which they come; and a worker is started for them
// only once it is better than to start it a moment later, which is the
// newsvendor's quantile (Arrow, Harris and Marschak, "Optimal inventory policy",
// 1951). Tasks that will have ended by then are foreseen from the survival function
// of how long tasks of their kind run, given how long they have. See
// outlook.start.
//
// # The others
//
// Reactive looks at what is pending and nothing else, Ratio is worker-manager's
// rule without its double counting, and WorkerManager is with it. They are
// there for owners who want to predict what a pool does with a pencil, and to be
// compared with.
package sizing

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/timestamp"
)

// A Policy decides from what a pool looks like now, and from what has been
// learnt about it, how much capacity to start and which idle workers may go. It
// notes what it sees in the statistics; apart from that, the same inputs and
// statistics give the same decision.
type Policy interface {
	// Name is what configuration calls the policy.
	Name() string
	// Decide makes one decision. It is asked within a second of anything that
	// happens to the pool, no more than once a second, and when Decision.Wake
	// has come.
	Decide(Inputs, *Statistics) Decision
}

// Inputs are one pool as it is now. Tasks count one each, workers count by
// capacity, the number of tasks they can run at once, and each unit of
// capacity is in exactly one of Working, Idle, Booting and Stopping.
type Inputs struct {
	Now timestamp.Time `json:"now"`

	Settings

	Pending       int64          `json:"pending"`                 // tasks that wait for a worker
	OldestPending timestamp.Time `json:"oldestPending,omitempty"` // since when the first of them waits; none if there is none
	Running       []Running      `json:"running,omitempty"`       // tasks that run
	Known         []Known        `json:"known,omitempty"`         // tasks that are not pending yet, but known

	Working  int64     `json:"working"`           // capacity of the pool's workers that run at least one task
	Spare    int64     `json:"spare"`             // part of Working that runs nothing
	Idle     []Idle    `json:"idle,omitempty"`    // workers that run nothing, most recently used first, as the queue hands out tasks
	Booting  []Booting `json:"booting,omitempty"` // workers asked for and not yet registered
	Stopping int64     `json:"stopping"`          // capacity that takes no more tasks but still takes room: draining, stopping, quarantined
}

// Settings are what the owner of a pool chose.
type Settings struct {
	Min               int64         `json:"min"`                   // capacity
	Max               int64         `json:"max"`                   // capacity
	ScalingRatio      float64       `json:"scalingRatio"`          // capacity to start for each task that needs it, above 0 to 1; 0 is 1
	CapacityPerWorker int64         `json:"capacityPerWorker"`     // of the workers to come; 0 is 1
	WaitPrice         float64       `json:"waitPrice"`             // what a minute of one task's waiting is worth, in minutes of capacity 1; see DefaultWaitPrice
	IdleTimeout       time.Duration `json:"idleTimeout,omitempty"` // longest that a worker may be idle; 0 leaves it to the policy
}

// Running are tasks of one kind that have run for the same time.
type Running struct {
	Kind  string         `json:"kind,omitempty"` // what Statistics tell durations apart by, such as the task's name; may be empty
	Since timestamp.Time `json:"since"`
	Count int64          `json:"count,omitempty"` // 0 is 1
}

// Idle is a worker that runs nothing.
type Idle struct {
	Since    timestamp.Time `json:"since"`              // when it finished its last task, or registered
	Capacity int64          `json:"capacity,omitempty"` // 0 is 1
}

// Booting are workers that were requested at the same time in the same market
// and have not registered.
type Booting struct {
	Class    string         `json:"class,omitempty"`    // what Statistics tell boot times apart by, such as the market
	Since    timestamp.Time `json:"since"`              // when it was requested
	Capacity int64          `json:"capacity,omitempty"` // of all of them together; 0 is 1
}

// Known are tasks that will be pending when what they depend on is done.
type Known struct {
	Count int64          `json:"count,omitempty"` // 0 is 1
	At    timestamp.Time `json:"at"`              // when they are expected to be pending
	Error time.Duration  `json:"error,omitempty"` // standard error of At
}

// A Decision says what to do now and when to look again.
type Decision struct {
	Start  int64          `json:"start"`           // capacity to start; a multiple of CapacityPerWorker, never beyond Max
	Drain  []int          `json:"drain,omitempty"` // which of Inputs.Idle may go now
	Excess int64          `json:"excess"`          // capacity at work beyond Max: the oldest workers get no more tasks, and go when they have none
	Wake   timestamp.Time `json:"wake,omitempty"`  // when the decision may change though nothing has happened; none is never
	Terms  []Term         `json:"terms"`           // the numbers that the decision is made of
	Reason string         `json:"reason"`          // the decision in words
}

// A Term is a number that a decision is made of.
type Term struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
}

// DefaultWaitPrice is the WaitPrice of a pool whose owner chose none: somebody
// waits for a task who costs more than the machine does.
const DefaultWaitPrice = 5

// Policies are all of them; the first is the default.
func Policies() []Policy {
	return []Policy{Forecast{}, Reactive{}, Ratio{}, WorkerManager{}}
}

// ByName returns the policy of that name; "" is the default.
func ByName(name string) (Policy, error) {
	var names []string
	for _, p := range Policies() {
		if name == "" || p.Name() == name {
			return p, nil
		}
		names = append(names, p.Name())
	}
	return nil, fmt.Errorf("there is no sizing policy %q; choose one of %s", name, strings.Join(names, ", "))
}

// supply is a pool's capacity, added up.
type supply struct {
	per     int64 // of a new worker
	idle    int64
	booting int64
	live    int64 // all that is or will be there: working, idle, booting
	room    int64 // what may be added before the maximum is reached
}

func supplyOf(in Inputs) supply {
	s := supply{per: max(in.CapacityPerWorker, 1)}
	for _, w := range in.Idle {
		s.idle += max(w.Capacity, 1)
	}
	for _, w := range in.Booting {
		s.booting += max(w.Capacity, 1)
	}
	s.live = in.Working + s.idle + s.booting
	s.room = max(in.Max-s.live-in.Stopping, 0)
	return s
}

// start is the capacity of the fewest workers that make up for what is
// missing, as far as there is room.
func (s supply) start(missing int64) int64 {
	if missing <= 0 {
		return 0
	}
	return min((missing+s.per-1)/s.per, s.room/s.per) * s.per
}

// expire drains the workers that have been idle for at least the limit, least
// recently used first and never below the pool's minimum, and says when the
// next one's time is up.
func (d *Decision) expire(in Inputs, s supply, limit time.Duration) {
	left := s.live
	for i, w := range slices.Backward(in.Idle) {
		c := max(w.Capacity, 1)
		if left-c < in.Min {
			continue
		}
		until := w.Since.Add(limit)
		switch {
		case left > in.Max || until <= in.Now:
			d.Drain = append(d.Drain, i)
			left -= c
		case d.Wake.IsZero() || until < d.Wake:
			d.Wake = until
		}
	}
	d.Excess = max(left-in.Max, 0)
}

// running is how many tasks run.
func running(in Inputs) (n int64) {
	for _, r := range in.Running {
		n += max(r.Count, 1)
	}
	return n
}

func (d *Decision) term(name string, value float64) {
	d.Terms = append(d.Terms, Term{name, value})
}
