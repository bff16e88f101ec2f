package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"time"

	"github.com/taskfleet/taskfleet/timestamp"
)

// A Provider brings workers into being, sees what became of them and ends
// them: processes on this machine, instances in a cloud. How many workers there
// should be, and which of them are to go, is the Controller's business; where
// they are got is the provider's.
//
// A provider never waits: not for a worker to boot or to end, and not for
// permission to call. What cannot be done now is left for a later pass. It is
// called for several pools at once.
//
// What a provider can do beyond this it says by having the methods of Notifier,
// Validator, Previewer or Marketplace. Package providertest holds every provider
// to what is said here.
type Provider interface {
	// Type is the kind of provider, as listProviders shows it.
	Type() string

	// Parse reads a pool's configuration: what its workers are made from, in the
	// order of preference. Equal configurations have equal ids, different ones
	// different ids. The error says what is wrong, where, and how to put it right.
	// Nothing is called to find out.
	Parse(config json.RawMessage) ([]*LaunchConfig, error)

	// Plan makes intents for up to Need.Capacity, which nobody has asked for yet.
	// Where less can be had now, it says why.
	Plan(ctx context.Context, now timestamp.Time, n Need) (Plan, error)

	// Launch does what an intent says. Repeating one is no harm: what it has
	// brought into being is answered again, and what is missing is made up for or
	// refused.
	Launch(ctx context.Context, now timestamp.Time, i *Intent) Answer

	// Look returns what the provider sees of all that Launch ever brought into
	// being, by this process or by one before it, and that Stop has not cleared
	// away.
	Look(ctx context.Context, now timestamp.Time) (Sight, error)

	// Stop ends workers, and returns those of which nothing runs any more and
	// nothing is left; of the others, Look will tell. Stopping one that does not
	// exist is no error: it is gone.
	Stop(ctx context.Context, now timestamp.Time, list []Target, how Manner) (gone []Ref, err error)

	// Identify checks what a worker proves its identity with. The row of the
	// worker is known to the caller, and may be changed: Facts that the proof
	// tells are added. It makes sure that the proof is of this very worker; that
	// it is used once is the caller's business. The error is for the log.
	Identify(ctx context.Context, now timestamp.Time, w *Worker, proof json.RawMessage) error
}

// A Notifier calls f whenever its Look would answer differently for another
// reason than a call of the Controller, such as a death. It may call late or
// too often; f is quick and may be called by several goroutines at once.
type Notifier interface{ Notify(f func()) }

// Manual is what a provider has that makes no workers: somebody makes those that
// there are known. Pools of such a provider have no size to keep, and their
// workers no time to boot in; they are running from the start, and end when
// somebody wants them to or when what was said of them expires.
type Manual interface {
	// Accept makes the Facts of a worker from what its maker says of it. They are
	// the same for the same. The error is for the maker.
	Accept(r Ref, providerInfo json.RawMessage) (facts json.RawMessage, err error)
}

// A Validator checks a configuration that Parse has found well formed against
// the world: whether images, networks and permissions are there. It makes calls,
// and is used before a pool is stored and by hand. Findings say what is wrong
// where and how to put it right; the error is that it could not find out.
type Validator interface {
	Validate(ctx context.Context, config json.RawMessage) (findings []string, err error)
}

// A Previewer shows all that a configuration can turn into: each combination of
// place and kind of machine, with the request that would be sent for it.
type Previewer interface {
	Preview(ctx context.Context, config json.RawMessage) ([]Spec, error)
}

// A Spec is one combination of a configuration, ready to be launched.
type Spec struct {
	LaunchConfigID string          `json:"launchConfigId"`
	Market         string          `json:"market"`
	Capacity       int64           `json:"capacity"`
	Utility        float64         `json:"utility,omitempty"`
	Request        json.RawMessage `json:"request"`
}

// A Marketplace knows where machines can be had, and at what price.
type Marketplace interface {
	// Markets are those that the configuration may buy in.
	Markets(ctx context.Context, now timestamp.Time, config json.RawMessage) ([]Market, error)
}

// A Market is a place and a kind of machine and a way of paying for it.
type Market struct {
	Name      string         `json:"market"` // "us-east-1a/c5.xlarge/spot"
	Capacity  int64          `json:"capacity"`
	Utility   float64        `json:"utility,omitempty"`
	Price     int64          `json:"price,omitempty"`     // of an hour, in millionths of a dollar; 0: not known
	State     string         `json:"state"`               // open, closed, probing
	Until     timestamp.Time `json:"until,omitempty"`     // when a closed one is tried again
	Reason    string         `json:"reason,omitempty"`    // why it is not open
	Launched  int64          `json:"launched,omitempty"`  // by this process
	Refused   int64          `json:"refused,omitempty"`   // likewise
	Interrupt float64        `json:"interrupt,omitempty"` // interruptions in an hour of machine, as seen
}

