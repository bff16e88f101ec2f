package simulate

import (
	"cmp"
	"slices"
	"time"
)

// Bound is the least machine time for which a pool's tasks can run without any
// waiting, by somebody who knows the future, with machines that take boot to
// come up and run capacity tasks at once.
//
// The tasks that run at a time make so and so many machines necessary. Let the
// machine that was freed last be the one that is used next: then each machine's
// gaps are as short as they can be, and each gap is bridged by waiting or by a
// new machine, whichever costs less; so each costs the smaller one of itself and
// boot. The first use of each machine costs a boot. For a capacity of one this is
// the optimum. For more it is a lower bound, which would be reached if tasks could
// move between machines.
//
// It adds up over pools. Tasks begin when they arrive and, if they depend on
// others, when these have ended in a run without waiting.
func Bound(traces []Trace, boot time.Duration, capacity int64) (time.Duration, error) {
	needs, order, err := link(traces)
	if err != nil {
		return 0, err
	}
	ends := make(map[place]int64, len(order))
	changes := make([][]change, len(traces))
	for _, p := range order {
		t := &traces[p.trace].Tasks[p.task]
		start := t.Arrival
		for _, q := range needs[p] {
			start = max(start, ends[q])
		}
		ends[p] = start + max(t.Duration, 1)
		changes[p.trace] = append(changes[p.trace], change{start, 1}, change{ends[p], -1})
	}
	var total int64
	for _, list := range changes {
		total += levels(list, boot.Milliseconds(), max(capacity, 1))
	}
	return time.Duration(total) * time.Millisecond, nil
}

// A change is a task that begins or ends.
type change struct{ at, by int64 }

func levels(list []change, boot, capacity int64) (total int64) {
	// What ends at a time makes room for what begins then.
	slices.SortFunc(list, func(a, b change) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.by, b.by)) })
	var free []int64 // when machines became free, the last one last
	var tasks, machines int64
	var last int64
	for _, c := range list {
		total += machines * (c.at - last)
		last = c.at
		tasks += c.by
		switch n := (tasks + capacity - 1) / capacity; {
		case n < machines:
			free = append(free, c.at)
			machines = n
		case n > machines:
			gap := boot
			if k := len(free) - 1; k >= 0 {
				gap = min(c.at-free[k], boot)
				free = free[:k]
			}
			total += gap
			machines = n
		}
	}
	return total
}
