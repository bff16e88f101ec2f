package auth

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/timestamp"
)

// add gives a client of w a further token.
func (w *world) add(c cred.Credentials, id string) cred.Credentials {
	w.Helper()
	secret, err := w.AddToken(w.Context(), c.ClientID, id)
	if err != nil {
		w.Fatal(err)
	}
	return cred.Credentials{ClientID: c.ClientID, AccessToken: secret}
}

func (w *world) retire(c cred.Credentials, id string) {
	w.Helper()
	if err := w.RetireToken(w.Context(), c.ClientID, id); err != nil {
		w.Fatal(err)
	}
}

// tokens are those of a client: their ids, with a minus before those that do not
// live.
func (w *world) tokens(clientID string) (list []string) {
	w.Helper()
	all, err := w.Tokens(w.Context(), clientID)
	if err != nil {
		w.Fatal(err)
	}
	for _, t := range all {
		list = append(list, map[bool]string{false: "-"}[t.Live]+t.ID)
	}
	return list
}

// every is the scopes that all ways to use credentials lead to, or the first that
// is different.
func (w *world) every(c cred.Credentials) string {
	w.Helper()
	signedURL, err := cred.SignURL("https://"+host+"/api/auth/v1/scopes/current", c, time.Now().Add(time.Minute), nil)
	if err != nil {
		w.Fatal(err)
	}
	u, _ := url.Parse(signedURL)
	temp := w.temporary(c, cred.Options{Scopes: []string{"a"}})
	named := w.temporary(c, cred.Options{ClientID: "ci/1", Scopes: []string{"a"}})
	r := w.signed(c, nil)
	elsewhere := w.want(200, cred.Credentials{}, "POST", "/authenticate-hawk", map[string]any{
		"method": "get", "resource": r.URL.RequestURI(), "host": host, "port": 443, "authorization": r.Header.Get("Authorization"),
	})
	got := w.scopes(c)
	want := map[bool]string{true: "a", false: got}[strings.HasPrefix(got, "a ")]
	for way, x := range map[string]string{
		"temporary": w.scopes(temp), "again": w.scopes(temp), "named": w.scopes(named),
		"signed URL": strings.TrimSuffix(w.send(w.request("GET", "/scopes/current?"+u.RawQuery, nil)).scopes(), " auth:create-client:ci/*"),
		"elsewhere":  map[string]string{"auth-success": want, "auth-failed": "Authentication failed: " + elsewhere.member("message")}[elsewhere.member("status")],
	} {
		if x != want {
			return way + ": " + x
		}
	}
	return want
}

