package auth

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

// replica is another process on the database of w: its own connections, its own
// snapshot, its loops running. Nobody listens for notifications, so all of them
// are lost.
func (w *world) replica(url string) *world {
	w.Helper()
	db := storetest.Open(w, url)
	r := &world{TB: w.TB, db: db, events: w.events, key: w.key, config: w.config, root: w.root}
	r.config.DB = db
	r.Auth = r.start()
	r.server = r.serve(r.Auth)
	r.run(r.Auth)
	return r
}

// replicas runs f with two processes on one database.
func replicas(t *testing.T, f func(one, two *world)) {
	storetest.EachURL(t, func(t *testing.T, url string) {
		synctest.Test(t, func(t *testing.T) {
			one := newWorld(t, storetest.Open(t, url))
			one.run(one.Auth)
			f(one, one.replica(url))
		})
	})
}

// within waits for a second, and for what goes on then.
func within() {
	time.Sleep(time.Second)
	synctest.Wait()
}

func TestReplicasAgreeWithinASecondThoughNotificationsAreLost(t *testing.T) {
	replicas(t, func(one, two *world) {
		c := one.client("team/ci", "a", "assume:r")
		within()
		temp := two.temporary(c, cred.Options{Scopes: []string{"a"}})
		check := func(what, mayC, mayTemp string) {
			one.Helper()
			within()
			for name, w := range map[string]*world{"one": one, "two": two} {
				if got := w.scopes(c); got != mayC {
					w.Errorf("%s: on %s the client may %q, want %q", what, name, got, mayC)
				}
				if got := w.scopes(temp); got != mayTemp {
					w.Errorf("%s: on %s its temporary credentials may %q, want %q", what, name, got, mayTemp)
				}
			}
		}
		check("created", "a assume:r", "a")
		two.role("r", "b")
		check("a role by the other", "a assume:r b", "a")
		one.want(200, one.root, "POST", "/roles/r", roleBody("c"))
		check("changed by the first", "a assume:r c", "a")
		two.want(200, two.root, "POST", "/clients/team%2Fci/disable", nil)
		const off = "Authentication failed: the client team/ci is disabled"
		check("disabled", off, off)
		one.want(200, one.root, "POST", "/clients/team%2Fci/enable", nil)
		check("enabled", "a assume:r c", "a")
		p := two.want(200, two.root, "POST", "/clients/team%2Fci/reset", nil)
		check("reset", unknown, unknown)
		c.AccessToken = p.member("accessToken")
		check("with the new token", "a assume:r c", unknown)
		one.want(204, one.root, "DELETE", "/clients/team%2Fci", nil)
		check("deleted", unknown, unknown)
	})
}

// A replica whose database fails it goes on for a while by what it knows, then
// stops to rely on it, and knows better within a second of the end of that.
func TestReplicaThatCannotSeeChanges(t *testing.T) {
	replicas(t, func(one, two *world) {
		c := one.client("team/ci", "a")
		within()
		rename := func(from, to string) {
			if err := one.db.Do(one.Context(), func(tx *store.Tx) error {
				_, err := tx.Exec(`ALTER TABLE ` + from + ` RENAME TO ` + to)
				return err
			}); err != nil {
				one.Fatal(err)
			}
		}
		rename("auth_version", "lost")
		time.Sleep(20 * time.Second)
		if got := two.scopes(c); got != "a" {
			two.Errorf("a moment without the database: %s", got)
		}
		time.Sleep(time.Minute)
		for name, w := range map[string]*world{"one": one, "two": two} {
			for what, who := range map[string]cred.Credentials{"a client": c, "nobody": {}} {
				if p := w.call(who, "GET", "/scopes/current", nil); p.status != 503 || !strings.Contains(p.text, "database") {
					w.Errorf("without the database for long, on %s, %s: %d %s", name, what, p.status, p.text)
				}
			}
			if p := w.call(cred.Credentials{}, "POST", "/authenticate-hawk", map[string]any{"method": "get", "resource": "/", "host": host, "port": 443}); p.status != 503 {
				w.Errorf("for another service: %d %s", p.status, p.text)
			}
			w.want(200, cred.Credentials{}, "GET", "/ping", nil)
		}
		rename("lost", "auth_version")
		within()
		if got := two.scopes(c); got != "a" {
			two.Errorf("with the database again: %s", got)
		}
		one.want(204, one.root, "DELETE", "/clients/team%2Fci", nil)
		within()
		if got := two.scopes(c); got != unknown {
			two.Errorf("and a change: %s", got)
		}
	})
}
