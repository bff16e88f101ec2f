package provisioner

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A Cloud is a provider in memory. Its machines take time to boot and then do
// what Behave says; they outlive the provisioner that started them.
type Cloud struct {
	Boot   time.Duration
	Linger time.Duration                                                  // from Stop(Now) to the end of a machine; 0: Stop waits for it
	Behave func(ctx context.Context, term <-chan struct{}, o Order) error // until ctx ends; nil: exits by itself

	mu       sync.Mutex
	machines map[fleet.Ref]*machine
	intents  map[string][]*machine // what each has brought into being
	launched map[fleet.Ref]int     // how often each was started: once
	asked    map[string]int        // how often each intent was launched
	most     int                   // machines alive at the same time, without strays
	hangs    bool                  // Launch does not return
	unclear  bool                  // Launch works, and its answer does not arrive
	refuse   *fleet.Fault          // Launch fails
	breaks   bool                  // Plan panics
	room     int                   // machines that there are at most; 0: any number
	blind    error                 // Look fails
	notify   func()
	running  sync.WaitGroup
}

// An Order is what a machine is told when it starts.
type Order struct {
	fleet.Ref
	ProviderID, LaunchConfigID, Image, Token string
}

type machine struct {
	fleet.Started
	order  Order
	intent string
	kill   context.CancelFunc
	term   chan struct{}
	asked  bool
	stray  bool
	life   fleet.Life
	words  string
	ends   timestamp.Time
	ended  chan struct{}
}

func NewCloud(t testing.TB, boot time.Duration, behave func(context.Context, <-chan struct{}, Order) error) *Cloud {
	c := &Cloud{
		Boot: boot, Behave: behave,
		machines: map[fleet.Ref]*machine{}, intents: map[string][]*machine{}, launched: map[fleet.Ref]int{}, asked: map[string]int{},
		notify: func() {},
	}
	t.Cleanup(func() {
		c.mu.Lock()
		for _, list := range c.intents {
			for _, m := range list {
				m.kill()
			}
		}
		c.mu.Unlock()
		c.running.Wait()
	})
	return c
}

func (c *Cloud) Type() string          { return "cloud" }
func (c *Cloud) DefaultPolicy() string { return "ratio" }

// cloudConfig is a pool's configuration: it is a launch configuration itself, or
// has a list of them.
type cloudConfig struct {
	cloudLaunchConfig
	LaunchConfigs []json.RawMessage `json:"launchConfigs"`
}

type cloudLaunchConfig struct {
	Image        string          `json:"image"`
	Capacity     int64           `json:"capacityPerInstance"`
	WorkerConfig json.RawMessage `json:"workerConfig"`
	Manager      struct {
		ID     string  `json:"launchConfigId"` // given by the owner
		Canary int64   `json:"canary"`
		Weight float64 `json:"initialWeight"`
		Most   int64   `json:"maxCapacity"` // 0: no limit
	} `json:"workerManager"`
}

func (c *Cloud) Parse(config json.RawMessage) (out []*fleet.LaunchConfig, err error) {
	var pool cloudConfig
	if err := json.Unmarshal(config, &pool); err != nil {
		return nil, fleet.Explain(err)
	}
	list := pool.LaunchConfigs
	if list == nil {
		text, err := json.Marshal(pool.cloudLaunchConfig)
		if err != nil {
			return nil, err
		}
		list = []json.RawMessage{text}
	}
	for n, text := range list {
		x := cloudLaunchConfig{}
		if err := json.Unmarshal(text, &x); err != nil {
			return nil, err
		}
		if x.Image == "missing" {
			return nil, errors.New("config.image names no image")
		}
		told := map[string]any{}
		if len(x.WorkerConfig) > 0 && string(x.WorkerConfig) != "null" {
			if err := json.Unmarshal(x.WorkerConfig, &told); err != nil {
				return nil, fmt.Errorf("config.launchConfigs[%d].workerConfig: %w", n, err)
			}
		}
		x.Capacity = max(x.Capacity, 1)
		told["capacity"] = x.Capacity
		say, err := json.Marshal(told)
		if err != nil {
			return nil, err
		}
		id := x.Manager.ID
		if id == "" {
			if id, err = fleet.NameLaunchConfig(x); err != nil {
				return nil, err
			}
		}
		out = append(out, &fleet.LaunchConfig{ID: id, Named: x.Manager.ID != "", Config: text, Capacity: x.Capacity, Canary: x.Manager.Canary, WorkerConfig: say})
	}
	return out, nil
}

