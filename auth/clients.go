package auth

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

type clientPath struct {
	ClientID string `path:"clientId"`
}

type clientRequest struct {
	Description        string         `json:"description"`
	Expires            timestamp.Time `json:"expires"`
	DeleteOnExpiration bool           `json:"deleteOnExpiration"`
	Scopes             []string       `json:"scopes"` // nil where not given
}

type clientResponse struct {
	ClientID           string         `json:"clientId"`
	AccessToken        string         `json:"accessToken,omitempty"`
	Description        string         `json:"description"`
	Expires            timestamp.Time `json:"expires"`
	Created            timestamp.Time `json:"created"`
	LastModified       timestamp.Time `json:"lastModified"`
	LastDateUsed       timestamp.Time `json:"lastDateUsed"`
	LastRotated        timestamp.Time `json:"lastRotated"`
	Scopes             []string       `json:"scopes"`
	ExpandedScopes     []string       `json:"expandedScopes"`
	Disabled           bool           `json:"disabled"`
	DeleteOnExpiration bool           `json:"deleteOnExpiration"`
}

func (s *snapshot) describe(c *client) clientResponse {
	return clientResponse{
		ClientID: c.ClientID, Description: c.Description, Expires: c.Expires, Created: c.Created,
		LastModified: c.LastModified, LastDateUsed: timestamp.Time(c.lastUsed.Load()), LastRotated: c.LastRotated,
		Scopes: listed(c.Scopes), ExpandedScopes: s.expanded(c.Scopes), Disabled: c.Disabled, DeleteOnExpiration: c.DeleteOnExpiration,
	}
}

// expanded is what scopes imply, for display. Where that is too much to list,
// the scopes themselves have to do: a listing must not fail for one entry.
func (s *snapshot) expanded(scopes []string) []string {
	set, err := s.rules.expand(scopes...)
	if err != nil {
		set = scope.NewSet(scopes...)
	}
	return listed(set)
}

// listed makes an empty list of none.
func listed(scopes []string) []string {
	if scopes == nil {
		return []string{}
	}
	return scopes
}

type clientList struct {
	Clients           []clientResponse `json:"clients"`
	ContinuationToken string           `json:"continuationToken,omitempty"`
}

var listClients = api.Declare(api.Spec{
	Name: "listClients", Route: "GET /clients/", Query: []string{"prefix", "continuationToken", "limit"},
	Scopes: scope.Scope("auth:list-clients"), Output: "v1/list-clients-response.json#",
	Stability: api.Stable, Category: "Clients", Title: "List clients",
	Doc: `Lists clients in the order of their ids, static ones included; with ` + "`prefix`" + `, only those whose id begins with it.

A page has at most 1000 clients. As long as there are more, the reply has a ` + "`continuationToken`" + ` for the next page.`,
}, func(_ context.Context, a *Auth, c api.Call[api.None, api.None]) (clientList, error) {
	r := clientList{Clients: []clientResponse{}}
	page, err := c.Page(1)
	if err != nil {
		return r, err
	}
	s := a.current.Load()
	ids := s.clientIDs
	if prefix := c.Query("prefix"); prefix != "" {
		if !cred.ValidClientID(prefix) {
			return r, api.Errorf(api.InvalidRequestArguments, "prefix is %.100q, with which no client's id begins: they match %s", prefix, cred.ClientIDPattern)
		}
		from, _ := slices.BinarySearch(ids, prefix)
		ids = ids[from:]
		if to := slices.IndexFunc(ids, func(id string) bool { return !strings.HasPrefix(id, prefix) }); to >= 0 {
			ids = ids[:to]
		}
	}
	ids, r.ContinuationToken = cut(page, ids, page.Limit)
	for _, id := range ids {
		r.Clients = append(r.Clients, s.describe(s.clients[id]))
	}
	return r, nil
})

// cut is the page of sorted ids that was asked for, and the token for the next.
func cut(page api.Page, ids []string, limit int) ([]string, string) {
	if page.After != nil {
		i, found := slices.BinarySearch(ids, page.After[0])
		if found {
			i++
		}
		ids = ids[i:]
	}
	if len(ids) <= limit {
		return ids, ""
	}
	return ids[:limit], page.Token(ids[limit-1])
}

