// Package aws is the provider of workers on EC2.
//
// A launch configuration of a pool is of one account and region. It is either a
// plain request of RunInstances, as worker-manager has them, or instance types
// times availability zones, which are bought by CreateFleet from as many markets
// as are open. What is launched carries tags that say whose it is, so that all
// of it can be found again without any memory of ours:
//
//   - An intent is the exact request, with a client token that is the intent's
//     id. However often it is sent, EC2 acts on it once.
//   - Every minute each account and region is swept for instances with the
//     cluster's tag. The sweep is the truth. Events that EC2 sends by way of SQS
//     come in between, and only make it known sooner: they may be late, doubled
//     or lost.
//   - That an instance does not exist is believed when two sweeps have not shown
//     it and a look at itself has not found it. That one has ended is believed
//     when EC2 says that it is terminated.
//
// Where a market is sold out it is closed for a while ([fleet.Market]); the
// limits of AWS on requests are kept by us before AWS has to; and what fits into
// neither is left for a later pass with a time for it. Nothing here waits, and
// nothing but Run asks what time it is, so that a simulation can run it on a time
// of its own.
package aws

import (
	"cmp"
	crand "crypto/rand"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"github.com/taskfleet/taskfleet/provisioner/aws/identity"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/timestamp"
)

// Provider is the provider of workers on EC2. Its methods may be called by
// several goroutines at once.
type Provider struct {
	config   Config
	places   map[placeKey]*place // never changes
	order    []*place            // by account and region, as configured
	verifier identity.Verifier

	background atomic.Bool  // Run sweeps, so that Look need not
	looked     atomic.Int64 // the time that Look was last told

	validating chan struct{} // has room for one validation

	mu        sync.Mutex // guards all below and what is in places; no call is made under it
	random    *rand.Rand
	pools     map[string]map[string]*bound // by pool and launch configuration
	flights   map[string]*flight           // by intent
	instances map[string]*instance         // by id
	list      []*instance                  // the same
	ended     map[string]timestamp.Time    // seen terminated and cleared away, with the time
	notices   map[string]notice            // of instances that are not known yet
	versions  map[string]uint64            // of what Look shows, by pool
	latest    timestamp.Time               // that it has been
	watchers  []func()
}

type placeKey struct{ account, region string }

// A place is a region of an account.
type place struct {
	account Account
	region  string
	alone   bool // the only one
	Clients

	// Of RunInstances and CreateFleet together, and of TerminateInstances.
	launches, launched     bucket // requests, instances
	terminates, terminated bucket
	writes                 bucket    // other calls that change something
	turns                  turnstile // of pools that launch
	lists                  pacer     // of what describes

	markets map[marketKey]*market
	count   int // of instances
	quotas  map[quotaKey]*quota
	tended  sync.Mutex // by one at a time
	sweep   sweep
	news    news

	templates map[string]*templateState // by name
}

// The limits that AWS documents, by the second and at once.
const (
	launchRequests, launchRequestRate       = 5, 2
	launchResources, launchResourceRate     = 1000, 2
	terminateRequests, terminateRequestRate = 100, 5
	terminateResources, terminateRate       = 1000, 20
	writeRequests, writeRequestRate         = 50, 5
)

// New makes a provider. It calls nothing.
func New(c Config) (*Provider, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	seed := [2]uint64{c.Seed, c.Seed}
	if c.Seed == 0 {
		var b [16]byte
		crand.Read(b[:])
		seed = [2]uint64{binary.LittleEndian.Uint64(b[:]), binary.LittleEndian.Uint64(b[8:])}
	}
	p := &Provider{
		config:     c,
		validating: make(chan struct{}, 1),
		places:     map[placeKey]*place{},
		verifier:   identity.Verifier{Certificates: c.Certificates, Now: c.Now},
		random:     rand.New(rand.NewPCG(seed[0], seed[1])),
		pools:      map[string]map[string]*bound{},
		flights:    map[string]*flight{},
		instances:  map[string]*instance{},
		ended:      map[string]timestamp.Time{},
		notices:    map[string]notice{},
		versions:   map[string]uint64{},
	}
	if p.verifier.Certificates == nil {
		p.verifier.Certificates = identity.Published()
	}
	for _, a := range c.Accounts {
		for _, r := range c.Regions {
			pl := &place{
				account: a, region: r, alone: len(c.Accounts)*len(c.Regions) == 1, Clients: c.Clients(a, r),
				launches:   newBucket(launchRequests, launchRequestRate, c.Requests, c.Requests),
				launched:   newBucket(launchResources, launchResourceRate, c.Requests, c.Resources),
				terminates: newBucket(terminateRequests, terminateRequestRate, c.Requests, c.Requests),
				terminated: newBucket(terminateResources, terminateRate, c.Requests, c.Resources),
				writes:     newBucket(writeRequests, writeRequestRate, c.Requests, c.Requests),
				markets:    map[marketKey]*market{},
				quotas:     map[quotaKey]*quota{},
				templates:  map[string]*templateState{},
			}
			p.places[placeKey{a.ID, r}] = pl
			p.order = append(p.order, pl)
		}
	}
	return p, nil
}

// Type is "aws".
func (p *Provider) Type() string { return "aws" }

// Notify has f called when an event has changed what Look shows, or a sweep has.
func (p *Provider) Notify(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watchers = append(p.watchers, f)
}

func (p *Provider) changed() {
	p.mu.Lock()
	watchers := p.watchers
	p.mu.Unlock()
	for _, f := range watchers {
		f()
	}
}

var (
	_ fleet.Provider    = (*Provider)(nil)
	_ fleet.Notifier    = (*Provider)(nil)
	_ fleet.Validator   = (*Provider)(nil)
	_ fleet.Previewer   = (*Provider)(nil)
	_ fleet.Marketplace = (*Provider)(nil)
)

func index(spot bool) int {
	if spot {
		return 1
	}
	return 0
}

// earlier is the earlier of two times, where 0 is never.
func earlier(a, b timestamp.Time) timestamp.Time {
	if a == 0 || b == 0 {
		return cmp.Or(a, b)
	}
	return min(a, b)
}
