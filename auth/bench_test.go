package auth

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/hawk"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/timestamp"
)

// fill puts n clients and n roles into the tables.
func (w *world) fill(n int) {
	w.Helper()
	now := timestamp.Now()
	if err := w.change(w.Context(), func(tx *store.Tx, s *snapshot) (delta, error) {
		d := delta{clients: map[string]*client{}, roles: map[string]*role{}}
		for i := range n {
			p := fmt.Sprintf("project-%04d", i*5/n*n/5+i%(n/5))
			c := &client{
				ClientID: fmt.Sprintf("project/%s/%d", p, i), Description: "A client of " + p, tokens: []*token{newToken(now)}, Expires: never,
				Scopes: []string{"assume:client:" + p, "queue:create-task:low:" + p + "/*", "secrets:get:" + p}, Created: now, LastModified: now, LastRotated: now,
			}
			one, err := w.writeClient(tx, nil, c, clientCreated, deed{self, created})
			if err != nil {
				return d, err
			}
			d.clients[c.ClientID] = one.clients[c.ClientID]
		}
		for id, r := range manyRoles(n) {
			if _, err := tx.Exec(`INSERT INTO auth_role (role_id, description, scopes, created, last_modified) VALUES ($1, '', $2, $3, $3)`, id, r.Scopes, now); err != nil {
				return d, err
			}
			r.Created, r.LastModified = now, now
			d.roles[id] = r
		}
		return d, nil
	}); err != nil {
		w.Fatal(err)
	}
}

func benchWorld(b *testing.B) *world {
	w := newWorld(b, storetest.Open(b, storetest.URL(b, "sqlite")))
	w.fill(5000)
	b.ReportAllocs()
	return w
}

// One authentication among 5,000 clients and 5,000 roles, from header to
// expanded scopes, the signing of the request left out as far as it goes: a
// fresh one is needed each time, so its MAC is computed here too.
func BenchmarkAuthenticate(b *testing.B) {
	w := benchWorld(b)
	s := w.current.Load()
	permanent := s.clients[s.clientIDs[100]]
	c := cred.Credentials{ClientID: permanent.ClientID, AccessToken: permanent.tokens[0].secret}
	scopes := []string{"assume:client:project-0100"}
	for i := range 20 {
		scopes = append(scopes, fmt.Sprintf("queue:create-task:low:project-0100/pool-%d", i))
	}
	mint := func(name string) cred.Credentials {
		t, err := w.Mint("static/taskcluster/root", name, scopes, time.Now(), time.Now().Add(time.Hour))
		if err != nil {
			b.Fatal(err)
		}
		return t
	}
	run := func(name string, credentials func(int) cred.Credentials) {
		b.Run(name, func(b *testing.B) {
			const resource = "/api/queue/v1/task/VMxKlcVxTDyPoOYBxIhZ5A/runs/0/reclaim"
			creds := make([]cred.Credentials, 1000)
			exts := make([]string, len(creds))
			for i := range creds {
				creds[i] = credentials(i)
				if creds[i].Certificate != "" {
					exts[i] = extOf(b, creds[i])
				}
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				c := creds[i%len(creds)]
				h := hawk.Header{ID: c.ClientID, Timestamp: time.Now().Unix(), Nonce: fmt.Sprint(i), Ext: exts[i%len(creds)]}
				h.Sign(hawk.Request{Method: "POST", Resource: resource, Host: host, Port: 443}, c.AccessToken)
				r := api.Credential{Method: "POST", Resource: resource, Host: host, ForwardedProto: "https", Authorization: h.String()}
				if id, err := w.Authenticate(b.Context(), r); err != nil || id.ClientID != c.ClientID {
					b.Fatal(err)
				}
			}
		})
	}
	run("client", func(int) cred.Credentials { return c })
	one := mint("worker/1")
	run("temporary, seen before", func(int) cred.Credentials { return one })
	b.Run("temporary, new", func(b *testing.B) {
		ext := extOf(b, one)
		b.ReportAllocs()
		for b.Loop() {
			d := s.directory()
			g, err := d.grant(one.ClientID, ext)
			if err == nil {
				err = g.authorize(d, g.keys[0])
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
	w.add(c, slugid.New())
	run("client, by the older of two tokens", func(int) cred.Credentials { return c })
	b.Run("anonymous", func(b *testing.B) {
		for b.Loop() {
			w.Authenticate(b.Context(), api.Credential{Method: "GET", Resource: "/api/queue/v1/ping", Host: host})
		}
	})
}

func extOf(tb testing.TB, c cred.Credentials) string {
	r := (&world{TB: tb}).signed(c, nil)
	h, err := hawk.ParseHeader(r.Header.Get("Authorization"))
	if err != nil {
		tb.Fatal(err)
	}
	return h.Ext
}

// A change among 5,000 clients and 5,000 roles.
func BenchmarkChange(b *testing.B) {
	w := benchWorld(b)
	b.Run("client", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			w.want(200, w.root, "PUT", fmt.Sprintf("/clients/c-%s-%d", strings.ToLower(slugid.New()[:4]), i), clientBody(time.Now().Add(time.Hour), "a"))
		}
	})
	b.Run("role", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			w.want(200, w.root, "PUT", fmt.Sprintf("/roles/r-%s-%d", slugid.New()[:4], i), roleBody("a"))
		}
	})
}

// What another replica does after a change: read everything.
func BenchmarkLoad(b *testing.B) {
	w := benchWorld(b)
	memory := func() float64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc) / (1 << 20)
	}
	full := memory()
	for b.Loop() {
		w.current.Store(&snapshot{version: -1})
		if err := w.refresh(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	w.current.Store(&snapshot{version: -1})
	b.ReportMetric(full-memory(), "MiB")
}
