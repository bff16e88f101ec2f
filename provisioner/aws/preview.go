package aws

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/timestamp"
)

// pretended is the pool of a configuration that no pool has yet.
var pretended = &fleet.Pool{ID: "provisioner-id/worker-type", ProviderID: "provider-id", Owner: "owner@example.com"}

// shown is a request as Preview shows it: with what it refers to.
type shown struct {
	request
	LaunchTemplate any             `json:"launchTemplate,omitempty"` // its data
	UserData       json.RawMessage `json:"userData"`                 // decoded
}

// Preview shows each combination of availability zone, instance type and way of
// paying with the request for one such machine, and a placeholder for the pool,
// the intent and so on.
func (p *Provider) Preview(_ context.Context, config json.RawMessage) ([]fleet.Spec, error) {
	all, err := p.bindAll(config, p.glimpse)
	if err != nil {
		return nil, err
	}
	specs := []fleet.Spec{}
	for _, b := range all {
		for _, spot := range []bool{true, false} {
			for i := range b.markets[index(spot)] {
				o := &b.offers[i]
				text, err := b.preview(p, spot, i)
				if err != nil {
					return nil, err
				}
				specs = append(specs, fleet.Spec{
					LaunchConfigID: b.id, Market: b.markets[index(spot)][i].name, Capacity: o.capacity, Utility: o.utility, Request: text,
				})
			}
		}
	}
	return specs, nil
}

func (b *bound) preview(p *Provider, spot bool, i int) (json.RawMessage, error) {
	var s shown
	if err := json.Unmarshal(b.request("intent-id", spot, []int{i}, 1, b.offers[i].capacity), &s.request); err != nil {
		return nil, err
	}
	further := b.runData
	if b.run == nil {
		t := b.offers[i].template
		further = b.spec.templates[t].userData
		data, err := compact(b.fleet[t].data)
		if err != nil {
			return nil, err
		}
		s.LaunchTemplate = json.RawMessage(data)
	}
	text, err := p.userData(pretended.ID, pretended.ProviderID, b.region, further)
	if err != nil {
		return nil, err
	}
	s.UserData = json.RawMessage(strings.TrimPrefix(text, "#cloud-config\n"))
	return json.Marshal(s)
}

// bindAll makes the specs of a configuration that may be of no pool.
func (p *Provider) bindAll(config json.RawMessage, find marketFinder) ([]*bound, error) {
	list, err := split(config)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []*bound
	for _, c := range list {
		s, err := p.compile(c.at, c.launchConfig)
		if err != nil {
			return nil, err
		}
		b, err := p.bindSpec(pretended, s, find)
		if err != nil {
			return nil, err
		}
		b.at = c.at
		all = append(all, b)
	}
	return all, nil
}

// Markets are those of a pool's configuration, as they are now.
func (p *Provider) Markets(_ context.Context, now timestamp.Time, config json.RawMessage) ([]fleet.Market, error) {
	all, err := p.bindAll(config, p.market)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	list := []fleet.Market{}
	seen := map[*market]bool{}
	for _, b := range all {
		for _, markets := range b.markets {
			for i, m := range markets {
				if seen[m] {
					continue
				}
				seen[m] = true
				o := &b.offers[i]
				x := fleet.Market{
					Name: m.name, Capacity: o.capacity, Utility: o.utility, Price: millionths(m.dollars(p.config.OnDemandPrice)),
					Launched: m.launched, Refused: m.refused, Interrupt: m.hazard(),
				}
				x.State, x.Until, x.Reason = m.breaker.state(now)
				switch {
				case !m.offered:
					x.State, x.Reason = "closed", "The instance type is not offered there."
				case x.State == "open" && m.tooDear(b.spec, o, p.config.OnDemandPrice):
					x.State, x.Reason = "closed", fmt.Sprintf("It costs $%s an hour, more than maxPrice allows, $%s.", dollars(m.dollars(p.config.OnDemandPrice)), dollars(b.maxPrice*o.utility))
				case x.State == "open":
					x.State, x.Until, x.Reason = m.quota.breaker.state(now)
				}
				list = append(list, x)
			}
		}
	}
	return list, nil
}
