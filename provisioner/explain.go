package provisioner

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// An explanation says why a pool has as many workers as it has.
type explanation struct {
	WorkerPoolID  string           `json:"workerPoolId"`
	ProviderID    string           `json:"providerId"`
	At            timestamp.Time   `json:"at"`
	Summary       []string         `json:"summary"`
	Now           poolStatus       `json:"now"`
	Hindrances    []string         `json:"hindrances"`
	LaunchConfigs []launchStanding `json:"launchConfigs"`
	Intents       []intentView     `json:"intents"`
	Decisions     []decision       `json:"decisions"`
	Errors        []errorView      `json:"errors"`
}

// A launchStanding is a launch configuration with its breaker.
type launchStanding struct {
	LaunchConfigID string         `json:"launchConfigId"`
	Capacity       int64          `json:"capacity"`
	Existing       int64          `json:"existing"`
	State          string         `json:"state"`
	Failures       int64          `json:"failures"`
	StartAfter     timestamp.Time `json:"startAfter,omitempty"`
}

type errorView struct {
	ErrorID        string         `json:"errorId"`
	Reported       timestamp.Time `json:"reported"`
	Kind           string         `json:"kind"`
	Title          string         `json:"title"`
	Description    string         `json:"description"`
	LaunchConfigID string         `json:"launchConfigId,omitempty"`
}

const (
	explainedDecisions = 10
	explainedErrors    = 5
)

var explainWorkerPool = api.Declare(api.Spec{
	Name: "explainWorkerPool", Route: "GET /worker-pool/<workerPoolId...>/explanation", Scopes: readPool, Output: "v1/explanation.json#",
	Stability: api.Experimental, Category: "Worker Pools", Title: "Explain a worker pool",
	Doc: `Says, in words and numbers, why a pool has as many workers as it has: what it was decided by, what was made of the
decision, and what stands in the way of more.`,
}, func(ctx context.Context, p *Provisioner, c api.Call[poolPath, api.None]) (explanation, error) {
	return p.explain(ctx, c.Path.WorkerPoolID)
})

// explain puts an explanation together.
func (p *Provisioner) explain(ctx context.Context, id string) (out explanation, err error) {
	at := now()
	var v view
	err = p.db.View(ctx, func(tx *store.Tx) error {
		o, err := findPool(tx, id)
		if err != nil {
			return err
		}
		if v, err = readView(tx, []*fleet.Pool{o}, at); err != nil {
			return err
		}
		out = explanation{WorkerPoolID: id, ProviderID: o.ProviderID, At: at, Decisions: []decision{}, Errors: []errorView{}}
		list, err := decisions(tx, id, 1<<62, explainedDecisions)
		if err != nil {
			return err
		}
		for _, d := range list {
			out.Decisions = append(out.Decisions, describeDecision(id, d))
		}
		complaints, err := poolErrors(tx, errorQuery{pool: id, before: 1 << 62, limit: explainedErrors})
		for _, e := range complaints {
			out.Errors = append(out.Errors, errorView{e.ErrorID, e.Reported, e.Kind, e.Title, e.Description, e.LaunchConfigID})
		}
		return err
	})
	if err != nil {
		return out, err
	}
	if err := p.addDemand(ctx, &v, at); err != nil {
		return out, err
	}
	o := v.pools[0]
	out.Now = v.status(o)
	out.Intents = describeIntents(v.intents[id])
	out.LaunchConfigs = v.standings(o)
	out.Hindrances = p.hindrances(ctx, &v, o, out)
	out.Summary = v.summary(o, out)
	return out, nil
}

// standings are the launch configurations of a pool.
func (v *view) standings(o *fleet.Pool) []launchStanding {
	list := []launchStanding{}
	for _, c := range o.LaunchConfigs {
		s := launchStanding{LaunchConfigID: c.ID, Capacity: c.Capacity, State: "new", Failures: c.Failures, StartAfter: c.StartAfter}
		switch {
		case c.Waits(v.at):
			s.State = "waiting"
		case c.Failures > 0:
			s.State = "probing"
		case c.Proven || c.Canary == 0:
			s.State = "proven"
		}
		for _, w := range v.workers[o.ID] {
			if w.LaunchConfigID == c.ID && w.ProviderID == o.ProviderID {
				s.Existing += w.Capacity
			}
		}
		list = append(list, s)
	}
	return list
}

