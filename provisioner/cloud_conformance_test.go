package provisioner_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/provisioner"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/provisioner/providertest"
)

// The provider that the stories are played with keeps the contract, whether its
// machines end at once or take their time.
func TestTheCloudOfTheStoriesConforms(t *testing.T) {
	for name, linger := range map[string]time.Duration{"at once": 0, "later": 20 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			providertest.Run(t, func(t *testing.T) providertest.World {
				c := provisioner.NewCloud(t, time.Millisecond, func(ctx context.Context, term <-chan struct{}, _ provisioner.Order) error {
					select {
					case <-term:
						return nil
					case <-ctx.Done():
						return ctx.Err()
					}
				})
				c.Linger = linger
				return providertest.World{
					Open:   func(*testing.T) fleet.Provider { return c },
					Kill:   func(_ *testing.T, r fleet.Ref) { c.Kill(r) },
					Proof:  func(_ *testing.T, r fleet.Ref) json.RawMessage { return c.Proof(r) },
					Config: json.RawMessage(`{"maxCapacity": 100, "image": "a"}`),
					Other:  json.RawMessage(`{"maxCapacity": 100, "image": "b"}`),
					Wrong:  map[string]json.RawMessage{"config.image": json.RawMessage(`{"image": "missing"}`)},
				}
			})
		})
	}
}
