package aws_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"

	provider "github.com/taskfleet/taskfleet/provisioner/aws"
	"github.com/taskfleet/taskfleet/provisioner/aws/awsfake"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
)

func spotMarket(zone, kind string) awsfake.Market {
	return awsfake.Market{Region: zone[:len(zone)-1], Zone: zone, Type: kind, Spot: true}
}

var zones = []string{"us-east-1a", "us-east-1b", "us-east-1c"}
var kinds = []string{"c7i.xlarge", "c6i.xlarge", "m6i.xlarge", "m7i.xlarge"}

func TestASoldOutMarketIsClosedAndAnotherServes(t *testing.T) {
	w := newWorld(t, awsfake.Config{}, nil)
	w.define(wide)
	w.look()
	for _, z := range zones {
		w.cloud.SellOut(spotMarket(z, "c6i.xlarge"), true)
	}
	started, faults := w.start(20)
	if len(started) != 20 || len(faults) != 0 {
		t.Fatalf("%d started, faults %+v", len(started), faults)
	}
	for _, s := range started {
		if strings.Contains(s.Market, "c6i") || !strings.HasSuffix(s.Market, "/spot") {
			t.Errorf("started in %s", s.Market)
		}
		if s.Price == 0 {
			t.Errorf("the price in %s is not known", s.Market)
		}
	}
}

// A plan is for at least ten markets, so that EC2 has a choice.
func TestAFleetHasAllOpenMarkets(t *testing.T) {
	w := newWorld(t, awsfake.Config{}, nil)
	w.define(strings.Replace(wide, `{"instanceType": "m7i.xlarge"}`, `{"instanceType": "m7i.xlarge"}, {"instanceType": "c7i.24xlarge"}`, 1)) // the last is no match
	w.look()
	plan := w.plan(w.need(7))
	if len(plan.Intents) != 1 {
		t.Fatalf("%d intents", len(plan.Intents))
	}
	in := input[ec2.CreateFleetInput](t, plan.Intents[0], "CreateFleet")
	n := 0
	for _, c := range in.LaunchTemplateConfigs {
		n += len(c.Overrides)
	}
	if n != 12 || *in.TargetCapacitySpecification.TotalTargetCapacity != 7 || in.SpotOptions.AllocationStrategy != "price-capacity-optimized" ||
		*in.ClientToken != plan.Intents[0].ID {
		t.Errorf("%d overrides: %s", n, plan.Intents[0].Request)
	}
}

func input[T any](t *testing.T, i *fleet.Intent, action string) *T {
	t.Helper()
	var r struct {
		Action string
		Input  json.RawMessage
	}
	in := new(T)
	if err := json.Unmarshal(i.Request, &r); err != nil || r.Action != action {
		t.Fatalf("%v: %s", err, i.Request)
	}
	if err := json.Unmarshal(r.Input, in); err != nil {
		t.Fatal(err)
	}
	return in
}

