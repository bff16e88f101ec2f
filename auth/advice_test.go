package auth

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

// advice is what an error says after what is missing and what is needed.
func (p reply) advice() string {
	message, _, _ := strings.Cut(p.member("message"), "\n\n---\n")
	parts := strings.Split(message, "```")
	return strings.TrimSpace(parts[len(parts)-1])
}

func TestRolesThatWouldGiveWhatIsMissing(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.role("ci", "secrets:get:ci/*", "auth:create-client:ci/*")
		w.role("all-secrets", "secrets:*")
		w.role("admins", "*")
		w.role("one-secret", "secrets:get:ci/key")
		w.role("through-others", "assume:ci")
		w.role("project:*", "secrets:get:project/<..>/*", "queue:create-task:low:<..>", "index:<..>")
		w.role("elsewhere", "hooks:*")
		c := w.client("team/dev", "auth:create-client:dev/*", "a")
		lacking := func(who cred.Credentials, scopes ...string) reply {
			t.Helper()
			return w.want(403, who, "PUT", "/clients/dev%2Fx", clientBody(time.Now().Add(time.Hour), scopes...))
		}
		const head = "Roles that would give what is missing:\n\n"
		const tail = "\n\nWhoever may change the client or one of its roles can add the scope `assume:<role>` for one of these."
		for _, x := range []struct {
			what   string
			scopes []string
			want   string
		}{
			{"the narrowest first, not through others, not everything", []string{"secrets:get:ci/key"},
				"* `one-secret` gives `secrets:get:ci/key`\n* `ci` gives `secrets:get:ci/key`\n* `all-secrets` gives `secrets:get:ci/key`"},
			{"with a parameter", []string{"secrets:get:project/web/key"},
				"* `project:web` (as the role `project:*` has it) gives `secrets:get:project/web/key`\n* `all-secrets` gives `secrets:get:project/web/key`"},
			{"a parameter to the end", []string{"queue:create-task:low:web/x"}, "* `project:web/x` (as the role `project:*` has it) gives `queue:create-task:low:web/x`"},
			{"who gives more, first", []string{"secrets:get:ci/key", "secrets:put:x", "a"},
				"* `all-secrets` gives `secrets:get:ci/key`, `secrets:put:x`\n* `one-secret` gives `secrets:get:ci/key`\n* `ci` gives `secrets:get:ci/key`"},
			{"a scope with a star", []string{"secrets:get:ci/*"}, "* `ci` gives `secrets:get:ci/*`\n* `all-secrets` gives `secrets:get:ci/*`"},
			{"more than they have", []string{"hooks*"}, ""},
			{"which nobody has", []string{"nobody:has"}, ""},
		} {
			want := ""
			if x.want != "" {
				want = head + x.want + tail
			}
			p := lacking(c, x.scopes...)
			if got := p.advice(); got != want {
				t.Errorf("%s:\n%s\nwant\n%s", x.what, got, want)
			}
			if !strings.HasPrefix(p.member("message"), "team/dev lacks scopes for this call. Missing:\n\n```\n") || strings.Count(p.member("message"), "```") != 4 {
				t.Errorf("%s: first what is missing, then the whole: %s", x.what, p.member("message"))
			}
		}

		for i := range 8 {
			w.role(fmt.Sprintf("many-%d", i), "many:*")
		}
		if got := lacking(c, "many:x").advice(); strings.Count(got, "many-") != 5 || !strings.Contains(got, "* and others\n") {
			t.Errorf("many roles: %s", got)
		}
	})
}

// What is left out by the caller is not for others to give.
func TestScopesThatTheRequestItselfLeavesOut(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.role("ci", "auth:create-client:ci/*")
		w.role("other", "auth:create-client:*")
		c := w.client("team/dev", "assume:ci", "a", "auth:delete-client:x")
		create := func(who cred.Credentials, authorized []string) string {
			t.Helper()
			p := w.restricted(who, authorized, "PUT", "/clients/ci%2Fx", clientBody(time.Now().Add(time.Hour)))
			if p.status != 403 {
				t.Fatalf("%s", p.text)
			}
			return p.advice()
		}
		if got := create(c, []string{"a"}); got != "The credentials have what is missing, through your role `ci`; the authorizedScopes of this request leave it out." {
			t.Errorf("by a role: %s", got)
		}
		p := w.restricted(c, []string{"a"}, "DELETE", "/clients/x", nil)
		if got := p.advice(); got != "The credentials have what is missing; the authorizedScopes of this request leave it out." {
			t.Errorf("by itself: %s", got)
		}

		// Temporary credentials may be in other hands than their issuer's: what
		// the issuer has is not told.
		temp := w.temporary(c, cred.Options{Scopes: []string{"a"}})
		for what, got := range map[string]string{"temporary": create(temp, nil), "restricted too": create(temp, []string{"a"})} {
			if strings.Contains(got, "your role") || strings.Contains(got, "have what is missing") || !strings.Contains(got, "`other`") {
				t.Errorf("%s: %s", what, got)
			}
		}
		wide := w.temporary(c, cred.Options{Scopes: []string{"assume:ci"}})
		if got := create(wide, []string{}); !strings.Contains(got, "through your role `ci`") {
			t.Errorf("temporary credentials with the role, restricted: %s", got)
		}
	})
}

func TestAdviceNamesOnlyRolesThatTheCallerMaySee(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.role("secret-ops", "auth:create-role:x")
		w.role("open-ops", "auth:create-role:*")
		w.want(200, w.root, "POST", "/roles/anonymous", roleBody("auth:current-scopes"))
		none := w.client("none")
		lists := w.client("lists", "auth:list-roles")
		gets := w.client("gets", "auth:get-role:open-*")
		for _, x := range []struct {
			who  cred.Credentials
			open bool
			all  bool
		}{{cred.Credentials{}, false, false}, {none, false, false}, {lists, true, true}, {gets, true, false}} {
			p := w.want(403, x.who, "PUT", "/roles/x", roleBody())
			if strings.Contains(p.text, "open-ops") != x.open || strings.Contains(p.text, "secret-ops") != x.all {
				t.Errorf("%q is told %s", x.who.ClientID, p.advice())
			}
		}
	})
}

// Looking for roles is cheap however many there are and whatever is asked.
func TestAdviceIsBounded(t *testing.T) {
	roles := map[string]*role{}
	for i := range 5000 {
		id := fmt.Sprintf("r%04d", i)
		roles[id] = &role{RoleID: id, Scopes: []string{"a:*", "a:" + strings.Repeat("b", i%500) + "*"}}
	}
	rs := newRules(roles)
	var many scope.AllOf
	for i := range 10_000 {
		many = append(many, scope.Scope(fmt.Sprintf("a:%s%d", strings.Repeat("b", 300), i)))
	}
	need, err := scope.Resolve(many, nil)
	if err != nil {
		t.Fatal(err)
	}
	looked := 0
	offers, more := rs.offers(need, func(string) bool { looked++; return true })
	if len(offers) != maxOffers || !more || looked > maxAsked*maxGivers {
		t.Errorf("%d offers, %d looked at", len(offers), looked)
	}
}

func BenchmarkAdvise(b *testing.B) {
	w := benchWorld(b)
	need, err := scope.Resolve(scope.Scope("secrets:get:project/project-0100/key"), nil)
	if err != nil {
		b.Fatal(err)
	}
	who := api.Identity{ClientID: "c", Scopes: scope.NewSet("auth:list-roles")}
	for b.Loop() {
		if w.Advise(api.Credential{}, who, need) == "" {
			b.Fatal("no advice")
		}
	}
}
