package fleet

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/taskfleet/taskfleet/provisioner/sizing"
	"github.com/taskfleet/taskfleet/timestamp"
)

const (
	callLimit = 20 * time.Second // of one call of a provider
	poolLimit = 30 * time.Second // of one pool in a pass

	stopGrace = 2 * time.Minute  // for a worker that was asked to end
	proofTime = 10 * time.Second // how long a worker has to run to prove that its kind does

	// A worker that ends by itself sooner than this has done nothing: its idle
	// time may be short, but not that short.
	timeForNothing = time.Second

	decideEvery = time.Second // at most; what happens meanwhile gathers

	intentLife = 15 * time.Minute // then an unanswered intent is given up
	keepEvery  = time.Minute
)

// SaidGoodbye is the reason of a worker that removed itself.
const SaidGoodbye = "it left by itself"

// Config is what a Controller needs.
type Config struct {
	Book      Book
	Queue     Queue
	Providers map[string]Provider // by the providerId that pools name
	Log       *slog.Logger

	// Show is told what a pass found in a pool, for metrics. May be nil.
	Show func(o *Pool, live []*Worker, in sizing.Inputs, d sizing.Decision)

	// Counted is told of starts and failed starts. May be nil.
	Counted func(pool string, started, failed int)

	// Interrupted is told of a worker that its provider takes away. May be nil.
	Interrupted func(pool string)

	// Left is told, after a pass over all pools, which there are. May be nil.
	Left func(pools []*Pool)

	// Looked is told what each look at a provider found. May be nil.
	Looked func(provider string, workers int, err error)

	// WakeAt asks for a pass over a pool at a time, at the latest. May be nil,
	// where there are passes every few seconds anyway.
	WakeAt func(pool string, at timestamp.Time)

	// KeepEvery is how often what has been learnt of a pool is written into the
	// books; 0 is a minute.
	KeepEvery time.Duration

	// PoolsAtOnce is how many pools a pass works on at the same time; 0 is 1.
	PoolsAtOnce int

	// Step is called after each write and each call of a provider that a pass
	// makes. Tests break passes off in it. May be nil.
	Step func(what string)
}

// A Controller looks after the workers of pools.
type Controller struct {
	Config

	next string // pool that the last pass had no time for; "": it had for all

	mu   sync.Mutex
	said map[string]said // by pool and kind: complaints about it as a whole
	mind map[string]*memory
}

type said struct {
	at   timestamp.Time
	of   timestamp.Time // the pool's definition
	what string
}

// memory is what is kept of a pool from one pass to the next. Losing it does
// no harm beyond worse guesses.
type memory struct {
	mu    sync.Mutex
	stats sizing.Statistics
	dirty bool           // stats have changed since they were kept
	kept  timestamp.Time // when they were

	// What the books have of stats. Where they have something else, another
	// controller has looked after the pool meanwhile.
	text json.RawMessage

	// The rest is touched by passes alone, one at a time.
	since   timestamp.Time // of the first pass
	decided timestamp.Time // when the last decision was made
	last    sizing.Decision
	in      sizing.Inputs
	booting map[Ref]string    // workers that were seen requested, with their markets
	calm    map[string]uint64 // versions of the sights of providers that left nothing to do
	told    string            // the last decision that was written down
	toldAt  timestamp.Time
}

// New makes a Controller.
func New(c Config) *Controller {
	if c.Step == nil {
		c.Step = func(string) {}
	}
	if c.Show == nil {
		c.Show = func(*Pool, []*Worker, sizing.Inputs, sizing.Decision) {}
	}
	if c.Counted == nil {
		c.Counted = func(string, int, int) {}
	}
	if c.Interrupted == nil {
		c.Interrupted = func(string) {}
	}
	if c.Left == nil {
		c.Left = func([]*Pool) {}
	}
	if c.WakeAt == nil {
		c.WakeAt = func(string, timestamp.Time) {}
	}
	c.PoolsAtOnce = max(c.PoolsAtOnce, 1)
	c.KeepEvery = cmp.Or(c.KeepEvery, keepEvery)
	return &Controller{Config: c, said: map[string]said{}, mind: map[string]*memory{}}
}

