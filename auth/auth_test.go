package auth

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/timestamp"
)

const unknown = "Authentication failed: the client is unknown or the signature is wrong. Check client id and access token, and that nothing on the way changes method, URL, host or port of the request"

func TestTheLifeOfAClient(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		start := time.Now()
		c := w.client("team/ci", "a", "b:*")
		if len(c.AccessToken) != 44 {
			t.Errorf("the access token has %d characters", len(c.AccessToken))
		}
		if got := w.scopes(c); got != "a b:*" {
			t.Errorf("a new client may %s", got)
		}
		shown := w.want(200, cred.Credentials{}, "GET", clientPathOf(c.ClientID), nil)
		if shown.body["accessToken"] != nil || shown.member("description") != "for a test" || shown.member("created") != timestamp.Of(start).String() {
			t.Errorf("shown as %s", shown.text)
		}

		time.Sleep(time.Minute)
		body := clientBody(start.Add(2*time.Hour), "a", "c")
		body["description"] = "changed"
		p := w.want(200, w.root, "POST", clientPathOf(c.ClientID), body)
		if p.member("description") != "changed" || p.member("lastModified") != timestamp.Of(start.Add(time.Minute)).String() || w.scopes(c) != "a c" {
			t.Errorf("changed to %s, may %s", p.text, w.scopes(c))
		}
		delete(body, "scopes")
		if w.want(200, w.root, "POST", clientPathOf(c.ClientID), body); w.scopes(c) != "a c" {
			t.Errorf("without scopes the scopes changed to %s", w.scopes(c))
		}

		temp := w.temporary(c, cred.Options{Scopes: []string{"a"}})
		if got := w.scopes(temp); got != "a" {
			t.Errorf("temporary credentials may %s", got)
		}
		for range 2 {
			if p := w.want(200, w.root, "POST", clientPathOf(c.ClientID)+"/disable", nil); p.body["disabled"] != true {
				t.Errorf("disabled: %s", p.text)
			}
		}
		for _, x := range []cred.Credentials{c, temp} {
			if got := w.scopes(x); got != "Authentication failed: the client team/ci is disabled" {
				t.Errorf("disabled: %s", got)
			}
		}
		if w.want(200, w.root, "POST", clientPathOf(c.ClientID)+"/enable", nil); w.scopes(c) != "a c" || w.scopes(temp) != "a" {
			t.Errorf("enabled again: %s, %s", w.scopes(c), w.scopes(temp))
		}

		p = w.want(200, w.root, "POST", clientPathOf(c.ClientID)+"/reset", nil)
		fresh := cred.Credentials{ClientID: c.ClientID, AccessToken: p.member("accessToken")}
		if fresh == c || w.scopes(fresh) != "a c" || w.scopes(c) != unknown || w.scopes(temp) != unknown {
			t.Errorf("after reset: new %s, old %s, temporary %s", w.scopes(fresh), w.scopes(c), w.scopes(temp))
		}

		time.Sleep(3 * time.Hour)
		if got := w.scopes(fresh); got != "Authentication failed: the client team/ci has expired at "+timestamp.Of(start.Add(2*time.Hour)).String() {
			t.Errorf("expired: %s", got)
		}
		w.want(204, w.root, "DELETE", clientPathOf(c.ClientID), nil)
		w.want(204, w.root, "DELETE", clientPathOf(c.ClientID), nil)
		if got := w.scopes(fresh); got != unknown {
			t.Errorf("deleted: %s", got)
		}
		for _, path := range []string{"", "/reset", "/enable", "/disable"} {
			method := "POST"
			var b any
			if path == "" {
				b = body
			}
			if p := w.call(w.root, method, clientPathOf(c.ClientID)+path, b); p.status != 404 {
				t.Errorf("%s of a deleted client: %s", path, p.text)
			}
		}
		w.want(404, cred.Credentials{}, "GET", clientPathOf(c.ClientID), nil)

		want := []string{"role-created anonymous", "client-created team/ci", "client-updated team/ci", "client-updated team/ci",
			"client-updated team/ci", "client-updated team/ci", "client-updated team/ci", "client-deleted team/ci"}
		if got := w.messages(); !slices.Equal(got, want) {
			t.Errorf("published %v\nwant %v", got, want)
		}
	})
}

