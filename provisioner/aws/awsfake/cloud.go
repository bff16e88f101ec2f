// Package awsfake is AWS as far as the provisioner meets it: a stateful model
// of EC2 and of the few services beside it, with the behaviour that makes real
// fleets hard: boots that take their time or never end, markets that sell out,
// prices that walk, interruptions with two minutes' notice, answers that are
// lost after the work was done, lists that lag, request and resource limits,
// quotas, permissions, events that are late, lost or doubled.
//
// There are two faces on one model. The values returned by [Cloud.EC2] and its
// siblings have methods with the signatures of the SDK's clients, so a consumer
// that declares the few methods it needs as an interface takes either; nothing
// is serialised, and a simulator can ask for a thousand instances thousands of
// times. [Cloud.Handler] speaks the services' wire protocols over HTTP for the
// SDK's own clients.
//
// Everything is off until [Config] turns it on: an empty Config is a cloud in
// which every call succeeds and every instance boots at once.
//
// What it leaves out says so with UnsupportedOperation (fleets that keep
// themselves up, instance requirements) or is missing as an action. Simpler than
// in AWS are: networks (one default VPC, no exhausted subnets), IAM (everything is
// allowed that [Cloud.Deny] does not deny), spot prices (who bid too little is not
// launched, but never interrupted for it), and encryption, placement groups,
// reservations and dedicated hosts, which launches may name to no effect.
//
// Invariants:
//
//   - The model has no goroutines and no timers. State moves when somebody
//     looks, as a function of Config.Now: every call first brings the model up
//     to now, in the order in which things would have happened. [Cloud.Next]
//     tells an event-driven caller when to look again; [Cloud.Run] looks in
//     real time.
//   - The same Seed and the same calls at the same times give the same answers.
//     Each feature draws from a stream of its own, so that turning one on does
//     not shift the draws of another. Keys and signatures alone are not
//     reproducible.
//   - What a call returned never changes afterwards, and neither side changes
//     what the other passed: outputs may share memory with the model and with
//     each other, and must not be modified.
package awsfake

import (
	"context"
	"sync"
	"time"
)

// Cloud is one imitation of AWS: accounts, regions, and all that is in them.
// Its methods may be called from several goroutines.
type Cloud struct {
	config Config
	epoch  time.Time

	mu        sync.Mutex
	now       time.Time // the moment up to which the model has moved
	timers    timers
	draws     streams
	accounts  map[string]*account
	order     []*account // as configured
	markets   map[Market]*market
	instances map[string]*instance // every instance that can still be described
	signers   map[string]*signer
	fail      func(Call) error
	stats     Stats
	records   []*instance // every instance ever launched, in that order

	happened    []Happening // waiting to be told to Config.Happened
	spare       []Happening // empty, to be filled next
	telling     bool
	rescheduled chan struct{} // Run waits here for an earlier Next
}

// account is one AWS account.
type account struct {
	id       string
	regions  map[string]*region
	profiles map[string]bool // names of instance profiles
	denials  []Denial
	sessions map[string]session // by access key, of assumed roles
}

// region is one account's part of one region.
type region struct {
	cloud   *Cloud
	account *account
	name    string
	zones   []zone
	network

	live       []*instance // in order of launch, without most of the forgotten
	gone       int         // forgotten ones in live
	forgetting []*instance // terminated, in order of that
	volumes    map[string]*volume
	interfaces map[string]*networkInterface
	images     map[string]*image
	keyPairs   map[string]bool
	templates  map[string]*launchTemplate
	parameters map[string]string
	queues     map[string]*queue
	buckets    map[string]*bucket
	answers    map[string]*answer // by client token
	oldAnswers []*answer          // in order of age
	vcpus      [2]int             // in use: on demand, spot
	launches   int
}

