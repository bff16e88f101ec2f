package aws

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A flight is an intent of this process without an answer yet.
type flight struct {
	place   *place
	planned timestamp.Time
	paid    bool   // the tokens for a call have been taken
	quota   *quota // nil: of an intent of a process before this
	vcpus   int64
	workers int64
}

// A lane is a way to get some of what is needed: a launch configuration, on
// demand or spot.
type lane struct {
	*bound
	spot     bool
	open     []int // offers that may be had now
	half     []int // offers of markets that may be open again, for one machine each
	score    float64
	workers  int64 // most
	room     int64 // most capacity
	existing int64
	deficit  float64
}

// Plan makes intents for what a pool needs.
func (p *Provider) Plan(ctx context.Context, now timestamp.Time, n fleet.Need) (fleet.Plan, error) {
	if n.Capacity <= 0 || n.Room <= 0 {
		return fleet.Plan{}, nil
	}
	plan := planning{p: p, now: now, pool: n.Pool.ID, provider: n.Pool.ProviderID}
	p.mu.Lock()
	candidates := make([]candidate, 0, len(n.From))
	for _, c := range n.From {
		b, err := p.bind(n.Pool, c.LaunchConfig)
		if err != nil {
			plan.complain(fleet.KindConfig, c.ID, "The launch configuration cannot be used", err.Error())
			continue
		}
		b.used = now
		candidates = append(candidates, candidate{c, b})
	}
	p.mu.Unlock()
	candidates = slices.DeleteFunc(candidates, func(c candidate) bool { return !p.prepare(ctx, now, c.bound, &plan) })

	p.mu.Lock()
	defer p.mu.Unlock()
	var lanes []*lane
	for _, c := range candidates {
		if l := plan.lane(c, n.Waiting); l != nil {
			lanes = append(lanes, l)
		}
	}
	plan.fill(lanes, n.Capacity, n.Room)
	switch {
	case len(plan.Intents) > 0:
	case plan.unused > 0 && plan.unused == len(n.From):
		plan.complain(fleet.KindConfig, "", "No launch configuration is used", "All have the initialWeight 0. Give one a greater weight.")
	case plan.why != "":
		plan.complain(plan.kind, plan.about, "No worker can be had now", plan.why)
	}
	return plan.Plan, nil
}

type candidate struct {
	fleet.Candidate
	*bound
}

// planning is one Plan at work.
type planning struct {
	fleet.Plan
	p                *Provider
	now              timestamp.Time
	pool             string // its id
	provider         string
	unused           int    // launch configurations with the weight 0
	why, about, kind string // nothing can be launched, of which, and what kind of trouble that is
}

func (l *planning) complain(kind, launchConfigID, title, description string) {
	for _, c := range l.Complaints {
		if c.Kind == kind && c.LaunchConfigID == launchConfigID {
			return
		}
	}
	l.Complaints = append(l.Complaints, fleet.Complaint{Kind: kind, LaunchConfigID: launchConfigID, Title: title, Description: description})
}

// lane finds out what can be had of a candidate; nil if nothing.
func (l *planning) lane(c candidate, waiting time.Duration) *lane {
	b := c.bound
	out := &lane{bound: b, workers: c.Workers, room: b.most - c.Existing, existing: c.Existing}
	switch {
	case b.weight == 0:
		l.unused++
		return nil
	case out.room < b.capacity || out.workers < 1:
		return nil // there is as much of it as there may be
	}
	if b.place.blind(l.now) {
		l.Retry = earlier(l.Retry, b.place.sweep.next)
		l.complain(kinds[b.place.sweep.why.class], c.ID, "Instances cannot be listed", fmt.Sprintf("Nothing is launched in %s of account %s, because what is launched there could not be seen. %s",
			b.region, b.account, b.place.sweep.why.text))
		return nil
	}
	var retry timestamp.Time
	var why, kind string
	for _, spot := range b.ways(l.now, waiting) {
		r, w, k := l.look(out, spot)
		if len(out.open)+len(out.half) > 0 {
			return out
		}
		retry, why, kind = earlier(retry, r), cmp.Or(why, w), cmp.Or(kind, k)
	}
	if b.spot && b.onDemand && waiting < b.after {
		why += fmt.Sprintf(" When a task has waited for %v, workers are bought on demand (ondemandAfter).", b.after)
		if waiting > 0 {
			retry = earlier(retry, l.now.Add(b.after-waiting))
		}
	}
	l.Retry = earlier(l.Retry, retry)
	l.because(c.ID, kind, why)
	return nil
}

