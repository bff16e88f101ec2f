//go:build !agent

package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// tuneMemory has the garbage collector run seldom while there is little to
// collect, and more often the more there is: a small platform spends less time on
// it, a large one, with thousands of workers waiting, less memory.
func tuneMemory() {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	now := 100
	var adapt func()
	adapt = func() { // after each collection
		metrics.Read(sample)
		if p := gcPercent(sample[0].Value.Uint64()); p < now-5 || p > now+5 {
			now = p
			debug.SetGCPercent(p)
		}
		watch(adapt)
	}
	watch(adapt)
}

// watch calls f after the next collection.
func watch(f func()) {
	mark := new([32]byte) // large enough to stand alone
	runtime.SetFinalizer(mark, func(*[32]byte) { f() })
}

// gcPercent is by how much the heap may grow between collections, in percent of
// what was alive after the last one: by about 48 MiB, and by no more than what is
// alive nor less than a quarter of it.
func gcPercent(live uint64) int {
	return int(min(max(100*(48<<20)/max(live, 1), 25), 100))
}
