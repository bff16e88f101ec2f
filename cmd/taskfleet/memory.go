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
		if p := gcPercent(sample[0].Value.Uint64()); p != now {
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
// what was alive after the last one.
func gcPercent(live uint64) int {
	switch mib := live >> 20; {
	case mib < 32:
		return 200
	case mib < 96:
		return 100
	default:
		return 40
	}
}
