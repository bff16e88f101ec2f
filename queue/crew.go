package queue

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/task"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A crew is what this process has seen workers do. It is written down every
// few seconds, for all of them together, and so costs a claim nothing. What a
// process that is killed has not written down is how recently some workers were
// active; nothing is decided by that alone.
type crew struct {
	writing sync.Mutex // held while notes are written down, so that who then reads misses none

	mu      sync.Mutex
	members map[workerKey]*member

	queues map[string]timestamp.Time // how active a task queue was written to be last; under writing
}

// A member is a worker in memory. Times are 0 while not known.
type member struct {
	first    timestamp.Time // it asked for work
	active   timestamp.Time // asked, or renewed a claim, last
	released timestamp.Time // a claim of it ended last
	recent   string         // what it claimed that is not written down, as in queue_worker
	known    bool           // it has a row

	activeWritten, releasedWritten timestamp.Time
}

const (
	crewInterval   = 2 * time.Second // between writings
	activeInterval = time.Minute     // of the same worker, if it only asks
	crewMemory     = time.Hour       // after which a worker that does nothing is known from its row alone
)

// seen notes that a worker is there, and returns its rank among those that wait
// for work: when it had work last. Work goes to who had some last, so that those
// that are not needed are idle all the time, and can go.
func (c *crew) seen(k workerKey) (rank int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.member(k)
	m.active = now()
	return m.rank()
}

func (m *member) rank() int64 { return int64(max(m.first, m.released)) }

func (c *crew) member(k workerKey) *member {
	m := c.members[k]
	if m == nil {
		m = &member{first: now(), active: now()}
		c.members[k] = m
	}
	return m
}

// learn takes over what is written about a worker: by another replica, or by
// this one before it was started. It returns the rank that follows.
func (c *crew) learn(k workerKey, s standing) (rank int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.member(k)
	m.known = true
	m.first = min(m.first, s.first)
	m.released = max(m.released, s.released)
	m.releasedWritten = max(m.releasedWritten, s.released)
	return m.rank()
}

// known reports whether the worker had a row before it looked for work now.
func (c *crew) known(k workerKey) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.member(k).known
}

// recentTasks is how many claims of a worker are remembered, recentWidth how
// many characters each takes: a slug and a number up to 1000.
const recentTasks, recentWidth = 20, 26

func (c *crew) claimed(k workerKey, claims []claim) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.member(k)
	m.active = now()
	for _, x := range claims {
		m.recent = fmt.Sprintf("%s%4d", x.Status.TaskID, x.RunID) + m.recent[:min(len(m.recent), (recentTasks-1)*recentWidth)]
	}
}

// released notes, if tx commits, that the worker of r's run has it no longer.
func (c *crew) released(tx *store.Tx, r *record) {
	if r.worker == "" {
		return
	}
	k, t := workerKey{r.TaskQueueID, r.worker}, now()
	tx.AfterCommit(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		m := c.member(k)
		m.released = max(m.released, t)
	})
}

// A note is what is to be written about a worker, times in milliseconds.
type note struct {
	Queue    string `json:"queue"`
	Worker   string `json:"worker"`
	First    int64  `json:"first"`
	Active   int64  `json:"active"`
	Released int64  `json:"released"`
	Recent   string `json:"recent"`
}

// take returns up to n notes that are to be written, in the order of their
// keys, and takes them for written.
func (c *crew) take(n int) (list []note) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := now()
	for k, m := range c.members {
		due := m.recent != "" || m.released > m.releasedWritten || m.active.Sub(m.activeWritten) >= activeInterval
		switch {
		case due && len(list) < n:
			list = append(list, note{k.queueID, k.worker, int64(m.first), int64(m.active), int64(m.released), m.recent})
			m.recent, m.releasedWritten, m.activeWritten = "", m.released, m.active
		case !due && t.Sub(m.active) >= crewMemory:
			delete(c.members, k)
		}
	}
	slices.SortFunc(list, func(a, b note) int {
		return cmp.Or(cmp.Compare(a.Queue, b.Queue), cmp.Compare(a.Worker, b.Worker))
	})
	return list
}

// giveBack has notes written another time.
func (c *crew) giveBack(list []note) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range list {
		m := c.member(workerKey{n.Queue, n.Worker})
		m.recent += n.Recent
		m.releasedWritten, m.activeWritten = 0, 0
	}
}

