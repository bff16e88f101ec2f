package auth

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/timestamp"
)

// useOf words what is told of a client's scopes: "scope", with a plus before those
// that were used, and for roles how many of those that it implies were.
func (w *world) useOf(a *Auth, clientID string) string {
	w.Helper()
	list, since, err := a.Use(w.Context(), timestamp.Now().Add(-90*24*time.Hour))
	if err != nil {
		w.Fatal(err)
	}
	if since.IsZero() || since > timestamp.Now() {
		w.Errorf("recorded since %s", since)
	}
	for _, u := range list {
		if u.ClientID != clientID {
			continue
		}
		var words []string
		for _, s := range u.Scopes {
			word := s.Scope
			if s.LastUsed > 0 {
				word = "+" + word
			}
			if s.Implied > 0 {
				word += fmt.Sprintf(" (%d/%d)", s.ImpliedUsed, s.Implied)
			}
			words = append(words, word)
		}
		return strings.Join(words, ", ")
	}
	w.Fatalf("nothing is told of %s", clientID)
	return ""
}

func TestWhichScopesWereOfUse(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.role("reader", "auth:audit-history:*", "queue:get-artifact:*", "other:role")
		c := w.client("team/ci", "auth:create-client:team/ci/*", "auth:create-role:x-*", "assume:reader", "auth:client-audit-history:team/*", "never:used")
		want := func(what string) {
			t.Helper()
			if got := w.useOf(w.Auth, "team/ci"); got != what {
				t.Errorf("it is %s\nwant  %s", got, what)
			}
		}
		want("auth:create-client:team/ci/*, auth:create-role:x-*, assume:reader (0/3), auth:client-audit-history:team/*, never:used")

		// What is refused was of no use, what anybody may do is not the client's.
		w.want(403, c, "GET", "/clients/other/audit", nil)
		w.want(200, c, "GET", "/clients/", nil)
		want("auth:create-client:team/ci/*, auth:create-role:x-*, assume:reader (0/3), auth:client-audit-history:team/*, never:used")

		// By itself, by a role, and by temporary credentials, which are the issuer's use:
		// also that it may give them a name.
		w.want(200, c, "GET", "/clients/"+"team%2Fci"+"/audit", nil)
		w.want(200, c, "GET", "/audit/client/x", nil)
		want("auth:create-client:team/ci/*, auth:create-role:x-*, +assume:reader (1/3), +auth:client-audit-history:team/*, never:used")
		temp := w.temporary(c, cred.Options{ClientID: "team/ci/job", Scopes: []string{"auth:create-role:x-1"}})
		w.want(200, temp, "PUT", rolePathOf("x-1"), roleBody())
		used := "+auth:create-client:team/ci/*, +auth:create-role:x-*, +assume:reader (1/3), +auth:client-audit-history:team/*, never:used"
		want(used)

		// Another replica knows what was written, and adds its own.
		other := w.start()
		if got := w.useOf(other, "team/ci"); strings.Contains(got, "+") {
			t.Errorf("before it was written another replica says %s", got)
		}
		w.pass(w.Auth, "auth.scope-use")
		if got := w.useOf(other, "team/ci"); got != used {
			t.Errorf("another replica says %s", got)
		}

		// The time is that of the latest use, to within a day, whoever writes last.
		at := func(a *Auth) timestamp.Time {
			list, _, err := a.Use(w.Context(), 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, u := range list {
				if u.ClientID == "team/ci" {
					return u.Scopes[3].LastUsed
				}
			}
			return 0
		}
		first := at(other)
		time.Sleep(time.Hour)
		w.want(200, c, "GET", "/clients/"+"team%2Fci"+"/audit", nil)
		if got := at(w.Auth); got != first {
			t.Errorf("an hour later it was last used at %s, before %s", got, first)
		}
		time.Sleep(23*time.Hour + time.Second)
		w.server = w.serve(other)
		w.want(200, w.root, "POST", clientPathOf("team/ci"), clientBody(time.Now().Add(1000*24*time.Hour),
			"auth:create-client:team/ci/*", "auth:create-role:x-*", "assume:reader", "auth:client-audit-history:team/*", "never:used"))
		w.want(200, c, "GET", "/clients/"+"team%2Fci"+"/audit", nil)
		w.pass(other, "auth.scope-use")
		w.pass(w.Auth, "auth.scope-use")
		if got := at(w.Auth); got.Sub(first) < 24*time.Hour {
			t.Errorf("a day later it was last used at %s, before %s", got, first)
		}

		// Roles and scopes change: one that covers what was used counts as used.
		w.want(200, w.root, "POST", clientPathOf("team/ci"), clientBody(time.Now().Add(1000*24*time.Hour), "auth:*", "auth:client-audit-history:team/ci", "never:*"))
		if err := w.refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		want("+auth:*, +auth:client-audit-history:team/ci, never:*")

		// It is forgotten after long.
		time.Sleep(keepScopeUse + 24*time.Hour)
		w.pass(w.Auth, "auth.history")
		want("auth:*, auth:client-audit-history:team/ci, never:*")
	})
}

func TestHowManyScopesAreToldApart(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		u := w.usesOf("static/taskcluster/queue")
		for i := range 2 * maxScopeUses {
			u.note(fmt.Sprintf("queue:%d", i), time.Now())
		}
		if n := len(*u.seen.Load()); n > maxScopeUses+1 {
			t.Errorf("%d are kept in memory", n)
		}
		w.pass(w.Auth, "auth.scope-use")
		list, _, err := w.Use(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range list {
			if got, want := c.Uncountable, c.ClientID == "static/taskcluster/queue"; got != want {
				t.Errorf("%s: uncountable is %v", c.ClientID, got)
			}
		}
	})
}

func TestTokensThatAreLookedFor(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		c := w.client("team/ci")
		second := w.add(c, slugid.New())
		got := map[string]string{}
		if err := w.EachToken(func(clientID, _, token string) { got[token] = clientID }); err != nil {
			t.Fatal(err)
		}
		for _, x := range []cred.Credentials{c, second, w.root} {
			if got[x.AccessToken] != x.ClientID {
				t.Errorf("a token of %s is not among them", x.ClientID)
			}
		}
	})
}

// What it costs an authorized call that it is noted which scopes it needed.
func BenchmarkSatisfied(b *testing.B) {
	w := benchWorld(b)
	s := w.current.Load()
	c := s.clients[s.clientIDs[100]]
	may, err := c.may(s.rules)
	if err != nil {
		b.Fatal(err)
	}
	c.uses.Store(w.usesOf(c.ClientID))
	need := scope.Single("queue:create-task:low:project-0100/worker")
	if !need.SatisfiedBy(may) {
		for _, x := range may {
			if strings.HasPrefix(x, "queue:create-task:low:") {
				need = scope.Single(strings.TrimSuffix(x, "*") + "worker")
			}
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		c.Satisfied(need, may)
	}
}
