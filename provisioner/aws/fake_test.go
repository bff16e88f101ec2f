package aws_test

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	provider "github.com/taskfleet/taskfleet/provisioner/aws"
	"github.com/taskfleet/taskfleet/provisioner/aws/awsfake"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/timestamp"
)

const (
	account = "123456789012"
	home    = "us-east-1"
	rootURL = "https://taskfleet.example.com"
)

// world is a cloud with a provider on it and a clock that the test turns. It
// does with the provider what the controller does.
type world struct {
	t     testing.TB
	clock time.Time
	cloud *awsfake.Cloud
	p     *provider.Provider
	pool  *fleet.Pool
	rows  map[fleet.Ref]*fleet.Worker
	boots uint64
}

func newWorld(t testing.TB, config awsfake.Config, change func(*provider.Config)) *world {
	w := &world{t: t, clock: time.Date(2026, 11, 2, 9, 0, 0, 0, time.UTC), rows: map[fleet.Ref]*fleet.Worker{}}
	config.Now = func() time.Time { return w.clock }
	config.Seed = 1
	w.cloud = awsfake.New(config)
	w.restart(change)
	return w
}

// restart replaces the provider by one without any memory.
func (w *world) restart(change func(*provider.Config)) {
	w.t.Helper()
	w.boots++
	c := provider.Config{
		Cluster: "test", RootURL: rootURL, Accounts: []provider.Account{{ID: account, Queues: map[string]string{}}}, Regions: []string{home, "us-west-2"},
		Seed: w.boots, Now: func() time.Time { return w.clock }, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		InstanceProfiles: []string{"worker"},
	}
	c.Clients = func(a provider.Account, region string) provider.Clients {
		return provider.Clients{EC2: w.cloud.EC2(a.ID, region), SQS: w.cloud.SQS(a.ID, region), Quotas: w.cloud.ServiceQuotas(a.ID, region)}
	}
	if change != nil {
		change(&c)
	}
	p, err := provider.New(c)
	if err != nil {
		w.t.Fatal(err)
	}
	w.p = p
}

func (w *world) now() timestamp.Time { return timestamp.Of(w.clock) }

func (w *world) pass(d time.Duration) { w.clock = w.clock.Add(d) }

// define makes the pool.
func (w *world) define(config string) {
	w.t.Helper()
	w.pool = w.makePool("aws/build", config)
}

func (w *world) makePool(id, config string) *fleet.Pool {
	w.t.Helper()
	for arch, image := range w.cloud.Surroundings(account, home).Images {
		config = strings.ReplaceAll(config, "$"+arch, image)
	}
	o := &fleet.Pool{ID: id, ProviderID: "aws", Owner: "who@example.com", Config: json.RawMessage(config)}
	list, err := w.p.Parse(o.Config)
	if err != nil {
		w.t.Fatal(err)
	}
	o.LaunchConfigs = list
	return o
}

func (w *world) need(capacity int64) fleet.Need {
	n := fleet.Need{Pool: w.pool, Capacity: capacity, Room: capacity + 100}
	for _, c := range w.pool.LaunchConfigs {
		x := fleet.Candidate{LaunchConfig: c, Workers: 1 << 40}
		for _, r := range w.rows {
			if r.LaunchConfigID == c.ID {
				x.Existing += r.Capacity
			}
		}
		n.From = append(n.From, x)
	}
	return n
}

func (w *world) plan(n fleet.Need) fleet.Plan {
	w.t.Helper()
	plan, err := w.p.Plan(w.t.Context(), w.now(), n)
	if err != nil {
		w.t.Fatal(err)
	}
	return plan
}

func (w *world) launch(i *fleet.Intent) fleet.Answer {
	a := w.p.Launch(w.t.Context(), w.now(), i)
	for _, s := range a.Started {
		w.rows[s.Ref] = &fleet.Worker{Ref: s.Ref, LaunchConfigID: s.LaunchConfigID, IntentID: i.ID, Capacity: s.Capacity, Market: s.Market, Price: s.Price, Facts: s.Facts, Created: w.now(), State: fleet.Requested}
	}
	if a.Again {
		i.Attempts++
		i.NextAttempt = a.Retry
	}
	return a
}

// start plans and launches, and returns what came of it.
func (w *world) start(capacity int64) (started []fleet.Started, faults []fleet.Fault) {
	w.t.Helper()
	for _, i := range w.plan(w.need(capacity)).Intents {
		a := w.launch(i)
		started = append(started, a.Started...)
		faults = append(faults, a.Faults...)
	}
	return started, faults
}

func (w *world) look() fleet.Sight {
	w.t.Helper()
	s, err := w.p.Look(w.t.Context(), w.now())
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// states are how many of the rows are in which state.
func (w *world) states() string {
	s := w.look()
	n := map[string]int{}
	for r := range w.rows {
		x, seen := s.Of(r)
		if !seen {
			n["unseen"]++
		} else {
			n[x.State.String()]++
		}
	}
	var all []string
	for k, v := range n {
		all = append(all, fmt.Sprintf("%d %s", v, k))
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

func (w *world) stop(how fleet.Manner, idle bool, refs ...fleet.Ref) []fleet.Ref {
	w.t.Helper()
	var list []fleet.Target
	for _, r := range refs {
		list = append(list, fleet.Target{Ref: r, Facts: w.rows[r].Facts, Idle: idle})
	}
	gone, err := w.p.Stop(w.t.Context(), w.now(), list, how)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, r := range gone {
		delete(w.rows, r)
	}
	return gone
}

func (w *world) refs() (list []fleet.Ref) {
	for r := range w.rows {
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b fleet.Ref) int { return strings.Compare(a.WorkerID, b.WorkerID) })
	return list
}

func (w *world) calls(action string) int { return w.cloud.Stats().Calls["ec2:"+action] }

// plain is a pool in the form of worker-manager.
const plain = `{"minCapacity": 0, "maxCapacity": 5000, "launchConfigs": [
	{"region": "us-east-1", "launchConfig": {"ImageId": "$x86_64", "InstanceType": "c7i.xlarge"}, "workerManager": {"launchConfigId": "one"}}]}`

// wide is a pool of instance types times zones.
const wide = `{"minCapacity": 0, "maxCapacity": 5000,
	"launchConfig": {"KeyName": "default"},
	"regions": [{"region": "us-east-1", "launchConfig": {"ImageId": "$x86_64"}}],
	"availabilityZones": [{"availabilityZone": "us-east-1a"}, {"availabilityZone": "us-east-1b"}, {"availabilityZone": "us-east-1c"}],
	"instanceTypes": [{"instanceType": "c7i.xlarge"}, {"instanceType": "c6i.xlarge"}, {"instanceType": "m6i.xlarge"}, {"instanceType": "m7i.xlarge"}]}`
