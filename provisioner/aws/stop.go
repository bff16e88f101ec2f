package aws

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/timestamp"
)

const (
	mostAtAStop = 500
	askAgain    = 2 * time.Minute // after a termination that was granted, and is not seen
)

// Stop terminates instances. One that is at work cannot be asked to end, but
// learns that it should when it asks the API; so [fleet.Gracefully] does nothing
// about it. What was asked once is not asked again.
func (p *Provider) Stop(ctx context.Context, now timestamp.Time, list []fleet.Target, how fleet.Manner) (gone []fleet.Ref, err error) {
	var errs []error
	batches := map[*place][]string{}
	p.mu.Lock()
	for _, t := range list {
		pl, is, err := p.stopping(now, t, how)
		switch {
		case err != nil:
			errs = append(errs, err)
		case is:
			gone = append(gone, t.Ref)
		case pl != nil:
			batches[pl] = append(batches[pl], t.WorkerID)
		}
	}
	p.mu.Unlock()
	for _, pl := range p.order {
		if ids := batches[pl]; len(ids) > 0 {
			errs = append(errs, p.terminate(ctx, now, pl, ids))
		}
	}
	return gone, errors.Join(errs...)
}

// stopping says whether a worker is gone, or otherwise where its termination is
// to be asked for, if it is. The caller holds p.mu.
func (p *Provider) stopping(now timestamp.Time, t fleet.Target, how fleet.Manner) (ask *place, gone bool, err error) {
	i := p.instances[t.WorkerID]
	if i == nil {
		if _, over := p.ended[t.WorkerID]; over || !wholeID.MatchString(t.WorkerID) {
			return nil, true, nil
		}
		sight{p}.find(t.Ref) // so that it is looked for
		if i = p.instances[t.WorkerID]; i == nil {
			return nil, false, fmt.Errorf("worker %s cannot be ended: the provider does not have the region %s any more; put it back into its configuration", t.Ref, t.WorkerGroup)
		}
		var f Facts
		if json.Unmarshal(t.Facts, &f) == nil {
			if pl := p.places[placeKey{f.Account, t.WorkerGroup}]; pl != nil {
				i.move(pl)
			}
		}
	}
	switch {
	case i.state == terminated || i.over != 0: // if by an event, then it is not known yet why
		if i.missing == 0 || i.over != 0 { // seen terminated, and not just not found
			p.ended[t.WorkerID] = now
		}
		p.drop(i)
		return nil, true, nil
	case how == fleet.Gracefully && !t.Idle:
		return nil, false, nil
	case i.state == shuttingDown || i.asked != 0 && now.Sub(i.asked) < askAgain:
		return nil, false, nil
	}
	return i.place, false, nil
}

// terminate asks for the termination of instances of a place, as far as the
// limits allow; of the others later.
func (p *Provider) terminate(ctx context.Context, now timestamp.Time, pl *place, ids []string) error {
	for len(ids) > 0 {
		p.mu.Lock()
		n := min(int64(len(ids)), mostAtAStop, pl.terminated.left(now))
		if pl.terminates.left(now) < 1 {
			n = 0
		}
		if n > 0 {
			pl.terminates.take(1)
			pl.terminated.take(n)
		}
		p.mu.Unlock()
		if n == 0 {
			return nil // the controller comes back
		}
		batch := ids[:n]
		ids = ids[n:]
		missing, err := p.terminateBatch(ctx, now, pl, batch)
		if err != nil {
			return err
		}
		if len(missing) > 0 {
			rest := slices.DeleteFunc(slices.Clone(batch), func(id string) bool { return slices.Contains(missing, id) })
			if len(rest) < len(batch) {
				ids = slices.Concat(rest, ids)
			}
		}
	}
	return nil
}

// terminateBatch makes one call. missing are those that EC2 does not find, or may
// not end: it has then not ended all of the others either.
func (p *Provider) terminateBatch(ctx context.Context, now timestamp.Time, pl *place, ids []string) (missing []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	out, err := pl.EC2.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: ids})
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		for _, c := range out.TerminatingInstances {
			if i := p.instances[aws.ToString(c.InstanceId)]; i != nil {
				i.asked, i.visible, i.missing = now, true, 0
				if c.CurrentState != nil {
					p.reach(now, i, stages[string(c.CurrentState.Name)])
				}
			}
		}
		for _, id := range ids { // also those that the answer leaves out
			if i := p.instances[id]; i != nil {
				i.asked = now
			}
		}
		return nil, nil
	}
	if barred := named(err, ids, "OperationNotPermitted"); barred != nil {
		// Somebody has protected them. The others are not to be kept by that.
		p.config.Log.Error("instances may not be terminated; take their termination protection off (disableApiTermination)", "instances", barred, "account", pl.account.ID, "region", pl.region)
		for _, id := range barred {
			if i := p.instances[id]; i != nil {
				i.asked = now
			}
		}
		return barred, nil
	}
	if missing = notFoundIn(err, ids); missing != nil {
		for _, id := range missing {
			if i := p.instances[id]; i != nil {
				// It may not be visible yet: it is asked again when it has been looked for.
				i.asked = now.Add(retryMissing - askAgain)
				i.wanted = true
				pl.sweep.wanted = true
			}
		}
		return missing, nil
	}
	v := explainCall(err)
	if v.class == fleet.Throttled && !v.unknown {
		pl.terminates.throttled(now)
		pl.terminated.throttled(now)
	}
	return nil, fmt.Errorf("terminate %d instances in %s of account %s: %s", len(ids), pl.region, pl.account.ID, v.text)
}

// retryMissing is when the termination of an instance that was not found is
// asked for again.
const retryMissing = 15 * time.Second
