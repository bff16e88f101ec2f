package auth

import (
	"context"
	"fmt"
	"strings"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

type rolePath struct {
	RoleID string `path:"roleId"`
}

type roleRequest struct {
	Description string   `json:"description"`
	Scopes      []string `json:"scopes"`
}

type roleResponse struct {
	RoleID         string         `json:"roleId"`
	Description    string         `json:"description"`
	Scopes         []string       `json:"scopes"`
	ExpandedScopes []string       `json:"expandedScopes"`
	Created        timestamp.Time `json:"created"`
	LastModified   timestamp.Time `json:"lastModified"`
}

func (s *snapshot) describeRole(r *role) roleResponse {
	return roleResponse{
		RoleID: r.RoleID, Description: r.Description, Scopes: listed(r.Scopes), ExpandedScopes: s.expanded([]string{assume + r.RoleID}),
		Created: r.Created, LastModified: r.LastModified,
	}
}

func (s *snapshot) describeRoles(ids []string) []roleResponse {
	list := make([]roleResponse, len(ids))
	for i, id := range ids {
		list[i] = s.describeRole(s.roles[id])
	}
	return list
}

var listRoles = api.Declare(api.Spec{
	Name: "listRoles", Route: "GET /roles/",
	Scopes: scope.Scope("auth:list-roles"), Output: "v1/list-roles-response.json#",
	Stability: api.Stable, Category: "Roles", Title: "List all roles at once",
	Doc: `Lists all roles with the scopes that they expand to, in one reply. ` + "`listRoles2`" + ` gives pages.`,
}, func(_ context.Context, a *Auth, _ api.Call[api.None, api.None]) ([]roleResponse, error) {
	s := a.current.Load()
	return s.describeRoles(s.roleIDs), nil
})

type roleList struct {
	Roles             []roleResponse `json:"roles"`
	ContinuationToken string         `json:"continuationToken,omitempty"`
}

var listRoles2 = api.Declare(api.Spec{
	Name: "listRoles2", Route: "GET /roles2/", Query: []string{"continuationToken", "limit"},
	Scopes: scope.Scope("auth:list-roles"), Output: "v1/list-roles2-response.json#",
	Stability: api.Stable, Category: "Roles", Title: "List roles",
	Doc: `Lists roles with the scopes that they expand to, in the order of their ids. Without ` + "`limit`" + ` these are all roles;
with it, pages, each with a ` + "`continuationToken`" + ` for the next one.`,
}, func(_ context.Context, a *Auth, c api.Call[api.None, api.None]) (r roleList, err error) {
	s := a.current.Load()
	ids, token, err := pageOfRoles(s, c)
	return roleList{s.describeRoles(ids), token}, err
})

func pageOfRoles(s *snapshot, c api.Call[api.None, api.None]) ([]string, string, error) {
	page, err := c.Page(1)
	if err != nil {
		return nil, "", err
	}
	limit := page.Limit
	if c.Query("limit") == "" {
		limit = len(s.roleIDs)
	}
	ids, token := cut(page, s.roleIDs, limit)
	return ids, token, nil
}

type roleIDList struct {
	RoleIDs           []string `json:"roleIds"`
	ContinuationToken string   `json:"continuationToken,omitempty"`
}

var listRoleIDs = api.Declare(api.Spec{
	Name: "listRoleIds", Route: "GET /roleids/", Query: []string{"continuationToken", "limit"},
	Scopes: scope.Scope("auth:list-roles"), Output: "v1/list-role-ids-response.json#",
	Stability: api.Stable, Category: "Roles", Title: "List the ids of roles",
	Doc: `Lists the ids of roles. Without ` + "`limit`" + ` these are all; with it, pages, each with a ` + "`continuationToken`" + ` for the next one.`,
}, func(_ context.Context, a *Auth, c api.Call[api.None, api.None]) (r roleIDList, err error) {
	ids, token, err := pageOfRoles(a.current.Load(), c)
	return roleIDList{listed(ids), token}, err
})

var getRole = api.Declare(api.Spec{
	Name: "role", Route: "GET /roles/<roleId>",
	Scopes: scope.Scope("auth:get-role:<roleId>"), Output: "v1/get-role-response.json#",
	Stability: api.Stable, Category: "Roles", Title: "Show a role",
	Doc: `Tells all about a role, with the scopes that it expands to.`,
}, func(_ context.Context, a *Auth, c api.Call[rolePath, api.None]) (roleResponse, error) {
	s := a.current.Load()
	r := s.roles[c.Path.RoleID]
	if r == nil {
		return roleResponse{}, noRole(c.Path.RoleID)
	}
	return s.describeRole(r), nil
})

var createRole = api.Declare(api.Spec{
	Name: "createRole", Route: "PUT /roles/<roleId>",
	Scopes: scope.AllOf{scope.Scope("auth:create-role:<roleId>"), scope.ForEach{For: "scope", In: "scopes", Each: "<scope>"}},
	Input:  "v1/create-role-request.json#", Output: "v1/get-role-response.json#",
	Stability: api.Stable, Category: "Roles", Title: "Create a role",
	Doc: `Creates a role. The caller must have the role's scopes. If there is a role of that id already, with another
description or other scopes, the call fails with 409.

A role whose id ends in ` + "`*`" + ` stands for all roles that begin with what is before the star. In its scopes ` + "`<..>`" + `, once in
a scope, stands for the part that the star matched. Roles can have other roles, but not so that a role would come
to have itself, through whatever stands for ` + "`<..>`" + `: then the call fails with 400 and names the circle.`,
}, func(ctx context.Context, a *Auth, c api.Call[rolePath, roleRequest]) (roleResponse, error) {
	id, body := c.Path.RoleID, c.Body
	return a.editRole(ctx, id, body, roleCreated, deed{c.Caller().ClientID, created}, func(now *snapshot) (*role, error) {
		if err := c.Authorize(scope.Vars{"scopes": listed(body.Scopes)}); err != nil {
			return nil, err
		}
		if old := now.roles[id]; old == nil {
			t := timestamp.Now()
			return &role{RoleID: id, Description: body.Description, Scopes: body.Scopes, Created: t, LastModified: t}, nil
		} else if old.Description == body.Description && sameScopes(old.Scopes, body.Scopes) {
			return old, nil
		}
		return nil, api.Errorf(api.RequestConflict, "There is a role %q already, with another description or other scopes. Use updateRole to change it.", id)
	})
})

var updateRole = api.Declare(api.Spec{
	Name: "updateRole", Route: "POST /roles/<roleId>",
	Scopes: scope.AllOf{scope.Scope("auth:update-role:<roleId>"), scope.ForEach{For: "scope", In: "scopesAdded", Each: "<scope>"}},
	Input:  "v1/create-role-request.json#", Output: "v1/get-role-response.json#",
	Stability: api.Stable, Category: "Roles", Title: "Change a role",
	Doc: `Replaces a role's description and scopes. The caller must have those scopes that the role does not have yet, be it
through other roles. What makes ` + "`createRole`" + ` fail makes this call fail too.`,
}, func(ctx context.Context, a *Auth, c api.Call[rolePath, roleRequest]) (roleResponse, error) {
	id, body := c.Path.RoleID, c.Body
	return a.editRole(ctx, id, body, roleUpdated, deed{c.Caller().ClientID, updated}, func(now *snapshot) (*role, error) {
		added, old := body.Scopes, now.roles[id]
		if old != nil {
			had, err := now.rules.expand(old.Scopes...)
			if err != nil {
				had = scope.NewSet(old.Scopes...)
			}
			added = beyond(had, added)
		}
		if err := c.Authorize(scope.Vars{"scopesAdded": listed(added)}); err != nil {
			return nil, err
		}
		if old == nil {
			return nil, noRole(id)
		}
		return &role{RoleID: id, Description: body.Description, Scopes: body.Scopes, Created: old.Created, LastModified: after(old.Created)}, nil
	})
})

var deleteRole = api.Declare(api.Spec{
	Name: "deleteRole", Route: "DELETE /roles/<roleId>",
	Scopes:    scope.Scope("auth:delete-role:<roleId>"),
	Stability: api.Stable, Category: "Roles", Title: "Delete a role",
	Doc: `Deletes a role. Those who had scopes through it lose them at once. Does nothing if there is no such role.`,
}, func(ctx context.Context, a *Auth, c api.Call[rolePath, api.None]) (api.NoContent, error) {
	id := c.Path.RoleID
	return api.NoContent{}, a.change(ctx, func(tx *store.Tx, now *snapshot) (delta, error) {
		if now.roles[id] == nil {
			return delta{}, nil
		}
		if _, err := tx.Exec(`DELETE FROM auth_role WHERE role_id = $1`, id); err != nil {
			return delta{}, err
		}
		if err := a.Audit(tx, "role", id, c.Caller().ClientID, deleted); err != nil {
			return delta{}, err
		}
		return delta{roles: map[string]*role{id: nil}}, a.publish(tx, roleDeleted, message{RoleID: id})
	})
})

// editRole creates or changes a role to what prepare returns, if that is not
// the role as it is.
func (a *Auth) editRole(ctx context.Context, id string, body roleRequest, x api.Exchange, what deed, prepare func(*snapshot) (*role, error)) (r roleResponse, err error) {
	if err := checkRole(id, body.Scopes); err != nil {
		return r, api.Errorf(api.InputError, "The role %q is wrong: %v.", id, err)
	}
	var edited *role
	err = a.change(ctx, func(tx *store.Tx, now *snapshot) (delta, error) {
		var err error
		if edited, err = prepare(now); err != nil || edited == now.roles[id] {
			return delta{}, err
		}
		return a.writeRole(tx, edited, x, what)
	})
	if err != nil {
		return r, err
	}
	return a.current.Load().describeRole(edited), nil
}

func (a *Auth) writeRole(tx *store.Tx, r *role, x api.Exchange, what deed) (delta, error) {
	if _, err := tx.Exec(`
		INSERT INTO auth_role (role_id, description, scopes, created, last_modified) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (role_id) DO UPDATE SET
		  description = excluded.description, scopes = excluded.scopes, last_modified = excluded.last_modified`,
		r.RoleID, r.Description, r.Scopes, r.Created, r.LastModified); err != nil {
		return delta{}, err
	}
	if err := a.Audit(tx, "role", r.RoleID, what.by, what.action); err != nil {
		return delta{}, err
	}
	return delta{roles: map[string]*role{r.RoleID: r}}, a.publish(tx, x, message{RoleID: r.RoleID})
}

func noRole(id string) error {
	return api.Errorf(api.ResourceNotFound, "There is no role %q.", id)
}

const (
	maxID     = 1024
	maxScopes = 10_000 // of a client or role, or in a question about them
)

// checkScopes refuses scopes that a client or role cannot have.
func checkScopes(scopes []string) error {
	if err := checkNumber(scopes); err != nil {
		return err
	}
	for _, s := range scopes {
		if strings.HasSuffix(s, "**") {
			return fmt.Errorf("the scope %.100q ends in more than one star", s)
		}
	}
	return nil
}

// checkNumber refuses what is too much, or no list of scopes at all.
func checkNumber(scopes []string) error {
	if len(scopes) > maxScopes {
		return fmt.Errorf("there are %d scopes; %d are allowed", len(scopes), maxScopes)
	}
	for _, s := range scopes {
		if !scope.Valid(s) {
			return fmt.Errorf("%.100q is not a scope: printable ASCII, at most 16 KiB", s)
		}
	}
	return nil
}

// checkRole refuses a role that would mean something else than it seems to.
func checkRole(id string, scopes []string) error {
	if len(id) > maxID {
		return fmt.Errorf("its id has %d characters; %d are allowed", len(id), maxID)
	}
	if strings.HasSuffix(id, "**") {
		return fmt.Errorf("its id ends in more than one star")
	}
	if !strings.HasSuffix(id, "*") {
		return checkScopes(scopes)
	}
	for _, s := range scopes {
		if strings.Count(s, paramMark) > 1 {
			return fmt.Errorf("the scope %.100q has %s more than once", s, paramMark)
		}
		// With an empty parameter the star would come to stand at the end.
		if strings.Contains(s, "*"+paramMark) {
			return fmt.Errorf("the scope %.100q has a star before %s", s, paramMark)
		}
	}
	return checkScopes(scopes)
}
