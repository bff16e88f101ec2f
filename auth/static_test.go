package auth

import (
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

// The token of a static client is replaced while what was issued with it is in use.
func TestStaticClientsHaveTwoTokensForAWhile(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		const queue = "static/taskcluster/queue"
		w := newWorld(t, db)
		first := StaticToken{"first", w.config.Static[1].AccessToken}
		second := StaticToken{"second", slugid.Token()}
		set := func(tokens ...StaticToken) {
			t.Helper()
			if err := w.SetStaticTokens(t.Context(), queue, tokens...); err != nil {
				t.Fatal(err)
			}
		}
		issue := func() cred.Credentials {
			t.Helper()
			c, err := w.Mint(queue, "task-client/x", []string{"queue:a"}, time.Now().Add(-time.Minute), time.Now().Add(time.Hour))
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		works := func(want bool, list ...cred.Credentials) {
			t.Helper()
			for i, c := range list {
				if got := w.call(c, "GET", "/scopes/current", nil).status == 200; got != want {
					t.Errorf("credentials %d of %s work: %v", i, c.ClientID, got)
				}
			}
		}
		of := func(s StaticToken) cred.Credentials {
			return cred.Credentials{ClientID: queue, AccessToken: s.Token}
		}
		before := issue()
		set(first, second)
		works(true, before, issue(), of(first), of(second))
		time.Sleep(time.Hour)
		w.client("team/other") // a change by which the snapshot is made anew
		works(true, of(second))
		if used := w.StaticTokensUsed(queue); used["second"].Time().Before(time.Now().Add(-time.Minute)) || used["first"] >= used["second"] {
			t.Errorf("the tokens are said to be used at %v", used)
		}
		old := issue() // with the first, still
		set(second, first)
		after := issue()
		works(true, old, after)
		set(second)
		works(false, old, of(first))
		works(true, after, of(second))
		for _, bad := range [][]StaticToken{nil, {first, second, first}, {{"short", "hunter2"}}} {
			if err := w.SetStaticTokens(t.Context(), queue, bad...); err == nil {
				t.Errorf("%d tokens are accepted", len(bad))
			}
		}
		if w.SetStaticTokens(t.Context(), "static/nobody", first) == nil {
			t.Error("a client that is not there gets a token")
		}
	})
}
