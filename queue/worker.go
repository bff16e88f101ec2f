package queue

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A Worker is who claims from a task queue. It is known by the queue, the group
// and the id together.
type Worker struct {
	Group string `json:"workerGroup"`
	ID    string `json:"workerId"`
}

// String is how the database names a worker: "group/id". Neither part holds a
// slash.
func (w Worker) String() string { return w.Group + "/" + w.ID }

func workerNamed(s string) Worker {
	group, id, _ := strings.Cut(s, "/")
	return Worker{group, id}
}

// A workerKey is the key of a worker's row.
type workerKey struct{ queueID, worker string }

// topic is what a worker's long poll waits on besides work: that the
// worker is drained, quarantined, or free again.
func (k workerKey) topic() string { return "queue.worker:" + k.queueID + "/" + k.worker }

const (
	workerLife = 24 * time.Hour // how long a worker is remembered that does nothing
	atOnce     = 1000           // workers in one statement, at most
)

// A standing is what a worker's claims go by.
type standing struct {
	draining        timestamp.Time // 0: it is not
	quarantineUntil timestamp.Time
	first, released timestamp.Time // claims
}

// refused tells whether the worker gets nothing now.
func (s standing) refused() bool { return s.draining > 0 || s.quarantineUntil > now() }

const standingQuery = `SELECT draining, quarantine_until, first_claim, last_release FROM queue_worker WHERE task_queue_id = $1 AND worker = $2`

func (s *standing) scan(row scanner) error {
	return row.Scan(&s.draining, &s.quarantineUntil, &s.first, &s.released)
}

// readStanding reads a worker's row, and makes it if there is none. With lock
// it stays as it is until the transaction ends.
func readStanding(tx *store.Tx, k workerKey, lock bool) (s standing, made bool, err error) {
	statement := standingQuery
	if lock {
		statement += ` /*for key share*/`
	}
	for {
		err = s.scan(tx.QueryRow(statement, k.queueID, k.worker))
		if !errors.Is(err, store.ErrNotFound) {
			return s, made, err
		}
		if err := addWorkers(tx, k.queueID, []string{k.worker}); err != nil {
			return s, false, err
		}
		made = true
	}
}

// addWorkers makes the rows of workers that have none.
func addWorkers(tx *store.Tx, queueID string, names []string) error {
	t := now()
	_, err := tx.Exec(`
		INSERT INTO queue_worker (task_queue_id, worker, first_claim, last_active, expires)
		SELECT $1, value, $3, $3, $4 FROM json_each($2) WHERE true
		ON CONFLICT DO NOTHING`, queueID, names, t, t.Add(workerLife))
	return err
}

// takeAll takes pending runs for those of the claimers that may have them.
//
// A worker's row is locked before anything is taken, and read as it is when the
// lock is there: PostgreSQL looks again at a row that it had to wait for. It is
// locked only if something is pending, since on PostgreSQL a lock is a write, and
// only against those who lock it FOR UPDATE, as who drains the worker does; what
// else is written about a worker neither waits for claims nor holds them up.
//
// Locking and taking are one wait for the database. What is taken for a worker
// that gets nothing after all, as it has just been drained, is given back.
func takeAll(tx *store.Tx, items []*claimItem) error {
	sorted, err := promising(tx, slices.SortedStableFunc(slices.Values(items), inOrderOfLocks))
	if err != nil {
		return err
	}
	may := map[*claimItem]bool{} // have runs
	wanted := map[string]int{}   // of a queue
	rows := make([][]any, len(sorted))
	for i, it := range sorted {
		rows[i] = []any{it.In.queueID, it.In.worker, now()}
		wanted[it.In.queueID] += it.In.n
	}
	if err := tx.LaterEach(mayHave+` /*for key share*/`, rows, func(i int, _ store.Scanner) error {
		may[sorted[i]] = true
		return nil
	}); err != nil {
		return err
	}
	queues := slices.Sorted(maps.Keys(wanted))
	var takes [][]any
	for _, id := range queues {
		takes = append(takes, []any{id, wanted[id]})
	}
	runs := make([][]pendingRun, len(queues))
	if err := tx.QueryEach(takeStatement, takes, func(i int, row store.Scanner) error {
		p, err := scanPending(row)
		runs[i] = append(runs[i], p)
		return err
	}); err != nil {
		return err
	}
	for i, queueID := range queues {
		left := runs[i]
		sortPending(left)
		for _, it := range items { // who came first is served first
			if may[it] && it.In.queueID == queueID {
				k := min(it.In.n, len(left))
				it.Out.taken, left = left[:k:k], left[k:]
			}
		}
		if err := giveBack(tx, queueID, left); err != nil {
			return err
		}
	}
	return nil
}