func TestRepeatingACreation(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		expires := time.Now().Add(24 * time.Hour)
		body := clientBody(expires, "a", "b")
		create := func(who cred.Credentials, body map[string]any) string {
			p := w.call(who, "PUT", "/clients/ci", body)
			if p.status != 200 {
				return fmt.Sprint(p.status)
			}
			return p.member("accessToken")
		}
		maker := w.client("maker", "auth:create-client:*", "a", "b", "c")
		other := w.client("other", "auth:create-client:*", "a", "b", "c")
		token := create(maker, body)
		c := cred.Credentials{ClientID: "ci", AccessToken: token}
		if w.scopes(c) != "a b" {
			t.Fatal("the token does not work")
		}
		time.Sleep(14 * time.Minute)
		again := clientBody(expires, "b", "a")
		if got := create(maker, again); got != token {
			t.Errorf("the same call by the same caller: %s", got)
		}
		// Its scopes are not enough: another caller does not get the token.
		for name, got := range map[string]string{
			"another caller":         create(other, body),
			"root":                   create(w.root, body),
			"other scopes":           create(maker, clientBody(expires, "a")),
			"more scopes":            create(maker, clientBody(expires, "a", "b", "c")),
			"another expiry":         create(maker, clientBody(expires.Add(time.Second), "a", "b")),
			"another description":    create(maker, map[string]any{"description": "x", "expires": body["expires"], "scopes": body["scopes"]}),
			"another deletion":       create(maker, map[string]any{"description": body["description"], "expires": body["expires"], "scopes": body["scopes"], "deleteOnExpiration": true}),
			"a name that is static":  fmt.Sprint(w.call(maker, "PUT", "/clients/static%2Fx", body).status - 400 + 409),
			"scopes it may not give": fmt.Sprint(w.call(w.client("poor", "auth:create-client:*"), "PUT", "/clients/ci", body).status - 403 + 409),
		} {
			if got != "409" {
				t.Errorf("%s: %s", name, got)
			}
		}
		time.Sleep(time.Minute + time.Second)
		if got := create(maker, body); got != "409" {
			t.Errorf("after 15 minutes: %s", got)
		}
		for name, touch := range map[string]func(path string){
			"reset":    func(path string) { w.want(200, w.root, "POST", path+"/reset", nil) },
			"disabled": func(path string) { w.want(200, w.root, "POST", path+"/disable", nil) },
			"off and on": func(path string) {
				w.want(200, w.root, "POST", path+"/disable", nil)
				w.want(200, w.root, "POST", path+"/enable", nil)
			},
			"updated": func(path string) { w.want(200, w.root, "POST", path, body) },
		} {
			path := "/clients/" + strings.ReplaceAll(name, " ", "-")
			w.want(200, maker, "PUT", path, body)
			touch(path)
			if p := w.call(maker, "PUT", path, body); p.status != 409 {
				t.Errorf("created again after it was %s: %s", name, p.text)
			}
		}
		// Nobody without a name creates anything twice.
		w.want(200, w.root, "POST", "/roles/anonymous", roleBody("*"))
		w.want(200, cred.Credentials{}, "PUT", "/clients/by-nobody", body)
		w.want(409, cred.Credentials{}, "PUT", "/clients/by-nobody", body)
	})
}

