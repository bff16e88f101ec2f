package sizing

import "time"

// Reactive starts a worker for each pending task that no free or booting
// capacity is there for, a second after the task has come. A worker goes when
// it has been idle for IdleTimeout, or else for the boot time times one plus
// the wait price: what it would cost to start another one in its place.
type Reactive struct{}

// Name is "reactive".
func (Reactive) Name() string { return "reactive" }

// Decide makes one decision.
func (Reactive) Decide(in Inputs, st *Statistics) Decision {
	var d Decision
	s := supplyOf(in)
	missing := in.Pending - in.Spare - s.idle - s.booting
	d.Start = s.start(max(missing, in.Min-s.live))
	price := in.WaitPrice
	idle := idleTimeout(in, time.Duration(float64(st.Boot("", .5))*(1+price)))
	d.expire(in, s, func(int64) time.Duration { return idle })
	return d
}