func TestTwoTokens(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		one := w.client("ci", "a", "auth:create-client:ci/*")
		first := w.tokens("ci")[0]
		id := slugid.New()
		two := w.add(one, id)
		if two.AccessToken == one.AccessToken || w.every(one) != "a" || w.every(two) != "a" {
			t.Errorf("with two tokens: %s; %s", w.every(one), w.every(two))
		}
		if again := w.add(one, id); again != two {
			t.Error("adding the same again gave another token")
		}
		if got := w.tokens("ci"); !slices.Equal(got, []string{id, first}) {
			t.Errorf("tokens: %v", got)
		}
		refused := func(what string, err error, code api.Code) {
			t.Helper()
			var e *api.Error
			if !errors.As(err, &e) || e.Code != code || strings.Contains(err.Error(), one.AccessToken) || strings.Contains(err.Error(), two.AccessToken) {
				t.Errorf("%s: %v", what, err)
			}
		}
		adding := func(clientID, id string) error { _, err := w.AddToken(t.Context(), clientID, id); return err }
		refused("a third", adding("ci", slugid.New()), api.RequestConflict)
		refused("of nobody", adding("nobody", slugid.New()), api.ResourceNotFound)
		refused("of a static client", adding("static/taskcluster/root", slugid.New()), api.InputError)
		refused("with a bad id", adding("ci", "a/b"), api.InputError)
		refused("with the id of old ones", adding("ci", original), api.InputError)
		refused("retire with a bad id", w.RetireToken(t.Context(), "ci", ""), api.InputError)
		refused("retire of a static client", w.RetireToken(t.Context(), "static/taskcluster/root", id), api.InputError)
		_, err := w.Tokens(t.Context(), "nobody")
		refused("tokens of nobody", err, api.ResourceNotFound)
		_, err = w.Tokens(t.Context(), "static/taskcluster/root")
		refused("tokens of a static client", err, api.InputError)
		if p := w.call(w.root, "PUT", "/clients/ci", clientBody(time.Now().Add(24*time.Hour-time.Second), "a", "auth:create-client:ci/*")); p.status != 409 {
			t.Errorf("who created it can ask for its token still: %d", p.status)
		}

		old := w.temporary(one, cred.Options{Scopes: []string{"a"}})
		kept := w.temporary(two, cred.Options{Scopes: []string{"a"}})
		for _, c := range []cred.Credentials{old, kept} {
			if got := w.scopes(c); got != "a" {
				t.Errorf("temporary: %s", got)
			}
		}
		w.retire(one, first)
		w.retire(one, first) // is done
		if w.every(one) != unknown || w.scopes(old) != unknown || w.every(two) != "a" || w.scopes(kept) != "a" {
			t.Errorf("after the first was retired: it %s, temporary %s; the other %s, temporary %s", w.every(one), w.scopes(old), w.every(two), w.scopes(kept))
		}
		refused("the only one", w.RetireToken(t.Context(), "ci", id), api.RequestConflict)
		if slugid.Valid(first) {
			refused("one that was retired", adding("ci", first), api.RequestConflict)
		}
		never := slugid.New()
		w.retire(one, never)
		refused("one that was retired before it was there", adding("ci", never), api.RequestConflict)
		w.retire(cred.Credentials{ClientID: "nobody"}, never)
		if got := w.tokens("ci"); len(got) != 3 || !slices.Contains(got, id) || !slices.Contains(got, "-"+first) || !slices.Contains(got, "-"+never) {
			t.Errorf("tokens: %v", got)
		}

		// What is done to the client is done to both of its tokens.
		three := w.add(one, slugid.New())
		w.Auth = w.start()
		w.server = w.serve(w.Auth)
		if w.every(two) != "a" || w.every(three) != "a" {
			t.Errorf("after a restart: %s; %s", w.every(two), w.every(three))
		}
		both := func(what, want string) {
			t.Helper()
			if x, y := w.scopes(two), w.scopes(three); !strings.HasPrefix(x, want) || !strings.HasPrefix(y, want) {
				t.Errorf("%s: %s; %s", what, x, y)
			}
		}
		w.want(200, w.root, "POST", "/clients/ci/disable", nil)
		both("disabled", "Authentication failed: the client ci is disabled")
		w.want(200, w.root, "POST", "/clients/ci/enable", nil)
		both("enabled", "a ")
		fresh := cred.Credentials{ClientID: "ci", AccessToken: w.want(200, w.root, "POST", "/clients/ci/reset", nil).member("accessToken")}
		both("reset", unknown)
		if w.every(fresh) != "a" {
			t.Errorf("reset: %s", w.every(fresh))
		}
		four := w.add(one, slugid.New())
		two, three = four, fresh
		time.Sleep(24 * time.Hour)
		both("expired", "Authentication failed: the client ci has expired")
		w.want(204, w.root, "DELETE", "/clients/ci", nil)
		both("deleted", unknown)
		again := w.client("ci", "a")
		both("created again", unknown)
		if got := w.tokens("ci"); len(got) != 1 || w.scopes(again) != "a" {
			t.Errorf("created again: %v", got)
		}
		told := w.historyOf("client", "ci")
		want := []string{
			"static/taskcluster/root created client ci", self + " access token added client ci", self + " access token retired client ci",
			self + " access token added client ci", "static/taskcluster/root client disabled client ci", "static/taskcluster/root client enabled client ci",
			"static/taskcluster/root access token reset client ci", self + " access token added client ci",
			"static/taskcluster/root deleted client ci", "static/taskcluster/root created client ci",
		}
		if !slices.Equal(told, want) {
			t.Errorf("the history is %q", told)
		}
	})
}

// A certificate is good with the key that its own token leads to, not with that of
// the client's other token.
func TestTokensDoNotMix(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		one := w.client("ci", "a", "b")
		two := w.add(one, slugid.New())
		now := time.Now()
		c := cred.Certificate{Version: 1, Scopes: []string{"a"}, Start: now.UnixMilli(), Expiry: now.Add(time.Hour).UnixMilli(), Seed: slugid.Token()}
		for _, x := range [][2]cred.Credentials{{one, two}, {two, one}} {
			c.Seed = slugid.Token()
			signed, other := forge(t, x[0], "ci", c), forge(t, x[1], "ci", c)
			mixed := signed
			mixed.AccessToken = other.AccessToken
			if got := w.scopes(mixed); got != "Authentication failed: ext.certificate has a signature that is not valid, or is for another client id" {
				t.Errorf("mixed: %s", got)
			}
			if got := w.scopes(signed); got != "a" {
				t.Errorf("with its own key: %s", got)
			}
			if got := w.scopes(mixed); got != unknown {
				t.Errorf("mixed, now that the certificate is known: %s", got)
			}
			// What is authorized is not mixed up, either.
			for range 2 {
				for _, who := range x {
					if got := w.restricted(who, []string{"b"}, "GET", "/scopes/current", nil).scopes(); got != "b" {
						t.Errorf("restricted: %s", got)
					}
				}
			}
		}
	})
}

