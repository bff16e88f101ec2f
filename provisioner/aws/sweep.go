package aws

import (
	"context"
	"errors"
	"maps"
	"regexp"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"

	"github.com/taskfleet/taskfleet/timestamp"
)

// sweep is the state of the sweeps of a place.
type sweep struct {
	number   uint64         // of the last
	next     timestamp.Time // when there is another
	done     timestamp.Time // when the last one succeeded; 0: none has
	failures int            // in a row
	why      verdict        // on the last failure
	wanted   bool           // some instances are to be looked at by themselves
}

const (
	sweepEvery   = time.Minute
	pageSize     = 1000
	listsAMinute = 3 // calls that list things, by place, with up to 2,000 instances
)

// blindAfter is how long instances are launched where they cannot be listed.
const blindAfter = 5 * time.Minute

// blind reports whether nothing is to be launched at a place, because it could
// not be seen.
func (pl *place) blind(now timestamp.Time) bool {
	return pl.sweep.failures > 0 && (pl.sweep.done == 0 || now.Sub(pl.sweep.done) >= blindAfter)
}

// most is how many calls that list things are made in a minute: what a sweep
// needs and one more, or as many as all need that are of ordinary size.
func (pl *place) most() int { return max(listsAMinute, (pl.count+pageSize-1)/pageSize+1) }

// due reports whether there is something to do at a place.
func (p *Provider) due(now timestamp.Time, pl *place) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heed(now)
	return now >= pl.sweep.next || pl.sweep.wanted || now >= pl.news.next
}

// tend does what is due at a place: the sweep first, then what else fits into
// the limit on calls that list things.
func (p *Provider) tend(ctx context.Context, now timestamp.Time, pl *place) {
	if !pl.tended.TryLock() {
		return // somebody else is at it
	}
	defer pl.tended.Unlock()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	p.mu.Lock()
	sweep := now >= pl.sweep.next
	p.mu.Unlock()
	if sweep {
		err := p.sweepPlace(ctx, now, pl)
		p.mu.Lock()
		if err != nil {
			pl.sweep.failures++
			pl.sweep.why = explainCall(err)
			pl.sweep.next = now.Add(min(time.Duration(pl.sweep.failures)*20*time.Second, sweepEvery))
		} else {
			pl.sweep.failures, pl.sweep.done = 0, now
			pl.sweep.next = now.Add(sweepEvery)
		}
		p.mu.Unlock()
		if err != nil {
			p.config.Log.Error("instances could not be listed; workers there are as they were last seen", "account", pl.account.ID, "region", pl.region, "error", explainCall(err).text)
			return
		}
	}
	p.lookAtWanted(ctx, now, pl)
	p.readNews(ctx, now, pl)
}