// because keeps the first reason for which there is nothing.
func (l *planning) because(launchConfigID, kind, why string) {
	if l.why == "" {
		l.about, l.kind, l.why = launchConfigID, kind, why
	}
}

// ways are how to pay, as spot or not, the first choice first. On demand is bought
// when tasks have waited for spot machines as long as they may: if there are none
// at the moment, and rather than them if there were too few not long ago. A long
// queue alone is no reason to pay more.
func (b *bound) ways(now timestamp.Time, waiting time.Duration) []bool {
	switch {
	case !b.spot:
		return []bool{false}
	case !b.onDemand || waiting < b.after:
		return []bool{true}
	case b.spotRefused != 0 && now.Sub(b.spotRefused) < max(b.after, 2*time.Minute):
		return []bool{false, true}
	}
	return []bool{true, false}
}

// look finds the offers of a lane that may be had now. If there are none it
// says when there may be some, why, and what kind of trouble that is.
func (l *planning) look(out *lane, spot bool) (retry timestamp.Time, why, kind string) {
	p := l.p
	kind = fleet.KindCapacity
	out.spot, out.open, out.half, out.score = spot, nil, nil, math.Inf(1)
	dear := 0
	for i := range out.offers {
		o := &out.offers[i]
		m := out.markets[index(spot)][i]
		if !m.offered {
			continue
		}
		if m.tooDear(out.spec, o, p.config.OnDemandPrice) {
			dear++
			continue
		}
		if q := &m.quota.breaker; !q.lets(l.now) {
			retry = earlier(retry, q.retry(l.now))
			if why == "" {
				why, kind = q.reason, fleet.KindQuota
			}
			continue
		}
		closed := &m.breaker
		open, one := closed.open(l.now)
		if own := out.own[m]; open && own != nil {
			closed = own
			var half bool
			open, half = own.open(l.now)
			one = one || half
		}
		switch {
		case !open:
			retry = earlier(retry, closed.retry(l.now))
			if why == "" {
				why = fmt.Sprintf("All of its markets are closed, for a while each, such as %s: %s More instance types, zones or regions help.", m.name, closed.reason)
			}
			continue
		case one:
			out.half = append(out.half, i)
		default:
			out.open = append(out.open, i)
		}
		out.score = min(out.score, m.score(out.spec, o, p.config.OnDemandPrice))
	}
	if why == "" && dear > 0 {
		retry = l.now.Add(pricesEvery)
		why = fmt.Sprintf("What is open costs more than maxPrice, $%g for a unit of utility, in %d markets. Raise maxPrice, or add instance types.", out.maxPrice, dear)
	} else if why == "" {
		why = "None of its instance types is offered in its availability zones. `taskfleet provisioner pools validate` says which are."
	}
	return retry, why, kind
}

// preference is how much more often the cheaper of two launch configurations is
// taken: by the power of the quotient of their scores. A tenth cheaper is about
// half as much more.
const preference = 4

// parts is how many calls a need is spread over at most, unless one lane cannot
// do its part: as many as the limit on requests allows at once.
const parts = 3

// fill has the lanes bring what is needed, each its share: by initialWeight, and
// by what a unit of work costs there. What there is of them already counts.
func (l *planning) fill(lanes []*lane, need, room int64) {
	if len(lanes) > 1 {
		best := math.Inf(1)
		existing, total := need, 0.0
		for _, x := range lanes {
			best = min(best, x.score)
			existing += x.existing
		}
		for _, x := range lanes {
			x.deficit = x.weight * math.Pow(best/x.score, preference)
			total += x.deficit
		}
		for _, x := range lanes {
			x.deficit = x.deficit/total*float64(existing) - float64(x.existing)
		}
		slices.SortStableFunc(lanes, func(a, b *lane) int { return cmp.Compare(b.deficit, a.deficit) })
	}
	// First what each is behind with, in parts that are worth a call; then
	// whoever can takes the rest.
	least := (need + parts - 1) / parts
	if len(lanes) == 1 {
		least = need
	}
	for _, x := range lanes {
		part := max(least, int64(math.Ceil(x.deficit)))
		got := l.buy(x, min(part, need), room)
		need, room = need-got, room-got
		if need <= 0 || room <= 0 {
			return
		}
	}
	for _, x := range lanes {
		got := l.buy(x, need, room)
		need, room = need-got, room-got
		if need <= 0 || room <= 0 {
			return
		}
	}
}

