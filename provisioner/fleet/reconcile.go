package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/taskfleet/taskfleet/provisioner/sizing"
)

// reconcile brings one pool closer to what it should be: what has ended is
// closed, what is to go is made to, and what is missing is started.
func (p *pass) reconcile(ctx context.Context, o *Pool, deaf error) (more bool, err error) {
	m := p.recall(o)
	live, trouble := p.tend(ctx, o, m)
	intents, started, lost, err := p.repeat(ctx, o, m)
	if err != nil {
		trouble = err
	}
	live = append(live, started...)
	if o.Going() {
		p.Show(o, live, sizing.Inputs{}, sizing.Decision{})
		if len(live) == 0 && len(intents) == 0 && trouble == nil {
			return false, p.remove(ctx, o)
		}
		return false, trouble
	}
	provider := p.Providers[o.ProviderID]
	if provider == nil {
		return false, fmt.Errorf("the pool's provider %s is not configured on this server; configure it, or give the pool one of %v", o.ProviderID, p.providerIDs())
	}
	if err := p.blind[o.ProviderID]; err != nil {
		return false, fmt.Errorf("the provider %s cannot tell which workers there are: %w", o.ProviderID, err)
	}
	if deaf != nil {
		return false, deaf
	}
	if _, manual := provider.(Manual); manual {
		p.Show(o, live, sizing.Inputs{}, sizing.Decision{})
		return false, trouble
	}
	settings, err := o.Settings()
	if err == nil && settings.MaxCapacity == nil {
		err = errors.New("config.maxCapacity is missing; update the pool")
	}
	if err != nil {
		return false, err
	}
	policy, err := policy(settings, provider)
	if err != nil {
		return false, err
	}
	if lost {
		return true, trouble // the next pass ends what may be there before it starts others
	}
	if next := m.decided.Add(decideEvery); !m.decided.IsZero() && p.now >= m.decided && p.now < next {
		p.WakeAt(o.ID, next) // what happens meanwhile gathers
		p.Show(o, live, m.in, m.last)
		return false, trouble
	}
	in, idle := p.measure(o, settings, live, intents)
	m.mu.Lock()
	d := policy.Decide(in, &m.stats)
	m.mu.Unlock()
	m.decided, m.last, m.in = p.now, d, in
	if !d.Wake.IsZero() {
		p.WakeAt(o.ID, d.Wake)
	}
	if len(d.Drain) > 0 {
		reason := "it is not needed: it has been idle for as long as it is worth keeping"
		if have := capacity(in); have > in.Max {
			reason = fmt.Sprintf("the worker pool has capacity %d and may have %d", have, in.Max)
		}
		if err := p.drain(ctx, o, pick(idle, d.Drain), reason); err != nil {
			trouble = err
		}
	}
	if d.Excess > 0 {
		reason := fmt.Sprintf("the worker pool has capacity %d and may have %d; the oldest workers go", in.Max+d.Excess, in.Max)
		if err := p.retire(ctx, o, p.excess(o, live, d.Excess), reason); err != nil {
			trouble = err
		}
	}
	n := int64(0)
	if d.Start > 0 {
		n, started, err = p.start(ctx, o, m, in, d, live, intents)
		if err != nil {
			trouble = err
		}
		live = append(live, started...)
	}
	p.Show(o, live, in, d)
	if err := p.note(ctx, o, m, policy.Name(), in, d, n); err != nil {
		trouble = err
	}
	return n > 0 && n < d.Start && trouble == nil, trouble
}

func pick[T any](list []T, which []int) (out []T) {
	for _, i := range which {
		out = append(out, list[i])
	}
	return out
}

