package store_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

func TestWhatIsLaterIsDoneInOrder(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		var got []string
		note := func(row store.Scanner) error {
			var name string
			err := row.Scan(&name)
			got = append(got, name)
			return err
		}
		if err := db.Do(t.Context(), func(tx *store.Tx) error {
			got = nil
			if err := tx.Later(`INSERT INTO item (name, count) VALUES ('a', 1) RETURNING name`, nil, note); err != nil {
				return err
			}
			if err := tx.LaterEach(`UPDATE item SET count = count + $1 WHERE name = 'a'`, [][]any{{1}, {10}}, nil); err != nil {
				return err
			}
			var count int
			if err := tx.QueryRow(`SELECT count FROM item WHERE name = 'a'`).Scan(&count); err != nil {
				return err
			}
			got = append(got, fmt.Sprint(count))
			if err := tx.LaterRows(`INSERT INTO item (name) VALUES /*row*/($1)/*row*/ RETURNING name`, [][]any{{"b"}, {"c"}, {"d"}}, note); err != nil {
				return err
			}
			tx.AfterCommit(func() { got = append(got, "committed") })
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		equal(t, "done", strings.Join(got, " "), "a 12 b c d committed")
		equal(t, "names", strings.Join(names(t, db), " "), "a b c d")
	})
}

func TestWhatIsLaterCanFail(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		do(t, db, `INSERT INTO item (name) VALUES ('there')`)
		for name, next := range map[string]func(*store.Tx) error{
			"with the commit":         func(*store.Tx) error { return nil },
			"with the next statement": exec(`SELECT name FROM item`),
		} {
			err := db.Do(t.Context(), func(tx *store.Tx) error {
				if err := tx.Later(`INSERT INTO item (name) VALUES ('new')`, nil, nil); err != nil {
					return err
				}
				if err := tx.Later(`INSERT INTO item (name) VALUES ('there')`, nil, nil); err != nil {
					return err
				}
				if err := tx.Later(`DELETE FROM item`, nil, nil); err != nil {
					return err
				}
				return next(tx)
			})
			if !errors.Is(err, store.ErrConflict) || !strings.Contains(err.Error(), "VALUES ('there')") {
				t.Errorf("%s: %v", name, err)
			}
			equal(t, name, strings.Join(names(t, db), " "), "there")
		}
		if err := db.View(t.Context(), func(tx *store.Tx) error { return tx.Later(`SELECT 1`, nil, nil) }); err == nil {
			t.Error("a View takes a statement for later")
		}
	})
}

func TestOneStatementIsSeenByAViewOnce(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		do(t, db, `INSERT INTO item (name) VALUES ('a'), ('b')`)
		const all = `SELECT name FROM item`
		var got []string
		if err := db.ViewOnce(t.Context(), func(tx *store.Tx) (err error) {
			got, err = tx.Column(all)
			return err
		}); err != nil || len(got) != 2 {
			t.Errorf("%v, %v", got, err)
		}
		err := db.ViewOnce(t.Context(), func(tx *store.Tx) error {
			for range 2 {
				if _, err := tx.Column(all); err != nil {
					return err
				}
			}
			return nil
		})
		if err == nil || !strings.Contains(err.Error(), "second statement") {
			t.Errorf("two statements: %v", err)
		}
	})
}

// The server says in place of an answer that it ends the connection: it has not
// come to COMMIT.
func TestALostConnectionBeforeCommitIsTriedAgain(t *testing.T) {
	onPostgres(t, func(t *testing.T, url string) {
		db := storetest.Open(t, url)
		migrate(t, db)
		tries := 0
		if err := db.Do(t.Context(), func(tx *store.Tx) error {
			if tries++; tries == 1 {
				if err := tx.Later(`SELECT pg_terminate_backend(pg_backend_pid())`, nil, nil); err != nil {
					return err
				}
			}
			return tx.Later(`INSERT INTO item (name) VALUES ('a')`, nil, nil)
		}); err != nil {
			t.Error(err)
		}
		equal(t, "tries and names", fmt.Sprint(tries, names(t, db)), "2 [a]")
	})
}

func TestAPanicAtTheCommitLosesNoConnection(t *testing.T) {
	onPostgres(t, func(t *testing.T, url string) {
		db := storetest.Open(t, with(t, url, "pool_max_conns", "1"))
		migrate(t, db)
		func() {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			db.Do(t.Context(), func(tx *store.Tx) error {
				return tx.Later(`INSERT INTO item (name) VALUES ('a') RETURNING name`, nil, func(store.Scanner) error { panic("no") })
			})
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		if err := db.Do(ctx, exec(`INSERT INTO item (name) VALUES ('b')`)); err != nil {
			t.Error(err)
		}
	})
}

// Who stops tells what it has not told yet, also shortly after it told something.
func TestTheLastWakesAreHeard(t *testing.T) {
	onPostgres(t, func(t *testing.T, url string) {
		a, err := store.Open(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		b := storetest.Open(t, url)
		listen(t, b)
		for _, topic := range []string{"one", "two"} {
			w := b.Waits().Wait(topic)
			defer w.Close()
			if err := a.Do(t.Context(), func(tx *store.Tx) error { tx.Wake(topic, 1); return nil }); err != nil {
				t.Fatal(err)
			}
			if topic == "two" {
				if err := a.Close(); err != nil {
					t.Fatal(err)
				}
			}
			eventually(t, topic+" is heard", isWoken(w))
		}
	})
}
