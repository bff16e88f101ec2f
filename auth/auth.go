// Package auth knows the clients and their roles, and tells for every request
// who makes it and what they may do.
//
// Clients and roles are few and asked for all the time, so every process keeps
// them all in memory: a snapshot, immutable, behind one atomic pointer. The
// tables are written by transactions that each raise a version; the process
// that made a change has it in its snapshot before the call returns, and other
// replicas read the tables again when they are woken by it, or half a second
// later, when they see the version. Authenticating a request touches no
// database; but a replica that has not been able to look at the version for half
// a minute answers 503, as it cannot know what was revoked meanwhile.
//
// Four rules keep that right:
//
//   - A change decides by the state of the tables, under the version's lock,
//     so concurrent changes on any replicas follow one another.
//   - Whatever is derived from clients and roles (expanded scopes, certificates
//     that were checked) lives in the snapshot and goes with it, so that a
//     revocation takes effect at once.
//   - Expiry is looked at when a request comes, and needs no change at all.
//   - A request proves to hold a key before anything is told about the client
//     or spent on its scopes.
//
// Requests cannot be made twice: see nonces. Roles are expanded by rules;
// roles in a circle are refused when they are written: see cycle.
//
// A client has an access token, or two while one follows the other; see
// Auth.AddToken.
//
// Clients whose ids begin with "static/" come from the configuration and are
// not in the tables. They are how the platform's own services act.
package auth

