package aws

import (
	"fmt"
	"math"
	"time"

	"github.com/taskfleet/taskfleet/timestamp"
)

// A market is where machines of one type are bought in one way, for one
// account. It is remembered for as long as the process lives.
type market struct {
	place *place
	zone  string // "": any of the region
	kind  string // instance type
	spot  bool
	name  string

	breaker  breaker
	quota    *quota
	offered  bool    // false where EC2 says that the zone does not have the type
	price    float64 // dollars an hour, of spot, as last heard of; 0: not known
	launched int64
	refused  int64

	// Interruptions are counted against the hours of machines that could have
	// been interrupted, both fading with a half-life.
	interrupted float64
	hours       float64
	faded       timestamp.Time
}

// glimpse finds one, or shows what it would be: whoever just looks may name types
// that do not exist. The caller holds p.mu.
func (p *Provider) glimpse(pl *place, zone, kind string, spot bool) *market {
	if m := pl.markets[marketKey{zone, kind, spot}]; m != nil {
		return m
	}
	where, how := zone, "spot"
	if zone == "" {
		where = pl.region
	}
	if !spot {
		how = "on-demand"
	}
	m := &market{place: pl, zone: zone, kind: kind, spot: spot, offered: true, name: where + "/" + kind + "/" + how, quota: pl.quota(kind, spot)}
	if spot {
		m.price = pl.spotPrice(zone, kind)
	}
	return m
}

// market finds or makes one. The caller holds p.mu.
func (p *Provider) market(pl *place, zone, kind string, spot bool) *market {
	key := marketKey{zone, kind, spot}
	m := pl.markets[key]
	if m == nil {
		m = p.glimpse(pl, zone, kind, spot)
		pl.markets[key] = m
		pl.news.next, pl.news.due[spotPrices], pl.news.due[zoneOfferings] = 0, 0, 0
	}
	return m
}

type marketKey struct {
	zone, kind string
	spot       bool
}

const (
	hazardHalfLife = 6 * time.Hour
	priorHours     = 20.0 // of machines without interruption that every market is credited with
	rebalanceCount = 0.5  // what a rebalance recommendation counts, in interruptions
)

// fade lets old interruptions count less.
func (m *market) fade(now timestamp.Time) {
	if d := now.Sub(m.faded); m.faded == 0 || d > 10*time.Minute {
		if m.faded != 0 {
			f := math.Exp2(-float64(d) / float64(hazardHalfLife))
			m.interrupted *= f
			m.hours *= f
		}
		m.faded = now
	}
}

// hazard is the interruptions to expect in an hour of machine.
func (m *market) hazard() float64 { return m.interrupted / (m.hours + priorHours) }

// dollars is the price of an hour, as far as it is known.
func (m *market) dollars(list func(region, kind string) float64) float64 {
	if m.spot {
		return m.price
	}
	return list(m.place.region, m.kind)
}

// guess is the price, or what it may be where it is not known.
func (m *market) guess(list func(region, kind string) float64) float64 {
	if d := m.dollars(list); d > 0 {
		return d
	}
	d := list(m.place.region, m.kind)
	if d == 0 {
		n := int64(guessVCPUs)
		if m.kind != "" {
			n = vcpus(m.kind)
		}
		d = guessVCPU * float64(n)
	}
	if m.spot {
		d *= guessSpot
	}
	return d
}

// Where a price is not known.
const (
	guessVCPU  = 0.048 // dollars an hour of a virtual processor
	guessVCPUs = 4     // of a type that is not known
	guessSpot  = 0.35  // part of the on-demand price
)

// score is what a unit of work costs in a market, with what is lost by
// interruptions, and by trying where there are few: the lower the better.
func (m *market) score(s *spec, o *offer, list func(string, string) float64) float64 {
	price := max(m.guess(list), s.minPrice*o.utility)
	if m.spot {
		price *= m.place.scarce()
	}
	return price / (o.utility * float64(o.capacity)) * (1 + m.hazard())
}

// tooDear reports whether the pool does not want to pay the price.
func (m *market) tooDear(s *spec, o *offer, list func(string, string) float64) bool {
	return s.maxPrice > 0 && m.dollars(list) > s.maxPrice*o.utility
}

// A breaker keeps from asking again and again for what was refused. It closes
// for a while, twice as long each time, and then lets one request through: if
// that is granted it is open again.
type breaker struct {
	refusals int
	until    timestamp.Time // closed until then; 0: open
	probe    timestamp.Time // when a request was let through; 0: none since it closed
	reason   string
}

const (
	firstClosure = 30 * time.Second
	maxClosure   = 15 * time.Minute
	probeTimeout = time.Minute // for the answer to a request that was let through
)

// open reports whether anything may be asked for, and whether it is only one
// machine.
func (b *breaker) open(now timestamp.Time) (open, one bool) {
	switch {
	case b.until == 0:
		return true, false
	case now < b.until:
		return false, false
	case b.probe != 0 && now.Sub(b.probe) < probeTimeout:
		return false, false
	}
	return true, true
}

// lets reports whether anything may be asked for.
func (b *breaker) lets(now timestamp.Time) bool {
	open, _ := b.open(now)
	return open
}

// try notes that a request was let through.
func (b *breaker) try(now timestamp.Time) {
	if b.until != 0 {
		b.probe = now
	}
}

// retry is when a breaker that is not open may be.
func (b *breaker) retry(now timestamp.Time) timestamp.Time {
	if now < b.until {
		return b.until
	}
	return b.probe.Add(probeTimeout)
}

// refuse closes it. What is refused while it is closed was asked for before.
// jitter, from 0 to 1, spreads those that closed together.
func (b *breaker) refuse(now timestamp.Time, least time.Duration, jitter float64, reason string) {
	b.reason = reason
	if now < b.until {
		return
	}
	d := max(min(firstClosure<<min(b.refusals, 20), maxClosure), least)
	b.refusals++
	b.until = now.Add(d + time.Duration(jitter*0.25*float64(d)))
	b.probe = 0
}

// grant opens it again. A grant while it is closed was asked for before.
func (b *breaker) grant(now timestamp.Time) {
	if b.until != 0 && now >= b.until {
		*b = breaker{}
	}
}

// state says it for people.
func (b *breaker) state(now timestamp.Time) (state string, until timestamp.Time, reason string) {
	switch {
	case b.until == 0:
		return "open", 0, ""
	case now < b.until:
		return "closed", b.until, b.reason
	}
	return "probing", 0, b.reason
}

// refuse has a market, or what it shares with others, closed.
func (p *Provider) refuse(now timestamp.Time, b *breaker, least time.Duration, reason string) {
	b.refuse(now, least, p.random.Float64(), reason)
}

// millionths is a price as the books have it.
func millionths(dollars float64) int64 { return int64(math.Round(dollars * 1e6)) }

// bid is a maximum price. EC2 takes none of $0.001 or less.
func bid(d float64) string { return dollars(max(d, 0.0011)) }

func dollars(d float64) string { return fmt.Sprintf("%.4f", d) }