func TestRolesGrantAndRevoke(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		c := w.client("ci", "assume:team:red", "assume:hook-id:red/nightly")
		temp := w.temporary(c, cred.Options{Scopes: []string{"assume:team:red"}})
		if w.scopes(c) != "assume:hook-id:red/nightly assume:team:red" {
			t.Errorf("without roles: %s", w.scopes(c))
		}
		w.role("team:*", "secrets:<..>")
		w.role("hook-id:*", "hooks:<..>")
		if got := w.scopes(c); got != "assume:hook-id:red/nightly assume:team:red hooks:red/nightly secrets:red" {
			t.Errorf("with roles: %s", got)
		}
		if got := w.scopes(temp); got != "assume:team:red secrets:red" {
			t.Errorf("temporary with roles: %s", got)
		}
		w.want(200, w.root, "POST", rolePathOf("team:*"), roleBody("secrets:<..>:x"))
		if got := w.scopes(temp); got != "assume:team:red secrets:red:x" {
			t.Errorf("temporary after the role was changed: %s", got)
		}
		narrow := w.temporary(c, cred.Options{Scopes: []string{"secrets:red:x"}})
		if got := w.scopes(narrow); got != "secrets:red:x" {
			t.Errorf("temporary with a scope that comes through a role: %s", got)
		}
		w.want(204, w.root, "DELETE", rolePathOf("team:*"), nil)
		w.want(204, w.root, "DELETE", rolePathOf("team:*"), nil)
		if got := w.scopes(temp); got != "assume:team:red" {
			t.Errorf("temporary after the role was deleted: %s", got)
		}
		if got := w.scopes(narrow); got != `Authentication failed: ext.certificate.scopes oversteps what its issuer ci may do: "secrets:red:x" is not granted` {
			t.Errorf("temporary with a scope that the issuer has lost: %s", got)
		}
		want := []string{"role-created anonymous", "client-created ci", "role-created team:*", "role-created hook-id:*", "role-updated team:*", "role-deleted team:*"}
		if got := w.messages(); !slices.Equal(got, want) {
			t.Errorf("published %v\nwant %v", got, want)
		}
	})
}

func TestWhoMayWriteRoles(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.role("sub", "sub:*")
		w.role("r", "old:*", "assume:sub")
		u := w.client("u", "auth:create-role:mine:*", "auth:update-role:r", "mine:*")
		for name, c := range map[string]struct {
			method, id string
			scopes     []string
			want       int
		}{
			"create with one's own":           {"PUT", "mine:a", []string{"mine:x"}, 200},
			"create, the same again":          {"PUT", "mine:a", []string{"mine:x"}, 200},
			"create, others now":              {"PUT", "mine:a", []string{"mine:y"}, 409},
			"create with others'":             {"PUT", "mine:b", []string{"mine:x", "other"}, 403},
			"create elsewhere":                {"PUT", "theirs", []string{"mine:x"}, 403},
			"create wider than allowed":       {"PUT", "mine*", []string{"mine:x"}, 403},
			"update with what it has":         {"POST", "r", []string{"old:x"}, 200},
			"update with one's own":           {"POST", "r", []string{"mine:x"}, 200},
			"update with what it had through": {"POST", "r", []string{"sub:x", "assume:sub"}, 200},
			"update with others'":             {"POST", "r", []string{"other"}, 403},
			"update to nothing":               {"POST", "r", nil, 200},
			"update elsewhere":                {"POST", "sub", nil, 403},
			"delete":                          {"DELETE", "r", nil, 403},
		} {
			w.want(200, w.root, "POST", "/roles/r", roleBody("old:*", "assume:sub"))
			w.want(204, w.root, "DELETE", rolePathOf("mine:a"), nil)
			if strings.HasPrefix(name, "create, ") {
				w.want(200, w.root, "PUT", rolePathOf("mine:a"), roleBody("mine:x"))
			}
			var body any
			if c.method != "DELETE" {
				body = roleBody(c.scopes...)
			}
			if p := w.call(u, c.method, rolePathOf(c.id), body); p.status != c.want {
				t.Errorf("%s: %d, want %d: %s", name, p.status, c.want, p.text)
			}
		}
		w.want(404, w.root, "POST", "/roles/none", roleBody())
		w.want(403, u, "POST", "/roles/none", roleBody())
		w.want(404, w.root, "GET", "/roles/none", nil)
	})
}

