package aws

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"regexp"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/timestamp"
)

// An instance is what we know of one.
type instance struct {
	sighting fleet.Sighting
	place    *place
	market   *market // nil: not known
	facts    Facts
	state    stage
	reason   string // EC2's, why it ended

	added   timestamp.Time // when we first knew of it
	shown   uint64         // the sweep of its place that last showed it
	visible bool           // EC2 has shown it
	wasUp   bool           // it has been running
	proven  bool           // it has identified itself
	taken   bool           // EC2 has said that it takes it back
	whole   bool           // facts has all there is
	absent  int            // sweeps in a row that have not shown it
	wanted  bool           // is to be looked at by itself
	missing int            // looks at itself that have not found it
	over    timestamp.Time // when an event said that it has ended, without saying why
	unsure  bool           // only the books have it: Unknown until it is found, or not
	tried   int            // places that it was looked for in, if unsure
	asked   timestamp.Time // when its termination was requested; 0: not
	index   int            // in Provider.list
}

// A stage of an instance's life. It only ever goes up, whatever the order is in
// which news comes in.
type stage int

const (
	pending stage = iota
	running
	stopped // or about to be; by hand, as we never stop one
	shuttingDown
	terminated
)

var stages = map[string]stage{
	"pending": pending, "running": running, "stopping": stopped, "stopped": stopped, "shutting-down": shuttingDown, "terminated": terminated,
}

// Facts are what the provider has written into a worker's row: what its
// identity document is compared with.
type Facts struct {
	Account      string         `json:"account"`
	Region       string         `json:"region"`
	Zone         string         `json:"zone,omitempty"`
	Type         string         `json:"type,omitempty"`
	Image        string         `json:"image,omitempty"`
	PrivateIP    string         `json:"privateIp,omitempty"`
	Architecture string         `json:"architecture,omitempty"`
	Launched     timestamp.Time `json:"launched,omitempty"`
	Lifecycle    string         `json:"lifecycle,omitempty"` // spot, on-demand
}

func (f Facts) json() json.RawMessage {
	text, _ := json.Marshal(f)
	return text
}

func (f Facts) whole() bool {
	return f.PrivateIP != "" && f.Image != "" && f.Architecture != "" && f.Zone != ""
}

// complete fills in what f does not say.
func (f Facts) complete(g Facts) Facts {
	fill := func(to *string, from string) {
		if *to == "" {
			*to = from
		}
	}
	fill(&f.Account, g.Account)
	fill(&f.Region, g.Region)
	fill(&f.Zone, g.Zone)
	fill(&f.Type, g.Type)
	fill(&f.Image, g.Image)
	fill(&f.PrivateIP, g.PrivateIP)
	fill(&f.Architecture, g.Architecture)
	fill(&f.Lifecycle, g.Lifecycle)
	if f.Launched == 0 {
		f.Launched = g.Launched
	}
	return f
}

func lifecycle(spot bool) string {
	if spot {
		return "spot"
	}
	return "on-demand"
}

// factsOf is what EC2's description says.
func factsOf(pl *place, x *types.Instance) Facts {
	f := Facts{
		Account: pl.account.ID, Region: pl.region, Type: string(x.InstanceType), Image: aws.ToString(x.ImageId),
		PrivateIP: aws.ToString(x.PrivateIpAddress), Architecture: string(x.Architecture),
		Lifecycle: lifecycle(x.InstanceLifecycle == types.InstanceLifecycleTypeSpot),
	}
	if x.Placement != nil {
		f.Zone = aws.ToString(x.Placement.AvailabilityZone)
	}
	if x.LaunchTime != nil {
		f.Launched = timestamp.Of(*x.LaunchTime)
	}
	return f
}

// add notes an instance, or adds to what is known of it. The caller holds p.mu.
func (p *Provider) add(now timestamp.Time, pl *place, id, poolID, intentID string, f Facts, m *market) *instance {
	i := p.instances[id]
	if i == nil {
		i = &instance{place: pl, added: now, index: len(p.list)}
		i.sighting.Ref = fleet.Ref{WorkerPoolID: poolID, WorkerGroup: pl.region, WorkerID: id}
		p.instances[id] = i
		p.list = append(p.list, i)
		p.touch(i)
		pl.count++
		if n, has := p.notices[id]; has {
			delete(p.notices, id)
			p.warn(i, n)
		}
	}
	if i.unsure {
		i.unsure = false
		p.touch(i)
		i.move(pl)
		i.sighting.State = fleet.Alive
	}
	if intentID != "" {
		i.sighting.IntentID = intentID
	}
	if m != nil && i.market == nil && i.state != terminated {
		i.market = m
		m.quota.used += vcpus(m.kind)
	}
	if i.sighting.Facts == nil || !i.whole {
		i.facts = f.complete(i.facts)
		i.whole = i.facts.whole()
		i.sighting.Facts = i.facts.json()
		p.touch(i)
	}
	return i
}

