package sizing

import (
	"math"
	"time"

	"github.com/taskfleet/taskfleet/timestamp"
)

// Statistics are what has been learnt about one pool. The zero Statistics know
// nothing, and a pool with them is run as by someone who knows nothing but what
// is usual. They are plain data: what encoding/json writes is all of them, and a
// pool goes on from it after a restart.
//
// Clocks may jump: a duration is believed as it is told, and what was under
// way when time went back, or was not looked at for long, is not counted.
type Statistics struct {
	Tasks     histogram             `json:"tasks"`             // how long tasks run
	Kinds     map[string]*histogram `json:"kinds,omitempty"`   // the same, by kind
	Boots     boots                 `json:"boots"`             // how long workers take to register
	Markets   map[string]*boots     `json:"markets,omitempty"` // the same, by class
	Rises     rises                 `json:"rises"`             // how demand goes up
	leaving   map[string]*leaving   // by kind, "" for all: what becomes of running tasks within a boot time
	leavingAt timestamp.Time
}

// boots are what became of the workers of one class that were requested.
type boots struct {
	Took   histogram `json:"took"`
	Ended  float64   `json:"ended"`  // one way or the other; each counts less than the next
	Failed float64   `json:"failed"` // those of them that never registered

	made bool
	by   [buckets + 1]float64 // share that has registered by the edges of buckets
}

const (
	manyTasks = 2000 // tasks, and
	manyBoots = 400  // boots, that say enough: what comes after them replaces them
	memory    = 100  // workers, the last, that say how many never register
	manyKinds = 300  // kinds of tasks that are told apart
)

// What is taken to be usual, until a few boots have been seen: half of the
// workers register within 75 s, two thirds take between 58 and 96, and one in
// fifty never does.
const (
	usualBoot   = 75.
	usualSpread = .25
	usualDead   = .02
	usualWeight = 3. // boots that it counts for

	// If more never register then something is broken, and to start more for it
	// does not help.
	mostDead = .3
)

// Arrived notes that tasks became pending at now. Known is how many of them
// had been Inputs.Known before.
func (st *Statistics) Arrived(now timestamp.Time, tasks, known int64) {
	st.Rises.arrived(now, tasks, known)
}

// Finished notes that a task of the kind ended after it had run for d.
func (st *Statistics) Finished(now timestamp.Time, kind string, d time.Duration) {
	if d < 0 {
		return
	}
	st.Tasks.add(d, manyTasks)
	if kind == "" {
		return
	}
	h := st.Kinds[kind]
	if h == nil {
		if st.Kinds == nil {
			st.Kinds = map[string]*histogram{}
		}
		if len(st.Kinds) >= manyKinds {
			for other := range st.Kinds { // any one: there are too many to tell apart
				delete(st.Kinds, other)
				break
			}
		}
		h = &histogram{}
		st.Kinds[kind] = h
	}
	h.add(d, manyTasks/10)
}

// Booted notes that a worker of the class registered d after it was requested.
func (st *Statistics) Booted(now timestamp.Time, class string, d time.Duration) {
	if d < 0 {
		return
	}
	for _, b := range []*boots{&st.Boots, st.market(class)} {
		b.made = false
		b.Took.add(d, manyBoots)
		b.end(0)
	}
}

// Failed notes that a worker of the class never registered.
func (st *Statistics) Failed(now timestamp.Time, class string) {
	st.Boots.end(1)
	st.market(class).end(1)
}

func (b *boots) end(failed float64) {
	b.Ended += 1 - b.Ended/memory
	b.Failed += failed - b.Failed/memory
}

func (st *Statistics) market(class string) *boots {
	b := st.Markets[class]
	if b == nil {
		if st.Markets == nil {
			st.Markets = map[string]*boots{}
		}
		b = &boots{}
		st.Markets[class] = b
	}
	return b
}

// Boot is the time in which the part q of those workers of the class that
// register at all do so. What is not known of the class is taken from the
// pool, and what is not known of the pool is what is usual.
func (st *Statistics) Boot(class string, q float64) time.Duration {
	by := st.curve(class)
	low, high := 0, buckets-1
	for low < high { // the first bucket at whose upper edge q have registered
		if mid := (low + high) / 2; by[mid+1] >= q {
			high = mid
		} else {
			low = mid + 1
		}
	}
	f0, f1 := by[low], by[low+1]
	part := 1.
	if f1 > f0 {
		part = min(max((q-f0)/(f1-f0), 0), 1)
	}
	return time.Duration((edges[low] + part*(edges[low+1]-edges[low])) * float64(time.Second))
}

// registered is the share of those workers of the class that register at all
// that do so within that many seconds.
func (st *Statistics) registered(class string, sec float64) float64 {
	if sec <= 0 {
		return 0
	}
	by := st.curve(class)
	b := bucketOf(int64(sec * 1000))
	part := min(max((sec-edges[b])/(edges[b+1]-edges[b]), 0), 1)
	return by[b] + (by[b+1]-by[b])*part
}

// curve is registered at the edges of buckets.
func (st *Statistics) curve(class string) *[buckets + 1]float64 {
	pool := &st.Boots
	pool.refresh(func(i int) float64 { return normal(math.Log(edges[i]/usualBoot) / usualSpread) })
	m := st.Markets[class]
	if m == nil {
		return &pool.by
	}
	m.refresh(func(i int) float64 { return pool.by[i] })
	return &m.by
}

func (b *boots) refresh(usual func(i int) float64) {
	if b.made {
		return
	}
	b.made = true
	b.Took.tidy()
	for i := 1; i <= buckets; i++ {
		b.by[i] = (b.Took.total - b.Took.above[i] + usualWeight*usual(i)) / (b.Took.total + usualWeight)
	}
}