func TestWritesThatAreRefused(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.role("ga*", "assume:gb<..>")
		w.role("loop", "assume:loop2")
		many := make([]string, maxScopes+1)
		for i := range many {
			many[i] = fmt.Sprint("s", i)
		}
		in := time.Now().Add(time.Hour)
		for name, c := range map[string]struct {
			path string
			body map[string]any
			says string
		}{
			"growth":            {"/roles/" + "gb*", roleBody("assume:ga<..>x"), `"gb*" → "ga*" → "gb*"`},
			"circle":            {"/roles/loop2", roleBody("assume:loop", "x"), `"loop2" → "loop" → "loop2"`},
			"itself":            {"/roles/loop3", roleBody("assume:loop*"), `"loop3" → "loop3"`},
			"two parameters":    {"/roles/" + "p*", roleBody("a<..>b<..>"), "more than once"},
			"star, parameter":   {"/roles/" + "p*", roleBody("a*<..>"), "star before"},
			"two stars":         {"/roles/p", roleBody("a**"), "more than one star"},
			"id with two stars": {"/roles/" + "p**", roleBody("a"), "more than one star"},
			"long id":           {"/roles/" + strings.Repeat("p", maxID+1), roleBody("a"), "characters"},
			"many scopes":       {"/roles/p", roleBody(many...), "scopes; 10000 are allowed"},
			"long scope":        {"/roles/p", roleBody(strings.Repeat("s", 20_000)), "16 KiB"},
			"client two stars":  {"/clients/p", clientBody(in, "a**"), "more than one star"},
			"client many":       {"/clients/p", clientBody(in, many...), "scopes; 10000 are allowed"},
			"client long id":    {"/clients/" + strings.Repeat("p", maxID+1), clientBody(in), "characters"},
			"client static":     {"/clients/static%2Fp", clientBody(in), "configuration"},
			"client id":         {"/clients/a%20b", clientBody(in), "does not match"},
			"no expiry":         {"/clients/p", map[string]any{"description": ""}, "expires"},
			"odd expiry":        {"/clients/p", map[string]any{"description": "", "expires": "tomorrow"}, "date-time"},
			"null scopes":       {"/clients/p", map[string]any{"description": "", "expires": "2100-01-01T00:00:00Z", "scopes": nil}, "array"},
			"control character": {"/clients/p", clientBody(in, "a\nb"), "pattern"},
			"repeated scope":    {"/roles/p", roleBody("a", "a"), "equal"},
		} {
			if p := w.call(w.root, "PUT", c.path, c.body); p.status != 400 || !strings.Contains(p.member("message"), c.says) {
				t.Errorf("%s: %d %.300s; want 400 saying %q", name, p.status, p.member("message"), c.says)
			}
		}
		w.role("gb*", "x:<..>")
		if p := w.call(w.root, "POST", rolePathOf("gb*"), roleBody("assume:ga<..>x")); p.status != 400 {
			t.Errorf("an update that brings a circle: %s", p.text)
		}
		for _, path := range []string{"", "/reset", "/enable", "/disable"} {
			var body any
			if path == "" {
				body = clientBody(in)
			}
			w.want(400, w.root, "POST", "/clients/static%2Ftaskcluster%2Froot"+path, body)
		}
		w.want(400, w.root, "DELETE", "/clients/static%2Ftaskcluster%2Froot", nil)
		if p := w.call(w.root, "GET", "/clients/?colour=red", nil); p.status != 400 || !strings.Contains(p.text, "colour") {
			t.Errorf("unknown query parameter: %s", p.text)
		}
	})
}