var getClient = api.Declare(api.Spec{
	Name: "client", Route: "GET /clients/<clientId>",
	Scopes: scope.Scope("auth:get-client:<clientId>"), Output: "v1/get-client-response.json#",
	Stability: api.Stable, Category: "Clients", Title: "Show a client",
	Doc: `Tells all about a client, except its access token, which nobody can see again.`,
}, func(_ context.Context, a *Auth, c api.Call[clientPath, api.None]) (clientResponse, error) {
	s := a.current.Load()
	x := s.clients[c.Path.ClientID]
	if x == nil {
		return clientResponse{}, noClient(c.Path.ClientID)
	}
	return s.describe(x), nil
})

// replayWindow is how long after its creation a client's creator can ask for
// the access token again.
const replayWindow = 15 * time.Minute

var createClient = api.Declare(api.Spec{
	Name: "createClient", Route: "PUT /clients/<clientId>",
	Scopes: scope.AllOf{scope.Scope("auth:create-client:<clientId>"), scope.ForEach{For: "scope", In: "scopes", Each: "<scope>"}},
	Input:  "v1/create-client-request.json#", Output: "v1/create-client-response.json#",
	Stability: api.Stable, Category: "Clients", Title: "Create a client",
	Doc: `Creates a client and returns its access token: keep it, there is no way to see it again. The caller must have
the scopes that the client is given.

If the client exists already, the call fails with 409. There is one exception, for a caller who has lost the
reply: to repeat the same call within 15 minutes returns the same token again, provided that it is the same caller,
and that the client has neither been changed since nor got another token. After that, ` + "`resetAccessToken`" + ` is the
way.

Ids beginning with ` + "`static/`" + ` belong to the configuration.`,
}, func(ctx context.Context, a *Auth, c api.Call[clientPath, clientRequest]) (r clientResponse, err error) {
	id, body := c.Path.ClientID, c.Body
	if err := checkClient(id, body.Scopes); err != nil {
		return r, err
	}
	if err := c.Authorize(scope.Vars{"scopes": listed(body.Scopes)}); err != nil {
		return r, err
	}
	var x *client
	err = a.change(ctx, func(tx *store.Tx, now *snapshot) (delta, error) {
		t := timestamp.Now()
		if x = now.clients[id]; x != nil {
			if !x.repeats(body, c.Caller().ClientID, t) {
				return delta{}, api.Errorf(api.RequestConflict, "There is a client %s already. Use updateClient to change it, or resetAccessToken to get a token for it.", id)
			}
			return delta{}, nil
		}
		x = &client{
			ClientID: id, Description: body.Description, Scopes: body.Scopes, tokens: []*token{newToken(t)},
			DeleteOnExpiration: body.DeleteOnExpiration, Expires: body.Expires,
			Created: t, createdBy: c.Caller().ClientID, LastModified: t, LastRotated: t,
		}
		x.lastUsed.Store(int64(t))
		return a.writeClient(tx, nil, x, clientCreated, deed{c.Caller().ClientID, created})
	})
	if err != nil {
		return r, err
	}
	r = a.current.Load().describe(x)
	r.AccessToken = x.tokens[0].secret
	return r, nil
})

// repeats reports whether a request to create c is that which created it, sent
// again by someone who did not get the reply.
//
// The token it would return opens everything that the client may do, so it is
// not enough that the caller could have created the client: it must be the one
// who did, and nobody may have touched it since. lastUsed is no objection, as
// the reply may have arrived after all.
func (c *client) repeats(r clientRequest, caller string, now timestamp.Time) bool {
	return now.Sub(c.Created) <= replayWindow && c.createdBy == caller && caller != "" &&
		c.LastModified == c.Created && c.LastRotated == c.Created && !c.Disabled &&
		c.Description == r.Description && c.Expires == r.Expires && c.DeleteOnExpiration == r.DeleteOnExpiration &&
		sameScopes(c.Scopes, r.Scopes)
}

