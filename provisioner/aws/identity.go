package aws

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/taskfleet/taskfleet/provisioner/aws/identity"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/timestamp"
)

// Identify checks the identity document of an instance: that EC2 signed it, and
// that what it says is what is known of the instance that was launched. The
// proof is {"document", "signature"}, as the worker-runner sends it, or has
// "pkcs7", the stronger rsa2048 signature.
//
// The answer of CreateFleet does not say all that a document does. If no sweep
// has come by since, EC2 is asked, once and within the limit on such calls;
// what is not known even then (an instance may take a while to become visible)
// is taken from the document, which EC2 has signed.
func (p *Provider) Identify(ctx context.Context, now timestamp.Time, w *fleet.Worker, proof json.RawMessage) error {
	var parts struct {
		Document  string `json:"document"`
		Signature string `json:"signature"`
		PKCS7     string `json:"pkcs7"`
	}
	if err := json.Unmarshal(proof, &parts); err != nil {
		return fmt.Errorf("%w: the proof is not JSON with document and signature, or pkcs7: %v", fleet.ErrNotMe, err)
	}
	d, err := p.verifier.Verify(identity.Proof{Document: parts.Document, Signature: parts.Signature, PKCS7: parts.PKCS7})
	if err != nil {
		return fmt.Errorf("%w: %w", fleet.ErrNotMe, err)
	}
	var f Facts
	if len(w.Facts) > 0 {
		if err := json.Unmarshal(w.Facts, &f); err != nil {
			return fmt.Errorf("the facts of worker %s cannot be read: %w", w.Ref, err)
		}
	}
	f = p.known(ctx, now, w, f)
	told := Facts{Zone: d.AvailabilityZone, Type: d.InstanceType, Image: d.ImageID, PrivateIP: d.PrivateIP, Architecture: d.Architecture}
	if f.Account == "" || f.Region == "" {
		return fmt.Errorf("%w: the worker was not launched by this provider", fleet.ErrNotMe)
	}
	f = f.complete(told)
	launched := f.Launched
	if launched == 0 {
		launched = w.Created
	}
	err = d.Match(identity.Expected{
		AccountID: f.Account, Architecture: f.Architecture, AvailabilityZone: f.Zone, ImageID: f.Image, InstanceID: w.WorkerID,
		InstanceType: f.Type, PrivateIP: f.PrivateIP, Region: f.Region, Launched: launched.Time(),
	})
	if err != nil {
		return errors.Join(fleet.ErrNotMe, err)
	}
	w.Facts = f.json()
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := p.instances[w.WorkerID]; i != nil {
		i.proven, i.wasUp = true, true
		if !i.whole {
			i.facts = i.facts.complete(f)
			i.sighting.Facts = w.Facts
		}
	}
	return nil
}

// ProofIsOpen is true: every process on an instance can read its identity
// document, so that it is good for one registration and no repetition.
func (p *Provider) ProofIsOpen() bool { return true }

// known is what is known of an instance, from its row, from what EC2 has said
// of it, and from asking EC2 if that is not all.
func (p *Provider) known(ctx context.Context, now timestamp.Time, w *fleet.Worker, f Facts) Facts {
	look := func() (Facts, bool) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if i := p.instances[w.WorkerID]; i != nil && !i.unsure {
			f := i.facts.complete(f)
			return f, f.whole()
		}
		return f, f.whole()
	}
	seen, whole := look()
	pl := p.places[placeKey{seen.Account, w.WorkerGroup}]
	if whole || pl == nil {
		return seen
	}
	p.mu.Lock()
	var ids []string
	if pl.lists.may(now, 1, pl.most()) {
		pl.lists.called(now)
		for _, i := range p.list { // of the others, too, which will come soon
			if i.place == pl && !i.whole && !i.unsure && i.state < shuttingDown && i.sighting.WorkerID != w.WorkerID && len(ids) < mostAtALook-1 && now.Sub(i.added) >= visibleAfter {
				ids = append(ids, i.sighting.WorkerID)
			}
		}
		ids = append(ids, w.WorkerID)
	}
	p.mu.Unlock()
	if ids == nil {
		return seen
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	found, _, err := describe(ctx, pl, ids)
	if err != nil {
		p.config.Log.Warn("an instance that registers could not be looked at", "instance", w.WorkerID, "error", err)
	}
	p.mu.Lock()
	for r := range found {
		for k := range found[r].Instances {
			p.show(now, pl, &found[r].Instances[k], true)
		}
	}
	p.mu.Unlock()
	seen, _ = look()
	return seen
}

// visibleAfter is when nearly all instances have become visible; one that has
// not would fail a look at all of them.
const visibleAfter = graceVisible / 4