// Plan gives each new worker to the configuration that has least of what its
// weight entitles it to, and asks for fifty at a time.
func (c *Cloud) Plan(_ context.Context, _ timestamp.Time, n fleet.Need) (p fleet.Plan, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.breaks {
		panic("the cloud bursts")
	}
	const batch = 50
	intents := map[string]*fleet.Intent{}
	have := map[string]float64{}
	for range batch {
		best := (*fleet.Candidate)(nil)
		var least float64
		for i := range n.From {
			x := &n.From[i]
			var config cloudLaunchConfig
			if err := json.Unmarshal(x.Config, &config); err != nil {
				return p, err
			}
			if x.Workers <= 0 || x.Capacity > n.Room || x.Capacity > n.Capacity && intents[x.ID] != nil ||
				n.Capacity <= 0 || config.Manager.Most > 0 && x.Existing+int64(have[x.ID])+x.Capacity > config.Manager.Most {
				continue
			}
			share := (float64(x.Existing) + have[x.ID]) / cmp.Or(config.Manager.Weight, 1)
			if best == nil || share < least {
				best, least = x, share
			}
		}
		if best == nil {
			break
		}
		i := intents[best.ID]
		if i == nil {
			i = &fleet.Intent{ID: slugid.New(), LaunchConfigID: best.ID, Request: best.Config}
			intents[best.ID] = i
			p.Intents = append(p.Intents, i)
		}
		i.Workers++
		i.Capacity += best.Capacity
		best.Workers--
		have[best.ID] += float64(best.Capacity)
		n.Capacity -= best.Capacity
		n.Room -= best.Capacity
	}
	return p, nil
}

func (c *Cloud) Notify(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.notify = f
}

func (c *Cloud) Launch(ctx context.Context, now timestamp.Time, i *fleet.Intent) (a fleet.Answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked[i.ID]++
	var config cloudLaunchConfig
	if err := json.Unmarshal(i.Request, &config); err != nil {
		panic(err) // Plan has written it
	}
	switch {
	case ctx.Err() != nil:
		return fleet.Answer{Again: true}
	case c.hangs:
		c.mu.Unlock()
		<-ctx.Done()
		c.mu.Lock()
		return fleet.Answer{Again: true}
	case c.refuse != nil && c.intents[i.ID] == nil:
		return fleet.Answer{Faults: []fleet.Fault{*c.refuse}}
	case config.Image == "refused" && c.intents[i.ID] == nil:
		return fleet.Answer{Faults: []fleet.Fault{{Class: fleet.Wrong, Description: "the cloud has no image called refused"}}}
	}
	for n := int64(len(c.intents[i.ID])); n < i.Workers; n++ {
		if c.room > 0 && c.alive() >= c.room {
			a.Faults = []fleet.Fault{{Class: fleet.SoldOut, Market: "sky", Description: "the sky is full"}}
			break
		}
		c.start(i, n, config)
	}
	if c.unclear {
		return fleet.Answer{Again: true}
	}
	for _, m := range c.intents[i.ID] {
		a.Started = append(a.Started, m.Started)
	}
	return a
}

// start starts the nth machine of an intent.
func (c *Cloud) start(i *fleet.Intent, n int64, config cloudLaunchConfig) {
	r := fleet.Ref{WorkerPoolID: i.PoolID, WorkerGroup: i.ProviderID, WorkerID: fmt.Sprintf("w-%s-%d", i.ID, n)}
	o := Order{Ref: r, ProviderID: i.ProviderID, LaunchConfigID: i.LaunchConfigID, Image: config.Image, Token: slugid.Token()}
	facts, err := json.Marshal(map[string]string{"token": hash(o.Token)})
	if err != nil {
		panic(err) // it is a string
	}
	ctx, kill := context.WithCancel(context.Background())
	m := &machine{
		Started: fleet.Started{Ref: r, LaunchConfigID: i.LaunchConfigID, Capacity: i.Capacity / i.Workers, Market: "sky", Price: 1000, Facts: facts},
		order:   o, stray: config.Image == "stray", intent: i.ID, kill: kill, term: make(chan struct{}), ended: make(chan struct{}),
	}
	c.machines[r] = m
	c.intents[i.ID] = append(c.intents[i.ID], m)
	c.launched[r]++
	wanted := 0
	for _, m := range c.machines {
		if m.life == fleet.Alive && !m.stray {
			wanted++
		}
	}
	c.most = max(c.most, wanted)
	boot := c.Boot
	c.running.Go(func() {
		select {
		case <-time.After(boot):
		case <-m.term:
		case <-ctx.Done():
		}
		err := ctx.Err()
		if err == nil {
			err = c.Behave(ctx, m.term, o)
		}
		kill()
		c.mu.Lock()
		m.life, m.words = fleet.Exited, "it shut down"
		if err != nil {
			m.life, m.words = fleet.Failed, fmt.Sprintf("it crashed: %v", err)
		}
		f := c.notify
		c.mu.Unlock()
		close(m.ended)
		f()
	})
}

