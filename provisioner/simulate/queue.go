package simulate

import (
	"context"
	"slices"
	"time"

	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/provisioner/sizing"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A pool is what the simulation knows of one: its books and its queue.
type pool struct {
	*fleet.Pool
	*engine
	trace int

	crew    []*machine      // that have an open row, oldest first
	intents []*fleet.Intent // open

	pending []int32    // tasks, the one that came first first
	free    []*machine // can take a task; the one that did so last is last
	running []*run
	known   []*group // whose tasks can be foreseen
	told    []int32  // tasks that were announced, see Options.Known

	next     timestamp.Time   // of the next pass over this pool; 0: none
	last     timestamp.Time   // of the last one
	ages     []sizing.Running // what Demand said last of running
	upcoming []fleet.Upcoming
	stale    bool // upcoming is not what known and told say
}

// A task is a Task at work.
type task struct {
	*Task
	pool    *pool
	group   *group   // of those that depend on the same ones; nil if on none
	unlocks []*group // that need it
	run     *run     // that it is in now
	since   timestamp.Time
	waited  int64          // milliseconds in the queue, until it was given away
	at      timestamp.Time // when it will come, as was announced; 0: it was not
	arrived bool
	done    bool
	known   bool // it could be foreseen
}

// A group are the tasks of a pool that depend on the same tasks.
type group struct {
	pool    *pool
	needs   []int32
	members []int32 // that have been created, and wait
	open    int     // of needs that are not completed
	idle    int     // of needs that neither run nor are completed
	listed  bool    // in the pool's known
}

// A run is a task on a machine.
type run struct {
	task    int32
	machine *machine
	since   timestamp.Time
	at      int  // in the pool's running
	lost    bool // the machine has ended
}

// arrive is a task being created.
func (e *engine) arrive(id int32) {
	t := &e.tasks[id]
	t.arrived = true
	if !t.at.IsZero() {
		t.known = true
		t.pool.untell(id)
	}
	if g := t.group; g != nil && g.open > 0 {
		g.members = append(g.members, id)
		t.known = t.known || g.listed
		g.relist()
		return
	}
	e.enqueue(id)
}

// enqueue makes a task pending.
func (e *engine) enqueue(id int32) {
	t := &e.tasks[id]
	t.since = e.now
	known := int64(0)
	if t.known {
		known = 1
	}
	e.control.Arrived(t.pool.ID, e.now, 1, known)
	t.pool.wake()
	if m := t.pool.choose(); m != nil {
		e.give(m, id)
		return
	}
	t.pool.pending = append(t.pool.pending, id)
	e.series.wait(1)
}

// choose is the machine that asks for work first, or that the queue prefers.
func (p *pool) choose() *machine {
	n := len(p.free)
	if n == 0 {
		return nil
	}
	if p.anyWorker {
		return p.free[p.chance.IntN(n)]
	}
	return p.free[n-1]
}

// give has a machine run a task.
func (e *engine) give(m *machine, id int32) {
	t := &e.tasks[id]
	p := t.pool
	t.waited += int64(e.now - t.since)
	r := &run{task: id, machine: m, since: e.now, at: len(p.running)}
	t.run = r
	p.running = append(p.running, r)
	e.series.busy++
	m.runs = append(m.runs, r)
	m.ran++
	e.push(e.now.Add(time.Duration(t.Duration)*time.Millisecond), func(e *engine) { e.finish(r) })
	if len(m.runs) >= m.capacity {
		p.leave(m)
	} else {
		p.offer(m)
	}
	for _, g := range t.unlocks {
		g.idle--
		g.relist()
	}
}

// offer puts a machine at the end of those that can take a task.
func (p *pool) offer(m *machine) {
	p.leave(m)
	p.free = append(p.free, m)
	m.free = true
}

// leave takes a machine out of those that can take a task.
func (p *pool) leave(m *machine) {
	if !m.free {
		return
	}
	m.free = false
	for i, x := range slices.Backward(p.free) {
		if x == m {
			p.free = slices.Delete(p.free, i, i+1)
			return
		}
	}
}

// drop ends a run, one way or another.
func (p *pool) drop(r *run) {
	last := p.running[len(p.running)-1]
	p.running[r.at], last.at = last, r.at
	p.running = p.running[:len(p.running)-1]
	p.series.busy--
	m := r.machine
	m.runs = slices.DeleteFunc(m.runs, func(x *run) bool { return x == r })
	p.tasks[r.task].run = nil
}

// finish is a task being completed.
func (e *engine) finish(r *run) {
	if r.lost {
		return
	}
	t := &e.tasks[r.task]
	p, m := t.pool, r.machine
	p.drop(r)
	m.released = e.now
	t.done = true
	e.left--
	e.lastDone = e.now
	e.control.Finished(p.ID, e.now, t.Kind, e.now.Sub(r.since))
	p.wake()
	e.work(m)
	for _, g := range t.unlocks {
		g.open--
		g.relist()
		if g.open > 0 {
			continue
		}
		for _, id := range g.members {
			e.enqueue(id)
		}
		g.members = nil
	}
}

// work has a machine take as many tasks as it can run.
func (e *engine) work(m *machine) {
	p := m.pool
	if m.leaving || m.row == nil || m.row.Drained || m.row.Leave != "" {
		return
	}
	for len(p.pending) > 0 && len(m.runs) < m.capacity {
		id := p.pending[0]
		p.pending = p.pending[1:]
		e.series.wait(-1)
		e.give(m, id)
	}
	if len(m.runs) < m.capacity {
		p.offer(m)
	}
}

// takeBack makes what a machine runs pending again, at the head of the queue.
func (e *engine) takeBack(m *machine) {
	for len(m.runs) > 0 {
		r := m.runs[len(m.runs)-1]
		t := &e.tasks[r.task]
		r.lost = true
		t.pool.drop(r)
		for _, g := range t.unlocks {
			g.idle++
			g.relist()
		}
		e.retries++
		t.since = e.now
		if n := t.pool.choose(); n != nil && n != m {
			e.give(n, r.task)
		} else {
			t.pool.pending = slices.Insert(t.pool.pending, 0, r.task)
			e.series.wait(1)
		}
		t.pool.wake()
	}
}

// relist notes whether the tasks of a group can be foreseen: all that they wait
// for runs.
func (g *group) relist() {
	p := g.pool
	p.stale = true
	foreseen := g.open > 0 && g.idle == 0 && len(g.members) > 0
	switch {
	case foreseen && !g.listed:
		p.known = append(p.known, g)
		for _, id := range g.members {
			p.tasks[id].known = true
		}
		p.wake()
	case !foreseen && g.listed:
		p.known = slices.DeleteFunc(p.known, func(x *group) bool { return x == g })
	}
	g.listed = foreseen
}

// tell announces a task.
func (p *pool) tell(id int32) {
	p.told = append(p.told, id)
	p.stale = true
	p.wake()
}

func (p *pool) untell(id int32) {
	if i := slices.Index(p.told, id); i >= 0 {
		p.told = slices.Delete(p.told, i, i+1)
		p.stale = true
	}
}

// foresee lists what the queue knows to be coming.
func (p *pool) foresee() []fleet.Upcoming {
	if !p.stale {
		return p.upcoming
	}
	p.stale = false
	list := make([]fleet.Upcoming, 0, len(p.known)+len(p.told))
	for _, g := range p.known {
		u := fleet.Upcoming{Count: int64(len(g.members))}
		for _, id := range g.needs {
			if t := &p.tasks[id]; !t.done {
				u.After = append(u.After, fleet.Ahead{PoolID: t.pool.ID, Kind: t.Kind, Since: t.run.since})
			}
		}
		list = append(list, u)
	}
	for _, id := range p.told {
		list = append(list, fleet.Upcoming{Count: 1, At: p.tasks[id].at, Error: p.announceError})
	}
	p.upcoming = list
	return list
}

// queue is the queues of all pools, as the controller asks for them.
type queue struct{ *engine }

var _ fleet.Queue = queue{}

// Demand is what pools have to do.
func (q queue) Demand(_ context.Context, _ timestamp.Time, ids []string) (map[string]fleet.Demand, error) {
	all := make(map[string]fleet.Demand, len(ids))
	for _, id := range ids {
		p := q.byID[id]
		d := fleet.Demand{Pending: int64(len(p.pending)), Claimed: int64(len(p.running)), Known: p.foresee(), Of: p.seen()}
		if d.Pending > 0 {
			d.Oldest = q.tasks[p.pending[0]].since
		}
		p.ages = p.ages[:0]
		for _, r := range p.running {
			p.ages = append(p.ages, sizing.Running{Kind: q.tasks[r.task].Kind, Since: r.since})
		}
		d.Running = p.ages
		all[id] = d
	}
	return all, nil
}

// seen finds what the queue knows of workers. It is most often asked for all of
// the books, in their order, and need not search then.
func (p *pool) seen() func(fleet.Ref) fleet.Seen {
	next := 0
	return func(r fleet.Ref) fleet.Seen {
		var m *machine
		if next >= len(p.crew) || p.crew[next].id != r.WorkerID {
			next = 0
		}
		if next < len(p.crew) && p.crew[next].id == r.WorkerID {
			m = p.crew[next]
			next++
		} else if m = p.machines[r.WorkerID]; m == nil {
			return fleet.Seen{}
		}
		s := fleet.Seen{Claims: int64(len(m.runs)), Released: m.released}
		if !m.leaving {
			s.Active = p.now // it asks all the time
		}
		return s
	}
}

// WorkerGone takes back what a worker that has ended had.
func (q queue) WorkerGone(_ context.Context, _, _, id string) error {
	if q.book.dead {
		return errCrashed
	}
	if m := q.machines[id]; m != nil && m.pool != nil {
		m.leaving = true
		m.pool.leave(m)
		q.takeBack(m)
	}
	return nil
}