// sweepPlace lists the cluster's instances that have not ended, and sees what is
// not among them.
func (p *Provider) sweepPlace(ctx context.Context, now timestamp.Time, pl *place) error {
	p.mu.Lock()
	pl.sweep.number++
	number, first := pl.sweep.number, pl.sweep.done == 0
	p.mu.Unlock()
	in := &ec2.DescribeInstancesInput{Filters: []types.Filter{
		filter("instance-state-name", "pending", "running", "shutting-down", "stopping", "stopped"),
		filter("tag:"+tagCluster, p.config.Cluster),
	}, MaxResults: aws.Int32(pageSize)}
	for {
		p.mu.Lock()
		pl.lists.called(now)
		p.mu.Unlock()
		out, err := pl.EC2.DescribeInstances(ctx, in)
		if err != nil {
			return err
		}
		p.mu.Lock()
		for r := range out.Reservations {
			list := out.Reservations[r].Instances
			for k := range list {
				if i := p.show(now, pl, &list[k], true); i != nil {
					i.shown = number
					if first {
						p.spent(now, pl, i)
					}
				}
			}
		}
		p.mu.Unlock()
		if aws.ToString(out.NextToken) == "" {
			break
		}
		in.NextToken = out.NextToken
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for k := 0; k < len(p.list); k++ {
		i := p.list[k]
		if i.place != pl {
			continue
		}
		if i.shown == number {
			if m := i.market; m != nil && m.spot {
				m.hours += sweepEvery.Hours()
			}
		} else if i.added < now && i.state != terminated {
			p.absent(i)
		}
	}
	for _, m := range pl.markets {
		m.fade(now)
	}
	for id, at := range p.ended {
		if now.Sub(at) > forgetEnded {
			delete(p.ended, id)
		}
	}
	for id, n := range p.notices {
		if now.Sub(n.at) > keepNotice {
			delete(p.notices, id)
		}
	}
	for pool, all := range p.pools {
		maps.DeleteFunc(all, func(_ string, b *bound) bool { return now.Sub(b.used) > forgetBound })
		if len(all) == 0 {
			delete(p.pools, pool)
		}
	}
	for id, f := range p.flights {
		if age := now.Sub(f.planned); age > forgetFlight || f.paid && age > forgetPlanned {
			p.land(id)
		}
	}
	return nil
}

// forgetBound is when a launch configuration that is not planned with any more
// is forgotten; it can be made again.
const forgetBound = time.Hour

// When an intent is not expected to be launched any more: one that has been,
// without a clear answer, and one that has not.
const (
	forgetFlight  = time.Hour
	forgetPlanned = 2 * time.Minute
)

// spent takes what was launched before this process from the limits. The caller
// holds p.mu.
func (p *Provider) spent(now timestamp.Time, pl *place, i *instance) {
	full := time.Duration(pl.launched.size / pl.launched.refill * float64(time.Second))
	if age := now.Sub(i.facts.Launched); age >= 0 && age < full && pl.launched.left(now) > 0 {
		pl.launched.take(1)
	}
}

// absent is called for an instance that a sweep has not shown. The caller holds
// p.mu.
func (p *Provider) absent(i *instance) {
	i.absent++
	if i.state == shuttingDown && i.visible && (i.asked != 0 || i.taken || i.reason != "") {
		// What has been shutting down and is no longer among those that have not
		// terminated has terminated, and it is known why.
		p.end(i)
		return
	}
	i.wanted = true
	i.place.sweep.wanted = true
}

// mostAtALook is how many instances DescribeInstances looks at by id.
const mostAtALook = 1000

// lookAtWanted looks at instances by themselves.
func (p *Provider) lookAtWanted(ctx context.Context, now timestamp.Time, pl *place) {
	p.mu.Lock()
	if !pl.sweep.wanted || pl.sweep.done == 0 || !pl.lists.may(now, 1, pl.most()) {
		p.mu.Unlock()
		return
	}
	var ids []string
	for _, i := range p.list {
		if i.place == pl && i.wanted && len(ids) < mostAtALook {
			ids = append(ids, i.sighting.WorkerID)
		}
	}
	pl.sweep.wanted = len(ids) == mostAtALook
	if len(ids) > 0 {
		pl.lists.called(now)
	}
	p.mu.Unlock()
	if len(ids) == 0 {
		return
	}
	found, missing, err := describe(ctx, pl, ids)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		pl.sweep.wanted = true
		p.config.Log.Warn("instances could not be looked at", "account", pl.account.ID, "region", pl.region, "error", explainCall(err).text)
		return
	}
	for r := range found {
		for k := range found[r].Instances {
			p.show(now, pl, &found[r].Instances[k], true)
		}
	}
	for _, id := range missing {
		if i := p.instances[id]; i != nil && i.place == pl {
			p.notFound(now, i)
		}
	}
	if len(missing) > 0 && len(missing) < len(ids) {
		pl.sweep.wanted = true // those that are there
	}
}

// graceVisible is how long an instance may take to become visible. EC2 promises
// nothing; most do in seconds, and few in minutes.
const (
	graceVisible = 2 * time.Minute
	graceProven  = 30 * time.Minute // for one that has identified itself
)

// notFound is called for an instance that EC2 does not find by its id. The
// caller holds p.mu.
func (p *Provider) notFound(now timestamp.Time, i *instance) {
	i.wanted = false
	i.missing++
	if i.over != 0 {
		p.end(i)
		return
	}
	if i.absent < 2 {
		return // the next sweep asks again
	}
	if i.unsure {
		for n := i.tried + 1; n < len(p.order); n++ {
			if pl := p.order[n]; pl.region == i.place.region {
				i.move(pl)
				i.tried, i.absent, i.missing = n, 0, 0
				return
			}
		}
		p.lose(i)
		return
	}
	grace := graceVisible
	if i.proven {
		grace = graceProven
	}
	if i.visible || now.Sub(i.added) >= grace {
		p.lose(i)
	}
}

// instanceID finds ids in what EC2 says of those that do not exist.
var instanceID = regexp.MustCompile(`\bi-[0-9a-f]+\b`)

// describe looks at instances, and says which of them do not exist: then it has
// not seen the others.
func describe(ctx context.Context, pl *place, ids []string) (found []types.Reservation, missing []string, err error) {
	out, err := pl.EC2.DescribeInstances(ctx, &ec2.DescribeInstancesInput{InstanceIds: ids})
	if err == nil {
		return out.Reservations, nil, nil
	}
	if missing = notFoundIn(err, ids); missing != nil {
		return nil, missing, nil
	}
	return nil, nil, err
}

// notFoundIn are the ids that EC2 says do not exist; nil if it says something
// else.
func notFoundIn(err error, ids []string) []string {
	return named(err, ids, "InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed")
}

// named are the ids that an error with one of the codes names; nil if it is
// another error.
func named(err error, ids []string, codes ...string) []string {
	e, ok := errors.AsType[smithy.APIError](err)
	if !ok || !slices.Contains(codes, e.ErrorCode()) {
		return nil
	}
	if len(ids) == 1 {
		return ids
	}
	return instanceID.FindAllString(e.ErrorMessage(), -1)
}