func TestQuestionsAreBounded(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		many := make([]string, maxScopes+1)
		for i := range many {
			many[i] = fmt.Sprint("s", i)
		}
		long := []string{strings.Repeat("s", 20_000)}
		for name, c := range map[string]struct {
			path string
			body map[string]any
			says string
		}{
			"many to expand":   {"/scopes/expand", map[string]any{"scopes": many}, "10000 are allowed"},
			"long to expand":   {"/scopes/expand", map[string]any{"scopes": long}, "16 KiB"},
			"many of a tester": {"/test-authenticate", map[string]any{"clientScopes": many, "requiredScopes": []string{}}, "clientScopes"},
			"many required":    {"/test-authenticate", map[string]any{"clientScopes": []string{}, "requiredScopes": many}, "requiredScopes"},
		} {
			if p := w.call(w.root, "POST", c.path, c.body); p.status != 400 || !strings.Contains(p.member("message"), c.says) {
				t.Errorf("%s: %d %.300s", name, p.status, p.member("message"))
			}
		}
		for _, prefix := range []string{"a%20b", strings.Repeat("a", 2000), "a%00"} {
			if p := w.call(w.root, "GET", "/clients/?prefix="+prefix, nil); p.status != 400 {
				t.Errorf("clients with the prefix %.20s: %d", prefix, p.status)
			}
		}
	})
}

func TestWhoMayUpdateAClient(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.client("c", "old:*")
		u := w.client("u", "auth:update-client:c", "mine")
		in := time.Now().Add(time.Hour)
		for scopes, want := range map[string]int{"old:* mine": 200, "old:x": 200, "mine": 200, "": 200, "other": 403, "old:x other": 403} {
			w.want(200, w.root, "POST", "/clients/c", clientBody(in, "old:*"))
			if p := w.call(u, "POST", "/clients/c", clientBody(in, strings.Fields(scopes)...)); p.status != want {
				t.Errorf("to %q: %s", scopes, p.text)
			}
		}
		w.want(403, u, "POST", "/clients/none", clientBody(in))
		w.want(403, u, "POST", "/clients/c/reset", nil)
		w.want(403, u, "POST", "/clients/c/disable", nil)
		w.want(403, u, "DELETE", "/clients/c", nil)
	})
}

func TestListings(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.want(204, w.root, "DELETE", "/roles/anonymous", nil)
		w.want(403, cred.Credentials{}, "GET", "/clients/", nil)
		w.role("anonymous", "auth:*")
		for _, id := range []string{"b/1", "b/2", "a", "b", "bb", "b/10"} {
			w.client(id)
			w.role(id, "x")
		}
		pages := func(path, key, id string, separator string) (list []string, requests int) {
			token := ""
			for {
				p := w.want(200, cred.Credentials{}, "GET", path+separator+"continuationToken="+token, nil)
				requests++
				for _, x := range p.body[key].([]any) {
					if id != "" {
						x = x.(map[string]any)[id]
					}
					list = append(list, x.(string))
				}
				if token = p.member("continuationToken"); token == "" {
					return list, requests
				}
			}
		}
		for path, want := range map[string]string{
			"/clients/?limit=3":            "a b b/1 b/10 b/2 bb static/taskcluster/queue static/taskcluster/root",
			"/clients/?limit=1":            "a b b/1 b/10 b/2 bb static/taskcluster/queue static/taskcluster/root",
			"/clients/?prefix=b/&limit=2":  "b/1 b/10 b/2",
			"/clients/?prefix=b":           "b b/1 b/10 b/2 bb",
			"/clients/?prefix=zz":          "",
			"/clients/?prefix=static%2Ft":  "static/taskcluster/queue static/taskcluster/root",
			"/clients/?limit=4&prefix=b%2": "400",
		} {
			if want == "400" {
				w.want(400, cred.Credentials{}, "GET", path, nil)
				continue
			}
			if got, _ := pages(path, "clients", "clientId", "&"); strings.Join(got, " ") != want {
				t.Errorf("%s: %v, want %s", path, got, want)
			}
		}
		if _, n := pages("/clients/?limit=4", "clients", "clientId", "&"); n != 2 {
			t.Errorf("8 clients by 4 take %d requests", n)
		}
		const all = "a anonymous b b/1 b/10 b/2 bb"
		for _, sep := range []string{"?", "?limit=2&"} {
			if got, _ := pages("/roles2/", "roles", "roleId", sep); strings.Join(got, " ") != all {
				t.Errorf("roles: %v", got)
			}
			if got, _ := pages("/roleids/", "roleIds", "", sep); strings.Join(got, " ") != all {
				t.Errorf("role ids: %v", got)
			}
		}
		if p := w.want(200, cred.Credentials{}, "GET", "/roles/", nil); strings.Count(p.text, `"roleId"`) != 7 || !strings.Contains(p.text, `"expandedScopes":["assume:b/1","x"]`) {
			t.Errorf("all roles: %s", p.text)
		}
		for _, bad := range []string{"/clients/?continuationToken=x", "/clients/?limit=0", "/roles2/?limit=-1", "/roleids/?continuationToken=WzEsMl0"} {
			w.want(400, cred.Credentials{}, "GET", bad, nil)
		}
		if p := w.want(200, w.root, "POST", "/scopes/expand", map[string]any{"scopes": []string{"assume:b/*", "y"}}); p.scopes() != "assume:b/* x y" {
			t.Errorf("expanded: %s", p.text)
		}
	})
}

