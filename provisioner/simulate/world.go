package simulate

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/provisioner/aws"
	"github.com/taskfleet/taskfleet/provisioner/aws/awsfake"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/provisioner/sizing"
	"github.com/taskfleet/taskfleet/timestamp"
)

const (
	account    = "123456789012"
	cluster    = "simulation"
	providerID = "aws"
	eventQueue = "taskfleet-events"
)

// A world is what is around the controller: an imitation of EC2, and the
// provider that uses it.
type world struct {
	*engine
	cloud    *awsfake.Cloud
	provider *aws.Provider
	regions  []string
	log      *slog.Logger

	described map[string]*describeCalls // by region
}

// describeCalls counts calls that list things.
type describeCalls struct {
	times []timestamp.Time // within the last minute
	most  int              // in any minute
}

func newWorld(e *engine) (*world, error) {
	regions, err := regionsOf(e.Pool)
	if err != nil {
		return nil, err
	}
	w := &world{engine: e, regions: regions, log: slog.New(slog.DiscardHandler), described: map[string]*describeCalls{}}
	w.cloud = awsfake.New(w.config())
	w.cloud.Fail(w.watch)
	return w, w.open()
}

func (w *world) config() awsfake.Config {
	e := w.engine
	c := awsfake.Config{
		Now: func() time.Time { return e.now.Time() }, Seed: e.Seed, Accounts: []string{account}, Regions: w.regions,
		Boot:     awsfake.Boot{Median: e.Boot, Sigma: bootSigma, Dead: e.Dead, Shutdown: 30 * time.Second},
		Limits:   awsfake.Limits{Documented: true},
		Happened: e.happened,
	}
	conditions := awsfake.Conditions{Hazard: e.Interruptions}
	if e.SoldOut > 0 {
		// Ten minutes at a time.
		conditions.Closed = 10 * time.Minute
		conditions.Open = time.Duration(float64(conditions.Closed) * (1 - e.SoldOut) / e.SoldOut)
	}
	if w.events() {
		c.Events.Queue = eventQueue
	}
	if e.Chaos {
		conditions.Volatility = 0.1
		c.Consistency = awsfake.Consistency{Delay: 5 * time.Second, TailShare: 0.01, TailDelay: 90 * time.Second}
		c.Faults = awsfake.Faults{Unavailable: 0.01, FailedAfter: 0.01, LostAnswers: 0.01}
		c.Events.Delay, c.Events.Late, c.Events.LateDelay, c.Events.Lost, c.Events.Duplicated = 3*time.Second, 0.02, 5*time.Minute, 0.05, 0.05
		c.Leaks = awsfake.Leaks{Volumes: 0.01, Interfaces: 0.01}
	}
	c.Markets = func(awsfake.Market) awsfake.Conditions { return conditions }
	return c
}

// events reports whether EC2's events are read. They say nothing that the
// sweeps do not find, only sooner, and that matters where machines end
// unasked.
func (w *world) events() bool { return w.Interruptions > 0 || w.Chaos }

// open makes a provider that has no memory, as a server has that was started
// again.
func (w *world) open() (err error) {
	queues := map[string]string{}
	for _, r := range w.regions {
		if !w.events() {
			break
		}
		queues[r] = fmt.Sprintf("https://sqs.%s.amazonaws.com/%s/%s", r, account, eventQueue)
	}
	w.provider, err = aws.New(aws.Config{
		Cluster: cluster, RootURL: "https://taskfleet.example.com", Accounts: []aws.Account{{ID: account, Queues: queues}}, Regions: w.regions,
		Clients: func(a aws.Account, region string) aws.Clients {
			return aws.Clients{EC2: w.cloud.EC2(a.ID, region), SQS: w.cloud.SQS(a.ID, region)}
		},
		Seed: w.Seed + uint64(w.restarts), Now: func() time.Time { return w.now.Time() }, Log: w.log,
	})
	if err != nil {
		return err
	}
	w.provider.Notify(w.changed)
	return nil
}

