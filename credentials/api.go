package credentials

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
)

// API is the service under /api/credentials/v1/.
var API = api.Service[*Credentials]{
	Name: "credentials", Version: "v1", Title: "Credentials",
	Doc: `Rotates credentials: makes new versions of them where they are valid, hands these to those who use them, and ends the old ones
when nobody uses them any more.

Which credentials there are is in the configuration of the deployment. This API tells how they are, and has them rotated. Secrets
are in no reply but that of ` + "`secret`" + `.`,
	Schemas: api.Folder(schemaFiles, "schemas"),
	Params: map[string]string{
		"name":     namePattern.String(),
		"consumer": namePattern.String(),
	},
	Methods: []api.Method[*Credentials]{
		listCredentials, getCredential, history, rotateNow, revokeNow, verifyNow, leftoversNow, consumedNow, secretNow,
	},
	Exchanges: []api.Exchange{rotationDoneExchange, rotationFailedExchange, attentionExchange},
}

type path struct {
	Name string `path:"name"`
}

type credentialList struct {
	Credentials []*view `json:"credentials"`
}

var listCredentials = api.Declare(api.Spec{
	Name: "listCredentials", Route: "GET /credentials", Scopes: scope.Scope("credentials:list"), Output: "v1/credential-list.json#",
	Stability: api.Experimental, Category: "Credentials", Title: "List credentials",
	Doc: `Lists all credentials, those of the configuration and those that were in it, with their state, and what to do where something is
wrong. No secret is shown.`,
}, func(ctx context.Context, c *Credentials, _ api.Call[api.None, api.None]) (out credentialList, err error) {
	err = c.db.View(ctx, func(tx *store.Tx) error {
		out.Credentials, err = c.views(tx)
		return err
	})
	if out.Credentials == nil {
		out.Credentials = []*view{}
	}
	return out, err
})

var getCredential = api.Declare(api.Spec{
	Name: "credential", Route: "GET /credentials/<name>", Scopes: scope.Scope("credentials:get:<name>"), Output: "v1/credential.json#",
	Stability: api.Experimental, Category: "Credentials", Title: "Describe a credential",
	Doc: "Tells how a credential is: its versions, which of them each consumer has, and the rotation that is under way. No secret is shown.",
}, func(ctx context.Context, c *Credentials, call api.Call[path, api.None]) (*view, error) {
	return c.describe(ctx, call.Path.Name)
})

