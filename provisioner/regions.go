package provisioner

import (
	"context"

	"github.com/taskfleet/taskfleet/store"
)

// Regions are where the workers of a pool are: the regions of its launch
// configurations, and the groups of the workers that it has, which of some
// providers are called like their region or zone. There are none of a pool that
// does not exist.
func (p *Provisioner) Regions(ctx context.Context, workerPoolID string) (list []string, err error) {
	err = p.db.ViewOnce(ctx, func(tx *store.Tx) error {
		list, err = tx.Column(`
			SELECT coalesce(config /*json*/ ->> 'region', '') AS place FROM launch_config WHERE worker_pool_id = $1 AND NOT archived
			UNION
			SELECT worker_group FROM worker WHERE worker_pool_id = $1 AND state <> 'stopped'
			 ORDER BY place`, workerPoolID)
		return err
	})
	if len(list) > 0 && list[0] == "" { // of a configuration without a region
		list = list[1:]
	}
	return list, err
}
