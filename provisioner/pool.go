package provisioner

import (
	"errors"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/store"
)

const poolColumns = `worker_pool_id, provider_id, description, owner, email_on_error, config, created, last_modified, statistics`

func poolFields(o *fleet.Pool) []any {
	return []any{&o.ID, &o.ProviderID, &o.Description, &o.Owner, &o.EmailOnError, &o.Config, &o.Created, &o.LastModified, &o.Statistics}
}

func findPool(tx *store.Tx, id string) (*fleet.Pool, error) {
	return onePool(tx, id, ``)
}

func lockPool(tx *store.Tx, id string) (*fleet.Pool, error) {
	return onePool(tx, id, `/*for update*/`)
}

func onePool(tx *store.Tx, id, lock string) (*fleet.Pool, error) {
	var o fleet.Pool
	err := tx.QueryRow(`SELECT `+poolColumns+` FROM worker_pool WHERE worker_pool_id = $1 `+lock, id).Scan(poolFields(&o)...)
	if errors.Is(err, store.ErrNotFound) {
		return nil, api.Errorf(api.ResourceNotFound, "There is no worker pool %s. Check the id with listWorkerPools, or create the pool.", id)
	}
	if err != nil {
		return nil, err
	}
	return &o, readLaunchConfigs(tx, []*fleet.Pool{&o})
}

func queryPools(tx *store.Tx, rest string, args ...any) (list []*fleet.Pool, err error) {
	rows, err := tx.Query(`SELECT `+poolColumns+` FROM worker_pool `+rest, args...)
	if err != nil {
		return nil, err
	}
	for rows.Next() {
		var o fleet.Pool
		if err := rows.Scan(poolFields(&o)...); err != nil {
			return nil, err
		}
		list = append(list, &o)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	return list, readLaunchConfigs(tx, list)
}

// readLaunchConfigs reads the current launch configurations of pools.
func readLaunchConfigs(tx *store.Tx, list []*fleet.Pool) error {
	by := make(map[string]*fleet.Pool, len(list))
	ids := make([]string, 0, len(list))
	for _, o := range list {
		by[o.ID] = o
		ids = append(ids, o.ID)
	}
	rows, err := tx.Query(`
		SELECT worker_pool_id, launch_config_id, config, capacity, canary, proven, failures, start_after, last_good FROM launch_config
		 WHERE worker_pool_id IN (SELECT value FROM json_each($1)) AND NOT archived ORDER BY worker_pool_id, place`, ids)
	if err != nil {
		return err
	}
	for rows.Next() {
		var id string
		var c fleet.LaunchConfig
		if err := rows.Scan(&id, &c.ID, &c.Config, &c.Capacity, &c.Canary, &c.Proven, &c.Failures, &c.StartAfter, &c.LastGood); err != nil {
			return err
		}
		by[id].LaunchConfigs = append(by[id].LaunchConfigs, &c)
	}
	return rows.Err()
}

func insertPool(tx *store.Tx, o *fleet.Pool) error {
	_, err := tx.Exec(`
		INSERT INTO worker_pool (worker_pool_id, provider_id, description, owner, email_on_error, config, created, last_modified)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		o.ID, o.ProviderID, o.Description, o.Owner, o.EmailOnError, o.Config, o.Created, o.LastModified)
	return err
}

// redefinePool writes back what the owner of a pool can change. Whatever was
// wrong with its starts may be put right by that, so they need not wait.
func redefinePool(tx *store.Tx, o *fleet.Pool) error {
	o.LastModified = max(now(), o.LastModified+1)
	if _, err := tx.Exec(`
		UPDATE worker_pool
		   SET provider_id = $2, description = $3, owner = $4, email_on_error = $5, config = $6, last_modified = $7
		 WHERE worker_pool_id = $1`,
		o.ID, o.ProviderID, o.Description, o.Owner, o.EmailOnError, o.Config, o.LastModified); err != nil {
		return err
	}
	_, err := tx.Exec(`UPDATE launch_config SET failures = 0, start_after = 0 WHERE worker_pool_id = $1 AND failures > 0`, o.ID)
	return err
}

// saveBreaker writes what a failure has made of a launch configuration's breaker, unless
// the configuration was proven since it was read, or its failures were forgotten.
func saveBreaker(tx *store.Tx, poolID string, c *fleet.LaunchConfig) error {
	_, err := tx.Exec(`
		UPDATE launch_config SET failures = $3, start_after = $4
		 WHERE worker_pool_id = $1 AND launch_config_id = $2 AND NOT archived AND failures = $3 - 1 AND last_good <= $5`,
		poolID, c.ID, c.Failures, c.StartAfter, c.LastGood)
	return err
}

// saveLaunchConfigs makes list the current launch configurations of a pool and
// announces what is new, what has changed and what is archived.
func (p *Provisioner) saveLaunchConfigs(tx *store.Tx, o *fleet.Pool, list []*fleet.LaunchConfig) error {
	rows, err := tx.Query(`SELECT launch_config_id, config, archived FROM launch_config WHERE worker_pool_id = $1`, o.ID)
	if err != nil {
		return err
	}
	type row struct {
		config   []byte
		archived bool
	}
	before := map[string]row{}
	for rows.Next() {
		var id string
		var r row
		if err := rows.Scan(&id, &r.config, &r.archived); err != nil {
			return err
		}
		before[id] = r
	}
	if err := rows.Err(); err != nil {
		return err
	}
	current := map[string]bool{}
	for place, c := range list {
		current[c.ID] = true
		was, known := before[c.ID]
		same := known && sameJSON(was.config, c.Config)
		if _, err := tx.Exec(`
			INSERT INTO launch_config (worker_pool_id, launch_config_id, place, config, capacity, canary, created, last_modified)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $7)
			ON CONFLICT (worker_pool_id, launch_config_id) DO UPDATE
			   SET place = $3, config = $4, capacity = $5, canary = $6, archived = FALSE,
			       last_modified = CASE WHEN $8 THEN launch_config.last_modified ELSE $7 END,
			       proven = launch_config.proven AND $9`,
			o.ID, c.ID, place, c.Config, c.Capacity, c.Canary, now(), same && !was.archived, same); err != nil {
			return err
		}
		switch {
		case !known:
			err = p.publishLaunchConfig(tx, launchConfigCreated, o, c.ID)
		case !same || was.archived:
			err = p.publishLaunchConfig(tx, launchConfigUpdated, o, c.ID)
		}
		if err != nil {
			return err
		}
	}
	for _, id := range sortedKeys(before) {
		if before[id].archived || current[id] {
			continue
		}
		if _, err := tx.Exec(`
			UPDATE launch_config SET archived = TRUE, last_modified = $3
			 WHERE worker_pool_id = $1 AND launch_config_id = $2`, o.ID, id, now()); err != nil {
			return err
		}
		if err := p.publishLaunchConfig(tx, launchConfigArchived, o, id); err != nil {
			return err
		}
	}
	o.LaunchConfigs = nil
	return readLaunchConfigs(tx, []*fleet.Pool{o})
}

// saveReading writes what was read from the definition of a pool.
func (p *Provisioner) saveReading(tx *store.Tx, o *fleet.Pool, r reading) error {
	if err := checkNames(tx, o.ID, r.configs); err != nil {
		return err
	}
	if err := p.saveLaunchConfigs(tx, o, r.configs); err != nil {
		return err
	}
	return p.doubt(tx, o, r)
}

// changed reports whether a pool has been redefined since before was read.
func changed(o, before *fleet.Pool) bool {
	return o.LastModified != before.LastModified || o.ProviderID != before.ProviderID
}