// most workers that one call asks for.
const mostAtOnce = 1000

// most capacity that a fleet may have as its target, where that is not machines.
const mostTarget = 10_000

// buy makes intents for up to need capacity in a lane, as far as limits allow,
// and returns how much that is.
func (l *planning) buy(x *lane, need, room int64) (got int64) {
	room = min(room, x.room)
	open := x.fitting(x.open, room)
	// A market that may be open again is tried with one machine: if nothing else
	// is, or beside others.
	if i := x.best(l.p, x.fitting(x.half, room)); i >= 0 && (len(open) == 0 || need > x.offers[i].capacity && l.better(x, i, open)) {
		o := &x.offers[i]
		if l.afford(x, 1) == 1 && l.within(x, 1, i) == 1 {
			m := x.markets[index(x.spot)][i]
			m.breaker.try(l.now)
			if own := x.own[m]; own != nil {
				own.try(l.now)
			}
			got += l.intend(x, []int{i}, 1, o.capacity)
		}
		x.half = slices.DeleteFunc(x.half, func(j int) bool { return j == i })
	}
	if open = x.fitting(open, room-got); len(open) == 0 || need <= got || x.workers < 1 {
		return got
	}
	open = x.choice(l.p, open)
	least, most := x.capacities(open)
	// A fleet of machines of different capacity may exceed its target by a machine
	// but one unit.
	target := min(need-got, room-got-(most-1))
	if target < 1 {
		open = slices.DeleteFunc(slices.Clone(open), func(i int) bool { return x.offers[i].capacity > least })
		most = least
		target = min(need-got, room-got)
	}
	if least != most {
		target = min(target, mostTarget)
	}
	workers := (target + least - 1) / least
	if least == most {
		workers = min(workers, (room-got)/least)
	}
	workers = min(workers, x.workers, mostAtOnce)
	if workers = l.afford(x, workers); workers > 0 {
		workers = l.within(x, workers, open[0])
	}
	if workers < 1 {
		return got
	}
	return got + l.intend(x, open, workers, min(target, workers*least))
}

// EC2 does not know what a machine is worth to us, nor what we have seen of its
// market. So it is given the best of them to choose from: as many as make for
// a good choice, and those that are about as good.
const (
	goodChoice = 10
	aboutAsLow = 1.5 // times the lowest score
)

// choice is what EC2 is given to choose from, the best first.
func (x *lane) choice(p *Provider, offers []int) []int {
	type scored struct {
		offer int
		score float64
	}
	all := make([]scored, len(offers))
	for k, i := range offers {
		all[k] = scored{i, x.markets[index(x.spot)][i].score(x.spec, &x.offers[i], p.config.OnDemandPrice)}
	}
	slices.SortStableFunc(all, func(a, b scored) int { return cmp.Compare(a.score, b.score) })
	var out []int
	for k, s := range all {
		if k < goodChoice || s.score <= all[0].score*aboutAsLow {
			out = append(out, s.offer)
		}
	}
	return out
}

// fitting are those of the offers that are not larger than room.
func (x *lane) fitting(offers []int, room int64) []int {
	for _, i := range offers {
		if x.offers[i].capacity > room {
			return slices.DeleteFunc(slices.Clone(offers), func(i int) bool { return x.offers[i].capacity > room })
		}
	}
	return offers
}

func (x *lane) capacities(offers []int) (least, most int64) {
	for _, i := range offers {
		c := x.offers[i].capacity
		most = max(most, c)
		if least == 0 || c < least {
			least = c
		}
	}
	return least, most
}

