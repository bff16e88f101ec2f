//go:build live

package aws_test

import (
	"encoding/json"
	"os"
	"testing"
	"time"

	provider "github.com/taskfleet/taskfleet/provisioner/aws"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A worker's life on AWS itself, with the credentials of the environment:
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
	story(t, open, pools)
}

// story is the life of one worker of each pool: it is validated, launched, seen,
// and ended, by one provider and the next.
func story(t *testing.T, open func() *provider.Provider, pools []*fleet.Pool) {
	now, pause := timestamp.Now, func() { time.Sleep(5 * time.Second) }
	for _, o := range pools {
		t.Run(o.ID, func(t *testing.T) {
			p := open()
			list, err := p.Parse(o.Config)
			if err != nil {
				t.Fatal(err)
			}
			o.LaunchConfigs = list
			if findings, err := p.Validate(t.Context(), o.Config); err != nil || len(findings) > 0 {
				t.Errorf("validation: %q, %v", findings, err)
			}
			look := func() fleet.Sight {
				s, err := p.Look(t.Context(), now())
				if err != nil {
					t.Fatal(err)
				}
				return s
			}
			look()
			n := fleet.Need{Pool: o, Capacity: 1, Room: 1}
			for _, c := range list {
				n.From = append(n.From, fleet.Candidate{LaunchConfig: c, Workers: 1})
			}
			plan, err := p.Plan(t.Context(), now(), n)
			if err != nil || len(plan.Intents) != 1 {
				t.Fatalf("%+v, %v", plan, err)
			}
			i := plan.Intents[0]
			a := p.Launch(t.Context(), now(), i)
			var refs []fleet.Ref
			end := func() {
				var targets []fleet.Target
				for _, s := range a.Started {
					targets = append(targets, fleet.Target{Ref: s.Ref, Facts: s.Facts, Idle: true})
				}
				for began := now(); len(targets) > 0; pause() {
					gone, err := p.Stop(t.Context(), now(), targets, fleet.Now)
					if err != nil {
						t.Fatal(err)
					}
					if len(gone) == len(targets) {
						return
					}
					if now().Sub(began) > 10*time.Minute {
						t.Fatalf("END THEM BY HAND: %v are not gone", refs)
					}
					look()
				}
			}
			defer end()
			if a.Again || len(a.Faults) > 0 || len(a.Started) != 1 {
				t.Fatalf("%+v", a)
			}
			r := a.Started[0].Ref
			refs = append(refs, r)
			if s, seen := look().Of(r); !seen || s.State != fleet.Alive || s.IntentID != i.ID {
				t.Errorf("at first: %v %v %s", seen, s.State, s.Detail)
			}
			p = open() // without memory
			for began := now(); ; pause() {
				if s, seen := look().Of(r); seen && s.State == fleet.Alive && s.IntentID == i.ID {
					t.Logf("%s", s.Facts)
					break
				} else if now().Sub(began) > 5*time.Minute {
					t.Fatalf("%s is not seen: %v %v %s", r, seen, s.State, s.Detail)
				}
			}
			end()
			if gone, err := p.Stop(t.Context(), now(), []fleet.Target{{Ref: r}}, fleet.Now); err != nil || len(gone) != 1 {
				t.Errorf("ended twice: %v, %v", gone, err)
			}
		})
	}
}
