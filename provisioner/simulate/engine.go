package simulate

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/provisioner/sizing"
	"github.com/taskfleet/taskfleet/timestamp"
)

// An engine moves a simulation on, from one thing that happens to the next.
type engine struct {
	Options
	ctx    context.Context
	now    timestamp.Time
	start  timestamp.Time
	events events
	world  *world
	book   *book

	control  *fleet.Controller
	cut      context.CancelFunc // ends the pass that is under way
	steps    int                // of all controllers
	restarts int
	renewal  time.Duration // of workers' credentials

	pools    []*pool
	byID     map[string]*pool
	intended map[string]*pool // open intents
	machines map[string]*machine
	alive    []*machine // that EC2 has, in the order of their launch

	tasks    []task
	arrivals []int32 // in order
	tells    []int32 // tasks that are announced, in the order in which that happens
	told     int     // of tells, done
	arrived  int     // of arrivals, done
	left     int     // tasks that are not done
	lastDone timestamp.Time
	moved    timestamp.Time // when something ran last, or nothing was to be run
	full     timestamp.Time // of the last pass over all pools

	policy        sizing.Policy
	anyWorker     bool // the queue has no preference between workers
	chance        *rand.Rand
	announceError time.Duration

	launchedIdle, retries, drains, outrun, busyKilled, orphans int

	complaints     map[string]int
	firstComplaint map[string]string
	series         series
}

// An event is something that happens at a time.
type event struct {
	at   timestamp.Time
	seq  int64
	fire func(*engine)
}

// events are a binary heap, by time and then by when they were pushed.
type events struct {
	heap []event
	seq  int64
}

func (h *events) before(i, j int) bool {
	a, b := &h.heap[i], &h.heap[j]
	return a.at < b.at || a.at == b.at && a.seq < b.seq
}

func (e *engine) push(at timestamp.Time, fire func(*engine)) {
	h := &e.events
	h.seq++
	h.heap = append(h.heap, event{at, h.seq, fire})
	for i := len(h.heap) - 1; i > 0; {
		parent := (i - 1) / 2
		if !h.before(i, parent) {
			break
		}
		h.heap[i], h.heap[parent] = h.heap[parent], h.heap[i]
		i = parent
	}
}

func (h *events) pop() event {
	top, last := h.heap[0], len(h.heap)-1
	h.heap[0], h.heap[last] = h.heap[last], event{}
	h.heap = h.heap[:last]
	for i := 0; ; {
		child := 2*i + 1
		if child+1 < last && h.before(child+1, child) {
			child++
		}
		if child >= last || !h.before(child, i) {
			return top
		}
		h.heap[i], h.heap[child] = h.heap[child], h.heap[i]
		i = child
	}
}

const (
	// The server looks at a pool at most this often, except when the pool itself
	// said when; see sizing.Policy.
	reaction = time.Second
	// The server never makes passes closer to each other than this.
	pause = 200 * time.Millisecond
	// Where something has not been done yet, the server looks again after this.
	tick = 5 * time.Second
	// All pools, and machines that belong to none, are looked at this often.
	fullEvery = time.Minute
	// What the queue does in this time is not seen by a pass that drains workers.
	blink = 100 * time.Millisecond
	// Long after the last task nothing is waited for any more.
	afterwards = 2 * time.Hour
)

// run runs to the end.
func (e *engine) run() error {
	for e.ctx.Err() == nil {
		at, what := e.soonest()
		if what == nil || e.over(at) {
			return nil
		}
		if at > e.now {
			e.series.sample(e, at)
			e.now = at
		}
		what(e)
		if err := e.stuck(); err != nil {
			return err
		}
	}
	return e.ctx.Err()
}

// stuck is an error where nothing has run for a day though tasks wait: it may be
// that nothing ever will.
func (e *engine) stuck() error {
	if e.series.waiting == 0 || e.series.busy > 0 {
		e.moved = e.now
	}
	if e.now.Sub(e.moved) < 24*time.Hour {
		return nil
	}
	why := "nothing was complained of"
	for _, kind := range slices.Sorted(maps.Keys(e.firstComplaint)) {
		why = e.firstComplaint[kind]
	}
	return fmt.Errorf("%d tasks have waited for a day and none has run; the provisioner says: %s", e.series.waiting, why)
}

