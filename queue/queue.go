// Package queue accepts tasks and hands them to workers.
//
// A task is one row: its immutable definition, its runs, its state. A method
// changes a task in one transaction that locks the row, decides, writes it
// back and publishes the event. Four rules keep that right on any number of
// replicas:
//
//   - A pending run has a row in the table pending, and whoever deletes that
//     row (a claim, a cancellation, the deadline) owns the task's next
//     transition. So a task is claimed once and is never hidden.
//   - Locks are taken in the order priority change, worker, pending, task, group.
//   - Creating a task locks the tasks it depends on against resolution, so a
//     dependency is seen as resolved either by its creation or by the loop that
//     follows up resolutions, never by neither.
//   - What a resolution sets off (dependents, the end of the group) is work of
//     that loop, in batches, so that resolving a task costs the same whether
//     one or a hundred thousand others wait for it.
//
// Workers wait for work in claimWork; the transaction that makes a run pending
// wakes as many of them as there are runs, those first that had work last. So
// those that are not needed are the same ones all the time, and idle long enough
// to be ended. With several replicas each wakes its own; the first to look gets
// the run, and the others have looked in vain.
//
// A worker has a row, too, which each claim of it holds until it is committed.
// Who ends workers takes the row for itself, sees that there is no claim, and
// marks it (Drain): from then on no claim succeeds. What a provisioner sizes
// pools by is read from indexes alone (Demand, Upcoming).
//
// What would be too much for one call is recorded in its transaction and done by
// a loop in batches: following up resolutions, changing the priority of a group.
// One that fails waits for its next attempt aside, and the others go on.
//
// The bytes of artifacts are in a bucket, or with the object service (Objects).
// Tasks of built-in/succeed and built-in/fail have the queue itself as their
// worker.
package queue

import (
	"context"
	"embed"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/task"
	"github.com/taskfleet/taskfleet/timestamp"
)

const (
	claimTimeout = 20 * time.Minute // how long a claim lasts without a reclaim
	pollTimeout  = 20 * time.Second // how long claimWork waits for work
	clockSkew    = 15 * time.Minute // by how much callers' clocks may be off
)

//go:embed migrations/*.sql
var migrations embed.FS

//go:embed schemas/*.yml
var schemaFiles embed.FS

// A Minter makes the temporary credentials that come with a claim.
type Minter interface {
	Mint(ctx context.Context, clientID string, scopes []string, expiry time.Time) (cred.Credentials, error)
}

// Config is what a Queue needs.
type Config struct {
	DB        *store.DB
	Events    *event.Bus
	Artifacts *blob.Bucket
	Mint      Minter
	Log       *slog.Logger
	Metrics   prometheus.Registerer // nil: nobody looks

	// Objects is the object service; without one there are no artifacts of the
	// storage type object.
	Objects Objects

	// Nearby sends readers to copies of artifacts; nil: there are none.
	Nearby Nearby

	// Demanded, if there is one, is called in every transaction that makes a
	// run of a task queue pending. It may wake somebody when tx commits; it
	// must be quick and write nothing.
	Demanded func(tx *store.Tx, taskQueueID string)
}

// A Queue holds the tasks of a deployment.
type Queue struct {
	db        *store.DB
	events    *event.Bus
	artifacts *blob.Bucket
	mint      Minter
	objects   Objects
	nearby    Nearby
	log       *slog.Logger
	demanded  func(*store.Tx, string)
	crew      crew
	waited    prometheus.Histogram // how long runs were pending that were claimed

	// The calls that a busy deployment makes most. Those that come at the same
	// time share a transaction.
	creations *store.Batch[creation, task.Status]
	claims    *store.Batch[claimer, catch]
	reports   *store.Batch[report, task.Status]
	statuses  *store.Batch[string, task.Status]
}

// How many calls share a transaction at most. A claim can be for 32 tasks, whose
// definitions are in memory meanwhile.
const together, claimsTogether = 64, 32

