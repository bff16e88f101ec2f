package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// tend does what a pass has to do about the workers of a pool and returns
// those that there still are. Trouble with one does not keep the others
// waiting.
func (p *pass) tend(ctx context.Context, o *Pool, m *memory) (live []*Worker, trouble error) {
	t := &tending{pass: p, o: o, m: m, demand: p.demand[o.ID], deaf: p.demand == nil, leave: map[string][]*Worker{}, retire: map[string][]*Worker{}}
	workers := p.books.Workers[o.ID]
	_, _ = o.Settings() // parsed, if they can be; an error is reported by who needs them
	for _, w := range workers {
		if err := t.one(ctx, w); err != nil {
			trouble = fmt.Errorf("worker %s/%s: %w", w.WorkerGroup, w.WorkerID, err)
		}
	}
	for _, reason := range slices.Sorted(maps.Keys(t.leave)) {
		if err := p.drain(ctx, o, t.leave[reason], reason); err != nil {
			trouble = err
		}
	}
	for _, reason := range slices.Sorted(maps.Keys(t.retire)) {
		if err := p.retire(ctx, o, t.retire[reason], reason); err != nil {
			trouble = err
		}
	}
	if err := p.askToEnd(ctx, o, t.ask); err != nil {
		trouble = err
	}
	if err := t.finish(ctx); err != nil {
		trouble = err
	}
	m.calm = nil
	if trouble == nil && !t.busy && len(t.ask) == 0 && len(t.end) == 0 {
		m.calm = t.versions
	}
	for _, w := range workers {
		if w.State != Stopped {
			live = append(live, w)
		}
	}
	return live, trouble
}

// tending is what a pass does about the workers of one pool. Calls of
// providers are gathered, as one can end many.
type tending struct {
	*pass
	o      *Pool
	m      *memory
	demand Demand
	deaf   bool                 // the queue did not answer
	leave  map[string][]*Worker // idle ones to be drained, by reason
	retire map[string][]*Worker // those at work that are to get nothing more, by reason
	ask    []*Worker            // to be asked to end
	end    []ended              // to be ended now and closed

	// Of the provider of the worker that was looked at last, which most often is
	// that of the next one.
	of       string
	provider Provider
	sight    Sight
	blind    error
	manual   bool
	calm     bool // nothing has changed since a pass that left nothing to do

	versions map[string]uint64 // of sights, by provider
	busy     bool              // somebody has been interrupted

	patient map[string]time.Duration // until workers have to have registered, by market
}

type ended struct {
	*Worker
	Ending
}

func (t *tending) one(ctx context.Context, w *Worker) error {
	if w.ProviderID != t.of || t.provider == nil {
		t.of, t.provider, t.sight, t.blind = w.ProviderID, t.Providers[w.ProviderID], t.sights[w.ProviderID], t.pass.blind[w.ProviderID]
		_, t.manual = t.provider.(Manual)
		t.compare(w.ProviderID)
	}
	switch {
	case t.provider == nil && t.now >= w.Expires:
		return t.close(ctx, w, Ending{Reason: "nobody has looked after it until its credentials expired"})
	case t.provider == nil:
		return fmt.Errorf("its provider %s is not configured on this server; configure it so that the worker can be looked after, or wait until the worker's credentials expire at %s", w.ProviderID, w.Expires)
	case t.blind != nil:
		return nil // reported with the pool, or by the log
	}
	if t.calm && w.State == Running && w.Proven {
		return t.running(ctx, w)
	}
	s, seen := t.sight.Of(w.Ref)
	if !seen || s.State != Alive && s.State != Unknown {
		t.lost(w, s, seen)
		return nil
	}
	t.learn(w)
	// A worker that never registered and has ended is not replaced before it is known
	// how it ended.
	if !s.Ends.IsZero() && w.Ends.IsZero() && (w.State == Running || w.State == Requested && s.Ends > t.now) {
		t.busy = true
		return t.interrupted(ctx, w, s)
	}
	switch w.State {
	case Requested:
		return t.requested(ctx, w)
	case Running:
		return t.running(ctx, w)
	default:
		t.stopping(w)
		return nil
	}
}

