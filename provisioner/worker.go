package provisioner

import (
	"errors"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// The states of a worker.
const (
	requested = "requested" // intended or started, not yet registered
	running   = "running"
	stopping  = "stopping" // asked to end
	stopped   = "stopped"
)

// A worker is the row of a worker.
type worker struct {
	Ref
	providerID     string
	launchConfigID string
	state          string
	capacity       int64
	created        timestamp.Time
	lastModified   timestamp.Time
	lastChecked    timestamp.Time
	expires        timestamp.Time
	started        timestamp.Time
	registered     timestamp.Time
	proven         bool
	asked          timestamp.Time
	reason         string
	proof
}

// A proof is what a worker shows to get credentials, in hashes.
type proof struct {
	token      string
	secret     string
	lastSecret string // which secret was got with
	salt       string
	renewed    timestamp.Time // when secret was given out first
}

const workerColumns = `worker_pool_id, worker_group, worker_id, provider_id, launch_config_id, state, capacity,
	created, last_modified, last_checked, expires, started, registered, proven, asked, reason, token, secret, last_secret, salt, renewed`

func (w *worker) fields() []any {
	return []any{
		&w.WorkerPoolID, &w.WorkerGroup, &w.WorkerID, &w.providerID, &w.launchConfigID, &w.state, &w.capacity,
		&w.created, &w.lastModified, &w.lastChecked, &w.expires, &w.started, &w.registered, &w.proven, &w.asked, &w.reason,
		&w.token, &w.secret, &w.lastSecret, &w.salt, &w.renewed,
	}
}

func findWorker(tx *store.Tx, r Ref) (*worker, error) {
	return scanWorker(tx.QueryRow(`SELECT `+workerColumns+` FROM worker
		WHERE worker_pool_id = $1 AND worker_group = $2 AND worker_id = $3`, r.WorkerPoolID, r.WorkerGroup, r.WorkerID), r)
}

func lockWorker(tx *store.Tx, r Ref) (*worker, error) {
	return scanWorker(tx.QueryRow(`SELECT `+workerColumns+` FROM worker
		WHERE worker_pool_id = $1 AND worker_group = $2 AND worker_id = $3 /*for update*/`, r.WorkerPoolID, r.WorkerGroup, r.WorkerID), r)
}

func scanWorker(row *store.Row, r Ref) (*worker, error) {
	var w worker
	err := row.Scan(w.fields()...)
	if errors.Is(err, store.ErrNotFound) {
		return nil, api.Errorf(api.ResourceNotFound, "There is no worker %s in the group %s of the pool %s.", r.WorkerID, r.WorkerGroup, r.WorkerPoolID)
	}
	return &w, err
}

func queryWorkers(tx *store.Tx, rest string, args ...any) (list []*worker, err error) {
	rows, err := tx.Query(`SELECT `+workerColumns+` FROM worker `+rest, args...)
	if err != nil {
		return nil, err
	}
	for rows.Next() {
		var w worker
		if err := rows.Scan(w.fields()...); err != nil {
			return nil, err
		}
		list = append(list, &w)
	}
	return list, rows.Err()
}

// insert writes the intention to start w.
func (w *worker) insert(tx *store.Tx) error {
	_, err := tx.Exec(`
		INSERT INTO worker (worker_pool_id, worker_group, worker_id, provider_id, launch_config_id, state, capacity,
		                    created, last_modified, last_checked, expires, token)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8, $8, $9, $10)`,
		w.WorkerPoolID, w.WorkerGroup, w.WorkerID, w.providerID, w.launchConfigID, w.state, w.capacity, w.created, w.expires, w.token)
	return err
}

// move puts w into another state, if it still is in the one that was read, and
// reports whether it was.
func (w *worker) move(tx *store.Tx, to, reason string) (bool, error) {
	n, err := tx.Exec(`
		UPDATE worker SET state = $4, reason = $5, last_modified = $6, expires = CASE WHEN $4 = 'stopped' THEN $7 ELSE expires END
		 WHERE worker_pool_id = $1 AND worker_group = $2 AND worker_id = $3 AND state = $8`,
		w.WorkerPoolID, w.WorkerGroup, w.WorkerID, to, reason, now(), now().Add(recordLife), w.state)
	if err != nil || n == 0 {
		return false, err
	}
	return true, nil
}
