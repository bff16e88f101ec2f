package replicas

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/slugid"
)

// A fault is something that breaks, and is whole again when do returns.
type fault struct {
	name   string
	do     func(context.Context, *platform) error
	clock  bool // it makes a clock wrong
	seldom bool // it happens in every other round only
}

var (
	kill = fault{name: "a replica is killed", do: func(_ context.Context, p *platform) error { return p.any().kill() }}
	roll = fault{name: "a replica is restarted in good order", do: func(_ context.Context, p *platform) error { return p.any().roll() }}

	cutListening   = fault{name: "connections that listen are cut", do: func(ctx context.Context, p *platform) error { return p.cutting(ctx, listening) }}
	cutConnections = fault{name: "all connections to PostgreSQL are cut", do: func(ctx context.Context, p *platform) error { return p.cutting(ctx, connections) }}
	restart        = fault{name: "PostgreSQL is restarted", do: func(ctx context.Context, _ *platform) error { return alone(ctx, common.database.Restart) }}
	crash          = fault{name: "PostgreSQL crashes", do: func(ctx context.Context, _ *platform) error { return alone(ctx, common.database.Crash) }}

	storageFails  = fault{name: "S3 fails", do: func(_ context.Context, p *platform) error { p.storage.fail(failing, 2*time.Second); return nil }}
	storageAbsent = fault{name: "S3 is not there", do: func(_ context.Context, p *platform) error { p.storage.fail(absent, time.Second); return nil }}
	storageSlow   = fault{name: "S3 is slow", do: func(_ context.Context, p *platform) error { p.storage.fail(slow, 2*time.Second); return nil }}
)

var (
	processFaults  = []fault{kill, roll}
	databaseFaults = []fault{cutListening, cutConnections, restart, crash}
	storageFaults  = []fault{storageFails, storageAbsent, storageSlow}
)

// restarting keeps PostgreSQL from being started twice, and replicas from being started while it is down, which they
// refuse.
var restarting sync.RWMutex

func alone(ctx context.Context, f func(context.Context) error) error {
	restarting.Lock()
	defer restarting.Unlock()
	return f(context.WithoutCancel(ctx))
}

func (p *platform) cutting(ctx context.Context, which string) error {
	restarting.RLock()
	defer restarting.RUnlock()
	return p.cut(ctx, which)
}

func (p *platform) any() *replica { return p.replicas[rand.IntN(len(p.replicas))] }

// storm has faults happen side by side, each for a number of rounds, while l goes on. Before each, more tasks may be
// created, so that some are on their way whatever breaks.
func (l *load) storm(ctx context.Context, faults []fault, rounds int) {
	l.t.Helper()
	l.mu.Lock()
	l.clocks = slices.ContainsFunc(faults, func(f fault) bool { return f.clock })
	l.mu.Unlock()
	var raging sync.WaitGroup
	for _, f := range faults {
		raging.Go(func() {
			for round := range rounds {
				// The rounds are spread over all that is to be done.
				if l.wait(func() bool { return l.completed >= l.total*4/5*round/rounds }) != nil || !sleep(ctx, 100*time.Millisecond+rand.N(time.Second)) {
					return
				}
				l.allow(l.total / (len(faults) * rounds))
				if f.seldom && round%2 == 1 {
					continue
				}
				if err := f.do(ctx, l.p); err != nil {
					l.stop(fmt.Errorf("%s: %w", f.name, err))
					return
				}
			}
		})
	}
	raging.Wait()
	l.allow(l.total)
}

// survive has a load done while faults happen.
func survive(t *testing.T, p *platform, tasks, rounds int, faults ...fault) {
	t.Helper()
	l := newLoad(t, p, tasks)
	l.allowed = 0
	l.run(func(ctx context.Context) { l.storm(ctx, faults, rounds) })
	t.Logf("%d rounds of %d kinds of faults", rounds, len(faults))
}

// Whatever breaks, again and again, nothing is lost. All of it breaks on the same platform, one after the other.
func TestNothingIsLostWhateverBreaks(t *testing.T) {
	each(t, func(t *testing.T, p *platform) {
		t.Run("replicas", func(t *testing.T) { survive(t, p, 200, 5, kill) })
		if p.database != "" {
			t.Run("PostgreSQL", func(t *testing.T) { survive(t, p, 200, 2, databaseFaults...) })
		}
		t.Run("S3", func(t *testing.T) {
			survive(t, p, 150, 2, storageFaults...)
			t.Logf("S3 failed %d requests and stored %d objects", p.storage.failed.Load(), p.storage.stored.Load())
			if p.storage.failed.Load() == 0 {
				t.Error("S3 was never asked while it failed")
			}
		})
		if len(clockFaults) > 0 { // where we can have them
			t.Run("clocks", func(t *testing.T) { survive(t, p, 120, 2, clockFaults...) })
		}
	})
}

func TestAFullDiskLosesNothingThatWasAcknowledged(t *testing.T) {
	if !slices.Contains(kinds(), "sqlite") {
		t.Log("TASKFLEET_TEST_DATABASES asks for no SQLite: the disk of a PostgreSQL is not ours")
		return
	}
	disk := newDisk(t)
	p := start(t, settings{replicas: 1, data: disk.directory})
	ctx, q := t.Context(), queue.New(p.client(never))
	pool, group := newName("pool")+"/disk", slugid.New()
	var acknowledged []string
	create := func() error {
		id := slugid.New()
		_, err := q.CreateTask(ctx, id, newTask(pool, group, nil))
		if err == nil {
			acknowledged = append(acknowledged, id)
		}
		return err
	}
	for range 50 {
		if err := create(); err != nil {
			t.Fatal(err)
		}
	}

	// The disk fills up. Until it is full, tasks are taken; then they are refused, in a way that tells to try again.
	disk.fill(p.replicas[0].PID())
	var refusal error
	for range 20_000 {
		if refusal = create(); refusal != nil {
			break
		}
	}
	e, ok := errors.AsType[*client.Error](refusal)
	if !ok || e.StatusCode < 500 {
		t.Fatalf("with a full disk, after %d tasks: %v", len(acknowledged), refusal)
	}
	t.Logf("after %d tasks the disk was full (%s): %v", len(acknowledged), disk.kind, refusal)
	refused := 0
	for range 20 {
		if create() != nil {
			refused++
		}
	}
	t.Logf("%d of 20 more tasks were refused", refused)

	// What is there can still be read.
	for _, id := range []string{acknowledged[0], acknowledged[len(acknowledged)-1]} {
		if _, err := q.Status(ctx, id); err != nil {
			t.Errorf("reading with a full disk: %v", err)
		}
	}

	// There is room again, and it goes on by itself.
	disk.empty(p.replicas[0].PID())
	took := eventually(t, "tasks are taken again", create)
	t.Logf("tasks were taken again after %v", took.Round(time.Millisecond))

	// All that was acknowledged is there, also after a crash, and can be worked on.
	if err := p.replicas[0].kill(); err != nil {
		t.Fatal(err)
	}
	for part := range slices.Chunk(acknowledged, 500) {
		seen := 0
		for s, err := range queue.New(p.client(patient)).StatusesAll(ctx, &queue.TasksRequest{TaskIDs: part}, queue.StatusesOptions{}) {
			if err != nil {
				t.Fatal(err)
			}
			if seen++; s.Status.State != "pending" {
				t.Errorf("task %s is %s", s.TaskID, s.Status.State)
			}
		}
		if seen != len(part) {
			t.Errorf("of %d tasks that were acknowledged %d are there", len(part), seen)
		}
	}
	newLoad(t, p, 100).run(nil)
}