// best is the offer with the lowest score; -1 if there is none.
func (x *lane) best(p *Provider, offers []int) int {
	found, low := -1, math.Inf(1)
	for _, i := range offers {
		if s := x.markets[index(x.spot)][i].score(x.spec, &x.offers[i], p.config.OnDemandPrice); found < 0 || s < low {
			found, low = i, s
		}
	}
	return found
}

// better reports whether an offer costs less than all the others.
func (l *planning) better(x *lane, i int, others []int) bool {
	markets, list := x.markets[index(x.spot)], l.p.config.OnDemandPrice
	s := markets[i].score(x.spec, &x.offers[i], list)
	for _, j := range others {
		if markets[j].score(x.spec, &x.offers[j], list) <= s {
			return false
		}
	}
	return true
}

// afford is how many of the workers the limits on requests allow now. If there
// are none the pool gets its turn later.
func (l *planning) afford(x *lane, workers int64) int64 {
	pl := x.place
	ahead := pl.turns.ahead(l.now, l.pool)
	calls, machines := pl.launches.left(l.now), pl.launched.left(l.now)
	if others := pl.turns.others(l.pool); others > 0 && machines < workers*(others+1) {
		machines = max(machines/(others+1), min(machines-ahead, 1))
	}
	if calls <= ahead || machines < 1 {
		pl.turns.wait(l.now, l.pool)
		l.Retry = earlier(l.Retry, max(pl.launches.retry(l.now, ahead+1), pl.launched.retry(l.now, 1)))
		return 0
	}
	if machines < workers {
		pl.turns.served(l.pool)
		pl.turns.wait(l.now, l.pool)
		l.Retry = earlier(l.Retry, pl.launched.retry(l.now, 1))
		return machines
	}
	pl.turns.served(l.pool)
	return workers
}

// within is how many of the workers the account's quota allows, of those of an
// offer.
func (l *planning) within(x *lane, workers int64, offer int) int64 {
	o := &x.offers[offer]
	q := x.markets[index(x.spot)][offer].quota
	if _, one := q.breaker.open(l.now); one {
		workers = 1
	}
	each := vcpus(o.kind)
	if q.limit == 0 || each == 0 {
		return workers
	}
	if left := max(0, (q.limit-q.used-q.planned)/each); left < workers {
		l.Retry = earlier(l.Retry, l.now.Add(30*time.Second))
		if left == 0 {
			l.complain(fleet.KindQuota, x.id, "The account's quota is exhausted", fmt.Sprintf("Account %s may have %d virtual processors %s in %s; the provisioner's instances have %d, and an %s needs %d. Raise the quota (%s), or use another account or region.",
				x.place.account.ID, q.limit, howOf(x.spot), x.place.region, q.used+q.planned, o.kind, each, quotaCodes[index(x.spot)]))
		}
		return left
	}
	return workers
}

func howOf(spot bool) string {
	if spot {
		return "as spot"
	}
	return "on demand"
}

// intend makes an intent, takes what it costs from the limits, and returns its
// capacity.
func (l *planning) intend(x *lane, offers []int, workers, capacity int64) int64 {
	p, pl := l.p, x.place
	if len(offers) == 1 {
		capacity = workers * x.offers[offers[0]].capacity
	} else if least, most := x.capacities(offers); least == most {
		capacity = workers * least
	}
	id := p.newID()
	in := &fleet.Intent{
		ID: id, PoolID: l.pool, ProviderID: l.provider, LaunchConfigID: x.id,
		Workers: workers, Capacity: capacity, Created: l.now,
		Request: x.request(id, x.spot, offers, workers, capacity),
	}
	pl.launches.take(1)
	pl.launched.take(workers)
	m := x.markets[index(x.spot)][offers[0]]
	f := &flight{place: pl, planned: l.now, paid: true, quota: m.quota, vcpus: workers * vcpus(m.kind), workers: workers}
	f.quota.planned += f.vcpus
	for _, i := range offers {
		x.markets[index(x.spot)][i].quota.breaker.try(l.now)
	}
	p.flights[id] = f
	l.Intents = append(l.Intents, in)
	x.workers -= workers
	x.room -= capacity
	return capacity
}

// newID is one that never was before.
func (p *Provider) newID() string {
	var b [16]byte
	for i := range b {
		b[i] = byte(p.random.Uint32())
	}
	return hex.EncodeToString(b[:])
}
