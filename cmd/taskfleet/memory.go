//go:build !agent

package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	quietGrowth = 48 << 20
	busyTotal   = 128 << 20 // of what is alive and what is added
	busyPercent = 300       // by which a small heap grows at most
	calm        = 10 * time.Second
	startTime   = time.Second // after which what only the start needed is given back
)

// tuneMemory has the garbage collector run seldom while there is little to
// collect, and more often the more there is: a small platform spends less time on
// it, a large one, with thousands of workers waiting, less memory. It keeps well
// below a limit that is set (GOMEMLIMIT), near which the runtime collects anyway.
func tuneMemory() {
	collected := make(chan struct{}, 1)
	watch(collected)
	started := time.After(startTime)
	go func() {
		p := pace{total: uint64(min(busyTotal, debug.SetMemoryLimit(-1)/2)), at: time.Now()}
		percent := 100
		set := func(want int) (changed bool) {
			if 10*want >= 9*percent && 10*want <= 11*percent {
				return false
			}
			percent = want
			debug.SetGCPercent(want)
			return true
		}
		for {
			select {
			case <-collected:
				watch(collected)
				alive, allocated := readHeap()
				set(gcPercent(alive, p.growth(alive, allocated, time.Now())))
			case <-started:
				debug.FreeOSMemory()
				forgetProgram()
			case <-time.After(calm):
				// Busy times are over, and the next collection, which would
				// give their memory back, may be far.
				if alive, _ := readHeap(); set(gcPercent(alive, 0)) {
					runtime.GC()
				}
				forgetProgram()
			}
		}
	}()
}

// watch has the next collection send to c.
func watch(c chan<- struct{}) {
	mark := new([32]byte) // large enough to stand alone
	runtime.SetFinalizer(mark, func(*[32]byte) { c <- struct{}{} })
}

// readHeap returns what was alive after the last collection, stacks and global
// variables included, and what has been allocated since the start.
func readHeap() (alive, allocated uint64) {
	s := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"}, {Name: "/gc/heap/allocs:bytes"},
	}
	metrics.Read(s)
	return s[0].Value.Uint64() + s[1].Value.Uint64() + s[2].Value.Uint64(), s[3].Value.Uint64()
}

// A pace is how much is allocated, from one collection to the next.
type pace struct {
	total     uint64    // up to which a busy process may grow
	at        time.Time // of the last collection
	allocated uint64    // until then
	last      uint64    // growth
}

// growth is by how much the heap of a busy process may grow until the next
// collection: as much as it allocates in a second, so that collections come
// about so often. It becomes more step by step, as the start of the process is no
// busy time, and less at once.
func (p *pace) growth(alive, allocated uint64, now time.Time) uint64 {
	elapsed := max(now.Sub(p.at), time.Millisecond)
	rate := uint64(float64(allocated-p.allocated) / elapsed.Seconds())
	p.at, p.allocated = now, allocated
	p.last = min(rate, p.total-min(alive, p.total), max(3*p.last/2, min(alive, quietGrowth)/2))
	return p.last
}

// gcPercent is by how much the heap may grow between collections, in percent of
// what was alive after the last one: by as much as is given, or else by about
// 48 MiB, and then by no more than what is alive nor less than a quarter of it.
func gcPercent(alive, growth uint64) int {
	alive = max(alive, 1)
	quiet := min(max(100*quietGrowth/alive, 25), 100)
	return int(min(max(quiet, 100*growth/alive), busyPercent))
}
