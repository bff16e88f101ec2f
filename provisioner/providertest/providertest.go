// Package providertest holds a provider to the contract that
// provisioner.Provider states. A provider joins with one call of Run.
package providertest

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/provisioner"
	"github.com/taskfleet/taskfleet/slugid"
)

// A World is where a provider under test has its workers.
type World struct {
	// Open opens the provider. A second call finds what the first one left, as
	// a server does that was killed and started again.
	Open func(*testing.T) provisioner.Provider

	// Kill ends a worker behind the provider's back.
	Kill func(*testing.T, provisioner.Ref)

	Config json.RawMessage            // of a pool, without fault
	Wrong  map[string]json.RawMessage // configurations with one fault, by what the error must say
}

// Run runs the suite. world makes a World without workers, whose workers end
// when they are asked to; it is called once for each test.
func Run(t *testing.T, world func(*testing.T) World) {
	for name, test := range map[string]func(*testing.T, subject){
		"a started worker is listed, alive":                        listed,
		"a repeated order starts nothing":                          repeated,
		"many orders at once start one worker each":                many,
		"a worker stopped now is gone when Stop returns":           stoppedNow,
		"a worker asked to end ends":                               askedToEnd,
		"stopping what does not exist is no error":                 stoppedTwice,
		"a death is told and listed until it is cleared away":      died,
		"a provider opened anew knows the workers of its past":     reopened,
		"an order whose caller has gone leaves nothing unlisted":   abandoned,
		"a good configuration passes, a fault is called by name":   checked,
		"a worker is listed under its pool":                        underItsPool,
		"a provider has a type that is the same every time":        typed,
		"stopping one worker leaves the others as they are":        neighbours,
		"a worker killed while nobody watches is not called alive": unwatched,
	} {
		t.Run(name, func(t *testing.T) {
			w := world(t)
			test(t, subject{World: w, provider: w.Open(t)})
		})
	}
}

type subject struct {
	World
	provider provisioner.Provider
}

func (s subject) order(pool string) provisioner.Order {
	return provisioner.Order{
		Ref:        provisioner.Ref{WorkerPoolID: pool, WorkerGroup: "group", WorkerID: "w-" + slugid.New()},
		ProviderID: "under-test", Token: slugid.Token(), Config: s.Config,
	}
}

func (s subject) start(t *testing.T, o provisioner.Order) provisioner.Ref {
	t.Helper()
	if err := s.provider.Start(t.Context(), o); err != nil {
		t.Fatalf("starting %s: %v", o.Ref, err)
	}
	// Whatever the test finds, nothing is to be left of it.
	t.Cleanup(func() {
		if err := s.provider.Stop(context.Background(), o.Ref, provisioner.Now); err != nil {
			t.Errorf("ending %s after the test: %v", o.Ref, err)
		}
	})
	return o.Ref
}

func (s subject) stop(t *testing.T, r provisioner.Ref, how provisioner.Manner) {
	t.Helper()
	if err := s.provider.Stop(t.Context(), r, how); err != nil {
		t.Fatalf("stopping %s: %v", r, err)
	}
}

// sightings lists the workers, and complains of a worker listed twice.
func (s subject) sightings(t *testing.T) map[provisioner.Ref]provisioner.Sighting {
	t.Helper()
	list, err := s.provider.Workers(t.Context())
	if err != nil {
		t.Fatalf("listing workers: %v", err)
	}
	out := map[provisioner.Ref]provisioner.Sighting{}
	for _, x := range list {
		if _, twice := out[x.Ref]; twice {
			t.Fatalf("%s is listed twice", x.Ref)
		}
		out[x.Ref] = x
	}
	return out
}

func (s subject) isAlive(t *testing.T, r provisioner.Ref) bool {
	t.Helper()
	x, there := s.sightings(t)[r]
	return there && x.State == provisioner.Alive
}

// becomes waits until the world has come to be as described.
func (s subject) becomes(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never came to be that %s", what)
		}
	}
}

func listed(t *testing.T, s subject) {
	r := s.start(t, s.order("test/pool"))
	if got := s.sightings(t); len(got) != 1 || got[r].State != provisioner.Alive {
		t.Errorf("listed: %v; want %s alone, alive", got, r)
	}
}

func repeated(t *testing.T, s subject) {
	o := s.order("test/pool")
	r := s.start(t, o)
	if err := s.provider.Start(t.Context(), o); err != nil {
		t.Errorf("the second time: %v", err)
	}
	if got := s.sightings(t); len(got) != 1 || got[r].State != provisioner.Alive {
		t.Errorf("listed: %v; want %s alone, alive", got, r)
	}
	s.stop(t, r, provisioner.Now)
	if got := s.sightings(t); len(got) != 0 {
		t.Errorf("left after one stop: %v", got)
	}
}

