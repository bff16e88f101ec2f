package provisioner

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A book keeps the fleet's books in the database. Each method is a transaction
// that publishes what it changes. Rows are locked in the order pool, worker,
// and several workers in the order of their names; the queue's come after.
type book struct{ *Provisioner }

var _ fleet.Book = book{}

// Read reads pools with what is open of them.
func (b book) Read(ctx context.Context, ids []string) (s *fleet.Snapshot, err error) {
	err = b.db.View(ctx, func(tx *store.Tx) (err error) {
		s = &fleet.Snapshot{Workers: map[string][]*fleet.Worker{}, Intents: map[string][]*fleet.Intent{}}
		of, args := ``, []any(nil)
		if ids != nil {
			of, args = `AND worker_pool_id IN (SELECT value FROM json_each($1))`, []any{ids}
		}
		if s.Pools, err = queryPools(tx, `WHERE 1 = 1 `+of+` ORDER BY worker_pool_id`, args...); err != nil {
			return err
		}
		workers, err := queryWorkers(tx, `WHERE state <> 'stopped' `+of+` ORDER BY created, worker_group, worker_id`, args...)
		if err != nil {
			return err
		}
		for _, w := range workers {
			s.Workers[w.WorkerPoolID] = append(s.Workers[w.WorkerPoolID], w)
		}
		intents, err := queryIntents(tx, `WHERE 1 = 1 `+of+` ORDER BY created, intent_id`, args...)
		for _, i := range intents {
			s.Intents[i.PoolID] = append(s.Intents[i.PoolID], i)
		}
		return err
	})
	return s, err
}

func queryIntents(tx *store.Tx, rest string, args ...any) (list []*fleet.Intent, err error) {
	rows, err := tx.Query(`
		SELECT intent_id, worker_pool_id, provider_id, launch_config_id, workers, capacity, request, created, attempts, next_attempt
		  FROM intent `+rest, args...)
	if err != nil {
		return nil, err
	}
	for rows.Next() {
		var i fleet.Intent
		if err := rows.Scan(&i.ID, &i.PoolID, &i.ProviderID, &i.LaunchConfigID, &i.Workers, &i.Capacity, &i.Request, &i.Created, &i.Attempts, &i.NextAttempt); err != nil {
			return nil, err
		}
		list = append(list, &i)
	}
	return list, rows.Err()
}

