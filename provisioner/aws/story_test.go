//go:build moto || live

package aws_test

import (
	"testing"
	"time"

	provider "github.com/taskfleet/taskfleet/provisioner/aws"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/timestamp"
)

// story is the life of one worker of each pool, on a cloud that is not ours: it
// is validated, launched, launched again, seen, and ended, by one provider and
// the next.
func story(t *testing.T, open func() *provider.Provider, pools ...*fleet.Pool) {
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
				s, err := p.Look(t.Context(), timestamp.Now())
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
			plan, err := p.Plan(t.Context(), timestamp.Now(), n)
			if err != nil || len(plan.Intents) != 1 {
				t.Fatalf("%+v, %v", plan, err)
			}
			i := plan.Intents[0]
			a := p.Launch(t.Context(), timestamp.Now(), i)
			var refs []fleet.Ref
			end := func() {
				var targets []fleet.Target
				for _, s := range a.Started {
					targets = append(targets, fleet.Target{Ref: s.Ref, Facts: s.Facts, Idle: true})
				}
				for began := time.Now(); len(targets) > 0; time.Sleep(5 * time.Second) {
					gone, err := p.Stop(t.Context(), timestamp.Now(), targets, fleet.Now)
					if err != nil {
						t.Fatal(err)
					}
					if len(gone) == len(targets) {
						return
					}
					if time.Since(began) > 10*time.Minute {
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
			for began := time.Now(); ; time.Sleep(5 * time.Second) {
				if s, seen := look().Of(r); seen && s.State == fleet.Alive && s.IntentID == i.ID {
					t.Logf("%s", s.Facts)
					break
				} else if time.Since(began) > 5*time.Minute {
					t.Fatalf("%s is not seen: %v %v %s", r, seen, s.State, s.Detail)
				}
			}
			end()
			if gone, err := p.Stop(t.Context(), timestamp.Now(), []fleet.Target{{Ref: r}}, fleet.Now); err != nil || len(gone) != 1 {
				t.Errorf("ended twice: %v, %v", gone, err)
			}
		})
	}
}
