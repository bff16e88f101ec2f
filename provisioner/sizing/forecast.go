package sizing

import (
	"math"
	"time"
)

// Forecast is the default. It starts the next worker as long as that is worth
// more than it costs, and keeps an idle worker as long as that is. What a
// worker is worth is the waiting that it saves, at the pool's wait price, and
// the start of another one that it saves.
type Forecast struct{}

// Name is "forecast".
func (Forecast) Name() string { return "forecast" }

const (
	grid    = 24 // moments that are looked at, from now
	perBoot = 8  // of them in a boot time
	// A pool in which something is going on is looked at again after so long, and
	// any pool often enough to learn from.
	watch = step
	visit = 10 * time.Minute
)

// outlook is what the forecast for one decision is made of. Times are in
// seconds, and index i of a list is the time (i+1) of grid from now.
type outlook struct {
	boot    float64 // mean boot time
	price   float64 // wait price
	benefit float64 // what a worker saves that is there when a task comes: waiting for one, and the start of one
	level   int

	demand  float64       // pending, less free capacity
	ends    float64       // net of arrivals, tasks that end within a boot time
	due     [grid]float64 // known tasks that are pending by then
	ready   [grid]float64 // booting capacity that has registered by then
	spread  [grid]float64 // variance of due and ready
	fresh   [grid]float64 // probability that a worker started now has registered by then
	booting float64       // capacity that will register at some time
}

// Decide makes one decision.
func (f Forecast) Decide(in Inputs, st *Statistics) Decision {
	var d Decision
	s := supplyOf(in)
	o := st.outlook(in, s)

	kept := in.Spare + s.idle
	left := s.live
	for i := len(in.Idle) - 1; i >= 0; i-- {
		w := in.Idle[i]
		c := max(w.Capacity, 1)
		rank := kept - c // what the queue uses before
		if left-c < in.Min {
			break
		}
		age := in.Now.Sub(w.Since)
		over := left > in.Max || in.IdleTimeout > 0 && age >= in.IdleTimeout
		if !over && o.keep(st, rank+(c-1)/2, age.Seconds()) >= 0 {
			break
		}
		d.Drain = append(d.Drain, i)
		kept, left = kept-c, left-c
	}
	d.Excess = max(left-in.Max, 0)
	o.demand = float64(in.Pending - kept)

	slots := o.slots(st, s.per, s.room)
	missing := max(in.Pending-kept-int64(o.booting), 0)
	_ = missing
	want := slots / s.per * s.per
	if slots > 0 && want == 0 {
		want = s.per
	}
	d.Start = s.start(max(want, in.Min-s.live))
	if in.Pending > 0 && s.live-in.Working == 0 && d.Start == 0 && in.Now.Sub(in.OldestPending) > st.RegistrationTimeout("") {
		d.Start = s.start(1)
	}
	d.Wake = in.Now.Add(visit)
	if in.Pending > 0 || kept > 0 || len(in.Known) > 0 {
		d.Wake = in.Now.Add(watch)
	}
	return d
}

func (st *Statistics) outlook(in Inputs, s supply) *outlook {
	st.Rises.tidy()
	o := &outlook{boot: st.boot(), price: max(in.WaitPrice, 0), level: st.Rises.level(in.Now)}
	o.benefit = o.boot * (1 + o.price)
	o.ends = max(st.end(in.Running, in.Now)-st.Rises.expected(o.level)*o.boot, 0)
	du := o.boot / perBoot
	alive := 1 - st.dead("")
	for i := range o.fresh {
		o.fresh[i] = alive * st.registered("", du*float64(i+1))
	}
	for i := 0; i < len(in.Booting); {
		b := in.Booting[i]
		n := max(b.Capacity, 1)
		for i++; i < len(in.Booting) && in.Booting[i].Class == b.Class && in.Booting[i].Since.Sub(b.Since).Abs() < time.Second; i++ {
			n += max(in.Booting[i].Capacity, 1)
		}
		o.boots(st, b.Class, in.Now.Sub(b.Since).Seconds(), float64(n), float64(s.per))
	}
	for _, k := range in.Known {
		o.know(k.At.Sub(in.Now).Seconds(), k.Error.Seconds(), float64(max(k.Count, 1)))
	}
	return o
}