func TestUseOfTokensIsRecorded(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		one := w.client("ci", "a", "auth:create-client:ci/*")
		other := w.start()
		used := func() map[string]time.Duration { // ago, as another replica tells
			w.Helper()
			w.pass(w.Auth, "auth.token-use")
			list, err := other.Tokens(t.Context(), "ci")
			if err != nil {
				t.Fatal(err)
			}
			m := map[string]time.Duration{}
			for _, u := range list {
				if m[u.ID] = -1; u.LastUsed != 0 {
					m[u.ID] = timestamp.Now().Sub(u.LastUsed)
				}
			}
			return m
		}
		check := func(what string, id string, want time.Duration) {
			t.Helper()
			if got := used()[id]; got != want {
				t.Errorf("%s: used %v ago, want %v", what, got, want)
			}
		}
		first := w.tokens("ci")[0]
		check("new", first, -1)
		w.scopes(one)
		check("the first use", first, 0)
		time.Sleep(time.Hour)
		w.scopes(one)
		check("with one token", first, time.Hour)

		id := slugid.New()
		two := w.add(one, id)
		check("added", id, -1)
		w.scopes(one)
		check("used beside another", first, 0)
		time.Sleep(time.Minute)
		w.scopes(w.temporary(two, cred.Options{}))
		if list, err := w.Tokens(t.Context(), "ci"); err != nil || list[0].LastUsed != timestamp.Now() {
			t.Errorf("here, before it is written: %v, %v", list, err)
		}
		check("temporary credentials", id, 0)
		check("the other meanwhile", first, time.Minute)
		for what, use := range map[string]func(){
			"named":      func() { w.scopes(w.temporary(one, cred.Options{ClientID: "ci/1"})) },
			"restricted": func() { w.restricted(one, []string{"a"}, "GET", "/scopes/current", nil) },
			"elsewhere": func() {
				w.want(200, cred.Credentials{}, "POST", "/authenticate-hawk", map[string]any{
					"method": "get", "resource": "/api/auth/v1/scopes/current", "host": host, "port": 443, "authorization": w.signed(one, nil).Header.Get("Authorization"),
				})
			},
		} {
			time.Sleep(time.Minute)
			use()
			check(what, first, 0)
		}
		time.Sleep(time.Minute)
		w.scopes(cred.Credentials{ClientID: "ci", AccessToken: slugid.Token()})
		check("a wrong one", first, time.Minute)

		// What cannot be written now is written later.
		w.scopes(one)
		rename := func(from, to string) {
			if err := db.Do(t.Context(), func(tx *store.Tx) error { _, err := tx.Exec(`ALTER TABLE ` + from + ` RENAME TO ` + to); return err }); err != nil {
				t.Fatal(err)
			}
		}
		rename("auth_token", "lost")
		if _, err := w.recordTokenUse(t.Context()); err == nil {
			t.Error("no error without the table")
		}
		rename("lost", "auth_token")
		check("after all", first, 0)
		w.scopes(w.root) // whose tokens nobody counts
		w.retire(one, first)
		time.Sleep(time.Hour)
		check("retired", first, time.Hour)
	})
}

func TestRetiredTokensAreForgottenWithTheHistory(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		c := w.client("ci", "a")
		first, id := w.tokens("ci")[0], slugid.New()
		w.add(c, id)
		w.retire(c, first)
		var left string
		if err := db.View(t.Context(), func(tx *store.Tx) error {
			return tx.QueryRow(`SELECT access_token FROM auth_token WHERE token_id = $1`, first).Scan(&left)
		}); err != nil || left != "" {
			t.Errorf("of the retired token there is %q, %v", left, err)
		}
		time.Sleep(auditRetention - time.Minute)
		w.pass(w.Auth, "auth.history")
		if got := w.tokens("ci"); !slices.Equal(got, []string{id, "-" + first}) {
			t.Errorf("tokens: %v", got)
		}
		time.Sleep(2 * time.Minute)
		w.pass(w.Auth, "auth.history")
		if got := w.tokens("ci"); !slices.Equal(got, []string{id}) {
			t.Errorf("tokens: %v", got)
		}
	})
}

