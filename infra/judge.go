package infra

import (
	"context"
	"fmt"
	"io"

	"github.com/taskfleet/taskfleet/infra/cost"
	"github.com/taskfleet/taskfleet/infra/policy"
)

// A Judgement is what policy and prices say of a plan.
type Judgement struct {
	Policy policy.Verdict `json:"policy"`
	Cost   *cost.Bill     `json:"cost"`
}

// judge has a plan judged by the policy and the prices of the deployment as they are now.
func (d *Deployment) judge(ctx context.Context, planJSON []byte, destroy bool) (j Judgement, err error) {
	o, err := policy.Load(d.Directory)
	if err != nil {
		return j, err
	}
	if j.Policy, err = policy.Judge(ctx, planJSON, o); err != nil {
		return j, fmt.Errorf("judge the plan: %w", err)
	}
	if destroy {
		// That data goes is what was asked for, and the deployment's name has to be said for it.
		kept := j.Policy.Violations[:0]
		for _, v := range j.Policy.Violations {
			if v.Rule != "protected" {
				kept = append(kept, v)
			}
		}
		j.Policy.Violations = kept
	}
	a, err := cost.Load(d.Directory)
	if err != nil {
		return j, err
	}
	if j.Cost, err = cost.Estimate(planJSON, a); err != nil {
		return j, fmt.Errorf("estimate what the plan costs: %w", err)
	}
	return j, nil
}

func (j Judgement) text(w io.Writer, width int) error {
	if width <= 0 {
		width = 100
	}
	_, err := fmt.Fprintf(w, "\nCost: %s\n\nPolicy:\n%s", j.Cost.Line(), j.Policy.Text(width))
	return err
}
