package simulate

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A book is kept in memory. A row that has been read is never modified: what
// changes it puts a changed copy in its place. Pools and launch configurations
// are shared with the controller, which modifies nothing of them that it does
// not write down.
type book struct {
	*engine
	dead bool // the controller has crashed: nothing it does is written down any more
}

var _ fleet.Book = (*book)(nil)

var errCrashed = errors.New("the simulated server has crashed")

// Read returns the rows as they are.
func (b *book) Read(_ context.Context, ids []string) (*fleet.Snapshot, error) {
	if b.dead {
		return nil, errCrashed
	}
	n := len(ids)
	if ids == nil {
		n = len(b.pools)
	}
	s := &fleet.Snapshot{Pools: make([]*fleet.Pool, 0, n), Workers: make(map[string][]*fleet.Worker, n), Intents: make(map[string][]*fleet.Intent, n)}
	add := func(p *pool) {
		s.Pools = append(s.Pools, p.Pool)
		rows := make([]*fleet.Worker, len(p.crew))
		for n, m := range p.crew {
			rows[n] = m.row
		}
		s.Workers[p.ID] = rows
		if len(p.intents) > 0 {
			list := make([]*fleet.Intent, len(p.intents))
			for n, i := range p.intents {
				c := *i
				list[n] = &c
			}
			s.Intents[p.ID] = list
		}
	}
	if ids == nil {
		for _, p := range b.pools {
			add(p)
		}
		return s, nil
	}
	for _, id := range ids {
		if p := b.byID[id]; p != nil {
			add(p)
		}
	}
	return s, nil
}

// Intend writes intents.
func (b *book) Intend(_ context.Context, _ timestamp.Time, o *fleet.Pool, list []*fleet.Intent) (bool, error) {
	if b.dead {
		return false, errCrashed
	}
	p := b.byID[o.ID]
	for _, i := range list {
		c := *i
		p.intents = append(p.intents, &c)
		b.intended[i.ID] = p
	}
	return true, nil
}

// Answer writes the workers of an intent, and closes it.
func (b *book) Answer(_ context.Context, _ timestamp.Time, o *fleet.Pool, i *fleet.Intent, a fleet.Answered) error {
	p := b.byID[o.ID]
	at := slices.IndexFunc(p.intents, func(x *fleet.Intent) bool { return x.ID == i.ID })
	switch {
	case b.dead:
		return errCrashed
	case at < 0:
		return nil
	}
	p.intents[at].Attempts, p.intents[at].NextAttempt = i.Attempts, i.NextAttempt
	for _, w := range a.Workers {
		m := b.machine(w.WorkerID)
		if m.row != nil || m.closed {
			continue
		}
		m.pool, m.row = p, w
		p.crew = append(p.crew, m)
	}
	if a.Final {
		p.intents = slices.Delete(p.intents, at, at+1)
		delete(b.intended, i.ID)
	}
	b.complain(a.Complaints...)
	return nil
}

// row is the machine of a row that is still in the state in which it was read;
// nil if it is not.
func (b *book) row(w *fleet.Worker) *machine {
	m := b.machines[w.WorkerID]
	if m == nil || m.row == nil || m.row.State != w.State {
		return nil
	}
	return m
}

// change puts a changed copy of a row into its place.
func (b *book) change(m *machine, f func(w *fleet.Worker)) {
	c := *m.row
	f(&c)
	m.row = &c
}

// Prove writes that a worker works.
func (b *book) Prove(_ context.Context, _ timestamp.Time, _ *fleet.Pool, w *fleet.Worker) error {
	if b.dead {
		return errCrashed
	}
	if m := b.machines[w.WorkerID]; m != nil && m.row != nil {
		b.change(m, func(w *fleet.Worker) { w.Proven = true })
	}
	return nil
}