func TestTheBreakerOfAMarketDoublesAndProbesWithOne(t *testing.T) {
	w := newWorld(t, awsfake.Config{}, nil)
	w.define(`{"maxCapacity": 100, "launchConfigs": [{"region": "us-east-1", "launchConfig": {"ImageId": "$x86_64", "InstanceType": "c7i.xlarge",
		"Placement": {"AvailabilityZone": "us-east-1a"}, "InstanceMarketOptions": {"MarketType": "spot"}}}]}`)
	w.look()
	m := spotMarket("us-east-1a", "c7i.xlarge")
	w.cloud.SellOut(m, true)
	closed := []time.Duration{}
	for range 7 {
		started, faults := w.start(5)
		if len(started) != 0 || len(faults) != 1 || faults[0].Class != fleet.SoldOut || faults[0].Market != "us-east-1a/c7i.xlarge/spot" {
			t.Fatalf("started %v, faults %+v", started, faults)
		}
		plan := w.plan(w.need(5))
		if len(plan.Intents) != 0 || plan.Retry <= w.now() {
			t.Fatalf("a closed market is asked: %+v", plan)
		}
		d := plan.Retry.Sub(w.now())
		closed = append(closed, d)
		w.clock = plan.Retry.Time()
	}
	for i, d := range closed {
		base := min(30*time.Second<<i, 15*time.Minute)
		if d < base || d > base+base/4 {
			t.Errorf("closed for the time number %d for %v", i+1, d)
		}
	}
	if n := w.calls("RunInstances"); n != 7 {
		t.Errorf("%d calls", n)
	}
	// Half open: one machine, and all of the others only when it was had.
	w.cloud.SellOut(m, false)
	w.look()
	plan := w.plan(w.need(5))
	if len(plan.Intents) != 1 || plan.Intents[0].Workers != 1 {
		t.Fatalf("the probe is %+v", plan.Intents)
	}
	if again := w.plan(w.need(4)); len(again.Intents) != 0 {
		t.Errorf("a second probe: %+v", again.Intents)
	}
	if a := w.launch(plan.Intents[0]); len(a.Started) != 1 {
		t.Fatalf("%+v", a)
	}
	if started, faults := w.start(4); len(started) != 4 {
		t.Errorf("after the probe %d started, %+v", len(started), faults)
	}
}

func TestWhatAMarketHasIsTakenAndTheRestRefused(t *testing.T) {
	t.Run("RunInstances", func(t *testing.T) {
		w := newWorld(t, awsfake.Config{Markets: func(m awsfake.Market) awsfake.Conditions { return awsfake.Conditions{Depth: 3} }}, nil)
		w.define(strings.Replace(plain, `"InstanceType"`, `"Placement": {"AvailabilityZone": "us-east-1a"}, "InstanceType"`, 1))
		w.look()
		started, faults := w.start(5)
		if len(started) != 3 || len(faults) != 0 {
			t.Fatalf("%d started, faults %+v", len(started), faults)
		}
		if _, faults = w.start(2); len(faults) != 1 || faults[0].Class != fleet.SoldOut {
			t.Errorf("faults %+v", faults)
		}
	})
	t.Run("CreateFleet", func(t *testing.T) {
		w := newWorld(t, awsfake.Config{Markets: func(m awsfake.Market) awsfake.Conditions { return awsfake.Conditions{Depth: 3} }}, nil)
		w.define(wide)
		w.look()
		started, faults := w.start(50) // there are 12 * 3
		if len(started) != 36 || len(faults) != 1 || faults[0].Class != fleet.SoldOut || len(faults[0].Extra["markets"].([]string)) == 0 {
			t.Fatalf("%d started, faults %+v", len(started), faults)
		}
		if plan := w.plan(w.need(5)); len(plan.Intents) != 0 || plan.Retry <= w.now() {
			t.Errorf("where nothing is left is asked again: %+v", plan)
		}
	})
}