// A second process on the database sees what the first one does, and the other
// way round, whoever writes.
func TestReplicasFollowEachOther(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		one, two := w.Auth, w.start()
		use := func(a *Auth) { w.Auth = a; w.server = w.serve(a) }
		use(one)
		c := w.client("c", "a")
		use(two)
		if w.scopes(c) != unknown {
			t.Error("the second process knew without looking")
		}
		w.pass(two, "auth.refresh")
		if w.scopes(c) != "a" {
			t.Errorf("a second later the other process says %s", w.scopes(c))
		}
		// A write by a process that is behind decides by what the tables say.
		use(one)
		w.want(200, w.root, "POST", "/clients/c/disable", nil)
		use(two)
		w.role("r", "x")
		if got := w.scopes(c); got != "Authentication failed: the client c is disabled" {
			t.Errorf("after a write of its own the second process says %s", got)
		}
		use(one)
		w.want(409, w.root, "PUT", "/roles/r", roleBody("y"))
		w.role("a*", "assume:b<..>")
		use(two)
		if p := w.call(w.root, "PUT", rolePathOf("b*"), roleBody("assume:a<..>x")); p.status != 400 {
			t.Errorf("two processes brought a circle together: %s", p.text)
		}

		var wg sync.WaitGroup
		for i := range 20 {
			for n, a := range []*Auth{one, two} {
				wg.Go(func() {
					h := &world{TB: t, Auth: a, server: w.serve(a), root: w.root}
					p := h.call(w.root, "PUT", fmt.Sprintf("/clients/both-%d", i), clientBody(time.Now().Add(time.Hour), fmt.Sprint("by", n)))
					if p.status != 200 && p.status != 409 {
						t.Errorf("%s", p.text)
					}
				})
			}
		}
		wg.Wait()
		for _, a := range []*Auth{one, two} {
			w.pass(a, "auth.refresh")
		}
		x, y := one.current.Load(), two.current.Load()
		if x.version != y.version || !slices.Equal(x.clientIDs, y.clientIDs) {
			t.Errorf("the processes disagree: version %d and %d", x.version, y.version)
		}
		for id, c := range x.clients {
			if d := y.clients[id]; d.tokens[0].secret != c.tokens[0].secret || !slices.Equal(d.Scopes, c.Scopes) {
				t.Errorf("the processes disagree about %s", id)
			}
		}
	})
}