func many(t *testing.T, s subject) {
	var orders []provisioner.Order
	for i := range 8 {
		orders = append(orders, s.order(fmt.Sprintf("test/pool-%d", i%3)))
	}
	var all sync.WaitGroup
	for _, o := range orders {
		all.Go(func() {
			if err := s.provider.Start(t.Context(), o); err != nil {
				t.Errorf("starting %s: %v", o.Ref, err)
			}
		})
	}
	all.Wait()
	got := s.sightings(t)
	for _, o := range orders {
		if x, there := got[o.Ref]; !there || x.State != provisioner.Alive {
			t.Errorf("%s is not alive", o.Ref)
		}
		s.stop(t, o.Ref, provisioner.Now)
	}
	if len(got) != len(orders) {
		t.Errorf("%d workers are listed, %d were started", len(got), len(orders))
	}
}

func stoppedNow(t *testing.T, s subject) {
	r := s.start(t, s.order("test/pool"))
	s.stop(t, r, provisioner.Now)
	if got := s.sightings(t); len(got) != 0 {
		t.Errorf("still listed: %v", got)
	}
}

func askedToEnd(t *testing.T, s subject) {
	r := s.start(t, s.order("test/pool"))
	s.becomes(t, "a worker that is asked to end, again and again while it boots, has ended", func() bool {
		s.stop(t, r, provisioner.Gracefully)
		return !s.isAlive(t, r)
	})
	s.stop(t, r, provisioner.Now)
	if got := s.sightings(t); len(got) != 0 {
		t.Errorf("still listed after it was cleared away: %v", got)
	}
}

func stoppedTwice(t *testing.T, s subject) {
	r := s.start(t, s.order("test/pool"))
	s.stop(t, r, provisioner.Now)
	s.stop(t, r, provisioner.Now)
	s.stop(t, r, provisioner.Gracefully)
	never := s.order("test/pool").Ref
	s.stop(t, never, provisioner.Now)
	s.stop(t, never, provisioner.Gracefully)
}

func died(t *testing.T, s subject) {
	r := s.start(t, s.order("test/pool"))
	changed := make(chan struct{}, 1)
	s.provider.Notify(func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	s.Kill(t, r)
	for s.isAlive(t, r) {
		select {
		case <-changed:
		case <-time.After(time.Minute):
			t.Fatal("the worker is dead and the provider does not tell that anything changed")
		}
	}
	x, there := s.sightings(t)[r]
	if !there {
		t.Fatal("the dead worker is not listed, so nobody learns how it ended")
	}
	if x.State == provisioner.Exited || x.Detail == "" {
		t.Errorf("a killed worker is called %s (%q)", x.State, x.Detail)
	}
	s.stop(t, r, provisioner.Now)
	if got := s.sightings(t); len(got) != 0 {
		t.Errorf("still listed after it was cleared away: %v", got)
	}
}

func reopened(t *testing.T, s subject) {
	r := s.start(t, s.order("test/pool"))
	s.becomes(t, "the worker is seen by a provider opened anew", func() bool {
		s.provider = s.Open(t)
		return s.isAlive(t, r)
	})
	s.stop(t, r, provisioner.Now)
	if got := s.sightings(t); len(got) != 0 {
		t.Errorf("still listed after it was stopped: %v", got)
	}
}

func unwatched(t *testing.T, s subject) {
	lives, dies := s.start(t, s.order("test/pool")), s.start(t, s.order("test/pool"))
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

func abandoned(t *testing.T, s subject) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	o := s.order("test/pool")
	err := s.provider.Start(ctx, o)
	s.stop(t, o.Ref, provisioner.Now)
	if got := s.sightings(t); len(got) != 0 {
		t.Errorf("after Start (error %v) and Stop(Now), left: %v", err, got)
	}
}

func checked(t *testing.T, s subject) {
	if err := s.provider.Check(s.Config); err != nil {
		t.Errorf("the good configuration: %v", err)
	}
	for say, config := range s.Wrong {
		if err := s.provider.Check(config); err == nil {
			t.Errorf("%s passes, though something is wrong with %s", config, say)
		} else if !strings.Contains(err.Error(), say) {
			t.Errorf("the error about %s does not say %q: %v", config, say, err)
		}
	}
}

func underItsPool(t *testing.T, s subject) {
	one, two := s.order("test/one"), s.order("test/two")
	s.start(t, one)
	s.start(t, two)
	s.stop(t, one.Ref, provisioner.Now)
	if got := s.sightings(t); len(got) != 1 || got[two.Ref].WorkerPoolID != "test/two" {
		t.Errorf("listed: %v; want %s alone", got, two.Ref)
	}
}

func neighbours(t *testing.T, s subject) {
	stays, goes := s.start(t, s.order("test/pool")), s.start(t, s.order("test/pool"))
	s.stop(t, goes, provisioner.Now)
	if got := s.sightings(t); len(got) != 1 || got[stays].State != provisioner.Alive {
		t.Errorf("listed: %v; want %s alone, alive", got, stays)
	}
}

func typed(t *testing.T, s subject) {
	if a, b := s.provider.Type(), s.Open(t).Type(); a == "" || a != b {
		t.Errorf("types %q and %q", a, b)
	}
}