// dead is the share of workers of the class that never register, as far as
// it is to be reckoned with.
func (st *Statistics) dead(class string) float64 {
	share := (st.Boots.Failed + usualWeight*usualDead) / (st.Boots.Ended + usualWeight)
	if m := st.Markets[class]; m != nil {
		share = (m.Failed + usualWeight*share) / (m.Ended + usualWeight)
	}
	return min(max(share, 0), mostDead)
}

// RegistrationTimeout is how long after it was requested a worker of the class
// may be given up: three times what all but one in twenty take, at least a
// minute.
func (st *Statistics) RegistrationTimeout(class string) time.Duration {
	return max(time.Minute, 3*st.Boot(class, .95))
}

// Remaining is how much longer a task of the kind will run that has run for
// age, and the standard deviation of that.
func (st *Statistics) Remaining(kind string, age time.Duration) (mean, spread time.Duration) {
	a := max(age.Seconds(), 0)
	// A task of which nothing is known runs for as long again as it has.
	guess := max(a, 1)
	n, sum, squares := 1., guess, 2*guess*guess
	for i, h := range []*histogram{st.Kinds[kind], &st.Tasks} {
		if h == nil {
			continue
		}
		h.tidy()
		left := h.atLeast(a)
		if left <= 0 {
			continue
		}
		weight := 1.
		if i == 1 { // the pool says little once the kind is known
			weight = kindWeight / left
			if st.Kinds[kind] == nil {
				weight = 1
			}
		}
		for b := bucketOf(int64(a * 1000)); b < buckets; b++ {
			from := max(edges[b], a)
			c := (h.atLeast(from) - h.above[b+1]) * weight
			mid := (from+edges[b+1])/2 - a
			n, sum, squares = n+c, sum+c*mid, squares+c*mid*mid
		}
	}
	m := sum / n
	return time.Duration(m * float64(time.Second)), time.Duration(math.Sqrt(max(squares/n-m*m, 0)) * float64(time.Second))
}

// kindWeight is how many tasks of the pool count as much as one of the kind
// when little is known of the kind.
const kindWeight = 3

// leaving is, by age, the probability that a running task ends within a boot
// time: one minus the ratio of the survival function then and now.
type leaving struct {
	within float64 // the boot time in seconds
	added  int     // of the histogram that it is made of
	of     [buckets]float32
}

// ends is how many of the running tasks are expected to end within a boot
// time. It reads what foretell has made.
func (st *Statistics) ends(tasks []Running, now timestamp.Time) (n float64) {
	all := st.leaving[""]
	if all == nil {
		return 0
	}
	for _, r := range tasks {
		of := all
		if r.Kind != "" {
			if k := st.leaving[r.Kind]; k != nil {
				of = k
			}
		}
		n += float64(of.of[bucketOf(int64(now-r.Since))]) * float64(max(r.Count, 1))
	}
	return n
}

// Observe notes what a pool looks like. Policies do so with every decision.
func (st *Statistics) Observe(in Inputs) {
	st.Rises.observe(in.Now, in.Pending+running(in))
	if st.leaving == nil || in.Now < st.leavingAt || in.Now.Sub(st.leavingAt) > time.Minute {
		st.leavingAt = in.Now
		st.foretell(st.boot())
	}
}

// boot is how long a worker of the pool boots on the average, in seconds.
func (st *Statistics) boot() float64 {
	h := &st.Boots.Took
	h.tidy()
	n, sum := usualWeight, usualWeight*usualBoot
	for b, c := range h.Count[:min(len(h.Count), buckets)] {
		n, sum = n+float64(c), sum+float64(c)*(edges[b]+edges[b+1])/2
	}
	return sum / n
}

// wait is how long a task waits that finds no free worker while one boots
// within that many seconds: until then, or until a task ends that is as long as
// the pool's are.
func (st *Statistics) wait(boot float64) float64 {
	h := &st.Tasks
	h.tidy()
	n, sum := 1., boot
	for b, c := range h.Count[:min(len(h.Count), buckets)] {
		n, sum = n+float64(c), sum+float64(c)*min((edges[b]+edges[b+1])/2, boot)
	}
	return sum / n
}

// foretell makes the tables of what becomes of running tasks within that many
// seconds.
func (st *Statistics) foretell(within float64) {
	old := st.leaving
	st.leaving = make(map[string]*leaving, len(st.Kinds)+1)
	st.leaving[""] = old[""].refresh(&st.Tasks, nil, within)
	for kind, h := range st.Kinds {
		if h == nil {
			continue // as somebody wrote it
		}
		st.leaving[kind] = old[kind].refresh(h, st.leaving[""], within)
	}
}

// refresh makes the table of a histogram, unless it is the same as before.
// What the histogram does not know, the pool does; and what the pool does not
// know is a task that runs for as long again as it has.
func (l *leaving) refresh(h *histogram, pool *leaving, within float64) *leaving {
	if l != nil && l.added == h.added && math.Abs(l.within-within) < within/50 {
		return l
	}
	h.tidy()
	l = &leaving{within: within, added: h.added}
	for i := range l.of {
		age := (edges[i] + edges[i+1]) / 2
		there := h.atLeast(age)
		gone := there - h.atLeast(age+within)
		if pool == nil {
			l.of[i] = float32((gone + within/(age+within)) / (there + 1))
		} else {
			l.of[i] = float32((gone + kindWeight*float64(pool.of[i])) / (there + kindWeight))
		}
	}
	return l
}
