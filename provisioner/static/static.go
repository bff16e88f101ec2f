// Package static is the provider of machines that are simply there: in a rack,
// on a desk, in a cloud that nobody automates. It starts nothing and ends
// nothing. Somebody makes each worker known, by createWorker, with a secret that
// its machine has as well, and the worker shows the secret to register, again
// after every restart of the machine.
//
// So the provider has nothing to remember, and what it knows of a worker is in
// the worker's row: the secret's hash, as the row's Facts. Nothing can be seen
// of such a worker but what it tells the queue; its state is always unknown
// here. Stopping one ends what the platform does with it: its row is closed, its
// claims are handed back, its credentials are not renewed and the secret is good
// no more. The machine goes on, finds that its claims are gone, and asks
// shouldWorkerTerminate or fails to register.
package static

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A Provider is the provider. Its zero value is ready to be used.
type Provider struct{}

var _ fleet.Provider = Provider{}

// Type is "static".
func (Provider) Type() string { return "static" }

// LaunchConfigID is the one launch configuration of every static pool. As
// workers are not made from a configuration, none is outdated by another.
const LaunchConfigID = "static"

// config is a pool's configuration; schemas/config-static.yml says the same.
type config struct {
	Lifecycle    map[string]json.RawMessage `json:"lifecycle"` // scopes and secrets are fleet.Settings
	WorkerConfig json.RawMessage            `json:"workerConfig"`
}

const longestReregistrationTimeout = 30 * 24 * 3600 // seconds; credentials last 31 days at most

// Parse reads a pool's configuration, which may only say what workers are told
// when they register, and what credentials they get for how long.
func (Provider) Parse(raw json.RawMessage) ([]*fleet.LaunchConfig, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil || fields == nil {
		return nil, errors.New("config is not a JSON object")
	}
	if err := only("config", fields, "lifecycle", "scopes", "secrets", "workerConfig"); err != nil {
		return nil, err
	}
	var c config
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, fleet.Explain(err)
	}
	if err := only("config.lifecycle", c.Lifecycle, "reregistrationTimeout"); err != nil {
		return nil, err
	}
	if text, there := c.Lifecycle["reregistrationTimeout"]; there {
		var seconds int64
		if err := json.Unmarshal(text, &seconds); err != nil || seconds < 1 || seconds > longestReregistrationTimeout {
			return nil, fmt.Errorf("config.lifecycle.reregistrationTimeout is %.40s; it must be a whole number of seconds, from 1 to %d", text, longestReregistrationTimeout)
		}
	}
	if text, there := fields["workerConfig"]; there && !bytes.HasPrefix(text, []byte("{")) {
		return nil, fmt.Errorf("config.workerConfig is %.40s; it must be an object", text)
	}
	return []*fleet.LaunchConfig{{
		ID: LaunchConfigID, Config: json.RawMessage(`{}`), Capacity: 1, WorkerConfig: c.WorkerConfig,
	}}, nil
}

// only reports fields that would have no effect.
func only(where string, fields map[string]json.RawMessage, names ...string) error {
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		switch {
		case !slices.Contains(names, name):
			return fmt.Errorf("%s.%s means nothing to the static provider, which neither starts nor ends workers; %s may have %s", where, name, where, strings.Join(names, ", "))
		case string(fields[name]) == "null":
			return fmt.Errorf("%s.%s is null; give it a value or leave it out", where, name)
		}
	}
	return nil
}

// A Secret is what createWorker and updateWorker say of a worker, under
// providerInfo, and what the worker proves its identity with.
type Secret struct {
	StaticSecret string `json:"staticSecret"` // 44 letters, digits, hyphens and underscores, such as two slugids; each worker has its own
}

var secretForm = regexp.MustCompile(`^[a-zA-Z0-9_-]{44}$`)

// facts is what the row of a worker keeps.
type facts struct {
	Secret string `json:"secret"` // its hash
}

// Accept makes the Facts of a worker that somebody makes known. For the same
// secret they are the same, so that a repetition is told from a conflict. The
// error is for the caller and does not have the secret in it.
func (Provider) Accept(r fleet.Ref, providerInfo json.RawMessage) (json.RawMessage, error) {
	var s Secret
	if err := json.Unmarshal(providerInfo, &s); err != nil || !secretForm.MatchString(s.StaticSecret) {
		return nil, errors.New("providerInfo.staticSecret is needed: 44 letters, digits, hyphens and underscores that nobody can guess, such as two slugids; the worker registers with it")
	}
	return json.Marshal(facts{hash(r, s.StaticSecret)})
}

// Identify compares the secret in a proof with that of the worker. A secret is
// good for as long as the worker has it, however often it registers.
func (Provider) Identify(_ context.Context, _ timestamp.Time, w *fleet.Worker, proof json.RawMessage) error {
	var kept facts
	if err := json.Unmarshal(w.Facts, &kept); err != nil || kept.Secret == "" {
		return fmt.Errorf("%w: the worker has no secret; give it one with updateWorker", fleet.ErrNotMe)
	}
	var shown Secret
	if err := json.Unmarshal(proof, &shown); err != nil || shown.StaticSecret == "" {
		return fmt.Errorf("%w: there is no staticSecret in it", fleet.ErrNotMe)
	}
	if subtle.ConstantTimeCompare([]byte(hash(w.Ref, shown.StaticSecret)), []byte(kept.Secret)) != 1 {
		return fmt.Errorf("%w: its staticSecret is another", fleet.ErrNotMe)
	}
	return nil
}

// hash is how a secret is kept: with the worker it belongs to, so that the same
// secret of two workers is not seen to be the same. Slowing it down would serve
// no purpose for secrets of 44 random characters.
func hash(r fleet.Ref, secret string) string {
	sum := sha256.Sum256([]byte("static secret\n" + r.String() + "\n" + secret))
	return hex.EncodeToString(sum[:])
}

// Plan has nothing to offer: capacity is what it is.
func (Provider) Plan(context.Context, timestamp.Time, fleet.Need) (fleet.Plan, error) {
	return fleet.Plan{}, nil
}

// Launch refuses. No intent comes from Plan, but a pool's provider may have been
// another one.
func (Provider) Launch(_ context.Context, _ timestamp.Time, i *fleet.Intent) fleet.Answer {
	return fleet.Answer{Faults: []fleet.Fault{{
		Class: fleet.Wrong, LaunchConfigID: i.LaunchConfigID,
		Description: "The static provider starts no workers. Make those that there are known with createWorker.",
	}}}
}

// Look sees nothing, and so nothing amiss: a worker is there as long as the
// books say so.
func (Provider) Look(context.Context, timestamp.Time) (fleet.Sight, error) { return unseen{}, nil }

type unseen struct{}

func (unseen) Of(r fleet.Ref) (fleet.Sighting, bool) {
	return fleet.Sighting{Ref: r, State: fleet.Unknown}, true
}

func (unseen) All() iter.Seq[fleet.Sighting] { return func(func(fleet.Sighting) bool) {} }

// Stop has the rows of workers closed, and touches no machine. Gracefully, that
// is done for those that have no task; the others are left to hand in theirs.
func (Provider) Stop(_ context.Context, _ timestamp.Time, list []fleet.Target, how fleet.Manner) (gone []fleet.Ref, err error) {
	for _, t := range list {
		if how == fleet.Now || t.Idle {
			gone = append(gone, t.Ref)
		}
	}
	return gone, nil
}
