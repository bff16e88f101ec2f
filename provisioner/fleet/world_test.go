package fleet

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/timestamp"
)

// A world is a controller with books and a queue in memory, and a provider that
// does what a test says.
type world struct {
	t   *testing.T
	now timestamp.Time
	*Controller

	mu         sync.Mutex
	pools      []*Pool
	workers    map[Ref]*Worker
	intents    map[string]*Intent
	complaints []Complaint
	decisions  []Decided
	learnt     map[string]json.RawMessage
	pending    map[string]int64
	seen       map[Ref]Seen
	gone       []Ref // whose claims were handed back
	deaf       error
	broken     string // a method of the books that fails

	machines map[Ref]Sighting
	launched map[string]int // intents, how often
	stopped  []Ref          // by force
	answer   func(*Intent) Answer
	blind    error
	lingers  bool // Stop says of nothing that it is gone
	panics   string
	n        int
}

func newWorld(t *testing.T, pools ...string) *world {
	w := &world{
		t: t, now: timestamp.Time(time.Date(2026, 3, 2, 8, 0, 0, 0, time.UTC).UnixMilli()),
		workers: map[Ref]*Worker{}, intents: map[string]*Intent{}, learnt: map[string]json.RawMessage{},
		pending: map[string]int64{}, seen: map[Ref]Seen{}, machines: map[Ref]Sighting{}, launched: map[string]int{},
	}
	for _, id := range pools {
		w.add(id, `{"maxCapacity": 10}`, &LaunchConfig{ID: "lc-1", Capacity: 1})
	}
	w.restart()
	return w
}

func (w *world) add(id, config string, list ...*LaunchConfig) *Pool {
	o := &Pool{ID: id, ProviderID: "p", Config: json.RawMessage(config), LastModified: w.now, LaunchConfigs: list}
	w.pools = append(w.pools, o)
	return o
}

// restart makes a controller that remembers nothing.
func (w *world) restart() {
	w.Controller = New(Config{
		Book: ledger{w}, Queue: w, Providers: map[string]Provider{"p": sky{w}}, Log: slog.New(slog.DiscardHandler), PoolsAtOnce: 4,
	})
}

// pass lets time pass, and then a pass.
func (w *world) pass(after time.Duration) {
	w.t.Helper()
	w.now = w.now.Add(after)
	if _, err := w.Pass(w.t.Context(), w.now, nil); err != nil {
		w.t.Fatal(err)
	}
}

// count counts the workers in a state; "" is every one that has not stopped.
func (w *world) count(state string) (n int) {
	for _, x := range w.workers {
		if x.State == state || state == "" && x.State != Stopped {
			n++
		}
	}
	return n
}

func (w *world) kinds() (list []string) {
	for _, c := range w.complaints {
		list = append(list, c.Kind)
	}
	return list
}

func (w *world) one() *Worker {
	w.t.Helper()
	for _, x := range w.workers {
		return x
	}
	w.t.Fatal("there is no worker")
	return nil
}

// register is what a worker's registration does.
func (w *world) register() {
	for _, x := range w.workers {
		if x.State == Requested {
			x.State, x.Registered, x.LastModified, x.Expires = Running, w.now, w.now, w.now.Add(96*time.Hour)
		}
	}
}

// The queue.

func (w *world) Demand(_ context.Context, _ timestamp.Time, pools []string) (map[string]Demand, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	out, seen := map[string]Demand{}, maps.Clone(w.seen)
	for _, id := range pools {
		out[id] = Demand{Pending: w.pending[id], Of: func(r Ref) Seen { return seen[r] }}
	}
	return out, w.deaf
}

func (w *world) WorkerGone(_ context.Context, pool, group, id string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := Ref{pool, group, id}
	if x := w.workers[r]; x != nil && x.State == Running && x.Leave == "" {
		w.t.Errorf("the claims of %v are handed back while it can still get one", r)
	}
	w.gone = append(w.gone, r)
	return w.deaf
}

