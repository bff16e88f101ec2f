package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/timestamp"
)

// An ahead makes copies that nobody has asked for yet: of artifacts, as soon as
// the run that made them has ended and they are not written any more, and for
// tasks that become pending, of what the tasks have made that they depend on.
//
// It follows messages of the queue. All it does is to want copies, which can be
// done again: a message that comes twice costs a look. What cannot be found any
// more is left, as copies are made on request all the same.
type ahead struct {
	mirror  *Mirror
	regions map[string]located // of the workers of task queues
}

// located is where the workers of a task queue are, as of a moment.
type located struct {
	regions []string
	asked   timestamp.Time
}

const (
	topicPending   = "exchange/taskcluster-queue/v1/task-pending"
	topicCompleted = "exchange/taskcluster-queue/v1/task-completed"
	topicFailed    = "exchange/taskcluster-queue/v1/task-failed"

	// What is copied for one task is bounded. The rest is copied when it is asked
	// for.
	maxAheadArtifacts    = 1000
	maxAheadDependencies = 100

	wantsTogether = 500 // copies that are wanted by one call

	poolMemory = time.Minute // for which it is good to know where workers are
	maxPools   = 10_000      // that are remembered
)

// subscribeAhead has the mirror follow the queue, if a route says that something is to
// be copied ahead of time. Without such a route it costs nothing.
func (m *Mirror) subscribeAhead(bus *event.Bus) {
	var bindings []event.Binding
	bind := func(topics ...string) {
		for _, t := range topics {
			bindings = append(bindings, event.Binding{Exchange: t, RoutingKeyPattern: "#"})
		}
	}
	if slices.ContainsFunc(m.guide.routes, func(r Route) bool { return r.Ahead }) {
		bind(topicCompleted, topicFailed)
	}
	if slices.ContainsFunc(m.guide.routes, func(r Route) bool { return r.Prefetch }) {
		bind(topicPending)
	}
	if bindings != nil && len(m.guide.names) > 0 {
		a := &ahead{mirror: m, regions: map[string]located{}}
		bus.Subscribe("mirror", bindings, a.follow)
	}
}

// An errand is what the messages of a call come to.
type errand struct {
	artifacts map[string][]Artifact // by the task that made them, as looked up for this call
	wants     []Want
	wanted    map[name]bool
}

// follow has copied what messages call for.
func (a *ahead) follow(ctx context.Context, list []event.Message) (acted bool, err error) {
	e := errand{artifacts: map[string][]Artifact{}, wanted: map[name]bool{}}
	for _, m := range list {
		var x struct {
			Status struct {
				TaskID      string `json:"taskId"`
				TaskQueueID string `json:"taskQueueId"`
			} `json:"status"`
		}
		if err := json.Unmarshal(m.Payload, &x); err != nil || x.Status.TaskID == "" {
			a.mirror.log.Warn("a message about a task cannot be read", "position", m.Position, "err", err)
			continue
		}
		if m.Exchange == topicPending {
			err = a.prefetch(ctx, &e, x.Status.TaskID, x.Status.TaskQueueID)
		} else {
			err = a.replicate(ctx, &e, x.Status.TaskID)
		}
		if err != nil {
			return false, err
		}
		if len(e.wants) >= wantsTogether {
			if err := a.send(ctx, &e); err != nil {
				return false, err
			}
		}
	}
	return false, a.send(ctx, &e)
}

// send has the copies made that an errand is about.
func (a *ahead) send(ctx context.Context, e *errand) error {
	for wants := range slices.Chunk(e.wants, wantsTogether) {
		if _, err := a.mirror.want(ctx, wants...); err != nil {
			return fmt.Errorf("mirror: wanting %d copies ahead of time: %w", len(wants), err)
		}
	}
	e.wants = e.wants[:0]
	return nil
}

