package awsfake

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

// market is the state of a Market: its price, and whether there is capacity. It
// is stepped lazily from the cloud's epoch with streams of its own, so that it
// does not matter when, how often or by whom it is looked at.
type market struct {
	Market
	Conditions
	cloud   *Cloud
	machine *machine
	used    int

	open     bool
	until    time.Time // of the present spell
	spells   *rand.Rand
	forced   bool // sold out by SellOut
	pricedAt time.Time
	price    float64
	walk     *rand.Rand
	history  []pricePoint
}

type pricePoint struct {
	at    time.Time
	price float64
}

// priceStep is the time between changes of a spot price.
const priceStep = 30 * time.Minute

// market finds or makes the market of an existing type and zone.
func (c *Cloud) market(key Market) *market {
	if m := c.markets[key]; m != nil {
		return m
	}
	m := &market{Market: key, cloud: c, machine: machines()[key.Type], open: true, until: c.epoch, pricedAt: c.epoch}
	if c.config.Markets != nil {
		m.Conditions = c.config.Markets(key)
	}
	if m.Price <= 0 {
		m.Price = c.onDemand(key.Region, m.machine)
		if key.Spot {
			m.Price *= 0.35
		}
	}
	m.price = m.Price
	m.history = []pricePoint{{c.epoch, m.price}}
	name := fmt.Sprint(key.Zone, " ", key.Type, " ", key.Spot)
	if m.Closed > 0 {
		m.spells = c.draws.of("market " + name)
		m.until = c.epoch.Add(exponential(m.spells, float64(m.Open)))
	}
	if m.Volatility > 0 {
		m.walk = c.draws.of("price " + name)
	}
	c.markets[key] = m
	return m
}

// free is how many more instances the market gives now; want at most.
func (m *market) free(want int) int {
	if m.forced || !m.isOpen() {
		return 0
	}
	if m.Depth > 0 {
		return max(0, min(want, m.Depth-m.used))
	}
	return want
}

func (m *market) isOpen() bool {
	if m.spells == nil {
		return true
	}
	for !m.until.After(m.cloud.now) {
		m.open = !m.open
		mean := m.Closed
		if m.open {
			mean = m.Open
		}
		m.until = m.until.Add(max(exponential(m.spells, float64(mean)), time.Millisecond))
	}
	return m.open
}

// current is the price now. The logarithm of a spot price walks, pulled back
// to its level with a time constant of a day.
func (m *market) current() float64 {
	if m.walk == nil {
		return m.price
	}
	for step := m.pricedAt.Add(priceStep); !step.After(m.cloud.now); step = step.Add(priceStep) {
		m.pricedAt = step
		hours := priceStep.Hours()
		level := math.Log(m.price / m.Price)
		level += -level*hours/24 + m.walk.NormFloat64()*m.Volatility*math.Sqrt(hours)
		price := m.Price * math.Exp(level)
		price = min(max(price, m.Price/5), max(m.cloud.onDemand(m.Region, m.machine), m.Price))
		if price = math.Round(price*1e4) / 1e4; price != m.price {
			m.price = price
			m.history = append(m.history, pricePoint{step, price})
		}
	}
	return m.price
}

// SellOut makes a market sold out, or ends that, whatever its Conditions.
func (c *Cloud) SellOut(key Market, soldOut bool) {
	c.change(key, func(m *market) { m.forced = soldOut })
}

// SetDepth changes how many instances a market holds; 0 is no end.
func (c *Cloud) SetDepth(key Market, depth int) {
	c.change(key, func(m *market) { m.Depth = depth })
}

// SetPrice sets the price of a market and the level to which it returns.
func (c *Cloud) SetPrice(key Market, price float64) {
	c.change(key, func(m *market) {
		m.current()
		m.Price, m.price = price, price
		m.history = append(m.history, pricePoint{c.now, price})
	})
}

func (c *Cloud) change(key Market, f func(*market)) {
	c.enter()
	defer c.leave()
	if machines()[key.Type] != nil {
		f(c.market(key))
	}
}