// hindrances are what keeps a pool from having as many workers as it wants.
func (p *Provisioner) hindrances(ctx context.Context, v *view, o *fleet.Pool, x explanation) []string {
	list := []string{}
	say := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	provider := p.providers[o.ProviderID]
	switch {
	case o.Going():
		say("The pool is being deleted: no workers are started, and it disappears with the last of those it has.")
		return list
	case provider == nil:
		say("Its provider %s is not configured on this server, which has %s.", o.ProviderID, strings.Join(p.providerIDs(), ", "))
		return list
	}
	if h := v.health[o.ProviderID]; h.Error != "" {
		say("The provider %s has not been able to tell which workers there are since %s, and nothing is started meanwhile: %s", o.ProviderID, h.FailingSince, h.Error)
	}
	settings, err := o.Settings()
	if err != nil {
		say("Its configuration cannot be understood: %v.", err)
		return list
	}
	if _, manual := provider.(fleet.Manual); manual {
		say("Nobody starts workers of this pool; they are made known with createWorker.")
		return list
	}
	if len(o.LaunchConfigs) == 0 {
		say("There is nothing that workers could be made from: the provider does not understand the configuration any more. Update the pool.")
	}
	if all := x.Now.Requested + x.Now.Running + x.Now.Draining; x.Now.Pending > 0 && all >= *settings.MaxCapacity {
		say("It has all the capacity that it may have: config.maxCapacity is %d.", *settings.MaxCapacity)
	}
	for _, c := range o.LaunchConfigs {
		switch {
		case c.Waits(v.at):
			say("%s waits until %s after %d failed starts in a row; the errors say why. Put it right and update the pool, or have it tried at once.", c.ID, c.StartAfter, c.Failures)
		case c.Failures > 0:
			say("%s is tried with one worker at a time after %d failed starts in a row.", c.ID, c.Failures)
		case !c.Proven && c.Canary > 0:
			say("%s is new: there are no more than %d workers of it until one has shown to work.", c.ID, c.Canary)
		}
	}
	for _, i := range v.intents[o.ID] {
		if i.Attempts > 0 {
			say("The provider has not clearly answered a request for %d workers, made at %s; it is repeated at %s.", i.Workers, i.Created, max(i.NextAttempt, v.at))
		}
	}
	if n := x.Now.Quarantined; n > 0 {
		say("Workers of capacity %d are in quarantine: they take room and get no tasks.", n)
	}
	markets, err := p.markets(ctx, o)
	if err != nil {
		say("The provider cannot say where it buys: %v.", err)
	}
	for _, m := range markets {
		if m.State != "open" {
			say("The market %s is %s%s%s.", m.Name, m.State, until(m.Until), because(m.Reason))
		}
	}
	return list
}

func until(t timestamp.Time) string {
	if t.IsZero() {
		return ""
	}
	return " until " + t.String()
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + strings.TrimSuffix(reason, ".")
}

// summary is the explanation in words.
func (v *view) summary(o *fleet.Pool, x explanation) (list []string) {
	say := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	s := x.Now
	wait := ""
	if !s.OldestPending.IsZero() {
		wait = fmt.Sprintf(", the oldest for %v", v.at.Sub(s.OldestPending).Round(time.Second))
	}
	say("%s: %s pending%s, %d running.", o.ID, plural(s.Pending, "task"), wait, s.Claimed)
	say("%s with capacity for %s: %d running (%d of it idle), %d requested, %d about to go.",
		plural(s.Workers, "worker"), plural(s.Running+s.Requested+s.Draining, "task"), s.Running, s.Idle, s.Requested, s.Draining)
	if settings, err := o.Settings(); err == nil {
		if least := settings.Min(v.at); least > settings.MinCapacity {
			say("Its schedule has capacity for %s kept at this time, whether or not there is work.", plural(least, "task"))
		}
	}
	if len(x.Decisions) == 0 {
		say("Nothing has been decided about the pool in the last day.")
		return list
	}
	d := x.Decisions[0]
	say("%v ago the policy %s decided: %s", v.at.Sub(d.At).Round(time.Second), d.Policy, d.Reason)
	if d.Started < d.Start {
		say("Capacity %d was to be started; %d was asked for.", d.Start, d.Started)
	}
	return list
}

func plural(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
