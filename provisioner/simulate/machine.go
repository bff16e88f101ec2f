package simulate

import (
	"slices"
	"time"

	"github.com/taskfleet/taskfleet/provisioner/aws/awsfake"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A machine is an instance of EC2 and the worker on it.
type machine struct {
	id       string
	token    string // of the call that launched it
	capacity int
	pool     *pool         // as the books say; nil: they do not know it yet
	row      *fleet.Worker // in the books; nil: there is none, or none any more
	closed   bool          // there was one
	runs     []*run
	ran      int // runs so far
	released timestamp.Time
	free     bool           // in the pool's free
	leaving  bool           // it takes no more tasks
	gone     bool           // EC2 has ended it, or begun to
	left     bool           // it ended itself
	known    timestamp.Time // when it last was in the books, or was launched
	orphan   bool           // it has been in none for long
}

const (
	retryRegistration = 5 * time.Second  // a worker that is not known yet tries again
	watchNotices      = 5 * time.Second  // a worker looks for notices of interruption this often
	claimExpires      = 20 * time.Minute // a claim that nobody renews
)

// machine finds a machine, or makes it known: what EC2 tells of a launch may
// come after what the call of the launch answered.
func (e *engine) machine(id string) *machine {
	m := e.machines[id]
	if m == nil {
		m = &machine{id: id}
		e.machines[id] = m
	}
	return m
}

// happened is told of all that happens to instances.
func (e *engine) happened(h awsfake.Happening) {
	m := e.machine(h.Instance.ID)
	if e.Options.happened != nil {
		e.Options.happened(h)
	}
	switch h.Kind {
	case awsfake.Launched:
		m.token, m.known = h.Instance.ClientToken, timestamp.Of(h.At)
		e.alive = append(e.alive, m)
	case awsfake.Booted:
		e.register(m)
	case awsfake.Warned:
		e.push(e.now.Add(watchNotices), func(e *engine) { e.handBack(m) })
	case awsfake.Stopping:
		e.stopped(m, h)
	case awsfake.Terminated:
		e.forget(m)
	}
}

// register is a worker that registers, and begins to work.
func (e *engine) register(m *machine) {
	switch {
	case m.gone || m.leaving:
		return
	case m.row == nil && !m.closed:
		e.push(e.now.Add(retryRegistration), func(e *engine) { e.register(m) })
		return
	case m.row == nil || m.row.State != fleet.Requested:
		return // it is not wanted any more
	}
	e.book.change(m, func(w *fleet.Worker) {
		w.State, w.Registered, w.LastModified, w.Expires = fleet.Running, e.now, e.now, e.now.Add(e.renewal)
	})
	e.push(e.now.Add(e.renewal*2/3), func(e *engine) { e.renew(m) })
	m.capacity = int(max(m.row.Capacity, 1))
	e.series.ready += m.capacity
	e.series.up++
	m.pool.wake()
	e.work(m)
}

// renew is a worker that renews its credentials before they expire.
func (e *engine) renew(m *machine) {
	if m.gone || m.row == nil {
		return
	}
	e.book.change(m, func(w *fleet.Worker) { w.Expires = e.now.Add(e.renewal) })
	e.push(e.now.Add(e.renewal*2/3), func(e *engine) { e.renew(m) })
}

// handBack is a worker that has seen a notice of interruption: it hands back
// what it runs and ends itself.
func (e *engine) handBack(m *machine) {
	if m.gone || m.pool == nil {
		return
	}
	m.leaving = true
	m.pool.leave(m)
	e.takeBack(m)
	m.left = true
	// That it is gone by now can only be because of the same notice.
	_ = e.world.cloud.Shutdown(m.id)
}

// stopped is an instance that begins to end.
func (e *engine) stopped(m *machine, h awsfake.Happening) {
	m.gone, m.leaving = true, true
	e.alive = slices.DeleteFunc(e.alive, func(x *machine) bool { return x == m })
	if m.ran == 0 {
		e.launchedIdle++
	}
	if m.pool == nil {
		return
	}
	m.pool.leave(m)
	if m.capacity > 0 {
		e.series.ready -= m.capacity
		e.series.up--
	}
	if len(m.runs) == 0 {
		return
	}
	if interrupted := !h.Instance.Warned.IsZero() && h.At.Sub(h.Instance.Warned) >= noticeTime; !m.left && !interrupted {
		e.busyKilled++
	}
	for _, r := range m.runs {
		r.lost = true
	}
	e.push(e.now.Add(claimExpires), func(e *engine) { e.takeBack(m) })
}

// noticeTime is between a notice of interruption and the interruption.
const noticeTime = 2 * time.Minute

// forget drops what will not be asked for any more.
func (e *engine) forget(m *machine) {
	if m.closed && m.gone && len(m.runs) == 0 {
		delete(e.machines, m.id)
	}
}
