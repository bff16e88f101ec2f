package provisioner

import (
	"strings"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

var (
	poolCreated = exchange("worker-pool-created", "workerPoolCreated", "Worker pool created", "A worker pool was created.", "worker-pool", aboutPool)
	poolUpdated = exchange("worker-pool-updated", "workerPoolUpdated", "Worker pool updated", "A worker pool was given another definition, or is going away: its provider then is null-provider.", "worker-pool", aboutPool)
	poolError   = exchange("worker-pool-error", "workerPoolError", "Worker pool error", "Something went wrong in a worker pool; listWorkerPoolErrors tells more.", "worker-pool-error", aboutPool)

	workerRequested      = exchange("worker-requested", "workerRequested", "Worker requested", "A worker is about to be started.", "worker", aboutWorker)
	workerRunning        = exchange("worker-running", "workerRunning", "Worker running", "A worker has registered.", "worker", aboutWorker)
	workerStopped        = exchange("worker-stopped", "workerStopped", "Worker stopped", "A worker has ended, with all its processes.", "worker", aboutWorker)
	launchConfigCreated  = exchange("launch-config-created", "launchConfigCreated", "Launch configuration created", "A worker pool got a launch configuration.", "launch-config", aboutPool)
	launchConfigUpdated  = exchange("launch-config-updated", "launchConfigUpdated", "Launch configuration updated", "A launch configuration of a worker pool was changed, or is a current one again.", "launch-config", aboutPool)
	launchConfigArchived = exchange("launch-config-archived", "launchConfigArchived", "Launch configuration archived", "No more workers are made from a launch configuration, and those that were are to go.", "launch-config", aboutPool)

	workerRemoved = exchange("worker-removed", "workerRemoved", "Worker removed", "A worker is being asked to end.", "worker-removed", aboutWorker)
)

const (
	aboutPool   = false
	aboutWorker = true
)

func exchange(exchange, name, title, doc, schema string, worker bool) api.Exchange {
	return api.Exchange{
		Exchange: exchange, Name: name, Title: title, Doc: doc, Schema: "v1/pulse-" + schema + "-message.json#",
		RoutingKey: []api.RoutingKey{
			{Name: "routingKeyKind", Summary: "Always primary.", Constant: "primary", Required: true},
			{Name: "providerId", Summary: "The provider.", Required: worker},
			{Name: "provisionerId", Summary: "First half of the pool's id.", Required: worker},
			{Name: "workerType", Summary: "Second half of the pool's id.", Required: worker},
			{Name: "workerGroup", Summary: "Group of the worker, or _ where the message is about no worker.", Required: worker},
			{Name: "workerId", Summary: "The worker, or _", Required: worker},
			{Name: "launchConfigId", Summary: "The launch configuration, or _"},
			{Name: "reserved", Summary: "Room for later additions; match it with #.", MultipleWords: true},
		},
	}
}

type poolMessage struct {
	WorkerPoolID       string `json:"workerPoolId"`
	ProviderID         string `json:"providerId"`
	PreviousProviderID string `json:"previousProviderId,omitempty"`
}

type errorMessage struct {
	WorkerPoolID   string         `json:"workerPoolId"`
	ProviderID     string         `json:"providerId"`
	ErrorID        string         `json:"errorId"`
	Kind           string         `json:"kind"`
	Title          string         `json:"title"`
	Timestamp      timestamp.Time `json:"timestamp"`
	LaunchConfigID string         `json:"launchConfigId,omitempty"`
	WorkerGroup    string         `json:"workerGroup,omitempty"`
	WorkerID       string         `json:"workerId,omitempty"`
}

type workerMessage struct {
	WorkerPoolID   string         `json:"workerPoolId"`
	ProviderID     string         `json:"providerId"`
	WorkerID       string         `json:"workerId"`
	WorkerGroup    string         `json:"workerGroup"`
	Capacity       int64          `json:"capacity"`
	Reason         string         `json:"reason,omitempty"` // of workerRemoved only
	Timestamp      timestamp.Time `json:"timestamp"`
	LaunchConfigID string         `json:"launchConfigId"`
}

func (p *Provisioner) publishPool(tx *store.Tx, x api.Exchange, o *fleet.Pool, previous string) error {
	return p.send(tx, x, o.ProviderID, fleet.Ref{WorkerPoolID: o.ID}, "", poolMessage{o.ID, o.ProviderID, previous})
}

func (p *Provisioner) publishWorker(tx *store.Tx, x api.Exchange, w *fleet.Worker, reason string) error {
	return p.send(tx, x, w.ProviderID, w.Ref, w.LaunchConfigID, workerMessage{
		WorkerPoolID: w.WorkerPoolID, ProviderID: w.ProviderID, WorkerID: w.WorkerID, WorkerGroup: w.WorkerGroup,
		Capacity: w.Capacity, Reason: reason, Timestamp: now(), LaunchConfigID: w.LaunchConfigID,
	})
}

type launchConfigMessage struct {
	WorkerPoolID   string `json:"workerPoolId"`
	ProviderID     string `json:"providerId"`
	LaunchConfigID string `json:"launchConfigId"`
}

func (p *Provisioner) publishLaunchConfig(tx *store.Tx, x api.Exchange, o *fleet.Pool, id string) error {
	return p.send(tx, x, o.ProviderID, fleet.Ref{WorkerPoolID: o.ID}, id, launchConfigMessage{o.ID, o.ProviderID, id})
}

func (p *Provisioner) send(tx *store.Tx, x api.Exchange, providerID string, r fleet.Ref, launchConfigID string, message any) error {
	provisionerID, workerType, _ := strings.Cut(r.WorkerPoolID, "/")
	key := []string{"primary", providerID, provisionerID, workerType, r.WorkerGroup, r.WorkerID, launchConfigID, "_"}
	for i := range key {
		if key[i] == "" {
			key[i] = "_"
		}
	}
	return p.events.Publish(tx, event.Topic(serviceName, serviceVersion, x), strings.Join(key, "."), nil, message)
}