// Other replicas do not know a new token at once. Temporary credentials from here
// work there nevertheless.
func TestIssuedWithATokenThatAllKnow(t *testing.T) {
	replicas(t, func(one, two *world) {
		c := one.client("ci", "a")
		within()
		done := make(chan string)
		go func() {
			secret, err := one.AddToken(one.Context(), "ci", slugid.New())
			if err != nil {
				one.Error(err)
			}
			done <- secret
		}()
		mint := func() cred.Credentials {
			m, err := one.Mint("ci", "ci", []string{"a"}, time.Now(), time.Now().Add(time.Hour))
			if err != nil {
				one.Fatal(err)
			}
			return m
		}
		for range 9 {
			time.Sleep(100 * time.Millisecond)
			if got := two.scopes(mint()); got != "a" {
				two.Errorf("issued while the other does not know yet: %s", got)
			}
		}
		fresh := cred.Credentials{ClientID: "ci", AccessToken: <-done}
		if got := two.scopes(fresh); got != "a" {
			two.Errorf("on the other replica when AddToken returned: %s", got)
		}
		one.retire(c, one.tokens("ci")[1])
		within()
		if got := two.scopes(mint()); got != "a" || two.scopes(c) != unknown {
			two.Errorf("a second after the old one was retired: %s; it %s", got, two.scopes(c))
		}
	})
}

// A database from before clients could have two tokens.
func TestTokensOfOlderVersions(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		older := fstest.MapFS{}
		for _, name := range []string{"0001_clients_and_roles.sql", "0002_audit.sql"} {
			text, err := fs.ReadFile(migrations, "migrations/"+name)
			if err != nil {
				t.Fatal(err)
			}
			older[name] = &fstest.MapFile{Data: text}
		}
		if err := db.Migrate(t.Context(), "auth", older); err != nil {
			t.Fatal(err)
		}
		key, now, c := seal.NewKey(), timestamp.Now(), cred.Credentials{ClientID: "team/ci", AccessToken: slugid.Token()}
		if err := db.Do(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(`
				INSERT INTO auth_client (client_id, description, scopes, access_token, disabled, delete_on_expiration,
				                         expires, created, created_by, last_modified, last_rotated, last_used)
				VALUES ($1, '', $2, $3, FALSE, FALSE, $4, $5, '', $5, $5, $5)`,
				c.ClientID, []string{"a", "auth:create-client:ci/*"}, keysOf(t, key).Seal([]byte(c.AccessToken), "auth_client/team/ci/access_token"), now.Add(24*time.Hour), now)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		w := newWorld(t, db, key)
		if got := w.every(c); got != "a" || !slices.Equal(w.tokens(c.ClientID), []string{original}) {
			t.Errorf("after the migration: %s, tokens %v", got, w.tokens(c.ClientID))
		}
		if err := db.Migrate(t.Context(), "auth", older); err == nil || !strings.Contains(err.Error(), "newer") {
			t.Errorf("the older version started on the newer tables: %v", err)
		}
		newer := seal.NewKey()
		w.config.Keys = keysOf(t, key, newer)
		w.pass(w.start(), "auth.reseal")
		w.config.Keys = keysOf(t, newer)
		w.Auth = w.start()
		w.server = w.serve(w.Auth)
		if got := w.every(c); got != "a" {
			t.Errorf("sealed anew: %s", got)
		}
		next := w.add(c, slugid.New())
		w.retire(c, original)
		if w.every(c) != unknown || w.every(next) != "a" {
			t.Errorf("rotated: the old %s, the new %s", w.every(c), w.every(next))
		}
	})
}

