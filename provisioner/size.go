package provisioner

import (
	"fmt"
	"math"
	"strings"
)

// Inputs are all that Size looks at. Tasks count one each; workers count by
// capacity, the number of tasks they can run at once, and each worker counts
// in exactly one of Requested, Running and Stopping.
type Inputs struct {
	Pending int64 // tasks that wait for a worker
	Claimed int64 // tasks that run

	Requested int64 // capacity asked for and not yet registered
	Running   int64 // capacity registered
	Stopping  int64 // capacity on its way out: takes no more tasks, still takes room

	Min, Max          int64   // what the pool may have
	ScalingRatio      float64 // capacity wanted free for each pending task, 0 to 1
	CapacityPerWorker int64   // at least 1
}

// A Decision is how much capacity a pool should have and what that means for
// its workers.
type Decision struct {
	Desired int64  // capacity that should be requested or running
	Start   int64  // workers to start now
	Excess  int64  // capacity beyond the pool's maximum
	Reason  string // why, for people
}

// Size decides how many workers to start. It is a pure function: the same
// inputs give the same decision, and applying a decision and asking again
// starts nothing.
//
// Capacity that is requested, and running capacity without a claim, is free:
// it is spoken for by pending tasks before anything new is. More claims than
// running capacity (workers that nobody provisioned serve the queue too) take
// nothing from what is requested, since what has not registered holds no
// claim. Stopping workers are no help to a pending task, but they keep the
// pool from exceeding its maximum until they are gone.
//
// Size never asks for workers to go because tasks are few: workers leave when
// they have been idle for the time that the pool's owner chose, and a second
// opinion here would cut that time short. Excess is what a lowered maximum
// leaves over.
func Size(in Inputs) Decision {
	per := max(in.CapacityPerWorker, 1)
	live := in.Requested + in.Running
	busy := min(in.Claimed, in.Running)
	free := live - busy

	wanted := int64(math.Ceil(float64(in.Pending) * in.ScalingRatio)) // free capacity for what is pending
	target := max(busy+wanted, in.Min)
	d := Decision{Desired: min(target, in.Max), Excess: max(live-in.Max, 0)}

	missing := d.Desired - live
	room := in.Max - live - in.Stopping
	if missing > 0 {
		d.Start = max(min((missing+per-1)/per, room/per), 0)
	}
	d.Reason = reason(in, d, wanted, free, target, missing, room)
	return d
}

func reason(in Inputs, d Decision, wanted, free, target, missing, room int64) string {
	var b strings.Builder
	switch {
	case in.Pending == 0:
		b.WriteString("no task is pending")
	case in.ScalingRatio == 1:
		fmt.Fprintf(&b, "%s pending, capacity %d is free", tasks(in.Pending), free)
	default:
		fmt.Fprintf(&b, "%s pending, which want capacity %d at a ratio of %g; capacity %d is free",
			tasks(in.Pending), wanted, in.ScalingRatio, free)
	}
	fmt.Fprintf(&b, " (%d running, %d claimed, %d requested, %d stopping)", in.Running, in.Claimed, in.Requested, in.Stopping)

	if in.Min > 0 && target == in.Min && missing > 0 {
		fmt.Fprintf(&b, "; the pool keeps at least %d", in.Min)
	}
	if target > in.Max {
		fmt.Fprintf(&b, "; the pool may have no more than %d", in.Max)
	}
	switch {
	case d.Start > 0:
		fmt.Fprintf(&b, ": start %s", workers(d.Start))
		if d.Start*max(in.CapacityPerWorker, 1) < missing {
			b.WriteString(", all that there is room for")
		}
	case d.Excess > 0:
		fmt.Fprintf(&b, ": capacity %d is beyond the maximum of %d and goes, oldest first", d.Excess, in.Max)
	case missing > 0 && in.Stopping > 0:
		fmt.Fprintf(&b, ": capacity %d is missing, but there is no room until stopping workers are gone", missing)
	case missing > 0:
		fmt.Fprintf(&b, ": capacity %d is missing, but there is no room for a worker of capacity %d", missing, in.CapacityPerWorker)
	default:
		b.WriteString(": start none")
	}
	return b.String()
}

func tasks(n int64) string {
	if n == 1 {
		return "1 task is"
	}
	return fmt.Sprintf("%d tasks are", n)
}

func workers(n int64) string {
	if n == 1 {
		return "1 worker"
	}
	return fmt.Sprintf("%d workers", n)
}
