package queue

import (
	"context"
	"slices"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A Demand is what a task queue has to do, and who does it.
type Demand struct {
	Pending int64          // runs that wait for a worker
	Oldest  timestamp.Time // since when the one that waits longest does; 0: none waits
	Running []RunningTask
	Workers []WorkerState // that were active within the last day and may get something; others for an hour, or while in quarantine
}

// A RunningTask is a run in the hands of a worker.
type RunningTask struct {
	Worker  Worker
	Started timestamp.Time
	Kind    string // the task's tag "label", up to 200 characters: tasks of a kind take similar time
}

// A WorkerState is how a worker stands with its task queue.
type WorkerState struct {
	Worker      Worker
	Active      timestamp.Time // when it asked for work or renewed a claim last, to the minute
	Released    timestamp.Time // when a claim of it ended last; 0: none has
	Draining    bool           // it gets nothing any more
	Quarantined bool           // it gets nothing now
}

// Demand returns what queues have to do, as of one moment. A queue that there is
// nothing to say of has no entry. It takes a few statements, however many queues
// there are. What workers did at other replicas is known two seconds later.
func (q *Queue) Demand(ctx context.Context, taskQueueIDs []string) (map[string]Demand, error) {
	if err := q.writeCrewDown(ctx); err != nil {
		return nil, err
	}
	var all map[string]Demand
	err := q.db.View(ctx, func(tx *store.Tx) error {
		all = map[string]Demand{}
		rows, err := tx.Query(`
			SELECT task_queue_id, count(*), min(since) FROM pending
			 WHERE task_queue_id IN (SELECT value FROM json_each($1)) GROUP BY task_queue_id`, taskQueueIDs)
		if err != nil {
			return err
		}
		for rows.Next() {
			var id string
			var d Demand
			if err := rows.Scan(&id, &d.Pending, &d.Oldest); err != nil {
				return err
			}
			all[id] = d
		}
		if err := rows.Err(); err != nil {
			return err
		}
		if rows, err = tx.Query(`
			SELECT task_queue_id, worker, started, kind FROM task
			 WHERE task_queue_id IN (SELECT value FROM json_each($1)) AND state = 'running'`, taskQueueIDs); err != nil {
			return err
		}
		for rows.Next() {
			var id, worker string
			var r RunningTask
			if err := rows.Scan(&id, &worker, &r.Started, &r.Kind); err != nil {
				return err
			}
			r.Worker = workerNamed(worker)
			d := all[id]
			d.Running = append(d.Running, r)
			all[id] = d
		}
		if err := rows.Err(); err != nil {
			return err
		}
		t := now()
		if rows, err = tx.Query(`
			SELECT task_queue_id, worker, last_active, last_release, draining, quarantine_until FROM queue_worker
			 WHERE task_queue_id IN (SELECT value FROM json_each($1))
			   AND (last_active > $2 OR draining = 0 AND last_active > $3 OR quarantine_until > $4)`,
			taskQueueIDs, t.Add(-crewMemory), t.Add(-workerLife), t); err != nil {
			return err
		}
		for rows.Next() {
			var id, worker string
			var w WorkerState
			var draining, quarantine timestamp.Time
			if err := rows.Scan(&id, &worker, &w.Active, &w.Released, &draining, &quarantine); err != nil {
				return err
			}
			w.Worker, w.Draining, w.Quarantined = workerNamed(worker), draining > 0, quarantine > t
			d := all[id]
			d.Workers = append(d.Workers, w)
			all[id] = d
		}
		return rows.Err()
	})
	return all, err
}

// Upcoming are tasks of a queue that become pending when certain running tasks
// have ended well, and wait for nothing else.
type Upcoming struct {
	TaskQueueID  string
	Count        int64
	Dependencies []Dependency // all of them running
}

// A Dependency is a running task that others wait for.
type Dependency struct {
	TaskQueueID string // its own
	Started     timestamp.Time
	Kind        string // as in RunningTask
}

// The values of dependency.waits.
const (
	waitsNot     = 0 // the edge is satisfied, or its dependent waits no more
	waitsAlone   = 1 // its dependent waits for nothing else
	waitsBesides = 2 // its dependent waits for others, too
)

// maxSeveral bounds the edges looked at of tasks that wait for several others,
// maxTogether how many others such a task waits for: one that waits for more is
// not about to run.
const maxSeveral, maxTogether = 2000, 32

// Upcoming counts the unscheduled tasks of queues that wait for running tasks
// alone, grouped by what they wait for. Tasks that wait for one are counted
// exactly, however many there are. Those that wait for several are counted as
// far as two thousand edges of the graph lead, and only if they wait for at most
// 32 tasks each.
func (q *Queue) Upcoming(ctx context.Context, taskQueueIDs []string) (list []Upcoming, err error) {
	err = q.db.View(ctx, func(tx *store.Tx) error {
		list = nil
		running, ids, err := runningTasks(tx)
		if err != nil || len(ids) == 0 {
			return err
		}
		rows, err := tx.Query(`
			SELECT required, task_queue_id, count(*) FROM dependency
			 WHERE required IN (SELECT value FROM json_each($1)) AND waits > 0 AND waits = 1
			 GROUP BY required, task_queue_id`, ids)
		if err != nil {
			return err
		}
		for rows.Next() {
			var required string
			var u Upcoming
			if err := rows.Scan(&required, &u.TaskQueueID, &u.Count); err != nil {
				return err
			}
			if slices.Contains(taskQueueIDs, u.TaskQueueID) {
				u.Dependencies = []Dependency{running[required]}
				list = append(list, u)
			}
		}
		if err := rows.Err(); err != nil {
			return err
		}
		several, err := waitForSeveral(tx, running, ids, taskQueueIDs)
		list = append(list, several...)
		return err
	})
	return list, err
}

// runningTasks are all that run, by id.
func runningTasks(tx *store.Tx) (running map[string]Dependency, ids []string, err error) {
	rows, err := tx.Query(`SELECT task_id, task_queue_id, started, kind FROM task WHERE state = 'running'`)
	if err != nil {
		return nil, nil, err
	}
	running = map[string]Dependency{}
	for rows.Next() {
		var id string
		var d Dependency
		if err := rows.Scan(&id, &d.TaskQueueID, &d.Started, &d.Kind); err != nil {
			return nil, nil, err
		}
		running[id] = d
		ids = append(ids, id)
	}
	return running, ids, rows.Err()
}

// waitForSeveral finds the tasks that wait for at least two others, all of which
// run.
func waitForSeveral(tx *store.Tx, running map[string]Dependency, ids, taskQueueIDs []string) (list []Upcoming, err error) {
	candidates, err := tx.Column(`
		SELECT DISTINCT task_id FROM (
		  SELECT task_id FROM dependency
		   WHERE required IN (SELECT value FROM json_each($1)) AND waits > 0 AND waits = 2
		     AND task_queue_id IN (SELECT value FROM json_each($2)) LIMIT $3) AS edge`, ids, taskQueueIDs, maxSeveral)
	if err != nil || len(candidates) == 0 {
		return nil, err
	}
	rows, err := tx.Query(`
		SELECT task_id, task_queue_id, required FROM dependency
		 WHERE task_id IN (SELECT value FROM json_each($1)) AND satisfied = 0
		   AND NOT EXISTS (SELECT 1 FROM dependency AS other
		                    WHERE other.task_id = dependency.task_id AND other.satisfied = 0 LIMIT 1 OFFSET $2)
		 ORDER BY task_id, required`, candidates, maxTogether)
	if err != nil {
		return nil, err
	}
	index := map[string]int{} // of a set of dependencies in list
	var id, key string
	var u Upcoming
	ready := false
	flush := func() {
		if !ready {
			return
		}
		i, ok := index[key]
		if !ok {
			i = len(list)
			index[key] = i
			list = append(list, u)
		}
		list[i].Count++
	}
	for rows.Next() {
		var next, queueID, required string
		if err := rows.Scan(&next, &queueID, &required); err != nil {
			return nil, err
		}
		if next != id {
			flush()
			id, key, ready = next, queueID, true
			u = Upcoming{TaskQueueID: queueID}
		}
		d, runs := running[required]
		ready = ready && runs
		key += " " + required
		u.Dependencies = append(u.Dependencies, d)
	}
	flush()
	return slices.Clip(list), rows.Err()
}