// move corrects where an instance is.
func (i *instance) move(pl *place) {
	i.place.count--
	i.place = pl
	pl.count++
}

// drop takes an instance out of memory. The caller holds p.mu.
func (p *Provider) drop(i *instance) {
	p.release(i)
	p.touch(i)
	i.place.count--
	last := len(p.list) - 1
	p.list[i.index] = p.list[last]
	p.list[i.index].index = i.index
	p.list[last] = nil
	p.list = p.list[:last]
	delete(p.instances, i.sighting.WorkerID)
}

// release gives back what an instance takes of the account's quota.
func (p *Provider) release(i *instance) {
	if m := i.market; m != nil {
		m.quota.used -= vcpus(m.kind)
		i.market = nil
	}
}

// show takes in EC2's description of an instance. The caller holds p.mu.
// listed is whether it comes from a sweep or a look, which are not made for
// instances that are not visible yet.
func (p *Provider) show(now timestamp.Time, pl *place, x *types.Instance, listed bool) *instance {
	id := aws.ToString(x.InstanceId)
	i := p.instances[id]
	if i == nil || i.unsure || !i.whole {
		if _, over := p.ended[id]; over {
			return nil // EC2 shows it for an hour
		}
		var pool, intent string
		for _, t := range x.Tags {
			switch aws.ToString(t.Key) {
			case tagPool:
				pool = aws.ToString(t.Value)
			case tagIntent:
				intent = aws.ToString(t.Value)
			}
		}
		if i != nil {
			pool = i.sighting.WorkerPoolID
		}
		f := factsOf(pl, x)
		spot := f.Lifecycle == lifecycle(true)
		i = p.add(now, pl, id, pool, intent, f, p.market(pl, p.asked(pl, f.Zone, f.Zone, f.Type, spot), f.Type, spot))
	}
	if listed {
		i.visible, i.absent, i.missing, i.wanted = true, 0, 0, false
	}
	if x.StateReason != nil && i.reason == "" {
		i.reason = aws.ToString(x.StateReason.Code)
		if m := aws.ToString(x.StateReason.Message); m != "" && !strings.HasPrefix(m, i.reason) {
			i.reason += ": " + m
		} else if m != "" {
			i.reason = m
		}
	}
	if x.State != nil {
		p.reach(now, i, stages[string(x.State.Name)])
	}
	return i
}

// reach moves an instance to a stage, unless it is beyond it, and reports
// whether that is news. The caller holds p.mu.
func (p *Provider) reach(now timestamp.Time, i *instance, s stage) bool {
	if s == running {
		i.wasUp = true
	}
	if i.state == stopped && s == running {
		i.state = running // somebody has started it again
		i.sighting.Ends = 0
		p.touch(i)
		return true
	}
	if s <= i.state {
		return false
	}
	i.state = s
	switch s {
	case stopped, shuttingDown:
		p.touch(i)
		if i.sighting.Ends == 0 || i.sighting.Ends > now {
			i.sighting.Ends = now
		}
		switch {
		case s == stopped:
			i.sighting.Detail = "Somebody has stopped the instance."
		case !i.taken:
			i.sighting.Detail = "The instance shuts down."
		}
	case terminated:
		p.end(i)
	}
	return true
}

// end says how a terminated instance ended. The caller holds p.mu.
func (p *Provider) end(i *instance) {
	p.release(i)
	p.touch(i)
	i.unsure = false
	i.state = terminated
	code, _, _ := strings.Cut(i.reason, ":")
	switch {
	case strings.HasPrefix(code, "Server.Spot") || i.taken && i.asked == 0:
		i.sighting.State = fleet.Lost
		i.sighting.Detail = interruptedDetail + "."
	case i.asked != 0:
		i.sighting.State = fleet.Lost
		i.sighting.Detail = "The instance was ended on request."
	case code == "Client.InstanceInitiatedShutdown":
		i.sighting.State = fleet.Exited
		i.sighting.Detail = "The instance shut itself down."
	case code == "Client.UserInitiatedShutdown":
		i.sighting.State = fleet.Failed
		i.sighting.Detail = "Somebody else terminated the instance."
	case code != "":
		i.sighting.State = fleet.Failed
		i.sighting.Detail = "EC2 ended the instance: " + sentence(i.reason)
	case i.wasUp || i.proven:
		i.sighting.State = fleet.Exited
		i.sighting.Detail = "The instance has ended by itself."
	default:
		i.sighting.State = fleet.Failed
		i.sighting.Detail = "The instance ended before it was running; EC2 no longer says why."
	}
}

