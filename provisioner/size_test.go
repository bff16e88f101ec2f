package provisioner

import (
	"math/rand/v2"
	"strings"
	"testing"
)

func TestSize(t *testing.T) {
	for _, c := range []struct {
		name string
		in   Inputs
		want Decision
		why  string
	}{
		{"an empty pool with no tasks stays empty",
			Inputs{Max: 10}, Decision{}, "no task is pending"},
		{"one pending task starts one worker",
			Inputs{Pending: 1, Max: 10}, Decision{Desired: 1, Start: 1}, "1 task is pending"},
		{"a requested worker is spoken for once: 250 pending, 100 requested",
			Inputs{Pending: 250, Requested: 100, Max: 1000}, Decision{Desired: 250, Start: 150}, "start 150 workers"},
		{"a requested worker is spoken for once: 200 pending, 100 requested",
			Inputs{Pending: 200, Requested: 100, Max: 1000}, Decision{Desired: 200, Start: 100}, "100 requested"},
		{"the minimum counts requested workers once: 8 of 10, 4 of them requested",
			Inputs{Requested: 4, Running: 4, Min: 10, Max: 100}, Decision{Desired: 10, Start: 2}, "at least 10"},
		{"requested workers that cover what is pending are enough",
			Inputs{Pending: 3, Requested: 3, Max: 10}, Decision{Desired: 3}, "start none"},
		{"idle workers are used before new ones are started",
			Inputs{Pending: 5, Running: 8, Claimed: 5, Max: 100}, Decision{Desired: 10, Start: 2}, "capacity 3 is free"},
		{"busy workers do not help what is pending",
			Inputs{Pending: 5, Running: 5, Claimed: 5, Max: 100}, Decision{Desired: 10, Start: 5}, "start 5 workers"},
		{"claims of workers that nobody provisioned take nothing from what is requested",
			Inputs{Pending: 4, Running: 2, Claimed: 50, Requested: 4, Max: 100}, Decision{Desired: 6}, "start none"},
		{"the maximum holds",
			Inputs{Pending: 500, Running: 3, Claimed: 3, Max: 10}, Decision{Desired: 10, Start: 7}, "no more than 10"},
		{"stopping workers take room until they are gone",
			Inputs{Pending: 500, Running: 3, Claimed: 3, Stopping: 5, Max: 10}, Decision{Desired: 10, Start: 2}, "all that there is room for"},
		{"a pool full of stopping workers waits",
			Inputs{Pending: 5, Stopping: 10, Max: 10}, Decision{Desired: 5}, "no room until stopping workers are gone"},
		{"stopping workers do not count for the minimum",
			Inputs{Stopping: 2, Min: 2, Max: 10}, Decision{Desired: 2, Start: 2}, "at least 2"},
		{"half a worker for a task, rounded up, and no more the next time",
			Inputs{Pending: 5, ScalingRatio: .5, Max: 10}, Decision{Desired: 3, Start: 3}, "ratio of 0.5"},
		{"the ratio is of what is pending, not of what is not yet covered",
			Inputs{Pending: 10, ScalingRatio: .5, Requested: 5, Max: 10}, Decision{Desired: 5}, "start none"},
		{"a single task is never starved by a small ratio",
			Inputs{Pending: 1, ScalingRatio: .01, Max: 10}, Decision{Desired: 1, Start: 1}, "start 1 worker"},
		{"workers of capacity 4 start for every 4 tasks, rounded up",
			Inputs{Pending: 9, CapacityPerWorker: 4, Max: 100}, Decision{Desired: 9, Start: 3}, "start 3 workers"},
		{"workers of capacity 4 never exceed the maximum",
			Inputs{Pending: 9, CapacityPerWorker: 4, Max: 10}, Decision{Desired: 9, Start: 2}, "all that there is room for"},
		{"a worker larger than the maximum cannot start",
			Inputs{Pending: 9, CapacityPerWorker: 4, Max: 3}, Decision{Desired: 3}, "no room for a worker of capacity 4"},
		{"few tasks are no reason to send workers away",
			Inputs{Running: 9, Claimed: 1, Max: 10}, Decision{Desired: 1}, "start none"},
		{"a lowered maximum leaves an excess",
			Inputs{Running: 9, Requested: 1, Claimed: 9, Pending: 50, Max: 4}, Decision{Desired: 4, Excess: 6}, "oldest first"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.in.ScalingRatio == 0 {
				c.in.ScalingRatio = 1
			}
			if c.in.CapacityPerWorker == 0 {
				c.in.CapacityPerWorker = 1
			}
			got := Size(c.in)
			if !strings.Contains(got.Reason, c.why) {
				t.Errorf("the reason does not say %q: %s", c.why, got.Reason)
			}
			got.Reason = ""
			if got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestARatioOfZeroStartsOnlyTheMinimum(t *testing.T) {
	got := Size(Inputs{Pending: 50, Min: 2, Max: 10, CapacityPerWorker: 1})
	if got.Start != 2 {
		t.Errorf("starts %d workers, want 2: %s", got.Start, got.Reason)
	}
}

// What must hold whatever the inputs are.
func TestSizeKeepsItsPromises(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 30_000 {
		n := func() int64 { return rnd.Int64N(1 + rnd.Int64N(60)) }
		in := Inputs{
			Pending: n(), Claimed: n(), Requested: n(), Running: n(), Stopping: n(),
			Max: n(), ScalingRatio: rnd.Float64(), CapacityPerWorker: 1 + rnd.Int64N(5),
		}
		in.Min = rnd.Int64N(in.Max + 1)
		if rnd.IntN(2) == 0 {
			in.ScalingRatio = 1
		}
		d := Size(in)
		fail := func(promise string) { t.Fatalf("%s\n%+v\n%+v", promise, in, d) }
		added := d.Start * in.CapacityPerWorker
		live := in.Requested + in.Running

		if d.Start < 0 || d.Excess < 0 {
			fail("no count is negative")
		}
		if d.Start > 0 && d.Excess > 0 {
			fail("nothing starts while something is to go")
		}
		if d.Start > 0 && live+in.Stopping+added > in.Max {
			fail("no start exceeds the maximum")
		}
		if room := in.Max - live - in.Stopping - added; live+added < d.Desired && room >= in.CapacityPerWorker {
			fail("what is missing is started as long as there is room")
		}
		if added > 0 && live+added-in.CapacityPerWorker >= d.Desired {
			fail("no worker starts that is not needed")
		}
		if d.Desired < in.Min || d.Desired > in.Max {
			fail("the desired capacity is between minimum and maximum")
		}

		after := in
		after.Requested += added
		if again := Size(after); again.Start != 0 {
			fail("a decision that was carried out asks for nothing more")
		}

		boots := in // a requested worker that registers changes nothing
		if in.Requested > 0 && in.Claimed <= in.Running {
			boots.Requested--
			boots.Running++
			if Size(boots).Start != d.Start {
				fail("a worker counts the same whether requested or idle")
			}
		}

		more := in
		more.Pending += n()
		if Size(more).Start < d.Start {
			fail("more pending tasks never start fewer workers")
		}
	}
}
