package fleet

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/taskfleet/taskfleet/provisioner/sizing"
	"github.com/taskfleet/taskfleet/timestamp"
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
	if err := p.note(ctx, o, m, in, d, n); err != nil {
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
		var left, spread time.Duration
		if m := p.memory(a.PoolID); m != nil {
			m.mu.Lock()
			left, spread = m.stats.Remaining(a.Kind, p.now.Sub(a.Since))
			m.mu.Unlock()
		}
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

// start starts workers of the capacity that a decision asks for, as far as the
// launch configurations' breakers and the provider let it, and returns the
// capacity that was asked for and the workers that there are of it.
func (p *pass) start(ctx context.Context, o *Pool, m *memory, in sizing.Inputs, d sizing.Decision, live []*Worker, open []*Intent) (planned int64, started []*Worker, err error) {
	need := Need{Pool: o, Capacity: d.Start, Room: in.Max - in.Stopping - capacity(in), From: p.candidates(o, live, open)}
	if in.Pending > 0 && !in.OldestPending.IsZero() {
		need.Waiting = p.now.Sub(in.OldestPending)
	}
	if len(need.From) == 0 {
		return 0, nil, nil // the breakers say when
	}
	call, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	plan, err := p.Providers[o.ProviderID].Plan(call, p.now, need)
	if err != nil {
		return 0, nil, fmt.Errorf("planning where to start workers: %w", err)
	}
	for _, c := range plan.Complaints {
		p.complain(ctx, o, c)
	}
	if !plan.Retry.IsZero() {
		p.WakeAt(o.ID, plan.Retry)
	}
	if len(plan.Intents) == 0 {
		return 0, nil, nil
	}
	for _, i := range plan.Intents {
		i.PoolID, i.ProviderID, i.Created = o.ID, o.ProviderID, p.now
		planned += i.Capacity
	}
	p.Log.Info("starting workers", "pool", o.ID, "capacity", planned, "wanted", d.Start, "reason", d.Reason)
	written, err := p.Book.Intend(ctx, p.now, o, plan.Intents)
	if err != nil {
		return 0, nil, err
	}
	if !written { // there will be another pass
		p.Log.Warn("no workers are started: somebody else has changed the pool meanwhile", "pool", o.ID, "capacity", planned, "room", need.Room)
		return 0, nil, nil
	}
	p.Step("intend")
	for _, i := range plan.Intents {
		list, _, err := p.launch(ctx, o, m, i)
		if err != nil {
			return planned, started, err
		}
		started = append(started, list...)
	}
	return planned, started, nil
}

// candidates are the launch configurations that workers may be made from now.
// One whose starts fail waits, and then tries with one worker at a time; one
// that is new tries with a few.
func (p *pass) candidates(o *Pool, live []*Worker, open []*Intent) (list []Candidate) {
	for _, c := range o.LaunchConfigs {
		x := Candidate{LaunchConfig: c, Workers: math.MaxInt64}
		trying := int64(0)
		for _, w := range live {
			if w.LaunchConfigID == c.ID && w.ProviderID == o.ProviderID {
				x.Existing += w.Capacity
				if !w.Proven && w.State != Stopping {
					trying++
				}
			}
		}
		for _, i := range open {
			if i.LaunchConfigID == c.ID {
				x.Existing += i.Capacity
			}
			if i.LaunchConfigID == c.ID || i.LaunchConfigID == "" {
				trying += i.Workers
			}
		}
		switch {
		case c.Waits(p.now):
			p.WakeAt(o.ID, c.StartAfter)
			continue
		case c.Failures > 0:
			x.Workers = max(1-trying, 0)
		case !c.Proven && c.Canary > 0:
			x.Workers = max(c.Canary-trying, 0)
		}
		if x.Workers > 0 {
			list = append(list, x)
		}
	}
	return list
}

// repeat sends again what may not have been answered. It returns the intents
// that are still open, the workers that it has learnt of, and whether an intent
// was given up.
func (p *pass) repeat(ctx context.Context, o *Pool, m *memory) (open []*Intent, started []*Worker, lost bool, trouble error) {
	for _, i := range p.books.Intents[o.ID] {
		if p.Providers[i.ProviderID] == nil && p.now.Sub(i.Created) >= intentLife {
			lost = true
			if err := p.giveUp(ctx, o, i); err != nil {
				open, trouble = append(open, i), err
			}
			continue
		}
		if p.Providers[i.ProviderID] == nil || p.blind[i.ProviderID] != nil || i.waits(p.now, p.came[i.ID]) {
			p.WakeAt(o.ID, i.NextAttempt)
			open = append(open, i)
			continue
		}
		list, still, err := p.launch(ctx, o, m, i)
		if err != nil {
			trouble = err
		}
		if still {
			open = append(open, i)
		} else if p.now.Sub(i.Created) >= intentLife {
			lost = true
		}
		started = append(started, list...)
	}
	return open, started, lost, trouble
}

// cameRetry is how long after a call without a clear answer it is repeated where
// a worker is seen that can have come of nothing else: it will want to register.
const cameRetry = 10 * time.Second

// pause is how long after its last attempt an intent is sent again.
func (i *Intent) pause() time.Duration {
	return min(time.Second<<min(max(i.Attempts-1, 0), 6), time.Minute)
}

// waits reports whether it is too early to send an intent again. came is whether
// a worker of it is seen. A time further off than any pause is one of a clock
// that has been put right since.
func (i *Intent) waits(now timestamp.Time, came bool) bool {
	left := i.NextAttempt.Sub(now)
	if came {
		left -= max(i.pause()-cameRetry, 0)
	}
	return left > 0 && left < intentLife
}

// giveUp closes an intent that there is nobody to ask about.
func (p *pass) giveUp(ctx context.Context, o *Pool, i *Intent) error {
	err := p.Book.Answer(ctx, p.now, o, i, Answered{Final: true, Complaints: []Complaint{neverClear(i)}})
	if err != nil {
		return fmt.Errorf("giving up an intent: %w", err)
	}
	p.Step("answer")
	return nil
}

func neverClear(i *Intent) Complaint {
	return Complaint{
		Kind: KindStart, Title: "It never became clear whether workers were started", LaunchConfigID: i.LaunchConfigID,
		Description: fmt.Sprintf("The provider %s was asked %d times for %d workers and gave no clear answer. Nothing is lost: should it have started any that are not known, they are ended.", i.ProviderID, i.Attempts, i.Workers),
	}
}

// launch has a provider do what an intent says, and writes down what came of
// it. It returns the workers that were not known before, and whether the intent
// is still open.
func (p *pass) launch(ctx context.Context, o *Pool, m *memory, i *Intent) (started []*Worker, open bool, err error) {
	call, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	answer := p.Providers[i.ProviderID].Launch(call, p.now, i)
	p.Step("launch")
	a := Answered{Final: !answer.Again}
	for _, s := range answer.Started {
		w := &Worker{
			Ref: s.Ref, ProviderID: i.ProviderID, LaunchConfigID: cmp.Or(s.LaunchConfigID, i.LaunchConfigID), IntentID: i.ID,
			State: Requested, Capacity: s.Capacity, Market: s.Market, Price: s.Price, Facts: s.Facts,
			Created: i.Created, LastModified: p.now, LastChecked: p.now, Expires: p.now.Add(recordLife),
		}
		a.Workers = append(a.Workers, w)
		if !slices.ContainsFunc(p.books.Workers[o.ID], func(x *Worker) bool { return x.Ref == w.Ref }) {
			started = append(started, w)
		}
	}
	failed := p.blameFaults(ctx, o, i, answer.Faults, &a)
	if answer.Again {
		i.Attempts++
		i.NextAttempt = max(answer.Retry, p.now.Add(i.pause()))
		p.WakeAt(o.ID, i.NextAttempt)
		if p.now.Sub(i.Created) >= intentLife {
			a.Final = true
			a.Complaints = append(a.Complaints, neverClear(i))
		}
	}
	if err := p.Book.Answer(ctx, p.now, o, i, a); err != nil {
		return nil, true, fmt.Errorf("writing down what was started: %w", err)
	}
	p.Step("answer")
	for _, c := range a.Complaints {
		p.remember(o, c)
	}
	for _, w := range started {
		m.booting[w.Ref] = w.Market
	}
	p.Counted(o.ID, len(started), failed)
	return started, !a.Final, nil
}

// blameFaults makes the launch configurations wait that faults speak against,
// and complains: of each failed start once, and of what somebody has to put
// right, or nobody can, now and then.
func (p *pass) blameFaults(ctx context.Context, o *Pool, i *Intent, faults []Fault, a *Answered) (failed int) {
	for _, f := range faults {
		c := f.complaint(i)
		if !f.Class.blames() {
			if f.Class != Closing {
				p.complain(ctx, o, c)
			}
			continue
		}
		news := (f.Class == Broken || p.due(o, c)) && !slices.ContainsFunc(a.Complaints, c.like)
		if lc := o.LaunchConfig(c.LaunchConfigID); lc != nil {
			c.Description += "\n\n" + lc.Fail(p.now)
			p.WakeAt(o.ID, lc.StartAfter)
			if !slices.Contains(a.Failed, lc) {
				a.Failed = append(a.Failed, lc)
			}
			failed++
		}
		if news {
			a.Complaints = append(a.Complaints, c)
		}
	}
	return failed
}

const recordLife = 7 * 24 * time.Hour // of stopped workers

func (f Fault) complaint(i *Intent) Complaint {
	kind, title := f.Class.kind()
	extra := f.Extra
	if f.Market != "" {
		extra = map[string]any{"market": f.Market}
		for k, v := range f.Extra {
			extra[k] = v
		}
	}
	return Complaint{
		Kind: kind, Title: cmp.Or(f.Title, title), Description: f.Description,
		LaunchConfigID: cmp.Or(f.LaunchConfigID, i.LaunchConfigID), Extra: extra,
	}
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

// A Decided is a decision with what it was made of, as it is kept for
// explanations.
type Decided struct {
	At       timestamp.Time  `json:"at"`
	Policy   string          `json:"policy"`
	Inputs   Measured        `json:"inputs"`
	Decision sizing.Decision `json:"decision"`
	Started  int64           `json:"started"` // capacity that was asked for; less than decided where the provider or a breaker held it back
}

// Measured is what a decision was made of, in numbers.
type Measured struct {
	sizing.Settings
	Pending       int64          `json:"pending"`
	OldestPending timestamp.Time `json:"oldestPending,omitempty"`
	Claimed       int64          `json:"claimed"`
	Known         int64          `json:"known"` // tasks that become pending before long
	Working       int64          `json:"working"`
	Spare         int64          `json:"spare"`
	Idle          int64          `json:"idle"`
	Booting       int64          `json:"booting"`
	Stopping      int64          `json:"stopping"`
}

// note keeps a decision that does something, and others as long as they change,
// one a minute; and now and then what was learnt.
func (p *pass) note(ctx context.Context, o *Pool, m *memory, in sizing.Inputs, d sizing.Decision, started int64) error {
	if err := p.keep(ctx, o, m); err != nil {
		return fmt.Errorf("keeping what was learnt: %w", err)
	}
	does := started > 0 || len(d.Drain) > 0
	told := d.Reason + strconv.FormatInt(started, 10)
	if !does && (told == m.told || p.now >= m.toldAt && p.now.Sub(m.toldAt) < time.Minute) {
		return nil
	}
	x := Decided{At: p.now, Decision: d, Started: started, Inputs: Measured{
		Settings: in.Settings, Pending: in.Pending, OldestPending: in.OldestPending, Working: in.Working, Spare: in.Spare, Stopping: in.Stopping,
	}}
	for _, r := range in.Running {
		x.Inputs.Claimed += max(r.Count, 1)
	}
	for _, k := range in.Known {
		x.Inputs.Known += max(k.Count, 1)
	}
	for _, i := range in.Idle {
		x.Inputs.Idle += i.Capacity
	}
	for _, b := range in.Booting {
		x.Inputs.Booting += b.Capacity
	}
	x.Policy = p.policyOf(o)
	if err := p.Book.Decided(ctx, p.now, o, x); err != nil {
		return fmt.Errorf("keeping the decision: %w", err)
	}
	m.told, m.toldAt = told, p.now
	return nil
}

// keep keeps what was learnt about a pool, now and then.
func (p *pass) keep(ctx context.Context, o *Pool, m *memory) error {
	m.mu.Lock()
	if !m.dirty || p.now >= m.kept && p.now.Sub(m.kept) < p.KeepEvery {
		m.mu.Unlock()
		return nil
	}
	text, err := json.Marshal(&m.stats)
	m.dirty, m.kept = false, p.now
	m.mu.Unlock()
	if err == nil {
		err = p.Book.Learnt(ctx, p.now, o, text)
	}
	if err != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.dirty = true
		return err
	}
	m.text = text
	return nil
}

func (p *pass) policyOf(o *Pool) string {
	s, err := o.Settings()
	if err != nil {
		return ""
	}
	x, err := policy(s, p.Providers[o.ProviderID])
	if err != nil {
		return ""
	}
	return x.Name()
}
