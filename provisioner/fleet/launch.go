package fleet

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/taskfleet/taskfleet/provisioner/sizing"
	"github.com/taskfleet/taskfleet/timestamp"
)

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