// writeCrew is one pass of the loop queue.workers.
func (q *Queue) writeCrew(ctx context.Context) (more bool, err error) {
	q.crew.writing.Lock()
	defer q.crew.writing.Unlock()
	list := q.crew.take(batch)
	if len(list) == 0 {
		return false, nil
	}
	queues := q.crew.activeQueues(list)
	var values []string
	for _, n := range list {
		b, err := json.Marshal(n)
		if err != nil {
			return false, err
		}
		values = append(values, string(b))
	}
	err = q.db.Do(ctx, func(tx *store.Tx) error {
		if err := writeQueues(tx, queues); err != nil {
			return err
		}
		_, err := tx.Exec(`
			INSERT INTO queue_worker (task_queue_id, worker, first_claim, last_active, last_release, expires, recent)
			SELECT value /*json*/ ->> 'queue', value /*json*/ ->> 'worker', CAST(value /*json*/ ->> 'first' AS BIGINT),
			       CAST(value /*json*/ ->> 'active' AS BIGINT), CAST(value /*json*/ ->> 'released' AS BIGINT),
			       CAST(value /*json*/ ->> 'active' AS BIGINT) + $2, value /*json*/ ->> 'recent'
			  FROM json_each($1) WHERE true
			ON CONFLICT (task_queue_id, worker) DO UPDATE SET
			  last_active = CASE WHEN excluded.last_active > queue_worker.last_active THEN excluded.last_active ELSE queue_worker.last_active END,
			  last_release = CASE WHEN excluded.last_release > queue_worker.last_release THEN excluded.last_release ELSE queue_worker.last_release END,
			  expires = CASE WHEN excluded.expires > queue_worker.expires + $3 THEN excluded.expires ELSE queue_worker.expires END,
			  recent = substr(excluded.recent || queue_worker.recent, 1, $4)`,
			values, workerLife.Milliseconds(), time.Hour.Milliseconds(), recentTasks*recentWidth)
		return err
	})
	if err != nil {
		q.crew.giveBack(list)
		return false, err
	}
	for _, n := range queues {
		q.crew.queues[n.Provisioner+"/"+n.Type] = timestamp.Time(n.Active)
	}
	return len(list) == batch, nil
}

// activeQueues are the task queues to be written of with some workers, in the
// order of their names: those that were not within the last minute.
func (c *crew) activeQueues(list []note) (queues []queueNote) {
	latest := map[string]int64{}
	for _, n := range list {
		latest[n.Queue] = max(latest[n.Queue], n.Active)
	}
	for id, active := range latest {
		if timestamp.Time(active).Sub(c.queues[id]) >= activeInterval {
			provisionerID, name := task.SplitQueueID(id)
			queues = append(queues, queueNote{provisionerID, name, active, int64(timestamp.Time(active).Add(workerLife))})
		}
	}
	maps.DeleteFunc(c.queues, func(_ string, written timestamp.Time) bool { return now().Sub(written) >= crewMemory })
	slices.SortFunc(queues, func(a, b queueNote) int {
		return cmp.Or(cmp.Compare(a.Provisioner, b.Provisioner), cmp.Compare(a.Type, b.Type))
	})
	return queues
}

// writeCrewDown writes all that is to be written: for those who want to read it.
func (q *Queue) writeCrewDown(ctx context.Context) error {
	for {
		if more, err := q.writeCrew(ctx); err != nil || !more {
			return err
		}
	}
}

// Close writes down what is known of workers. Call it when the API is no longer
// served.
func (q *Queue) Close(ctx context.Context) error { return q.writeCrewDown(ctx) }

// A RecentTask is a run that a worker claimed.
type RecentTask struct {
	TaskID string `json:"taskId"`
	RunID  int    `json:"runId"`
}

// readRecent reads the column recent. The list ends with the newest, as callers
// of the API expect.
func readRecent(s string) (list []RecentTask, err error) {
	list = []RecentTask{}
	for ; len(s) >= recentWidth; s = s[recentWidth:] {
		run, err := strconv.Atoi(strings.TrimSpace(s[22:recentWidth]))
		if err != nil {
			return nil, fmt.Errorf("queue: the recent tasks of a worker: %w", err)
		}
		list = append(list, RecentTask{s[:22], run})
	}
	slices.Reverse(list)
	return list, nil
}
