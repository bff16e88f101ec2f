package awsfake

import (
	"time"
)

// Config says what a cloud is like. The zero value is a quiet one: default
// account and regions, no limits, no faults, instant boots.
type Config struct {
	// Now is the clock; nil is time.Now. It must not go backwards.
	Now func() time.Time
	// Seed decides every draw.
	Seed uint64
	// Accounts are twelve-digit account numbers; default one, 123456789012.
	Accounts []string
	// Regions exist in every account; default six.
	Regions []string

	Boot        Boot
	Consistency Consistency
	Limits      Limits
	Quotas      Quotas
	Faults      Faults
	Events      Events
	Leaks       Leaks

	// Markets says what a market is like when it is first met; nil is an
	// endless, uninterrupted supply at the default price.
	Markets func(Market) Conditions
	// Prices is the on-demand price table in USD per instance-hour. A type or
	// region for which it is nil or returns 0 has the built-in price. (It
	// stands for the Pricing service, which has no other face here.)
	Prices func(region, instanceType string) float64

	// Happened is told everything that happens to instances, in order, outside
	// the model's lock: it may call the cloud.
	Happened func(Happening)
}

// Boot is how instances start and stop.
type Boot struct {
	// Median and Sigma describe the log-normal time from the request until
	// the instance's worker registers ([Booted]).
	Median time.Duration
	Sigma  float64
	// Running is the share of that time after which the instance is in state
	// "running"; default 0.3.
	Running float64
	// Factor multiplies the boot time by instance type or family ("c7i"); a
	// type without one has 1.
	Factor map[string]float64
	// Dead is the share of launches whose worker never registers.
	Dead float64
	// Shutdown is the time from termination until "terminated".
	Shutdown time.Duration
}

// Consistency is how late answers are about instances.
type Consistency struct {
	// Delay is the longest usual time for which a new instance does not appear:
	// DescribeInstances does not list it, and calls that name it say
	// InvalidInstanceID.NotFound. Each instance's is uniform below it.
	Delay time.Duration
	// TailShare of instances take up to TailDelay instead.
	TailShare float64
	TailDelay time.Duration
	// States is the longest time by which lists show a change of state late;
	// each change's is uniform below it.
	States time.Duration
}

// Limits turns request throttling on.
type Limits struct {
	// Documented applies the limits that AWS documents, per account, region
	// and action: see [DocumentedLimits].
	Documented bool
	// Requests and Resources override or add limits by action. A Capacity of
	// zero means no limit. CreateFleet draws on RunInstances' buckets.
	Requests, Resources map[string]Bucket
}

// Bucket is a token bucket: a burst of Capacity, refilled by Refill a second.
type Bucket struct{ Capacity, Refill float64 }

// Quotas are the vCPUs of standard instance families (A, C, D, H, I, M, R, T,
// Z) that may be in use at once, per account and region; zero is no limit.
type Quotas struct{ OnDemand, Spot int }

// Faults are shares of calls, to all services.
type Faults struct {
	// Unavailable calls fail with a 503 and do nothing.
	Unavailable float64
	// FailedAfter calls do their work and then answer with a 500.
	FailedAfter float64
	// LostAnswers calls do their work; the answer never arrives
	// ([ErrAnswerLost] on the Go face, a cut connection over HTTP).
	LostAnswers float64
}

// Events are what EventBridge would put into an SQS queue: state changes,
// rebalance recommendations and interruption warnings of the region's
// instances.
type Events struct {
	// Queue is the name of a queue that exists in every account and region
	// and receives its events; "" is no events.
	Queue string
	// Delay is the longest usual delay; each event's is uniform below it, so
	// events overtake each other. Late of them take up to LateDelay.
	Delay     time.Duration
	Late      float64
	LateDelay time.Duration
	// Lost and Duplicated are shares.
	Lost, Duplicated float64
}

// Leaks are shares of terminated instances that leave something behind
// although it should have gone with them.
type Leaks struct{ Volumes, Interfaces float64 }

// Market is where an instance is bought.
type Market struct {
	Region, Zone, Type string
	Spot               bool
}

// Conditions describe a market.
type Conditions struct {
	// Price in USD per instance-hour; 0 is the default: the on-demand price,
	// and for spot 0.35 of it.
	Price float64
	// Volatility is the standard deviation of the logarithm of a spot price
	// after one hour. The walk returns to Price and stays between a fifth of
	// it and the on-demand price.
	Volatility float64
	// Hazard is the interruptions per hour of a spot instance.
	Hazard float64
	// Rebalance is how long before its interruption warning an instance gets a
	// rebalance recommendation; each one's is uniform below it. 0 is none.
	Rebalance time.Duration
	// Depth is how many instances the market holds; 0 is no end.
	Depth int
	// Open and Closed are the mean times (exponential) for which the market
	// has capacity and is sold out, in turn. It starts open. Closed 0 is
	// always open.
	Open, Closed time.Duration
}

// Kind is what happened to an instance.
type Kind string

// What happens, in the order of an instance's life.
const (
	Launched    Kind = "launched"   // the request was granted
	Running     Kind = "running"    // state running
	Booted      Kind = "booted"     // its worker would register now
	Recommended Kind = "rebalance"  // rebalance recommendation
	Warned      Kind = "warned"     // interruption in two minutes
	Stopping    Kind = "stopping"   // shutting down, on request or by interruption
	Terminated  Kind = "terminated" // gone
)

// Happening is one thing that happened to one instance.
type Happening struct {
	At       time.Time
	Kind     Kind
	Instance Instance
}