// compare finds out whether a provider has seen nothing new in the pool.
func (t *tending) compare(provider string) {
	t.calm = false
	if s, ok := t.sight.(Versioned); ok {
		v := s.Version(t.o.ID)
		t.calm = t.m.calm[provider] == v
		if t.versions == nil {
			t.versions = map[string]uint64{}
		}
		t.versions[provider] = v
	}
}

// learn notes how long workers take to register.
func (t *tending) learn(w *Worker) {
	if w.Proven {
		return // it was learnt from long ago
	}
	market, booting := t.m.booting[w.Ref]
	switch {
	case w.State == Requested && !booting:
		t.m.booting[w.Ref] = w.Market
	case w.State == Running && booting:
		delete(t.m.booting, w.Ref)
		t.m.mu.Lock()
		t.m.stats.Booted(t.now, market, w.Registered.Sub(w.Created))
		t.m.dirty = true
		t.m.mu.Unlock()
	}
}

// unlearn notes that a worker is gone, which may never have registered.
func (t *tending) unlearn(w *Worker, failed bool) {
	market, booting := t.m.booting[w.Ref]
	if !booting {
		return
	}
	delete(t.m.booting, w.Ref)
	if failed {
		t.m.mu.Lock()
		t.m.stats.Failed(t.now, market)
		t.m.dirty = true
		t.m.mu.Unlock()
	}
}

// requested gives up a worker that takes too long to register, and one that
// nobody wants any more.
func (t *tending) requested(ctx context.Context, w *Worker) error {
	if !t.o.Made(w) {
		return t.stop(ctx, w, Ending{Reason: "it is not wanted any more"})
	}
	patience, err := t.patience(w.Market)
	if err != nil {
		return err
	}
	if t.now.Sub(w.Created) < patience {
		t.WakeAt(t.o.ID, w.Created.Add(patience))
		return nil
	}
	patience = patience.Round(time.Second)
	err = t.stop(ctx, w, Ending{
		Reason: fmt.Sprintf("it did not register within %v", patience), Failed: true,
		Complaint: &Complaint{
			Kind: KindRegistration, Title: "A worker did not register",
			Description: fmt.Sprintf("The worker was started %v ago and has not registered; it was ended. Look at its log, and whether it can reach the server.", patience),
		},
	})
	if w.State == Stopping { // it did not register at the last moment
		t.unlearn(w, true)
	}
	return err
}

// patience is how long workers of a market have to register.
func (t *tending) patience(market string) (time.Duration, error) {
	d, known := t.patient[market]
	if known {
		return d, nil
	}
	settings, err := t.o.Settings()
	if err != nil {
		return 0, err
	}
	if d = Seconds(settings.Lifecycle.RegistrationTimeout); d == 0 {
		t.m.mu.Lock()
		d = t.m.stats.RegistrationTimeout(market)
		t.m.mu.Unlock()
	}
	if t.patient == nil {
		t.patient = map[string]time.Duration{}
	}
	t.patient[market] = d
	return d, nil
}

