// Package providertest holds a provider to the contract that fleet.Provider
// states. A provider joins with one call of Run.
package providertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A World is where a provider under test has its workers.
type World struct {
	// Open opens the provider. A second call finds what the first one left, as
	// a server does that was killed and started again.
	Open func(*testing.T) fleet.Provider

	// Kill ends a worker behind the provider's back.
	Kill func(*testing.T, fleet.Ref)

	// Proof is what a worker that runs would prove its identity with.
	Proof func(*testing.T, fleet.Ref) json.RawMessage

	Config json.RawMessage            // of a pool, without fault, with room for 100
	Other  json.RawMessage            // likewise, from which other workers are made
	Wrong  map[string]json.RawMessage // configurations with one fault, by what the error must say

	// Now and Sleep are the world's time. By default it is everybody's.
	Now   func() timestamp.Time
	Sleep func(time.Duration)

	// Patience is how long things may take that take a while; 0 is a minute.
	Patience time.Duration
}

// A Difference is something that an imitation of a cloud does in another way
// than the cloud, so that no provider can pass a test of the suite there.
type Difference struct {
	Test string // its name
	Why  string
	Show func(*testing.T) // takes the test's place: fails if the imitation is not different any more
}

// Run runs the suite. world makes a World without workers, whose workers end
// when they are asked to; it is called once for each test. Tests that an imitation
// cannot pass are replaced by the proof that it cannot.
func Run(t *testing.T, world func(*testing.T) World, differences ...Difference) {
	tests := map[string]func(*testing.T, *subject){
		"a started worker is listed with its intent, and comes to life": listed,
		"a repeated intent starts nothing":                              repeated,
		"a repeated intent is answered by the next server":              repeatedLater,
		"many intents at once start one worker each":                    many,
		"an intent for several workers starts as many":                  several,
		"a plan keeps to what is needed and to what is allowed":         planned,
		"planning starts nothing":                                       onlyPlanned,
		"a worker is gone once Stop has said so":                        stoppedNow,
		"a worker asked to end ends":                                    askedToEnd,
		"stopping what does not exist is no error":                      stoppedTwice,
		"a death is told and listed until it is cleared away":           died,
		"a provider opened anew knows the workers of its past":          reopened,
		"an intent whose caller has gone leaves nothing unlisted":       abandoned,
		"a good configuration passes, a fault is called by name":        checked,
		"equal configurations have equal ids":                           named,
		"a worker is listed under its pool":                             underItsPool,
		"a provider has a type that is the same every time":             typed,
		"stopping one worker leaves the others as they are":             neighbours,
		"a worker killed while nobody watches is not called alive":      unwatched,
		"a worker is known by its own proof alone":                      identified,
	}
	for _, d := range differences {
		if tests[d.Test] == nil {
			t.Fatalf("a difference is about the test %q, which there is not", d.Test)
		}
		delete(tests, d.Test)
		t.Run("instead of: "+d.Test, func(t *testing.T) {
			t.Logf("the imitation is different: %s", d.Why)
			d.Show(t)
		})
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := &subject{World: world(t)}
			if s.Now == nil {
				s.Now = timestamp.Now
			}
			if s.Sleep == nil {
				s.Sleep = time.Sleep
			}
			if s.Patience == 0 {
				s.Patience = time.Minute
			}
			s.provider = s.Open(t)
			test(t, s)
		})
	}
}

type subject struct {
	World
	provider fleet.Provider
	started  map[fleet.Ref]fleet.Started
}

// pool is one with the good configuration.
func (s *subject) pool(t *testing.T, id string, config json.RawMessage) *fleet.Pool {
	t.Helper()
	list, err := s.provider.Parse(config)
	if err != nil || len(list) == 0 {
		t.Fatalf("the good configuration %s: %d launch configurations, %v", config, len(list), err)
	}
	return &fleet.Pool{
		ID: id, ProviderID: "under-test", Description: "d", Owner: "o@example.com",
		Config: config, Created: s.Now(), LastModified: s.Now(), LaunchConfigs: list,
	}
}

// least is the capacity of the smallest worker of a pool.
func least(o *fleet.Pool) int64 {
	n := int64(math.MaxInt64)
	for _, c := range o.LaunchConfigs {
		n = min(n, c.Capacity)
	}
	return max(n, 1)
}