// With its loops running, a process is at most a second behind.
func TestRevocationReachesReplicasWithinASecond(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		other := w.start()
		w.run(other)
		c := w.client("c", "a")
		time.Sleep(time.Second)
		synctest.Wait()
		far := &world{TB: t, Auth: other, server: w.serve(other)}
		if got := far.scopes(c); got != "a" {
			t.Errorf("the other process says %s", got)
		}
		w.want(204, w.root, "DELETE", "/clients/c", nil)
		time.Sleep(time.Second)
		synctest.Wait()
		if got := far.scopes(c); got != unknown {
			t.Errorf("a second after the deletion the other process says %s", got)
		}
	})
}

func TestRestartKeepsClientsAndRoles(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		c := w.client("c", "assume:r")
		w.role("r", "x")
		w.want(204, w.root, "DELETE", "/roles/anonymous", nil)
		w.Auth = w.start()
		w.server = w.serve(w.Auth)
		w.want(404, w.root, "GET", "/roles/anonymous", nil) // deleted is deleted
		w.role("anonymous", "auth:current-scopes")
		if got := w.scopes(c); got != "assume:r x" {
			t.Errorf("after a restart: %s", got)
		}
	})
}

func TestAccessTokensAreSealed(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		c := w.client("c", "a")
		w.client("d", "a", "b")
		stored := func(id string) (sealed string) {
			if err := db.View(t.Context(), func(tx *store.Tx) error {
				return tx.QueryRow(`SELECT access_token FROM auth_token WHERE client_id = $1`, id).Scan(&sealed)
			}); err != nil {
				t.Fatal(err)
			}
			return sealed
		}
		if strings.Contains(stored("c"), c.AccessToken) {
			t.Error("the access token is readable in the database")
		}

		// A new key: old tokens open, and are sealed anew.
		newer := seal.NewKey()
		w.config.Keys = keysOf(t, seal.NewKey())
		if _, err := New(t.Context(), w.config); !errors.Is(err, seal.ErrUnknownKey) || !strings.Contains(err.Error(), "c") {
			t.Errorf("started without the key: %v", err)
		}
		w.config.Keys = keysOf(t, w.key, newer)
		rotated := w.start()
		before := stored("c")
		w.pass(rotated, "auth.reseal")
		if stored("c") == before || !rotated.keys.Current(stored("c")) {
			t.Error("the token is not sealed with the new key")
		}
		w.config.Keys = keysOf(t, newer)
		w.Auth = w.start()
		w.server = w.serve(w.Auth)
		if got := w.scopes(c); got != "a" {
			t.Errorf("after the old key was retired: %s", got)
		}

		// A row's token cannot be put into another row.
		if err := db.Do(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(`UPDATE auth_token SET access_token = $1 WHERE client_id = 'd'`, stored("c"))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if _, err := New(t.Context(), w.config); !errors.Is(err, seal.ErrBroken) {
			t.Errorf("started with a token that was moved to another client: %v", err)
		}
	})
}

func TestExpiredClientsAreDeletedOnlyIfTheyShould(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		soon := time.Now().Add(time.Hour)
		for id, del := range map[string]bool{"keep": false, "drop": true} {
			body := clientBody(soon)
			body["deleteOnExpiration"] = del
			w.want(200, w.root, "PUT", "/clients/"+id, body)
		}
		for range batch + 10 {
			body := clientBody(soon)
			body["deleteOnExpiration"] = true
			w.want(200, w.root, "PUT", "/clients/many-"+slugid.New(), body)
		}
		time.Sleep(24 * time.Hour)
		w.pass(w.Auth, "auth.expiry")
		w.want(200, w.root, "GET", "/clients/drop", nil) // expired for less than a day
		time.Sleep(time.Hour)
		w.pass(w.Auth, "auth.expiry")
		w.want(404, w.root, "GET", "/clients/drop", nil)
		w.want(200, w.root, "GET", "/clients/keep", nil)
		if p := w.want(200, w.root, "GET", "/clients/?prefix=many", nil); strings.Contains(p.text, "many-") {
			t.Error("some are left")
		}
	})
}