// recall returns the memory of a pool, as a pass begins to look after it. If the
// books have learnt from another controller, it is begun anew from what they
// have.
func (p *pass) recall(o *Pool) *memory {
	if m := p.memory(o.ID); m != nil && bytes.Equal(m.text, o.Statistics) {
		return m
	}
	m := &memory{text: o.Statistics, since: p.now, booting: map[Ref]string{}}
	if len(m.text) > 0 {
		if err := json.Unmarshal(m.text, &m.stats); err != nil {
			p.Log.Warn("what was learnt about a pool cannot be read; it is learnt anew", "pool", o.ID, "error", err)
			m.stats = sizing.Statistics{}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mind[o.ID] = m
	return m
}

// memory of a pool; nil if this controller does not look after it.
func (c *Controller) memory(id string) *memory {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mind[id]
}

// learn has f add to what is known about a pool. Of one that this controller does
// not look after nothing is learnt: whoever does tells in the books.
func (c *Controller) learn(pool string, f func(*sizing.Statistics)) {
	m := c.memory(pool)
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	f(&m.stats)
	m.dirty = true
}

// Arrived tells that tasks of a pool became pending, and how many of them had
// been expected to.
func (c *Controller) Arrived(pool string, at timestamp.Time, tasks, known int64) {
	c.learn(pool, func(s *sizing.Statistics) { s.Arrived(at, tasks, known) })
}

// Finished tells that a task of a pool has run for d.
func (c *Controller) Finished(pool string, at timestamp.Time, kind string, d time.Duration) {
	c.learn(pool, func(s *sizing.Statistics) { s.Finished(at, kind, d) })
}

// pass is one pass: what it sees, first by the providers and then in the books.
type pass struct {
	*Controller
	now    timestamp.Time
	sights map[string]Sight // by provider
	blind  map[string]error // providers that could not tell
	books  *Snapshot
	came   map[string]bool // open intents of which a worker is seen that has no row
	demand map[string]Demand
}

// Pass looks after pools: all of them, and what belongs to none, if ids is nil.
// It reports whether another pass would do more at once. What goes wrong with
// a pool, a provider or the queue is recorded and keeps nothing else from being
// done; the error is that of the books.
func (c *Controller) Pass(ctx context.Context, now timestamp.Time, ids []string) (more bool, err error) {
	p := &pass{Controller: c, now: now, sights: make(map[string]Sight, len(c.Providers)), blind: map[string]error{}, came: map[string]bool{}}
	for id, provider := range c.Providers {
		err := p.look(ctx, id, provider)
		if err != nil {
			p.blind[id] = err
			c.Log.Error("a provider cannot tell which workers it has", "provider", id, "error", err)
		}
		if c.Looked != nil {
			c.Looked(id, p.count(id), err)
		}
	}
	if p.books, err = c.Book.Read(ctx, ids); err != nil {
		return false, err
	}
	if ids == nil {
		p.endStrangers(ctx)
	}
	if p.demand, err = c.ask(ctx, now, p.books.Pools); err != nil {
		p.demand = nil // workers are looked after even so
	}
	more = p.tendPools(ctx, err)
	if ids == nil {
		c.forget(p.books.Pools)
		c.Left(p.books.Pools)
	}
	return more, ctx.Err()
}

// tendPools looks after all pools, several at a time. Where a pass is broken
// off, as one is that takes too long, the next begins with those that have not
// had their turn.
func (p *pass) tendPools(ctx context.Context, deaf error) (more bool) {
	list := p.books.Pools
	if at := slices.IndexFunc(list, func(o *Pool) bool { return o.ID == p.next }); at > 0 {
		list = slices.Concat(list[at:], list[:at])
	}
	p.next = ""
	var all sync.WaitGroup
	var mu sync.Mutex
	places := make(chan struct{}, p.PoolsAtOnce)
	tend := func(o *Pool) {
		again := p.tendPool(ctx, o, deaf)
		mu.Lock()
		defer mu.Unlock()
		more = more || again
	}
	for _, o := range list {
		if ctx.Err() != nil {
			p.next = o.ID
			break
		}
		if p.PoolsAtOnce == 1 {
			tend(o)
			continue
		}
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			tend(o)
		})
	}
	all.Wait()
	return more
}

func (c *Controller) ask(ctx context.Context, now timestamp.Time, pools []*Pool) (map[string]Demand, error) {
	ids := make([]string, 0, len(pools))
	for _, o := range pools {
		ids = append(ids, o.ID) // of those that are going, too: their workers go when idle
	}
	if len(ids) == 0 {
		return nil, nil
	}
	d, err := c.Queue.Demand(ctx, now, ids)
	if err != nil {
		return nil, fmt.Errorf("asking the queue for what is pending: %w", err)
	}
	return d, nil
}

// tendPool looks after one pool, and complains if that fails.
func (p *pass) tendPool(ctx context.Context, o *Pool, deaf error) (more bool) {
	more, err := p.guarded(ctx, o, deaf)
	if err != nil && ctx.Err() == nil {
		p.Log.Error("a worker pool could not be reconciled", "pool", o.ID, "error", err)
		p.complain(ctx, o, Complaint{
			Kind: KindPool, Title: "The pool could not be looked after",
			Description: fmt.Sprintf("%v. Other pools are not affected; it is tried again every few seconds.", err),
		})
	}
	return more && err == nil
}

