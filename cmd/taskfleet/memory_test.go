//go:build !agent

package main

import (
	"testing"
	"time"
)

func TestGarbageIsCollectedAsOftenAsMemoryAllows(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		what                    string
		total, alive, perSecond uint64 // MiB
		want                    int
	}{
		{"idle", 128, 22, 0, 100},
		{"idle, with more alive", 128, 105, 1, 45},
		{"some calls", 128, 22, 40, 181},
		{"busy", 128, 22, 300, 300},
		{"busy, with little alive", 128, 10, 300, 300},
		{"busy, with more alive", 128, 90, 300, 53},
		{"busy, with much alive", 128, 160, 300, 30},
		{"busy, with a low limit", 40, 16, 300, 150},
		{"many that wait", 128, 280, 20, 25},
		{"many that wait, and busy", 128, 280, 300, 25},
		{"very much alive", 128, 1080, 300, 25},
	} {
		now, allocated := time.Now(), uint64(0)
		p := pace{total: c.total * mib, at: now}
		got := 0
		for range 20 {
			now, allocated = now.Add(time.Second/2), allocated+c.perSecond*mib/2
			got = gcPercent(c.alive*mib, p.growth(c.alive*mib, allocated, now))
		}
		if got != c.want {
			t.Errorf("%s: the heap may grow by %d %%, want %d", c.what, got, c.want)
		}
	}
}

func TestTheStartIsNoBusyTime(t *testing.T) {
	const mib = 1 << 20
	now := time.Now()
	p := pace{total: busyTotal, at: now}
	var allocated uint64
	for _, n := range []uint64{4, 8, 16, 24} { // what is alive, and what was allocated until then
		now, allocated = now.Add(20*time.Millisecond), allocated+n*mib
		if g := p.growth(n*mib, allocated, now); g > n*mib {
			t.Errorf("the heap may grow by %d MiB when %d are alive", g/mib, n)
		}
	}
	// When it is over it is over at once.
	if g := p.growth(20*mib, allocated+mib, now.Add(time.Minute)); g > mib {
		t.Errorf("it may grow by %d MiB when there is hardly anything to do", g/mib)
	}
}
