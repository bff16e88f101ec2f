package local

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/timestamp"
)

// Workers of an intent are started one after the other, so an intent is for no
// more than can be started in a moment.
const batch = 50

// errClosing is why nothing is started any more.
var errClosing = errors.New("the server is stopping and starts no workers any more")

// DefaultPolicy is how pools are sized that do not say it. A process is there at
// once, so there is nothing to foresee.
func (p *Provider) DefaultPolicy() string { return "ratio" }

// Plan plans workers of the first launch configuration that may be used, of
// which there is only one.
func (p *Provider) Plan(_ context.Context, _ timestamp.Time, n fleet.Need) (fleet.Plan, error) {
	c := n.From[0]
	each := max(c.Capacity, 1)
	workers := min(n.Capacity/each, n.Room/each, c.Workers, batch)
	if workers <= 0 {
		return fleet.Plan{}, nil
	}
	return fleet.Plan{Intents: []*fleet.Intent{{
		ID: slugid.New(), LaunchConfigID: c.ID, Workers: workers, Capacity: workers * each, Request: json.RawMessage("{}"),
	}}}, nil
}

// Launch starts the processes of an intent, whose workers are named after it.
// After a failure the rest is left: what stopped one would stop the others.
func (p *Provider) Launch(ctx context.Context, _ timestamp.Time, i *fleet.Intent) (a fleet.Answer) {
	for n := range i.Workers {
		o := order{
			Ref:        fleet.Ref{WorkerPoolID: i.PoolID, WorkerGroup: i.ProviderID, WorkerID: nameOf(i.ID, n)},
			providerID: i.ProviderID, token: slugid.Token(),
		}
		if err := p.start(ctx, o); err != nil {
			f := fleet.Fault{Class: fleet.Broken, Description: fmt.Sprintf("The provider %s could not start a worker: %v.", i.ProviderID, err)}
			if errors.Is(err, errClosing) {
				f.Class = fleet.Closing
			}
			a.Faults = append(a.Faults, f)
			return a
		}
		facts, err := json.Marshal(facts{hash(p.read(o.WorkerID).Proof.Token)})
		if err != nil {
			panic(err) // it is a string
		}
		a.Started = append(a.Started, fleet.Started{Ref: o.Ref, Capacity: i.Capacity / i.Workers, Market: "local", Facts: facts})
	}
	return a
}

// nameOf is the id of the nth worker of an intent.
func nameOf(intentID string, n int64) string { return fmt.Sprintf("w-%s-%d", intentID, n) }

// intentOf is the intent that a worker is named after; "" if it is named after
// none.
func intentOf(id string) string {
	id = strings.TrimPrefix(id, "w-")
	return id[:max(strings.LastIndexByte(id, '-'), 0)]
}

// facts are what the books keep of a worker.
type facts struct {
	Token string `json:"token"` // hashed
}

func hash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// Look lists the workers that have a directory.
func (p *Provider) Look(ctx context.Context, _ timestamp.Time) (fleet.Sight, error) {
	list, err := p.workers(ctx)
	if err != nil {
		return nil, err
	}
	s := make(fleet.Sightings, len(list))
	for _, x := range list {
		s[x.Ref] = x
	}
	return s, nil
}

// Stop ends workers: with SIGTERM, or with SIGKILL and everything they started.
func (p *Provider) Stop(ctx context.Context, _ timestamp.Time, list []fleet.Target, how fleet.Manner) (gone []fleet.Ref, err error) {
	var errs []error
	for _, t := range list {
		if err := p.end(ctx, t.Ref, how); err != nil {
			errs = append(errs, err)
		} else if how == fleet.Now {
			gone = append(gone, t.Ref)
		}
	}
	return gone, errors.Join(errs...)
}

// Identify compares a worker's token with the one that it was started with.
func (p *Provider) Identify(_ context.Context, _ timestamp.Time, w *fleet.Worker, proof json.RawMessage) error {
	var shown identityProof
	d := json.NewDecoder(bytes.NewReader(proof))
	d.DisallowUnknownFields()
	var kept facts
	switch err := errors.Join(d.Decode(&shown), json.Unmarshal(w.Facts, &kept)); {
	case err != nil:
		return fmt.Errorf("%w: %v", fleet.ErrNotMe, err)
	case kept.Token == "" || subtle.ConstantTimeCompare([]byte(hash(shown.Token)), []byte(kept.Token)) != 1:
		return fmt.Errorf("%w: it is another token", fleet.ErrNotMe)
	}
	return nil
}
