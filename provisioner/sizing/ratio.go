package sizing

import (
	"fmt"
	"math"
	"time"
)

// Ratio starts capacity in proportion to what is pending, as worker-manager
// does, but counts what is requested once. A worker goes when it has been idle
// for IdleTimeout, ten minutes unless the owner chose otherwise.
type Ratio struct{}

// Name is "ratio".
func (Ratio) Name() string { return "ratio" }

// Decide makes one decision.
func (Ratio) Decide(in Inputs, st *Statistics) Decision {
	st.Observe(in)
	var d Decision
	s := supplyOf(in)
	wanted := int64(math.Ceil(float64(in.Pending) * ratioOf(in))) // free capacity for what is pending
	missing := max(in.Working-in.Spare+wanted, in.Min) - s.live
	d.Start = s.start(missing)
	idle := idleTimeout(in, 10*time.Minute)
	d.expire(in, s, idle)
	why := fmt.Sprintf("a worker may be idle for %s", idle)
	if r := ratioOf(in); r < 1 {
		why = fmt.Sprintf("what is pending wants capacity %d at a ratio of %g; %s", wanted, r, why)
	}
	d.term("wanted", float64(wanted))
	d.term("idleTimeout", idle.Seconds())
	d.explain(in, s, missing, why)
	return d
}

func ratioOf(in Inputs) float64 {
	if in.ScalingRatio <= 0 {
		return 1
	}
	return min(in.ScalingRatio, 1)
}

// idleTimeout is what the owner of the pool chose, or else otherwise.
func idleTimeout(in Inputs, otherwise time.Duration) time.Duration {
	if in.IdleTimeout > 0 {
		return in.IdleTimeout
	}
	return otherwise
}
