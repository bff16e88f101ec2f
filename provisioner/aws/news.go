package aws

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/servicequotas"

	"github.com/taskfleet/taskfleet/timestamp"
)

// news is what changes slowly and is read again now and then, one call at a
// time and only as far as the sweeps leave room for.
type news struct {
	next      timestamp.Time             // when something is due
	due       [choreCount]timestamp.Time // when each is
	prices    map[[2]string]float64      // of spot, by zone and type
	placement int32                      // of spot, EC2's score; 0: not known
	loose     map[string]timestamp.Time  // volumes and interfaces that nothing uses, since when
}

// A chore is one thing that is read again.
type chore struct {
	name  string
	every time.Duration
	lists bool // counts as a call that lists things
	// wanted is whether there is a reason; nil: always. p.mu is held.
	wanted func(*place) bool
	do     func(*Provider, context.Context, timestamp.Time, *place) error
}

const (
	pricesEvery    = 5 * time.Minute
	offeringsEvery = 24 * time.Hour
	quotasEvery    = time.Hour
	leaksEvery     = time.Hour
	cleanFirst     = 10 * time.Minute
	choreAgain     = time.Minute // after an error, or when there was no room
)

// In the order of urgency.
const (
	spotPrices = iota
	zoneOfferings
	accountQuotas
	placementScore
	launchTemplates
	looseVolumes
	looseInterfaces
	choreCount
)

var chores = [choreCount]chore{
	{"spot prices", pricesEvery, true, (*place).hasSpot, (*Provider).readPrices},
	{"offerings of instance types", offeringsEvery, true, (*place).hasMarkets, (*Provider).readOfferings},
	{"quotas", quotasEvery, false, (*place).hasQuotas, (*Provider).readQuotas},
	{"spot placement score", placementEvery, true, (*place).hasChoice, (*Provider).readPlacement},
	{"launch templates", templatesEvery, true, nil, (*Provider).sweepTemplates},
	{"volumes", leaksEvery, true, nil, (*Provider).sweepVolumes},
	{"network interfaces", leaksEvery, true, nil, (*Provider).sweepInterfaces},
}

func (pl *place) hasMarkets() bool { return len(pl.markets) > 0 }

func (pl *place) hasQuotas() bool { return pl.hasMarkets() && pl.Quotas != nil }

func (pl *place) hasSpot() bool {
	for k := range pl.markets {
		if k.spot {
			return true
		}
	}
	return false
}

// readNews does the chores that are due, as far as there is room.
func (p *Provider) readNews(ctx context.Context, now timestamp.Time, pl *place) {
	n := &pl.news
	p.mu.Lock()
	due := now >= n.next
	p.mu.Unlock()
	if !due {
		return
	}
	next := now.Add(choreAgain)
	for i := range chores {
		c := &chores[i]
		p.mu.Lock()
		if n.due[i] == 0 && i >= launchTemplates {
			n.due[i] = now.Add(cleanFirst) // what is known of markets is more urgent after a start
		}
		do := now >= n.due[i] && (c.wanted == nil || c.wanted(pl))
		if do && c.lists {
			if do = pl.lists.may(now, 1, pl.most()); !do {
				next = min(next, now.Add(time.Minute/listsAMinute))
			}
		}
		if do {
			n.due[i] = now.Add(c.every)
		}
		p.mu.Unlock()
		if !do {
			continue
		}
		if err := c.do(p, ctx, now, pl); err != nil {
			p.config.Log.Warn("could not be read; it is tried again", "what", c.name, "account", pl.account.ID, "region", pl.region, "error", explainCall(err).text)
			p.mu.Lock()
			n.due[i] = now.Add(min(c.every, 10*choreAgain))
			p.mu.Unlock()
		}
	}
	p.mu.Lock()
	n.next = next
	p.mu.Unlock()
}

// called counts a call that lists things.
func (p *Provider) called(now timestamp.Time, pl *place) {
	p.mu.Lock()
	pl.lists.called(now)
	p.mu.Unlock()
}

// kinds are the instance types of a place's markets, in order.
func (p *Provider) kinds(pl *place, spot bool) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []string
	for k := range pl.markets {
		if k.kind != "" && (k.spot || !spot) && !slices.Contains(all, k.kind) {
			all = append(all, k.kind)
		}
	}
	slices.Sort(all)
	return all[:min(len(all), mostFilterValues)]
}