func TestOnDemandIsTheFallback(t *testing.T) {
	w := newWorld(t, awsfake.Config{}, nil)
	w.define(wide)
	w.look()
	sell := func(out bool) {
		for _, z := range zones {
			for _, k := range kinds {
				w.cloud.SellOut(spotMarket(z, k), out)
			}
		}
	}
	sell(true)
	if started, faults := w.start(5); len(started) != 0 || len(faults) != 1 {
		t.Fatalf("%v %+v", started, faults)
	}
	// All markets of spot are closed. On demand is bought when the wait is over.
	n := w.need(5)
	n.Waiting = 4 * time.Minute
	w.pass(time.Second)
	plan := w.plan(n)
	if len(plan.Intents) != 0 || len(plan.Complaints) != 1 || !strings.Contains(plan.Complaints[0].Description, "waited for 5m0s") {
		t.Fatalf("before the wait is over: %+v", plan)
	}
	if plan.Retry == 0 || plan.Retry > w.now().Add(time.Minute) {
		t.Errorf("retry at %s", plan.Retry)
	}
	n.Waiting = 5 * time.Minute
	var started []fleet.Started
	var faults []fleet.Fault
	for _, i := range w.plan(n).Intents {
		a := w.launch(i)
		started, faults = append(started, a.Started...), append(faults, a.Faults...)
	}
	if len(started) != 5 || len(faults) != 0 || !strings.HasSuffix(started[0].Market, "/on-demand") {
		t.Fatalf("%+v %+v", started, faults)
	}
	// In the order of price.
	for _, s := range started {
		if !strings.Contains(s.Market, "c6i.xlarge") {
			t.Errorf("bought %s", s.Market)
		}
	}
	// When there is spot again it is taken, but not by those that have waited
	// for it too long.
	sell(false)
	w.pass(time.Minute)
	w.look()
	n = w.need(5)
	n.Waiting = 6 * time.Minute
	if plan := w.plan(n); len(plan.Intents) != 1 || input[ec2.CreateFleetInput](t, plan.Intents[0], "CreateFleet").OnDemandOptions == nil {
		t.Errorf("having waited: %s", plan.Intents[0].Request)
	}
	n.Waiting = time.Minute
	if plan := w.plan(n); len(plan.Intents) == 0 || input[ec2.CreateFleetInput](t, plan.Intents[0], "CreateFleet").SpotOptions == nil {
		t.Errorf("not having waited: %+v", plan.Intents)
	}
	// A long queue alone is no reason.
	w.pass(time.Hour)
	w.look()
	n.Waiting = 10 * time.Hour
	if plan := w.plan(n); len(plan.Intents) == 0 || input[ec2.CreateFleetInput](t, plan.Intents[0], "CreateFleet").SpotOptions == nil {
		t.Errorf("with a long queue: %+v", plan.Intents)
	}
}

func TestPricesAreKeptTo(t *testing.T) {
	w := newWorld(t, awsfake.Config{}, nil)
	w.define(strings.Replace(wide, `"launchConfig"`, `"maxPrice": 0.065, "canUseOndemand": false, "launchConfig"`, 1))
	w.look()
	w.plan(w.need(1)) // makes the markets known
	w.cloud.SetPrice(spotMarket("us-east-1a", "c7i.xlarge"), 0.09)
	w.pass(6 * time.Minute)
	w.look()
	in := input[ec2.CreateFleetInput](t, w.plan(w.need(3)).Intents[0], "CreateFleet")
	for _, o := range in.LaunchTemplateConfigs[0].Overrides {
		if *o.MaxPrice != "0.0650" || o.InstanceType == "c7i.xlarge" && *o.AvailabilityZone == "us-east-1a" || strings.HasPrefix(string(o.InstanceType), "m") {
			t.Errorf("%s %s for %s", *o.AvailabilityZone, o.InstanceType, *o.MaxPrice)
		}
	}
	markets, err := w.p.Markets(t.Context(), w.now(), w.pool.Config)
	if err != nil || len(markets) != 12 {
		t.Fatalf("%d markets, %v", len(markets), err)
	}
	for _, m := range markets {
		dear := m.Name == "us-east-1a/c7i.xlarge/spot" || strings.Contains(m.Name, "/m")
		if (m.State == "closed") != dear || m.Price == 0 {
			t.Errorf("%+v", m)
		}
	}
}

func TestMachinesOfDifferentCapacityDoNotExceedTheRoom(t *testing.T) {
	for _, room := range []int64{1, 3, 4, 7, 20, 100} {
		t.Run(fmt.Sprint(room), func(t *testing.T) {
			w := newWorld(t, awsfake.Config{}, nil)
			w.define(`{"maxCapacity": 100, "regions": [{"region": "us-east-1", "launchConfig": {"ImageId": "$x86_64"}}],
				"availabilityZones": [{"availabilityZone": "us-east-1a"}],
				"instanceTypes": [{"instanceType": "c7i.large", "capacity": 1}, {"instanceType": "c7i.2xlarge", "capacity": 4}, {"instanceType": "c7i.4xlarge", "capacity": 8, "utility": 1.2}]}`)
			w.look()
			n := w.need(20)
			n.Capacity, n.Room = min(20, room), room
			var planned, got int64
			for _, i := range w.plan(n).Intents {
				planned += i.Capacity
				for _, s := range w.launch(i).Started {
					got += s.Capacity
				}
			}
			if got < n.Capacity && room < 16 || got > room || planned > room {
				t.Errorf("%d started, %d planned, %d needed", got, planned, n.Capacity)
			}
		})
	}
}