func (c *Cloud) Look(context.Context, timestamp.Time) (fleet.Sight, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.blind != nil {
		return nil, c.blind
	}
	s := fleet.Sightings{}
	for ref, m := range c.machines {
		s[ref] = fleet.Sighting{Ref: ref, State: m.life, IntentID: m.intent, Detail: m.words, Ends: m.ends, Facts: m.Facts}
	}
	return s, nil
}

func (c *Cloud) Stop(ctx context.Context, now timestamp.Time, list []fleet.Target, how fleet.Manner) (gone []fleet.Ref, err error) {
	var errs []error
	for _, t := range list {
		is, err := c.stop(ctx, t.Ref, how)
		if errs = append(errs, err); is {
			gone = append(gone, t.Ref)
		}
	}
	return gone, errors.Join(errs...)
}

func (c *Cloud) stop(ctx context.Context, r fleet.Ref, how fleet.Manner) (gone bool, err error) {
	c.mu.Lock()
	m := c.machines[r]
	if m == nil {
		c.mu.Unlock()
		return true, nil
	}
	if how == fleet.Gracefully {
		if !m.asked {
			m.asked = true
			close(m.term)
		}
		c.mu.Unlock()
		return false, nil
	}
	linger := c.Linger
	c.mu.Unlock()
	if linger > 0 {
		time.AfterFunc(linger, m.kill)
		select {
		case <-m.ended:
		default:
			return false, nil
		}
	}
	m.kill()
	select {
	case <-m.ended:
	case <-ctx.Done():
		return false, ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.machines, r)
	return true, nil
}

func (c *Cloud) Identify(_ context.Context, _ timestamp.Time, w *fleet.Worker, proof json.RawMessage) error {
	var shown, kept struct {
		Token string `json:"token"`
	}
	if err := errors.Join(json.Unmarshal(proof, &shown), json.Unmarshal(w.Facts, &kept)); err != nil {
		return fmt.Errorf("%w: %v", fleet.ErrNotMe, err)
	}
	if !same(kept.Token, shown.Token) {
		return fleet.ErrNotMe
	}
	return nil
}

// Kill ends a machine as a fault of its own would.
func (c *Cloud) Kill(r fleet.Ref) {
	c.mu.Lock()
	m := c.machines[r]
	c.mu.Unlock()
	m.kill()
	<-m.ended
}

// Proof is what a machine shows to prove that it is r.
func (c *Cloud) Proof(r fleet.Ref) json.RawMessage {
	c.mu.Lock()
	defer c.mu.Unlock()
	text, err := json.Marshal(map[string]string{"token": c.machines[r].order.Token})
	if err != nil {
		panic(err) // it is a string
	}
	return text
}

// Interrupt says that a machine will be taken away, and does it.
func (c *Cloud) Interrupt(r fleet.Ref, in time.Duration) {
	c.mu.Lock()
	m, f := c.machines[r], c.notify
	m.ends = now().Add(in)
	c.mu.Unlock()
	time.AfterFunc(in, m.kill)
	f()
}

// Stray starts a machine that no books know.
func (c *Cloud) Stray(pool string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := &fleet.Intent{ID: slugid.New(), PoolID: pool, ProviderID: "cloud", Workers: 1, Capacity: 1}
	c.start(i, 0, cloudLaunchConfig{Image: "stray"})
}

func (c *Cloud) alive() (n int) {
	for _, m := range c.machines {
		if m.life == fleet.Alive {
			n++
		}
	}
	return n
}

// Alive counts the machines that run.
func (c *Cloud) Alive() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.alive()
}

// Launches counts the machines that were ever started.
func (c *Cloud) Launches() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.launched)
}

// Images counts the machines that run by what they were made from.
func (c *Cloud) Images() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	count := map[string]int{}
	for _, m := range c.machines {
		if m.life == fleet.Alive {
			count[m.order.Image]++
		}
	}
	var told []string
	for _, image := range slices.Sorted(maps.Keys(count)) {
		told = append(told, fmt.Sprintf("%d %s", count[image], image))
	}
	return listed(told, ", ")
}
