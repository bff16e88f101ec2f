package sizing

import (
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/timestamp"
)

// Idle workers are kept for tasks that come soon. That they may come at any time
// within hours is no reason, and neither is it if as many tasks end meanwhile.
func TestIdleWorkersAndTasksThatAreKnownToCome(t *testing.T) {
	const n = 20
	at := timestamp.Of(time.Date(2026, 3, 2, 8, 0, 0, 0, time.UTC))
	for name, c := range map[string]struct {
		in, err time.Duration
		running int64
		kept    bool
	}{
		"in ten seconds": {in: 10 * time.Second, err: time.Second, kept: true},
		"within hours":   {in: 2 * time.Hour, err: 2 * time.Hour},
		"in ten seconds, while others end even sooner": {in: 10 * time.Second, err: time.Second, running: 1000},
		"in ten seconds, while two others end sooner":  {in: 10 * time.Second, err: time.Second, running: 2, kept: true},
	} {
		st := new(Statistics)
		for range 100 { // tasks take two seconds, or nobody knows
			st.Finished(at, "", 2*time.Second)
		}
		in := Inputs{
			Now: at, Settings: Settings{Max: 5000, CapacityPerWorker: 1, WaitPrice: DefaultWaitPrice},
			Known: []Known{{Count: n, At: at.Add(c.in), Error: c.err}},
		}
		if c.running > 0 {
			in.Running, in.Working = []Running{{Since: at.Add(-time.Second), Count: c.running}}, c.running
		}
		for range n {
			in.Idle = append(in.Idle, Idle{Since: at.Add(-time.Hour), Capacity: 1})
		}
		want := n
		if c.kept {
			want = 0
		}
		if d := (Forecast{}).Decide(in, st); len(d.Drain) != want {
			t.Errorf("%s: %d of %d idle workers go: %s", name, len(d.Drain), n, d.Reason)
		}
	}
}
