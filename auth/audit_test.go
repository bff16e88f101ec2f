package auth

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

// told is a history as lines of "who action type id".
func (p reply) told() (list []string) {
	entries, _ := p.body["auditHistory"].([]any)
	for _, e := range entries {
		e := e.(map[string]any)
		list = append(list, fmt.Sprint(e["clientId"], " ", e["actionType"], " ", e["entityType"], " ", e["entityId"]))
	}
	return list
}

func (w *world) historyOf(entityType, id string) []string {
	w.Helper()
	return w.want(200, w.root, "GET", "/audit/"+entityType+"/"+url.PathEscape(id), nil).told()
}

func TestHistory(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		admin := w.client("admin", "auth:*", "a", "b")
		as := func(method, path string, body any) {
			time.Sleep(time.Second)
			code := 200
			if method == "DELETE" {
				code = 204
			}
			w.want(code, admin, method, path, body)
		}
		in := time.Now().Add(time.Hour)
		body := clientBody(in, "a")
		body["deleteOnExpiration"] = true
		as("PUT", "/clients/ci", body)
		as("PUT", "/clients/ci", body) // the same again is no change
		as("POST", "/clients/ci", body)
		as("POST", "/clients/ci/disable", nil)
		as("POST", "/clients/ci/disable", nil)
		as("POST", "/clients/ci/enable", nil)
		as("POST", "/clients/ci/reset", nil)
		as("PUT", "/roles/r", roleBody("a"))
		as("PUT", "/roles/r", roleBody("a"))
		as("POST", "/roles/r", roleBody("b"))
		as("DELETE", "/roles/r", nil)
		as("DELETE", "/roles/r", nil)
		w.want(409, w.root, "PUT", "/clients/ci", body)
		w.want(400, w.root, "PUT", "/roles/x", roleBody("assume:x"))
		w.want(403, admin, "PUT", "/roles/y", roleBody("c"))

		client := []string{"admin created client ci", "admin updated client ci", "admin client disabled client ci", "admin client enabled client ci", "admin access token reset client ci"}
		role := []string{"admin created role r", "admin updated role r", "admin deleted role r"}
		if got := w.historyOf("client", "ci"); !slices.Equal(got, client) {
			t.Errorf("of the client: %q", got)
		}
		if got := w.historyOf("role", "r"); !slices.Equal(got, role) {
			t.Errorf("of the role: %q", got)
		}
		if got := w.want(200, w.root, "GET", "/clients/admin/audit", nil).told(); !slices.Equal(got, slices.Concat(client, role)) {
			t.Errorf("of admin's deeds: %q", got)
		}
		if got := w.historyOf("client", "admin"); !slices.Equal(got, []string{"static/taskcluster/root created client admin"}) {
			t.Errorf("of admin: %q", got)
		}
		for _, id := range []string{"x", "y"} {
			if got := w.historyOf("role", id); len(got) > 0 {
				t.Errorf("of what was refused: %q", got)
			}
		}
		if got := w.historyOf("role", "anonymous"); !slices.Equal(got, []string{"static/taskcluster/auth created role anonymous"}) {
			t.Errorf("of the first start: %q", got)
		}

		time.Sleep(26 * time.Hour)
		w.pass(w.Auth, "auth.expiry")
		if got := w.historyOf("client", "ci"); !slices.Equal(got, append(client, "static/taskcluster/auth expired client ci")) {
			t.Errorf("after its expiry: %q", got)
		}
	})
}

func TestOtherServicesWriteHistory(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		record := func(entityType, id string, after error) error {
			return db.Do(t.Context(), func(tx *store.Tx) error {
				return errors.Join(w.Audit(tx, entityType, id, "team/ci", "updated"), after)
			})
		}
		for entityType, id := range map[string]string{"hook": "group/hook", "secret": "project/x/key ü", "worker-pool": "aws/build"} {
			if err := record(entityType, id, nil); err != nil {
				t.Fatal(err)
			}
			if got := w.historyOf(entityType, id); !slices.Equal(got, []string{"team/ci updated " + entityType + " " + id}) {
				t.Errorf("%s: %q", entityType, got)
			}
		}
		// With plain slashes too.
		if got := w.want(200, w.root, "GET", "/audit/hook/group/hook", nil).told(); len(got) != 1 {
			t.Errorf("by a path with a slash: %q", got)
		}
		if record("secret", "lost", errors.New("the change failed")) == nil || len(w.historyOf("secret", "lost")) > 0 {
			t.Error("a change that failed has a history")
		}
		if err := record("task", "x", nil); err == nil || !strings.Contains(err.Error(), "entity type") {
			t.Errorf("an unknown type: %v", err)
		}
		if p := w.call(w.root, "GET", "/audit/task/x", nil); p.status != 400 {
			t.Errorf("history of an unknown type: %s", p.text)
		}
	})
}

// Pages hold while entries are added, whatever their times.
func TestHistoryInPages(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		add := func(action string) {
			if err := db.Do(t.Context(), func(tx *store.Tx) error { return w.Audit(tx, "secret", "s", "c", action) }); err != nil {
				t.Fatal(err)
			}
		}
		var want, got []string
		for i := range 25 {
			add(fmt.Sprint(i)) // many at the same time
			if i%5 == 4 {
				time.Sleep(time.Millisecond)
			}
			want = append(want, fmt.Sprint("c ", i, " secret s"))
		}
		token := ""
		for page := 0; page < 40; page++ {
			p := w.want(200, w.root, "GET", "/audit/secret/s?limit=4&continuationToken="+token, nil)
			if len(p.told()) > 4 {
				t.Fatalf("a page of %d", len(p.told()))
			}
			got = append(got, p.told()...)
			if page == 2 {
				add("late")
				want = append(want, "c late secret s")
			}
			if token = p.member("continuationToken"); token == "" {
				break
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q", got)
		}
		for _, bad := range []string{"limit=0", "limit=x", "continuationToken=abc", "continuationToken=WyJhIiwiYiJd", "continuationToken=WyIxIl0"} {
			w.want(400, w.root, "GET", "/audit/secret/s?"+bad, nil)
		}
		if p := w.want(200, w.root, "GET", "/audit/secret/s?limit=100000", nil); len(p.told()) != len(want) {
			t.Errorf("without pages there are %d", len(p.told()))
		}
	})
}

func TestOldHistoryIsForgotten(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.config.AuditRetention = 30 * 24 * time.Hour
		a := w.start()
		if err := db.Do(t.Context(), func(tx *store.Tx) error {
			for range 2*batch + 1 {
				if err := a.Audit(tx, "secret", "s", "c", updated); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(29 * 24 * time.Hour)
		w.client("young")
		w.pass(a, "auth.history")
		if got := w.historyOf("secret", "s"); len(got) != 1000 {
			t.Errorf("%d on a page before its time", len(got))
		}
		time.Sleep(25 * time.Hour)
		w.pass(a, "auth.history")
		if got := w.historyOf("secret", "s"); len(got) != 0 || len(w.historyOf("client", "young")) != 1 {
			t.Errorf("%d are left", len(got))
		}
	})
}

// Who is anonymous, and does what the role anonymous permits, is told as nobody.
func TestHistoryOfAnonymousDeeds(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.want(200, w.root, "POST", "/roles/anonymous", roleBody("auth:create-role:open/*", "auth:current-scopes"))
		w.want(200, cred.Credentials{}, "PUT", rolePathOf("open/x"), roleBody())
		if got := w.historyOf("role", "open/x"); !slices.Equal(got, []string{" created role open/x"}) {
			t.Errorf("%q", got)
		}
	})
}