// over reports whether what happens from a time on matters no more: all tasks
// have been completed, and no machine is left or those that are stay.
func (e *engine) over(at timestamp.Time) bool {
	return e.left == 0 && (at > e.lastDone.Add(afterwards) || len(e.alive) == 0 && len(e.intended) == 0)
}

// soonest is what happens next. At the same time, the world moves first and
// then the queue, so that a pass sees all that is there.
func (e *engine) soonest() (at timestamp.Time, what func(*engine)) {
	sooner := func(t timestamp.Time, f func(*engine)) {
		if what == nil || t < at {
			at, what = t, f
		}
	}
	if next := e.world.cloud.Next(); !next.IsZero() {
		sooner(max(timestamp.Of(next.Add(time.Millisecond-1)), e.now), (*engine).advance)
	}
	if t, f := e.coming(); f != nil {
		sooner(t, f)
	}
	for _, p := range e.pools {
		if !p.next.IsZero() && (what == nil || p.next < at) {
			at, what = p.next, func(e *engine) { e.pass(p) }
		}
	}
	if len(e.alive) > 0 || len(e.intended) > 0 || e.full.IsZero() {
		sooner(max(e.full.Add(fullEvery), e.now), (*engine).passAll)
	}
	return at, what
}

// coming is what happens next in the queues.
func (e *engine) coming() (at timestamp.Time, what func(*engine)) {
	if len(e.events.heap) > 0 {
		at, what = e.events.heap[0].at, func(e *engine) { e.events.pop().fire(e) }
	}
	if e.told < len(e.tells) {
		if t := e.tellAt(e.tells[e.told]); what == nil || t < at {
			at, what = t, func(e *engine) {
				id := e.tells[e.told]
				e.told++
				if t := &e.tasks[id]; !t.arrived {
					t.pool.tell(id)
				}
			}
		}
	}
	if e.arrived < len(e.arrivals) {
		if t := e.start.Add(time.Duration(e.tasks[e.arrivals[e.arrived]].Arrival) * time.Millisecond); what == nil || t < at {
			at, what = t, func(e *engine) { e.arrived++; e.arrive(e.arrivals[e.arrived-1]) }
		}
	}
	return at, what
}

// advance lets what happens in the cloud happen, and the provider hear of it.
func (e *engine) advance() {
	e.world.cloud.Advance()
	if e.world.events() {
		// What goes wrong is the same as an event that is late: the next one brings
		// both.
		_ = e.world.provider.Poll(e.ctx, e.now)
	}
}

// meanwhile has the queues go on while a pass is under way.
func (e *engine) meanwhile() {
	until := e.now.Add(blink)
	for {
		at, what := e.coming()
		if what == nil || at > until {
			return
		}
		e.now = max(e.now, at)
		what(e)
	}
}

// wake has the controller look at a pool.
func (p *pool) wake() { p.wakeBy(max(p.now, p.last.Add(reaction))) }

// wakeBy has the controller look at a pool at a time, or before.
func (p *pool) wakeBy(at timestamp.Time) {
	at = max(at, p.now, p.last.Add(pause))
	if p.next.IsZero() || at < p.next {
		p.next = at
	}
}

// pass has the controller look at one pool.
func (e *engine) pass(p *pool) {
	p.last, p.next = e.now, 0
	e.controlled([]string{p.ID})
	e.again(p)
}

// passAll has it look at all of them, and at what belongs to none.
func (e *engine) passAll() {
	e.full = e.now
	e.findOrphans()
	for _, p := range e.pools {
		p.last, p.next = e.now, 0
	}
	e.controlled(nil)
	for _, p := range e.pools {
		e.again(p)
	}
}

func (e *engine) controlled(ids []string) {
	ctx, cancel := context.WithCancel(e.ctx)
	defer cancel()
	e.cut = cancel
	more, err := e.control.Pass(ctx, e.now, ids)
	if e.book.dead {
		e.restart()
		return
	}
	if err != nil && e.ctx.Err() == nil {
		e.complaints["pass: "+err.Error()]++
	}
	if more {
		for _, id := range ids {
			e.byID[id].wakeBy(e.now)
		}
	}
}

