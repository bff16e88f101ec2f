package simulate

import (
	"math"
	"slices"
	"time"

	"github.com/taskfleet/taskfleet/provisioner/sizing"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A Result is what came of a simulation.
type Result struct {
	Policy        string  `json:"policy"`
	Tasks         int     `json:"tasks"`
	Wait          Waits   `json:"wait_s"`
	WorkHours     float64 `json:"work_hours"`     // of machines that run as many tasks as they can
	PaidHours     float64 `json:"paid_hours"`     // of machines
	Overhead      float64 `json:"overhead"`       // what is paid beyond the work, as a part of the work
	BoundOverhead float64 `json:"bound_overhead"` // the same for somebody who knows the future, without any waiting; see Bound
	Launched      int     `json:"launched"`
	LaunchedIdle  int     `json:"launched_idle"` // that never ran a task
	APICalls      int     `json:"api_calls"`
	Throttled     int     `json:"throttled"`   // calls, and parts of calls, that AWS turned away
	Orphans       int     `json:"orphans"`     // machines that ran for three minutes and were in no books
	BusyKilled    int     `json:"busy_killed"` // machines that the provisioner ended while they ran a task

	WaitPrice          float64        `json:"wait_price"`
	BoundRatio         float64        `json:"bound_ratio"` // what is paid, by what somebody who knows the future pays
	Dollars            float64        `json:"dollars"`
	Drains             int            `json:"drains"`               // workers that were drained
	DrainsTooLate      int            `json:"drains_outrun"`        // that were to be drained, and had got a task by then
	Interrupted        int            `json:"interrupted"`          // machines that EC2 took back
	Retries            int            `json:"retries"`              // runs that ended with their machine
	Restarts           int            `json:"restarts"`             // of the provisioner, after crashes
	DescribesPerMinute int            `json:"describes_per_minute"` // calls that list things: most in any minute of a region
	APICallsByAction   map[string]int `json:"api_calls_by_action"`
	Complaints         map[string]int `json:"complaints,omitempty"` // of pools, by kind

	Series Series `json:"-"`
	// Why is the first complaint of each kind.
	Why map[string]string `json:"-"`
}

// Waits are how many seconds tasks were pending, those of all pools together.
type Waits struct {
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P95  float64 `json:"p95"`
	P99  float64 `json:"p99"`
	Max  float64 `json:"max"`
}

func (e *engine) result(traces []Trace) (*Result, error) {
	e.findOrphans()
	bound, err := Bound(traces, e.Boot, e.capacity())
	if err != nil {
		return nil, err
	}
	in, err := e.pools[0].Settings()
	if err != nil {
		return nil, err
	}
	stats, bill := e.world.cloud.Stats(), e.world.cloud.Bill()
	r := &Result{
		Policy: e.policy.Name(), Tasks: len(e.tasks), Wait: e.waits(), PaidHours: bill.Hours, Dollars: bill.Dollars,
		Launched: stats.Launched, LaunchedIdle: e.launchedIdle, Orphans: e.orphans, BusyKilled: e.busyKilled,
		Drains: e.drains, DrainsTooLate: e.outrun, Interrupted: stats.Interrupted, Retries: e.retries, Restarts: e.restarts,
		DescribesPerMinute: e.world.describesPerMinute(), Complaints: e.complaints, Why: e.firstComplaint,
		WaitPrice: sizing.DefaultWaitPrice, Series: e.series.Series,
	}
	if p := in.Sizing.WaitPrice; p != nil {
		r.WaitPrice = *p
	}
	for _, m := range e.alive {
		if m.ran == 0 {
			r.LaunchedIdle++
		}
	}
	r.APICallsByAction, r.APICalls, r.Throttled = e.world.apiCalls()
	var work time.Duration
	for i := range e.tasks {
		work += time.Duration(e.tasks[i].Duration) * time.Millisecond
	}
	r.WorkHours = work.Hours() / float64(e.capacity())
	if r.WorkHours > 0 {
		r.Overhead = r.PaidHours/r.WorkHours - 1
		r.BoundOverhead = bound.Hours()/r.WorkHours - 1
		r.BoundRatio = r.PaidHours / bound.Hours()
	}
	return r, nil
}

// capacity is how many tasks a machine runs at once, at least.
func (e *engine) capacity() int64 {
	least := int64(math.MaxInt64)
	for _, c := range e.pools[0].LaunchConfigs {
		least = min(least, max(c.Capacity, 1))
	}
	return least
}

func (e *engine) waits() (w Waits) {
	all := make([]int64, len(e.tasks))
	var sum float64
	for i := range e.tasks {
		all[i] = e.tasks[i].waited
		sum += float64(all[i])
	}
	slices.Sort(all)
	at := func(q float64) float64 { return float64(all[min(int(q*float64(len(all))), len(all)-1)]) / 1000 }
	return Waits{sum / 1000 / float64(len(all)), at(.5), at(.9), at(.95), at(.99), at(1)}
}

// A Series is how a simulation went, in steps of the same length. What is
// counted adds up over pools.
type Series struct {
	Step  time.Duration
	Steps []Step
}

// A Step is the state at the end of one.
type Step struct {
	Pending int     // tasks: most since the step before
	Busy    int     // tasks that run
	Ready   int     // capacity that is registered
	Booting int     // machines that are paid for and not registered
	Paid    float64 // machine-hours so far
}

// mostSteps is how many steps a series has before they are made twice as long.
const mostSteps = 2000

// series is a Series in the making.
type series struct {
	Series
	next    int64 // milliseconds of the epoch
	peak    int
	paid    float64 // machine-milliseconds
	waiting int
	busy    int
	ready   int // capacity
	up      int // machines that are registered
	total   int // tasks
	said    int
}

func (s *series) begin(e *engine) {
	s.Step, s.total = time.Second, len(e.tasks)
	s.next = int64(e.start) + 1000
}

// sample takes the state as it has been until a time.
func (s *series) sample(e *engine, until timestamp.Time) {
	last := int64(e.now)
	for s.next <= int64(until) {
		s.paid += float64(len(e.alive)) * float64(s.next-last)
		last = s.next
		s.Steps = append(s.Steps, Step{s.peak, s.busy, s.ready, max(len(e.alive)-s.up, 0), s.paid / 3.6e6})
		s.peak = s.waiting
		if len(s.Steps) == mostSteps {
			s.halve()
		}
		s.next += s.Step.Milliseconds()
	}
	s.paid += float64(len(e.alive)) * float64(int64(until)-last)
	if done := s.total - e.left; e.Progress != nil && done >= s.said+s.total/200 {
		s.said = done
		e.Progress(float64(done) / float64(s.total))
	}
}

// halve makes steps twice as long.
func (s *series) halve() {
	for i := 0; i+1 < len(s.Steps); i += 2 {
		pair := s.Steps[i+1]
		pair.Pending = max(pair.Pending, s.Steps[i].Pending)
		s.Steps[i/2] = pair
	}
	s.Steps = s.Steps[:len(s.Steps)/2]
	s.Step *= 2
}

func (s *series) wait(n int) {
	s.waiting += n
	s.peak = max(s.peak, s.waiting)
}