// A client's token is replaced dozens of times while its holders make a thousand
// requests a second to three replicas, each with the token that it has just then or
// with what it has made with that. None fails, and what was retired is dead
// everywhere a second later.
func TestRotationsUnderLoad(t *testing.T) {
	t.Parallel()
	const holders = 20
	rotations := 30
	if testing.Short() {
		rotations = 10
	}
	storetest.EachURL(t, func(t *testing.T, url string) {
		synctest.Test(t, func(t *testing.T) {
			first := newWorld(t, storetest.Open(t, url))
			first.run(first.Auth)
			all := []*world{first, first.replica(url), first.replica(url)}
			now := first.client("ci", "a", "auth:create-client:ci/*")
			within()

			// The holders get what was published one after the other.
			type publication struct {
				cred.Credentials
				since time.Time
			}
			var published [2]atomic.Pointer[publication]
			published[0].Store(&publication{Credentials: now})
			published[1].Store(&publication{Credentials: now})
			const step = 20 * time.Millisecond
			var made, failed atomic.Int64
			done := make(chan struct{})
			var wg sync.WaitGroup
			for n := range holders {
				wg.Go(func() {
					var held, temp cred.Credentials
					for i := n; ; i++ {
						select {
						case <-done:
							return
						case <-time.After(step):
						}
						if p := published[1].Load(); held.ClientID == "" || time.Since(p.since) >= time.Duration(n)*step {
							held = p.Credentials
						} else {
							held = published[0].Load().Credentials
						}
						who := held
						switch i % 4 {
						case 1, 2:
							o := cred.Options{Scopes: []string{"a"}}
							if i%8 > 4 {
								o.ClientID = "ci/1"
							}
							if i%4 == 1 || temp.ClientID == "" {
								temp = first.temporary(held, o)
							}
							who = temp
						}
						made.Add(1)
						w := all[i%len(all)]
						if _, err := w.Authenticate(w.Context(), w.requestBy(who, i%4 == 3)); err != nil && failed.Add(1) < 5 {
							t.Errorf("request %d of holder %d: %v", i, n, err)
						}
					}
				})
			}

			began, dead := time.Now(), cred.Credentials{ClientID: "ci", AccessToken: slugid.Token()}
			for i := range rotations {
				id := slugid.New()
				got := make([]cred.Credentials, len(all))
				var race sync.WaitGroup
				for n, w := range all {
					if n == i%3 || i%10 == 0 { // all at once, now and then
						race.Go(func() { got[n] = w.add(now, id) })
					}
				}
				race.Wait()
				next := got[i%3]
				if i%10 == 0 && (got[0] != next || got[1] != next || got[2] != next) {
					t.Fatal("replicas gave different tokens for one id")
				}
				for n, w := range all {
					if _, err := w.Authenticate(t.Context(), w.requestBy(next, false)); err != nil {
						t.Errorf("rotation %d: replica %d does not know the new token: %v", i, n, err)
					}
				}
				for n, w := range all {
					if _, err := w.Authenticate(t.Context(), w.requestBy(dead, false)); err == nil {
						t.Errorf("rotation %d: replica %d takes what was retired a second ago", i, n)
					}
				}
				published[0].Store(&publication{Credentials: now})
				published[1].Store(&publication{next, time.Now()})
				time.Sleep((holders + 3) * step)
				list := all[i%3].tokens("ci")
				if len(list) < 2 || list[0] != id || strings.HasPrefix(list[1], "-") {
					t.Fatalf("rotation %d: tokens %v", i, list)
				}
				all[(i+1)%3].retire(now, list[1])
				dead, now = now, next
			}
			took := time.Since(began)
			close(done)
			wg.Wait()
			if failed.Load() > 0 {
				t.Errorf("%d of %d requests failed", failed.Load(), made.Load())
			}
			if rate := float64(made.Load()) / took.Seconds(); rate < 900 {
				t.Errorf("only %.0f requests a second were made", rate)
			}
			if got := first.tokens("ci"); len(got) != rotations+1 || slices.ContainsFunc(got[1:], func(s string) bool { return s[0] != '-' }) {
				t.Errorf("the tokens are %v", got)
			}
			if got := len(first.historyOf("client", "ci")); got != 1+2*rotations {
				t.Errorf("the history has %d entries", got)
			}
		})
	})
}

// requestBy is a request as Authenticate gets it.
func (w *world) requestBy(c cred.Credentials, bewit bool) api.Credential {
	w.Helper()
	if !bewit || c.Certificate != "" {
		r := w.signed(c, nil)
		return api.Credential{Method: r.Method, Resource: r.URL.RequestURI(), Host: host, ForwardedProto: "https", Authorization: r.Header.Get("Authorization")}
	}
	signed, err := cred.SignURL("https://"+host+"/x", c, time.Now().Add(time.Minute), nil)
	if err != nil {
		w.Fatal(err)
	}
	return api.Credential{Method: http.MethodGet, Resource: strings.TrimPrefix(signed, "https://"+host), Host: host, ForwardedProto: "https"}
}

// A token does not show, however carelessly it is printed.
func TestTokensPrintAsTheirIDs(t *testing.T) {
	tok := newToken(timestamp.Now())
	if got := fmt.Sprintf("%v %s %+v", tok, tok, []*token{tok}); strings.Contains(got, tok.secret) || !strings.Contains(got, tok.id) {
		t.Error(got)
	}
}