func (p *pass) providerIDs() (ids []string) {
	for id := range p.Providers {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// measure makes the policy's inputs of a pool, each worker counted once. Those
// that were made from something else than the pool's workers are now take room
// and do not help. It returns the idle workers in the order of the inputs.
func (p *pass) measure(o *Pool, s Settings, live []*Worker, intents []*Intent) (sizing.Inputs, []*Worker) {
	demand := p.demand[o.ID]
	in := sizing.Inputs{
		Now: p.now, Pending: demand.Pending, OldestPending: demand.Oldest, Running: demand.Running,
		Settings: sizing.Settings{
			Min: s.Min(p.now), Max: *s.MaxCapacity, ScalingRatio: s.ScalingRatio, CapacityPerWorker: o.leastCapacity(),
			WaitPrice: sizing.DefaultWaitPrice, IdleTimeout: Seconds(s.Sizing.IdleTimeout),
		},
	}
	if s.Sizing.WaitPrice != nil {
		in.WaitPrice = *s.Sizing.WaitPrice
	}
	var idle []*Worker
	for _, w := range live {
		seen := demand.of(w.Ref)
		switch {
		case w.State == Stopping || !o.Made(w) || w.Leave != "":
			in.Stopping += w.Capacity
			if !w.Ends.IsZero() {
				in.Pending += seen.Claims // they come back before long
			}
		case w.State == Requested:
			in.Booting = append(in.Booting, sizing.Booting{Class: w.Market, Since: w.Created, Capacity: w.Capacity})
		case seen.Quarantined:
			in.Stopping += w.Capacity
		case seen.Claims > 0:
			in.Working += w.Capacity
			in.Spare += max(w.Capacity-seen.Claims, 0)
		default:
			w.idleSince = max(w.Registered, seen.Released)
			idle = append(idle, w)
		}
	}
	for _, i := range intents {
		in.Booting = append(in.Booting, sizing.Booting{Since: i.Created, Capacity: i.Capacity})
	}
	// The queue gives what comes to the one that has worked last.
	slices.SortStableFunc(idle, func(a, b *Worker) int { return cmp.Compare(b.idleSince, a.idleSince) })
	for _, w := range idle {
		in.Idle = append(in.Idle, sizing.Idle{Since: w.idleSince, Capacity: w.Capacity})
	}
	for _, u := range demand.Known {
		in.Known = append(in.Known, p.foresee(u))
	}
	return in, idle
}

// foresee guesses when tasks become pending: when the last of those that they
// wait for ends.
func (p *pass) foresee(u Upcoming) sizing.Known {
	k := sizing.Known{Count: u.Count, At: p.now}
	if !u.At.IsZero() {
		k.At, k.Error = u.At, u.Error
	}
	for _, a := range u.After {
		m := p.memory(a.PoolID)
		if m == nil { // a queue that somebody else's workers serve: nothing is known of its tasks
			m = &memory{}
		}
		m.mu.Lock()
		left, spread := m.stats.Remaining(a.Kind, p.now.Sub(a.Since))
		m.mu.Unlock()
		if at := p.now.Add(left); at >= k.At {
			k.At, k.Error = at, spread
		}
	}
	return k
}

func (d Demand) of(r Ref) Seen {
	if d.Of == nil {
		return Seen{}
	}
	return d.Of(r)
}

func (o *Pool) leastCapacity() int64 {
	least := int64(0)
	for _, c := range o.LaunchConfigs {
		if least == 0 || c.Capacity < least {
			least = c.Capacity
		}
	}
	return max(least, 1)
}

// drain ends idle workers: those that the queue has given nothing since they
// were looked at.
func (p *pass) drain(ctx context.Context, o *Pool, list []*Worker, reason string) error {
	drained, err := p.Book.Drain(ctx, p.now, o, list, reason)
	if err != nil {
		return fmt.Errorf("draining idle workers: %w", err)
	}
	if len(drained) == 0 {
		return nil
	}
	p.Step("drain")
	for _, w := range drained {
		w.State, w.Reason, w.Drained, w.LastModified = Stopping, reason, true, p.now
	}
	return p.askToEnd(ctx, o, drained)
}

// retire has the queue give workers nothing more, which may never be idle when
// somebody looks, and never ask whether they should go.
func (p *pass) retire(ctx context.Context, o *Pool, list []*Worker, reason string) error {
	if len(list) == 0 {
		return nil
	}
	if err := p.Book.Retire(ctx, p.now, o, list, reason); err != nil {
		return fmt.Errorf("having the queue give workers nothing more: %w", err)
	}
	p.Step("retire")
	for _, w := range list {
		w.Leave = reason
	}
	return nil
}

// excess are the oldest workers at work that are of no more than a capacity
// together.
func (p *pass) excess(o *Pool, live []*Worker, capacity int64) (list []*Worker) {
	demand := p.demand[o.ID]
	for _, w := range live {
		seen := demand.of(w.Ref)
		if w.State == Running && w.Leave == "" && o.Made(w) && seen.Claims > 0 && !seen.Quarantined && w.Capacity <= capacity {
			list = append(list, w)
			capacity -= w.Capacity
		}
	}
	return list
}

// capacity is what a pool has and will have.
func capacity(in sizing.Inputs) int64 {
	n := in.Working
	for _, w := range in.Idle {
		n += w.Capacity
	}
	for _, b := range in.Booting {
		n += b.Capacity
	}
	return n
}

// remove deletes a pool that is going and has no workers left.
func (p *pass) remove(ctx context.Context, o *Pool) error {
	if err := p.Book.Remove(ctx, p.now, o); err != nil {
		return err
	}
	p.Step("remove pool")
	p.Log.Info("a worker pool is gone", "pool", o.ID)
	return nil
}
