package schedule

import (
	"strings"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/timestamp"
)

var runFinished = api.Exchange{
	Exchange: "run-finished", Name: "runFinished", Title: "Run finished", Schema: "v1/run-finished-message.json#",
	Doc: "A run of a job is over: it is done, has failed and will not be tried again, or was missed. There is one message for each run.",
	RoutingKey: []api.RoutingKey{
		{Name: "routingKeyKind", Summary: "Always primary.", Constant: "primary", Required: true},
		{Name: "kind", Summary: "The kind of the job, with hyphens for dots.", Required: true},
		{Name: "state", Summary: "What has become of the run: done, failed or missed.", Required: true},
		{Name: "job", Summary: "The name of the job, with hyphens for dots.", Required: true},
		{Name: "reserved", Summary: "Room for later additions; match it with #.", MultipleWords: true},
	},
}

// message is the payload. It has no error: that is for those who may read the
// schedule.
type message struct {
	Version int            `json:"version"`
	Job     string         `json:"job"`
	Kind    string         `json:"kind"`
	Due     timestamp.Time `json:"due"`
	State   State          `json:"state"`
	Attempt int            `json:"attempt"`
	Started timestamp.Time `json:"started,omitempty"`
	Ended   timestamp.Time `json:"ended"`
}

func (r *run) outgoing(j *job) event.Outgoing {
	word := func(s string) string { return strings.ReplaceAll(s, ".", "-") }
	return event.Outgoing{
		Exchange:   event.Topic("schedules", "v1", runFinished),
		RoutingKey: "primary." + word(j.Kind) + "." + string(r.State) + "." + word(j.Name) + "._",
		Payload:    message{Version: 1, Job: j.Name, Kind: j.Kind, Due: r.Due, State: r.State, Attempt: r.Attempt, Started: r.Started, Ended: r.Ended},
	}
}