// New returns the queue, creating its tables where they do not exist.
func New(ctx context.Context, c Config) (*Queue, error) {
	if err := c.DB.Migrate(ctx, "queue", migrations); err != nil {
		return nil, fmt.Errorf("queue: migrate: %w", err)
	}
	q := &Queue{
		db: c.DB, events: c.Events, artifacts: c.Artifacts, mint: c.Mint, objects: c.Objects, nearby: c.Nearby, log: c.Log, demanded: c.Demanded,
		crew: crew{members: map[workerKey]*member{}, queues: map[string]timestamp.Time{}},
		waited: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "taskfleet_queue_wait_seconds", Help: "How long runs that were claimed had been pending.",
			Buckets: []float64{0.1, 0.5, 1, 5, 15, 60, 120, 300, 600, 1800, 3600, 4 * 3600, 24 * 3600},
		}),
	}
	if c.Metrics != nil {
		c.Metrics.MustRegister(q.waited)
	}
	q.creations = store.NewBatch(q.db.Do, 1, together, q.createAll)
	q.claims = store.NewBatch(q.db.Do, 1, claimsTogether, q.takeClaims)
	q.reports = store.NewBatch(q.db.Do, 1, together, q.takeReports)
	q.statuses = store.NewBatch(q.db.ViewOnce, 1, together, readStatuses)
	return q, nil
}

// Loops are the queue's background work.
func (q *Queue) Loops() []loop.Loop {
	return append(q.builtInLoops(), []loop.Loop{
		{
			Name: "queue.dependencies", Doc: "Schedules what waited for tasks that have been resolved, and notices groups that have ended.",
			When: loop.Every(30 * time.Second), Wake: q.db.Waits().Signal(topicResolved), Pace: 20 * time.Millisecond, Pass: q.followResolutions,
		},
		{
			Name: "queue.claims", Doc: "Takes runs back from workers that did not reclaim them in time.",
			When: loop.Every(10 * time.Second), Pass: q.expireClaims,
		},
		{
			Name: "queue.deadlines", Doc: "Resolves tasks that are past their deadline.",
			When: loop.Every(10 * time.Second), Pass: q.expireDeadlines,
		},
		{
			Name: "queue.artifacts", Doc: "Deletes artifacts past their expiry, bytes first.",
			When: loop.Every(10 * time.Minute), Pass: q.expireArtifacts,
		},
		{
			Name: "queue.uploads", Doc: "Removes what was uploaded in parts and never finished, after a day.",
			When: loop.Every(time.Hour), Pass: q.abortUploads,
		},
		{
			Name: "queue.expiry", Doc: "Forgets tasks and groups past their expiry.",
			When: loop.Every(10 * time.Minute), Pass: q.expireTasks,
		},
		{
			Name: "queue.workers", Doc: "Writes down what this process has seen workers do.",
			When: loop.Every(crewInterval), Pass: q.writeCrew, EveryReplica: true,
		},
		{
			Name: "queue.worker-expiry", Doc: "Forgets workers that have not been seen for a day.",
			When: loop.Every(10 * time.Minute), Pass: q.expireWorkers,
		},
		{
			Name: "queue.task-queue-expiry", Doc: "Forgets task queues that no worker has asked for a day.",
			When: loop.Every(10 * time.Minute), Pass: q.expireQueues,
		},
		{
			Name: "queue.priorities", Doc: "Gives the tasks of large groups the priority that somebody gave the group.",
			When: loop.Every(30 * time.Second), Wake: q.db.Waits().Signal(topicPriority), Pass: q.changePriorities,
		},
	}...)
}

const topicResolved = "queue.resolved"

// topicPending is what workers of a task queue wait on.
func topicPending(taskQueueID string) string { return "queue.pending:" + taskQueueID }

func now() timestamp.Time { return timestamp.Now() }
