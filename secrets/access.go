package secrets

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

const (
	maxName  = 1000    // bytes
	maxValue = 1 << 20 // bytes of JSON; an image or an archive is no secret but an artifact
)

type path struct {
	Name string `path:"name"`
}

// secret is as it is set and read.
type secret struct {
	Secret  json.RawMessage `json:"secret"`
	Expires timestamp.Time  `json:"expires"`
}

var set = api.Declare(api.Spec{
	Name: "set", Route: "PUT /secret/<name...>",
	Scopes: scope.Scope("secrets:set:<name>"), Input: "v1/secret.json#", Private: true,
	Stability: api.Stable, Category: "Secrets", Title: "Set a secret",
	Doc: fmt.Sprintf(`Stores a secret under the name. One that exists is replaced, value and expiry.

A name has up to %d bytes, and a value up to %d KiB of JSON.`, maxName, maxValue>>10),
}, func(ctx context.Context, s *Secrets, c api.Call[path, secret]) (none api.None, err error) {
	name, value := c.Path.Name, c.Body.Secret
	if len(name) > maxName {
		return none, api.Errorf(api.InputError, "The name of the secret has %d bytes; up to %d are allowed.", len(name), maxName)
	}
	if len(value) > maxValue {
		return none, api.Errorf(api.InputError, "The member secret has %d bytes of JSON; up to %d are allowed. Keep what is large as an object or an artifact, encrypted, and its key here.", len(value), maxValue)
	}
	sealed := s.keys.Seal(value, place(name))
	args := []any{name, sealed, seal.KeyID(sealed), c.Body.Expires}
	return none, s.db.Do(ctx, func(tx *store.Tx) error {
		// One that has expired and was erased is not there any more, for people.
		n, err := tx.Exec(`UPDATE secret SET sealed = $2, key_id = $3, expires = $4 WHERE name = $1 AND key_id <> ''`, args...)
		if err != nil {
			return err
		}
		if n > 0 {
			return s.record(tx, name, c.Caller().ClientID, updated)
		}
		_, err = tx.Exec(`
			INSERT INTO secret (name, sealed, key_id, expires) VALUES ($1, $2, $3, $4)
			ON CONFLICT (name) DO UPDATE SET sealed = excluded.sealed, key_id = excluded.key_id, expires = excluded.expires`, args...)
		if err != nil {
			return err
		}
		return s.record(tx, name, c.Caller().ClientID, created)
	})
})

var remove = api.Declare(api.Spec{
	Name: "remove", Route: "DELETE /secret/<name...>",
	Scopes:    scope.Scope("secrets:set:<name>"),
	Stability: api.Stable, Category: "Secrets", Title: "Delete a secret",
	Doc: `Deletes the secret of that name. Does nothing if there is none.`,
}, func(ctx context.Context, s *Secrets, c api.Call[path, api.None]) (none api.None, err error) {
	return none, s.db.Do(ctx, func(tx *store.Tx) error {
		n, err := tx.Exec(`DELETE FROM secret WHERE name = $1`, c.Path.Name)
		if err != nil || n == 0 {
			return err
		}
		return s.record(tx, c.Path.Name, c.Caller().ClientID, deleted)
	})
})

var get = api.Declare(api.Spec{
	Name: "get", Route: "GET /secret/<name...>",
	Scopes: scope.Scope("secrets:get:<name>"), Private: true, Output: "v1/secret.json#",
	Stability: api.Stable, Category: "Secrets", Title: "Read a secret",
	Doc: `Returns the secret of that name. One that has expired is answered with 410, for a day, and then with 404, as one that
never was. A caller without the scope gets 403 whether there is such a secret or not.`,
}, func(ctx context.Context, s *Secrets, c api.Call[path, api.None]) (out secret, err error) {
	name, sealed := c.Path.Name, ""
	err = s.db.View(ctx, func(tx *store.Tx) error {
		return tx.QueryRow(`SELECT sealed, expires FROM secret WHERE name = $1`, name).Scan(&sealed, &out.Expires)
	})
	switch {
	case errors.Is(err, store.ErrNotFound):
		return out, api.Errorf(api.ResourceNotFound, "Secret not found: there is none with the name %s.", name)
	case err != nil:
		return out, err
	case out.Expires <= timestamp.Now() || sealed == "":
		return out, api.Errorf(api.ResourceExpired, "The secret %s expired at %s. Set it again to use it.", name, out.Expires)
	}
	out.Secret, err = s.open(name, sealed)
	return out, err
})

func (s *Secrets) open(name, sealed string) ([]byte, error) {
	value, err := s.keys.Open(sealed, place(name))
	if err != nil {
		return nil, fmt.Errorf("secrets: the secret %s cannot be opened; is its key still among the seal keys? %w", name, err)
	}
	return value, nil
}

type names struct {
	Secrets           []string `json:"secrets"`
	ContinuationToken string   `json:"continuationToken,omitempty"`
}

var list = api.Declare(api.Spec{
	Name: "list", Route: "GET /secrets", Query: []string{"continuationToken", "limit"},
	Scopes: scope.Scope("secrets:list-secrets"), Output: "v1/secret-list.json#",
	Stability: api.Stable, Category: "Secrets", Title: "List secrets",
	Doc: `Lists the names of the secrets that have not expired, in order.

A page has at most 1000 names, or ` + "`limit`" + `. As long as there are more, the reply has a ` + "`continuationToken`" + ` for
the next page.`,
}, func(ctx context.Context, s *Secrets, c api.Call[api.None, api.None]) (out names, err error) {
	page, err := c.Page(1)
	if err != nil {
		return out, err
	}
	err = s.db.View(ctx, func(tx *store.Tx) error {
		out = names{Secrets: []string{}}
		rows, err := tx.Query(`SELECT name FROM secret WHERE name > $1 AND expires > $2 ORDER BY name LIMIT $3`,
			page.Text(0), timestamp.Now(), page.Limit+1)
		if err != nil {
			return err
		}
		for rows.Next() {
			var name string
			if err := rows.Scan(&name); err != nil {
				return err
			}
			out.Secrets = append(out.Secrets, name)
		}
		if len(out.Secrets) > page.Limit {
			out.Secrets = out.Secrets[:page.Limit]
			out.ContinuationToken = page.Token(out.Secrets[page.Limit-1])
		}
		return rows.Err()
	})
	return out, err
})