func TestUseIsRecorded(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		c := w.client("c", "a")
		used := func(a *Auth) time.Time { return time.UnixMilli(a.current.Load().clients["c"].lastUsed.Load()) }
		created := time.Now()
		time.Sleep(time.Hour)
		w.scopes(c)
		if !used(w.Auth).Equal(created) {
			t.Error("recorded although it was recorded an hour ago")
		}
		time.Sleep(6 * time.Hour)
		w.scopes(w.temporary(c, cred.Options{}))
		at := time.Now()
		time.Sleep(5 * time.Minute)
		w.pass(w.Auth, "auth.use")
		if other := w.start(); !used(other).Equal(at) {
			t.Errorf("another process says the client was last used at %s, want %s", used(other), at)
		}
		if p := w.want(200, w.root, "GET", "/clients/c", nil); p.member("lastDateUsed") != timestamp.Of(at).String() {
			t.Errorf("shown as %s", p.text)
		}
		w.scopes(c)
		w.want(204, w.root, "DELETE", "/clients/c", nil)
		w.pass(w.Auth, "auth.use") // of a client that is gone: nothing to do
	})
}

func TestConfigurationIsChecked(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		token := slugid.Token()
		for _, bad := range [][]StaticClient{
			{{ClientID: "root", AccessToken: token}}, {{ClientID: "static/a b", AccessToken: token}}, {{ClientID: "static/a", AccessToken: "short"}},
			{{ClientID: "static/a", AccessToken: token}, {ClientID: "static/a", AccessToken: token}},
			{{ClientID: "static/a", AccessToken: token, Scopes: []string{"x**"}}},
		} {
			w.config.Static = bad
			if _, err := New(t.Context(), w.config); err == nil || strings.Contains(err.Error(), token) {
				t.Errorf("%v: %v", bad[0].ClientID, err)
			}
		}
	})
}

func TestMint(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		queue := w.Issuer("static/taskcluster/queue")
		c, err := queue.Mint(t.Context(), "task-client/x/0/on/g/w", []string{"queue:resolve-task:x/0", "assume:worker:y"}, time.Now().Add(20*time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		if got := w.scopes(c); got != "assume:worker:y queue:resolve-task:x/0" || c.ClientID != "task-client/x/0/on/g/w" {
			t.Errorf("%s may %s", c.ClientID, got)
		}
		time.Sleep(26 * time.Minute)
		if got := w.scopes(c); !strings.HasPrefix(got, "Authentication failed: ext.certificate has expired at") {
			t.Errorf("6 minutes after its expiry: %s", got)
		}
		if _, err := w.Mint("static/none", "x", nil, time.Now(), time.Now().Add(time.Hour)); err == nil {
			t.Error("minted in the name of nobody")
		}
	})
}

// Requests are authenticated while clients and roles change, and none is ever
// told about a state that was over before the request began.
func TestConcurrentUseAndChange(t *testing.T) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.role("r", "x:0")
		c := w.client("c", "assume:r")
		temp := w.temporary(c, cred.Options{Scopes: []string{"assume:r"}})
		done := make(chan struct{})
		var wg sync.WaitGroup
		for _, who := range []cred.Credentials{c, temp} {
			wg.Go(func() {
				last := ""
				for {
					select {
					case <-done:
						return
					default:
					}
					got := w.scopes(who)
					_, now, ok := strings.Cut(got, " x:")
					if !ok || len(now) < len(last) || len(now) == len(last) && now < last {
						t.Errorf("saw %q after x:%s", got, last)
						return
					}
					last = now
				}
			})
		}
		for i := range 30 {
			w.want(200, w.root, "POST", "/roles/r", roleBody(fmt.Sprintf("x:%d", i)))
			if got := w.scopes(temp); got != fmt.Sprintf("assume:r x:%d", i) {
				t.Errorf("after change %d: %s", i, got)
			}
		}
		close(done)
		wg.Wait()
	})
}