func TestInitialWeightAndPriceSteer(t *testing.T) {
	w := newWorld(t, awsfake.Config{}, nil)
	one := func(id, kind string, weight float64, most int) string {
		return fmt.Sprintf(`{"region": "us-east-1", "launchConfig": {"ImageId": "$x86_64", "InstanceType": %q}, "workerManager": {"launchConfigId": %q, "initialWeight": %g, "maxCapacity": %d}}`, kind, id, weight, most)
	}
	w.define(fmt.Sprintf(`{"maxCapacity": 1000, "launchConfigs": [%s, %s, %s, %s, %s]}`,
		one("full", "c7i.xlarge", 1, 1000), one("half", "c7i.xlarge", 0.5, 1000), one("none", "c7i.xlarge", 0, 1000), one("few", "c7i.xlarge", 1, 7), one("dear", "c7i.2xlarge", 1, 1000)))
	w.look()
	for range 20 {
		w.start(10)
		w.pass(5 * time.Second)
	}
	n := map[string]int{}
	for _, r := range w.rows {
		n[r.LaunchConfigID]++
	}
	if n["full"] < 100 || n["half"] < n["full"]*4/10 || n["half"] > n["full"]*6/10 || n["none"] != 0 || n["few"] != 7 || n["dear"] > 15 || len(w.rows) != 200 {
		t.Errorf("%d of %v", len(w.rows), n)
	}
}

// A market that was sold out and may not be any more is tried with one machine,
// beside those that are open, if it is better than they are.
func TestAMarketIsProbedBesideOthers(t *testing.T) {
	w := newWorld(t, awsfake.Config{}, nil)
	w.define(wide)
	w.look()
	best := spotMarket("us-east-1b", "c6i.xlarge")
	for _, z := range zones {
		w.cloud.SetPrice(spotMarket(z, "c6i.xlarge"), 0.05)
	}
	w.cloud.SetPrice(best, 0.03)
	w.cloud.SetDepth(best, 1)
	w.start(1)
	w.pass(6 * time.Minute)
	w.look()                                       // the prices
	if _, faults := w.start(1); len(faults) != 0 { // EC2 takes another
		t.Fatalf("%+v", faults)
	}
	state := func() (s string) {
		markets, err := w.p.Markets(t.Context(), w.now(), w.pool.Config)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range markets {
			if m.Name == "us-east-1b/c6i.xlarge/spot" {
				s = m.State
			}
		}
		return s
	}
	for _, z := range zones {
		for _, k := range kinds {
			w.cloud.SetDepth(spotMarket(z, k), 1)
		}
	}
	if started, _ := w.start(40); len(started) == 40 || state() != "closed" {
		t.Fatalf("%d started, the market is %s", len(started), state())
	}
	for _, z := range zones {
		for _, k := range kinds {
			w.cloud.SetDepth(spotMarket(z, k), 0)
		}
	}
	w.pass(time.Minute)
	w.look()
	// The best is tried with one machine.
	if started, _ := w.start(2); len(started) != 2 || started[0].Market != "us-east-1b/c6i.xlarge/spot" || state() != "open" {
		t.Fatalf("%d started, the market is %s", len(started), state())
	}
	w.cloud.SetPrice(spotMarket("us-east-1c", "c6i.xlarge"), 0.01)
	w.pass(6 * time.Minute)
	w.look()
	plan := w.plan(w.need(9))
	if len(plan.Intents) != 2 || plan.Intents[0].Workers != 1 || plan.Intents[1].Workers != 8 {
		t.Fatalf("%+v", plan.Intents)
	}
	if in := input[ec2.CreateFleetInput](t, plan.Intents[0], "CreateFleet"); *in.LaunchTemplateConfigs[0].Overrides[0].AvailabilityZone != "us-east-1c" {
		t.Errorf("the probe is %s", plan.Intents[0].Request)
	}
}

