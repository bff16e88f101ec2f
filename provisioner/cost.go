package provisioner

import (
	"context"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// leastBill is what the shortest-lived machine is paid for.
const leastBill = time.Minute

// billed is how long a worker is paid for.
type billed time.Duration

// bill is how long w is paid for of the time between two moments, as seen at
// one: from when it was asked for until it had ended.
func bill(w *fleet.Worker, from, to, at timestamp.Time) billed {
	end := at
	if w.State == fleet.Stopped {
		end = w.LastModified
	}
	end = max(end, w.Created.Add(leastBill))
	return billed(max(min(end, to).Sub(max(w.Created, from)), 0))
}

func (b billed) hours() float64 { return time.Duration(b).Hours() }

// cost is what it comes to, in dollars.
func (b billed) cost(w *fleet.Worker) float64 { return b.hours() * dollars(w.Price) }

type poolCost struct {
	WorkerPoolID  string         `json:"workerPoolId"`
	From          timestamp.Time `json:"from"`
	To            timestamp.Time `json:"to"`
	Cost          float64        `json:"cost"`
	Workers       int64          `json:"workers"`
	Unpriced      int64          `json:"unpriced"`
	WorkerHours   float64        `json:"workerHours"`
	CapacityHours float64        `json:"capacityHours"`
	Tasks         int64          `json:"tasks"`
	TaskHours     float64        `json:"taskHours"`
	CostPerTask   *float64       `json:"costPerTask,omitempty"`
	CostPerHour   float64        `json:"costPerHour"`
	Overhead      *float64       `json:"overhead,omitempty"`
}

var workerPoolCost = api.Declare(api.Spec{
	Name: "workerPoolCost", Route: "GET /worker-pool/<workerPoolId...>/cost", Query: []string{"from", "to"}, Scopes: readPool, Output: "v1/worker-pool-cost.json#",
	Stability: api.Experimental, Category: "Worker Pools", Title: "Cost of a worker pool",
	Doc: `Says what a pool has cost from one time to another, by default in the last 24 hours, and what it was spent on. Workers
are known for a week after they have ended, so ` + "`from`" + ` can be no longer ago. Prices are those at which workers were
bought; the bill of the provider has the last word.`,
}, func(ctx context.Context, p *Provisioner, c api.Call[poolPath, api.None]) (out poolCost, err error) {
	at := now()
	out = poolCost{WorkerPoolID: c.Path.WorkerPoolID, From: at.Add(-24 * time.Hour), To: at}
	if s := c.Query("to"); s != "" {
		if err := out.To.UnmarshalText([]byte(s)); err != nil {
			return out, api.Errorf(api.InvalidRequestArguments, "to is wrong: %v", err)
		}
		out.To, out.From = min(out.To, at), min(out.To, at).Add(-24*time.Hour)
	}
	if s := c.Query("from"); s != "" {
		if err := out.From.UnmarshalText([]byte(s)); err != nil {
			return out, api.Errorf(api.InvalidRequestArguments, "from is wrong: %v", err)
		}
	}
	switch oldest := at.Add(-recordLife); {
	case out.From >= out.To:
		return out, api.Errorf(api.InputError, "from is %s and to is %s; from has to come first.", out.From, out.To)
	case out.From < oldest:
		return out, api.Errorf(api.InputError, "from is %s; what was before %s is not known any more.", out.From, oldest)
	}
	err = p.db.View(ctx, func(tx *store.Tx) error {
		out.Cost, out.Workers, out.Unpriced, out.WorkerHours, out.CapacityHours = 0, 0, 0, 0, 0
		list, err := queryWorkers(tx, `
			WHERE worker_pool_id = $1 AND created < $2 AND (state <> 'stopped' OR last_modified > $3)`, c.Path.WorkerPoolID, out.To, out.From.Add(-leastBill))
		if err != nil {
			return err
		}
		for _, w := range list {
			b := bill(w, out.From, out.To, at)
			if b == 0 {
				continue
			}
			out.Workers++
			if w.Price == 0 {
				out.Unpriced++
			}
			out.Cost += b.cost(w)
			out.WorkerHours += b.hours()
			out.CapacityHours += b.hours() * float64(w.Capacity)
		}
		out.Tasks, out.TaskHours, err = tasksOf(tx, c.Path.WorkerPoolID, out.From, out.To)
		return err
	})
	out.CostPerHour = out.Cost / out.To.Sub(out.From).Hours()
	if out.Tasks > 0 {
		each := out.Cost / float64(out.Tasks)
		out.CostPerTask = &each
	}
	if out.TaskHours > 0 {
		overhead := out.CapacityHours/out.TaskHours - 1
		out.Overhead = &overhead
	}
	return out, err
})

// A Run is a run of a task that has ended, in success or failure.
type Run struct {
	Position int64 // of the message that tells of it
	PoolID   string
	Ended    timestamp.Time
	Length   time.Duration
}

// tallyStep is how finely runs are counted in time.
const tallyStep = time.Minute

// Tally counts runs, in the order of their positions, for what pools cost. What
// is told twice is counted once.
func (p *Provisioner) Tally(ctx context.Context, list []Run) error {
	if len(list) == 0 {
		return nil
	}
	type key struct {
		pool string
		at   timestamp.Time
	}
	type sum struct {
		tasks  int64
		length time.Duration
	}
	return p.db.Do(ctx, func(tx *store.Tx) error {
		counted := int64(0)
		err := tx.QueryRow(`SELECT position FROM tally_position WHERE one = 1 /*for update*/`).Scan(&counted)
		if err != nil && !isMissing(err) {
			return err
		}
		sums := map[key]sum{}
		for _, r := range list {
			if r.Position > counted {
				k := key{r.PoolID, r.Ended - r.Ended%timestamp.Time(tallyStep.Milliseconds())}
				s := sums[k]
				sums[k] = sum{s.tasks + 1, s.length + r.Length}
				counted = r.Position
			}
		}
		if _, err := tx.Exec(`
			INSERT INTO tally_position (one, position) VALUES (1, $1) ON CONFLICT (one) DO UPDATE SET position = $1`, counted); err != nil {
			return err
		}
		for k, s := range sums {
			if _, err := tx.Exec(`
				INSERT INTO tally (worker_pool_id, at, tasks, length) VALUES ($1, $2, $3, $4)
				ON CONFLICT (worker_pool_id, at) DO UPDATE SET tasks = tally.tasks + $3, length = tally.length + $4`,
				k.pool, k.at, s.tasks, s.length.Milliseconds()); err != nil {
				return err
			}
		}
		return nil
	})
}

// tasksOf counts the runs of a pool that ended between two times, to the
// minute, and the hours that they took.
func tasksOf(tx *store.Tx, pool string, from, to timestamp.Time) (tasks int64, hours float64, err error) {
	var length int64
	err = tx.QueryRow(`
		SELECT CAST(coalesce(sum(tasks), 0) AS BIGINT), CAST(coalesce(sum(length), 0) AS BIGINT) FROM tally
		 WHERE worker_pool_id = $1 AND at >= $2 AND at < $3`, pool, from, to).Scan(&tasks, &length)
	return tasks, (time.Duration(length) * time.Millisecond).Hours(), err
}
