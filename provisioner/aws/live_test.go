//go:build live

package aws_test

import (
	"encoding/json"
	"os"
	"testing"

	provider "github.com/taskfleet/taskfleet/provisioner/aws"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
)

// The same story on AWS itself, with the credentials of the environment:
//
//	TASKFLEET_TEST_AWS=FILE go test -tags live -run TestOnAWS -timeout 30m ./provisioner/aws
//
// FILE has {"account": "…", "region": "…", "pools": [CONFIG, …]}, each a pool's
// configuration for the aws provider. Every pool launches one machine for a few
// minutes: with t4g.nano and a volume of 8 GB it is less than a cent each. What
// is launched has the tag taskfleet-cluster=taskfleet-test.
func TestOnAWS(t *testing.T) {
	text, err := os.ReadFile(os.Getenv("TASKFLEET_TEST_AWS"))
	if err != nil {
		t.Fatalf("TASKFLEET_TEST_AWS has to name a file that says what to launch: %v", err)
	}
	var c struct {
		Account, Region string
		Pools           []json.RawMessage
	}
	if err := json.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	clients, err := provider.SDK(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	open := func() *provider.Provider {
		p, err := provider.New(provider.Config{
			Cluster: "taskfleet-test", RootURL: rootURL, Accounts: []provider.Account{{ID: c.Account}}, Regions: []string{c.Region}, Clients: clients,
		})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	var pools []*fleet.Pool
	for _, config := range c.Pools {
		pools = append(pools, &fleet.Pool{ID: "taskfleet/test", ProviderID: "aws", Owner: "taskfleet@example.com", Config: config})
	}
	story(t, open, pools...)
}