// A Need is what a pool wants now.
type Need struct {
	Pool     *Pool
	Capacity int64         // to be added
	Room     int64         // most that may be added: machines of different capacity need not fit exactly
	Waiting  time.Duration // how long the task that waits longest has waited
	From     []Candidate   // what workers may be made from now
}

// A Candidate is a launch configuration that workers may be made from now.
type Candidate struct {
	*LaunchConfig
	Workers  int64 // most that may be started; math.MaxInt64: no limit
	Existing int64 // capacity that there is of it, or is on its way
}

// A Plan is what a provider would do about a Need.
type Plan struct {
	Intents    []*Intent      // with ID, LaunchConfigID, Workers, Capacity and Request
	Complaints []Complaint    // why it is less than what is needed, where somebody should know
	Retry      timestamp.Time // when more may be possible; 0: not known
}

// An Answer is what came of an intent.
type Answer struct {
	Started []Started      // workers that there are now
	Faults  []Fault        // what was refused, even where something was started
	Again   bool           // it is not known whether there are more: repeat it
	Retry   timestamp.Time // not before
}

// A Started is a worker that a provider has brought into being.
type Started struct {
	Ref
	LaunchConfigID string
	Capacity       int64
	Market         string
	Price          int64 // of an hour, in millionths of a dollar
	Facts          json.RawMessage
}

// A Fault is a refusal.
type Fault struct {
	Class          Class
	LaunchConfigID string
	Market         string
	Title          string // "" is one by class
	Description    string // with the provider's words, and what to do
	Extra          map[string]any
}

// A Class of faults is one that the same reaction is right for.
type Class int

const (
	// Broken is that what is launched does not work, as far as can be told; the
	// launch configuration waits. So do those that the provider calls wrong.
	Broken    Class = iota
	Wrong           // the provider refuses the configuration
	Denied          // the provider refuses us
	SoldOut         // there is none left of this kind; the provider closes the market
	Quota           // the account may not have more
	Throttled       // called too often
	Closing         // the server is about to end. It is no failure.
)

// kind is how a class is recorded, and how it is titled.
func (c Class) kind() (kind, title string) {
	switch c {
	case Wrong:
		return KindConfig, "The provider refuses the launch configuration"
	case Denied:
		return KindAuth, "The provider refuses the account"
	case SoldOut:
		return KindCapacity, "A market is sold out"
	case Quota:
		return KindQuota, "The account's quota is exhausted"
	case Throttled:
		return KindThrottle, "The provider is called too often"
	}
	return KindStart, "A worker could not be started"
}

// blames reports whether faults of the class speak against the launch
// configuration.
func (c Class) blames() bool { return c == Broken || c == Wrong || c == Denied }

// A Target is a worker to be stopped.
type Target struct {
	Ref
	Facts json.RawMessage
	Idle  bool // it has no task and gets none, so nothing is lost if it ends at once
}

// A Manner is how a worker is ended.
type Manner int

const (
	// Gracefully asks the worker to hand back its tasks and end. A provider that
	// cannot ask ends those that are idle, and leaves the others to be ended Now.
	Gracefully Manner = iota
	// Now ends the worker and every process of its tasks, and clears away what
	// is left of it.
	Now
)

// A Sight is what a provider sees at one moment.
type Sight interface {
	// Of returns what is seen of a worker that the books have. Where the provider
	// cannot tell yet it is Unknown; where it does not exist, false.
	Of(Ref) (Sighting, bool)

	// All are all that there are, in no order.
	All() iter.Seq[Sighting]
}

// A Sighting is what a provider knows of one worker.
type Sighting struct {
	Ref
	State    Life
	IntentID string          // that it came from
	Detail   string          // of a worker that ended: how, and what it last said; for people
	Ends     timestamp.Time  // when the provider will take it away; 0: it has not said so
	Facts    json.RawMessage // for Stop
}

// A Life is the state of a worker as its provider sees it.
type Life int

const (
	Alive   Life = iota
	Exited       // ended by itself, successfully
	Failed       // ended in failure: by an error, by a crash, killed by somebody else
	Lost         // ended, and how says nothing about it: nobody saw it, or it was asked to
	Unknown      // it cannot be told yet
)

func (l Life) String() string {
	return [...]string{"alive", "exited", "failed", "lost", "unknown"}[l]
}

// A Versioned Sight numbers what it shows, so that the workers of a pool need
// not be looked at again, each pass, as long as nothing has changed about any.
type Versioned interface {
	// Version is another one after anything that may have Of answer differently
	// about a worker of the pool. It is never 0.
	Version(pool string) uint64
}

// Sightings is a Sight of few workers.
type Sightings map[Ref]Sighting

// Of finds one.
func (s Sightings) Of(r Ref) (Sighting, bool) {
	x, there := s[r]
	return x, there
}

// All are all of them.
func (s Sightings) All() iter.Seq[Sighting] {
	return func(yield func(Sighting) bool) {
		for _, x := range s {
			if !yield(x) {
				return
			}
		}
	}
}

// ErrNotMe is what Identify returns for a proof that is of no worker, or of
// another one.
var ErrNotMe = errors.New("the proof is not of this worker")