// New makes a cloud. It never fails: a Config has no wrong values but negative
// ones, which count as zero.
func New(config Config) *Cloud {
	if config.Now == nil {
		config.Now = time.Now
	}
	if len(config.Accounts) == 0 {
		config.Accounts = []string{"123456789012"}
	}
	if len(config.Regions) == 0 {
		config.Regions = []string{"us-east-1", "us-east-2", "us-west-1", "us-west-2", "eu-central-1", "eu-west-1"}
	}
	now := config.Now()
	c := &Cloud{
		config:      config,
		epoch:       now,
		now:         now,
		draws:       newStreams(config.Seed),
		accounts:    map[string]*account{},
		markets:     map[Market]*market{},
		instances:   map[string]*instance{},
		signers:     map[string]*signer{},
		rescheduled: make(chan struct{}, 1),
	}
	c.stats.init()
	for _, id := range config.Accounts {
		a := &account{id: id, regions: map[string]*region{}, profiles: map[string]bool{"worker": true}, sessions: map[string]session{}}
		for _, name := range config.Regions {
			a.regions[name] = newRegion(c, a, name)
		}
		c.accounts[id] = a
		c.order = append(c.order, a)
	}
	return c
}

func newRegion(c *Cloud, a *account, name string) *region {
	r := &region{
		cloud:      c,
		account:    a,
		name:       name,
		zones:      zonesOf(name),
		volumes:    map[string]*volume{},
		interfaces: map[string]*networkInterface{},
		images:     map[string]*image{},
		keyPairs:   map[string]bool{"default": true},
		templates:  map[string]*launchTemplate{},
		parameters: map[string]string{},
		queues:     map[string]*queue{},
		buckets:    map[string]*bucket{},
		answers:    map[string]*answer{},
	}
	r.network = defaultNetwork(r)
	for _, i := range defaultImages(name) {
		r.images[i.id] = i
		if i.parameter != "" {
			r.parameters[i.parameter] = i.id
		}
	}
	if c.config.Events.Queue != "" {
		r.createQueue(c.config.Events.Queue)
	}
	return r
}

// Next says when the next thing happens by itself: an instance changes its
// state, boots or is interrupted, or an event reaches its queue. Zero when
// nothing will. Prices, markets and limits move too, but only calls see them.
func (c *Cloud) Next() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.timers.next()
}

// Advance brings the model up to Config.Now and tells Config.Happened what
// happened meanwhile. Every call does this too.
func (c *Cloud) Advance() {
	c.enter()
	c.leave()
}

// Run advances the cloud in real time until ctx ends. It is for a cloud whose
// Now is the wall clock.
func (c *Cloud) Run(ctx context.Context) {
	for {
		c.Advance()
		var due <-chan time.Time
		if next := c.Next(); !next.IsZero() {
			due = time.After(max(next.Sub(c.config.Now()), 0))
		}
		select {
		case <-ctx.Done():
			return
		case <-due:
		case <-c.rescheduled:
		}
	}
}

// enter locks the model and moves it up to now.
func (c *Cloud) enter() {
	c.mu.Lock()
	until := c.config.Now()
	for {
		t, ok := c.timers.due(until)
		if !ok {
			break
		}
		if t.at.After(c.now) {
			c.now = t.at
		}
		t.fire(c)
	}
	if until.After(c.now) {
		c.now = until
	}
}

// leave unlocks the model and tells what has happened, in order, to a callback
// that may call the cloud again.
func (c *Cloud) leave() {
	if !c.telling {
		c.telling = true
		for len(c.happened) > 0 {
			batch := c.happened
			c.happened = c.spare
			c.mu.Unlock()
			for _, h := range batch {
				c.config.Happened(h)
			}
			c.mu.Lock()
			c.spare = batch[:0]
		}
		c.telling = false
	}
	c.mu.Unlock()
}

// region finds a region of an account; nil when there is no such account or
// region.
func (c *Cloud) region(account, name string) *region {
	if a := c.accounts[account]; a != nil {
		return a.regions[name]
	}
	return nil
}
