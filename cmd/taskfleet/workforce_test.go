//go:build !agent

package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/provisioner"
	"github.com/taskfleet/taskfleet/client/workermanager"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/timestamp"
)

// What queue and provisioner tell each other comes together in their APIs.
func TestQueueAndProvisionerKnowOfEachOther(t *testing.T) {
	p := startReal(t)
	expect(t, exitOK, "created local/test", "pool", "apply", "-f", writeFile(t, "pool.yml", testPool))
	expect(t, exitOK, "All 2 tasks completed", "graph", "submit", writeFile(t, "graph.yml", testGraph), "--watch")
	core, err := client.New(client.Options{RootURL: p.RootURL, Credentials: p.Root})
	if err != nil {
		t.Fatal(err)
	}
	ctx, prov, wm := t.Context(), provisioner.New(core), workermanager.New(core)

	// The runs are counted when their messages have come.
	var cost *provisioner.WorkerPoolCost
	for end := time.Now().Add(soon); ; time.Sleep(100 * time.Millisecond) {
		if cost, err = prov.WorkerPoolCost(ctx, "local/test", provisioner.WorkerPoolCostOptions{}); err != nil {
			t.Fatal(err)
		}
		if cost.Tasks == 2 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("2 tasks ran, and it says: %+v", cost)
		}
	}
	if cost.Workers < 1 || cost.Unpriced != cost.Workers || cost.WorkerHours <= 0 || cost.Cost != 0 {
		t.Errorf("cost %+v", cost)
	}

	workers, err := wm.ListWorkers(ctx, "local", "test", workermanager.ListWorkersOptions{})
	if err != nil || len(workers.Workers) == 0 || workers.Workers[0].ProviderID != "local" || workers.Workers[0].LatestTask == nil {
		t.Errorf("workers %+v, %v", workers, err)
	}
	status, err := prov.ProviderStatus(ctx)
	if err != nil || len(status.Providers) != 2 || !status.Providers[0].Ok || status.LastPass.IsZero() {
		t.Errorf("providers %+v, %v", status, err)
	}
	x, err := prov.ExplainWorkerPool(ctx, "local/test")
	if err != nil || len(x.Decisions) == 0 || !strings.Contains(strings.Join(x.Summary, "\n"), "the policy ratio decided") {
		t.Errorf("explanation %+v, %v", x, err)
	}
}

func TestTasksThatTheirGraphAnnouncedAreTold(t *testing.T) {
	l := &learner{defined: map[string]timestamp.Time{}}
	at := timestamp.Time(1_000_000)
	define := func(id string) {
		l.noteDefined(id, at)
	}
	key := func(id string, run int) runKey {
		k, ok := readKey(event.Message{RoutingKey: fmt.Sprintf("primary.%s.%d._._.pools.build.-.group._", id, run)})
		if !ok || k.queueID != "pools/build" {
			t.Errorf("the key was read as %+v, %v", k, ok)
		}
		return k
	}
	define("free")
	define("dependent")
	for _, c := range []struct {
		id    string
		run   int
		after time.Duration
		want  int64
	}{
		{"free", 0, 0, 0}, // pending from the start
		{"dependent", 0, time.Minute, 1},
		{"dependent", 1, 2 * time.Minute, 0}, // a retry
		{"before", 0, 0, 1},                  // defined before this replica listened
	} {
		if got := l.known(key(c.id, c.run), at.Add(c.after)); got != c.want {
			t.Errorf("run %d of %s after %v: %d, want %d", c.run, c.id, c.after, got, c.want)
		}
	}
	for i := range 20_000 {
		at = at.Add(time.Millisecond)
		define(fmt.Sprint(i))
	}
	if n := len(l.defined); n > 10_001 {
		t.Errorf("%d tasks are remembered", n)
	}
}
