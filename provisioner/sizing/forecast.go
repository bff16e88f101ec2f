package sizing

import (
	"math"
	"time"
)

// Forecast is the default policy. It starts another worker as long as that is
// worth more than it costs, and keeps an idle one as long as that is. What a
// worker is worth is the waiting that it saves, at the pool's wait price, and
// the start of another worker that it saves later.
type Forecast struct{}

// Name is "forecast".
func (Forecast) Name() string { return "forecast" }

const (
	moments = 24 // that are looked at, from now
	perBoot = 8  // of them in a boot time

	watch = step             // a pool with something going on is looked at again
	visit = 10 * time.Minute // any pool is looked at again, if only to learn

	// Waiting is worth something: tasks have to run at some time.
	leastPrice = .1
)

// An outlook is what a pool is expected to be like, without what is decided
// now. Times are in seconds; index i of a list is (i+1)/perBoot boot times
// from now.
type outlook struct {
	st        *Statistics
	price     float64 // of waiting
	boot      float64 // how long a worker takes to register, on the average
	cost      float64 // of a start: what is paid until a worker registers, those included that never do
	busy      float64 // tasks that run
	ending    float64 // how much sooner than a worker registers a task ends
	situation int

	demand  float64          // pending, less what is free
	ends    float64          // tasks that end within a boot time, less those that arrive unannounced
	due     [moments]float64 // known tasks that are pending by then
	booting float64          // capacity that is booting and will register at all
	ready   [moments]float64 // part of it that has registered by then
	spread  [moments]float64 // variance of due and ready
	fresh   [moments]float64 // probability that a worker that is started now has registered by then
}

// Decide makes one decision.
func (Forecast) Decide(in Inputs, st *Statistics) Decision {
	st.Observe(in)
	var d Decision
	s := supplyOf(in)
	o := st.outlook(in, s)

	// Idle workers go from the one that would be used last.
	free, left := in.Spare+s.idle, s.live
	value := 0. // of the last that was looked at
	for i := len(in.Idle) - 1; i >= 0; i-- {
		w, c := in.Idle[i], max(in.Idle[i].Capacity, 1)
		if left-c < in.Min {
			break
		}
		age := in.Now.Sub(w.Since)
		if over := left > in.Max || in.IdleTimeout > 0 && age >= in.IdleTimeout; !over {
			rank := free - c // what is used before it
			if rank < in.Pending {
				break
			}
			if value = o.keep(rank+(c-1)/2, age.Seconds()); value >= 0 {
				break
			}
		}
		d.Drain = append(d.Drain, i)
		free, left = free-c, left-c
	}
	d.Excess = max(left-in.Max, 0)

	wanted := int64(math.Ceil(float64(in.Pending) * ratioOf(in)))
	o.demand = float64(wanted - free)
	n, next := o.workers(s)
	missing := n * s.per
	if starving(in, st) {
		missing = max(missing, 1)
	}
	d.Start = s.start(max(missing, in.Min-left))

	d.Wake = in.Now.Add(visit)
	if in.Pending > 0 || free > 0 || len(in.Known) > 0 {
		d.Wake = in.Now.Add(watch)
	}
	d.explainForecast(in, s, o, free, value, n, next)
	return d
}

// starving reports whether a task waits for longer than any worker takes to
// register, and none is on its way: workers that seem free do not take it, or
// ends that were expected did not come.
func starving(in Inputs, st *Statistics) bool {
	return in.Pending > 0 && len(in.Booting) == 0 && in.Now.Sub(in.OldestPending) > st.RegistrationTimeout("")
}

func (st *Statistics) outlook(in Inputs, s supply) *outlook {
	st.Rises.tidy()
	o := &outlook{st: st, price: max(in.WaitPrice, leastPrice), boot: st.boot(), situation: st.Rises.situation(in.Now)}
	dead := st.dead("")
	o.cost = o.boot + dead/(1-dead)*st.RegistrationTimeout("").Seconds()
	o.busy, o.ending = float64(running(in)), o.boot-st.wait(o.boot)
	o.ends = max(st.ends(in.Running, in.Now)-st.Rises.expected(o.situation)*o.boot, 0)
	for i := range o.fresh {
		o.fresh[i] = (1 - dead) * st.registered("", o.at(i))
	}
	for i := 0; i < len(in.Booting); {
		b, n := in.Booting[i], int64(0)
		for ; i < len(in.Booting) && in.Booting[i].Class == b.Class && in.Booting[i].Since.Sub(b.Since).Abs() < time.Second; i++ {
			n += max(in.Booting[i].Capacity, 1)
		}
		o.count(b.Class, in.Now.Sub(b.Since).Seconds(), float64(n), float64(s.per))
	}
	for _, k := range in.Known {
		o.expect(k.At.Sub(in.Now).Seconds(), k.Error.Seconds(), float64(max(k.Count, 1)))
	}
	return o
}

// at is the time of index i of a list.
func (o *outlook) at(i int) float64 { return o.boot / perBoot * float64(i+1) }