// again looks at a pool soon where something has not been done yet.
func (e *engine) again(p *pool) {
	if len(p.pending) > 0 || len(p.intents) > 0 {
		p.wakeBy(e.now.Add(tick))
	}
}

// step is told of each step of a controller, and crashes it where that is
// wanted.
func (e *engine) step(what string) {
	e.steps++
	if e.crash != nil && !e.book.dead && e.crash(e.steps, what) {
		e.book.dead = true
		e.cut()
	}
}

// restart begins anew with what is written down.
func (e *engine) restart() {
	e.restarts++
	e.book.dead = false
	if err := e.world.open(); err != nil {
		panic(err) // it was open before
	}
	e.control = e.world.controller(e)
	e.full = e.now.Add(-fullEvery)
}

// addTasks puts the tasks of traces into the pools of the same index.
func (e *engine) addTasks(traces []Trace) error {
	needs, _, err := link(traces)
	if err != nil {
		return err
	}
	first := make([]int32, len(traces))
	for i := range traces {
		first[i] = int32(len(e.tasks))
		for k := range traces[i].Tasks {
			e.tasks = append(e.tasks, task{Task: &traces[i].Tasks[k], pool: e.pools[i]})
		}
	}
	id := func(p place) int32 { return first[p.trace] + int32(p.task) }
	groups := map[string]*group{}
	for i := range traces {
		for k := range traces[i].Tasks {
			of := needs[place{i, k}]
			if len(of) == 0 {
				continue
			}
			list := make([]int32, len(of))
			for n, p := range of {
				list[n] = id(p)
			}
			slices.Sort(list)
			key := groupKey(i, list)
			g := groups[key]
			if g == nil {
				g = &group{pool: e.pools[i], needs: list, open: len(list), idle: len(list)}
				groups[key] = g
				for _, n := range list {
					e.tasks[n].unlocks = append(e.tasks[n].unlocks, g)
				}
			}
			e.tasks[id(place{i, k})].group = g
		}
	}
	e.left = len(e.tasks)
	e.arrivals = make([]int32, len(e.tasks))
	for i := range e.arrivals {
		e.arrivals[i] = int32(i)
	}
	slices.SortStableFunc(e.arrivals, func(a, b int32) int { return int(e.tasks[a].Arrival - e.tasks[b].Arrival) })
	e.announce()
	return nil
}

func groupKey(pool int, list []int32) string {
	key := []byte{byte(pool), byte(pool >> 8)}
	for _, n := range list {
		key = append(key, byte(n), byte(n>>8), byte(n>>16), byte(n>>24))
	}
	return string(key)
}

// announce chooses the tasks that are announced: a boot time ahead, and up to a
// quarter of that early or late.
func (e *engine) announce() {
	if e.Known <= 0 {
		return
	}
	draw := rand.New(rand.NewPCG(e.Seed, 2))
	const off = 0.25
	for _, id := range e.arrivals {
		if draw.Float64() >= e.Known {
			continue
		}
		t := &e.tasks[id]
		boot := float64(e.Boot.Milliseconds())
		t.at = e.tellAt(id).Add(time.Duration(boot*(1+off*(2*draw.Float64()-1))) * time.Millisecond)
		e.tells = append(e.tells, id)
	}
	e.announceError = time.Duration(float64(e.Boot) * off / 1.7320508) // of a uniform distribution
}

// tellAt is when a task is announced.
func (e *engine) tellAt(id int32) timestamp.Time {
	return e.start.Add(time.Duration(e.tasks[id].Arrival)*time.Millisecond - e.Boot)
}

// findOrphans counts machines that are in no books for too long.
func (e *engine) findOrphans() {
	for _, m := range e.alive {
		if m.row != nil || e.intended[m.token] != nil {
			m.known = e.now
		} else if !m.orphan && e.now.Sub(m.known) > orphanAfter {
			m.orphan = true
			e.orphans++
		}
	}
}

// orphanAfter is how long a machine may run without being in the books.
const orphanAfter = 3 * time.Minute