// Asked writes that workers were asked to end.
func (b *book) Asked(_ context.Context, at timestamp.Time, list []*fleet.Worker) error {
	if b.dead {
		return errCrashed
	}
	for _, w := range list {
		if m := b.machines[w.WorkerID]; m != nil && m.row != nil {
			b.change(m, func(w *fleet.Worker) { w.Asked = at })
		}
	}
	return nil
}

// Stop puts a worker into the state stopping.
func (b *book) Stop(_ context.Context, at timestamp.Time, _ *fleet.Pool, w *fleet.Worker, e fleet.Ending) (bool, error) {
	if b.dead {
		return false, errCrashed
	}
	m := b.row(w)
	if m == nil {
		return false, nil
	}
	ends := w.Ends
	b.change(m, func(w *fleet.Worker) { w.State, w.Reason, w.LastModified, w.Ends = fleet.Stopping, e.Reason, at, ends })
	if e.Complaint != nil {
		b.complain(*e.Complaint)
	}
	return true, nil
}

// Drain puts those of the workers that have no claim into the state stopping,
// and has the queue give them nothing more. What the queue has done since the
// controller looked at it is done by then.
func (b *book) Drain(_ context.Context, at timestamp.Time, _ *fleet.Pool, list []*fleet.Worker, reason string) (drained []*fleet.Worker, err error) {
	if b.dead {
		return nil, errCrashed
	}
	b.meanwhile()
	for _, w := range list {
		m := b.row(w)
		if m == nil || len(m.runs) > 0 {
			b.outrun++
			continue
		}
		m.pool.leave(m)
		b.change(m, func(w *fleet.Worker) {
			w.State, w.Reason, w.LastModified, w.Drained = fleet.Stopping, reason, at, true
		})
		drained = append(drained, w)
	}
	b.drains += len(drained)
	return drained, nil
}

// Retire has the queue give workers nothing more.
func (b *book) Retire(_ context.Context, _ timestamp.Time, _ *fleet.Pool, list []*fleet.Worker, reason string) error {
	if b.dead {
		return errCrashed
	}
	for _, w := range list {
		if m := b.row(w); m != nil && m.row.Leave == "" {
			m.pool.leave(m)
			b.change(m, func(w *fleet.Worker) { w.Leave = reason })
		}
	}
	return nil
}

// Close puts a worker into the state stopped.
func (b *book) Close(_ context.Context, _ timestamp.Time, _ *fleet.Pool, w *fleet.Worker, e fleet.Ending) error {
	if b.dead {
		return errCrashed
	}
	m := b.machines[w.WorkerID]
	if m == nil || m.row == nil {
		return nil
	}
	at := slices.Index(m.pool.crew, m)
	m.pool.crew = slices.Delete(m.pool.crew, at, at+1)
	m.row, m.closed = nil, true
	b.forget(m)
	if e.Complaint != nil {
		b.complain(*e.Complaint)
	}
	return nil
}

// Complain counts a complaint.
func (b *book) Complain(_ context.Context, _ timestamp.Time, _ *fleet.Pool, c fleet.Complaint) error {
	if b.dead {
		return errCrashed
	}
	b.complain(c)
	return nil
}

func (e *engine) complain(list ...fleet.Complaint) {
	for _, c := range list {
		e.complaints[c.Kind]++
		if e.firstComplaint[c.Kind] == "" {
			e.firstComplaint[c.Kind] = c.Description
		}
	}
}

// Remove is not needed: no pool of a simulation goes away.
func (b *book) Remove(context.Context, timestamp.Time, *fleet.Pool) error { return nil }

// Decided keeps the last decision.
func (b *book) Decided(context.Context, timestamp.Time, *fleet.Pool, fleet.Decided) error { return nil }

// Learnt keeps a pool's statistics for the controller after this one.
func (b *book) Learnt(_ context.Context, _ timestamp.Time, o *fleet.Pool, statistics json.RawMessage) error {
	if b.dead {
		return errCrashed
	}
	o.Statistics = statistics
	return nil
}
