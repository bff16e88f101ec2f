package aws

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A bound is a spec of a pool: with the pool's name in it, where it is bought,
// and what was seen there.
type bound struct {
	*spec
	config      string // that it was made from
	at          string // where that is, if it is of no pool yet
	place       *place
	markets     [2][]*market // on demand and spot, as spec.offers
	owner       string
	tags        []types.Tag
	run         []byte          // request of RunInstances with placeholders; nil: a fleet
	fleet       []boundTemplate // as spec.templates
	capacities  map[string]int64
	zones       map[string]string
	spotRefused timestamp.Time // when EC2 last had less spot than it was asked for; 0: never
	// Markets that have refused this launch configuration for what it says; others
	// may be served there.
	own  map[*market]*breaker
	used timestamp.Time // last
}

// The tags of what the provider makes.
const (
	tagCluster = "taskfleet-cluster"
	tagPool    = "taskfleet-pool"
	tagIntent  = "taskfleet-intent"
	tagSpec    = "taskfleet-spec"
)

// What stands in a request for what each intent has its own of.
const (
	intentHere  = "taskfleet.the.intent.is.to.be.written.here"
	workersHere = 987654321
)

var maxCountHere = []byte(`"MaxCount":` + strconv.Itoa(workersHere))

// A request is what an intent asks for.
type request struct {
	Account string `json:"account"`
	Region  string `json:"region"`
	Action  string `json:"action"`
	Spot    bool   `json:"spot,omitempty"`
	// Capacity of the machines by type, which the answer does not say.
	Capacity map[string]int64 `json:"capacity"`
	// Zones of subnets, likewise.
	Zones map[string]string `json:"zones,omitempty"`
	Input json.RawMessage   `json:"input"`
}

const (
	runInstances = "RunInstances"
	createFleet  = "CreateFleet"
)

// bind finds or makes the spec of a pool's launch configuration. The caller
// holds p.mu.
func (p *Provider) bind(o *fleet.Pool, c *fleet.LaunchConfig) (*bound, error) {
	all := p.pools[o.ID]
	if all == nil {
		all = map[string]*bound{}
		p.pools[o.ID] = all
	}
	b := all[c.ID]
	if b != nil && b.config == string(c.Config) && b.owner == o.Owner {
		return b, nil
	}
	at := "launch configuration " + c.ID
	lc, err := readLaunchConfig(at, c.Config)
	if err != nil {
		return nil, err
	}
	spec, err := p.compile(at, lc)
	if err != nil {
		return nil, err
	}
	if b, err = p.bindSpec(o, spec, p.market); err != nil {
		return nil, err
	}
	b.config = string(c.Config)
	all[c.ID] = b
	return b, nil
}

// A marketFinder is Provider.market or Provider.glimpse.
type marketFinder func(pl *place, zone, kind string, spot bool) *market

// bindSpec makes the spec a pool's. Its markets are got by find.
func (p *Provider) bindSpec(o *fleet.Pool, s *spec, find marketFinder) (*bound, error) {
	b := &bound{spec: s, owner: o.Owner, place: p.places[placeKey{s.account, s.region}], capacities: map[string]int64{}, zones: map[string]string{}, own: map[*market]*breaker{}}
	for i := range s.offers {
		of := &s.offers[i]
		b.capacities[of.kind] = of.capacity
		if of.subnet != "" {
			b.zones[of.subnet] = of.zone
		}
		for _, spot := range []bool{false, true} {
			if spot && s.spot || !spot && s.onDemand {
				b.markets[index(spot)] = append(b.markets[index(spot)], find(b.place, of.zone, of.kind, spot))
			}
		}
	}
	b.tags = []types.Tag{
		tag("CreatedBy", "taskcluster-wm-"+o.ProviderID), tag("ManagedBy", "taskcluster"), tag("Name", o.ID),
		tag("Owner", o.Owner), tag("WorkerPoolId", o.ID),
		tag(tagCluster, p.config.Cluster), tag(tagPool, o.ID), tag(tagSpec, s.id),
	}
	if s.run != nil {
		return b, b.bindRun(p, o)
	}
	return b, b.bindFleet(p, o)
}