// count counts capacity n that was requested age ago in workers of capacity
// per. The older it is, the less likely it is to register at all.
func (o *outlook) count(class string, age, n, per float64) {
	before := o.st.registered(class, age)
	dead := o.st.dead(class)
	alive := (1 - dead) * (1 - before)
	if alive <= 0 {
		return
	}
	alive /= alive + dead
	o.booting += n * alive
	for i := range o.ready {
		p := alive * (o.st.registered(class, age+o.at(i)) - before) / (1 - before)
		o.ready[i] += n * p
		o.spread[i] += n * per * p * (1 - p)
	}
}

// expect counts n tasks that will be pending in so many seconds, give or take
// the error. They are not pending yet, so what is normally distributed is cut
// off at now.
func (o *outlook) expect(in, err, n float64) {
	err = max(err, 1)
	if in-4*err > o.at(moments-1) {
		return
	}
	over := min(normal(-in/err), .999)
	for i := range o.due {
		p := (normal((o.at(i)-in)/err) - over) / (1 - over)
		o.due[i] += n * p
		o.spread[i] += n * p * (1 - p)
	}
}

// benefit is what a free worker saves once it is needed, after rank others:
// the start of another one, and waiting for that, or until a task ends if that
// is sooner. The more tasks run for each that needs a worker, the more often it
// is.
func (o *outlook) benefit(rank int64) float64 {
	return o.cost + o.price*(o.boot-o.ending*o.busy/(o.busy+float64(rank)+1))
}

// keep is what it is worth to keep a worker that has been idle for age, and
// that is used after rank others.
func (o *outlook) keep(rank int64, age float64) float64 {
	best := o.worth(rank, age)
	for i, n := range o.due {
		if n-o.ends*float64(i+1)/perBoot > float64(rank)+.5 {
			return max(best, o.benefit(rank)-o.at(i))
		}
	}
	return best
}

// worth is the best that can be made of a free worker that is used after rank
// others, by waiting for some time: it costs the time until it is needed, or
// all of it, and brings the benefit if it is needed. What happens is what has
// happened after times like this one. For an idle worker that is mixed with
// what is usual, that it will be needed only after as long again as it has
// been idle; then, for someone who knows no more, it goes at the age at which
// it has cost as much as it can bring, which is never more than twice as bad as
// what can be done by someone who knows the future. One that is not there yet
// has a negative age, and is needed only as far as experience tells.
func (o *outlook) worth(rank int64, age float64) float64 {
	benefit := o.benefit(rank)
	best, gain, before, p := math.Inf(-1), 0., 0., 0.
	for span := range spans {
		until := step.Seconds() * float64(uint64(1)<<span)
		usual := 0.
		if age >= 0 {
			usual = until / (age + until)
		}
		q := max(o.st.Rises.chance(o.situation, span, rank+1, usual), p)
		gain += (q - p) * (benefit - (before+until)/2)
		best = max(best, gain-(1-q)*until)
		before, p = until, q
	}
	return best
}

// A start is what is expected of one more unit of capacity, started now.
type start struct {
	saved  float64 // seconds of waiting
	needed float64 // probability that tasks wait when it registers
	spare  float64 // probability that none waits for it once all have registered
	later  float64 // what it is worth if spare, in seconds of machine
	worth  bool    // whether to start it
}

// workers is how many workers are worth starting, and what is expected of the
// next one, which is not or for which there is no room.
func (o *outlook) workers(s supply) (n int64, next start) {
	room := s.room / s.per
	worth := func(n int64) bool {
		m := (n - 1) * s.per // capacity of the others
		if float64(m) >= o.demand-o.booting {
			m += (s.per - 1) / 2 // nothing waits for it now: let it be worth it on the average
		}
		next = o.start(m, s.per)
		return next.worth
	}
	by := int64(1)
	for n+by <= room && worth(n+by) {
		n, by = n+by, by*2
	}
	for ; by > 0; by /= 2 {
		if n+by <= room && worth(n+by) {
			n += by
		}
	}
	worth(n + 1)
	return n, next
}

// start looks at one more unit of capacity beyond that of before that is
// started with it, in workers of capacity per.
//
// How many tasks wait at a moment is taken to be normally distributed: tasks
// that are pending now and those known to come, less what ends, and less what
// has registered. The unit saves the waiting of one task for as long as any
// waits. It pays if that is worth more than starting it for nothing, as far as
// none waits for it; and now, rather than a moment later, if it is needed when
// it registers with a probability above 1 in 1 + price, the newsvendor's
// quantile: a moment later means a moment's waiting if it is, and a moment's
// machine less if it is not.
func (o *outlook) start(before, per int64) (x start) {
	others, lumps, was := float64(before), float64(before*per), 0.
	for i, f := range o.fresh {
		ends := o.ends * float64(i+1) / perBoot
		waiting := o.demand + o.due[i] - ends - o.ready[i] - others*f
		spread := ends + o.spread[i] + lumps*f*(1-f) + .01
		q := normal((waiting - .5) / math.Sqrt(spread))
		x.saved += f * q * o.boot / perBoot
		x.needed += (f - was) * q
		was = f
		if i == 3*perBoot/2-1 {
			x.spare = 1 - q
		}
	}
	rank := max(others+o.booting-o.demand, 0)
	x.later = max(o.worth(int64(min(rank, math.MaxInt32)), -1), 0)
	pays := o.price*x.saved >= x.spare*(o.cost-x.later)
	x.worth = pays && (x.needed*(1+o.price) >= was || x.later > o.cost)
	return x
}