// Intend writes intents, unless the pool has been redefined, or there would be
// more workers than it may have: where two replicas decide at the same time, the
// second sees here what the first has begun.
func (b book) Intend(ctx context.Context, at timestamp.Time, o *fleet.Pool, list []*fleet.Intent) (written bool, err error) {
	err = b.db.Do(ctx, func(tx *store.Tx) error {
		written = false
		current, err := lockPool(tx, o.ID)
		if isNotFound(err) || err == nil && changed(current, o) {
			return nil
		} else if err != nil {
			return err
		}
		settings, err := current.Settings()
		if err != nil {
			return err
		}
		var capacity int64
		if err := tx.QueryRow(`
			SELECT CAST((SELECT COALESCE(SUM(capacity), 0) FROM worker WHERE worker_pool_id = $1 AND state <> 'stopped')
			          + (SELECT COALESCE(SUM(capacity), 0) FROM intent WHERE worker_pool_id = $1) AS BIGINT)`, o.ID).Scan(&capacity); err != nil {
			return err
		}
		for _, i := range list {
			capacity += i.Capacity
		}
		if settings.MaxCapacity == nil || capacity > *settings.MaxCapacity {
			return nil
		}
		for _, i := range list {
			if _, err := tx.Exec(`
				INSERT INTO intent (intent_id, worker_pool_id, provider_id, launch_config_id, workers, capacity, request, created)
				VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
				i.ID, i.PoolID, i.ProviderID, i.LaunchConfigID, i.Workers, i.Capacity, string(i.Request), i.Created); err != nil {
				return err
			}
		}
		written = true
		return nil
	})
	return written, err
}

// Answer writes the workers of an intent, and closes it.
func (b book) Answer(ctx context.Context, at timestamp.Time, o *fleet.Pool, i *fleet.Intent, a fleet.Answered) error {
	return b.db.Do(ctx, func(tx *store.Tx) error {
		n, err := tx.Exec(`UPDATE intent SET attempts = $2, next_attempt = $3 WHERE intent_id = $1`, i.ID, i.Attempts, i.NextAttempt)
		if err != nil || n == 0 {
			return err // answered by another pass
		}
		for _, w := range a.Workers {
			// A repeated call may answer what an earlier one has answered already.
			if _, err := oneWorker(tx, w.Ref, ``); err == nil {
				continue
			} else if !isNotFound(err) {
				return err
			}
			if err := insertWorker(tx, w); err != nil {
				return err
			}
			if err := b.publishWorker(tx, workerRequested, w, ""); err != nil {
				return err
			}
		}
		for _, c := range a.Failed {
			if err := saveBreaker(tx, o.ID, c); err != nil {
				return err
			}
		}
		for _, c := range a.Complaints {
			if _, err := b.record(tx, o, c); err != nil {
				return err
			}
		}
		if a.Final {
			_, err = tx.Exec(`DELETE FROM intent WHERE intent_id = $1`, i.ID)
		}
		return err
	})
}

// Prove writes that a worker works.
func (b book) Prove(ctx context.Context, at timestamp.Time, o *fleet.Pool, w *fleet.Worker) error {
	return b.db.Do(ctx, func(tx *store.Tx) error { return prove(tx, o, w) })
}

// prove records that a worker works, and with it that starts do not fail any
// more.
func prove(tx *store.Tx, o *fleet.Pool, w *fleet.Worker) error {
	if _, err := tx.Exec(`UPDATE worker SET proven = TRUE WHERE worker_pool_id = $1 AND worker_group = $2 AND worker_id = $3`,
		w.WorkerPoolID, w.WorkerGroup, w.WorkerID); err != nil {
		return err
	}
	if !o.Made(w) {
		return nil // says nothing about those that start now
	}
	_, err := tx.Exec(`
		UPDATE launch_config SET proven = TRUE, failures = 0, start_after = 0,
		       last_good = CASE WHEN last_good < $3 THEN $3 ELSE last_good END
		 WHERE worker_pool_id = $1 AND launch_config_id = $2 AND NOT archived AND (failures > 0 OR NOT proven OR last_good < $3)`,
		o.ID, w.LaunchConfigID, w.Created)
	return err
}

// Asked writes that workers were asked to end.
func (b book) Asked(ctx context.Context, at timestamp.Time, list []*fleet.Worker) error {
	return b.db.Do(ctx, func(tx *store.Tx) error {
		for _, w := range slices.SortedFunc(slices.Values(list), byName) {
			if _, err := tx.Exec(`UPDATE worker SET asked = $4 WHERE worker_pool_id = $1 AND worker_group = $2 AND worker_id = $3`,
				w.WorkerPoolID, w.WorkerGroup, w.WorkerID, at); err != nil {
				return err
			}
		}
		return nil
	})
}

// Stop puts a worker into the state stopping.
func (b book) Stop(ctx context.Context, at timestamp.Time, o *fleet.Pool, w *fleet.Worker, e fleet.Ending) (moved bool, err error) {
	err = b.db.Do(ctx, func(tx *store.Tx) error {
		if moved, err = move(tx, w, fleet.Stopping, e.Reason, at); err != nil || !moved {
			return err
		}
		if !w.Ends.IsZero() {
			if _, err := tx.Exec(`UPDATE worker SET ends = $4 WHERE worker_pool_id = $1 AND worker_group = $2 AND worker_id = $3`,
				w.WorkerPoolID, w.WorkerGroup, w.WorkerID, w.Ends); err != nil {
				return err
			}
		}
		if err := b.retire(tx, w); err != nil {
			return err
		}
		if err := b.publishWorker(tx, workerRemoved, w, e.Reason); err != nil {
			return err
		}
		return b.judge(tx, o, w, e)
	})
	return moved, err
}

// retire has the queue give a worker that is to end nothing more. w is as it was
// before; one that has not registered was never given anything.
func (p *Provisioner) retire(tx *store.Tx, w *fleet.Worker) error {
	if w.State == fleet.Requested {
		return nil
	}
	if _, err := p.queue.Retire(tx, []fleet.Ref{w.Ref}); err != nil {
		return fmt.Errorf("having the queue give a worker nothing more: %w", err)
	}
	return nil
}

// Drain puts those of the workers that have no claim into the state stopping.
func (b book) Drain(ctx context.Context, at timestamp.Time, o *fleet.Pool, list []*fleet.Worker, reason string) (drained []*fleet.Worker, err error) {
	err = b.db.Do(ctx, func(tx *store.Tx) error {
		drained = nil
		var held []*fleet.Worker // that are as they were read
		var refs []fleet.Ref
		for _, w := range slices.SortedFunc(slices.Values(list), byName) {
			current, err := lockWorker(tx, w.Ref)
			if isNotFound(err) || err == nil && current.State != w.State {
				continue
			} else if err != nil {
				return err
			}
			held, refs = append(held, w), append(refs, w.Ref)
		}
		free, err := b.queue.Drain(tx, refs)
		if err != nil {
			return fmt.Errorf("having the queue give workers nothing more: %w", err)
		}
		is := make(map[fleet.Ref]bool, len(free))
		for _, r := range free {
			is[r] = true
		}
		for _, w := range held {
			if !is[w.Ref] {
				continue
			}
			if _, err := move(tx, w, fleet.Stopping, reason, at); err != nil {
				return err
			}
			if _, err := tx.Exec(`UPDATE worker SET drained = TRUE WHERE worker_pool_id = $1 AND worker_group = $2 AND worker_id = $3`,
				w.WorkerPoolID, w.WorkerGroup, w.WorkerID); err != nil {
				return err
			}
			if err := b.publishWorker(tx, workerRemoved, w, reason); err != nil {
				return err
			}
			drained = append(drained, w)
		}
		return nil
	})
	return drained, err
}

func byName(a, b *fleet.Worker) int {
	return cmp.Or(cmp.Compare(a.WorkerPoolID, b.WorkerPoolID), cmp.Compare(a.WorkerGroup, b.WorkerGroup), cmp.Compare(a.WorkerID, b.WorkerID))
}

// Close puts a worker into the state stopped.
func (b book) Close(ctx context.Context, at timestamp.Time, o *fleet.Pool, w *fleet.Worker, e fleet.Ending) error {
	return b.db.Do(ctx, func(tx *store.Tx) error {
		e := e
		current, err := lockWorker(tx, w.Ref)
		if err != nil || current.State == fleet.Stopped {
			return err
		}
		if current.State == fleet.Stopping && w.State != fleet.Stopping {
			// It was removed while we looked: that it ended is no failure.
			e.Reason, e.Complaint, e.Failed = current.Reason, nil, false
		}
		if _, err := move(tx, &current.Worker, fleet.Stopped, e.Reason, at); err != nil {
			return err
		}
		if err := b.publishWorker(tx, workerStopped, &current.Worker, ""); err != nil {
			return err
		}
		if e.Proven && !current.Proven {
			if err := prove(tx, o, &current.Worker); err != nil {
				return err
			}
		}
		return b.judge(tx, o, w, e)
	})
}

// Retire has the queue give workers nothing more, and writes why they are to go.
func (b book) Retire(ctx context.Context, at timestamp.Time, o *fleet.Pool, list []*fleet.Worker, reason string) error {
	return b.db.Do(ctx, func(tx *store.Tx) error {
		var refs []fleet.Ref
		for _, w := range slices.SortedFunc(slices.Values(list), byName) {
			n, err := tx.Exec(`
				UPDATE worker SET leave = $4
				 WHERE worker_pool_id = $1 AND worker_group = $2 AND worker_id = $3 AND state = 'running' AND leave = ''`,
				w.WorkerPoolID, w.WorkerGroup, w.WorkerID, reason)
			if err != nil {
				return err
			}
			if n > 0 {
				refs = append(refs, w.Ref)
			}
		}
		if len(refs) == 0 {
			return nil
		}
		if _, err := b.queue.Retire(tx, refs); err != nil {
			return fmt.Errorf("having the queue give workers nothing more: %w", err)
		}
		return nil
	})
}

// judge writes what an ending says about the worker's launch configuration.
func (b book) judge(tx *store.Tx, o *fleet.Pool, w *fleet.Worker, e fleet.Ending) error {
	if c := o.LaunchConfig(w.LaunchConfigID); e.Failed && c != nil {
		if err := saveBreaker(tx, o.ID, c); err != nil {
			return err
		}
	}
	if e.Complaint == nil {
		return nil
	}
	_, err := b.record(tx, o, *e.Complaint)
	return err
}

// Complain records a complaint about a pool.
func (b book) Complain(ctx context.Context, at timestamp.Time, o *fleet.Pool, c fleet.Complaint) error {
	return b.db.Do(ctx, func(tx *store.Tx) error {
		_, err := b.record(tx, o, c)
		return err
	})
}

// Remove deletes a pool that is going and has no workers left.
func (b book) Remove(ctx context.Context, at timestamp.Time, o *fleet.Pool) error {
	return b.db.Do(ctx, func(tx *store.Tx) error {
		if _, err := lockPool(tx, o.ID); isNotFound(err) { // so that no worker is added
			return nil
		} else if err != nil {
			return err
		}
		n, err := tx.Exec(`
			DELETE FROM worker_pool
			 WHERE worker_pool_id = $1 AND provider_id = $2
			   AND NOT EXISTS (SELECT 1 FROM worker WHERE worker_pool_id = $1 AND state <> 'stopped')
			   AND NOT EXISTS (SELECT 1 FROM intent WHERE worker_pool_id = $1)`, o.ID, fleet.NullProvider)
		if err != nil || n == 0 {
			return err
		}
		for _, statement := range []string{
			`DELETE FROM launch_config WHERE worker_pool_id = $1`,
			`DELETE FROM decision WHERE worker_pool_id = $1`,
		} {
			if _, err := tx.Exec(statement, o.ID); err != nil {
				return err
			}
		}
		return nil
	})
}

// Decided keeps a decision.
func (b book) Decided(ctx context.Context, at timestamp.Time, o *fleet.Pool, d fleet.Decided) error {
	text, err := json.Marshal(d)
	if err != nil {
		return err
	}
	return b.db.Do(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(`
			INSERT INTO decision (worker_pool_id, at, record) VALUES ($1, $2, $3)
			ON CONFLICT (worker_pool_id, at) DO UPDATE SET record = $3`, o.ID, at, string(text))
		return err
	})
}

// Learnt keeps a pool's statistics.
func (b book) Learnt(ctx context.Context, at timestamp.Time, o *fleet.Pool, statistics json.RawMessage) error {
	return b.db.Do(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(`UPDATE worker_pool SET statistics = $2 WHERE worker_pool_id = $1`, o.ID, string(statistics))
		return err
	})
}

// noteChecks keeps the time at which workers were last looked after, to the
// minute.
func (p *Provisioner) noteChecks(ctx context.Context) error {
	at := now()
	if at.Sub(p.checked) < time.Minute && at >= p.checked {
		return nil
	}
	p.checked = at
	return p.db.Do(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(`UPDATE worker SET last_checked = $1 WHERE state <> 'stopped'`, at)
		return err
	})
}
