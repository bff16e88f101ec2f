package provisioner

import (
	"errors"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A worker is the row of a worker.
type worker struct {
	fleet.Worker
	proof
}

// A proof is what a worker shows to get credentials, in hashes.
type proof struct {
	token      string // what it registered with; "": it has not, or it was renewed
	secret     string
	lastSecret string // which secret was got with
	salt       string
	renewed    timestamp.Time // when secret was given out first
}

const workerColumns = `worker_pool_id, worker_group, worker_id, provider_id, launch_config_id, intent_id, state, capacity,
	market, price, facts, created, last_modified, last_checked, expires, registered, proven, drained, asked, ends, leave, reason`

func workerFields(w *fleet.Worker) []any {
	return []any{
		&w.WorkerPoolID, &w.WorkerGroup, &w.WorkerID, &w.ProviderID, &w.LaunchConfigID, &w.IntentID, &w.State, &w.Capacity,
		&w.Market, &w.Price, &w.Facts, &w.Created, &w.LastModified, &w.LastChecked, &w.Expires, &w.Registered, &w.Proven, &w.Drained,
		&w.Asked, &w.Ends, &w.Leave, &w.Reason,
	}
}

const proofColumns = `token, secret, last_secret, salt, renewed`

func (w *proof) fields() []any {
	return []any{&w.token, &w.secret, &w.lastSecret, &w.salt, &w.renewed}
}

func isMissing(err error) bool { return errors.Is(err, store.ErrNotFound) }

func findWorker(tx *store.Tx, r fleet.Ref) (*worker, error) { return oneWorker(tx, r, ``) }

func lockWorker(tx *store.Tx, r fleet.Ref) (*worker, error) {
	return oneWorker(tx, r, `/*for update*/`)
}

func oneWorker(tx *store.Tx, r fleet.Ref, lock string) (*worker, error) {
	var w worker
	err := tx.QueryRow(`SELECT `+workerColumns+`, `+proofColumns+` FROM worker
		WHERE worker_pool_id = $1 AND worker_group = $2 AND worker_id = $3 `+lock, r.WorkerPoolID, r.WorkerGroup, r.WorkerID).
		Scan(append(workerFields(&w.Worker), w.proof.fields()...)...)
	if errors.Is(err, store.ErrNotFound) {
		return nil, api.Errorf(api.ResourceNotFound, "There is no worker %s in the group %s of the pool %s.", r.WorkerID, r.WorkerGroup, r.WorkerPoolID)
	}
	return &w, err
}

func queryWorkers(tx *store.Tx, rest string, args ...any) (list []*fleet.Worker, err error) {
	rows, err := tx.Query(`SELECT `+workerColumns+` FROM worker `+rest, args...)
	if err != nil {
		return nil, err
	}
	for rows.Next() {
		var w fleet.Worker
		if err := rows.Scan(workerFields(&w)...); err != nil {
			return nil, err
		}
		list = append(list, &w)
	}
	return list, rows.Err()
}

// insertWorker writes the row of a worker that there is now.
func insertWorker(tx *store.Tx, w *fleet.Worker) error {
	_, err := tx.Exec(`
		INSERT INTO worker (worker_pool_id, worker_group, worker_id, provider_id, launch_config_id, intent_id, state, capacity,
		                    market, price, facts, created, last_modified, last_checked, expires, token)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, '')`,
		w.WorkerPoolID, w.WorkerGroup, w.WorkerID, w.ProviderID, w.LaunchConfigID, w.IntentID, w.State, w.Capacity,
		w.Market, w.Price, string(w.Facts), w.Created, w.LastModified, w.LastChecked, w.Expires)
	return err
}

// move puts w into another state, if it still is in the one that was read, and
// reports whether it was.
func move(tx *store.Tx, w *fleet.Worker, to, reason string, at timestamp.Time) (bool, error) {
	n, err := tx.Exec(`
		UPDATE worker SET state = $4, reason = $5, last_modified = $6, expires = CASE WHEN $4 = 'stopped' THEN $7 ELSE expires END
		 WHERE worker_pool_id = $1 AND worker_group = $2 AND worker_id = $3 AND state = $8`,
		w.WorkerPoolID, w.WorkerGroup, w.WorkerID, to, reason, at, at.Add(recordLife), w.State)
	return n > 0, err
}