func sameScopes(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

var updateClient = api.Declare(api.Spec{
	Name: "updateClient", Route: "POST /clients/<clientId>",
	Scopes: scope.AllOf{scope.Scope("auth:update-client:<clientId>"), scope.ForEach{For: "scope", In: "scopesAdded", Each: "<scope>"}},
	Input:  "v1/create-client-request.json#", Output: "v1/get-client-response.json#",
	Stability: api.Stable, Category: "Clients", Title: "Change a client",
	Doc: `Replaces a client's description, expiry and scopes, and whether it is deleted when it has expired. Without
` + "`scopes`" + ` these stay as they are. The caller must have the scopes that are added. The access token stays the same.`,
}, func(ctx context.Context, a *Auth, c api.Call[clientPath, clientRequest]) (r clientResponse, err error) {
	id, body := c.Path.ClientID, c.Body
	if err := checkClient(id, body.Scopes); err != nil {
		return r, err
	}
	return a.editClient(ctx, id, deed{c.Caller().ClientID, updated}, func(old *client) (func(*client), error) {
		added := body.Scopes
		if old != nil {
			added = beyond(scope.NewSet(old.Scopes...), added)
		}
		return func(x *client) {
			x.Description, x.Expires, x.DeleteOnExpiration = body.Description, body.Expires, body.DeleteOnExpiration
			if body.Scopes != nil {
				x.Scopes = body.Scopes
			}
			x.LastModified = after(x.Created)
		}, c.Authorize(scope.Vars{"scopesAdded": listed(added)})
	})
})

// beyond is what of scopes have does not grant.
func beyond(have scope.Set, scopes []string) []string {
	return slices.DeleteFunc(slices.Clone(scopes), have.Has)
}

// after is now, and later than created also within the same millisecond: what
// was changed shows it.
func after(created timestamp.Time) timestamp.Time { return max(timestamp.Now(), created+1) }

var resetAccessToken = api.Declare(api.Spec{
	Name: "resetAccessToken", Route: "POST /clients/<clientId>/reset",
	Scopes: scope.Scope("auth:reset-access-token:<clientId>"), Output: "v1/create-client-response.json#",
	Stability: api.Stable, Category: "Clients", Title: "Replace a client's access token", Private: true,
	Doc: `Gives the client a new access token and returns it. The old one stops working at once, and with it all temporary
credentials that were issued with it. Where that must not happen, create another client and delete the old one
when its last temporary credentials have expired.`,
}, func(ctx context.Context, a *Auth, c api.Call[clientPath, api.None]) (clientResponse, error) {
	id, secret := slugid.New(), slugid.Token()
	r, err := a.editClient(ctx, c.Path.ClientID, deed{c.Caller().ClientID, tokenReset}, func(*client) (func(*client), error) {
		return func(x *client) {
			x.tokens, x.LastRotated = []*token{x.next(id, secret)}, after(x.Created)
		}, nil
	})
	r.AccessToken = secret
	return r, err
})

var enableClient = api.Declare(api.Spec{
	Name: "enableClient", Route: "POST /clients/<clientId>/enable",
	Scopes: scope.Scope("auth:enable-client:<clientId>"), Output: "v1/get-client-response.json#",
	Stability: api.Stable, Category: "Clients", Title: "Switch a client on",
	Doc: `Lets a client that was disabled work again. Does nothing if it is not disabled.`,
}, switchClient(false))

var disableClient = api.Declare(api.Spec{
	Name: "disableClient", Route: "POST /clients/<clientId>/disable",
	Scopes: scope.Scope("auth:disable-client:<clientId>"), Output: "v1/get-client-response.json#",
	Stability: api.Stable, Category: "Clients", Title: "Switch a client off",
	Doc: `Makes a client unusable, at once, until it is enabled again: neither its access token nor the temporary credentials
it issued are accepted. Does nothing if it is disabled already.`,
}, switchClient(true))

func switchClient(off bool) func(context.Context, *Auth, api.Call[clientPath, api.None]) (clientResponse, error) {
	return func(ctx context.Context, a *Auth, c api.Call[clientPath, api.None]) (clientResponse, error) {
		d := deed{c.Caller().ClientID, clientEnabled}
		if off {
			d.action = clientDisabled
		}
		return a.editClient(ctx, c.Path.ClientID, d, func(old *client) (func(*client), error) {
			if old != nil && old.Disabled == off {
				return nil, nil
			}
			return func(x *client) { x.Disabled, x.LastModified = off, after(x.Created) }, nil
		})
	}
}

var deleteClient = api.Declare(api.Spec{
	Name: "deleteClient", Route: "DELETE /clients/<clientId>",
	Scopes:    scope.Scope("auth:delete-client:<clientId>"),
	Stability: api.Stable, Category: "Clients", Title: "Delete a client",
	Doc: `Deletes a client, which stops working at once, with all temporary credentials that it issued. Roles that belong to
it stay. Does nothing if there is no such client.`,
}, func(ctx context.Context, a *Auth, c api.Call[clientPath, api.None]) (api.NoContent, error) {
	id := c.Path.ClientID
	if err := checkClient(id, nil); err != nil {
		return api.NoContent{}, err
	}
	return api.NoContent{}, a.change(ctx, func(tx *store.Tx, now *snapshot) (delta, error) {
		d := delta{clients: map[string]*client{}}
		if now.clients[id] == nil {
			return d, nil
		}
		return d, a.removeClient(tx, d, id, deed{c.Caller().ClientID, deleted})
	})
})

// editClient changes a client. prepare gets the client, nil if there is none,
// and returns the change to make, nil for none.
func (a *Auth) editClient(ctx context.Context, id string, what deed, prepare func(*client) (func(*client), error)) (r clientResponse, err error) {
	if err := checkClient(id, nil); err != nil {
		return r, err
	}
	var edited *client
	err = a.change(ctx, func(tx *store.Tx, now *snapshot) (delta, error) {
		old := now.clients[id]
		edit, err := prepare(old)
		switch {
		case err != nil:
			return delta{}, err
		case old == nil:
			return delta{}, noClient(id)
		case edit == nil:
			edited = old
			return delta{}, nil
		}
		edited = old.changed(edit)
		return a.writeClient(tx, old, edited, clientUpdated, what)
	})
	if err != nil {
		return r, err
	}
	return a.current.Load().describe(edited), nil
}

// writeClient writes a client, its tokens included, that was old before, or nil.
func (a *Auth) writeClient(tx *store.Tx, old, c *client, x api.Exchange, what deed) (delta, error) {
	if _, err := tx.Exec(`
		INSERT INTO auth_client (client_id, description, scopes, disabled, delete_on_expiration,
		                         expires, created, created_by, last_modified, last_rotated, last_used)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
		ON CONFLICT (client_id) DO UPDATE SET
		  description = excluded.description, scopes = excluded.scopes, disabled = excluded.disabled,
		  delete_on_expiration = excluded.delete_on_expiration, expires = excluded.expires,
		  last_modified = excluded.last_modified, last_rotated = excluded.last_rotated`,
		c.ClientID, c.Description, c.Scopes, c.Disabled, c.DeleteOnExpiration,
		c.Expires, c.Created, c.createdBy, c.LastModified, c.LastRotated, c.lastUsed.Load()); err != nil {
		return delta{}, err
	}
	if err := a.writeTokens(tx, old, c); err != nil {
		return delta{}, err
	}
	if err := a.Audit(tx, "client", c.ClientID, what.by, what.action); err != nil {
		return delta{}, err
	}
	return delta{clients: map[string]*client{c.ClientID: c}}, a.publish(tx, x, message{ClientID: c.ClientID})
}

func (a *Auth) removeClient(tx *store.Tx, d delta, id string, what deed) error {
	for _, table := range []string{"auth_client", "auth_token"} {
		if _, err := tx.Exec(`DELETE FROM `+table+` WHERE client_id = $1`, id); err != nil {
			return err
		}
	}
	if err := a.Audit(tx, "client", id, what.by, what.action); err != nil {
		return err
	}
	d.clients[id] = nil
	return a.publish(tx, clientDeleted, message{ClientID: id})
}

func noClient(id string) error {
	return api.Errorf(api.ResourceNotFound, "There is no client %s.", id)
}

// checkClient refuses what a schema cannot.
func checkClient(id string, scopes []string) error {
	if strings.HasPrefix(id, staticPrefix) {
		return api.Errorf(api.InputError, "Clients whose ids begin with %s are defined by the configuration of the deployment; change them there.", staticPrefix)
	}
	if len(id) > maxID {
		return api.Errorf(api.InputError, "The client id has %d characters; %d are allowed.", len(id), maxID)
	}
	if err := checkScopes(scopes); err != nil {
		return api.Errorf(api.InputError, "The scopes of client %s are wrong: %v.", id, err)
	}
	return nil
}