// guarded keeps what goes wrong in a pool, even a panic or a provider that
// hangs, this pool's trouble.
func (p *pass) guarded(ctx context.Context, o *Pool, deaf error) (more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, poolLimit)
	defer cancel()
	defer func() {
		if r := recover(); r != nil {
			p.Log.Error("reconciling a worker pool panicked", "pool", o.ID, "panic", r, "stack", string(debug.Stack()))
			more, err = false, fmt.Errorf("panic: %v", r)
		}
	}()
	return p.reconcile(ctx, o, deaf)
}

// count is how many workers a provider sees.
func (p *pass) count(id string) (n int) {
	if s := p.sights[id]; s != nil {
		for range s.All() {
			n++
		}
	}
	return n
}

func (p *pass) look(ctx context.Context, id string, provider Provider) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	p.sights[id], err = provider.Look(ctx, p.now)
	if err != nil {
		delete(p.sights, id)
	}
	return err
}

// endStrangers ends the workers that have neither an open row nor an open
// intent: left over from books that are not these, or from an intent that was
// given up, or stopped and not cleared away.
func (p *pass) endStrangers(ctx context.Context) {
	known := map[string]map[Ref]bool{}
	intended := map[string]bool{}
	for _, o := range p.books.Pools {
		for _, w := range p.books.Workers[o.ID] {
			if known[w.ProviderID] == nil {
				known[w.ProviderID] = map[Ref]bool{}
			}
			known[w.ProviderID][w.Ref] = true
		}
		for _, i := range p.books.Intents[o.ID] {
			intended[i.ID] = true
		}
	}
	for id, sight := range p.sights {
		var strangers []Target
		for s := range sight.All() {
			switch {
			case known[id][s.Ref]:
				continue
			case intended[s.IntentID]:
				p.came[s.IntentID] = true
				continue
			}
			if s.State == Alive {
				p.Log.Warn("ending a worker that the database does not know", "worker", s.Ref.String(), "provider", id, "intent", s.IntentID)
			}
			strangers = append(strangers, Target{Ref: s.Ref, Facts: s.Facts})
		}
		if len(strangers) == 0 || ctx.Err() != nil {
			continue
		}
		if err := p.endThese(ctx, id, strangers); err != nil {
			p.Log.Error("workers that the database does not know could not be ended; it is tried again", "provider", id, "error", err)
		}
	}
}

func (p *pass) endThese(ctx context.Context, providerID string, strangers []Target) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	_, err = p.stop(ctx, providerID, strangers, Now)
	p.Step("end strangers")
	return err
}

// stop calls a provider's Stop with a limit.
func (p *pass) stop(ctx context.Context, providerID string, list []Target, how Manner) (gone []Ref, err error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	return p.Providers[providerID].Stop(ctx, p.now, list, how)
}

// How long a pool's lasting trouble is not recorded again, and neither is other
// trouble of the pool as a whole.
const (
	sayAgain = 10 * time.Minute
	sayOther = time.Minute
)

// complain records trouble that a pass met. As the next pass will not do
// better, the same complaint is not repeated for a while.
func (p *pass) complain(ctx context.Context, o *Pool, c Complaint) {
	if !p.due(o, c) {
		return
	}
	if err := p.Book.Complain(ctx, p.now, o, c); err != nil {
		p.Log.Error("the error of a worker pool could not be recorded", "pool", o.ID, "error", err)
		return
	}
	p.remember(o, c)
}

// due reports whether a complaint is to be made: the first of its kind about
// this definition of the pool, and then every ten minutes.
func (p *pass) due(o *Pool, c Complaint) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	last, before := p.said[c.key(o)]
	since := p.now.Sub(last.at)
	return !before || last.of != o.LastModified || since < 0 || since >= sayAgain ||
		c.Kind == KindPool && since >= sayOther && last.what != c.Description
}

func (p *pass) remember(o *Pool, c Complaint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.said[c.key(o)] = said{p.now, o.LastModified, c.Description}
}

func (c Complaint) key(o *Pool) string { return o.ID + "\n" + c.Kind + "\n" + c.LaunchConfigID }

// like reports whether two complaints are about the same.
func (c Complaint) like(d Complaint) bool {
	return c.Kind == d.Kind && c.LaunchConfigID == d.LaunchConfigID
}

// forget drops what was kept about pools that are gone.
func (c *Controller) forget(pools []*Pool) {
	left := make(map[string]bool, len(pools))
	for _, o := range pools {
		left[o.ID] = true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range c.mind {
		if !left[id] {
			delete(c.mind, id)
		}
	}
	if len(c.said) > 10*len(left)+100 {
		clear(c.said)
	}
}

// policy is how a pool is sized.
func policy(s Settings, provider Provider) (sizing.Policy, error) {
	name := s.Sizing.Policy
	if d, ok := provider.(interface{ DefaultPolicy() string }); ok {
		name = cmp.Or(name, d.DefaultPolicy())
	}
	return sizing.ByName(name)
}