import (
	"cmp"
	"context"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/hawk"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

//go:embed migrations/*.sql
var migrations embed.FS

//go:embed schemas/*.yml
var schemaFiles embed.FS

// Config is what an Auth needs.
type Config struct {
	DB     *store.DB
	Events *event.Bus
	Keys   *seal.Keys // for access tokens at rest
	Static []StaticClient
	Log    *slog.Logger

	// Anonymous is what anybody may do without credentials: the scopes of the
	// role "anonymous" as it is created at the very first start. From then on
	// the role is the operators' to change or delete.
	Anonymous []string

	// AuditRetention is how long the history of changes goes back; 90 days where
	// it is zero.
	AuditRetention time.Duration

	// Where callers with the scopes can get credentials for. Each is nil or ""
	// where the deployment has none.
	AWS                 AWS
	Azure               Azure
	GCP                 GCP
	GitHub              GitHub
	Sentry              Sentry
	WebsocktunnelSecret string // that the tunnel's servers know too
}

// A StaticClient is one that the configuration defines.
type StaticClient struct {
	ClientID    string // static/…
	AccessToken string
	Description string
	Scopes      []string
}

// Auth authenticates requests and keeps clients and roles.
type Auth struct {
	db      *store.DB
	events  *event.Bus
	keys    *seal.Keys
	log     *slog.Logger
	static  map[string]*client
	nonces  *nonces
	current atomic.Pointer[snapshot]
	seen    atomic.Int64 // when the tables were last looked at by follow, a timestamp.Time
	blind   atomic.Bool  // for so long that the snapshot must not be relied on

	retention time.Duration // of the history

	aws          AWS
	azure        Azure
	gcp          GCP
	github       GitHub
	sentry       Sentry
	tunnelSecret string

	changing chan struct{} // holds one element while a snapshot is replaced

	usedMu     sync.Mutex
	usedBy     map[*client]struct{}        // to be recorded by recordUse
	usedTokens map[tokenKey]timestamp.Time // to be recorded by recordTokenUse
	usedScopes map[scopeKey]timestamp.Time // to be recorded by recordScopeUse
	scopeUses  map[string]*scopeUses       // by client
}

// never is when static clients expire, as far as callers are told.
var never = timestamp.Of(time.Date(3000, 1, 1, 0, 0, 0, 0, time.UTC))

const staticPrefix = "static/"

// New opens the clients and roles, creating the tables where they do not exist.
func New(ctx context.Context, c Config) (*Auth, error) {
	a := &Auth{
		db: c.DB, events: c.Events, keys: c.Keys, log: c.Log,
		static: map[string]*client{}, nonces: newNonces(nonceCapacity),
		changing: make(chan struct{}, 1), usedBy: map[*client]struct{}{}, usedTokens: map[tokenKey]timestamp.Time{},
		usedScopes: map[scopeKey]timestamp.Time{}, scopeUses: map[string]*scopeUses{},
		retention: cmp.Or(c.AuditRetention, auditRetention),
		aws:       c.AWS, azure: c.Azure, gcp: c.GCP, github: c.GitHub, sentry: c.Sentry, tunnelSecret: c.WebsocktunnelSecret,
	}
	switch {
	case c.AuditRetention < 0:
		return nil, fmt.Errorf("auth: the history is to go back %v; that must be more than nothing", c.AuditRetention)
	case a.tunnelSecret != "" && len(a.tunnelSecret) < minSecret:
		return nil, fmt.Errorf("auth: the secret for websocktunnel has fewer than %d characters; make a longer one and give it to the tunnel's servers too", minSecret)
	}
	now := timestamp.Now()
	for _, s := range c.Static {
		switch {
		case !strings.HasPrefix(s.ClientID, staticPrefix) || !cred.ValidClientID(s.ClientID):
			return nil, fmt.Errorf("auth: static client %q: the id must begin with %s and match %s", s.ClientID, staticPrefix, cred.ClientIDPattern)
		case len(s.AccessToken) < 22:
			return nil, fmt.Errorf("auth: static client %s: the access token has fewer than 22 characters", s.ClientID)
		case a.static[s.ClientID] != nil:
			return nil, fmt.Errorf("auth: static client %s is given twice", s.ClientID)
		}
		if err := checkScopes(s.Scopes); err != nil {
			return nil, fmt.Errorf("auth: static client %s: %w", s.ClientID, err)
		}
		sc := &client{
			ClientID: s.ClientID, Description: s.Description, Scopes: s.Scopes, tokens: []*token{{secret: s.AccessToken}},
			Expires: never, Created: now, LastModified: now, LastRotated: now,
		}
		sc.lastUsed.Store(int64(now))
		a.static[s.ClientID] = sc
	}
	if err := a.db.Migrate(ctx, "auth", migrations); err != nil {
		return nil, fmt.Errorf("auth: migrate: %w", err)
	}
	if err := a.refresh(ctx); err != nil {
		return nil, fmt.Errorf("auth: read clients and roles: %w", err)
	}
	a.seen.Store(int64(timestamp.Now()))
	if err := a.beginScopeUse(ctx); err != nil {
		return nil, fmt.Errorf("auth: note since when the use of scopes is recorded: %w", err)
	}
	if err := a.firstStart(ctx, c.Anonymous); err != nil {
		return nil, fmt.Errorf("auth: create the role anonymous: %w", err)
	}
	return a, nil
}

// firstStart gives the role anonymous its scopes, once in the life of a
// deployment: one that is deleted later stays deleted.
func (a *Auth) firstStart(ctx context.Context, scopes []string) error {
	return a.change(ctx, func(tx *store.Tx, now *snapshot) (delta, error) {
		if now.version > 0 || now.roles["anonymous"] != nil {
			return delta{}, nil
		}
		if err := checkScopes(scopes); err != nil {
			return delta{}, err
		}
		t := timestamp.Now()
		return a.writeRole(tx, &role{
			RoleID: "anonymous", Scopes: scopes, Created: t, LastModified: t,
			Description: "What anybody may do, with credentials or without. Created at the first start; change it as you see fit.",
		}, roleCreated, deed{self, created})
	})
}

// Mint issues temporary credentials in the name of a client, without asking
// the network or the database. Named ones, whose clientID is not the issuer's,
// work only if the issuer has the scope auth:create-client:<clientID>; and the
// issuer must have the scopes.
func (a *Auth) Mint(issuer, clientID string, scopes []string, start, expiry time.Time) (cred.Credentials, error) {
	c := a.current.Load().clients[issuer]
	if c == nil {
		return cred.Credentials{}, fmt.Errorf("auth: issue credentials for %s: there is no client %s", clientID, issuer)
	}
	return cred.Temporary(cred.Credentials{ClientID: issuer, AccessToken: c.signing(timestamp.Now()).secret},
		cred.Options{ClientID: clientID, Scopes: scopes, Start: start, Expiry: expiry})
}

// An Issuer mints credentials in the name of one client, for a service that
// acts as that client.
type Issuer struct {
	auth     *Auth
	clientID string
}

// Issuer returns the issuer for a client, static/taskcluster/queue say.
func (a *Auth) Issuer(clientID string) Issuer { return Issuer{a, clientID} }

// Mint issues credentials that are valid now; see Auth.Mint. They have been for
// as long as clocks may differ, since whoever gets them uses them at once, and
// with another replica, whose clock may be behind ours.
func (i Issuer) Mint(_ context.Context, clientID string, scopes []string, expiry time.Time) (cred.Credentials, error) {
	return i.auth.Mint(i.clientID, clientID, scopes, time.Now().Add(-hawk.MaxSkew), expiry)
}

// Loops are the work that goes on beside the calls.
func (a *Auth) Loops() []loop.Loop {
	return []loop.Loop{
		{
			Name: "auth.expiry", Doc: "Deletes clients that have been expired for a day, if they are to be deleted.",
			When: loop.Every(time.Hour), Pass: a.deleteExpired,
		},
		{
			Name: "auth.reseal", Doc: "Seals access tokens anew that are sealed with an old key.",
			When: loop.Every(time.Hour), Pass: a.reseal,
		},
		{
			Name: "auth.refresh", Doc: "Follows the changes of clients and roles that other replicas have made.",
			When: loop.Every(followInterval), EveryReplica: true, Wake: a.db.Waits().Signal(topicChanged),
			MaxBackoff: followInterval, Pass: a.follow,
		},
		{
			Name: "auth.history", Doc: "Deletes what the history has from too long ago, what is left of access tokens retired then, and which scopes were last of use long ago.",
			When: loop.Every(time.Hour), Pass: a.forget,
		},
		{
			Name: "auth.use", Doc: "Records when clients were last used.",
			When: loop.Every(5 * time.Minute), EveryReplica: true, Pass: a.recordUse,
		},
		{
			Name: "auth.token-use", Doc: "Records when access tokens were last used.",
			When: loop.Every(tokenUseInterval), EveryReplica: true, Pass: a.recordTokenUse,
		},
		{
			Name: "auth.scope-use", Doc: "Records which scopes of clients were of use, and when last.",
			When: loop.Every(5 * time.Minute), EveryReplica: true, Pass: a.recordScopeUse,
		},
	}
}

const (
	batch = 500

	// Callers learn of a client's use to within this time.
	useInterval = 6 * time.Hour

	// How long an expired client stays, for those who wonder why it does not
	// work any more.
	expiredFor = 24 * time.Hour
)

// used notes that a client was used, by one of its tokens.
func (a *Auth) used(c *client, t *token, now time.Time) {
	a.usedToken(c, t, now)
	last := c.lastUsed.Load()
	if now.UnixMilli()-last < useInterval.Milliseconds() || !c.lastUsed.CompareAndSwap(last, now.UnixMilli()) {
		return
	}
	a.usedMu.Lock()
	a.usedBy[c] = struct{}{}
	a.usedMu.Unlock()
}

// recordUse writes down which clients were used, and when.
func (a *Auth) recordUse(ctx context.Context) (more bool, err error) {
	taken := map[string]timestamp.Time{}
	a.usedMu.Lock()
	for c := range a.usedBy {
		if len(taken) == batch {
			more = true
			break
		}
		delete(a.usedBy, c)
		taken[c.ClientID] = timestamp.Time(c.lastUsed.Load())
	}
	a.usedMu.Unlock()
	if len(taken) == 0 {
		return false, nil
	}
	// If this fails, a client that goes on being used is noted again in six
	// hours.
	return more, a.change(ctx, func(tx *store.Tx, now *snapshot) (delta, error) {
		d := delta{clients: map[string]*client{}}
		for id, t := range taken {
			c := now.clients[id]
			if c == nil || a.static[id] != nil {
				continue
			}
			if _, err := tx.Exec(`UPDATE auth_client SET last_used = $2 WHERE client_id = $1`, id, t); err != nil {
				return delta{}, err
			}
			d.clients[id] = c.changed(func(c *client) { c.lastUsed.Store(int64(t)) })
		}
		return d, nil
	})
}

// deleteExpired deletes what its creator wanted deleted after expiry.
func (a *Auth) deleteExpired(ctx context.Context) (more bool, err error) {
	before := timestamp.Now().Add(-expiredFor)
	err = a.change(ctx, func(tx *store.Tx, now *snapshot) (delta, error) {
		d := delta{clients: map[string]*client{}}
		more = false
		for id, c := range now.clients {
			if !c.DeleteOnExpiration || c.Expires > before {
				continue
			}
			if more = len(d.clients) == batch; more {
				break
			}
			if err := a.removeClient(tx, d, id, deed{self, expired}); err != nil {
				return delta{}, err
			}
		}
		return d, nil
	})
	return more, err
}

// reseal moves access tokens to the newest key. It does not change them, so
// nobody else has to know.
func (a *Auth) reseal(ctx context.Context) (more bool, err error) {
	stale := map[tokenKey]string{}
	err = a.db.View(ctx, func(tx *store.Tx) error {
		clear(stale)
		rows, err := tx.Query(`SELECT client_id, token_id, access_token FROM auth_token WHERE retired = 0`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var key tokenKey
			var sealed string
			if err := rows.Scan(&key.clientID, &key.id, &sealed); err != nil {
				return err
			}
			if !a.keys.Current(sealed) {
				stale[key] = sealed
			}
		}
		return rows.Err()
	})
	if err != nil || len(stale) == 0 {
		return false, err
	}
	var failed error
	moved := int64(0)
	err = a.db.Do(ctx, func(tx *store.Tx) error {
		failed, moved = nil, 0
		done := 0
		for key, sealed := range stale {
			if done++; done > batch {
				break
			}
			secret, err := a.unseal(key, sealed)
			if err != nil {
				failed = errors.Join(failed, err)
				continue
			}
			n, err := tx.Exec(`UPDATE auth_token SET access_token = $4 WHERE client_id = $1 AND token_id = $2 AND access_token = $3`,
				key.clientID, key.id, sealed, a.keys.Seal([]byte(secret), key.place()))
			if err != nil {
				return err
			}
			moved += n
		}
		return nil
	})
	if err == nil {
		a.log.Info("access tokens were sealed anew with the newest key", "moved", moved, "left", int64(len(stale))-moved, "key", a.keys.Newest())
	}
	return len(stale) > batch, errors.Join(err, failed)
}