// changed has the controller look where there may be news.
func (w *world) changed() {
	for _, p := range w.pools {
		if len(p.crew) > 0 {
			p.wake()
		}
	}
}

// controller makes one, with what is written down.
func (w *world) controller(e *engine) *fleet.Controller {
	return fleet.New(fleet.Config{
		Book: e.book, Queue: queue{e}, Providers: map[string]fleet.Provider{providerID: w.provider}, Log: w.log,
		WakeAt: func(pool string, at timestamp.Time) {
			if p := e.byID[pool]; p != nil {
				p.wakeBy(at)
			}
		},
		Step: e.step, KeepEvery: e.keepEvery(),
	})
}

// keepEvery is rare where no controller comes after another one, as it takes
// time.
func (e *engine) keepEvery() time.Duration {
	if e.crash != nil {
		return time.Minute
	}
	return 24 * time.Hour
}

// watch counts what the cloud's own statistics do not tell.
func (w *world) watch(c awsfake.Call) error {
	if !c.After && c.Service == "ec2" && strings.HasPrefix(c.Action, "Describe") {
		w.describe(c.Region)
	}
	return nil
}

func (w *world) describe(region string) {
	d := w.described[region]
	if d == nil {
		d = &describeCalls{}
		w.described[region] = d
	}
	d.times = slices.DeleteFunc(d.times, func(t timestamp.Time) bool { return w.now.Sub(t) >= time.Minute })
	d.times = append(d.times, w.now)
	d.most = max(d.most, len(d.times))
}

// regionsOf are the regions of a pool's configuration.
func regionsOf(config json.RawMessage) ([]string, error) {
	if config == nil {
		return []string{"us-east-1"}, nil
	}
	var c struct {
		LaunchConfigs, Regions []struct{ Region string }
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, fmt.Errorf("the pool's configuration: %w", fleet.Explain(err))
	}
	found := map[string]bool{}
	for _, x := range slices.Concat(c.LaunchConfigs, c.Regions) {
		if x.Region != "" {
			found[x.Region] = true
		}
	}
	if len(found) == 0 {
		return nil, errors.New("the pool's configuration has no region; pools of the aws provider can be simulated, which have launchConfigs or regions")
	}
	return slices.Sorted(maps.Keys(found)), nil
}

// quiet is the configuration of a pool that nothing is known of.
const quiet = `{
	"maxCapacity": 10000,
	"regions": [{"region": "us-east-1"}],
	"instanceTypes": [{"instanceType": "c6i.2xlarge"}, {"instanceType": "c7i.2xlarge"}, {"instanceType": "m6i.2xlarge"}, {"instanceType": "m7i.2xlarge"}]
}`

// poolConfig is the configuration of the simulated pools: what the options say
// over that of a real pool, with the image and the network of the imitation.
func (w *world) poolConfig(o Options) (config json.RawMessage, renewal time.Duration, err error) {
	text := o.Pool
	if text == nil {
		text = json.RawMessage(quiet)
	}
	var c map[string]any
	if err := json.Unmarshal(text, &c); err != nil {
		return nil, 0, fmt.Errorf("the pool's configuration is not a JSON object: %w", err)
	}
	sized, _ := c["sizing"].(map[string]any)
	if sized == nil {
		sized = map[string]any{}
	}
	if o.Policy != "" {
		sized["policy"] = o.Policy
	}
	if o.WaitPrice != nil {
		sized["waitPrice"] = *o.WaitPrice
	}
	if o.Idle > 0 {
		sized["idleTimeout"] = max(int64(o.Idle/time.Second), 1)
	}
	c["sizing"] = sized
	if o.Policy == (sizing.WorkerManager{}).Name() {
		life, _ := c["lifecycle"].(map[string]any)
		if life == nil {
			life = map[string]any{}
		}
		if life["registrationTimeout"] == nil {
			life["registrationTimeout"] = zombie
		}
		c["lifecycle"] = life
	}
	if o.Max > 0 {
		c["maxCapacity"] = o.Max
		if least, is := c["minCapacity"].(float64); is && int64(least) > o.Max {
			return nil, 0, fmt.Errorf("max is %d, and the pool's minCapacity is %g; raise the one or lower the other", o.Max, least)
		}
	}
	w.resettle(c, o.Capacity)
	if config, err = json.Marshal(c); err != nil {
		return nil, 0, err
	}
	s, err := fleet.ParseSettings(config)
	return config, s.Renewal(), err
}

