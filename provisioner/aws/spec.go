package aws

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/taskfleet/taskfleet/provisioner/fleet"
)

// A spec is a launch configuration that has been understood.
type spec struct {
	id        string
	account   string // id
	region    string
	weight    float64
	most      int64 // capacity that there may be of it
	capacity  int64 // least of a machine
	spot      bool
	onDemand  bool
	after     time.Duration // that a task may wait for spot
	minPrice  float64       // dollars an hour for a unit of utility
	maxPrice  float64
	offers    []offer
	templates []template               // of fleets
	run       *ec2.RunInstancesInput   // of a single kind of machine; nil: a fleet
	runData   map[string]any           // what further data its user data has
	userTags  []types.TagSpecification // of run
}

// An offer is a kind of machine in a place.
type offer struct {
	zone     string // "": any, or the subnet's, which is not known here
	subnet   string
	kind     string // instance type
	capacity int64
	utility  float64
	template int // in spec.templates
}

// A template is what offers of a fleet have in common.
type template struct {
	data     *types.RequestLaunchTemplateData
	userData map[string]any
	text     string // what tells it from others
}

const (
	defaultOnDemandAfter = 5 * time.Minute
	maxUserData          = 16 << 10 // bytes, before base64
	longestPoolID        = 38 + 1 + 38
	maxOverrides         = 300 // of a fleet
	maxTemplates         = 50
)

// reserved are the parts of user data that are ours.
var reserved = []string{"rootUrl", "workerPoolId", "providerId", "workerGroup", "workerConfig"}

// compile makes a spec of a launch configuration, or says what is wrong with
// it.
func (p *Provider) compile(at string, c launchConfig) (*spec, error) {
	s := &spec{region: c.Region, account: c.Account, weight: 1, most: math.MaxInt64}
	var err error
	if s.id, err = c.id(at); err != nil {
		return nil, err
	}
	if !slices.Contains(p.config.Regions, c.Region) {
		return nil, fmt.Errorf("%s.region is %q; the provider has the regions %s", at, c.Region, strings.Join(p.config.Regions, ", "))
	}
	if s.account == "" {
		s.account = p.config.Accounts[0].ID
	}
	if p.places[placeKey{s.account, s.region}] == nil {
		var ids []string
		for _, a := range p.config.Accounts {
			ids = append(ids, a.ID)
		}
		return nil, fmt.Errorf("%s.account is %q; the provider has the accounts %s", at, c.Account, strings.Join(ids, ", "))
	}
	if w := c.WorkerManager.InitialWeight; w != nil {
		if *w < 0 || *w > 1 {
			return nil, fmt.Errorf("%s.workerManager.initialWeight is %g; it must be from 0 to 1", at, *w)
		}
		s.weight = *w
	}
	if m := c.WorkerManager.MaxCapacity; m != nil {
		if *m < 0 {
			return nil, fmt.Errorf("%s.workerManager.maxCapacity is %d; it must not be negative", at, *m)
		}
		s.most = *m
	}
	if n := c.WorkerManager.CapacityPerInstance; n < 0 || n > fleet.MostPerWorker {
		return nil, fmt.Errorf("%s.workerManager.capacityPerInstance is %d; it must be from 1 to %d", at, n, fleet.MostPerWorker)
	}
	if c.ImageParameter != "" {
		if c.LaunchConfig["ImageId"] != nil {
			return nil, fmt.Errorf("%s has both imageParameter and launchConfig.ImageId; leave one out", at)
		}
		c.LaunchConfig = merge(c.LaunchConfig, map[string]any{"ImageId": "resolve:ssm:" + c.ImageParameter})
	}
	if len(c.InstanceTypes) > 0 {
		err = p.compileFleet(at, c, s)
	} else {
		err = p.compileRun(at, c, s)
	}
	if err != nil {
		return nil, err
	}
	return s, p.checkWorkerConfig(at, c, s)
}