const mayHave = `SELECT worker FROM queue_worker WHERE task_queue_id = $1 AND worker = $2 AND draining = 0 AND quarantine_until <= $3`

// promising returns those of the claimers that seem to get something: there are
// runs pending, and nothing is against the worker's having them.
func promising(tx *store.Tx, items []*claimItem) (list []*claimItem, err error) {
	var ids []string
	rows := make([][]any, len(items))
	for i, it := range items {
		ids = append(ids, it.In.queueID)
		rows[i] = []any{it.In.queueID, it.In.worker, now()}
	}
	ids = slices.Compact(ids)
	free := make([]bool, len(items))
	if err := tx.LaterEach(mayHave, rows, func(i int, _ store.Scanner) error {
		free[i] = true
		return nil
	}); err != nil {
		return nil, err
	}
	pending := map[string]bool{}
	err = tx.QueryEach(`SELECT EXISTS (SELECT 1 FROM pending WHERE task_queue_id = $1)`, keys(ids), func(i int, row store.Scanner) error {
		var is bool
		err := row.Scan(&is)
		pending[ids[i]] = is
		return err
	})
	for i, it := range items {
		if free[i] && pending[it.In.queueID] {
			list = append(list, it)
		}
	}
	return list, err
}

func inOrderOfLocks(a, b *claimItem) int {
	return cmp.Or(cmp.Compare(a.In.queueID, b.In.queueID), cmp.Compare(a.In.worker, b.In.worker))
}

// takeStatement takes up to a number of runs that are pending on a queue, the
// first in its order. They are chosen in a CTE, which is evaluated once:
// PostgreSQL may run a subquery of IN once for each row, and each time a LIMIT
// over rows that it skips lets further ones through.
const takeStatement = `
	WITH next AS MATERIALIZED (
	  SELECT task_id FROM pending WHERE task_queue_id = $1 ORDER BY priority DESC, since, seq LIMIT $2 /*skip locked*/)
	DELETE FROM pending WHERE task_id IN (SELECT task_id FROM next)
	RETURNING task_id, run_id, priority, since, seq`

func takeFrom(tx *store.Tx, queueID string, n int) (list []pendingRun, err error) {
	err = tx.QueryEach(takeStatement, [][]any{{queueID, n}}, func(_ int, row store.Scanner) error {
		p, err := scanPending(row)
		list = append(list, p)
		return err
	})
	sortPending(list) // which RETURNING does not do
	return list, err
}

func scanPending(row scanner) (p pendingRun, err error) {
	err = row.Scan(&p.taskID, &p.runID, &p.rank, &p.since, &p.seq)
	return p, err
}

// giveBack makes runs pending again that were taken in this transaction, in the
// places that they had.
func giveBack(tx *store.Tx, queueID string, list []pendingRun) error {
	rows := make([][]any, len(list))
	for i, p := range list {
		rows[i] = []any{p.seq, p.taskID, p.runID, queueID, p.rank, p.since}
	}
	tx.Wake(topicPending(queueID), len(list)) // who looked meanwhile has not seen them
	return tx.LaterRows(`
		INSERT INTO pending (seq, task_id, run_id, task_queue_id, priority, since)
		VALUES /*row*/($1, $2, $3, $4, $5, $6)/*row*/`, rows, nil)
}

// Drain makes sure that a worker gets no more runs, unless it has one now, and
// reports which. It is part of the caller's transaction: what the caller writes
// in tx, and that the worker is drained, become true together. Then the worker
// claims nothing ever again, by whichever method and on whichever replica; its
// long poll ends at once. A worker that is drained already stays so, and is
// reported as drained.
//
// A worker that has never asked for work can be drained before it does.
func (q *Queue) Drain(tx *store.Tx, taskQueueID, workerGroup, workerID string) (drained bool, err error) {
	list, err := q.DrainAny(tx, taskQueueID, []Worker{{workerGroup, workerID}})
	return len(list) == 1, err
}