func (c *Credentials) describe(ctx context.Context, name string) (out *view, err error) {
	err = c.db.View(ctx, func(tx *store.Tx) error {
		r := &row{}
		err := r.scan(tx.QueryRow(`SELECT `+rowColumns+` FROM credential WHERE name = $1`, name))
		if errors.Is(err, store.ErrNotFound) && c.defined[name] != nil {
			r, err = nil, nil
		}
		if err != nil {
			return err
		}
		if out, err = c.view(tx, name, r); err != nil || out.Rotation == nil {
			return err
		}
		out.Rotation.Steps, err = steps(tx, out.Rotation.ID)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil, api.Errorf(api.ResourceNotFound, "There is no credential %s. GET /credentials lists them.", name)
	}
	return out, err
}

type historyReply struct {
	Rotations         []*rotationView `json:"rotations"`
	ContinuationToken string          `json:"continuationToken,omitempty"`
}

var history = api.Declare(api.Spec{
	Name: "history", Route: "GET /credentials/<name>/history", Query: []string{"continuationToken", "limit"},
	Scopes: scope.Scope("credentials:get:<name>"), Output: "v1/credential-history.json#",
	Stability: api.Experimental, Category: "Credentials", Title: "History of a credential",
	Doc: "Lists the rotations of a credential, the latest first, with the steps that each has come to. They are kept for 400 days.",
}, func(ctx context.Context, c *Credentials, call api.Call[path, api.None]) (out historyReply, err error) {
	page, err := call.Page(2)
	if err != nil {
		return out, err
	}
	before := int64(1) << 62
	if page.After != nil {
		if before, err = page.Int(0); err != nil {
			return out, err
		}
	}
	err = c.db.View(ctx, func(tx *store.Tx) error {
		out = historyReply{Rotations: []*rotationView{}}
		list, err := rotations(tx, `credential = $1 AND (started, id) < ($2, $3) ORDER BY started DESC, id DESC LIMIT $4`, call.Path.Name, before, page.Text(1), page.Limit+1)
		if err != nil {
			return err
		}
		if len(list) > page.Limit {
			list = list[:page.Limit]
			last := list[page.Limit-1]
			out.ContinuationToken = page.Token(strconv.FormatInt(int64(last.started), 10), last.id)
		}
		for _, r := range list {
			v := r.view()
			if v.Steps, err = steps(tx, r.id); err != nil {
				return err
			}
			out.Rotations = append(out.Rotations, v)
		}
		return nil
	})
	return out, err
})

// steps are those that a rotation has come to.
func steps(tx *store.Tx, rotation string) (list []stepView, err error) {
	rows, err := tx.Query(`SELECT step, attempt, started, ended, outcome, error FROM credential_step WHERE rotation = $1 ORDER BY started, ended`, rotation)
	if err != nil {
		return nil, err
	}
	for rows.Next() {
		var s stepView
		if err := rows.Scan((*string)(&s.Step), &s.Attempt, &s.Started, &s.Ended, &s.Outcome, &s.Error); err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, rows.Err()
}

var rotateNow = api.Declare(api.Spec{
	Name: "rotate", Route: "POST /credentials/<name>/rotate", Scopes: scope.Scope("credentials:rotate:<name>"), Output: "v1/credential.json#",
	Stability: api.Experimental, Category: "Rotation", Title: "Rotate a credential",
	Doc: `Begins a rotation, and returns at once. One that is under way is what was asked for. The old version goes on working until every
consumer has the new one or the overlap ends, and nobody uses it any more.`,
}, func(ctx context.Context, c *Credentials, call api.Call[path, api.None]) (*view, error) {
	if err := c.Rotate(ctx, call.Path.Name, call.Caller().ClientID); err != nil {
		return nil, err
	}
	return c.describe(ctx, call.Path.Name)
})

var revokeNow = api.Declare(api.Spec{
	Name: "revoke", Route: "POST /credentials/<name>/revoke", Scopes: scope.Scope("credentials:revoke:<name>"), Output: "v1/credential.json#",
	Stability: api.Experimental, Category: "Rotation", Title: "Revoke a credential",
	Doc: `For a credential that has leaked: makes a new version, hands it out, and ends all that there were before at once, whoever uses them.
Consumers that do not pick the new one up by themselves, or by then, lose what they use. Until the new version works the old one
stays; if none can be made, end the old one where it was minted.

Returns at once; ` + "`credential`" + ` tells how it goes. A rotation that is under way goes on without waiting; if its version was
made already, another rotation follows.`,
}, func(ctx context.Context, c *Credentials, call api.Call[path, api.None]) (*view, error) {
	if err := c.Revoke(ctx, call.Path.Name, call.Caller().ClientID); err != nil {
		return nil, err
	}
	return c.describe(ctx, call.Path.Name)
})

type verification struct {
	Works bool   `json:"works"`
	Why   string `json:"why,omitempty"`
}

var verifyNow = api.Declare(api.Spec{
	Name: "verify", Route: "POST /credentials/<name>/verify", Scopes: scope.Scope("credentials:verify:<name>"), Output: "v1/credential-verification.json#",
	Stability: api.Experimental, Category: "Rotation", Title: "Verify a credential",
	Doc: "Uses the current version against its provider, as happens once a day by itself, and tells whether it works. It changes nothing.",
}, func(ctx context.Context, c *Credentials, call api.Call[path, api.None]) (out verification, err error) {
	out.Why, err = c.Verify(ctx, call.Path.Name)
	out.Works = out.Why == ""
	return out, err
})

type leftoverList struct {
	Told      bool       `json:"told"`
	Leftovers []Leftover `json:"leftovers"`
}

var leftoversNow = api.Declare(api.Spec{
	Name: "leftovers", Route: "GET /credentials/<name>/leftovers", Scopes: scope.Scope("credentials:verify:<name>"), Output: "v1/credential-leftovers.json#",
	Stability: api.Experimental, Category: "Rotation", Title: "What is left of a credential",
	Doc: `Asks the provider what it has of the credential that is no version of it which is in use. What is left of old versions is removed
once a day; what never was a version (state ` + "`unknown`" + `) somebody else has made, and is to be looked at.`,
}, func(ctx context.Context, c *Credentials, call api.Call[path, api.None]) (out leftoverList, err error) {
	d, err := c.find(call.Path.Name)
	if err != nil {
		return out, err
	}
	out.Leftovers, err = c.leftovers(ctx, d)
	out.Told = !errors.Is(err, ErrNotTold)
	if !out.Told {
		return leftoverList{Leftovers: []Leftover{}}, nil
	}
	return out, err
})

type consumerPath struct {
	Name     string `path:"name"`
	Consumer string `path:"consumer"`
}

type consumedRequest struct {
	Version string `json:"version"`
}

var consumedNow = api.Declare(api.Spec{
	Name: "consumed", Route: "POST /credentials/<name>/consumers/<consumer>/consumed", Scopes: scope.Scope("credentials:consumed:<name>:<consumer>"),
	Input: "v1/credential-consumed-request.json#", Stability: api.Experimental, Category: "Consumers", Title: "Report that a consumer uses a version",
	Doc: "Notes that a consumer has picked a version up, so that it need not be waited for any more. Without a version it is the current one.",
}, func(ctx context.Context, c *Credentials, call api.Call[consumerPath, consumedRequest]) (none api.NoContent, err error) {
	return none, c.Consumed(ctx, call.Path.Name, call.Path.Consumer, call.Body.Version)
})

type secretReply struct {
	Version string          `json:"version"`
	Secret  json.RawMessage `json:"secret"`
}

var secretNow = api.Declare(api.Spec{
	Name: "secret", Route: "GET /credentials/<name>/secret", Scopes: scope.Scope("credentials:reveal:<name>"), Output: "v1/credential-secret.json#", Private: true,
	Stability: api.Experimental, Category: "Consumers", Title: "Read the secret of a credential",
	Doc: "Returns the secret of the current version. The log says who has asked for it.",
}, func(ctx context.Context, c *Credentials, call api.Call[path, api.None]) (out secretReply, err error) {
	if out.Version, out.Secret, err = c.Reveal(ctx, call.Path.Name); err == nil {
		c.log.Info("the secret of a credential was read", "credential", call.Path.Name, "version", out.Version, "client", call.Caller().ClientID)
	}
	return out, err
})