// zombie is how many seconds worker-manager waits for a worker to register, where
// the pool does not say it.
const zombie = 2 * 3600

// foreign are fields of launch configurations that name what the imitation does
// not have.
var foreign = []string{"ImageId", "SubnetId", "SecurityGroupIds", "SecurityGroups", "KeyName", "IamInstanceProfile", "NetworkInterfaces", "LaunchTemplate"}

// resettle moves a pool's configuration into the imitation.
func (w *world) resettle(c map[string]any, capacity int64) {
	settle := func(m map[string]any, region string) {
		delete(m, "imageParameter")
		delete(m, "account")
		kinds, _ := m["instanceTypes"].([]any)
		inside := []any{m}
		for _, name := range []string{"instanceTypes", "availabilityZones"} {
			list, _ := m[name].([]any)
			inside = append(inside, list...)
		}
		for _, x := range inside {
			x, _ := x.(map[string]any)
			if lc, is := x["launchConfig"].(map[string]any); is {
				for _, name := range foreign {
					delete(lc, name)
				}
			}
		}
		if region == "" {
			return
		}
		lc, _ := m["launchConfig"].(map[string]any)
		if lc == nil {
			lc = map[string]any{}
			m["launchConfig"] = lc
		}
		lc["ImageId"] = w.cloud.Surroundings(account, region).Images[architecture(kinds, c["instanceTypes"], lc["InstanceType"])]
	}
	each := func(list any, f func(m map[string]any)) {
		all, _ := list.([]any)
		for _, x := range all {
			if m, is := x.(map[string]any); is {
				f(m)
			}
		}
	}
	settle(c, "")
	for _, name := range []string{"launchConfigs", "regions"} {
		each(c[name], func(m map[string]any) {
			region, _ := m["region"].(string)
			settle(m, region)
			if capacity == 0 {
				return
			}
			each(m["instanceTypes"], func(t map[string]any) { t["capacity"] = capacity })
			if name == "launchConfigs" && m["instanceTypes"] == nil {
				delete(m, "capacityPerInstance")
				wm, _ := m["workerManager"].(map[string]any)
				if wm == nil {
					wm = map[string]any{}
					m["workerManager"] = wm
				}
				wm["capacityPerInstance"] = capacity
			}
		})
	}
	if capacity > 0 {
		each(c["instanceTypes"], func(t map[string]any) { t["capacity"] = capacity })
	}
}

// arm are the families of instance types that need another image.
var arm = regexp.MustCompile(`^[a-z]+[0-9]+g`)

// architecture is that of the first instance type that is named, in lists or by
// itself.
func architecture(from ...any) string {
	for _, x := range from {
		name, _ := x.(string)
		if list, is := x.([]any); is && len(list) > 0 {
			first, _ := list[0].(map[string]any)
			name, _ = first["instanceType"].(string)
		}
		if name != "" && arm.MatchString(name) {
			return "arm64"
		} else if name != "" {
			break
		}
	}
	return "x86_64"
}

// apiCalls are the calls so far, by service and action, and how many of them
// were turned away for being too many.
func (w *world) apiCalls() (by map[string]int, all, throttled int) {
	s := w.cloud.Stats()
	for _, n := range s.Calls {
		all += n
	}
	for _, n := range s.Throttled {
		throttled += n
	}
	return s.Calls, all, throttled
}

// describesPerMinute is the most calls that list things which were made in a
// minute of a region.
func (w *world) describesPerMinute() (most int) {
	for _, d := range w.described {
		most = max(most, d.most)
	}
	return most
}
