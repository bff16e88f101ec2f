package awsfake

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// instance is one instance, from the granted request until it is forgotten.
type instance struct {
	region      *region
	launch      *launchSpec
	market      *market
	subnet      *subnet
	reservation *reservation
	index       int32 // in the reservation
	number      int   // in the region; the order of lists
	id          string
	token       string
	spotRequest string
	address     string
	price       float64
	tags        []types.Tag
	state       types.InstanceStateName
	shown       types.InstanceStateName // in lists, where it may lag
	reason      *types.StateReason
	transition  *string
	dead        bool
	gone        bool // forgotten

	requested, visible, running, booted, recommended, warned, stopping, terminated time.Time

	view []types.Instance // of length one, until the next change; never modified
}

// reservation groups the instances of one launch.
type reservation struct{ id string }

// forgotten is how long a terminated instance can still be described.
const forgotten = time.Hour

// notice is the time between interruption warning and interruption.
const notice = 2 * time.Minute

func (i *instance) alive() bool {
	return i.state == types.InstanceStateNamePending || i.state == types.InstanceStateNameRunning
}

// start makes an instance of a market.
func (r *region) start(spec *launchSpec, m *market, s *subnet, rsv *reservation, index int32, token string) *instance {
	c := r.cloud
	i := &instance{
		region: r, launch: spec, market: m, subnet: s, reservation: rsv, index: index, number: r.launches, token: token,
		id: c.draws.id("i-"), address: s.address(), price: m.current(), tags: spec.instanceTags,
		state: types.InstanceStateNamePending, shown: types.InstanceStateNamePending, transition: aws.String(""), requested: c.now, visible: c.now,
	}
	if m.Spot {
		i.spotRequest = "sir-" + i.id[len(i.id)-8:]
	}
	r.launches++
	r.reserve(m, 1)

	i.fate(c)
	r.live = append(r.live, i)
	c.instances[i.id] = i
	c.records = append(c.records, i)
	c.stats.Launched++
	c.tell(Launched, i)
	r.stateChanged(i)
	return i
}

// fate draws when an instance will be seen, run, boot and be interrupted.
func (i *instance) fate(c *Cloud) {
	if v := c.config.Consistency; v.Delay > 0 || v.TailShare > 0 {
		delay := v.Delay
		if c.draws.visible.Float64() < v.TailShare {
			delay = v.TailDelay
		}
		i.visible = c.now.Add(below(c.draws.visible, delay))
	}
	boot := c.config.Boot
	took := time.Duration(float64(logNormal(c.draws.boot, boot.Median, boot.Sigma)) * boot.factor(i.market.Type))
	i.dead = c.draws.dead.Float64() < boot.Dead
	share := boot.Running
	if share <= 0 {
		share = 0.3
	}
	c.after(c.now.Add(time.Duration(float64(took)*share)), i.alive, i.run)
	if !i.dead {
		c.after(c.now.Add(took), i.alive, i.boot)
	}
	if m := i.market; m.Spot && m.Hazard > 0 {
		warning := c.now.Add(exponential(c.draws.interrupt, float64(time.Hour)/m.Hazard))
		if m.Rebalance > 0 {
			if early := warning.Add(-below(c.draws.rebalance, m.Rebalance)); early.After(c.now) {
				c.after(early, i.alive, i.recommend)
			}
		}
		c.after(warning, i.alive, i.warn)
	}
}

func (b *Boot) factor(instanceType string) float64 {
	if f, ok := b.Factor[instanceType]; ok {
		return f
	}
	family, _, _ := strings.Cut(instanceType, ".")
	if f, ok := b.Factor[family]; ok {
		return f
	}
	return 1
}

func lifecycleIndex(spot bool) int {
	if spot {
		return 1
	}
	return 0
}

func (i *instance) run(c *Cloud) {
	i.running = c.now
	i.become(types.InstanceStateNameRunning)
	c.tell(Running, i)
}

func (i *instance) boot(c *Cloud) {
	i.booted = c.now
	c.tell(Booted, i)
}

func (i *instance) recommend(c *Cloud) {
	if i.recommended.IsZero() {
		i.recommended = c.now
		i.region.publishRebalance(i)
		c.tell(Recommended, i)
	}
}

func (i *instance) warn(c *Cloud) {
	if !i.warned.IsZero() {
		return
	}
	i.warned = c.now
	c.stats.Interrupted++
	i.region.publishInterruption(i)
	c.tell(Warned, i)
	c.after(c.now.Add(notice), i.alive, func(*Cloud) {
		i.stop("Server.SpotInstanceTermination", "Server.SpotInstanceTermination: Instance was terminated by EC2 Spot.", "Server.SpotInstanceTermination")
	})
}

