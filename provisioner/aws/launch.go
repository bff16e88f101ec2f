package aws

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/timestamp"
)

const (
	firstRepeat = time.Second // after a call whose answer is not known
	maxRepeat   = time.Minute
)

// Launch sends the request of an intent.
func (p *Provider) Launch(ctx context.Context, now timestamp.Time, in *fleet.Intent) fleet.Answer {
	r, pl, err := p.read(in)
	if err != nil {
		return fleet.Answer{Faults: []fleet.Fault{{Class: fleet.Wrong, LaunchConfigID: in.LaunchConfigID, Description: err.Error()}}}
	}
	if wait := p.pay(now, in, pl); wait != 0 {
		return fleet.Answer{Again: true, Retry: wait}
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	l := launching{p: p, now: now, in: in, request: r, place: pl}
	switch r.Action {
	case runInstances:
		l.run(ctx)
	case createFleet:
		l.fleet(ctx)
	default:
		l.faults = append(l.faults, fleet.Fault{Class: fleet.Wrong, LaunchConfigID: in.LaunchConfigID, Description: "The intent's action " + r.Action + " is not known to this version of the server."})
	}
	return l.answer()
}

// pay takes what a call costs from the limits, unless Plan did. Where there is
// nothing left it says when to come back.
func (p *Provider) pay(now timestamp.Time, in *fleet.Intent, pl *place) timestamp.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.flights[in.ID]
	if f == nil {
		f = &flight{place: pl, planned: now}
		p.flights[in.ID] = f
	}
	if f.paid {
		f.paid = false
		return 0
	}
	if pl.launches.left(now) < 1 {
		return pl.launches.retry(now, 1)
	}
	pl.launches.take(1)
	if f.workers == 0 && pl.launched.left(now) > 0 { // planned by a process before this
		f.workers = in.Workers
		pl.launched.take(in.Workers)
	}
	return 0
}

// launching is one Launch at work.
type launching struct {
	p       *Provider
	now     timestamp.Time
	in      *fleet.Intent
	request *request
	place   *place

	started  []fleet.Started
	faults   []fleet.Fault
	unknown  bool
	some     bool // instances have been launched
	answered bool // EC2 has acted on the request, and what is refused is a part of that
}

// answer closes the books on a call.
func (l *launching) answer() fleet.Answer {
	p := l.p
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.unknown {
		wait := min(firstRepeat<<min(l.in.Attempts, 20), maxRepeat)
		return fleet.Answer{Faults: l.faults, Again: true, Retry: l.now.Add(wait)}
	}
	p.land(l.in.ID)
	return fleet.Answer{Started: l.started, Faults: l.faults}
}

// land forgets an intent that has its answer. The caller holds p.mu.
func (p *Provider) land(id string) {
	if f := p.flights[id]; f != nil {
		if f.quota != nil {
			f.quota.planned -= f.vcpus
		}
		delete(p.flights, id)
	}
}

// read decodes the input of the call.
func (l *launching) read(input any) bool {
	err := json.Unmarshal(l.request.Input, input)
	if err != nil {
		l.faults = append(l.faults, fleet.Fault{Class: fleet.Wrong, LaunchConfigID: l.in.LaunchConfigID, Description: fmt.Sprintf("The request of intent %s cannot be read: %v.", l.in.ID, err)})
	}
	return err == nil
}

// run calls RunInstances.
func (l *launching) run(ctx context.Context) {
	in := &ec2.RunInstancesInput{}
	if !l.read(in) {
		return
	}
	zone := ""
	if in.Placement != nil {
		zone = aws.ToString(in.Placement.AvailabilityZone)
	}
	out, err := l.place.EC2.RunInstances(ctx, in)
	if err != nil {
		l.fail(err, zone, string(in.InstanceType))
		return
	}
	p := l.p
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range out.Instances {
		x := &out.Instances[i]
		f := factsOf(l.place, x)
		m := p.market(l.place, zone, string(in.InstanceType), l.request.Spot)
		l.start(aws.ToString(x.InstanceId), f, m)
		if x.State != nil {
			p.show(l.now, l.place, x, false)
		}
	}
	if len(out.Instances) > 0 {
		l.granted(p.market(l.place, zone, string(in.InstanceType), l.request.Spot))
	}
}

