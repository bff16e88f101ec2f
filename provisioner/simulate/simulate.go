// Package simulate shows what a way of sizing a pool would cost, and how long
// tasks would wait, by running the provisioner itself on a time of its own: the
// controller of package fleet with its books in memory, a policy of package
// sizing, and the provider of package aws over the imitation of EC2 in package
// awsfake. What is made up is what is around them: tasks that come as a trace
// says, a queue that hands them out, and workers that run them for as long as
// the trace says.
//
// There are no goroutines. An engine goes from one thing that happens to the
// next, and everything that is drawn comes from streams that start with the
// seed, so the same input gives the same output, byte for byte.
//
//   - The queue gives a task to the worker that has worked last, first come
//     first served. A drained worker is given nothing; the drain happens
//     in one step with seeing that it runs nothing, after a blink in which the
//     queue goes on.
//   - The controller looks at a pool when something happens to it, at most once a
//     second, and when it said that it wants to; at all pools every minute.
//   - With the policy worker-manager it is as there: a task goes to any worker
//     that is idle, and one that does not register is waited for for two hours.
//   - A machine is paid for from its request to when it begins to shut down, a
//     minute at least.
package simulate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/taskfleet/taskfleet/provisioner/aws/awsfake"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/provisioner/sizing"
	"github.com/taskfleet/taskfleet/timestamp"
)

// Options say what is simulated. The zero value is a quiet cloud whose machines
// boot in 75 seconds, and the default policy.
type Options struct {
	Policy    string        // of package sizing; "": that of the pool, or the default
	WaitPrice *float64      // minutes of machine that a minute of waiting is worth; nil: the pool's, or the default
	Idle      time.Duration // most that a worker is idle; 0: the pool's, or as the policy thinks right
	Boot      time.Duration // median until a machine's worker registers; 0: 75 s
	Max       int64         // most capacity of a pool; 0: the pool's, or 10,000
	Capacity  int64         // tasks that a machine runs at once; 0: the pool's, or 1
	Seed      uint64        // of all that is drawn; 0: 1

	Dead          float64 // share of machines whose worker never registers
	Interruptions float64 // of a spot machine, in an hour
	SoldOut       float64 // share of the time in which a market has nothing to sell
	Chaos         bool    // late, doubled and lost events, lists that lag, answers that are lost, prices that walk

	// Known is a share of the tasks that are announced a boot time before they
	// arrive, with a time that is off by up to a quarter of it: what would be known
	// of tasks of graphs.
	Known float64

	// Pool is the configuration of the pools; what it says about images and
	// networks is replaced by what the imitation has. nil: machines of four types
	// in all zones of us-east-1, as spot.
	Pool json.RawMessage

	// Progress is told how much of the tasks is done, now and then. May be nil.
	Progress func(share float64)

	crash    func(step int, what string) bool // ends the controller after a step
	happened func(awsfake.Happening)          // is told what is
}

// bootSigma is of the logarithm of boot times.
const bootSigma = 0.25

func (o *Options) fill() error {
	if o.Boot == 0 {
		o.Boot = 75 * time.Second
	}
	if o.Seed == 0 {
		o.Seed = 1
	}
	for name, x := range map[string]float64{"dead": o.Dead, "sold-out": o.SoldOut, "known": o.Known} {
		if !(x >= 0 && x <= 1) {
			return fmt.Errorf("%s is %g%%; it is a share, so it must be from 0%% to 100%%", name, 100*x)
		}
	}
	switch {
	case o.Boot < time.Second || o.Boot > 24*time.Hour:
		return fmt.Errorf("boot is %v; it must be from 1s to 24h", o.Boot)
	case o.WaitPrice != nil && !(*o.WaitPrice >= 0 && *o.WaitPrice <= 1000):
		return fmt.Errorf("wait price is %g; it must be from 0 to 1000 minutes of a machine for a minute of waiting", *o.WaitPrice)
	case o.Idle < 0:
		return fmt.Errorf("idle is %v; it must not be negative", o.Idle)
	case !(o.Interruptions >= 0 && o.Interruptions <= 1000):
		return fmt.Errorf("interruptions is %g; it must be from 0 to 1000 an hour", o.Interruptions)
	case o.SoldOut > 0.99:
		return fmt.Errorf("sold-out is %g%%; with more than 99%% nothing would ever run", 100*o.SoldOut)
	case o.Max < 0 || o.Capacity < 0:
		return fmt.Errorf("max and capacity must not be negative")
	}
	return nil
}

// Run simulates pools side by side in one account, one for each trace, to the
// end: until all tasks have been completed and the machines have gone.
func Run(ctx context.Context, traces []Trace, o Options) (*Result, error) {
	if len(traces) == 0 {
		return nil, errors.New("there is no trace to simulate; give one for each pool")
	}
	if err := o.fill(); err != nil {
		return nil, err
	}
	e := &engine{
		Options: o, ctx: ctx, now: epoch, start: epoch,
		byID: map[string]*pool{}, intended: map[string]*pool{}, machines: map[string]*machine{},
		chance:     rand.New(rand.NewPCG(o.Seed, 3)),
		complaints: map[string]int{}, firstComplaint: map[string]string{},
	}
	if o.Known > 0 { // what is announced comes before the first task does
		e.start = e.start.Add(o.Boot.Truncate(10*time.Minute) + 10*time.Minute)
	}
	e.book, e.moved = &book{engine: e}, e.now
	w, err := newWorld(e)
	if err != nil {
		return nil, err
	}
	e.world = w
	if err := e.addPools(traces); err != nil {
		return nil, err
	}
	if err := e.addTasks(traces); err != nil {
		return nil, err
	}
	e.control = w.controller(e)
	e.series.begin(e)
	if err := e.run(); err != nil {
		return nil, err
	}
	return e.result(traces)
}

// epoch is when simulations begin: a Monday, at midnight.
var epoch = timestamp.Of(time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC))

// addPools makes a pool for each trace.
func (e *engine) addPools(traces []Trace) error {
	config, renewal, err := e.world.poolConfig(e.Options)
	if err != nil {
		return err
	}
	e.renewal = renewal
	for i := range traces {
		id := poolID(traces[i].Name, e.byID)
		configs, err := e.world.provider.Parse(config)
		if err != nil {
			return fmt.Errorf("the pool's configuration: %w", err)
		}
		for _, c := range configs {
			if e.Pool == nil {
				c.Canary = 0 // it is known to work
			}
		}
		p := &pool{engine: e, trace: i, Pool: &fleet.Pool{
			ID: id, ProviderID: providerID, Owner: "simulation@example.com", Config: config,
			Created: epoch, LastModified: epoch, LaunchConfigs: configs,
		}}
		s, err := p.Settings()
		if err != nil {
			return err
		}
		if e.policy, err = sizing.ByName(s.Sizing.Policy); err != nil {
			return err
		}
		e.anyWorker = e.policy.Name() == sizing.WorkerManager{}.Name()
		e.pools = append(e.pools, p)
		e.byID[id] = p
	}
	return nil
}

// poolID names a pool after a trace.
func poolID(name string, taken map[string]*pool) string {
	clean := []byte(name)
	for i, c := range clean {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
			clean[i] = '-'
		}
	}
	id := "simulated/" + string(clean[:min(len(clean), 34)])
	for n := 2; taken[id] != nil; n++ {
		id = fmt.Sprintf("simulated/%s-%d", clean[:min(len(clean), 30)], n)
	}
	return id
}