// running notices that a worker has proven itself, or that its time is up.
func (t *tending) running(ctx context.Context, w *Worker) error {
	switch {
	case t.now >= w.Expires && t.manual:
		return t.stop(ctx, w, Ending{Reason: "the time that it was made known for is over"})
	case t.now >= w.Expires:
		return t.stop(ctx, w, Ending{
			Reason: "it did not register again before its credentials expired",
			Complaint: &Complaint{
				Kind: KindExpired, Title: "A worker's credentials expired",
				Description: fmt.Sprintf("The worker had to register again before %v and did not; it was ended.", w.Expires),
			},
		})
	}
	reason, old := t.unwanted(w), false
	if reason == "" {
		reason = t.aged(w)
		old = reason != ""
	}
	if reason != "" && !t.deaf {
		if t.demand.of(w.Ref).Claims == 0 {
			t.leave[reason] = append(t.leave[reason], w)
			return nil
		} else if old { // it may never be idle when somebody looks
			t.retire[reason] = append(t.retire[reason], w)
		}
	}
	if t.manual || t.o.settings == nil { // which is reported with the pool
		return nil
	}
	if quiet := Seconds(t.o.settings.Lifecycle.QueueInactivity); quiet > 0 && !t.deaf && t.now.Sub(w.Registered) >= quiet {
		seen := t.demand.of(w.Ref)
		// While there was no server, nobody could ask.
		if seen.Claims == 0 && !seen.Quarantined && t.now.Sub(max(t.m.since, w.Registered, seen.Released, seen.Active)) >= quiet {
			reason := fmt.Sprintf("it has not asked for work for %v", quiet)
			t.leave[reason] = append(t.leave[reason], w)
			return nil
		}
	}
	if w.Proven {
		return nil
	}
	if proof := w.Registered.Add(proofTime); t.now < proof {
		if c := t.o.LaunchConfig(w.LaunchConfigID); c != nil && (!c.Proven || c.Failures > 0) {
			t.WakeAt(t.o.ID, proof) // something waits for it
		}
		return nil
	}
	if err := t.Book.Prove(ctx, t.now, t.o, w); err != nil {
		return err
	}
	t.Step("prove")
	w.Proven = true
	if c := t.o.LaunchConfig(w.LaunchConfigID); c != nil && t.o.Made(w) {
		c.Succeed(w.Created)
	}
	return nil
}

// unwanted says why a worker is to go as soon as it is idle; "" if it is not.
func (t *tending) unwanted(w *Worker) string {
	switch {
	case w.Leave != "":
		return w.Leave
	case t.o.Going():
		return "the worker pool is being deleted"
	case w.ProviderID != t.o.ProviderID:
		return "the worker pool has another provider now"
	case !t.o.Made(w):
		return "the worker pool's configuration has changed"
	}
	return ""
}

// aged says that a worker is older than its pool's may be; "" if it is not.
func (t *tending) aged(w *Worker) string {
	if t.manual || t.o.settings == nil {
		return ""
	}
	age := Seconds(t.o.settings.Lifecycle.MaxAge)
	if age == 0 || t.now.Sub(w.Registered) < age {
		return ""
	}
	return fmt.Sprintf("it has reached the age of %v that workers of the pool may have", age)
}

// stopping has a worker asked to end, once, and ended if it does not. One that
// said that it leaves is not disturbed.
func (t *tending) stopping(w *Worker) {
	switch patience := max(w.Asked, w.LastModified).Add(stopGrace); {
	case !w.Ends.IsZero() && t.now >= w.Ends:
		t.end = append(t.end, ended{w, Ending{}})
	case w.Asked.IsZero() && w.Reason != SaidGoodbye:
		t.ask = append(t.ask, w)
	case t.now >= patience || w.overdue:
		t.end = append(t.end, ended{w, Ending{}})
	default:
		t.WakeAt(t.o.ID, patience)
	}
}

// interrupted takes note that the provider will take a worker away. It gets no
// more work, and what it has counts as pending, so that another takes its place
// at once.
func (t *tending) interrupted(ctx context.Context, w *Worker, s Sighting) error {
	w.Ends = s.Ends
	moved, err := t.Book.Stop(ctx, t.now, t.o, w, Ending{
		Reason: fmt.Sprintf("its provider takes it away at %s", s.Ends),
	})
	if err != nil || !moved {
		return err
	}
	t.Step("interrupt")
	t.Interrupted(t.o.ID)
	t.unlearn(w, false)
	w.State, w.Reason, w.LastModified = Stopping, fmt.Sprintf("its provider takes it away at %s", s.Ends), t.now
	t.ask = append(t.ask, w)
	return nil
}

