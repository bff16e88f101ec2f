package replicas

import (
	"context"
	"os"
	"slices"
	"strconv"
	"testing"
)

// few is how many tasks it takes to have something on its way whatever breaks, in half a minute or so.
const few = 600

// TestEverythingAtOnce has all faults happen side by side. TASKFLEET_TEST_LONG, a number of tasks such as 100000, makes it
// a long one.
func TestEverythingAtOnce(t *testing.T) {
	tasks := few
	if text := os.Getenv("TASKFLEET_TEST_LONG"); text != "" {
		var err error
		if tasks, err = strconv.Atoi(text); err != nil || tasks < few {
			t.Fatalf("TASKFLEET_TEST_LONG is %q; it must be a number of tasks, %d or more", text, few)
		}
	}
	for _, kind := range kinds() {
		t.Run(kind, func(t *testing.T) {
			s := settings{replicas: 1}
			b := newBroker(t)
			s.config = b.config()
			faults := append(slices.Concat(processFaults, storageFaults, clockFaults), brokerKilled(b))
			if kind == "postgres" {
				s.replicas, s.postgres = 3, true
				faults = append(faults, databaseFaults...)
			}
			p := start(t, s)
			b.bind()
			l := newLoad(t, p, tasks)
			l.allowed = 0
			rounds := max(2, tasks/1000)
			l.run(func(ctx context.Context) { l.storm(ctx, faults, rounds) })
			b.check(l)
			t.Logf("%d rounds of %d kinds of faults; S3 failed %d requests", rounds, len(faults), p.storage.failed.Load())
		})
	}
}