// A sky is the world as a provider.
type sky struct{ *world }

func (w sky) Type() string          { return "world" }
func (w sky) DefaultPolicy() string { return "ratio" }

func (w sky) Parse(json.RawMessage) ([]*LaunchConfig, error) { panic("the controller does not parse") }

func (w sky) Plan(_ context.Context, _ timestamp.Time, n Need) (p Plan, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.panics == n.Pool.ID {
		panic("as wished")
	}
	left := n.Capacity
	for _, c := range n.From {
		if k := min(left/c.Capacity, c.Workers); k > 0 {
			w.n++
			p.Intents = append(p.Intents, &Intent{ID: fmt.Sprintf("i%d", w.n), LaunchConfigID: c.ID, Workers: k, Capacity: k * c.Capacity})
			left -= k * c.Capacity
		}
	}
	return p, nil
}

func (w sky) Launch(_ context.Context, _ timestamp.Time, i *Intent) (a Answer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.launched[i.ID]++
	if w.answer != nil {
		return w.answer(i)
	}
	return w.start(i)
}

func (w *world) start(i *Intent) (a Answer) {
	for n := range i.Workers {
		r := Ref{i.PoolID, "g", fmt.Sprintf("%s-%d", i.ID, n)}
		if _, there := w.machines[r]; !there {
			w.machines[r] = Sighting{Ref: r, IntentID: i.ID}
		}
		a.Started = append(a.Started, Started{Ref: r, Capacity: i.Capacity / i.Workers, Market: "m"})
	}
	return a
}

func (w sky) Look(context.Context, timestamp.Time) (Sight, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return Sightings(maps.Clone(w.machines)), w.blind
}

func (w sky) Stop(_ context.Context, _ timestamp.Time, list []Target, how Manner) (gone []Ref, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range list {
		if how == Gracefully {
			continue
		}
		if w.panics == "stop" {
			panic("as wished")
		}
		w.stopped = append(w.stopped, t.Ref)
		if !w.lingers {
			delete(w.machines, t.Ref)
			gone = append(gone, t.Ref)
		}
	}
	return gone, nil
}

func (w sky) Identify(context.Context, timestamp.Time, *Worker, json.RawMessage) error { return nil }

// A ledger is the world as books.
type ledger struct{ *world }

func (w *world) fails(method string) error {
	if w.broken == method {
		return errors.New("the books are wet")
	}
	return nil
}

func (w ledger) Read(_ context.Context, ids []string) (*Snapshot, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := &Snapshot{Workers: map[string][]*Worker{}, Intents: map[string][]*Intent{}}
	for _, o := range w.pools {
		if ids != nil && !slices.Contains(ids, o.ID) {
			continue
		}
		c := *o
		c.Statistics, c.LaunchConfigs, c.settings = w.learnt[o.ID], nil, nil
		for _, lc := range o.LaunchConfigs {
			x := *lc
			c.LaunchConfigs = append(c.LaunchConfigs, &x)
		}
		s.Pools = append(s.Pools, &c)
	}
	for _, x := range w.workers {
		if x.State != Stopped {
			c := *x
			s.Workers[x.WorkerPoolID] = append(s.Workers[x.WorkerPoolID], &c)
		}
	}
	for _, list := range s.Workers {
		slices.SortFunc(list, func(a, b *Worker) int {
			return cmp.Or(cmp.Compare(a.Created, b.Created), cmp.Compare(a.WorkerID, b.WorkerID))
		})
	}
	for _, i := range w.intents {
		c := *i
		s.Intents[i.PoolID] = append(s.Intents[i.PoolID], &c)
	}
	return s, w.fails("Read")
}

func (w ledger) Intend(_ context.Context, _ timestamp.Time, _ *Pool, list []*Intent) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, i := range list {
		c := *i
		w.intents[i.ID] = &c
	}
	return true, w.fails("Intend")
}