// stop begins the termination of an instance that lives or has stopped.
func (i *instance) stop(code, message, transition string) {
	c := i.region.cloud
	i.halt(types.InstanceStateNameShuttingDown, code, message, transition)
	c.after(c.now.Add(c.config.Boot.Shutdown), nil, i.end)
}

// halt ends the life of an instance, in which it costs and counts.
func (i *instance) halt(state types.InstanceStateName, code, message, transition string) {
	c := i.region.cloud
	i.reason = &types.StateReason{Code: aws.String(code), Message: aws.String(message)}
	i.transition = aws.String(transition + " (" + c.now.UTC().Format("2006-01-02 15:04:05 GMT") + ")")
	ended := !i.alive()
	i.become(state)
	if ended {
		return
	}
	i.stopping = c.now
	i.region.vcpus[lifecycleIndex(i.market.Spot)] -= int(i.market.machine.vcpus)
	c.tell(Stopping, i)
}

func (i *instance) end(c *Cloud) {
	i.terminated = c.now
	i.market.used--
	i.region.detach(i)
	i.become(types.InstanceStateNameTerminated)
	i.region.forgetting = append(i.region.forgetting, i)
	c.tell(Terminated, i)
}

// become changes the state and publishes that. Lists may show it later.
func (i *instance) become(state types.InstanceStateName) {
	i.state = state
	i.region.stateChanged(i)
	show := func(*Cloud) {
		if i.state == state {
			i.shown, i.view = state, nil
		}
	}
	c := i.region.cloud
	if lag := c.config.Consistency.States; lag > 0 {
		c.after(c.now.Add(below(c.draws.states, lag)), nil, show)
	} else {
		show(c)
	}
}

// forget drops instances that were terminated an hour ago. The list keeps their
// places until half of them are empty.
func (r *region) forget() {
	for len(r.forgetting) > 0 && r.cloud.now.Sub(r.forgetting[0].terminated) >= forgotten {
		i := r.forgetting[0]
		r.forgetting = r.forgetting[1:]
		delete(r.cloud.instances, i.id)
		i.gone, i.view = true, nil
		r.gone++
	}
	if r.gone > len(r.live)/2 {
		r.live = slices.DeleteFunc(r.live, func(i *instance) bool { return i.gone })
		r.gone = 0
	}
}

var stateCodes = map[types.InstanceStateName]int32{
	types.InstanceStateNamePending: 0, types.InstanceStateNameRunning: 16, types.InstanceStateNameShuttingDown: 32,
	types.InstanceStateNameTerminated: 48, types.InstanceStateNameStopping: 64, types.InstanceStateNameStopped: 80,
}

func stateOf(s types.InstanceStateName) *types.InstanceState {
	return &types.InstanceState{Name: s, Code: aws.Int32(stateCodes[s])}
}

// describe is the instance as the SDK shows it, made once a change. The slice
// has one element and is shared with what callers got: it is never modified.
func (i *instance) describe() []types.Instance {
	if i.view != nil {
		return i.view
	}
	spec := i.launch
	gone := i.shown == types.InstanceStateNameTerminated
	v := types.Instance{
		InstanceId: &i.id, ImageId: &spec.image.id, InstanceType: types.InstanceType(i.market.Type), Architecture: spec.image.architecture,
		AmiLaunchIndex: aws.Int32(i.index), LaunchTime: &i.requested, State: stateOf(i.shown), StateReason: i.reason,
		StateTransitionReason: i.transition, Tags: i.tags, KeyName: spec.data.KeyName, ClientToken: &i.token,
		Placement:  &types.Placement{AvailabilityZone: &i.subnet.zone, AvailabilityZoneId: &i.subnet.zoneID, Tenancy: types.TenancyDefault, GroupName: aws.String("")},
		Monitoring: &types.Monitoring{State: types.MonitoringStateDisabled},
		Hypervisor: types.HypervisorTypeXen, VirtualizationType: types.VirtualizationTypeHvm, RootDeviceType: types.DeviceTypeEbs,
		RootDeviceName: &spec.image.rootDevice, EbsOptimized: aws.Bool(spec.data.EbsOptimized != nil && *spec.data.EbsOptimized), EnaSupport: aws.Bool(true),
		PlatformDetails: aws.String("Linux/UNIX"), UsageOperation: aws.String("RunInstances"), PublicDnsName: aws.String(""),
		MetadataOptions: spec.metadata, IamInstanceProfile: spec.profile, SourceDestCheck: aws.Bool(true),
	}
	if i.market.Spot {
		v.InstanceLifecycle = types.InstanceLifecycleTypeSpot
		v.SpotInstanceRequestId = &i.spotRequest
	}
	if gone {
		v.PrivateDnsName = aws.String("")
	} else {
		v.SubnetId, v.VpcId, v.PrivateIpAddress = &i.subnet.id, &i.region.vpc, &i.address
		v.PrivateDnsName = aws.String(i.dnsName())
		v.SecurityGroups = spec.groups
		i.describeAttachments(&v)
	}
	i.view = []types.Instance{v}
	return i.view
}

