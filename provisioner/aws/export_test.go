package aws

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/taskfleet/taskfleet/timestamp"
)

// Hear has the provider hear of an instance's state, as by an event.
func (p *Provider) Hear(now timestamp.Time, id, state string) bool {
	e := event{DetailType: stateChanged, Time: now.Time()}
	e.Detail.InstanceID, e.Detail.State = id, state
	return p.hear(now, e)
}

// TestActionsAreAllThatIsCalled keeps the list for operators in step.
func TestActionsAreAllThatIsCalled(t *testing.T) {
	for _, c := range []struct {
		service string
		methods reflect.Type
	}{{"ec2", reflect.TypeFor[EC2]()}, {"sqs", reflect.TypeFor[SQS]()}, {"servicequotas", reflect.TypeFor[Quotas]()}} {
		for i := range c.methods.NumMethod() {
			action := c.service + ":" + strings.TrimSuffix(c.methods.Method(i).Name, "Batch")
			if !slices.Contains(Actions, action) {
				t.Errorf("%s is called and is not among Actions", action)
			}
		}
	}
}
