package credentials

import (
	"cmp"
	"context"
	"encoding/json"
	"strings"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
)

// A Bootstrapper has what a project needs at some service elsewhere be there: a
// project of its own, a team, tokens. Spec is JSON that the service understands. An
// error that names what is wrong with that is Refused.
type Bootstrapper interface {
	// Plan tells what Apply would do. It changes nothing.
	Plan(ctx context.Context, project string, spec json.RawMessage) ([]Change, error)

	// Apply does it, and tells what it has changed, also if it fails. Where all is as
	// it should be it changes nothing.
	Apply(ctx context.Context, project string, spec json.RawMessage) ([]Change, error)
}

// A Change is something that is not as it should be. Nothing of it is secret.
type Change struct {
	What   string `json:"what"` // the kind of thing
	Name   string `json:"name"`
	Action string `json:"action"` // create, update or disable
	Before any    `json:"before,omitempty"`
	After  any    `json:"after,omitempty"`
}

type bootstrapPath struct {
	Service string `path:"service"`
	Project string `path:"project"`
}

type bootstrapRequest struct {
	Spec   json.RawMessage `json:"spec"`
	DryRun bool            `json:"dryRun"`
}

type bootstrapReply struct {
	Changes []Change `json:"changes"`
	Error   string   `json:"error,omitempty"`
}

var bootstrap = api.Declare(api.Spec{
	Name: "bootstrap", Route: "POST /bootstrap/<service>/<project>", Scopes: scope.Scope("credentials:bootstrap:<service>:<project>"),
	Input: "v1/bootstrap-request.json#", Output: "v1/bootstrap-reply.json#",
	Stability: api.Experimental, Category: "Bootstrap", Title: "Have what a project needs elsewhere be there",
	Doc: `Has what a project needs at a service that the deployment knows, ` + "`sentry`" + ` or ` + "`signalfx`" + `, be as it is asked for: a project, a team,
an alert, a token. What is as it should be is left alone, so that the second time nothing changes. With ` + "`dryRun`" + ` it tells what it would do.

What was changed is told also when something failed after it; ` + "`error`" + ` says what that was then.`,
}, func(ctx context.Context, c *Credentials, call api.Call[bootstrapPath, bootstrapRequest]) (out bootstrapReply, err error) {
	b := c.config.Bootstrappers[call.Path.Service]
	if b == nil {
		return out, api.Errorf(api.ResourceNotFound, "This deployment knows no service %q to bootstrap a project at; it knows: %s.", call.Path.Service,
			cmp.Or(strings.Join(sortedKeys(c.config.Bootstrappers), ", "), "none"))
	}
	do := b.Apply
	if call.Body.DryRun {
		do = b.Plan
	}
	out.Changes, err = do(ctx, call.Path.Project, call.Body.Spec)
	if out.Changes == nil {
		out.Changes = []Change{}
	}
	switch {
	case err == nil:
	case refused(err) && len(out.Changes) == 0:
		return out, api.Errorf(api.InputError, "%v", err)
	default:
		c.log.Warn("bootstrapping a project elsewhere", "service", call.Path.Service, "project", call.Path.Project, "changes", len(out.Changes), "err", err)
		out.Error = err.Error()
	}
	return out, nil
})