// compileRun makes a spec of a plain RunInstances request.
func (p *Provider) compileRun(at string, c launchConfig, s *spec) error {
	for name, set := range map[string]bool{
		"availabilityZones": len(c.AvailabilityZones) > 0, "canUseSpot": c.CanUseSpot != nil, "canUseOndemand": c.CanUseOndemand != nil,
		"ondemandAfter": c.OndemandAfter != nil,
	} {
		if set {
			return fmt.Errorf("%s.%s has no meaning without instanceTypes: list them, or leave it out and say all in launchConfig", at, name)
		}
	}
	where := at + ".launchConfig"
	m, _ := prune(merge(c.LaunchConfig, nil)).(map[string]any)
	if err := p.complete(where, m); err != nil {
		return err
	}
	if m["InstanceType"] == nil {
		return fmt.Errorf("%s.InstanceType is missing; say what to launch, such as c7i.xlarge", where)
	}
	if m["ImageId"] == nil {
		return fmt.Errorf("%s.ImageId is missing; give an image of the region, or the imageParameter that has it", where)
	}
	s.run = &ec2.RunInstancesInput{}
	if err := decode(where, m, s.run); err != nil {
		return err
	}
	s.userTags, s.run.TagSpecifications = s.run.TagSpecifications, nil
	if o := s.run.InstanceMarketOptions; o != nil && o.MarketType == types.MarketTypeSpot {
		s.spot = true
		if so := o.SpotOptions; so != nil && (so.SpotInstanceType == types.SpotInstanceTypePersistent ||
			so.InstanceInterruptionBehavior != "" && so.InstanceInterruptionBehavior != types.InstanceInterruptionBehaviorTerminate) {
			return fmt.Errorf("%s.InstanceMarketOptions.SpotOptions: a worker that is interrupted ends, and another is started where it is needed; leave SpotInstanceType and InstanceInterruptionBehavior out", where)
		}
	}
	s.onDemand = !s.spot
	s.minPrice, s.maxPrice = c.MinPrice, c.MaxPrice
	o := offer{kind: string(s.run.InstanceType), capacity: max(c.WorkerManager.CapacityPerInstance, 1), utility: 1}
	if pl := s.run.Placement; pl != nil && pl.AvailabilityZone != nil {
		o.zone = *pl.AvailabilityZone
	}
	if s.run.SubnetId != nil {
		o.subnet = *s.run.SubnetId
	}
	s.offers, s.capacity = []offer{o}, o.capacity
	s.runData = c.AdditionalUserData
	return p.checkUserData(at, s.region, c.AdditionalUserData)
}

// compileFleet makes a spec of instance types and availability zones.
func (p *Provider) compileFleet(at string, c launchConfig, s *spec) error {
	s.spot = c.CanUseSpot == nil || *c.CanUseSpot
	s.onDemand = c.CanUseOndemand == nil || *c.CanUseOndemand
	s.after, s.minPrice, s.maxPrice = defaultOnDemandAfter, c.MinPrice, c.MaxPrice
	if c.OndemandAfter != nil {
		s.after = time.Duration(min(*c.OndemandAfter, 1<<30)) * time.Second
	}
	switch {
	case !s.spot && !s.onDemand:
		return fmt.Errorf("%s: canUseSpot and canUseOndemand are both false, so that nothing could be launched; allow one", at)
	case s.after < 0:
		return fmt.Errorf("%s.ondemandAfter is %d; it must not be negative", at, *c.OndemandAfter)
	case s.minPrice < 0 || s.maxPrice < 0 || s.maxPrice > 0 && s.minPrice > s.maxPrice:
		return fmt.Errorf("%s: minPrice is %g and maxPrice %g; they must not be negative, and the first not more than the second", at, s.minPrice, s.maxPrice)
	}
	zones := c.AvailabilityZones
	if len(zones) == 0 {
		zones = []zone{{}}
	} else if c.LaunchConfig["SubnetId"] != nil {
		return fmt.Errorf("%s.launchConfig.SubnetId is of one availability zone, and there are availabilityZones; give each zone its subnet in its launchConfig", at)
	}
	for i, z := range zones {
		where := fmt.Sprintf("%s.availabilityZones[%d]", at, i)
		if z.AvailabilityZone != "" && z.inRegion() != s.region {
			return fmt.Errorf("%s is %s, which is not in region %s", where, z.AvailabilityZone, s.region)
		}
		if slices.ContainsFunc(zones[:i], func(y zone) bool { return y.AvailabilityZone == z.AvailabilityZone }) {
			return fmt.Errorf("%s is %s, which is there already; leave one out", where, z.AvailabilityZone)
		}
	}
	seen := map[string]bool{}
	for i, t := range c.InstanceTypes {
		where := fmt.Sprintf("%s.instanceTypes[%d]", at, i)
		switch {
		case t.InstanceType == "":
			return fmt.Errorf("%s.instanceType is missing", where)
		case seen[t.InstanceType]:
			return fmt.Errorf("%s is %s, which is there already; leave one out", where, t.InstanceType)
		case t.Capacity < 0 || t.Utility < 0:
			return fmt.Errorf("%s: capacity is %d and utility %g; both must be more than 0", where, t.Capacity, t.Utility)
		case t.Capacity > fleet.MostPerWorker:
			return fmt.Errorf("%s.capacity is %d; it must not be more than %d", where, t.Capacity, fleet.MostPerWorker)
		case t.LaunchConfig["InstanceType"] != nil:
			return fmt.Errorf("%s.launchConfig.InstanceType is not allowed; instanceType says it", where)
		}
		seen[t.InstanceType] = true
		for _, z := range zones {
			if err := p.compileOffer(at, where, c, s, z, t); err != nil {
				return err
			}
		}
	}
	if len(s.offers) > maxOverrides || len(s.templates) > maxTemplates {
		return fmt.Errorf("%s has %d combinations of zone and instance type with %d different launch configurations; EC2 takes %d and %d at most", at, len(s.offers), len(s.templates), maxOverrides, maxTemplates)
	}
	return nil
}

