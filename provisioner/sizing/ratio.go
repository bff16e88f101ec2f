package sizing

import (
	"math"
	"time"
)

// Ratio starts capacity in proportion to what is pending, as worker-manager
// does, but counts what is requested once. A worker goes when it has been idle
// for IdleTimeout (ten minutes unless the owner chose otherwise).
type Ratio struct{}

// Name is "ratio".
func (Ratio) Name() string { return "ratio" }

// Decide makes one decision.
func (Ratio) Decide(in Inputs, _ *Statistics) Decision {
	var d Decision
	s := supplyOf(in)
	ratio := ratioOf(in)
	busy := in.Working - in.Spare
	wanted := int64(math.Ceil(float64(in.Pending) * ratio)) // free capacity for what is pending
	target := min(max(busy+wanted, in.Min), in.Max)
	d.Start = s.start(target - s.live)
	d.expire(in, s, func(int64) time.Duration { return idleTimeout(in, 10*time.Minute) })
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