// breakers keeps the state of breakers.
func (w *world) breakers(o *Pool) {
	for _, p := range w.pools {
		if p.ID == o.ID {
			for _, c := range o.LaunchConfigs {
				if x := p.LaunchConfig(c.ID); x != nil {
					*x = *c
				}
			}
		}
	}
}

func (w ledger) Answer(_ context.Context, _ timestamp.Time, o *Pool, i *Intent, a Answered) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.fails("Answer"); err != nil || w.intents[i.ID] == nil {
		return err
	}
	for _, x := range a.Workers {
		if w.workers[x.Ref] == nil {
			c := *x
			w.workers[x.Ref] = &c
		}
	}
	w.complaints = append(w.complaints, a.Complaints...)
	w.breakers(o)
	c := *i
	w.intents[i.ID] = &c
	if a.Final {
		delete(w.intents, i.ID)
	}
	return nil
}

func (w ledger) Prove(_ context.Context, _ timestamp.Time, o *Pool, x *Worker) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.workers[x.Ref].Proven = true
	for _, p := range w.pools {
		if p.ID == o.ID {
			if c := p.LaunchConfig(x.LaunchConfigID); c != nil {
				c.Proven, c.Failures, c.StartAfter = true, 0, 0
			}
		}
	}
	return nil
}

func (w ledger) Asked(_ context.Context, now timestamp.Time, list []*Worker) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, x := range list {
		w.workers[x.Ref].Asked = now
	}
	return nil
}

func (w *world) move(x *Worker, to, reason string, now timestamp.Time) bool {
	row := w.workers[x.Ref]
	if row.State != x.State {
		return false
	}
	row.State, row.Reason, row.LastModified = to, reason, now
	return true
}

func (w *world) ending(o *Pool, e Ending) {
	if e.Complaint != nil {
		w.complaints = append(w.complaints, *e.Complaint)
	}
	if e.Failed {
		w.breakers(o)
	}
}

func (w ledger) Stop(_ context.Context, now timestamp.Time, o *Pool, x *Worker, e Ending) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	moved := w.move(x, Stopping, e.Reason, now)
	if moved {
		w.workers[x.Ref].Ends = x.Ends
		w.ending(o, e)
	}
	return moved, w.fails("Stop")
}

func (w ledger) Drain(_ context.Context, now timestamp.Time, _ *Pool, list []*Worker, reason string) (drained []*Worker, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, x := range list {
		if w.seen[x.Ref].Claims == 0 && w.move(x, Stopping, reason, now) {
			w.workers[x.Ref].Drained = true
			drained = append(drained, x)
		}
	}
	return drained, w.fails("Drain")
}

func (w ledger) Retire(_ context.Context, _ timestamp.Time, _ *Pool, list []*Worker, reason string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, x := range list {
		w.workers[x.Ref].Leave = reason
	}
	return w.fails("Retire")
}

func (w ledger) Close(_ context.Context, now timestamp.Time, o *Pool, x *Worker, e Ending) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.move(x, Stopped, e.Reason, now)
	w.ending(o, e)
	return w.fails("Close")
}

func (w ledger) Complain(_ context.Context, _ timestamp.Time, _ *Pool, c Complaint) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.complaints = append(w.complaints, c)
	return nil
}

func (w ledger) Remove(_ context.Context, _ timestamp.Time, o *Pool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pools = slices.DeleteFunc(w.pools, func(x *Pool) bool { return x.ID == o.ID })
	return nil
}

func (w ledger) Decided(_ context.Context, _ timestamp.Time, _ *Pool, d Decided) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.decisions = append(w.decisions, d)
	return nil
}

func (w ledger) Learnt(_ context.Context, _ timestamp.Time, o *Pool, statistics json.RawMessage) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.learnt[o.ID] = statistics
	return w.fails("Learnt")
}