func (p *Provider) compileOffer(at, where string, c launchConfig, s *spec, z zone, t instanceType) error {
	m := merge(merge(c.LaunchConfig, z.LaunchConfig), t.LaunchConfig)
	for _, name := range []string{"InstanceType", "InstanceMarketOptions", "LaunchTemplate"} {
		if m[name] != nil {
			return fmt.Errorf("%s.launchConfig.%s cannot be used together with instanceTypes; leave it out (canUseSpot and canUseOndemand say how to pay)", at, name)
		}
	}
	if m["SecurityGroups"] != nil && m["SubnetId"] != nil {
		return fmt.Errorf("%s: SecurityGroups, which are names, cannot be used together with SubnetId; use SecurityGroupIds", where)
	}
	m, _ = prune(m).(map[string]any)
	if m["ImageId"] == nil {
		return fmt.Errorf("%s.launchConfig.ImageId is missing; give an image of region %s, or the imageParameter that has it", at, s.region)
	}
	o := offer{zone: z.AvailabilityZone, kind: t.InstanceType, capacity: max(t.Capacity, 1), utility: t.Utility}
	if t.Capacity == 0 && c.WorkerManager.CapacityPerInstance > 0 {
		o.capacity = c.WorkerManager.CapacityPerInstance
	}
	if o.utility == 0 {
		o.utility = 1
	}
	o.subnet, _ = m["SubnetId"].(string)
	delete(m, "SubnetId")
	if pl, is := m["Placement"].(map[string]any); is && pl["AvailabilityZone"] != nil {
		return fmt.Errorf("%s.launchConfig.Placement.AvailabilityZone is not allowed together with instanceTypes; list availabilityZones", at)
	}
	if err := p.complete(at+".launchConfig", m); err != nil {
		return err
	}
	extra := merge(merge(c.AdditionalUserData, z.AdditionalUserData), t.AdditionalUserData)
	text, err := json.Marshal([]any{m, extra})
	if err != nil {
		return err
	}
	o.template = slices.IndexFunc(s.templates, func(t template) bool { return t.text == string(text) })
	if o.template < 0 {
		if err := p.checkUserData(at, s.region, extra); err != nil {
			return err
		}
		data, err := templateData(at+".launchConfig", m)
		if err != nil {
			return err
		}
		o.template = len(s.templates)
		s.templates = append(s.templates, template{data, extra, string(text)})
	}
	s.offers = append(s.offers, o)
	if s.capacity == 0 || o.capacity < s.capacity {
		s.capacity = o.capacity
	}
	return nil
}

// checkWorkerConfig has workers told the capacity that is counted for them.
func (p *Provider) checkWorkerConfig(at string, c launchConfig, s *spec) error {
	told, has := c.WorkerConfig["capacity"]
	if !has {
		return nil
	}
	for _, o := range s.offers {
		if told != float64(o.capacity) {
			return fmt.Errorf("%s.workerConfig.capacity is %v, but the pool counts %d for each worker; leave it out, workers are told what is counted", at, told, o.capacity)
		}
	}
	return nil
}

// userData is what an instance finds in its metadata: what the worker-runner
// needs to register, and what the pool adds. It is no place for secrets. A pool
// whose addition has "cloudConfig": true means it for cloud-init as well, which
// wants to see a line that says so.
func (p *Provider) userData(poolID, providerID, region string, more map[string]any) (string, error) {
	m := merge(more, map[string]any{
		"rootUrl": p.config.RootURL, "workerPoolId": poolID, "providerId": providerID, "workerGroup": region,
	})
	text, err := json.Marshal(m)
	if m["cloudConfig"] == true {
		return "#cloud-config\n" + string(text), err
	}
	return string(text), err
}

func (p *Provider) checkUserData(at, region string, more map[string]any) error {
	for _, name := range reserved {
		if _, has := more[name]; has {
			return fmt.Errorf("%s.additionalUserData.%s is not allowed: the provider fills it in", at, name)
		}
	}
	longest := strings.Repeat("x", longestPoolID)
	text, err := p.userData(longest, longest[:38], region, more)
	if err != nil {
		return err
	}
	if len(text) > maxUserData {
		return fmt.Errorf("%s.additionalUserData makes the user data %d bytes long; EC2 takes %d. Put what is long into the image, into workerConfig, or where the worker can fetch it", at, len(text), maxUserData)
	}
	return nil
}

func base64Of(s string) *string {
	e := base64.StdEncoding.EncodeToString([]byte(s))
	return &e
}