func (i *instance) dnsName() string {
	domain := i.region.name + ".compute.internal"
	if i.region.name == "us-east-1" {
		domain = "ec2.internal"
	}
	return "ip-" + strings.ReplaceAll(i.address, ".", "-") + "." + domain
}

// Instance is what happened to an instance so far. Times that have not come are
// zero.
type Instance struct {
	ID, Account, Region, Zone, Type string
	ImageID, PrivateIP              string
	Spot                            bool
	Dead                            bool    // its worker never registers
	Price                           float64 // USD per hour, when it was launched
	ClientToken                     string
	UserData                        []byte

	Requested, Visible, Running, Booted, Recommended, Warned, Stopping, Terminated time.Time

	tags []types.Tag
}

// Tag is the value of a tag, or "".
func (i Instance) Tag(key string) string {
	for _, t := range i.tags {
		if *t.Key == key {
			return *t.Value
		}
	}
	return ""
}

// Billed is the time AWS charges for until now: from the request until the
// instance began to shut down, at least a minute.
func (i Instance) Billed(now time.Time) time.Duration {
	if !i.Stopping.IsZero() {
		now = i.Stopping
	}
	return max(now.Sub(i.Requested), time.Minute)
}

// told is the public form. It shares tags and user data.
func (i *instance) told() Instance {
	return Instance{
		ID: i.id, Account: i.region.account.id, Region: i.region.name, Zone: i.subnet.zone, Type: i.market.Type,
		ImageID: i.launch.image.id, PrivateIP: i.address, Spot: i.market.Spot, Dead: i.dead, Price: i.price,
		ClientToken: i.token, UserData: i.launch.userData, tags: i.tags,
		Requested: i.requested, Visible: i.visible, Running: i.running, Booted: i.booted,
		Recommended: i.recommended, Warned: i.warned, Stopping: i.stopping, Terminated: i.terminated,
	}
}

func (c *Cloud) tell(kind Kind, i *instance) {
	if c.config.Happened != nil {
		c.happened = append(c.happened, Happening{c.now, kind, i.told()})
	}
}

// Instance finds any instance ever launched that can still be described.
func (c *Cloud) Instance(id string) (Instance, bool) {
	c.enter()
	defer c.leave()
	i := c.instances[id]
	if i == nil {
		return Instance{}, false
	}
	return i.told(), true
}

// Instances lists every instance ever launched, also the forgotten ones, in the
// order of their launch.
func (c *Cloud) Instances() []Instance {
	c.enter()
	defer c.leave()
	all := make([]Instance, len(c.records))
	for n, i := range c.records {
		all[n] = i.told()
	}
	return all
}

// Interrupt warns a spot instance now: it will be terminated in two minutes.
func (c *Cloud) Interrupt(id string) error {
	return c.withInstance(id, func(i *instance) error {
		if !i.market.Spot {
			return fmt.Errorf("instance %s is not a spot instance: only those are interrupted", id)
		}
		i.warn(c)
		return nil
	})
}

// Recommend publishes a rebalance recommendation for a spot instance now.
func (c *Cloud) Recommend(id string) error {
	return c.withInstance(id, func(i *instance) error { i.recommend(c); return nil })
}

// Shutdown is the instance shutting itself down. A spot instance is terminated
// by that. Another is if its launch says so (InstanceInitiatedShutdownBehavior);
// else it stops: it costs nothing more but its volumes, and stays until somebody
// terminates it.
func (c *Cloud) Shutdown(id string) error {
	const code, message = "Client.InstanceInitiatedShutdown", "Client.InstanceInitiatedShutdown: Instance initiated shutdown"
	return c.withInstance(id, func(i *instance) error {
		if i.market.Spot || i.launch.data.InstanceInitiatedShutdownBehavior == types.ShutdownBehaviorTerminate {
			i.stop(code, message, "User initiated")
			return nil
		}
		i.halt(types.InstanceStateNameStopping, code, message, "User initiated")
		stopping := func() bool { return i.state == types.InstanceStateNameStopping }
		c.after(c.now.Add(c.config.Boot.Shutdown), stopping, func(*Cloud) { i.become(types.InstanceStateNameStopped) })
		return nil
	})
}

func (c *Cloud) withInstance(id string, f func(*instance) error) error {
	c.enter()
	defer c.leave()
	i := c.instances[id]
	if i == nil || !i.alive() {
		return fmt.Errorf("no living instance %s", strconv.Quote(id))
	}
	return f(i)
}
