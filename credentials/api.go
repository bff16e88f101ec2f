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
		"service":  namePattern.String(),
		"project":  namePattern.String(),
	},
	Methods: []api.Method[*Credentials]{
		listCredentials, getCredential, history, rotateNow, revokeNow, supplyNow, verifyNow, leftoversNow, retireNow, consumedNow, secretNow, bootstrap,
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
		parts, err := c.parts(tx, []string{name})
		if err != nil {
			return err
		}
		if out = c.view(name, r, parts[name]); out.Rotation == nil {
			return nil
		}
		all, err := steps(tx, out.Rotation.ID)
		out.Rotation.Steps = all[out.Rotation.ID]
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
		var ids []string
		for _, r := range list {
			ids = append(ids, r.id)
		}
		all, err := steps(tx, ids...)
		for _, r := range list {
			v := r.view()
			v.Steps = all[r.id]
			out.Rotations = append(out.Rotations, v)
		}
		return err
	})
	return out, err
})

// steps are those that rotations have come to.
func steps(tx *store.Tx, rotations ...string) (all map[string][]stepView, err error) {
	rows, err := tx.Query(`SELECT rotation, step, attempt, started, ended, outcome, error FROM credential_step
		 WHERE rotation IN (SELECT value FROM json_each($1)) ORDER BY started, ended`, rotations)
	if err != nil {
		return nil, err
	}
	all = map[string][]stepView{}
	for rows.Next() {
		var s stepView
		var of string
		if err := rows.Scan(&of, (*string)(&s.Step), &s.Attempt, &s.Started, &s.Ended, &s.Outcome, &s.Error); err != nil {
			return nil, err
		}
		all[of] = append(all[of], s)
	}
	return all, rows.Err()
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

type retireRequest struct {
	ID      string `json:"id"`
	Forced  bool   `json:"forced"`
	Removed bool   `json:"removed"`
}

var retireNow = api.Declare(api.Spec{
	Name: "retire", Route: "POST /credentials/<name>/retire", Scopes: scope.Scope("credentials:retire:<name>"), Input: "v1/credential-retire-request.json#",
	Stability: api.Experimental, Category: "Rotation", Title: "Retire what is left of a credential",
	Doc: `Removes where it was minted what is no version of the credential: something that ` + "`leftovers`" + ` tells, which somebody else has made. What was
seen in use lately is only removed if ` + "`forced`" + `.

With ` + "`removed`" + ` it notes instead that an old version was removed by hand, so that nothing waits for it: for those whose kind this
deployment does not have any more, or whose provider is gone.`,
}, func(ctx context.Context, c *Credentials, call api.Call[path, retireRequest]) (none api.NoContent, err error) {
	if call.Body.Removed {
		return none, c.Removed(ctx, call.Path.Name, call.Body.ID, call.Caller().ClientID)
	}
	return none, c.Retire(ctx, call.Path.Name, call.Body.ID, call.Caller().ClientID, call.Body.Forced)
})

type supplyRequest struct {
	Secret json.RawMessage `json:"secret"`
}

var supplyNow = api.Declare(api.Spec{
	Name: "supply", Route: "POST /credentials/<name>/supply", Scopes: scope.Scope("credentials:supply:<name>"), Input: "v1/credential-supply-request.json#",
	Output: "v1/credential.json#", Private: true,
	Stability: api.Experimental, Category: "Rotation", Title: "Supply a version of a credential",
	Doc: `Brings the new version of a credential that people make, such as a password that was bought. It is tried and handed out as any other, and
takes the place of the one before. Bringing the same again while that goes on changes nothing.`,
}, func(ctx context.Context, c *Credentials, call api.Call[path, supplyRequest]) (*view, error) {
	if err := c.Supply(ctx, call.Path.Name, call.Body.Secret, call.Caller().ClientID); err != nil {
		return nil, err
	}
	return c.describe(ctx, call.Path.Name)
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
	Doc: "Notes that a consumer has picked a version up, so that it need not be waited for any more. Without a version it is the current one, if there is no other that it may use.",
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
	Doc: "Returns the secret of the current version, with its id. The history of the credential says who has asked for it.",
}, func(ctx context.Context, c *Credentials, call api.Call[path, api.None]) (out secretReply, err error) {
	out.Version, out.Secret, err = c.Reveal(ctx, call.Path.Name, call.Caller().ClientID)
	return out, err
})
