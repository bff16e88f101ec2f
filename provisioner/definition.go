package provisioner

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
)

// A reading is what was made of a definition.
type reading struct {
	configs    []*fleet.LaunchConfig
	settings   fleet.Settings
	findings   []string // what the provider found wrong with it, looking at what there is
	incomplete string   // why the provider could not look at all of it
}

// What keeps one pool from holding up the others: its configuration is read, and
// each of its launch configurations looked at, in every pass.
const (
	mostLaunchConfigs = 1000
	longestConfig     = 2 << 20 // bytes
)

// parse says what is wrong with the form of a definition, and reads from it
// what the workers of the pool are made from.
func (p *Provisioner) parse(d poolDefinition) (r reading, err error) {
	provider := p.providers[d.ProviderID]
	if provider == nil {
		return r, api.Errorf(api.InputError, "There is no provider %q; this deployment has %s.", d.ProviderID, strings.Join(p.providerIDs(), ", "))
	}
	if n := len(d.Config); n > longestConfig {
		return r, api.Errorf(api.InputError, "The pool's configuration has %d bytes of JSON, and %d are the most.", n, longestConfig)
	}
	if _, manual := provider.(fleet.Manual); manual {
		r.settings, err = (&fleet.Pool{Config: d.Config}).Settings()
	} else {
		r.settings, err = fleet.ParseSettings(d.Config)
	}
	if err == nil {
		r.configs, err = provider.Parse(d.Config)
	}
	if n := len(r.configs); n > mostLaunchConfigs {
		err = fmt.Errorf("it has %d launch configurations, and %d are the most: use instanceTypes and availabilityZones, or several pools", n, mostLaunchConfigs)
	}
	if err != nil {
		return r, api.Errorf(api.InputError, "The pool's configuration does not fit the provider %s: %v.", d.ProviderID, err)
	}
	return r, nil
}

// look has the provider check what it can find out about a definition of good
// form: whether what it names is there and may be used.
func (p *Provisioner) look(ctx context.Context, d poolDefinition, r *reading) {
	validator, ok := p.providers[d.ProviderID].(fleet.Validator)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	findings, err := validator.Validate(ctx, d.Config)
	r.findings = findings
	if err != nil {
		r.incomplete = err.Error()
	}
}

// accept reads a definition for a caller who wants a pool to have it. What is
// wrong with it is the error, and an error of the pool as well, so that those
// who look after the pool see it, too. Where the provider cannot find out it is
// given the benefit of the doubt.
func (p *Provisioner) accept(ctx context.Context, who api.Identity, id string, d poolDefinition) (reading, error) {
	r, err := p.parse(d)
	if err != nil {
		return r, p.refuse(ctx, id, d, err)
	}
	if err := mayGrant(who, r.settings); err != nil {
		return r, err
	}
	if p.look(ctx, d, &r); len(r.findings) > 0 {
		return r, p.refuse(ctx, id, d, api.Errorf(api.InputError, "The provider %s finds the definition wrong:\n\n* %s", d.ProviderID, strings.Join(r.findings, "\n* ")))
	}
	return r, nil
}

// refuse records that a definition was refused, and returns why.
func (p *Provisioner) refuse(ctx context.Context, id string, d poolDefinition, why error) error {
	e, ok := why.(*api.Error)
	if !ok {
		return why
	}
	if err := p.db.Do(ctx, func(tx *store.Tx) error {
		_, err := p.record(tx, &fleet.Pool{ID: id, ProviderID: d.ProviderID}, fleet.Complaint{
			Kind: fleet.KindConfig, Title: "A definition of the pool was refused",
			Description: e.Message + "\n\nNothing has changed: the pool, if there is one, is as it was.",
		})
		return err
	}); err != nil {
		return err
	}
	return why
}

// doubt records that a definition was accepted though not all of it could be
// looked at.
func (p *Provisioner) doubt(tx *store.Tx, o *fleet.Pool, r reading) error {
	if r.incomplete == "" {
		return nil
	}
	_, err := p.record(tx, o, fleet.Complaint{
		Kind: fleet.KindUnchecked, Title: "A definition of the pool could not be checked",
		Description: fmt.Sprintf("The definition was accepted, but its provider could not find out whether all that it names is there: %s. If something is not, starting workers will fail and say so. Validate the definition again later.", r.incomplete),
	})
	return err
}

// delegated are the scopes that whoever defines a pool has to have, as its
// workers get them.
var delegated = scope.ForEach{For: "scope", In: "scopes", Each: "<scope>"}

// mayGrant refuses to give workers scopes that the caller does not have.
func mayGrant(who api.Identity, s fleet.Settings) error {
	need, err := scope.Resolve(delegated, scope.Vars{"scopes": s.Grants()})
	if err != nil {
		return fmt.Errorf("provisioner: scopes of a pool: %w", err)
	}
	if who.Satisfies(need) {
		return nil
	}
	return api.Errorf(api.InsufficientScopes, "%s lacks scopes that config.scopes and config.secrets would give to the pool's workers. Missing:\n\n```\n%s\n```", who.ClientID, need.Missing(who.Scopes))
}

// checkNames refuses to give the name of a launch configuration to another one:
// workers and figures that carry it would be of both. Settings of the
// provisioner may change under a name, as they make no other machine.
func checkNames(tx *store.Tx, poolID string, list []*fleet.LaunchConfig) error {
	for _, c := range list {
		if !c.Named {
			continue
		}
		var before json.RawMessage
		err := tx.QueryRow(`SELECT config FROM launch_config WHERE worker_pool_id = $1 AND launch_config_id = $2`, poolID, c.ID).Scan(&before)
		if isMissing(err) || err == nil && sameMachine(before, c.Config) {
			continue
		}
		if err != nil {
			return err
		}
		return api.Errorf(api.InputError, "The launch configuration %s of the pool %s has another content than the one that had this launchConfigId before. Give it a new one, or leave launchConfigId out to have one follow from the content. Only what is under workerManager can be changed without a new id.", c.ID, poolID)
	}
	return nil
}

// sameMachine reports whether two launch configurations make the same machine.
func sameMachine(a, b json.RawMessage) bool {
	var x, y map[string]any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	delete(x, "workerManager")
	delete(y, "workerManager")
	return reflect.DeepEqual(x, y)
}
