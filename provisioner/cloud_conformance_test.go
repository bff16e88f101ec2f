package provisioner_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/provisioner"
	"github.com/taskfleet/taskfleet/provisioner/providertest"
)

// The provider that the stories are played with keeps the contract.
func TestTheCloudOfTheStoriesConforms(t *testing.T) {
	providertest.Run(t, func(t *testing.T) providertest.World {
		c := provisioner.NewCloud(t, time.Millisecond, func(ctx context.Context, term <-chan struct{}, _ provisioner.Order) error {
			select {
			case <-term:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		return providertest.World{
			Open:   func(*testing.T) provisioner.Provider { return c },
			Kill:   func(_ *testing.T, r provisioner.Ref) { c.Kill(r) },
			Config: json.RawMessage(`{"maxCapacity": 1}`),
			Wrong:  map[string]json.RawMessage{"config.image": json.RawMessage(`{"image": "missing"}`)},
		}
	})
}