// mostFilterValues is how many values EC2 takes in a filter. More instance types
// than these in one place go without prices and offerings.
const mostFilterValues = 200

// readPrices reads what spot machines cost.
func (p *Provider) readPrices(ctx context.Context, now timestamp.Time, pl *place) error {
	in := &ec2.DescribeSpotPriceHistoryInput{
		Filters:             []types.Filter{filter("instance-type", p.kinds(pl, true)...)},
		ProductDescriptions: []string{"Linux/UNIX"}, // of others the relation is much the same
		StartTime:           aws.Time(now.Time()), MaxResults: aws.Int32(pageSize),
	}
	prices := map[[2]string]float64{}
	at := map[[2]string]time.Time{}
	for {
		p.called(now, pl)
		out, err := pl.EC2.DescribeSpotPriceHistory(ctx, in)
		if err != nil {
			return fmt.Errorf("read spot prices: %w", err)
		}
		for _, x := range out.SpotPriceHistory {
			key := [2]string{aws.ToString(x.AvailabilityZone), string(x.InstanceType)}
			price, err := strconv.ParseFloat(aws.ToString(x.SpotPrice), 64)
			if err != nil || x.Timestamp != nil && x.Timestamp.Before(at[key]) {
				continue
			}
			prices[key] = price
			if x.Timestamp != nil {
				at[key] = *x.Timestamp
			}
		}
		if aws.ToString(out.NextToken) == "" {
			break
		}
		in.NextToken = out.NextToken
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	pl.news.prices = prices
	for _, m := range pl.markets {
		if m.spot {
			if price := pl.spotPrice(m.zone, m.kind); price > 0 {
				m.price = price
			}
		}
	}
	return nil
}

// spotPrice is the last known price; of a market without a zone that of the
// cheapest.
func (pl *place) spotPrice(zone, kind string) float64 {
	if zone != "" {
		return pl.news.prices[[2]string{zone, kind}]
	}
	low := 0.0
	for k, price := range pl.news.prices {
		if k[1] == kind && (low == 0 || price < low) {
			low = price
		}
	}
	return low
}

// readOfferings reads which zones have which instance types.
func (p *Provider) readOfferings(ctx context.Context, now timestamp.Time, pl *place) error {
	kinds := p.kinds(pl, false)
	p.called(now, pl)
	zones, err := offerings(ctx, pl, kinds)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range pl.markets {
		if slices.Contains(kinds, m.kind) {
			_, m.offered = zones[m.kind][m.zone]
			if m.zone == "" {
				m.offered = len(zones[m.kind]) > 0
			}
		}
	}
	return nil
}

// offerings says which zones of a place have which instance types.
func offerings(ctx context.Context, pl *place, kinds []string) (map[string]map[string]bool, error) {
	in := &ec2.DescribeInstanceTypeOfferingsInput{
		LocationType: types.LocationTypeAvailabilityZone, Filters: []types.Filter{filter("instance-type", kinds...)}, MaxResults: aws.Int32(pageSize),
	}
	zones := map[string]map[string]bool{}
	for {
		out, err := pl.EC2.DescribeInstanceTypeOfferings(ctx, in)
		if err != nil {
			return nil, fmt.Errorf("read which instance types are offered: %w", err)
		}
		for _, o := range out.InstanceTypeOfferings {
			kind := string(o.InstanceType)
			if zones[kind] == nil {
				zones[kind] = map[string]bool{}
			}
			zones[kind][aws.ToString(o.Location)] = true
		}
		if aws.ToString(out.NextToken) == "" {
			return zones, nil
		}
		in.NextToken = out.NextToken
	}
}

// readQuotas reads how many virtual processors the account may have.
func (p *Provider) readQuotas(ctx context.Context, _ timestamp.Time, pl *place) error {
	for i, code := range quotaCodes {
		out, err := pl.Quotas.GetServiceQuota(ctx, &servicequotas.GetServiceQuotaInput{ServiceCode: aws.String("ec2"), QuotaCode: aws.String(code)})
		if err != nil {
			return fmt.Errorf("read quota %s: %w", code, err)
		}
		if out.Quota != nil && out.Quota.Value != nil {
			p.mu.Lock()
			pl.quota(standard, i == 1).limit = int64(*out.Quota.Value)
			p.mu.Unlock()
		}
	}
	return nil
}
