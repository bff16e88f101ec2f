package store_test

import (
	"context"
	"crypto/rand"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

// Who logs in is replaced while transactions run and others listen: none fails, and in
// the end nobody is connected as who was before.
func TestTheLoginIsReplacedUnderLoad(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, at string) {
		if strings.HasPrefix(at, "sqlite:") {
			if err := storetest.Open(t, at).Login(t.Context(), "a", "b"); err == nil {
				t.Error("SQLite has users")
			}
			return
		}
		u, err := url.Parse(at)
		if err != nil {
			t.Fatal(err)
		}
		name := "login_" + strings.ToLower(rand.Text()[:12])
		q := u.Query()
		schema := q.Get("search_path")
		q.Set("application_name", name)
		q.Set("pool_max_conn_idle_time", "1s")
		u.RawQuery = q.Encode()
		admin := storetest.Open(t, at)
		do := func(statement string) {
			t.Helper()
			if err := admin.Do(context.Background(), func(tx *store.Tx) error { _, err := tx.Exec(statement); return err }); err != nil {
				t.Fatal(err)
			}
		}
		do("CREATE TABLE counted (n BIGINT NOT NULL)")
		do("INSERT INTO counted VALUES (0)")
		next := name + "_b"
		do("CREATE ROLE " + next + " LOGIN PASSWORD 'x'")
		t.Cleanup(func() { do("DROP OWNED BY " + next); do("DROP ROLE " + next) })

		db := storetest.Open(t, u.String())
		for _, c := range []struct{ grant, want string }{
			{"SELECT 1", "search_path"},
			{"GRANT USAGE ON SCHEMA " + schema + " TO " + next, "counted"},
			{"GRANT ALL ON ALL TABLES IN SCHEMA " + schema + " TO " + next, ""},
		} {
			do(c.grant)
			if c.want == "" {
				break
			}
			if err := db.Login(t.Context(), next, "x"); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("a user that lacks rights: %v", err)
			}
		}
		if err := db.Login(t.Context(), "nobody_"+name, "pass-word"); err == nil || strings.Contains(err.Error(), "pass-word") {
			t.Errorf("a user that is not there: %v", err)
		}
		ctx, stop := context.WithCancel(t.Context())
		var work sync.WaitGroup
		defer work.Wait()
		defer stop()
		var done atomic.Int64
		for range 8 {
			work.Go(func() {
				for ctx.Err() == nil {
					err := db.Do(context.Background(), func(tx *store.Tx) error {
						tx.Wake("counted", 1)
						_, err := tx.Exec(`UPDATE counted SET n = n + 1`)
						return err
					})
					if err != nil {
						t.Errorf("a transaction failed: %v", err)
						return
					}
					done.Add(1)
				}
			})
		}
		work.Go(func() { db.Listen(ctx) })
		connected := func() (list []string) {
			if err := admin.View(t.Context(), func(tx *store.Tx) error {
				list = nil
				rows, err := tx.Query(`SELECT DISTINCT usename FROM pg_stat_activity WHERE application_name = $1`, name)
				if err != nil {
					return err
				}
				for rows.Next() {
					var who string
					if err := rows.Scan(&who); err != nil {
						return err
					}
					list = append(list, who)
				}
				return rows.Err()
			}); err != nil {
				t.Fatal(err)
			}
			return list
		}
		for done.Load() < 100 && !t.Failed() {
			time.Sleep(time.Millisecond)
		}
		if err := db.Login(t.Context(), next, "x"); err != nil {
			t.Fatal(err)
		}
		for limit := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
			if who := connected(); len(who) == 1 && who[0] == next {
				break
			} else if time.Now().After(limit) {
				t.Fatalf("%v are still connected", who)
			}
		}
		// What another process says is still heard.
		told := db.Waits().Signal("told")
		for limit := time.After(time.Minute); ; {
			if err := admin.Do(t.Context(), func(tx *store.Tx) error { tx.Wake("told", 1); return nil }); err != nil {
				t.Fatal(err)
			}
			select {
			case <-told:
				return
			case <-limit:
				t.Fatal("nothing is heard any more")
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
}

// Who looks through the database is told of all tables, also of those that he may not
// read: a secret that is not found would lose its key.
func TestTablesThatMayNotBeReadAreTold(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, at string) {
		if strings.HasPrefix(at, "sqlite:") {
			return
		}
		db := storetest.Open(t, at)
		u, err := url.Parse(at)
		if err != nil {
			t.Fatal(err)
		}
		role := "columns_" + strings.ToLower(rand.Text()[:12])
		do := func(statements ...string) {
			t.Helper()
			for _, statement := range statements {
				if err := db.Do(context.Background(), func(tx *store.Tx) error { _, err := tx.Exec(statement); return err }); err != nil {
					t.Fatal(err)
				}
			}
		}
		do("CREATE TABLE hidden (n BIGINT, thing TEXT, other VARCHAR(9))", "CREATE ROLE "+role, "GRANT USAGE ON SCHEMA "+u.Query().Get("search_path")+" TO "+role)
		t.Cleanup(func() { do("DROP OWNED BY "+role, "DROP ROLE "+role) })
		if err := db.Do(t.Context(), func(tx *store.Tx) error {
			if _, err := tx.Exec("SET LOCAL ROLE " + role); err != nil {
				return err
			}
			columns, err := tx.TextColumns()
			if got := strings.Join(columns["hidden"], " "); got != "thing other" {
				t.Errorf("the table has the columns %q", got)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	})
}