func need(o *fleet.Pool, capacity, room int64) fleet.Need {
	n := fleet.Need{Pool: o, Capacity: capacity, Room: room}
	for _, c := range o.LaunchConfigs {
		n.From = append(n.From, fleet.Candidate{LaunchConfig: c, Workers: math.MaxInt64})
	}
	return n
}

// plan has the provider plan, and does what the controller does with intents.
func (s *subject) plan(t *testing.T, n fleet.Need) fleet.Plan {
	t.Helper()
	p, err := s.provider.Plan(t.Context(), s.Now(), n)
	if err != nil {
		t.Fatalf("planning capacity %d for %s: %v", n.Capacity, n.Pool.ID, err)
	}
	for _, i := range p.Intents {
		i.PoolID, i.ProviderID, i.Created = n.Pool.ID, n.Pool.ProviderID, s.Now()
	}
	return p
}

// intents makes those for n workers at least.
func (s *subject) intents(t *testing.T, pool string, n int64) (list []*fleet.Intent) {
	t.Helper()
	o := s.pool(t, pool, s.Config)
	left := n * least(o)
	s.becomes(t, "workers can be planned", func() bool {
		for _, i := range s.plan(t, need(o, left, 100*least(o))).Intents {
			list = append(list, i)
			left -= i.Capacity
		}
		return left <= 0
	})
	return list
}

// intent makes one for one worker.
func (s *subject) intent(t *testing.T, pool string) *fleet.Intent {
	t.Helper()
	list := s.intents(t, pool, 1)
	if len(list) != 1 || list[0].Workers != 1 {
		t.Fatalf("one worker takes %d intents, the first of which is for %d workers", len(list), list[0].Workers)
	}
	return list[0]
}

// launch does what an intent says until that is clear, and returns the workers.
func (s *subject) launch(t *testing.T, i *fleet.Intent) (refs []fleet.Ref) {
	t.Helper()
	var list []fleet.Started
	s.becomes(t, "it is clear what came of an intent", func() bool {
		a := s.provider.Launch(t.Context(), s.Now(), i)
		for _, f := range a.Faults {
			t.Fatalf("intent %s of %s: %s: %s", i.ID, i.PoolID, f.Title, f.Description)
		}
		list = a.Started
		return !a.Again
	})
	for _, x := range list {
		s.note(t, x)
		refs = append(refs, x.Ref)
	}
	return refs
}

// note remembers a worker. Whatever the test finds, nothing is to be left of it.
func (s *subject) note(t *testing.T, x fleet.Started) {
	if s.started == nil {
		s.started = map[fleet.Ref]fleet.Started{}
	}
	_, before := s.started[x.Ref]
	s.started[x.Ref] = x
	if before {
		return
	}
	t.Cleanup(func() {
		if _, err := s.provider.Stop(context.Background(), s.Now(), []fleet.Target{s.target(x.Ref)}, fleet.Now); err != nil {
			t.Errorf("ending %s after the test: %v", x.Ref, err)
		}
	})
}

func (s *subject) start(t *testing.T, pool string) fleet.Ref {
	t.Helper()
	refs := s.launch(t, s.intent(t, pool))
	if len(refs) != 1 {
		t.Fatalf("an intent for one worker started %d", len(refs))
	}
	return refs[0]
}

func (s *subject) target(r fleet.Ref) fleet.Target {
	return fleet.Target{Ref: r, Facts: s.started[r].Facts}
}

// ask asks a worker to end.
func (s *subject) ask(t *testing.T, r fleet.Ref) {
	t.Helper()
	if _, err := s.provider.Stop(t.Context(), s.Now(), []fleet.Target{s.target(r)}, fleet.Gracefully); err != nil {
		t.Fatalf("asking %s to end: %v", r, err)
	}
}

