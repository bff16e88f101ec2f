package aws_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"

	provider "github.com/taskfleet/taskfleet/provisioner/aws"
	"github.com/taskfleet/taskfleet/provisioner/aws/awsfake"
	"github.com/taskfleet/taskfleet/provisioner/aws/identity"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/provisioner/providertest"
	"github.com/taskfleet/taskfleet/timestamp"
)

// obedient has workers that hear at once that they are to end, as real ones do
// when they next ask the API.
type obedient struct {
	*provider.Provider
	cloud *awsfake.Cloud
}

func (o obedient) Stop(ctx context.Context, now timestamp.Time, list []fleet.Target, how fleet.Manner) ([]fleet.Ref, error) {
	gone, err := o.Provider.Stop(ctx, now, list, how)
	if how == fleet.Gracefully {
		for _, t := range list {
			o.cloud.Shutdown(t.WorkerID)
		}
	}
	return gone, err
}

func TestSuite(t *testing.T) {
	each(t, func(t *testing.T, action, config string) { suite(t, config, nil) })
}

// The same by way of the SDK's own clients and HTTP.
func TestSuiteOnTheWire(t *testing.T) {
	id, secret := awsfake.Key(account)
	t.Setenv("AWS_ACCESS_KEY_ID", id)
	t.Setenv("AWS_SECRET_ACCESS_KEY", secret)
	t.Setenv("AWS_SESSION_TOKEN", "")
	t.Setenv("AWS_CONFIG_FILE", "/nonexistent")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
	each(t, func(t *testing.T, action, config string) {
		suite(t, config, func(t *testing.T, w *world) func(provider.Account, string) provider.Clients {
			s := httptest.NewServer(w.cloud.Handler())
			t.Cleanup(s.Close)
			clients, err := provider.SDK(t.Context(), s.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			return clients
		})
	})
}

func suite(t *testing.T, config string, clients func(*testing.T, *world) func(provider.Account, string) provider.Clients) {
	// One cloud for all, because the keys of its regions take a while to make;
	// each world is a cluster of its own.
	w := newWorld(t, awsfake.Config{
		Boot: awsfake.Boot{Median: 30 * time.Second, Sigma: 0.2, Shutdown: 10 * time.Second}, Consistency: awsfake.Consistency{Delay: 10 * time.Second},
		Limits: awsfake.Limits{Documented: true}, Events: awsfake.Events{Queue: "events", Delay: time.Second},
	}, nil)
	pool := w.makePool("test/pool", strings.Replace(config, `, "workerManager": {"launchConfigId": "one"}`, "", 1)).Config
	certificate, err := w.cloud.Certificate(home)
	if err != nil {
		t.Fatal(err)
	}
	var by func(provider.Account, string) provider.Clients
	if clients != nil {
		by = clients(t, w)
	}
	worlds := 0
	providertest.Run(t, func(t *testing.T) providertest.World {
		worlds++
		cluster := fmt.Sprintf("cluster-%d", worlds)
		w.pass(time.Hour)
		return providertest.World{
			Open: func(t *testing.T) fleet.Provider {
				w.restart(func(c *provider.Config) {
					withEvents(c)
					c.Cluster = cluster
					if by != nil {
						c.Clients = by
					}
					c.Certificates = identity.Certificates{home: []*x509.Certificate{certificate}}
				})
				return obedient{w.p, w.cloud}
			},
			Kill: func(t *testing.T, r fleet.Ref) {
				w.pass(20 * time.Second) // until it is visible
				if _, err := w.cloud.EC2(account, home).TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{r.WorkerID}}); err != nil {
					t.Fatal(err)
				}
			},
			Proof:  func(t *testing.T, r fleet.Ref) json.RawMessage { return w.proof(r, false) },
			Config: pool,
			Other:  json.RawMessage(strings.Replace(string(pool), `"launchConfig": {`, `"launchConfig": {"EbsOptimized": true, `, 1)),
			Wrong: map[string]json.RawMessage{
				"us-moon-1":       json.RawMessage(strings.Replace(one("", ""), "us-east-1", "us-moon-1", 1)),
				"UserData":        json.RawMessage(one(`"UserData": "x"`, "")),
				"InstanceType":    json.RawMessage(`{"launchConfigs": [{"region": "us-east-1", "launchConfig": {"ImageId": "ami-1"}}]}`),
				"instanceTypes":   json.RawMessage(matrix("")),
				"initialWeight":   json.RawMessage(one("", `"workerManager": {"initialWeight": 7}`)),
				"config.launchCo": json.RawMessage(`{"launchConfigs": 1}`),
			},
			Now: w.now,
			Sleep: func(d time.Duration) {
				w.pass(d)
				w.poll()
			},
			Patience: 10 * time.Minute,
		}
	})
}