const interruptedDetail = "EC2 has taken the spot instance back"

// lose gives an instance up that EC2 does not have. The caller holds p.mu.
func (p *Provider) lose(i *instance) {
	p.release(i)
	p.touch(i)
	i.unsure, i.wanted = false, false
	i.state = terminated
	i.sighting.State = fleet.Lost
	i.sighting.Detail = "EC2 does not know the instance."
	if i.visible {
		i.sighting.Detail = "EC2 does not know the instance any more."
	}
}

// Look sweeps where it is time to, unless [Provider.Run] does, and returns what
// is known now. What it returns goes on to change with what becomes known.
func (p *Provider) Look(ctx context.Context, now timestamp.Time) (fleet.Sight, error) {
	p.looked.Store(int64(now))
	if !p.background.Load() {
		for _, pl := range p.order {
			if p.due(now, pl) {
				p.tend(ctx, now, pl)
			}
		}
	}
	return sight{p}, nil
}

// sight is the memory of the provider.
type sight struct{ p *Provider }

// touch notes that something has changed about an instance that Look shows. The
// caller holds p.mu.
func (p *Provider) touch(i *instance) { p.versions[i.sighting.WorkerPoolID]++ }

// Version numbers what is seen of a pool's workers; see [fleet.Versioned].
func (s sight) Version(pool string) uint64 {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	return s.p.versions[pool] + 1
}

// Of finds a worker. One that is not known is looked for.
func (s sight) Of(r fleet.Ref) (fleet.Sighting, bool) {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	return s.find(r)
}

func (s sight) find(r fleet.Ref) (fleet.Sighting, bool) {
	p := s.p
	if i := p.instances[r.WorkerID]; i != nil {
		if i.sighting.WorkerPoolID != r.WorkerPoolID {
			return fleet.Sighting{}, false
		}
		return i.sighting, true
	}
	if at, over := p.ended[r.WorkerID]; over {
		return fleet.Sighting{Ref: r, State: fleet.Lost, Detail: fmt.Sprintf("The instance was seen terminated before %s.", at)}, true
	}
	if !wholeID.MatchString(r.WorkerID) {
		return fleet.Sighting{}, false // no instance has such an id
	}
	for n, pl := range p.order {
		if pl.region == r.WorkerGroup {
			i := &instance{place: pl, unsure: true, tried: n, index: len(p.list), facts: Facts{Region: pl.region}}
			i.sighting = fleet.Sighting{Ref: r, State: fleet.Unknown, Detail: "The instance has not been found yet."}
			p.instances[r.WorkerID] = i
			p.list = append(p.list, i)
			p.touch(i)
			pl.count++
			return i.sighting, true
		}
	}
	return fleet.Sighting{Ref: r, State: fleet.Unknown, Detail: fmt.Sprintf("The provider does not have the region %s any more; put it back into its configuration until all workers there have ended.", r.WorkerGroup)}, true
}

var wholeID = regexp.MustCompile(`^i-([0-9a-f]{8}|[0-9a-f]{17})$`)

// All iterates over what EC2 has shown, or has answered to a launch.
func (s sight) All() iter.Seq[fleet.Sighting] {
	return func(yield func(fleet.Sighting) bool) {
		var part [64]fleet.Sighting
		for from := 0; ; from += len(part) {
			n, more := s.part(from, part[:])
			for i := range n {
				if !yield(part[i]) {
					return
				}
			}
			if !more {
				return
			}
		}
	}
}

// part copies some of them, so that no lock is held while somebody looks at
// them.
func (s sight) part(from int, into []fleet.Sighting) (n int, more bool) {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	list := s.p.list
	to := min(from+len(into), len(list))
	for k := from; k < to; k++ {
		if !list[k].unsure {
			into[n] = list[k].sighting
			n++
		}
	}
	return n, to < len(list)
}

// forgetEnded is how long it is remembered that an instance has ended, which is
// longer than EC2 shows it.
const forgetEnded = 2 * time.Hour
