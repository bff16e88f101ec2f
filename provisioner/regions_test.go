package provisioner

import (
	"slices"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/timestamp"
)

func TestWhereWorkersAre(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s, _ := newChoosyStage(t, db)
		s.ask(200, "PUT", "/worker-pool/p/rack", map[string]any{
			"providerId": "racks", "description": "d", "owner": "o@example.com", "emailOnError": false, "config": map[string]any{},
		})
		for _, worker := range []string{"eu-central-1a/m-1", "eu-central-1a/m-2", "shelf/m-1"} {
			s.ask(200, "PUT", "/workers/p/rack/"+worker, map[string]any{
				"expires": timestamp.Now().Add(time.Hour), "capacity": 1, "providerInfo": map[string]any{"staticSecret": "a2345678901234567890123456789012345678901234"},
			})
		}
		// As the provider for EC2 has them, some of which are of the past.
		if err := db.Do(t.Context(), func(tx *store.Tx) error {
			_, err := tx.ExecEach(`INSERT INTO launch_config (worker_pool_id, launch_config_id, place, config, archived, created, last_modified)
				VALUES ('p/ec2', $1, 0, $2, $3, 0, 0)`, [][]any{
				{"a", `{"region": "us-west-2"}`, false}, {"b", `{"region": "us-east-1"}`, false}, {"c", `{"region": "us-west-2"}`, false},
				{"d", `{"region": "eu-west-1"}`, true}, {"e", `{"x": {}}`, false},
			})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		for pool, want := range map[string][]string{
			"p/rack": {"eu-central-1a", "shelf"}, "p/ec2": {"us-east-1", "us-west-2"}, "p/none": nil,
		} {
			if got, err := s.prov.Regions(t.Context(), pool); err != nil || !slices.Equal(got, want) {
				t.Errorf("%s: %v, %v; want %v", pool, got, err, want)
			}
		}
	})
}