// end ends a worker, and waits until the provider has said that it is gone.
func (s *subject) end(t *testing.T, r fleet.Ref) {
	t.Helper()
	s.becomes(t, "the provider says that "+r.String()+" is gone", func() bool {
		gone, err := s.provider.Stop(t.Context(), s.Now(), []fleet.Target{s.target(r)}, fleet.Now)
		if err != nil {
			t.Fatalf("ending %s: %v", r, err)
		}
		for _, g := range gone {
			if g != r {
				t.Fatalf("%s was to be ended, and %s is said to be gone", r, g)
			}
		}
		return len(gone) > 0
	})
}

// sight is what the provider sees.
func (s *subject) sight(t *testing.T) fleet.Sight {
	t.Helper()
	x, err := s.provider.Look(t.Context(), s.Now())
	if err != nil {
		t.Fatalf("looking: %v", err)
	}
	return x
}

// sightings lists the workers, and complains of a worker listed twice.
func (s *subject) sightings(t *testing.T) map[fleet.Ref]fleet.Sighting {
	t.Helper()
	out := map[fleet.Ref]fleet.Sighting{}
	for x := range s.sight(t).All() {
		if _, twice := out[x.Ref]; twice {
			t.Fatalf("%s is listed twice", x.Ref)
		}
		out[x.Ref] = x
	}
	return out
}

// is reports whether a worker is in a state, and complains if the list says
// something else.
func (s *subject) is(t *testing.T, r fleet.Ref, state fleet.Life) bool {
	t.Helper()
	sight := s.sight(t)
	x, there := sight.Of(r)
	for y := range sight.All() {
		if y.Ref == r && y.State != x.State {
			t.Fatalf("%s is %s by itself, and %s in the list", r, x.State, y.State)
		}
	}
	return there && x.State == state
}

func (s *subject) isAlive(t *testing.T, r fleet.Ref) bool {
	t.Helper()
	return s.is(t, r, fleet.Alive)
}

func (s *subject) alive(t *testing.T, r fleet.Ref) {
	t.Helper()
	s.becomes(t, r.String()+" is alive", func() bool { return s.isAlive(t, r) })
}

// becomes waits until the world has come to be as described.
func (s *subject) becomes(t *testing.T, what string, f func() bool) {
	t.Helper()
	step := 10 * time.Millisecond
	for waited := time.Duration(0); !f(); waited += step {
		if waited > s.Patience {
			t.Fatalf("it never came to be that %s", what)
		}
		step = min(step*5/4, s.Patience/50)
		s.Sleep(step)
	}
}

// only complains if other workers are listed than these.
func (s *subject) only(t *testing.T, when string, refs ...fleet.Ref) {
	t.Helper()
	got := s.sightings(t)
	for _, r := range refs {
		if _, there := got[r]; !there {
			t.Errorf("%s: %s is not listed", when, r)
		}
		delete(got, r)
	}
	for r, x := range got {
		t.Errorf("%s: %s is listed, %s", when, r, x.State)
	}
}