// lost closes a worker that its provider does not have, or has dead, and judges
// by the way it ended whether its kind works.
func (t *tending) lost(w *Worker, s Sighting, seen bool) {
	how, _, _ := strings.Cut(s.Detail, "\n") // the rest is in the complaint
	e := Ending{Reason: shorten(how, 200)}
	switch {
	case w.State == Stopping:
		e.Reason = w.Reason
	case !seen:
		e.Reason = "its provider does not know it"
	}
	exited, failed := seen && s.State == Exited, seen && s.State == Failed
	left := w.State == Running && exited || w.State == Stopping && w.Reason == SaidGoodbye
	lived := t.now.Sub(w.Registered)
	if w.State == Stopping {
		lived = w.LastModified.Sub(w.Registered)
	}
	switch {
	case !t.o.Made(w):
		// says nothing about those that start now
	case !w.Ends.IsZero() && (exited || failed) && !w.Proven && lived < proofTime:
		e.Failed = true
		e.Complaint = &Complaint{Kind: KindDied, Title: "A worker left at once", Description: fmt.Sprintf("The worker's machine went down within %v of registering, and nobody had asked for that. Look at its configuration and its log. %s", proofTime, s.Detail)}
	case !w.Ends.IsZero():
		// it was taken away
	case w.State == Requested && (exited || failed):
		e.Failed = true
		e.Complaint = &Complaint{Kind: KindRegistration, Title: "A worker ended before it registered", Description: "The worker ended before it registered: " + s.Detail}
	case left && lived < timeForNothing && (exited || failed):
		e.Failed = true
		e.Complaint = &Complaint{Kind: KindDied, Title: "A worker left at once", Description: fmt.Sprintf("The worker left within %v of registering, without being asked to. Look at its configuration and its log. %s", timeForNothing, s.Detail)}
	case left:
		e.Proven = true
	case w.State == Running && failed:
		e.Failed = !w.Proven && lived < proofTime
		e.Complaint = &Complaint{Kind: KindDied, Title: "A worker ended in failure", Description: "The worker ended unasked: " + s.Detail}
	}
	t.unlearn(w, w.State == Requested && (exited || failed))
	t.end = append(t.end, ended{w, e})
}

// stop takes a worker's row out of the state it is in, and then ends the
// worker. Where the row has changed meanwhile (it registered after all) nothing
// happens.
func (t *tending) stop(ctx context.Context, w *Worker, e Ending) error {
	c, before := t.o.LaunchConfig(w.LaunchConfigID), LaunchConfig{}
	if c != nil {
		before = *c
	}
	t.blame(w, &e)
	moved, err := t.Book.Stop(ctx, t.now, t.o, w, e)
	if err != nil || !moved {
		if c != nil {
			*c = before // it has made a worker that works
		}
		return err
	}
	if e.Failed {
		t.Counted(t.o.ID, 0, 1)
	}
	t.Step("decide to end")
	w.State, w.Reason, w.LastModified, w.overdue = Stopping, e.Reason, t.now, true
	t.end = append(t.end, ended{w, Ending{Reason: e.Reason}})
	return nil
}

// blame makes the launch configuration of a worker wait if its ending speaks
// against it.
func (t *tending) blame(w *Worker, e *Ending) {
	if e.Complaint != nil {
		e.Complaint.Worker, e.Complaint.LaunchConfigID = w, w.LaunchConfigID
	}
	c := t.o.LaunchConfig(w.LaunchConfigID)
	if c == nil || !t.o.Made(w) {
		e.Failed = false
	}
	switch {
	case e.Failed:
		wait := c.Lose(t.now, w.Created)
		if e.Complaint != nil {
			e.Complaint.Description += "\n\n" + wait
		}
		t.WakeAt(t.o.ID, c.StartAfter)
	case e.Proven && c != nil && !w.Proven: // as the books have it: what was proven before is no news
		c.Succeed(w.Created)
	}
}

