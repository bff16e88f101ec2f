package hooks

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
)

type tokenResponse struct {
	Token string `json:"token"`
}

var getTriggerToken = api.Declare(api.Spec{
	Name: "getTriggerToken", Route: "GET /hooks/<hookGroupId>/<hookId>/token",
	Scopes: scope.Scope("hooks:get-trigger-token:<hookGroupId>/<hookId>"), Output: "v1/trigger-token-response.json#",
	Stability: api.Stable, Category: "Hooks", Title: "Show a hook's trigger token", Private: true,
	Doc: `Returns the secret with which anybody can fire the hook, through ` + "`triggerHookWithToken`" + `, until it is reset.`,
}, func(ctx context.Context, h *Hooks, c api.Call[hookPath, api.None]) (r tokenResponse, err error) {
	k, err := h.find(ctx, c.Path)
	if err != nil {
		return r, err
	}
	r.Token, err = h.openToken(c.Path, k.token)
	return r, err
})

var resetTriggerToken = api.Declare(api.Spec{
	Name: "resetTriggerToken", Route: "POST /hooks/<hookGroupId>/<hookId>/token",
	Scopes: scope.Scope("hooks:reset-trigger-token:<hookGroupId>/<hookId>"), Output: "v1/trigger-token-response.json#",
	Stability: api.Stable, Category: "Hooks", Title: "Replace a hook's trigger token", Private: true,
	Doc: `Gives the hook another trigger token and returns it. The old one is of no use from now on.`,
}, func(ctx context.Context, h *Hooks, c api.Call[hookPath, api.None]) (tokenResponse, error) {
	r := tokenResponse{slugid.New()}
	sealed := h.sealToken(c.Path, r.Token)
	return r, h.db.Do(ctx, func(tx *store.Tx) error {
		n, err := tx.Exec(`UPDATE hook SET trigger_token = $3 WHERE hook_group_id = $1 AND hook_id = $2`, c.Path.HookGroupID, c.Path.HookID, sealed)
		if err == nil && n == 0 {
			err = c.Path.notFound()
		}
		return err
	})
})

func place(p hookPath) string { return "hook/" + p.String() + "/trigger_token" }

func (h *Hooks) sealToken(p hookPath, token string) string {
	return h.keys.Seal([]byte(token), place(p))
}

func (h *Hooks) openToken(p hookPath, sealed string) (string, error) {
	token, err := h.keys.Open(sealed, place(p))
	if err != nil {
		return "", fmt.Errorf("hooks: trigger token of %s: %w", p, err)
	}
	return string(token), nil
}

func sameToken(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// reseal moves trigger tokens to the newest key.
func (h *Hooks) reseal(ctx context.Context) (more bool, err error) {
	type entry struct {
		path   hookPath
		sealed string
	}
	var stale []entry
	err = h.db.View(ctx, func(tx *store.Tx) error {
		stale = nil
		rows, err := tx.Query(`SELECT hook_group_id, hook_id, trigger_token FROM hook`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var e entry
			if err := rows.Scan(&e.path.HookGroupID, &e.path.HookID, &e.sealed); err != nil {
				return err
			}
			if !h.keys.Current(e.sealed) {
				stale = append(stale, e)
			}
		}
		return rows.Err()
	})
	if err != nil {
		return false, err
	}
	var failed error
	total, moved := len(stale), int64(0)
	for len(stale) > 0 {
		part := stale[:min(len(stale), batch)]
		stale = stale[len(part):]
		var unread error
		var n int64
		if err := h.db.Do(ctx, func(tx *store.Tx) error {
			unread, n = nil, 0
			for _, e := range part {
				token, err := h.openToken(e.path, e.sealed)
				if err != nil {
					unread = errors.Join(unread, err)
					continue
				}
				changed, err := tx.Exec(`UPDATE hook SET trigger_token = $4 WHERE hook_group_id = $1 AND hook_id = $2 AND trigger_token = $3`,
					e.path.HookGroupID, e.path.HookID, e.sealed, h.sealToken(e.path, token))
				if err != nil {
					return err
				}
				n += changed
			}
			return nil
		}); err != nil {
			return false, err
		}
		failed = errors.Join(failed, unread)
		moved += n
	}
	if total > 0 {
		h.log.Info("trigger tokens were sealed anew with the newest key", "moved", moved, "left", int64(total)-moved, "key", h.keys.Newest())
	}
	return false, failed
}