var name = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,38}$`)

func listed(t *testing.T, s *subject) {
	i := s.intent(t, "test/pool")
	refs := s.launch(t, i)
	if len(refs) != 1 || !name.MatchString(refs[0].WorkerGroup) || !name.MatchString(refs[0].WorkerID) {
		t.Fatalf("the intent's workers are %v", refs)
	}
	r := refs[0]
	if x, there := s.sight(t).Of(r); !there || x.State != fleet.Alive && x.State != fleet.Unknown {
		t.Errorf("a worker that has just been started is seen %s (%v)", x.State, there)
	}
	s.alive(t, r)
	s.only(t, "after one start", r)
	if x := s.sightings(t)[r]; x.IntentID != i.ID {
		t.Errorf("it is said to come from the intent %q, it is from %q", x.IntentID, i.ID)
	}
	x := s.started[r]
	if x.Capacity != i.Capacity || x.LaunchConfigID != "" && x.LaunchConfigID != i.LaunchConfigID && i.LaunchConfigID != "" {
		t.Errorf("the intent is for capacity %d of %q, the worker has %d of %q", i.Capacity, i.LaunchConfigID, x.Capacity, x.LaunchConfigID)
	}
	if x.LaunchConfigID == "" && i.LaunchConfigID == "" {
		t.Error("nobody says what the worker was made from")
	}
}

func repeated(t *testing.T, s *subject) {
	i := s.intent(t, "test/pool")
	first := s.launch(t, i)
	for range 3 {
		again := s.launch(t, i)
		if len(again) != 1 || again[0] != first[0] {
			t.Fatalf("first there were %v, then %v", first, again)
		}
	}
	s.alive(t, first[0])
	if again := s.launch(t, i); len(again) != 1 || again[0] != first[0] {
		t.Errorf("first there were %v, and later %v", first, again)
	}
	s.only(t, "after repetitions", first[0])
	s.end(t, first[0])
	s.only(t, "after it was ended once")
}

func repeatedLater(t *testing.T, s *subject) {
	i := s.intent(t, "test/pool")
	first := s.launch(t, i)
	s.provider = s.Open(t)
	if again := s.launch(t, i); len(again) != 1 || again[0] != first[0] {
		t.Errorf("first there were %v, then %v", first, again)
	}
	s.alive(t, first[0])
	s.only(t, "after a repetition by another server", first[0])
}

func many(t *testing.T, s *subject) {
	var intents []*fleet.Intent
	for n := range 8 {
		intents = append(intents, s.intent(t, fmt.Sprintf("test/pool-%d", n%3)))
	}
	answers := make([]fleet.Answer, len(intents))
	var all sync.WaitGroup
	for n, i := range intents {
		all.Go(func() { answers[n] = s.provider.Launch(t.Context(), s.Now(), i) })
	}
	all.Wait()
	var refs []fleet.Ref
	for n, i := range intents {
		for _, x := range answers[n].Started {
			s.note(t, x)
		}
		of := s.launch(t, i) // those that it was not clear about
		if len(of) != 1 || of[0].WorkerPoolID != i.PoolID {
			t.Errorf("the intent of %s has the workers %v", i.PoolID, of)
		}
		refs = append(refs, of...)
	}
	for _, r := range refs {
		s.alive(t, r)
	}
	s.only(t, "after many starts", refs...)
	for _, r := range refs {
		s.end(t, r)
	}
	s.only(t, "after all were ended")
}

func several(t *testing.T, s *subject) {
	var refs []fleet.Ref
	for _, i := range s.intents(t, "test/pool", 3) {
		of := s.launch(t, i)
		var capacity int64
		for _, r := range of {
			capacity += s.started[r].Capacity
		}
		if int64(len(of)) != i.Workers || capacity != i.Capacity {
			t.Errorf("an intent for %d workers of capacity %d started %d of %d", i.Workers, i.Capacity, len(of), capacity)
		}
		refs = append(refs, of...)
	}
	for _, r := range refs {
		s.alive(t, r)
	}
	s.only(t, "after several starts", refs...)
	for _, r := range refs {
		s.end(t, r)
	}
	s.only(t, "after all were ended")
}

func planned(t *testing.T, s *subject) {
	o := s.pool(t, "test/pool", s.Config)
	one := least(o)
	ids := map[string]bool{}
	for _, c := range []struct{ capacity, room, workers int64 }{
		{3 * one, 100 * one, 100}, {5 * one, 2 * one, 100}, {5 * one, 100 * one, 1}, {one, one, 100}, {5 * one, one - 1, 100},
	} {
		n := need(o, c.capacity, c.room)
		n.From = n.From[:1]
		n.From[0].Workers = c.workers
		var workers, capacity int64
		for _, i := range s.plan(t, n).Intents {
			workers += i.Workers
			capacity += i.Capacity
			if ids[i.ID] || i.ID == "" || len(i.ID) > 64 || strings.Trim(i.ID, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
				t.Errorf("an intent is called %q", i.ID)
			}
			ids[i.ID] = true
			if !json.Valid(i.Request) {
				t.Errorf("the request of an intent is %q", i.Request)
			}
			if i.LaunchConfigID != "" && i.LaunchConfigID != n.From[0].ID {
				t.Errorf("the intent is for %s, which was not offered", i.LaunchConfigID)
			}
		}
		if capacity > c.room || workers > c.workers {
			t.Errorf("%+v: %d workers of capacity %d are planned", c, workers, capacity)
		}
	}
}

func onlyPlanned(t *testing.T, s *subject) {
	s.intents(t, "test/pool", 2)
	s.only(t, "after planning")
}

func stoppedNow(t *testing.T, s *subject) {
	r := s.start(t, "test/pool")
	s.alive(t, r)
	s.end(t, r)
	s.only(t, "after Stop has said that it is gone")
}

func askedToEnd(t *testing.T, s *subject) {
	r := s.start(t, "test/pool")
	s.becomes(t, "a worker that is asked to end, again and again while it boots, has ended", func() bool {
		s.ask(t, r)
		x, there := s.sight(t).Of(r)
		return !there || x.State != fleet.Alive && x.State != fleet.Unknown
	})
	s.end(t, r)
	s.only(t, "after it was cleared away")
}

func stoppedTwice(t *testing.T, s *subject) {
	r := s.start(t, "test/pool")
	s.end(t, r)
	s.end(t, r)
	s.ask(t, r)
	never := fleet.Ref{WorkerPoolID: "test/pool", WorkerGroup: r.WorkerGroup, WorkerID: r.WorkerID[:len(r.WorkerID)-1] + "x"}
	if never == r {
		never.WorkerID = r.WorkerID[:len(r.WorkerID)-1] + "y"
	}
	s.end(t, never)
	s.ask(t, never)
	if _, err := s.provider.Stop(t.Context(), s.Now(), nil, fleet.Now); err != nil {
		t.Errorf("stopping none: %v", err)
	}
}

func died(t *testing.T, s *subject) {
	changed := make(chan struct{}, 1)
	notifier, notifies := s.provider.(fleet.Notifier)
	if notifies {
		notifier.Notify(func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		})
	}
	r := s.start(t, "test/pool")
	s.alive(t, r)
	for len(changed) > 0 {
		<-changed
	}
	s.Kill(t, r)
	s.becomes(t, "the killed worker is not alive", func() bool { return !s.isAlive(t, r) })
	if notifies {
		s.becomes(t, "the provider tells that something has changed", func() bool { return len(changed) > 0 })
	}
	x, there := s.sightings(t)[r]
	if !there {
		t.Fatal("the dead worker is not listed, so nobody learns how it ended")
	}
	if x.State == fleet.Exited || x.Detail == "" {
		t.Errorf("a killed worker is called %s (%q)", x.State, x.Detail)
	}
	s.end(t, r)
	s.only(t, "after it was cleared away")
}

func reopened(t *testing.T, s *subject) {
	r := s.start(t, "test/pool")
	s.becomes(t, "the worker is seen by a provider opened anew", func() bool {
		s.provider = s.Open(t)
		return s.isAlive(t, r)
	})
	s.end(t, r)
	s.only(t, "after it was ended")
}

func unwatched(t *testing.T, s *subject) {
	lives, dies := s.start(t, "test/pool"), s.start(t, "test/pool")
	s.becomes(t, "both have come up", func() bool {
		s.provider = s.Open(t)
		return s.isAlive(t, lives) && s.isAlive(t, dies)
	})
	s.Kill(t, dies)
	s.provider = s.Open(t)
	s.becomes(t, "the killed one is not alive", func() bool { return !s.isAlive(t, dies) })
	if !s.isAlive(t, lives) {
		t.Error("the other one is not alive either")
	}
}

func abandoned(t *testing.T, s *subject) {
	i := s.intent(t, "test/pool")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	a := s.provider.Launch(ctx, s.Now(), i)
	for _, x := range a.Started {
		s.note(t, x)
	}
	if len(a.Started) == 0 && len(a.Faults) == 0 && !a.Again {
		t.Error("nothing was started, and nobody says why")
	}
	// Whatever became of it, a repetition makes it clear and is enough to end it.
	refs := s.launch(t, i)
	for _, x := range s.sightings(t) {
		if x.IntentID != i.ID {
			t.Errorf("%s is listed as of the intent %q", x.Ref, x.IntentID)
		}
	}
	for _, r := range refs {
		s.end(t, r)
	}
	s.only(t, "after its workers were ended")
}

func checked(t *testing.T, s *subject) {
	for say, config := range s.Wrong {
		if _, err := s.provider.Parse(config); err == nil {
			t.Errorf("%s passes, though something is wrong with %s", config, say)
		} else if !strings.Contains(err.Error(), say) {
			t.Errorf("the error about %s does not say %q: %v", config, say, err)
		}
	}
	seen := map[string]bool{}
	for _, c := range s.pool(t, "test/pool", s.Config).LaunchConfigs {
		if seen[c.ID] || !name.MatchString(c.ID) {
			t.Errorf("a launch configuration is called %q", c.ID)
		}
		seen[c.ID] = true
		if c.Capacity < 1 || !json.Valid(c.Config) || len(c.WorkerConfig) > 0 && !json.Valid(c.WorkerConfig) {
			t.Errorf("the launch configuration %+v", c)
		}
	}
}

func named(t *testing.T, s *subject) {
	ids := func(p fleet.Provider, config json.RawMessage) (out []string) {
		list, err := p.Parse(config)
		if err != nil {
			t.Fatalf("%s: %v", config, err)
		}
		for _, c := range list {
			out = append(out, c.ID)
		}
		return out
	}
	var fields map[string]any
	if err := json.Unmarshal(s.Config, &fields); err != nil {
		t.Fatal(err)
	}
	shuffled, err := json.MarshalIndent(fields, " ", "\t")
	if err != nil {
		t.Fatal(err)
	}
	first := fmt.Sprint(ids(s.provider, s.Config))
	if again := fmt.Sprint(ids(s.Open(t), shuffled)); again != first {
		t.Errorf("one configuration is called %s and, written otherwise, %s", first, again)
	}
	if other := fmt.Sprint(ids(s.provider, s.Other)); other == first {
		t.Errorf("two configurations are both called %s", other)
	}
}

func underItsPool(t *testing.T, s *subject) {
	one, two := s.start(t, "test/one"), s.start(t, "test/two")
	s.alive(t, two)
	s.end(t, one)
	s.only(t, "after the other pool's was ended", two)
	if two.WorkerPoolID != "test/two" {
		t.Errorf("%s is of the pool test/two", two)
	}
}

func neighbours(t *testing.T, s *subject) {
	stays, goes := s.start(t, "test/pool"), s.start(t, "test/pool")
	s.alive(t, stays)
	s.end(t, goes)
	s.only(t, "after the other one was ended", stays)
	if !s.isAlive(t, stays) {
		t.Errorf("%s is not alive any more", stays)
	}
}

func typed(t *testing.T, s *subject) {
	if a, b := s.provider.Type(), s.Open(t).Type(); a == "" || a != b {
		t.Errorf("types %q and %q", a, b)
	}
}

func identified(t *testing.T, s *subject) {
	mine, others := s.start(t, "test/pool"), s.start(t, "test/pool")
	s.alive(t, mine)
	s.alive(t, others)
	worker := func(r fleet.Ref) *fleet.Worker {
		x := s.started[r]
		return &fleet.Worker{
			Ref: r, ProviderID: "under-test", LaunchConfigID: x.LaunchConfigID, State: fleet.Requested, Capacity: x.Capacity,
			Market: x.Market, Price: x.Price, Facts: x.Facts, Created: s.Now(),
		}
	}
	identify := func(p fleet.Provider, r fleet.Ref, proof json.RawMessage) error {
		return p.Identify(t.Context(), s.Now(), worker(r), proof)
	}
	mineProof, othersProof := s.Proof(t, mine), s.Proof(t, others)
	if err := identify(s.provider, mine, mineProof); err != nil {
		t.Errorf("its own proof: %v", err)
	}
	if err := identify(s.Open(t), others, othersProof); err != nil {
		t.Errorf("its own proof, shown to the next server: %v", err)
	}
	if err := identify(s.provider, mine, othersProof); err == nil {
		t.Error("the proof of another worker is taken")
	} else if !errors.Is(err, fleet.ErrNotMe) {
		t.Errorf("the proof of another worker: %v, which is not %q", err, fleet.ErrNotMe)
	}
	for _, rubbish := range []string{``, `null`, `{}`, `[]`, `"x"`, `{"token": ""}`, `{"token": null}`, `{"document": "x", "signature": "y"}`, `{`} {
		if err := identify(s.provider, mine, json.RawMessage(rubbish)); err == nil {
			t.Errorf("%q is taken for a proof", rubbish)
		}
	}
}