// askToEnd asks workers to end.
func (p *pass) askToEnd(ctx context.Context, o *Pool, list []*Worker) error {
	var errs []error
	for id, of := range byProvider(list) {
		if p.Providers[id] == nil {
			continue
		}
		gone, err := p.stop(ctx, id, targets(of), Gracefully)
		if err != nil {
			errs = append(errs, fmt.Errorf("asking workers to end: %w", err))
			continue
		}
		p.Step("ask to end")
		if err := p.Book.Asked(ctx, p.now, of); err != nil {
			errs = append(errs, err)
			continue
		}
		p.Step("note that it was asked")
		for _, w := range of {
			w.Asked = p.now
			p.WakeAt(o.ID, p.now.Add(stopGrace))
		}
		if len(gone) > 0 {
			errs = append(errs, p.closeGone(ctx, o, of, gone))
		}
	}
	return errors.Join(errs...)
}

func (p *pass) closeGone(ctx context.Context, o *Pool, list []*Worker, gone []Ref) error {
	t := &tending{pass: p, o: o, m: p.memory(o.ID)}
	is := map[Ref]bool{}
	for _, r := range gone {
		is[r] = true
	}
	var errs []error
	for _, w := range list {
		if is[w.Ref] {
			errs = append(errs, t.close(ctx, w, Ending{}))
		}
	}
	return errors.Join(errs...)
}

// finish makes sure that nothing of workers is left and closes their rows.
// Those that take their time are closed when they are seen to be gone.
func (t *tending) finish(ctx context.Context) error {
	var errs []error
	by := map[string][]ended{}
	for _, e := range t.end {
		by[e.ProviderID] = append(by[e.ProviderID], e)
	}
	for id, list := range by {
		of := make([]Target, 0, len(list))
		for _, e := range list {
			of = append(of, target(e.Worker))
		}
		gone, err := t.pass.stop(ctx, id, of, Now)
		if err != nil {
			errs = append(errs, fmt.Errorf("ending workers: %w", err))
		}
		t.Step("end")
		is := make(map[Ref]bool, len(gone))
		for _, r := range gone {
			is[r] = true
		}
		for _, e := range list {
			if is[e.Ref] {
				errs = append(errs, t.close(ctx, e.Worker, e.Ending))
			}
		}
	}
	return errors.Join(errs...)
}

// close hands a worker's claims back and closes its row, in this order; nothing
// of the worker is left. Before that the queue is told: a call of the worker's for
// work may wait at a server still, and would get a run that nobody does.
func (t *tending) close(ctx context.Context, w *Worker, e Ending) error {
	if w.State != Stopping {
		if err := t.Book.Retire(ctx, t.now, t.o, []*Worker{w}, cmp.Or(e.Reason, w.Reason, "it has ended")); err != nil {
			return err
		}
	}
	if err := t.Queue.WorkerGone(ctx, w.WorkerPoolID, w.WorkerGroup, w.WorkerID); err != nil {
		return fmt.Errorf("handing its claims back to the queue: %w", err)
	}
	t.Step("hand claims back")
	e.Reason = cmp.Or(e.Reason, w.Reason)
	t.blame(w, &e)
	if err := t.Book.Close(ctx, t.now, t.o, w, e); err != nil {
		return err
	}
	if e.Failed {
		t.Counted(t.o.ID, 0, 1)
	}
	t.Step("close")
	t.unlearn(w, false)
	w.State = Stopped
	t.Log.Info("a worker is gone", "worker", w.Ref, "reason", e.Reason)
	return nil
}

func target(w *Worker) Target { return Target{Ref: w.Ref, Facts: w.Facts, Idle: w.Drained} }

func targets(list []*Worker) (out []Target) {
	for _, w := range list {
		out = append(out, target(w))
	}
	return out
}

func byProvider(list []*Worker) map[string][]*Worker {
	out := map[string][]*Worker{}
	for _, w := range list {
		out[w.ProviderID] = append(out[w.ProviderID], w)
	}
	return out
}

// shorten cuts s to at most n characters.
func shorten(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n-1]) + "…"
}
