package replicas

import (
	"context"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"
)

// few is how many tasks it takes to have something on its way whatever breaks, in half a minute or so.
const few = 2000

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
			s := settings{replicas: 1, quick: true}
			b := newBroker(t)
			s.config = b.config()
			faults := append(slices.Concat(processFaults, storageFaults, clockFaults), brokerKilled(b))
			if kind == "postgres" {
				s.replicas, s.postgres = 3, true
				faults = append(faults, databaseFaults...)
			}
			p := start(t, s)
			b.bind()
			l := newLoad(p, tasks)
			l.allowed = 0
			rounds := 2 * tasks / few
			l.run(time.Duration(tasks/few)*3*time.Minute, func(ctx context.Context) { l.storm(ctx, faults, rounds) })
			b.check(l)
			t.Logf("%d faults of %d kinds; S3 failed %d requests", len(faults)*rounds, len(faults), p.storage.failed.Load())
		})
	}
}
