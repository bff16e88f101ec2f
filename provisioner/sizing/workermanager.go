package sizing

import (
	"fmt"
	"math"
	"time"
)

// WorkerManager is what Taskcluster's worker-manager does, its double counting
// of requested capacity included. It is here to be compared with: a simulation
// can show what a pool would cost and how long its tasks would wait.
type WorkerManager struct{}

// Name is "worker-manager".
func (WorkerManager) Name() string { return "worker-manager" }

// loop is what one pass of worker-manager takes for a few hundred workers.
const loop = 30 * time.Second

// Decide makes one decision.
func (WorkerManager) Decide(in Inputs, _ *Statistics) Decision {
	var d Decision
	s := supplyOf(in)
	idle := max(s.live-running(in), 0)
	adjusted := max(in.Pending-idle, 0)
	existing := s.live + in.Stopping
	desired := max(min(int64(math.Ceil(float64(adjusted)*ratioOf(in)))+existing, in.Max), in.Min)
	missing := max(desired-existing, 0) - s.booting
	why := fmt.Sprintf("%d more than are taken to be idle, and what boots is taken off twice", adjusted)
	if into := in.Now.Time().Sub(in.Now.Time().Truncate(loop)); into < time.Second {
		d.Start = s.start(missing)
	} else if missing > 0 {
		d.Wake = in.Now.Add(loop - into)
		why += fmt.Sprintf("; the next pass that starts workers is in %s", loop-into)
		missing = 0
	}
	d.expire(in, s, idleTimeout(in, 10*time.Minute))
	d.term("adjusted", float64(adjusted))
	d.term("desired", float64(desired))
	d.explain(in, s, missing, why)
	return d
}