// fleet calls CreateFleet, and reads both what was launched and what was
// refused.
func (l *launching) fleet(ctx context.Context) {
	in := &ec2.CreateFleetInput{}
	if !l.read(in) {
		return
	}
	out, err := l.place.EC2.CreateFleet(ctx, in)
	if err != nil {
		v := explainCall(err)
		if slices.Contains([]string{"InvalidLaunchTemplateName.NotFoundException", "InvalidLaunchTemplateId.NotFound", "InvalidLaunchTemplateId.VersionNotFound"}, v.code) {
			// Deleted behind our back: the next plan makes it again.
			l.p.forgetTemplates(l.place, in)
			return
		}
		l.failed(v, nil)
		return
	}
	zones := l.request.Zones
	p := l.p
	p.mu.Lock()
	for i := range out.Instances {
		x := &out.Instances[i]
		spot := x.Lifecycle == types.InstanceLifecycleSpot || x.Lifecycle == "" && l.request.Spot
		zone := aws.ToString(x.AvailabilityZone)
		asked := ""
		if o := overrides(x.LaunchTemplateAndOverrides); o != nil {
			asked = cmp.Or(aws.ToString(o.AvailabilityZone), zones[aws.ToString(o.SubnetId)])
			zone = cmp.Or(zone, asked)
		} else {
			asked = zone
		}
		m := p.market(l.place, p.asked(l.place, asked, zone, string(x.InstanceType), spot), string(x.InstanceType), spot)
		f := Facts{
			Account: l.place.account.ID, Region: l.place.region, Zone: zone, Type: string(x.InstanceType), Lifecycle: lifecycle(spot),
			Launched: l.now,
		}
		for _, id := range x.InstanceIds {
			l.start(id, f, m)
		}
		l.granted(m)
	}
	p.mu.Unlock()
	l.some, l.answered = len(out.Instances) > 0, true
	l.refusals(out.Errors)
	if len(out.Instances) == 0 && len(out.Errors) == 0 {
		l.failed(judge("UnfulfillableCapacity", "The fleet has no instances, and EC2 does not say why."), nil)
	}
}

func overrides(o *types.LaunchTemplateAndOverridesResponse) *types.FleetLaunchTemplateOverrides {
	if o == nil {
		return nil
	}
	return o.Overrides
}

// asked is the zone under which a market is known: that of the request, which
// may be none.
func (p *Provider) asked(pl *place, asked, zone, kind string, spot bool) string {
	if _, has := pl.markets[marketKey{asked, kind, spot}]; has {
		return asked
	}
	if _, has := pl.markets[marketKey{"", kind, spot}]; has {
		return ""
	}
	return cmp.Or(asked, zone)
}

// start notes an instance that was launched. The caller holds p.mu.
func (l *launching) start(id string, f Facts, m *market) {
	p := l.p
	if p.instances[id] == nil {
		m.launched++
	}
	i := p.add(l.now, l.place, id, l.in.PoolID, l.in.ID, f, m)
	capacity := max(l.request.Capacity[f.Type], 1)
	if len(l.request.Capacity) == 1 {
		for _, c := range l.request.Capacity { // the type may have been left to a template
			capacity = c
		}
	}
	price := m.dollars(p.config.OnDemandPrice)
	if m.spot && m.zone == "" { // then m has the price of the cheapest zone
		price = cmp.Or(l.place.spotPrice(f.Zone, f.Type), price)
	}
	l.started = append(l.started, fleet.Started{
		Ref: i.sighting.Ref, LaunchConfigID: l.in.LaunchConfigID, Capacity: capacity,
		Market: m.name, Price: millionths(price), Facts: i.sighting.Facts,
	})
}

// granted has a market that may have been closed open again. The caller holds
// p.mu.
func (l *launching) granted(m *market) {
	m.breaker.grant(l.now)
	m.quota.breaker.grant(l.now)
	if b := l.bound(); b != nil && b.own[m] != nil {
		b.own[m].grant(l.now)
	}
}

// bound is the launch configuration of the intent; nil if this process has not
// planned with it. The caller holds p.mu.
func (l *launching) bound() *bound { return l.p.pools[l.in.PoolID][l.in.LaunchConfigID] }