// boots counts workers of n capacity in all that were requested age ago: those
// that have not registered by now either will, or never.
func (o *outlook) boots(st *Statistics, class string, age, n, per float64) {
	before := st.registered(class, age)
	dead := st.dead(class)
	alive := (1 - dead) * (1 - before)
	if alive <= 1e-6 {
		return
	}
	alive /= alive + dead
	o.booting += n * alive
	for i := range o.ready {
		p := alive * (st.registered(class, age+o.boot/perBoot*float64(i+1)) - before) / (1 - before)
		o.ready[i] += n * p
		o.spread[i] += n * per * p * (1 - p)
	}
}

// know counts n tasks that are expected to be pending in that many seconds.
func (o *outlook) know(in, err, n float64) {
	if in-3*err > 3*o.boot {
		return
	}
	for i := range o.due {
		p := normal((o.boot/perBoot*float64(i+1) - in) / max(err, 1))
		o.due[i] += n * p
		o.spread[i] += n * p * (1 - p)
	}
}

// keep is what it is worth to keep an idle worker that the queue uses after
// rank others: the best that can be made of it by waiting for some time, which
// costs that time, and saves the benefit if the worker is needed before it is
// over.
func (o *outlook) keep(st *Statistics, rank int64, age float64) float64 {
	best := o.worth(st, rank, age)
	for i, n := range o.due {
		if n > float64(rank)+.5 {
			return max(best, o.benefit-o.boot/perBoot*float64(i+1))
		}
	}
	return best
}

// worth is keep without what is known to come. A negative age is a worker that
// is not there: what is usual says nothing about it.
func (o *outlook) worth(st *Statistics, rank int64, age float64) float64 {
	best, gain, before, p := math.Inf(-1), 0., 0., 0.
	for span := range spans {
		until := step.Seconds() * float64(uint64(1)<<span)
		usual := 0.
		if age >= 0 {
			usual = until / (age + until)
		}
		q := max(st.Rises.chance(o.level, span, rank+1, usual), p)
		gain += (q - p) * (o.benefit - (before+until)/2)
		best = max(best, gain-(1-q)*until)
		before, p = until, q
		if until > 2*o.benefit {
			break
		}
	}
	return best
}

// slots is how much capacity is worth starting.
func (o *outlook) slots(st *Statistics, per, room int64) int64 {
	n, by := int64(0), int64(1)
	for n+by <= room && o.starts(st, n+by, per) {
		n, by = n+by, by*2
	}
	for ; by > 0; by /= 2 {
		if n+by <= room && o.starts(st, n+by, per) {
			n += by
		}
	}
	return n
}

// starts reports whether the m-th unit of capacity is worth starting, the ones
// before being started too.
func (o *outlook) starts(st *Statistics, m, per int64) bool {
	before := float64(m - 1)
	du := o.boot / perBoot
	saved, needed, spare, was := 0., 0., 0., 0.
	for i, f := range o.fresh {
		mean := o.demand + o.due[i] - o.ends*float64(i+1)/perBoot - o.ready[i] - before*f
		v := o.ends*float64(i+1)/perBoot + o.spread[i] + before*float64(per)*f*(1-f) + .1
		q := normal((mean - .5) / math.Sqrt(v))
		saved += f * q * du
		needed += (f - was) * q
		was = f
		if i == perBoot*3/2-1 {
			spare = 1 - q
		}
	}
	rank := before + o.booting - o.demand
	later := max(o.worth(st, int64(max(rank, 0)), -1), 0)
	if spare*(o.boot-later) > o.price*saved {
		return false
	}
	return needed >= was/(1+o.price) || later > o.boot
}