// A spot request in the form of worker-manager keeps to maxPrice, too, and tags
// of the pool's own are kept beside ours.
func TestPlainSpotRequests(t *testing.T) {
	w := newWorld(t, awsfake.Config{}, nil)
	w.define(`{"maxCapacity": 10, "launchConfigs": [{"region": "us-east-1", "maxPrice": 0.07, "launchConfig": {"ImageId": "$x86_64", "InstanceType": "c7i.xlarge",
		"TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "team", "Value": "build"}, {"Key": "taskfleet-pool", "Value": "another"}]},
			{"ResourceType": "instance", "Tags": [{"Key": "taskfleet-pool", "Value": "another"}]}],
		"InstanceMarketOptions": {"MarketType": "spot"}}}]}`)
	w.look()
	i := w.plan(w.need(2)).Intents[0]
	in := input[ec2.RunInstancesInput](t, i, "RunInstances")
	if strings.Contains(string(i.Request), "another") {
		t.Errorf("a pool sets a tag that is ours: %s", i.Request)
	}
	if *in.InstanceMarketOptions.SpotOptions.MaxPrice != "0.0700" || *in.MinCount != 1 || *in.MaxCount != 2 {
		t.Errorf("%s", i.Request)
	}
	for s := range w.rows {
		t.Errorf("%v", s)
	}
	w.launch(i)
	for r := range w.rows {
		x, _ := w.cloud.Instance(r.WorkerID)
		if x.Tag("team") != "build" || x.Tag("taskfleet-pool") != "aws/build" || !x.Spot {
			t.Errorf("%+v", x)
		}
	}
}

func TestPricesAndSizesOfInstanceTypes(t *testing.T) {
	for kind, want := range map[string]float64{"c7i.large": 0.08925, "c7i.4xlarge": 0.714, "m5.24xlarge": 4.608, "t3.medium": 0.0416, "t3.nano": 0.0052, "t2.micro": 0.0116, "m7i.metal-48xl": 9.6768, "zz9.large": 0} {
		if got := provider.ListPrice("us-east-1", kind); got < want*0.999 || got > want*1.001 {
			t.Errorf("%s costs %g, want %g", kind, got, want)
		}
	}
	if a, b := provider.ListPrice("us-east-1", "c7i.large"), provider.ListPrice("eu-central-1", "c7i.large"); a >= b {
		t.Error(a, b)
	}
}

// Where EC2 has little, less is bought, before anything is refused there.
func TestTheRegionsPlacementScoresCount(t *testing.T) {
	share := func(scarce bool) float64 {
		w := newWorld(t, awsfake.Config{}, nil)
		w.define(strings.NewReplacer(
			`"regions": [`, `"regions": [{"region": "us-west-2", "launchConfig": {"ImageId": "`+w.cloud.Surroundings(account, "us-west-2").Images["x86_64"]+`"}}, `,
			`"availabilityZones": [`, `"availabilityZones": [{"availabilityZone": "us-west-2a"}, `).Replace(wide))
		w.look()
		if scarce {
			for z := range w.cloud.Surroundings(account, home).Subnets { // also those that the pool does not use
				for _, k := range kinds {
					w.cloud.SellOut(spotMarket(z, k), true)
				}
			}
		}
		w.plan(w.need(1)) // makes the markets known
		for range 5 {
			w.pass(time.Minute)
			w.look()
		}
		if w.calls("GetSpotPlacementScores") != 2 {
			t.Errorf("%d calls for scores", w.calls("GetSpotPlacementScores"))
		}
		home, all := int64(0), int64(0)
		for _, i := range w.plan(w.need(100)).Intents {
			all += i.Workers
			if strings.Contains(string(i.Request), `"region":"us-east-1"`) {
				home += i.Workers
			}
		}
		return float64(home) / float64(all)
	}
	before, after := share(false), share(true)
	if after >= before || before == 0 {
		t.Errorf("%.2f is bought where there is little, and %.2f where there is enough", after, before)
	}
}