// refusals are the errors of a fleet: one for each market that was tried.
func (l *launching) refusals(list []types.CreateFleetError) {
	type group struct {
		v       verdict
		markets []*market
	}
	var groups []*group
	for _, e := range list {
		v := judge(aws.ToString(e.ErrorCode), aws.ToString(e.ErrorMessage))
		if transient[v.code] {
			// Part of an answer that is known: nothing was launched there.
			v.class = fleet.SoldOut
		}
		var m *market
		if o := overrides(e.LaunchTemplateAndOverrides); o != nil {
			spot := e.Lifecycle == types.InstanceLifecycleSpot || e.Lifecycle == "" && l.request.Spot
			l.p.mu.Lock()
			zone := cmp.Or(aws.ToString(o.AvailabilityZone), l.request.Zones[aws.ToString(o.SubnetId)])
			m = l.p.market(l.place, l.p.asked(l.place, zone, "", string(o.InstanceType), spot), string(o.InstanceType), spot)
			l.p.mu.Unlock()
		}
		if v.code == "Unsupported" && m != nil {
			// One of many combinations that does not exist is no fault of the pool.
			l.p.mu.Lock()
			l.close(m, v, offeringsEvery)
			l.p.mu.Unlock()
			continue
		}
		i := slices.IndexFunc(groups, func(g *group) bool { return g.v.code == v.code })
		if i < 0 {
			i = len(groups)
			groups = append(groups, &group{v: v})
		}
		if m != nil && !slices.Contains(groups[i].markets, m) {
			groups[i].markets = append(groups[i].markets, m)
		}
	}
	for _, g := range groups {
		if g.v.code == "UnfulfillableCapacity" && len(groups) > 1 {
			continue // the sum of the others
		}
		l.failed(g.v, g.markets)
	}
}

// fail takes an error of a call for one market.
func (l *launching) fail(err error, zone, kind string) {
	v := explainCall(err)
	l.p.mu.Lock()
	m := l.p.market(l.place, zone, kind, l.request.Spot)
	l.p.mu.Unlock()
	l.failed(v, []*market{m})
}

// close keeps from asking a market again for a while: for anybody if it is sold
// out, and only for the launch configuration if that is why. The caller holds
// p.mu.
func (l *launching) close(m *market, v verdict, least time.Duration) {
	m.refused++
	if v.class == fleet.SoldOut && !particular[v.code] {
		l.p.refuse(l.now, &m.breaker, least, v.text)
	} else if b := l.bound(); b != nil {
		if b.own[m] == nil {
			b.own[m] = &breaker{}
		}
		l.p.refuse(l.now, b.own[m], least, v.text)
	}
}

// quotas are those that markets have in common with others, or all that the
// request could use. The caller holds p.mu.
func (l *launching) quotas(markets []*market) (list []*quota) {
	for _, m := range markets {
		list = append(list, m.quota)
	}
	if len(markets) == 0 {
		for kind := range l.request.Capacity {
			list = append(list, l.place.quota(kind, l.request.Spot))
		}
	}
	slices.SortFunc(list, func(a, b *quota) int { return cmp.Compare(a.class, b.class) })
	return slices.Compact(list)
}

// failed reacts to a refusal, each class in its own way.
func (l *launching) failed(v verdict, markets []*market) {
	p := l.p
	p.mu.Lock()
	defer p.mu.Unlock()
	if v.unknown {
		l.unknown = true
		p.config.Log.Warn("the answer to a launch is not known; it is repeated", "intent", l.in.ID, "pool", l.in.PoolID, "region", l.place.region, "error", v.text)
		return
	}
	switch v.class {
	case fleet.Throttled, fleet.Denied:
		if v.class == fleet.Throttled {
			l.place.launches.throttled(l.now)
		}
		if l.in.Attempts > 0 && !l.answered {
			// This call was turned away at the door. What became of the one before
			// it is still not known.
			l.unknown = true
		}
	case fleet.SoldOut:
		var least time.Duration
		if v.code == "SpotMaxPriceTooLow" {
			least = pricesEvery
		}
		for _, m := range markets {
			l.close(m, v, least)
		}
	case fleet.Quota:
		for _, q := range l.quotas(markets) {
			p.refuse(l.now, &q.breaker, 0, v.text)
		}
	}
	if b := l.bound(); b != nil && l.request.Spot && (v.class == fleet.SoldOut || v.class == fleet.Quota) {
		b.spotRefused = l.now
	}
	title := ""
	if v.class == fleet.Wrong && l.some && len(markets) > 0 {
		// It is right for others. A pool that works in part goes on.
		for _, m := range markets {
			l.close(m, v, maxClosure)
		}
		v.class, title = fleet.SoldOut, "The provider refuses the launch configuration in a market"
	}
	f := fleet.Fault{Class: v.class, Title: title, LaunchConfigID: l.in.LaunchConfigID, Description: v.text, Extra: map[string]any{
		"code": v.code, "account": l.place.account.ID, "region": l.place.region,
	}}
	if len(markets) > 0 {
		f.Market = markets[0].name
		var names []string
		for _, m := range markets {
			names = append(names, m.name)
		}
		f.Extra["markets"] = names
	}
	l.faults = append(l.faults, f)
}