func tag(key, value string) types.Tag { return types.Tag{Key: &key, Value: &value} }

// bindRun prepares the request of RunInstances.
func (b *bound) bindRun(p *Provider, o *fleet.Pool) error {
	text, err := p.userData(o.ID, o.ProviderID, b.region, b.spec.runData)
	if err != nil {
		return err
	}
	in := *b.spec.run
	in.UserData = base64Of(text)
	in.ClientToken = aws.String(intentHere)
	in.MinCount, in.MaxCount = aws.Int32(1), aws.Int32(workersHere)
	in.TagSpecifications = tagged(b.spec.userTags, append(slices.Clone(b.tags), tag(tagIntent, intentHere)),
		types.ResourceTypeInstance, types.ResourceTypeVolume, types.ResourceTypeNetworkInterface)
	if b.maxPrice > 0 && b.spot {
		m := *in.InstanceMarketOptions
		so := types.SpotMarketOptions{}
		if m.SpotOptions != nil {
			so = *m.SpotOptions
		}
		if so.MaxPrice == nil {
			so.MaxPrice = aws.String(bid(b.maxPrice * b.offers[0].utility))
		}
		m.SpotOptions = &so
		in.InstanceMarketOptions = &m
	}
	input, err := compact(in)
	if err != nil {
		return err
	}
	b.run, err = json.Marshal(request{b.account, b.region, runInstances, b.spot, b.capacities, nil, input})
	return err
}

// tagged adds tags to those that are there for kinds of resources. Nobody else
// sets tags of their names: by them the provider knows what is its own.
func tagged(specs []types.TagSpecification, tags []types.Tag, kinds ...types.ResourceType) []types.TagSpecification {
	specs = slices.Clone(specs)
	for i := range specs {
		specs[i].Tags = slices.DeleteFunc(slices.Clone(specs[i].Tags), func(t types.Tag) bool {
			return slices.ContainsFunc(tags, func(o types.Tag) bool { return *o.Key == aws.ToString(t.Key) })
		})
	}
	for _, kind := range kinds {
		i := slices.IndexFunc(specs, func(s types.TagSpecification) bool { return s.ResourceType == kind })
		if i < 0 {
			specs = append(specs, types.TagSpecification{ResourceType: kind, Tags: tags})
			continue
		}
		specs[i].Tags = append(specs[i].Tags, tags...)
	}
	return specs
}

// request is what an intent for workers of some of the offers asks for.
func (b *bound) request(id string, spot bool, offers []int, workers, capacity int64) json.RawMessage {
	if b.run != nil {
		text := bytes.ReplaceAll(b.run, []byte(intentHere), []byte(id))
		return bytes.Replace(text, maxCountHere, strconv.AppendInt([]byte(`"MaxCount":`), workers, 10), 1)
	}
	text, _ := json.Marshal(struct {
		request
		Input fleetInput `json:"input"` // instead of the request's
	}{
		request{Account: b.account, Region: b.region, Action: createFleet, Spot: spot, Capacity: b.capacities, Zones: b.zones},
		b.fleetInput(id, spot, offers, workers, capacity),
	})
	return text
}

// The parts of ec2.CreateFleetInput that are used, without the others, which
// would be so many nulls.
type (
	fleetInput struct {
		ClientToken                 string
		Type                        types.FleetType
		LaunchTemplateConfigs       []fleetConfig
		TargetCapacitySpecification fleetTarget
		SpotOptions                 *fleetSpot     `json:",omitempty"`
		OnDemandOptions             *fleetOnDemand `json:",omitempty"`
		TagSpecifications           []types.TagSpecification
	}
	fleetConfig struct {
		LaunchTemplateSpecification fleetTemplate
		Overrides                   []fleetOverride
	}
	fleetTemplate struct{ LaunchTemplateName, Version string }
	fleetOverride struct {
		InstanceType     string
		AvailabilityZone string  `json:",omitempty"`
		SubnetId         string  `json:",omitempty"`
		MaxPrice         string  `json:",omitempty"`
		Priority         float64 `json:",omitempty"`
		WeightedCapacity float64 `json:",omitempty"`
	}
	fleetTarget struct {
		TotalTargetCapacity       int64
		DefaultTargetCapacityType types.DefaultTargetCapacityType
	}
	fleetSpot     struct{ AllocationStrategy types.SpotAllocationStrategy }
	fleetOnDemand struct {
		AllocationStrategy types.FleetOnDemandAllocationStrategy
	}
)

