//go:build !agent

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/taskfleet/taskfleet/auth"
	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/credentials"
	platformkind "github.com/taskfleet/taskfleet/credentials/platform"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/seal/ring"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A platformKeys is the platform's own keys, which can change while it runs.
type platformKeys struct {
	ring *ring.Ring
	seal *seal.Keys // that everything is sealed with; the ring sets them

	acting  *inside
	rootURL string
	mu      sync.Mutex
	tokens  map[string]string           // that the platform's clients use, by client
	actors  map[string][]*client.Client // what acts as them
	reseal  []loop.Loop                 // what seals anew
}

// plainTables hold nothing that is sealed, and can be large. A table that is not among
// them is looked through before a key is retired; so what is new is safe to forget.
var plainTables = []string{
	"artifact", "auth_audit", "decision", "dependency", "event", "event_batch", "event_cursor", "event_head", "event_place", "hook_fire",
	"index_namespace", "index_progress", "index_task", "mirror_copy", "notify_message", "notify_recent", "object", "pending", "priority_change",
	"purge_request", "queue_worker", "resolution", "schedule_run", "task", "task_group", "task_queue", "worker_pool_error",
}

// openKeys opens the keys that are in the database, which root keys have sealed.
func openKeys(ctx context.Context, c Config, db *store.DB, root *seal.Keys, log *slog.Logger) (*platformKeys, error) {
	replica, err := replicaID(c.Data)
	if err != nil {
		return nil, fmt.Errorf("naming this replica: %w", err)
	}
	k := &platformKeys{tokens: map[string]string{}, actors: map[string][]*client.Client{}}
	if k.seal, err = seal.NewKeys(root.All()...); err != nil {
		return nil, err
	}
	if k.ring, err = ring.Open(ctx, ring.Config{DB: db, Root: root, Log: log, Replica: replica, Plain: plainTables}); err != nil {
		return nil, err
	}
	doc := "what seals secrets in the database, in the database itself, sealed with a root key of " + cmp.Or(c.SealKeysFile, c.secretsFile())
	if err := k.ring.Serve(ctx, "seal", ring.Sealing(doc, root, k.seal, k.sealAnew)); err != nil {
		return nil, err
	}
	k.seal.Missing(k.ring.Missing)
	return k, nil
}

// sealAnew runs the loops that do so, here and now.
func (k *platformKeys) sealAnew(ctx context.Context) error {
	var failed error
	for _, l := range k.reseal {
		for more := true; more; {
			var err error
			if more, err = l.Pass(ctx); err != nil {
				failed = errors.Join(failed, fmt.Errorf("%s: %w", l.Name, err))
				break
			}
		}
	}
	return failed
}

// loops adds those of the keys to the work of the platform, of which it notes what
// seals anew what older keys have sealed.
func (k *platformKeys) loops(work []loop.Loop) []loop.Loop {
	for _, l := range work {
		if strings.HasSuffix(l.Name, ".reseal") || l.Name == "credentials.upkeep" || l.Name == "acme.upkeep" {
			k.reseal = append(k.reseal, l)
		}
	}
	return append(work, k.ring.Loops()...)
}

// ownClients are the clients that the platform acts as and whose tokens it changes by
// itself, by the names that the settings have. The root client is the operator's.
var ownClients = map[string]string{
	"queue": queueClient, "provisioner": provisionerClient, "hooks": hooksClient, "credentials": credentialsClient, "index": indexClient,
}

// serveClients has the tokens of the platform's own clients be those of the ring.
func (k *platformKeys) serveClients(ctx context.Context, a *auth.Auth, own secretsFile, rootURL string, acting *inside) error {
	k.rootURL, k.acting = rootURL, acting
	has := map[string]string{}
	for _, s := range staticClients(Config{}, own) {
		has[s.ClientID] = s.AccessToken
	}
	for _, name := range slices.Sorted(maps.Keys(ownClients)) {
		id := ownClients[name]
		if err := k.ring.Serve(ctx, "static-client:"+name, ring.Purpose{
			Doc: "the access token of " + id, New: slugid.Token, Own: has[id], Most: 2,
			Take: func(ctx context.Context, keys []ring.Key) error {
				var tokens []auth.StaticToken
				for _, key := range keys {
					tokens = append(tokens, auth.StaticToken{ID: key.ID, Token: key.Secret})
				}
				if err := a.SetStaticTokens(ctx, id, tokens...); err != nil {
					return err
				}
				k.use(id, keys[0].Secret)
				return nil
			},
			Try:      func(ctx context.Context, key ring.Key) error { return k.try(ctx, id, key.Secret) },
			LastUsed: func() map[string]timestamp.Time { return a.StaticTokensUsed(id) },
		}); err != nil {
			return err
		}
	}
	return nil
}

// use has what acts as a client do so with a token.
func (k *platformKeys) use(clientID, token string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tokens[clientID] = token
	for _, c := range k.actors[clientID] {
		c.SetCredentials(cred.Credentials{ClientID: clientID, AccessToken: token})
	}
}

// act has c act as a client with whatever token that has.
func (k *platformKeys) act(clientID string, c *client.Client) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.actors[clientID] = append(k.actors[clientID], c)
	if token := k.tokens[clientID]; token != "" {
		c.SetCredentials(cred.Credentials{ClientID: clientID, AccessToken: token})
	}
}

// try makes a request with a token.
func (k *platformKeys) try(ctx context.Context, clientID, token string) error {
	c, err := k.acting.client(k.rootURL, cred.Credentials{ClientID: clientID, AccessToken: token})
	if err != nil {
		return err
	}
	err = c.Do(ctx, client.Request{Name: "auth.currentScopes", Verb: http.MethodGet, Route: "/api/auth/v1/scopes/current"}, nil)
	if e, ok := errors.AsType[*client.Error](err); ok && e.StatusCode == http.StatusForbidden {
		return nil // it is known who that is
	}
	return err
}

// addPlatformKeys adds the kind for these keys. Each credential of it has the part of
// the platform that uses them as a consumer.
func addPlatformKeys(conf *credentials.Config, k *platformKeys) {
	kind := platformkind.Kind{Ring: k.ring}
	conf.Kinds["platform-key"] = kind
	if conf.Platform == nil {
		conf.Platform = map[string]credentials.Part{}
	}
	conf.Platform[platformkind.Part] = kind.Take
	for i, d := range conf.Definitions {
		if d.Kind == "platform-key" && !slices.ContainsFunc(d.Consumers, func(u credentials.Use) bool { return u.Platform == platformkind.Part }) {
			conf.Definitions[i].Consumers = append(slices.Clone(d.Consumers), credentials.Use{Name: "platform", Platform: platformkind.Part, Must: true})
		}
	}
}
