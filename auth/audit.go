package auth

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// Audit records that a client has done something to an entity, in the
// transaction that does it: the record is there exactly if the change is.
//
// It is how all services write the history: they declare an interface with
// this one method and are handed this Auth. The entities are "client", "role",
// "secret" and "credential" by name, "hook" by group and id with a slash between
// them, and "worker-pool" by its id; the usual actions are "created", "updated",
// "deleted" and "expired".
func (a *Auth) Audit(tx *store.Tx, entityType, entityID, clientID, action string) error {
	if !slices.Contains(entityTypes, entityType) {
		return fmt.Errorf("auth: audit: there is no entity type %q; known are %s", entityType, strings.Join(entityTypes, ", "))
	}
	_, err := tx.Exec(`INSERT INTO auth_audit (entity_type, entity_id, client_id, action_type, created) VALUES ($1, $2, $3, $4, $5)`,
		entityType, entityID, clientID, action, timestamp.Now())
	return err
}

var entityTypes = []string{"client", "role", "secret", "hook", "worker-pool", "credential"}

// A deed is what the history will say of a change: who did it, and what it was.
type deed struct{ by, action string }

const (
	created        = "created"
	updated        = "updated"
	deleted        = "deleted"
	expired        = "expired"
	clientEnabled  = "client enabled"
	clientDisabled = "client disabled"
	tokenReset     = "access token reset"
	tokenAdded     = "access token added"
	tokenRetired   = "access token retired"

	// self is who does what nobody has asked for.
	self = "static/taskcluster/auth"
)

// auditRetention is how long the history goes back where the configuration
// does not say.
const auditRetention = 90 * 24 * time.Hour

// forget deletes history that is too old, and what is left of tokens that were
// retired as long ago.
func (a *Auth) forget(ctx context.Context) (more bool, err error) {
	before := timestamp.Now().Add(-a.retention)
	err = a.db.Do(ctx, func(tx *store.Tx) error {
		n, err := tx.Exec(`DELETE FROM auth_audit WHERE id IN (SELECT id FROM auth_audit WHERE created < $1 ORDER BY created LIMIT $2)`,
			before, batch)
		if err != nil {
			return err
		}
		retired, err := tx.Exec(`
			DELETE FROM auth_token WHERE (client_id, token_id) IN (
			  SELECT client_id, token_id FROM auth_token WHERE retired > 0 AND retired < $1 ORDER BY client_id, token_id LIMIT $2)`,
			before, batch)
		if err != nil {
			return err
		}
		uses, err := tx.Exec(`
			DELETE FROM auth_scope_use WHERE (client_id, scope) IN (
			  SELECT client_id, scope FROM auth_scope_use WHERE last_used < $1 ORDER BY client_id, scope LIMIT $2)`,
			timestamp.Now().Add(-keepScopeUse), batch)
		more = n == batch || retired == batch || uses == batch
		return err
	})
	return more, err
}

type entry struct {
	id         int64
	EntityID   string         `json:"entityId"`
	EntityType string         `json:"entityType"`
	ClientID   string         `json:"clientId"`
	ActionType string         `json:"actionType"`
	Created    timestamp.Time `json:"created"`
}

type history struct {
	Entries           []entry `json:"auditHistory"`
	ContinuationToken string  `json:"continuationToken,omitempty"`
}

type entityPath struct {
	Type string `path:"entityType"`
	ID   string `path:"entityId"`
}

var getEntityHistory = api.Declare(api.Spec{
	Name: "getEntityHistory", Route: "GET /audit/<entityType>/<entityId...>", Query: []string{"continuationToken", "limit"},
	Scopes: scope.Scope("auth:audit-history:<entityType>"), Output: "v1/get-entity-history-response.json#",
	Stability: api.Stable, Category: "Audit", Title: "Show what was done to an entity",
	Doc: `Lists who did what, and when, to a client, role, secret, hook (` + "`<hookGroupId>/<hookId>`" + `) or worker pool; the oldest first.
What was deleted has a history too, for as long as the deployment keeps it.`,
}, func(ctx context.Context, a *Auth, c api.Call[entityPath, api.None]) (history, error) {
	page, err := c.Page(2)
	if err != nil {
		return history{}, err
	}
	return a.history(ctx, page, `entity_type = $1 AND entity_id = $2`, c.Path.Type, c.Path.ID)
})

var listAuditHistory = api.Declare(api.Spec{
	Name: "listAuditHistory", Route: "GET /clients/<clientId>/audit", Query: []string{"continuationToken", "limit"},
	Scopes: scope.Scope("auth:client-audit-history:<clientId>"), Output: "v1/get-entity-history-response.json#",
	Stability: api.Stable, Category: "Audit", Title: "Show what a client has done",
	Doc: `Lists what the client did to which entities, and when; the oldest first. What was done to the client itself is told
by ` + "`getEntityHistory`" + `.`,
}, func(ctx context.Context, a *Auth, c api.Call[clientPath, api.None]) (history, error) {
	page, err := c.Page(2)
	if err != nil {
		return history{}, err
	}
	return a.history(ctx, page, `client_id = $1`, c.Path.ClientID)
})

// history reads a page. Entries have the time of their writing, so one of a
// transaction that commits late may come to stand before others; a reader who
// has passed that place finds it when reading anew.
func (a *Auth) history(ctx context.Context, page api.Page, where string, args ...any) (h history, err error) {
	after := [2]int64{-1, -1}
	if page.After != nil {
		for i := range after {
			if after[i], err = page.Int(i); err != nil {
				return h, err
			}
		}
	}
	n := len(args)
	query := fmt.Sprintf(`
		SELECT id, entity_id, entity_type, client_id, action_type, created FROM auth_audit
		WHERE %s AND (created, id) > ($%d, $%d) ORDER BY created, id LIMIT $%d`, where, n+1, n+2, n+3)
	args = append(args, after[0], after[1], page.Limit+1)
	err = a.db.View(ctx, func(tx *store.Tx) error {
		h = history{Entries: []entry{}}
		rows, err := tx.Query(query, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var e entry
			if err := rows.Scan(&e.id, &e.EntityID, &e.EntityType, &e.ClientID, &e.ActionType, &e.Created); err != nil {
				return err
			}
			h.Entries = append(h.Entries, e)
		}
		return rows.Err()
	})
	if err == nil && len(h.Entries) > page.Limit {
		h.Entries = h.Entries[:page.Limit]
		last := h.Entries[page.Limit-1]
		h.ContinuationToken = page.Token(strconv.FormatInt(int64(last.Created), 10), strconv.FormatInt(last.id, 10))
	}
	return h, err
}
