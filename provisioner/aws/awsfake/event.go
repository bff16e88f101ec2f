package awsfake

import (
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// envelope is an EventBridge event.
type envelope struct {
	Version    string         `json:"version"`
	ID         string         `json:"id"`
	DetailType string         `json:"detail-type"`
	Source     string         `json:"source"`
	Account    string         `json:"account"`
	Time       string         `json:"time"`
	Region     string         `json:"region"`
	Resources  []string       `json:"resources"`
	Detail     map[string]any `json:"detail"`
}

// stateChanged publishes a change of an instance's state. EC2 has no event for
// a state that it does not enter: there is one for each of pending, running,
// shutting-down and terminated.
func (r *region) stateChanged(i *instance) {
	r.publish(i, "EC2 Instance State-change Notification", "state", i.state)
}

func (r *region) publishInterruption(i *instance) {
	r.publish(i, "EC2 Spot Instance Interruption Warning", "instance-action", types.InstanceStateName("terminate"))
}

func (r *region) publishRebalance(i *instance) {
	r.publish(i, "EC2 Instance Rebalance Recommendation", "", "")
}

// publish sends an event on its way into the region's queue: it may be lost,
// late, or come twice.
func (r *region) publish(i *instance, detailType, key string, value types.InstanceStateName) {
	c, e := r.cloud, &r.cloud.config.Events
	if e.Queue == "" {
		return
	}
	draw := c.draws.events
	if e.Lost > 0 && draw.Float64() < e.Lost {
		return
	}
	at := c.now
	id := uuid(draw.Uint64(), draw.Uint64())
	body := func() string {
		detail := map[string]any{"instance-id": i.id}
		if key != "" {
			detail[key] = value
		}
		return string(mustJSON(envelope{
			Version: "0", ID: id, DetailType: detailType, Source: "aws.ec2", Account: r.account.id, Time: at.UTC().Format(time.RFC3339), Region: r.name,
			Resources: []string{"arn:aws:ec2:" + r.name + ":" + r.account.id + ":instance/" + i.id}, Detail: detail,
		}))
	}
	copies := 1
	if e.Duplicated > 0 && draw.Float64() < e.Duplicated {
		copies = 2
	}
	for range copies {
		limit := e.Delay
		if e.Late > 0 && draw.Float64() < e.Late {
			limit = e.LateDelay
		}
		c.after(at.Add(below(draw, limit)), nil, func(c *Cloud) {
			if q := r.queues[e.Queue]; q != nil {
				q.send(c, body)
			}
		})
	}
}