// fleetInput has EC2 choose among the offers: for spot by price and by how deep
// the markets are, which only it knows; on demand in their order.
func (b *bound) fleetInput(id string, spot bool, offers []int, workers, capacity int64) fleetInput {
	in := fleetInput{ClientToken: id, Type: types.FleetTypeInstant}
	least, most := int64(0), int64(0)
	for _, i := range offers {
		c := b.offers[i].capacity
		most = max(most, c)
		if least == 0 || c < least {
			least = c
		}
	}
	in.TargetCapacitySpecification.TotalTargetCapacity = workers
	if least != most {
		in.TargetCapacitySpecification.TotalTargetCapacity = capacity
	}
	if spot {
		in.TargetCapacitySpecification.DefaultTargetCapacityType = types.DefaultTargetCapacityTypeSpot
		in.SpotOptions = &fleetSpot{types.SpotAllocationStrategyPriceCapacityOptimized}
	} else {
		in.TargetCapacitySpecification.DefaultTargetCapacityType = types.DefaultTargetCapacityTypeOnDemand
		in.OnDemandOptions = &fleetOnDemand{types.FleetOnDemandAllocationStrategyPrioritized}
	}
	where := make([]int, len(b.fleet)) // of a template in LaunchTemplateConfigs, from 1
	for rank, i := range offers {
		o := &b.offers[i]
		if where[o.template] == 0 {
			in.LaunchTemplateConfigs = append(in.LaunchTemplateConfigs, fleetConfig{LaunchTemplateSpecification: fleetTemplate{b.fleet[o.template].name, "1"}})
			where[o.template] = len(in.LaunchTemplateConfigs)
		}
		override := fleetOverride{InstanceType: o.kind, SubnetId: o.subnet}
		if o.subnet == "" {
			override.AvailabilityZone = o.zone
		}
		if least != most {
			override.WeightedCapacity = float64(o.capacity)
		}
		if spot && b.maxPrice > 0 {
			price := b.maxPrice * o.utility
			if least != most {
				price /= float64(o.capacity) // EC2 takes it for a unit of weight
			}
			override.MaxPrice = bid(price)
		}
		if !spot {
			override.Priority = float64(rank + 1)
		}
		c := &in.LaunchTemplateConfigs[where[o.template]-1]
		c.Overrides = append(c.Overrides, override)
	}
	tags := append(slices.Clone(b.tags), tag(tagIntent, id))
	for _, kind := range []types.ResourceType{types.ResourceTypeFleet, types.ResourceTypeInstance, types.ResourceTypeVolume} {
		in.TagSpecifications = append(in.TagSpecifications, types.TagSpecification{ResourceType: kind, Tags: tags})
	}
	return in
}

// read takes a request apart.
func (p *Provider) read(in *fleet.Intent) (*request, *place, error) {
	r := &request{}
	if err := json.Unmarshal(in.Request, r); err != nil {
		return nil, nil, fmt.Errorf("the intent %s has a request that cannot be read: %w", in.ID, err)
	}
	pl := p.places[placeKey{r.Account, r.Region}]
	if pl == nil {
		return nil, nil, fmt.Errorf("the intent %s is for account %s and region %s, which the provider does not have any more; put them back into its configuration until all workers there have ended", in.ID, r.Account, r.Region)
	}
	return r, pl, nil
}
