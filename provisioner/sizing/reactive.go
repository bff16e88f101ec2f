package sizing

import (
	"fmt"
	"math"
	"time"
)

// Reactive starts workers for the tasks that are pending, within a second after
// they have come, and foresees nothing. For every six tasks that wait it starts
// seven workers: of many, some take much longer than others to register, and
// with the seventh nobody waits for the slowest. A worker goes when it has been
// idle for IdleTimeout, or else for half as long again as it takes to start one
// in its place: to wait exactly as long would be best if only the machine had a
// price.
type Reactive struct{}

// Name is "reactive".
func (Reactive) Name() string { return "reactive" }

// Decide makes one decision.
func (Reactive) Decide(in Inputs, st *Statistics) Decision {
	st.Observe(in)
	var d Decision
	s := supplyOf(in)
	wait := max(int64(math.Ceil(float64(in.Pending)*ratioOf(in)))-in.Spare-s.idle, 0) // tasks for which nothing is free
	missing := wait + wait/6 - s.booting
	if starving(in, st) {
		missing = max(missing, 1)
	}
	missing = max(missing, in.Min-s.live)
	d.Start = s.start(missing)
	idle := idleTimeout(in, time.Duration(1.5*st.boot()*float64(time.Second)).Round(time.Second))
	d.expire(in, s, idle)
	d.term("wait", float64(wait))
	d.term("idleTimeout", idle.Seconds())
	d.explain(in, s, missing, fmt.Sprintf("a worker may be idle for %s", idle))
	return d
}