// DrainAny drains those of a queue's workers that have no run now, as Drain
// does, and returns them, in the order of their names. It is meant for hundreds
// at once.
//
// A claim holds its worker's row until it is committed. So once the rows are
// locked here FOR UPDATE, no claim of theirs is under way, and the statement that
// decides, which begins only then, sees every claim that there has been.
func (q *Queue) DrainAny(tx *store.Tx, taskQueueID string, workers []Worker) (drained []Worker, err error) {
	var names []string
	for _, w := range workers {
		names = append(names, w.String())
	}
	slices.Sort(names) // so that two that drain do not wait for each other
	for some := range slices.Chunk(slices.Compact(names), atOnce) {
		if err := addWorkers(tx, taskQueueID, some); err != nil {
			return nil, err
		}
		if _, err := tx.Column(`
			SELECT worker FROM queue_worker WHERE task_queue_id = $1 AND worker IN (SELECT value FROM json_each($2))
			 ORDER BY worker /*bytewise*/ /*for update*/`, taskQueueID, some); err != nil {
			return nil, err
		}
		done, err := tx.Column(`
			UPDATE queue_worker SET draining = CASE WHEN draining = 0 THEN $3 ELSE draining END
			 WHERE task_queue_id = $1 AND worker IN (SELECT value FROM json_each($2))
			   AND 0 = (SELECT count(*) FROM task WHERE task.task_queue_id = $1 AND task.worker = queue_worker.worker AND task.state = 'running')
			RETURNING worker`, taskQueueID, some, now())
		if err != nil {
			return nil, err
		}
		for _, name := range done {
			drained = append(drained, workerNamed(name))
			tx.Wake(workerKey{taskQueueID, name}.topic(), 1)
		}
	}
	slices.SortFunc(drained, func(a, b Worker) int { return cmp.Compare(a.String(), b.String()) })
	return drained, nil
}

// Retire makes sure that workers get no more runs, those that have one now as
// well, and returns the ones that have none, in the order of their names. Like
// Drain it is part of the caller's transaction, and for ever: what a worker has
// it can finish.
func (q *Queue) Retire(tx *store.Tx, taskQueueID string, workers []Worker) (idle []Worker, err error) {
	if idle, err = q.DrainAny(tx, taskQueueID, workers); err != nil {
		return nil, err
	}
	for _, w := range workers {
		k := workerKey{taskQueueID, w.String()}
		if _, err := tx.Exec(`UPDATE queue_worker SET draining = $3 WHERE task_queue_id = $1 AND worker = $2 AND draining = 0`, k.queueID, k.worker, now()); err != nil {
			return nil, err
		}
		tx.Wake(k.topic(), 1)
	}
	return idle, nil
}

// Admit gives a worker runs again that was drained or retired, because there is
// another one of its name.
func (q *Queue) Admit(tx *store.Tx, taskQueueID string, w Worker) error {
	_, err := tx.Exec(`UPDATE queue_worker SET draining = 0 WHERE task_queue_id = $1 AND worker = $2 AND draining > 0`, taskQueueID, w.String())
	return err
}

// mayClaim refuses a claim of a given run for a worker that gets nothing, and
// keeps it from being drained until the transaction ends.
func mayClaim(tx *store.Tx, k workerKey) error {
	s, _, err := readStanding(tx, k, true)
	switch {
	case err != nil:
		return err
	case s.draining > 0:
		return api.Errorf(api.RequestConflict, "Worker %s of %s is to end and gets no more work, since %s.", k.worker, k.queueID, s.draining)
	case s.refused():
		return api.Errorf(api.RequestConflict, "Worker %s of %s is quarantined until %s.", k.worker, k.queueID, s.quarantineUntil)
	}
	return nil
}

// expireWorkers is one pass of the loop queue.worker-expiry. A quarantine
// outlives the worker's other traces: it is why the worker is remembered.
func (q *Queue) expireWorkers(ctx context.Context) (more bool, err error) {
	err = q.db.Do(ctx, func(tx *store.Tx) error {
		n, err := tx.Exec(`
			DELETE FROM queue_worker WHERE (task_queue_id, worker) IN (
			  SELECT task_queue_id, worker FROM queue_worker WHERE expires <= $1 AND quarantine_until <= $1 ORDER BY expires LIMIT $2)
			   AND expires <= $1 AND quarantine_until <= $1`, now(), 10*batch)
		more = n == 10*batch
		return err
	})
	return more, err
}
