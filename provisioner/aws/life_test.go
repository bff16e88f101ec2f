package aws_test

import (
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/provisioner/aws/awsfake"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
)

// The life of a few workers, in both forms of pools.
func TestLife(t *testing.T) {
	for name, config := range map[string]string{"RunInstances": plain, "CreateFleet": wide} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, awsfake.Config{
				Boot: awsfake.Boot{Median: 75 * time.Second, Sigma: 0.25, Shutdown: 20 * time.Second}, Consistency: awsfake.Consistency{Delay: 20 * time.Second},
				Limits: awsfake.Limits{Documented: true},
			}, nil)
			w.define(config)
			w.look()
			started, faults := w.start(5)
			if len(started) != 5 || len(faults) > 0 {
				t.Fatalf("started %+v, faults %+v", started, faults)
			}
			for _, s := range started {
				if s.WorkerGroup != home || s.Capacity != 1 || s.WorkerPoolID != "aws/build" {
					t.Errorf("started %+v", s)
				}
			}
			if got := w.states(); got != "5 alive" {
				t.Fatalf("at once: %s", got)
			}
			for range 10 {
				w.pass(30 * time.Second)
				if got := w.states(); got != "5 alive" {
					t.Fatalf("after %v: %s", w.clock, got)
				}
			}
			refs := w.refs()
			if gone := w.stop(fleet.Gracefully, false, refs...); len(gone) > 0 || w.calls("TerminateInstances") > 0 {
				t.Fatal("workers that are busy were ended")
			}
			w.stop(fleet.Gracefully, true, refs[:2]...)
			w.stop(fleet.Now, false, refs[2:]...)
			for range 20 {
				w.pass(time.Second)
				w.stop(fleet.Now, false, refs...)
			}
			if n := w.calls("TerminateInstances"); n != 2 {
				t.Errorf("%d calls to terminate, want 2", n)
			}
			w.pass(time.Minute)
			if got := w.states(); got != "5 lost" {
				t.Errorf("after their end: %s", got)
			}
			if gone := w.stop(fleet.Now, false, refs...); len(gone) != 5 {
				t.Errorf("gone are %v", gone)
			}
			for x := range w.look().All() {
				t.Errorf("still there: %+v", x)
			}
			if n := w.cloud.Alive(); n != 0 {
				t.Errorf("%d instances are alive", n)
			}
			t.Log(w.cloud.Stats().Calls)
		})
	}
}
