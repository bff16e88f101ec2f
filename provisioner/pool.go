package provisioner

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A pool is the row of a worker pool.
type pool struct {
	id             string
	providerID     string
	description    string
	owner          string
	emailOnError   bool
	config         json.RawMessage
	launchConfigID string
	created        timestamp.Time
	lastModified   timestamp.Time
	failures       int64
	startAfter     timestamp.Time
}

const poolColumns = `worker_pool_id, provider_id, description, owner, email_on_error, config, launch_config_id, created, last_modified, failures, start_after`

func (o *pool) fields() []any {
	return []any{&o.id, &o.providerID, &o.description, &o.owner, &o.emailOnError, &o.config, &o.launchConfigID, &o.created, &o.lastModified, &o.failures, &o.startAfter}
}

// going reports whether the pool disappears with its last worker.
func (o *pool) going() bool { return o.providerID == nullProvider }

// made reports whether w is made from what the pool's workers are made from
// now.
func (o *pool) made(w *worker) bool {
	return w.providerID == o.providerID && w.launchConfigID == o.launchConfigID
}

// changed reports whether the pool has been redefined since before was read.
func (o *pool) changed(before *pool) bool {
	return o.lastModified != before.lastModified || o.providerID != before.providerID || o.launchConfigID != before.launchConfigID
}

func findPool(tx *store.Tx, id string) (*pool, error) {
	return scanPool(tx.QueryRow(`SELECT `+poolColumns+` FROM worker_pool WHERE worker_pool_id = $1`, id), id)
}

func lockPool(tx *store.Tx, id string) (*pool, error) {
	return scanPool(tx.QueryRow(`SELECT `+poolColumns+` FROM worker_pool WHERE worker_pool_id = $1 /*for update*/`, id), id)
}

func scanPool(row *store.Row, id string) (*pool, error) {
	var o pool
	err := row.Scan(o.fields()...)
	if errors.Is(err, store.ErrNotFound) {
		return nil, api.Errorf(api.ResourceNotFound, "There is no worker pool %s. Check the id with listWorkerPools, or create the pool.", id)
	}
	return &o, err
}

func queryPools(tx *store.Tx, rest string, args ...any) (list []*pool, err error) {
	rows, err := tx.Query(`SELECT `+poolColumns+` FROM worker_pool `+rest, args...)
	if err != nil {
		return nil, err
	}
	for rows.Next() {
		var o pool
		if err := rows.Scan(o.fields()...); err != nil {
			return nil, err
		}
		list = append(list, &o)
	}
	return list, rows.Err()
}

func (o *pool) insert(tx *store.Tx) error {
	_, err := tx.Exec(`
		INSERT INTO worker_pool (`+poolColumns+`)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
		o.id, o.providerID, o.description, o.owner, o.emailOnError, o.config, o.launchConfigID, o.created, o.lastModified, o.failures, o.startAfter)
	return err
}

// redefine writes back what the owner of a pool can change. Whatever was wrong
// with its starts may be put right by that, so they need not wait.
func (o *pool) redefine(tx *store.Tx) error {
	o.failures, o.startAfter, o.lastModified = 0, 0, now()
	_, err := tx.Exec(`
		UPDATE worker_pool
		   SET provider_id = $2, description = $3, owner = $4, email_on_error = $5, config = $6, launch_config_id = $7,
		       last_modified = $8, failures = 0, start_after = 0
		 WHERE worker_pool_id = $1`,
		o.id, o.providerID, o.description, o.owner, o.emailOnError, o.config, o.launchConfigID, o.lastModified)
	return err
}

// failedStart makes the pool wait before its next start. What fails while it
// waits already was started before, and is no news. It returns a sentence about
// the wait for the error's description.
func (o *pool) failedStart(tx *store.Tx) (string, error) {
	current, err := lockPool(tx, o.id)
	switch {
	case isNotFound(err):
		return "", nil // deleted meanwhile
	case err != nil:
		return "", err
	case current.startAfter <= now():
		current.failures++
		current.startAfter = now().Add(delay(current.failures))
		if _, err := tx.Exec(`UPDATE worker_pool SET failures = $2, start_after = $3 WHERE worker_pool_id = $1`, o.id, current.failures, current.startAfter); err != nil {
			return "", err
		}
	}
	o.failures, o.startAfter = current.failures, current.startAfter // for what the pass does next
	return fmt.Sprintf("Start number %d in a row that failed. The pool's next start is at %s, with one worker; changing the pool's definition starts at once.", o.failures, o.startAfter), nil
}

// delay doubles with each failure in a row.
func delay(failures int64) time.Duration {
	return min(firstDelay<<min(failures-1, 20), maxDelay)
}
