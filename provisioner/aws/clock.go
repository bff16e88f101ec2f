package aws

import (
	"time"

	"github.com/taskfleet/taskfleet/timestamp"
)

// clockStep is by how much the clock has to go back before it counts.
const clockStep = time.Minute

// heed notices that the clock was set back. What was put off until a time is not
// to wait for that to come again: no launch, no sweep, no termination. The caller
// holds p.mu.
func (p *Provider) heed(now timestamp.Time) {
	back := p.latest.Sub(now)
	p.latest = max(p.latest, now)
	if back < clockStep {
		return
	}
	p.latest = now
	p.config.Log.Warn("the clock was set back; what was put off is due now", "by", back.String())
	for _, pl := range p.order {
		for _, b := range []*bucket{&pl.launches, &pl.launched, &pl.terminates, &pl.terminated, &pl.writes} {
			b.at, b.closed = now, 0
		}
		pl.turns, pl.lists = turnstile{}, pacer{}
		pl.sweep.next, pl.sweep.done = 0, min(pl.sweep.done, now)
		pl.news.next, pl.news.due, pl.news.loose = 0, [choreCount]timestamp.Time{}, nil
		for _, q := range pl.quotas {
			q.breaker = breaker{}
		}
		for _, m := range pl.markets {
			m.breaker, m.faded = breaker{}, min(m.faded, now)
		}
		for _, t := range pl.templates {
			t.retry, t.used = 0, min(t.used, now)
		}
	}
	clear(p.pools) // made anew from their definitions
	for _, i := range p.list {
		i.added, i.asked = min(i.added, now), min(i.asked, now)
	}
	for _, f := range p.flights {
		f.planned = min(f.planned, now)
	}
	for id, at := range p.ended {
		p.ended[id] = min(at, now)
	}
	for id, n := range p.notices {
		n.at = min(n.at, now)
		p.notices[id] = n
	}
}
