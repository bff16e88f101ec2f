package auth

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/hawk"
)

func macOf(i uint64) (m hawk.MAC) {
	binary.BigEndian.PutUint64(m[:], i*0x9e3779b97f4a7c15+1)
	return m
}

var noon = time.Date(2016, 5, 11, 12, 0, 0, 0, time.UTC)

func TestNoncesRefuseRepetition(t *testing.T) {
	n := newNonces(1000)
	for _, skew := range []time.Duration{0, -hawk.MaxSkew, hawk.MaxSkew} {
		ts := noon.Add(skew).Unix()
		if err := n.use(macOf(1), ts, noon); err != nil {
			t.Errorf("first use, %s off: %v", skew, err)
		}
		if err := n.use(macOf(1), ts, noon.Add(time.Second)); err != errReplayed {
			t.Errorf("second use, %s off: %v", skew, err)
		}
		if err := n.use(macOf(2), ts, noon); err != nil {
			t.Errorf("another request, %s off: %v", skew, err)
		}
	}
}

// As long as a timestamp is fresh, its request is known; after that it is
// forgotten.
func TestNoncesRememberForTheWindowAndNoLonger(t *testing.T) {
	n := newNonces(1000)
	ahead := noon.Add(hawk.MaxSkew).Unix()
	for _, ts := range []int64{noon.Unix(), ahead} {
		if err := n.use(macOf(1), ts, noon); err != nil {
			t.Fatal(err)
		}
	}
	for at := time.Duration(0); at <= 2*hawk.MaxSkew; at += 7 * time.Second {
		now := noon.Add(at)
		for _, ts := range []int64{noon.Unix(), ahead} {
			if !(hawk.Header{Timestamp: ts}).Fresh(now) {
				continue
			}
			if err := n.use(macOf(1), ts, now); err != errReplayed {
				t.Fatalf("replay of %d after %s: %v", ts, at, err)
			}
		}
	}
	if err := n.use(macOf(9), noon.Add(time.Hour).Unix(), noon.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if n.size != 1 || len(n.minutes) != 1 {
		t.Errorf("%d requests in %d minutes are still known after an hour", n.size-1, len(n.minutes)-1)
	}
}

// Whatever comes in, in whatever order, no request passes twice while it is
// fresh, and the size stays bounded.
func TestNoncesNeverLetAReplayPass(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	n := newNonces(500)
	type made struct {
		mac hawk.MAC
		ts  int64
	}
	var past []made
	accepted, refused := 0, 0
	for i := range uint64(50_000) {
		now := noon.Add(time.Duration(i) * 100 * time.Millisecond)
		if len(past) > 0 && r.IntN(2) == 0 {
			p := past[r.IntN(len(past))]
			if (hawk.Header{Timestamp: p.ts}).Fresh(now) && n.use(p.mac, p.ts, now) == nil {
				t.Fatalf("request of %d passed again at %d", p.ts, now.Unix())
			}
			continue
		}
		m := made{macOf(i), now.Unix() + r.Int64N(1800) - 900}
		switch err := n.use(m.mac, m.ts, now); {
		case err == nil:
			accepted++
			past = append(past, m)
		case errors.Is(err, errFlooded):
			refused++
		default:
			t.Fatal(err)
		}
		sum := 0
		for _, s := range n.minutes {
			sum += len(s)
		}
		if sum != n.size || n.size > n.capacity {
			t.Fatalf("%d known, counted as %d, capacity %d", sum, n.size, n.capacity)
		}
	}
	if accepted < 5000 || refused == 0 {
		t.Errorf("accepted %d, refused %d: the test does not test", accepted, refused)
	}
}

// A flood makes the window narrow; requests with the right time still pass.
func TestNoncesUnderFloodKeepServingThePresent(t *testing.T) {
	n := newNonces(1000)
	id := uint64(0)
	next := func(ts, now time.Time) error {
		id++
		return n.use(macOf(id), ts.Unix(), now)
	}
	for range 5000 { // somebody fills up the future
		next(noon.Add(14*time.Minute), noon)
	}
	for second := range 3600 {
		now := noon.Add(time.Duration(second) * time.Second)
		for range 2 {
			if err := next(now, now); err != nil {
				t.Fatalf("a request of this very second is refused at %s: %v", now, err)
			}
			next(now.Add(14*time.Minute), now)
		}
	}
	now := noon.Add(time.Hour)
	for range 5000 {
		next(now, now)
	}
	if err := next(now, now); err != errFlooded {
		t.Errorf("more requests in a minute than there is room for: %v", err)
	}
	if err := next(now.Add(-10*time.Minute), now); err != errFlooded {
		t.Errorf("a timestamp whose minute was dropped early: %v", err)
	}
	now = now.Add(time.Minute)
	if err := next(now, now); err != nil {
		t.Errorf("a minute later: %v", err)
	}
}

func BenchmarkNonces(b *testing.B) {
	n := newNonces(nonceCapacity)
	i := uint64(0)
	for b.Loop() {
		i++
		now := noon.Add(time.Duration(i) * time.Second / 2000)
		if err := n.use(macOf(i), now.Unix(), now); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkNoncesMemory(b *testing.B) {
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		n := newNonces(nonceCapacity)
		for i := range uint64(nonceCapacity) {
			now := noon.Add(time.Duration(i) * time.Second * 900 / nonceCapacity)
			n.use(macOf(i), now.Unix(), now)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(n.size), "B/nonce")
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "MiB")
		runtime.KeepAlive(n)
	}
}
