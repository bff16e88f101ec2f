package awsfake

import (
	"cmp"
	"context"
	"math"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// CreateFleet launches a fleet of type instant: it gives as much of the target
// as the overrides' markets have, and says in Errors why it is not more. Other
// types of fleet are not imitated, nor are instance requirements.
func (e *EC2) CreateFleet(ctx context.Context, in *ec2.CreateFleetInput, _ ...func(*ec2.Options)) (*ec2.CreateFleetOutput, error) {
	return call(ctx, e.scope, "ec2", "CreateFleet", in, createFleet)
}

// pool is one override of a fleet in one zone: a market it may buy in.
type pool struct {
	spec     *launchSpec
	market   *market
	subnet   *subnet
	weight   float64
	priority float64
	maxPrice float64
	about    *types.LaunchTemplateAndOverridesResponse
}

// fleet is a CreateFleet call at work.
type fleet struct {
	region *region
	id     string
	token  string
	pools  [2][]pool // on demand, spot
	out    *ec2.CreateFleetOutput
	tokens *bucket
}

func createFleet(s scope, in *ec2.CreateFleetInput) (*ec2.CreateFleetOutput, error) {
	r := s.region
	if in.Type != types.FleetTypeInstant {
		return nil, failure("UnsupportedOperation", "The fleet type '%s' is not supported here: only 'instant' is", in.Type)
	}
	onDemand, spot, err := targets(in)
	if err != nil {
		return nil, err
	}
	if err := countOverrides(in); err != nil {
		return nil, err
	}
	if o, p := in.OnDemandOptions, in.SpotOptions; o != nil && (aws.ToBool(o.SingleInstanceType) || aws.ToBool(o.SingleAvailabilityZone) || o.MaxTotalPrice != nil) ||
		p != nil && (aws.ToBool(p.SingleInstanceType) || aws.ToBool(p.SingleAvailabilityZone) || p.MaxTotalPrice != nil) {
		return nil, failure("UnsupportedOperation", "SingleInstanceType, SingleAvailabilityZone and MaxTotalPrice are not supported here")
	}
	known, err := r.again("CreateFleet", aws.ToString(in.ClientToken), in)
	if err != nil {
		return nil, err
	}
	if known != nil && known.give != nil {
		return known.give().(*ec2.CreateFleetOutput), nil
	}
	f := &fleet{region: r, id: "fleet-" + r.cloud.draws.id(""), token: aws.ToString(in.ClientToken)}
	f.out = &ec2.CreateFleetOutput{FleetId: &f.id, Instances: []types.CreateFleetInstance{}, Errors: []types.CreateFleetError{}}
	if err := f.prepare(s, in, onDemand > 0, spot > 0); err != nil {
		return nil, err
	}
	if s.dry {
		return nil, dryRun()
	}
	f.tokens = r.resources("RunInstances")
	if o := in.OnDemandOptions; onDemand > 0 {
		if o == nil {
			o = &types.OnDemandOptionsRequest{}
		}
		f.sortOnDemand(o.AllocationStrategy)
		f.fill(0, onDemand, 1, float64(aws.ToInt32(o.MinTargetCapacity)))
	}
	if o := in.SpotOptions; spot > 0 {
		if o == nil {
			o = &types.SpotOptionsRequest{}
		}
		spread := f.sortSpot(o)
		f.fill(1, spot, spread, float64(aws.ToInt32(o.MinTargetCapacity)))
	}
	r.remember(known, func() any { return f.out })
	return f.out, nil
}

// targets are the capacities wanted on demand and as spot.
func targets(in *ec2.CreateFleetInput) (onDemand, spot float64, err error) {
	t := in.TargetCapacitySpecification
	if t == nil || t.TotalTargetCapacity == nil {
		return 0, 0, failure("MissingParameter", "The request must contain the parameter TargetCapacitySpecification.TotalTargetCapacity")
	}
	total := float64(*t.TotalTargetCapacity)
	if total < 1 || total > 10000 {
		return 0, 0, failure("InvalidTargetCapacitySpecification", "The target capacity must be between 1 and 10000, and is %v", total)
	}
	onDemand, spot = float64(aws.ToInt32(t.OnDemandTargetCapacity)), float64(aws.ToInt32(t.SpotTargetCapacity))
	if onDemand+spot > total {
		return 0, 0, failure("InvalidTargetCapacitySpecification", "OnDemandTargetCapacity and SpotTargetCapacity may not exceed TotalTargetCapacity")
	}
	switch rest := total - onDemand - spot; {
	case rest == 0:
	case t.DefaultTargetCapacityType == types.DefaultTargetCapacityTypeSpot:
		spot += rest
	case t.DefaultTargetCapacityType == types.DefaultTargetCapacityTypeOnDemand:
		onDemand += rest
	default:
		return 0, 0, failure("InvalidTargetCapacitySpecification", "DefaultTargetCapacityType must say what the rest of the target capacity is")
	}
	return onDemand, spot, nil
}

func countOverrides(in *ec2.CreateFleetInput) error {
	if n := len(in.LaunchTemplateConfigs); n < 1 || n > 50 {
		return failure("InvalidParameterValue", "The request must have between 1 and 50 launch template configs, and has %d", n)
	}
	overrides := 0
	for _, c := range in.LaunchTemplateConfigs {
		overrides += len(c.Overrides)
	}
	if overrides > 300 {
		return failure("InvalidParameterValue", "The request has %d overrides: at most 300 are allowed", overrides)
	}
	return nil
}

// prepare checks every override and expands it into pools. What is wrong with
// one override is an entry of Errors, as in AWS; what is wrong with a launch
// template's name is the call's error.
func (f *fleet) prepare(s scope, in *ec2.CreateFleetInput, onDemand, spot bool) error {
	r := f.region
	for _, config := range in.LaunchTemplateConfigs {
		named := config.LaunchTemplateSpecification
		if named == nil {
			return failure("MissingParameter", "The request must contain the parameter LaunchTemplateSpecification")
		}
		v, err := r.templateVersion(named.LaunchTemplateId, named.LaunchTemplateName, named.Version)
		if err != nil {
			return err
		}
		system := append(v.systemTags(), types.Tag{Key: aws.String("aws:ec2:fleet-id"), Value: &f.id})
		var tags []types.TagSpecification
		for _, t := range in.TagSpecifications {
			if t.ResourceType == types.ResourceTypeFleet {
				continue
			}
			tags = append(tags, t)
		}
		base, baseErr := s.check(v.data, tags, system...)
		overrides := config.Overrides
		if len(overrides) == 0 {
			overrides = []types.FleetLaunchTemplateOverridesRequest{{}}
		}
		for i := range overrides {
			o := &overrides[i]
			spec, err := base, baseErr
			if overridden(o) {
				data := *v.data
				overlay(&data, o)
				spec, err = s.check(&data, tags, system...)
			}
			about := &types.LaunchTemplateAndOverridesResponse{
				LaunchTemplateSpecification: &types.FleetLaunchTemplateSpecification{LaunchTemplateId: &v.template.id, LaunchTemplateName: &v.template.name, Version: aws.String(v.label())},
				Overrides: &types.FleetLaunchTemplateOverrides{
					InstanceType: o.InstanceType, AvailabilityZone: o.AvailabilityZone, AvailabilityZoneId: o.AvailabilityZoneId, SubnetId: o.SubnetId, ImageId: o.ImageId,
					MaxPrice: o.MaxPrice, WeightedCapacity: o.WeightedCapacity, Priority: o.Priority,
				},
			}
			if err == nil {
				err = f.expand(spec, o, about, onDemand, spot)
			}
			if err != nil {
				if onDemand {
					f.failed(err, about, types.InstanceLifecycleOnDemand)
				}
				if spot {
					f.failed(err, about, types.InstanceLifecycleSpot)
				}
			}
		}
	}
	return nil
}

// overridden tells whether an override changes more of the launch than where it
// happens and what it costs.
func overridden(o *types.FleetLaunchTemplateOverridesRequest) bool {
	return o.ImageId != nil || o.BlockDeviceMappings != nil || o.IamInstanceProfile != nil || o.KeyName != nil || o.MetadataOptions != nil || o.Placement != nil
}

// expand adds an override's pools: one a zone.
func (f *fleet) expand(spec *launchSpec, o *types.FleetLaunchTemplateOverridesRequest, about *types.LaunchTemplateAndOverridesResponse, onDemand, spot bool) error {
	r := f.region
	if o.InstanceRequirements != nil || spec.data.InstanceRequirements != nil {
		return failure("UnsupportedOperation", "Instance requirements are not supported here: name instance types")
	}
	limit, err := maxPrice(o.MaxPrice)
	if err != nil {
		return err
	}
	if limit == 0 {
		if limit, err = spotPrice(spec.data.InstanceMarketOptions); err != nil {
			return err
		}
	}
	name := string(o.InstanceType)
	if name == "" {
		name = string(spec.data.InstanceType)
	}
	where, err := f.subnets(spec, o)
	if err != nil {
		return err
	}
	placed := spec.zone != "" || o.AvailabilityZone != nil || o.AvailabilityZoneId != nil || o.SubnetId != nil
	p := pool{spec: spec, weight: 1, priority: math.Inf(1), maxPrice: limit, about: about}
	if o.WeightedCapacity != nil && *o.WeightedCapacity > 0 {
		p.weight = *o.WeightedCapacity
	}
	if o.Priority != nil {
		p.priority = *o.Priority
	}
	for _, s := range where {
		zone := ""
		if placed {
			zone = s.zone
		}
		m, err := spec.machineOf(name, zone)
		if err != nil {
			return err
		}
		if !offered(m, s.zone) {
			continue
		}
		p.subnet = s
		if onDemand {
			p.market = r.cloud.market(Market{r.name, s.zone, m.name, false})
			f.pools[0] = append(f.pools[0], p)
		}
		if spot {
			p.market = r.cloud.market(Market{r.name, s.zone, m.name, true})
			f.pools[1] = append(f.pools[1], p)
		}
	}
	return nil
}

// subnets are where an override may launch: in its subnets, else its zone, else
// the template's, else in any default subnet.
func (f *fleet) subnets(spec *launchSpec, o *types.FleetLaunchTemplateOverridesRequest) ([]*subnet, error) {
	r := f.region
	if o.SubnetId != nil {
		var all []*subnet
		for id := range strings.SplitSeq(*o.SubnetId, ",") {
			s := r.subnet(strings.TrimSpace(id))
			if s == nil {
				return nil, noSubnet(strings.TrimSpace(id))
			}
			if o.AvailabilityZone == nil || *o.AvailabilityZone == s.zone {
				all = append(all, s)
			}
		}
		return all, nil
	}
	if spec.subnet != nil {
		return []*subnet{spec.subnet}, nil
	}
	zone := spec.zone
	if o.AvailabilityZone != nil {
		zone = *o.AvailabilityZone
	} else if o.AvailabilityZoneId != nil {
		n := slices.IndexFunc(r.subnets, func(s *subnet) bool { return s.zoneID == *o.AvailabilityZoneId })
		if n < 0 {
			return nil, r.noZone(*o.AvailabilityZoneId)
		}
		zone = r.subnets[n].zone
	}
	if zone == "" {
		return r.network.subnets, nil
	}
	if s := r.subnetIn(zone); s != nil {
		return []*subnet{s}, nil
	}
	return nil, r.noZone(zone)
}

func (f *fleet) sortOnDemand(strategy types.FleetOnDemandAllocationStrategy) {
	slices.SortStableFunc(f.pools[0], func(a, b pool) int {
		if strategy == types.FleetOnDemandAllocationStrategyPrioritized {
			return cmp.Compare(a.priority, b.priority)
		}
		return cmp.Compare(a.market.current()/a.weight, b.market.current()/b.weight)
	})
}

// sortSpot puts the pools into the order in which they are bought, and says over
// how many the target is spread. What AWS knows of a pool's capacity is here its
// hazard, and whether it has any: price-capacity-optimized takes the cheapest,
// where a pool counts the dearer the likelier it interrupts.
func (f *fleet) sortSpot(o *types.SpotOptionsRequest) (spread int) {
	score := func(p pool) float64 { return p.market.current() / p.weight }
	spread = 1
	switch o.AllocationStrategy {
	case types.SpotAllocationStrategyPriceCapacityOptimized:
		score = func(p pool) float64 { return p.market.current() / p.weight * (1 + 4*p.market.Hazard) }
	case types.SpotAllocationStrategyCapacityOptimized:
		score = func(p pool) float64 { return p.market.Hazard }
	case types.SpotAllocationStrategyCapacityOptimizedPrioritized:
		score = func(p pool) float64 { return p.priority }
	case types.SpotAllocationStrategyDiversified:
		spread = len(f.pools[1])
	default: // lowest-price
		if o.InstancePoolsToUseCount != nil {
			spread = int(*o.InstancePoolsToUseCount)
		}
	}
	sold := func(p pool) int {
		if p.market.free(1) == 0 {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(f.pools[1], func(a, b pool) int {
		return cmp.Or(cmp.Compare(sold(a), sold(b)), cmp.Compare(score(a), score(b)))
	})
	return max(spread, 1)
}

// promise is what one pool will give.
type promise struct {
	pool *pool
	n    int
}

// fill buys target units in the sorted pools of a lifecycle: first spread over
// the first pools that have any, then wherever there is capacity. With fewer
// than least it buys nothing.
func (f *fleet) fill(lifecycle int, target float64, spread int, least float64) {
	name := types.InstanceLifecycleOnDemand
	if lifecycle == 1 {
		name = types.InstanceLifecycleSpot
	}
	pools := f.pools[lifecycle]
	var promises []promise
	left := target
	buyIn := func(p *pool, units float64) *Error {
		n, reason := f.grant(p, int(math.Ceil(units/p.weight)))
		if n > 0 {
			// Until it is bought it is taken, so that no pool gives it twice.
			f.region.reserve(p.market, n)
			promises = append(promises, promise{p, n})
			left -= float64(n) * p.weight
		}
		return reason
	}
	if spread > 1 {
		share := math.Ceil(target / float64(min(spread, max(len(pools), 1))))
		for i := 0; i < len(pools) && left > 0; i++ {
			buyIn(&pools[i], min(left, share))
		}
	}
	for i := 0; i < len(pools) && left > 0; i++ {
		if reason := buyIn(&pools[i], left); reason != nil {
			f.failed(reason, pools[i].about, name)
		}
	}
	for _, p := range promises {
		f.region.reserve(p.pool.market, -p.n)
		if target-left < least && f.tokens != nil {
			f.tokens.give(float64(p.n))
		}
	}
	if target-left < least {
		return
	}
	if len(promises) == 0 && lifecycle == 1 && len(pools) > 0 && onlyInsufficient(f.out.Errors) {
		f.failed(failure("UnfulfillableCapacity", "Unable to fulfill capacity due to your request configuration. Please adjust your request and try again."), pools[0].about, name)
	}
	for _, p := range promises {
		f.buy(p, name)
	}
}

// grant asks a pool's market, and the resource limit.
func (f *fleet) grant(p *pool, want int) (int, *Error) {
	n, reason := f.region.grant(p.market, want, p.maxPrice)
	if f.tokens != nil && n > 0 {
		if taken := int(f.tokens.take(f.region.cloud.now, float64(n))); taken < n {
			return taken, requestLimitExceeded()
		}
	}
	return n, reason
}

func onlyInsufficient(errs []types.CreateFleetError) bool {
	return !slices.ContainsFunc(errs, func(e types.CreateFleetError) bool { return *e.ErrorCode != "InsufficientInstanceCapacity" })
}

func (f *fleet) buy(p promise, lifecycle types.InstanceLifecycle) {
	started := f.region.take(p.pool.spec, p.pool.market, p.pool.subnet, p.n, f.token, nil)
	ids := make([]string, len(started))
	for i, s := range started {
		ids[i] = s.id
	}
	where := p.pool.subnet
	f.out.Instances = append(f.out.Instances, types.CreateFleetInstance{
		InstanceIds: ids, InstanceType: types.InstanceType(p.pool.market.Type), Lifecycle: lifecycle, LaunchTemplateAndOverrides: p.pool.about,
		AvailabilityZone: &where.zone, AvailabilityZoneId: &where.zoneID, SubnetId: &where.id,
	})
}

func (f *fleet) failed(err error, about *types.LaunchTemplateAndOverridesResponse, lifecycle types.InstanceLifecycle) {
	e, ok := err.(*Error)
	if !ok {
		e = failure("InternalError", "%v", err)
	}
	if e.Code == requestLimitExceeded().Code {
		f.region.cloud.stats.Throttled["ec2:CreateFleet"]++
	}
	f.out.Errors = append(f.out.Errors, types.CreateFleetError{ErrorCode: &e.Code, ErrorMessage: &e.Message, Lifecycle: lifecycle, LaunchTemplateAndOverrides: about})
}