// replicate adds what routes say of the artifacts of a task whose run has ended.
func (a *ahead) replicate(ctx context.Context, e *errand, taskID string) error {
	list, err := a.artifacts(ctx, e, taskID)
	for i, made := range list {
		if i >= maxAheadArtifacts {
			a.mirror.log.Info("a task has more artifacts than are copied ahead of time", "taskId", taskID, "artifacts", len(list), "copied", i)
			break
		}
		o := a.mirror.guide.stored(&made)
		if r := a.mirror.guide.route(o, &made, made.Size); r.Ahead {
			e.add(o, made, a.mirror.guide.reached(r, nil))
		}
	}
	return err
}

// prefetch adds what routes say of the artifacts of the tasks that a pending one
// depends on.
func (a *ahead) prefetch(ctx context.Context, e *errand, taskID, taskQueueID string) error {
	regions, err := a.workersOf(ctx, taskQueueID)
	if err != nil || len(regions) == 0 {
		return err
	}
	_, required, err := a.mirror.catalog.Dependencies(ctx, taskID)
	if isGone(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("mirror: what task %s depends on: %w", taskID, err)
	}
	if n := len(required); n > maxAheadDependencies {
		a.mirror.log.Info("a task depends on more tasks than artifacts are copied of ahead of time", "taskId", taskID, "dependencies", n, "copied", maxAheadDependencies)
		required = required[:maxAheadDependencies]
	}
	n := 0
	for _, id := range required {
		list, err := a.artifacts(ctx, e, id)
		if err != nil {
			return err
		}
		for _, made := range list {
			o := a.mirror.guide.stored(&made)
			r := a.mirror.guide.route(o, &made, made.Size)
			if !r.Prefetch {
				continue
			}
			if n++; n > maxAheadArtifacts {
				a.mirror.log.Info("a task depends on tasks with more artifacts than are copied ahead of time", "taskId", taskID, "copied", maxAheadArtifacts)
				return nil
			}
			e.add(o, made, a.mirror.guide.reached(r, regions))
		}
	}
	return nil
}

// add wants copies of an artifact in regions.
func (e *errand) add(o Origin, a Artifact, regions []string) {
	if a.Open || a.Expires <= timestamp.Now() {
		return
	}
	for _, region := range regions {
		if n := (name{region, o.ID()}); !e.wanted[n] {
			e.wanted[n] = true
			e.wants = append(e.wants, Want{Region: region, Origin: o, Priority: Ahead, Size: a.Size, Expires: a.Expires})
		}
	}
}

// artifacts are those of a task's latest run.
func (a *ahead) artifacts(ctx context.Context, e *errand, taskID string) ([]Artifact, error) {
	if list, ok := e.artifacts[taskID]; ok {
		return list, nil
	}
	list, err := a.mirror.catalog.Artifacts(ctx, taskID)
	if isGone(err) {
		list, err = nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("mirror: the artifacts of task %s: %w", taskID, err)
	}
	e.artifacts[taskID] = list
	return list, nil
}

// workersOf are the regions with copies in which the workers of a task queue are.
func (a *ahead) workersOf(ctx context.Context, taskQueueID string) ([]string, error) {
	at := timestamp.Now()
	if l, ok := a.regions[taskQueueID]; ok && at.Sub(l.asked) < poolMemory {
		return l.regions, nil
	}
	named, err := a.mirror.pools.Regions(ctx, taskQueueID)
	if err != nil {
		return nil, fmt.Errorf("mirror: where the workers of %s are: %w", taskQueueID, err)
	}
	l := located{asked: at}
	for _, group := range named {
		if region, ok := a.mirror.guide.finder.Group(group); ok && a.mirror.guide.regions[region] && !slices.Contains(l.regions, region) {
			l.regions = append(l.regions, region)
		}
	}
	if len(a.regions) >= maxPools {
		clear(a.regions)
	}
	a.regions[taskQueueID] = l
	return l.regions, nil
}

// isGone tells that what was asked for is not there, and will not be.
func isGone(err error) bool {
	e, ok := errors.AsType[*api.Error](err)
	return ok && (e.Code == api.ResourceNotFound || e.Code == api.ResourceExpired)
}
